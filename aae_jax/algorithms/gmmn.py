"""Generative moment matching networks (Li, Swersky, Zemel 2015): a distance in place of a game.

The generator minimises the maximum mean discrepancy between its samples and the data. The data are
images (`GMMN`), or the codes of a trained autoencoder (`GMMN_AUTOENCODER`, which starts from a run
of `AUTOENCODER`).
"""

import dataclasses

import jax
import jax.numpy as jnp

from aae_jax import layers, losses, networks
from aae_jax.algorithms import adversarial, autoencoder
from aae_jax.algorithms.base import Algorithm, Inputs, Metrics, Phase
from aae_jax.checks import check_length, check_positive, check_types
from aae_jax.errors import UserError
from aae_jax.networks import Network, Params
from aae_jax.priors import sample_prior
from aae_jax.spec import Spec


@dataclasses.dataclass(frozen=True)
class Options:
    """The config's section `options`, for images."""

    # σ of the kernels exp(−‖a − b‖² / 2σ), which are added; in squared units of an example.
    bandwidths: tuple[float, ...] = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0)

    def __post_init__(self) -> None:
        check_types(self, "options")
        if not self.bandwidths:
            raise UserError("options.bandwidths is (): MMD needs at least one kernel")
        for bandwidth in self.bandwidths:
            check_length("options.bandwidths", bandwidth, shown=self.bandwidths)


@dataclasses.dataclass(frozen=True)
class CodeOptions(Options):
    """The config's section `options`, for codes of an autoencoder."""

    bandwidths: tuple[float, ...] = (1.0,)
    autoencoder_dim: int = 32  # `model.code_dim` of the autoencoder; here `model.code_dim` is z's
    generator_hidden: tuple[int, ...] = (64, 256, 256, 1024)  # widths between z and the codes

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("options.autoencoder_dim", self.autoencoder_dim)
        for width in self.generator_hidden:
            check_positive("options.generator_hidden", width, shown=self.generator_hidden)


def generator(spec: Spec) -> layers.MLP:
    """`model.decoder` of the authors' model of images: ReLU, weights N(0, 1 / fan_in)."""
    return layers.MLP(
        spec.model.decoder_hidden,
        spec.image_shape,
        kernel_init=layers.unit_normal,
        **networks.dtypes(spec),
    )


def sigmoid_encoder(spec: Spec, num_outputs: int) -> layers.MLP:
    """`model.encoder` of the authors' autoencoder: sigmoids to the code, with dropout."""
    return layers.MLP(
        spec.model.encoder_hidden,
        (num_outputs,),
        kernel_init=layers.unit_normal,
        activation=jax.nn.sigmoid,
        output_activation=jax.nn.sigmoid,
        input_dropout=0.2,
        hidden_dropout=0.5,
        **networks.dtypes(spec),
    )


def sigmoid_decoder(spec: Spec) -> layers.MLP:
    """`model.decoder` of the authors' autoencoder: sigmoids."""
    return layers.MLP(
        spec.model.decoder_hidden,
        spec.image_shape,
        kernel_init=layers.unit_normal,
        activation=jax.nn.sigmoid,
        **networks.dtypes(spec),
    )


def _mmd(spec, samples, data):
    """√MMD² f[], whose gradient does not vanish as the samples approach the data."""
    squared = losses.mmd_squared(samples, data, spec.options.bandwidths)
    # The root has no gradient at zero, which only equal batches give.
    distance = jnp.sqrt(jnp.maximum(squared, jnp.finfo(squared.dtype).tiny))
    return distance, {"mmd/squared": squared}


def of_images(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """√MMD² between a batch of images and a batch of samples."""
    z, keys = inputs.prior_sample.z, inputs.dropout_keys
    outputs = autoencoder.decoder_outputs(spec, params, z, None, keys)
    return _mmd(spec, autoencoder.activate(spec, outputs), inputs.x)


def of_codes(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """√MMD² between the codes of a batch of images and a batch of sampled codes.

    The encoder is not trained here, and has no dropout.
    """
    codes = networks.apply(spec, params, "encoder", inputs.x, None)
    return _mmd(spec, _generate_codes(spec, params, inputs.prior_sample.z), codes)


def decoder_alone(spec: Spec) -> dict[str, Network]:
    """The decoder of `spec.model`, which is the generator."""
    return {"decoder": autoencoder.decoder(spec, spec.model.code_dim)}


def with_autoencoder(spec: Spec) -> dict[str, Network]:
    """The autoencoder's two networks, and the generator of its codes from z."""
    code_dim, model, options = spec.options.autoencoder_dim, spec.model, spec.options
    generator = layers.MLP(
        options.generator_hidden,
        (code_dim,),
        kernel_init=layers.unit_normal,
        output_activation=jax.nn.sigmoid,
        **networks.dtypes(spec),
    )
    return {
        "encoder": Network(
            networks.make("model.encoder", model.encoder, spec, code_dim),
            inputs=(spec.image_shape, None),
            output=(code_dim,),
            training_only=True,
        ),
        "decoder": autoencoder.decoder(spec, code_dim),
        "generator": Network(generator, inputs=((model.code_dim,),), output=(code_dim,)),
    }


def _generate_codes(spec, params, z):
    return networks.apply(spec, params, "generator", z / autoencoder.code_scale(spec))


def decode(spec: Spec, params: Params, z: jax.Array, label: jax.Array | None) -> jax.Array:
    """z f[B, D] → a code of the autoencoder → images f[B, H, W, C]; there are no labels."""
    del label
    codes = _generate_codes(spec, params, z)
    return autoencoder.activate(spec, networks.apply(spec, params, "decoder", codes, None))


def sample(
    spec: Spec,
    params: Params,
    key: jax.Array,
    num_samples: int,
    label: jax.Array | None = None,
    start: jax.Array | None = None,
) -> jax.Array:
    """Prior → generator → decoder: f[num_samples, H, W, C]."""
    del start
    return decode(spec, params, sample_prior(spec, key, num_samples, label).z, None)


def check(spec: Spec) -> None:
    """Raises unless a batch has at least two rows."""
    autoencoder.check_generator(spec)
    if spec.train.batch_size < 2:
        raise UserError(
            f"train.batch_size is {spec.train.batch_size}: MMD compares batches of at least 2 "
            "rows, preferably 1,000"
        )


AUTOENCODER = Algorithm(
    networks=autoencoder.encoder_and_decoder,
    phases=(Phase("reconstruction", ("encoder", "decoder"), adversarial.reconstruction),),
    sample=autoencoder.sample,
    encode=autoencoder.encode,
    decode=autoencoder.decode,
    reconstruction="bernoulli",
    matches_prior=False,
    check=autoencoder.check_no_discriminator,
    figures=("reconstructions", "training_curves"),
)
GMMN = Algorithm(
    networks=decoder_alone,
    phases=(Phase("mmd", ("decoder",), of_images),),
    sample=autoencoder.sample,
    decode=autoencoder.decode,
    options=Options,
    check=check,
    figures=("samples", "training_curves", "walk"),
)
GMMN_AUTOENCODER = Algorithm(
    networks=with_autoencoder,
    phases=(Phase("mmd", ("generator",), of_codes),),
    sample=sample,
    decode=decode,
    options=CodeOptions,
    starts_from=("encoder", "decoder"),
    check=check,
    figures=("samples", "training_curves", "walk"),
)
