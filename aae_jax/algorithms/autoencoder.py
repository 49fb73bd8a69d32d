"""Shared functions of autoencoders with a prior on the code: encode, decode, sample and others."""

from typing import Any

import jax
import jax.numpy as jnp

from aae_jax import networks
from aae_jax.errors import UserError, in_one_line
from aae_jax.keys import fold_rows, row_normal
from aae_jax.networks import Network, Params
from aae_jax.priors import sample_prior
from aae_jax.spec import Spec

FIGURES = (
    "samples",
    "reconstructions",
    "code_marginals",
    "training_curves",
    "codes",  # Figs 2a-2d, 4a, 4c
    "percentiles",  # Fig. 2e
    "components",  # Fig. 4b
    "roll",  # Fig. 4d
    "style",  # Fig. 5
    "walk",  # the videos of sections 3.2 and 4
)


def encoder_and_decoder(spec: Spec) -> dict[str, Network]:
    """The two networks of `spec.model`."""
    model, posterior = spec.model, spec.model.posterior
    noise_dim = None
    if posterior.noise_dim is not None:
        noise_dim = _size("model.posterior", posterior.noise_dim, spec)
    num_outputs = _size("model.posterior", posterior.num_outputs, spec)
    return {
        "encoder": Network(
            networks.make("model.encoder", model.encoder, spec, num_outputs),
            inputs=(spec.image_shape, None if noise_dim is None else (noise_dim,)),
            output=(num_outputs,),
        ),
        "decoder": decoder(spec, model.code_dim),
    }


def decoder(spec: Spec, code_dim: int) -> Network:
    """The decoder that `spec.model` names, for codes with `code_dim` dimensions."""
    label = (spec.decoder_label_dim,) if spec.decoder_label_dim else None
    return Network(
        networks.make("model.decoder", spec.model.decoder, spec),
        inputs=((code_dim,), label),
        output=spec.image_shape,
    )


def _size(field, function, spec):
    size = in_one_line(field, function, spec)
    if not isinstance(size, int) or size < 1:
        raise UserError(f"{field} asks for {size!r} outputs or inputs: it must be an integer > 0")
    return size


def with_discriminator(spec: Spec) -> dict[str, Network]:
    """Encoder, decoder, and the discriminator of codes."""
    model = spec.model
    label_dim = spec.num_classes + 1 if model.label_in_discriminator else 0
    label_dim += spec.condition_dim if model.condition_in_discriminator else 0
    label = (label_dim,) if label_dim else None
    discriminator = Network(
        networks.make("model.discriminator", model.discriminator, spec),
        inputs=((model.code_dim,), label),
        output=(),
        training_only=True,
    )
    return {**encoder_and_decoder(spec), "discriminator": discriminator}


def encode(
    spec: Spec,
    params: Params,
    x: jax.Array,
    row_keys: jax.Array | None,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """Draws z ~ q(z|x).

    Args:
        spec, params: the spec, and the parameters of all networks.
        x: f[B, H, W, C], images in the networks' units.
        row_keys: key[B], one per row, for a stochastic posterior; None for its mean.
        dropout_keys: `Inputs.dropout_keys` while training.

    Returns:
        z: f[B, D].
    """

    def encoder(x, eta):
        return networks.apply(spec, params, "encoder", x, eta, dropout_keys=dropout_keys)

    sample = spec.model.posterior.sample
    z = in_one_line("model.posterior", sample, spec, encoder, x, row_keys)
    if z.shape != (x.shape[0], spec.model.code_dim):
        raise UserError(
            f"model.posterior returns codes of shape {z.shape}: they must be [batch, "
            f"model.code_dim], {(x.shape[0], spec.model.code_dim)}"
        )
    return code_scale(spec) * z


def code_scale(spec: Spec) -> float:
    """The length in z of one unit of the networks' outputs and inputs: `model.code_scale`."""
    return 1.0 if spec.model.code_scale is None else spec.model.code_scale


def decode(
    spec: Spec,
    params: Params,
    z: jax.Array,
    label: jax.Array | None,
    condition: jax.Array | None = None,
) -> jax.Array:
    """Maps codes f[B, D] to images f[B, H, W, C] in the networks' units.

    `label` i32[B], or f[B, K] for soft classes, is used if `model.label_in_decoder` (section 3.2);
    −1 is a row of zeros. `condition` f[B, K] is used if `model.condition_in_decoder`.
    """
    return activate(spec, decoder_outputs(spec, params, z, label, condition=condition))


def decoder_outputs(
    spec: Spec,
    params: Params,
    z: jax.Array,
    label: jax.Array | None,
    dropout_keys: jax.Array | None = None,
    condition: jax.Array | None = None,
) -> jax.Array:
    """The outputs of `decode` before the output activation."""
    z, y = z / code_scale(spec), None
    if spec.model.label_in_decoder:
        if label is None:
            raise UserError("model.label_in_decoder is True: decoding needs labels")
        y = as_classes(label, spec.num_classes, z.dtype)
    if spec.model.condition_in_decoder:
        y = _join(y, condition, z.dtype)
    return networks.apply(spec, params, "decoder", z, y, dropout_keys=dropout_keys)


def activate(spec: Spec, outputs: jax.Array) -> jax.Array:
    """The decoder's last activation: `model.output`."""
    return jax.nn.sigmoid(outputs) if spec.model.output == "sigmoid" else outputs


def reconstruction_loss(spec: Spec, outputs: jax.Array, x: jax.Array) -> jax.Array:
    """`model.reconstruction` f[B] of the decoder's outputs against images f[B, H, W, C]."""
    reconstruction = spec.model.reconstruction
    x_hat = outputs if reconstruction.on_logits else activate(spec, outputs)
    loss = in_one_line("model.reconstruction", reconstruction.loss, x_hat, x)
    found = getattr(loss, "shape", None)
    if found != (x.shape[0],):
        raise UserError(
            f"model.reconstruction returns {'a number' if found is None else f'shape {found}'} for "
            f"a batch of {x.shape[0]}: it must return one number per example"
        )
    return loss


def with_noise(z: jax.Array, row_keys: jax.Array, std: float | jax.Array) -> jax.Array:
    """Codes f[B, D] plus Gaussian noise of this std, in z; not that of a stochastic posterior."""
    return z + std * row_normal(fold_rows(row_keys, 1), z.shape[1], z.dtype)


def discriminate(
    spec: Spec,
    params: Params,
    z: jax.Array,
    label: jax.Array | None,
    dropout_keys: jax.Array | None = None,
    condition: jax.Array | None = None,
) -> jax.Array:
    """Logits f[B] that each code f[B, D] was drawn from the prior.

    `label` i32[B] is used if `model.label_in_discriminator` (section 3.1): "This one-hot vector has
    an extra class for unlabeled examples", which −1 selects. `condition` f[B, K] is used if
    `model.condition_in_discriminator`.
    """
    z, y = z / code_scale(spec), None
    if spec.model.label_in_discriminator:
        switch = jnp.where(label < 0, spec.num_classes, label)  # type: ignore[operator, arg-type]
        y = jax.nn.one_hot(switch, spec.num_classes + 1, dtype=z.dtype)
    if spec.model.condition_in_discriminator:
        y = _join(y, condition, z.dtype)
    return networks.apply(spec, params, "discriminator", z, y, dropout_keys=dropout_keys)


def sample(
    spec: Spec,
    params: Params,
    key: jax.Array,
    num_samples: int,
    label: jax.Array | None = None,
    start: jax.Array | None = None,
    condition: jax.Array | None = None,
) -> jax.Array:
    """Prior → decoder: f[num_samples, H, W, C] in the networks' units.

    `label` selects the component of the prior, and is the decoder's label if it takes one. Soft
    classes draw the component by their shares. None is the full prior, with labels drawn uniformly;
    if the discriminator took labels too, the component is that of the label, as in training.
    `condition` f[num_samples, K] is the decoder's.
    """
    del start
    has_components, in_decoder = spec.prior.has_components, spec.model.label_in_decoder
    if label is not None and not (has_components or in_decoder):
        raise UserError(
            f"a label is given, but neither prior {spec.prior.name!r} nor the decoder takes one"
        )
    component = label if has_components else None
    if label is None and in_decoder:
        label = jax.random.randint(jax.random.fold_in(key, 1), (num_samples,), 0, spec.num_classes)
        if has_components and spec.model.label_in_discriminator:
            component = label
    z = sample_prior(spec, key, num_samples, component).z
    return decode(spec, params, z, label if in_decoder else None, condition)


def _join(y, condition, dtype):
    """Classes f[B, K], or None, and conditions f[B, C] side by side."""
    if condition is None:
        raise UserError("the model takes conditions (condition_dim), but none are given")
    condition = condition.astype(dtype)
    return condition if y is None else jnp.concatenate([y, condition], axis=1)


def check_no_discriminator(spec: Spec) -> None:
    """Raises if a spec gives labels or conditions to a discriminator: the algorithm has none."""
    for field in ("label_in_discriminator", "condition_in_discriminator"):
        if getattr(spec.model, field):
            raise UserError(
                f"model.{field} is True: algorithm {spec.algorithm_name} has no discriminator"
            )


def check_generator(spec: Spec) -> None:
    """Raises if a spec has labels, conditions or input noise, which a bare generator lacks."""
    for what in ("label", "condition"):
        for field in (f"{what}_in_decoder", f"{what}_in_discriminator"):
            if getattr(spec.model, field):
                raise UserError(
                    f"model.{field} is True: algorithm {spec.algorithm_name} takes no {what}s"
                )
    if spec.train.input_noise:
        raise UserError(
            f"train.input_noise is {spec.train.input_noise}: it is added to an encoder's input, "
            f"but algorithm {spec.algorithm_name} trains no encoder"
        )


def as_classes(label: jax.Array, num_classes: int, dtype: Any) -> jax.Array:
    """Labels i32[B] as one-hot vectors f[B, K]; soft classes f[B, K] unchanged."""
    if jnp.issubdtype(label.dtype, jnp.floating):
        return label.astype(dtype)
    return jax.nn.one_hot(label, num_classes, dtype=dtype)
