"""q(z|x): how the encoder's output becomes a code (section 2)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from aae_jax.errors import UserError
from aae_jax.spec import Spec

Encoder = Callable[[jax.Array], jax.Array]


class Posterior(NamedTuple):
    """One choice of q(z|x).

    Attributes:
        num_extra_inputs: (spec) → how many inputs the encoder has beside the pixels.
        num_outputs: (spec) → how many outputs the encoder has.
        sample: (spec, encoder, x f[B, P], row_keys key[B] or None) → z f[B, D].
    """

    num_extra_inputs: Callable[[Spec], int]
    num_outputs: Callable[[Spec], int]
    sample: Callable[[Spec, Encoder, jax.Array, jax.Array | None], jax.Array]


def deterministic(
    spec: Spec, encoder: Encoder, x: jax.Array, row_keys: jax.Array | None
) -> jax.Array:
    """The encoder's output is the code; the only randomness in q(z) is the data's."""
    del spec, row_keys
    return encoder(x)


def gaussian(spec: Spec, encoder: Encoder, x: jax.Array, row_keys: jax.Array | None) -> jax.Array:
    """z_i ~ N(μ_i(x), σ_i(x)²), reparametrised as μ + σ·noise; the mean without keys."""
    del spec
    mean, log_var = mean_and_log_var(encoder(x))
    if row_keys is None:
        return mean
    return mean + jnp.exp(0.5 * log_var) * row_normal(row_keys, mean.shape[1], mean.dtype)


def universal(spec: Spec, encoder: Encoder, x: jax.Array, row_keys: jax.Array | None) -> jax.Array:
    """z = f(x, η) with η ~ N(0, I): any distribution that the encoder can make of noise (Eq. 2)."""
    if row_keys is None:
        raise UserError(
            "model.posterior is 'universal', which has no mean in closed form: give a key"
        )
    eta = row_normal(row_keys, spec.model.noise_dim, x.dtype)
    return encoder(jnp.concatenate([x, eta], axis=1))


def mean_and_log_var(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two halves f[B, D] of a Gaussian posterior's encoder outputs f[B, 2D]."""
    return tuple(jnp.split(outputs, 2, axis=1))


def row_normal(row_keys: jax.Array, dim: int, dtype: jnp.dtype) -> jax.Array:
    """Standard normal noise f[B, dim], each row from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, (dim,), dtype))(row_keys)


POSTERIORS = {
    "deterministic": Posterior(
        num_extra_inputs=lambda spec: 0,
        num_outputs=lambda spec: spec.model.code_dim,
        sample=deterministic,
    ),
    "gaussian": Posterior(
        num_extra_inputs=lambda spec: 0,
        num_outputs=lambda spec: 2 * spec.model.code_dim,
        sample=gaussian,
    ),
    "universal": Posterior(
        num_extra_inputs=lambda spec: spec.model.noise_dim,
        num_outputs=lambda spec: spec.model.code_dim,
        sample=universal,
    ),
}
