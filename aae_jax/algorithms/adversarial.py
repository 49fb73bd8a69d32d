"""The adversarial autoencoder (section 2): reconstruction, discriminator, generator."""

import dataclasses

import jax
import jax.numpy as jnp

from aae_jax import losses, transformations
from aae_jax.algorithms import autoencoder
from aae_jax.algorithms.base import Algorithm, Inputs, Metrics, Phase, raw_moments
from aae_jax.checks import check_begins, check_first_step, check_noise, check_types
from aae_jax.errors import UserError
from aae_jax.keys import fold_rows
from aae_jax.networks import Params
from aae_jax.optimizers import OptimizerSpec
from aae_jax.spec import Spec

_ADVERSARIAL = OptimizerSpec(learning_rate=2e-4, b1=0.5, schedule="cosine")


@dataclasses.dataclass(frozen=True)
class Options:
    """The config's section `options`."""

    # Std, in z, of Gaussian noise on the codes that the decoder learns from; 0: none, as in the
    # paper. The encoder learns from codes without noise: it would flee from it to larger codes.
    code_noise: float = 0.0
    code_noise_from: int = 0  # the first step with this noise
    # Whether images with a label turn, move and stretch a little, at random and anew in every step
    # (`transformations.random_affine`), so that few labels say more. The paper has no such thing. If
    # nearly all images have labels, the codes of clean images move away from the prior, and come back
    # if the last steps are without.
    transform_labelled: bool = False
    transform_labelled_until: int | None = None  # the first step without; None: there is none

    def __post_init__(self) -> None:
        check_types(self, "options")
        check_noise("options.code_noise", self.code_noise)
        check_first_step(self, "code_noise_from", "code_noise")
        if self.transform_labelled_until is not None:
            check_first_step(self, "transform_labelled_until", "transform_labelled")


def transform_labelled(spec: Spec, inputs: Inputs) -> Inputs:
    """The inputs of a phase; with `options.transform_labelled` the images with a label are changed.

    A loss of your own that replaces one of a phase here must begin with it, so that all phases see the
    same images.
    """
    # Other algorithms reuse these phases with their own options.
    if not getattr(spec.options, "transform_labelled", False):
        return inputs
    # The same draw in all phases; 5: no other draw has these keys.
    moved = transformations.random_affine(fold_rows(inputs.row_keys, 5), inputs.x)
    noise = inputs.x_noisy - inputs.x
    chosen = (inputs.label >= 0)[:, None, None, None]
    if spec.options.transform_labelled_until is not None:
        chosen &= inputs.step < spec.options.transform_labelled_until
    x = jnp.where(chosen, moved, inputs.x)
    x_noisy = jnp.where(chosen, moved + noise, inputs.x_noisy)
    return inputs._replace(x=x, x_noisy=x_noisy)


def reconstruction(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """ "The autoencoder updates the encoder and the decoder to minimize the reconstruction error"."""
    keys = inputs.dropout_keys
    z = autoencoder.encode(spec, params, inputs.x_noisy, inputs.row_keys, keys)
    outputs = autoencoder.decoder_outputs(spec, params, z, inputs.label, keys, inputs.condition)
    return autoencoder.reconstruction_loss(spec, outputs, inputs.x), {}


def reconstruction_by_options(
    spec: Spec, params: Params, inputs: Inputs
) -> tuple[jax.Array, Metrics]:
    """The reconstruction; with `code_noise` the decoder's gradient is that at codes with noise.

    The encoder's gradient, and the loss, are as without noise. A smoother decoder still rewards
    codes that lie further apart: watch their std where the reconstruction's rate is high.
    """
    inputs = transform_labelled(spec, inputs)
    if not spec.options.code_noise:
        return reconstruction(spec, params, inputs)
    keys = inputs.dropout_keys
    z = autoencoder.encode(spec, params, inputs.x_noisy, inputs.row_keys, keys)

    def error(decoder, z):
        outputs = autoencoder.decoder_outputs(
            spec, {"decoder": decoder}, z, inputs.label, keys, inputs.condition
        )
        return autoencoder.reconstruction_loss(spec, outputs, inputs.x)

    decoder, stop = params["decoder"], jax.lax.stop_gradient
    of_encoder = error(stop(decoder), z)
    std: float | jax.Array = spec.options.code_noise
    if spec.options.code_noise_from:
        std = std * (inputs.step >= spec.options.code_noise_from)  # type: ignore[operator]
    of_decoder = error(decoder, autoencoder.with_noise(stop(z), inputs.row_keys, std))
    return of_encoder + of_decoder - stop(of_decoder), {}


def discriminator(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """The discriminator learns to tell samples of the prior from codes of the updated encoder."""
    inputs = transform_labelled(spec, inputs)
    keys = inputs.dropout_keys
    z = autoencoder.encode(spec, params, inputs.x_noisy, inputs.row_keys, keys)
    prior_keys = None if keys is None else fold_rows(keys, 1)
    condition = inputs.condition
    prior_logits = autoencoder.discriminate(
        spec, params, *inputs.prior_sample, prior_keys, condition
    )
    code_logits = autoencoder.discriminate(spec, params, z, inputs.label, keys, condition)
    metrics = {
        "discriminator/accuracy_on_prior": (prior_logits > 0).astype(z.dtype),
        "discriminator/accuracy_on_codes": (code_logits < 0).astype(z.dtype),
        **raw_moments("code", z),
        **raw_moments("prior", inputs.prior_sample.z),
    }
    return losses.discriminator_loss(prior_logits, code_logits), metrics


def generator(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """The encoder, as the generator, learns to confuse the updated discriminator."""
    inputs = transform_labelled(spec, inputs)
    keys = inputs.dropout_keys
    z = autoencoder.encode(spec, params, inputs.x_noisy, inputs.row_keys, keys)
    logits = autoencoder.discriminate(spec, params, z, inputs.label, keys, inputs.condition)
    return losses.generator_loss(logits), {}


def check(spec: Spec) -> None:
    """Raises for late steps, and for transformations whose labels the discriminator does not see."""
    check_begins(spec, "code_noise_from")
    check_begins(spec, "transform_labelled_until")
    if not spec.options.transform_labelled:
        return
    if not spec.model.label_in_discriminator:
        raise UserError(
            "options.transform_labelled is True and model.label_in_discriminator False: it is for "
            "labels that the discriminator sees; set options.transform_labelled=False"
        )
    if len(spec.image_shape) != 3:
        raise UserError(
            f"options.transform_labelled is True and image_shape {spec.image_shape}: it needs images "
            "of (height, width, channels); set options.transform_labelled=False"
        )


def check_standardised(spec: Spec) -> None:
    """Raises for transformations: they would move a pixel to where mean and std are others."""
    if spec.options.transform_labelled:
        raise UserError(
            "options.transform_labelled is True and data.standardise True: pixels that move need one "
            "mean and std; set data.standardise=False or options.transform_labelled=False"
        )


ADVERSARIAL_AUTOENCODER = Algorithm(
    networks=autoencoder.with_discriminator,
    phases=(
        Phase(
            "reconstruction",
            ("encoder", "decoder"),
            reconstruction_by_options,
            OptimizerSpec(schedule="cosine"),
        ),
        Phase("discriminator", ("discriminator",), discriminator, _ADVERSARIAL),
        Phase("generator", ("encoder",), generator, _ADVERSARIAL),
    ),
    sample=autoencoder.sample,
    encode=autoencoder.encode,
    decode=autoencoder.decode,
    options=Options,
    check=check,
    check_standardised=check_standardised,
    figures=autoencoder.FIGURES,
)
