"""Decoder fine-tuning: after another training, its decoder alone is trained on other codes.

With noise on the codes, the decoder's output becomes the mean of the images whose codes lie near z.
With the nearest of many samples as an image's code, it learns what the Parzen window measures:
implicit maximum likelihood (Li and Malik 2018). The paper has no such trainings. RESULTS.md shows
what they gain.
"""

import dataclasses

import jax
import jax.numpy as jnp

from aae_jax.algorithms import autoencoder
from aae_jax.algorithms.base import Algorithm, Inputs, Metrics, Phase
from aae_jax.checks import check_length, check_positive, check_types
from aae_jax.errors import UserError
from aae_jax.keys import fold_rows
from aae_jax.networks import Params
from aae_jax.optimizers import OptimizerSpec
from aae_jax.priors import sample_prior
from aae_jax.spec import Spec


@dataclasses.dataclass(frozen=True)
class Options:
    """The config's section `options`."""

    code_noise: float = 1.0  # std, in z, of the Gaussian noise added to the codes
    # If given, an image's code is that of the nearest among this many new samples of each step, in
    # place of its own code with noise.
    nearest_of: int | None = None

    def __post_init__(self) -> None:
        check_types(self, "options")
        check_length("options.code_noise", self.code_noise)
        if self.nearest_of is not None:
            check_positive("options.nearest_of", self.nearest_of, most=1_000_000)


def reconstruction(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """The reconstruction error from codes with noise, or from the nearest samples' codes.

    The encoder is not trained. With `nearest_of` the loss is f[], since all rows share the samples.
    """
    keys, num_samples = inputs.dropout_keys, spec.options.nearest_of
    if num_samples is None:
        z = autoencoder.encode(spec, params, inputs.x_noisy, inputs.row_keys, keys)
        z = autoencoder.with_noise(z, inputs.row_keys, spec.options.code_noise)
    else:
        z, _ = sample_prior(spec, fold_rows(inputs.row_keys[:1], 4)[0], num_samples)
        z = z[nearest(inputs.x, autoencoder.decode(spec, params, z, None))]
    outputs = autoencoder.decoder_outputs(spec, params, z, inputs.label, keys, inputs.condition)
    loss = autoencoder.reconstruction_loss(spec, outputs, inputs.x)
    return (loss if num_samples is None else loss.mean()), {}


def nearest(x: jax.Array, samples: jax.Array) -> jax.Array:
    """The index i32[B] of the sample f[N, …] with the least squared distance to each x f[B, …]."""
    x, samples = x.reshape(len(x), -1), samples.reshape(len(samples), -1)
    return (jnp.square(samples).sum(axis=1) - 2 * x @ samples.T).argmin(axis=1)


def check(spec: Spec) -> None:
    """Raises for samples that would need a label or a condition."""
    if spec.options.nearest_of is None:
        return
    for field in ("label_in_decoder", "condition_in_decoder"):
        if getattr(spec.model, field):
            raise UserError(
                f"options.nearest_of is {spec.options.nearest_of} and model.{field} True: samples have no "
                "label or condition here; use options.code_noise"
            )


DECODER_FINETUNING = Algorithm(
    networks=autoencoder.encoder_and_decoder,
    phases=(
        Phase("reconstruction", ("decoder",), reconstruction, OptimizerSpec(schedule="cosine")),
    ),
    sample=autoencoder.sample,
    encode=autoencoder.encode,
    decode=autoencoder.decode,
    options=Options,
    check=check,
    starts_from=("encoder", "decoder"),
    figures=autoencoder.FIGURES,
)
