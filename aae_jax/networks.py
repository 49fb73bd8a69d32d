"""Encoder, decoder and discriminator as pure functions of their parameters.

The only module that knows Flax. Parameters are one plain dict,
`{"encoder": …, "decoder": …, "discriminator": …}`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from aae_jax import posteriors
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
    return {
        "encoder": (
            spec.num_pixels + posterior.num_extra_inputs(spec),
            model.encoder_hidden,
            posterior.num_outputs(spec),
        ),
        "decoder": (model.code_dim, model.decoder_hidden, spec.num_pixels),
        "discriminator": (model.code_dim, model.discriminator_hidden, 1),
    }


def _network(spec: Spec, name: str) -> MLP:
    _, hidden, num_outputs = _sizes(spec)[name]
    return MLP(
        hidden,
        num_outputs,
        dtype=jnp.dtype(spec.model.compute_dtype),
        param_dtype=jnp.dtype(spec.model.param_dtype),
    )


def init(spec: Spec, key: jax.Array) -> Params:
    """Draws the parameters of every network: He normal weights, zero biases."""
    params = {}
    for index, (name, (num_inputs, _, _)) in enumerate(_sizes(spec).items()):
        x = jnp.zeros((1, num_inputs), spec.model.param_dtype)
        params[name] = _network(spec, name).init(jax.random.fold_in(key, index), x)["params"]
    return params


def encode(spec: Spec, params: Params, x: jax.Array, row_keys: jax.Array | None) -> jax.Array:
    """Draws z ~ q(z|x).

    Args:
        x: f[B, P], flat images in the units that the network sees.
        row_keys: key[B], one a row, for a stochastic posterior; None for its mean.

    Returns:
        z: f[B, D].
    """
    posterior = posteriors.POSTERIORS[spec.model.posterior]
    encoder = _network(spec, "encoder")
    return posterior.sample(
        spec, lambda inputs: encoder.apply({"params": params["encoder"]}, inputs), x, row_keys
    )


def decode(spec: Spec, params: Params, z: jax.Array) -> jax.Array:
    """Maps codes f[B, D] to flat images f[B, P] in the units that the networks see."""
    x_hat = _network(spec, "decoder").apply({"params": params["decoder"]}, z)
    return jax.nn.sigmoid(x_hat) if spec.model.output == "sigmoid" else x_hat


def discriminate(spec: Spec, params: Params, z: jax.Array) -> jax.Array:
    """Logits f[B] that each code f[B, D] was drawn from the prior."""
    return _network(spec, "discriminator").apply({"params": params["discriminator"]}, z)[:, 0]
