"""Decoder fine-tuning: after another training, its decoder alone is trained on codes with noise.

The decoder's output becomes the mean of the images whose codes lie near z. The paper has no such
training. RESULTS.md shows what it gains.
"""

import dataclasses

import jax

from aae_jax.algorithms import autoencoder
from aae_jax.algorithms.base import Algorithm, Inputs, Metrics, Phase
from aae_jax.checks import check_length, check_types
from aae_jax.networks import Params
from aae_jax.optimizers import OptimizerSpec
from aae_jax.spec import Spec


@dataclasses.dataclass(frozen=True)
class Options:
    """The config's section `options`."""

    code_noise: float = 1.0  # std, in z, of the Gaussian noise added to the codes

    def __post_init__(self) -> None:
        check_types(self, "options")
        check_length("options.code_noise", self.code_noise)


def reconstruction(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """The reconstruction error from codes with noise; the encoder is not trained."""
    keys = inputs.dropout_keys
    z = autoencoder.encode(spec, params, inputs.x_noisy, inputs.row_keys, keys)
    z = autoencoder.with_noise(z, inputs.row_keys, spec.options.code_noise)
    outputs = autoencoder.decoder_outputs(spec, params, z, inputs.label, keys, inputs.condition)
    return autoencoder.reconstruction_loss(spec, outputs, inputs.x), {}


DECODER_FINETUNING = Algorithm(
    networks=autoencoder.encoder_and_decoder,
    phases=(
        Phase("reconstruction", ("decoder",), reconstruction, OptimizerSpec(schedule="cosine")),
    ),
    sample=autoencoder.sample,
    encode=autoencoder.encode,
    decode=autoencoder.decode,
    options=Options,
    starts_from=("encoder", "decoder"),
    figures=autoencoder.FIGURES,
)
