"""What autoencoders with a prior on their code share: encode, decode, discriminate, sample."""

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
    """The decoder that `spec.model` names, of codes of so many dimensions."""
    label = (spec.decoder_label_dim,) if spec.decoder_label_dim else None
    return Network(
        networks.make("model.decoder", spec.model.decoder, spec),
        inputs=((code_dim,), label),
        output=spec.image_shape,
    )


def _size(field, function, spec):
    size = in_one_line(field, function, spec)
    if not isinstance(size, int) or size < 1:
        raise UserError(f"{field} asks for {size!r} outputs or inputs: it must be an integer")
    return size


def with_discriminator(spec: Spec) -> dict[str, Network]:
    """Encoder, decoder, and the discriminator of their codes."""
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
        spec, params: what to build, and its parameters.
        x: f[B, H, W, C], images in the units that the network sees.
        row_keys: key[B], one a row, for a stochastic posterior; None for its mean.
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
            f"model.posterior gives codes of shape {z.shape} for a batch of {x.shape[0]}: "
            f"[batch, model.code_dim] is {(x.shape[0], spec.model.code_dim)}"
        )
    return code_scale(spec) * z


def code_scale(spec: Spec) -> float:
    """Length in z of one unit of the encoder's output and of the others' input."""
    return 1.0 if spec.model.code_scale is None else spec.model.code_scale


def decode(
    spec: Spec,
    params: Params,
    z: jax.Array,
    label: jax.Array | None,
    condition: jax.Array | None = None,
) -> jax.Array:
    """Maps codes f[B, D] to images f[B, H, W, C] in the units that the networks see.

    `label` i32[B], or f[B, K] of soft classes, is used where `model.label_in_decoder` (section
    3.2); −1 is a row of zeros. `condition` f[B, K] is used where `model.condition_in_decoder`.
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
    """The same before the output activation."""
    z, y = z / code_scale(spec), None
    if spec.model.label_in_decoder:
        if label is None:
            raise UserError("model.label_in_decoder is True: decoding needs labels")
        y = _classes(label, spec.num_classes, z.dtype)
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
            f"model.reconstruction gives {'a number' if found is None else f'shape {found}'} for a "
            f"batch of {x.shape[0]}: it must give one number an example"
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

    `label` i32[B] is used where `model.label_in_discriminator` (section 3.1): "This one-hot vector
    has an extra class for unlabeled examples", which −1 turns on. `condition` f[B, K] is used where
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
    """Prior → decoder: f[num_samples, H, W, C] in the units that the networks see.

    `label` selects the component of the prior, which soft classes draw by their shares, and the
    decoder's label where it takes one; None is the full prior, and labels drawn uniformly.
    `condition` f[num_samples, K] is the decoder's.
    """
    del start
    has_components, in_decoder = spec.prior.has_components, spec.model.label_in_decoder
    if label is not None and not (has_components or in_decoder):
        raise UserError(
            f"a label is given, but neither prior {spec.prior.name!r} nor decoder has any"
        )
    component = label if has_components else None
    if component is not None and component.ndim == 2:
        component = jax.random.categorical(jax.random.fold_in(key, 2), jnp.log(component))
    z = sample_prior(spec, key, num_samples, component).z
    if not in_decoder:
        return decode(spec, params, z, None, condition)
    if label is None:
        label = jax.random.randint(jax.random.fold_in(key, 1), (num_samples,), 0, spec.num_classes)
    return decode(spec, params, z, label, condition)


def _join(y, condition, dtype):
    """Classes f[B, K], or None, and conditions f[B, C] side by side."""
    if condition is None:
        raise UserError("the model takes conditions (condition_dim), and none are given")
    condition = condition.astype(dtype)
    return condition if y is None else jnp.concatenate([y, condition], axis=1)


def check_generator(spec: Spec) -> None:
    """Refuses what an algorithm that maps the prior to images, and nothing else, has no use for."""
    for what in ("label", "condition"):
        for field in (f"{what}_in_decoder", f"{what}_in_discriminator"):
            if getattr(spec.model, field):
                raise UserError(
                    f"model.{field} is True: algorithm {spec.algorithm_name} takes no {what}s"
                )
    if spec.train.input_noise:
        raise UserError(
            f"train.input_noise is {spec.train.input_noise}: it is for the images that an encoder "
            f"learns from, and algorithm {spec.algorithm_name} has none to train"
        )


def _classes(label, num_classes, dtype):
    """Labels i32[B] as one-hot vectors f[B, K]; soft classes f[B, K] as they are."""
    if jnp.issubdtype(label.dtype, jnp.floating):
        return label.astype(dtype)
    return jax.nn.one_hot(label, num_classes, dtype=dtype)
