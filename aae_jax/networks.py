"""Encoder, decoder and discriminator as pure functions of their parameters.

The only module that knows Flax. Parameters are one plain dict,
`{"encoder": …, "decoder": …, "discriminator": …}`.
"""

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from aae_jax import posteriors
from aae_jax.errors import UserError
from aae_jax.spec import Spec

Params = dict[str, Any]


class MLP(nn.Module):
    """Dense layers with ReLU between them (footnote 1) and a linear last layer."""

    hidden: tuple[int, ...]
    num_outputs: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x):
        for width in self.hidden:
            x = nn.relu(self._dense(width)(x))
        return self._dense(self.num_outputs)(x).astype(self.param_dtype)

    def _dense(self, width):
        return nn.Dense(
            width,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.he_normal(),
        )


def _sizes(spec: Spec) -> dict[str, tuple[int, tuple[int, ...], int]]:
    """Inputs, hidden widths and outputs of each network."""
    model = spec.model
    posterior = posteriors.POSTERIORS[model.posterior]
    decoder_labels = spec.num_classes if model.label_in_decoder else 0
    discriminator_labels = spec.num_classes + 1 if model.label_in_discriminator else 0
    return {
        "encoder": (
            spec.num_pixels + posterior.num_extra_inputs(spec),
            model.encoder_hidden,
            posterior.num_outputs(spec),
        ),
        "decoder": (model.code_dim + decoder_labels, model.decoder_hidden, spec.num_pixels),
        "discriminator": (
            model.code_dim + discriminator_labels,
            model.discriminator_hidden,
            1,
        ),
    }


def _network(spec: Spec, name: str) -> MLP:
    _, hidden, num_outputs = _sizes(spec)[name]
    return MLP(
        hidden,
        num_outputs,
        dtype=jnp.dtype(spec.model.compute_dtype),
        param_dtype=jnp.dtype(spec.model.param_dtype),
    )


def init(spec: Spec, key: jax.Array, names: Iterable[str]) -> Params:
    """Draws the parameters of the named networks: He normal weights, zero biases."""
    params = {}
    for index, (name, (num_inputs, _, _)) in enumerate(_sizes(spec).items()):
        if name in names:
            x = jnp.zeros((1, num_inputs), spec.model.param_dtype)
            params[name] = _network(spec, name).init(jax.random.fold_in(key, index), x)["params"]
    return params


def encoder_outputs(spec: Spec, params: Params, inputs: jax.Array) -> jax.Array:
    """The encoder network itself, f[B, P (+ noise_dim)] → f[B, outputs of the posterior]."""
    return _network(spec, "encoder").apply({"params": params["encoder"]}, inputs)


def encode(spec: Spec, params: Params, x: jax.Array, row_keys: jax.Array | None) -> jax.Array:
    """Draws z ~ q(z|x).

    Args:
        spec, params: what to build, and its parameters.
        x: f[B, P], flat images in the units that the network sees.
        row_keys: key[B], one a row, for a stochastic posterior; None for its mean.

    Returns:
        z: f[B, D].
    """
    posterior = posteriors.POSTERIORS[spec.model.posterior]
    z = posterior.sample(spec, lambda inputs: encoder_outputs(spec, params, inputs), x, row_keys)
    return code_scale(spec) * z


def code_scale(spec: Spec) -> float:
    """Length in z of one unit of the encoder's output and of the others' input."""
    return 1.0 if spec.model.code_scale is None else spec.model.code_scale


def decode(spec: Spec, params: Params, z: jax.Array, label: jax.Array | None) -> jax.Array:
    """Maps codes f[B, D] to flat images f[B, P] in the units that the networks see.

    `label` i32[B] is used where `model.label_in_decoder` (section 3.2); −1 is a row of zeros.
    """
    x_hat = decoder_outputs(spec, params, z, label)
    return jax.nn.sigmoid(x_hat) if spec.model.output == "sigmoid" else x_hat


def decoder_outputs(spec: Spec, params: Params, z: jax.Array, label: jax.Array | None) -> jax.Array:
    """The same before the output activation."""
    z = z / code_scale(spec)
    if spec.model.label_in_decoder:
        if label is None:
            raise UserError("model.label_in_decoder is True: decoding needs labels")
        one_hot = jax.nn.one_hot(label, spec.num_classes, dtype=z.dtype)
        z = jnp.concatenate([z, one_hot], axis=1)
    return _network(spec, "decoder").apply({"params": params["decoder"]}, z)


def discriminate(spec: Spec, params: Params, z: jax.Array, label: jax.Array) -> jax.Array:
    """Logits f[B] that each code f[B, D] was drawn from the prior.

    `label` i32[B] is used where `model.label_in_discriminator` (section 3.1): "The one-hot vector
    has an extra label for training points with unknown classes", which −1 turns on.
    """
    z = z / code_scale(spec)
    if spec.model.label_in_discriminator:
        switch = jnp.where(label < 0, spec.num_classes, label)
        one_hot = jax.nn.one_hot(switch, spec.num_classes + 1, dtype=z.dtype)
        z = jnp.concatenate([z, one_hot], axis=1)
    return _network(spec, "discriminator").apply({"params": params["discriminator"]}, z)[:, 0]
