"""q(z|x): how the encoder's output becomes a code (section 2)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from aae_jax.errors import UserError
from aae_jax.keys import row_normal
from aae_jax.spec import Spec

Encoder = Callable[..., jax.Array]  # (x f[B, H, W, C], eta f[B, E] | None) → f[B, outputs]


class Posterior(NamedTuple):
    """One choice of q(z|x); a user may add others.

    Attributes:
        num_outputs: (spec) → the number of outputs of the encoder.
        sample: (spec, encoder, x f[B, H, W, C], row_keys key[B] or None) → z f[B, D]; without keys
            the mean.
        noise_dim: (spec) → the size of η, the encoder's second input; None: there is none.
    """

    num_outputs: Callable[[Spec], int]
    sample: Callable[[Spec, Encoder, jax.Array, jax.Array | None], jax.Array]
    noise_dim: Callable[[Spec], int] | None = None


def deterministic(
    spec: Spec, encoder: Encoder, x: jax.Array, row_keys: jax.Array | None
) -> jax.Array:
    """The encoder's output is the code; all randomness in q(z) comes from the data."""
    del spec, row_keys
    return encoder(x, None)


def gaussian(spec: Spec, encoder: Encoder, x: jax.Array, row_keys: jax.Array | None) -> jax.Array:
    """z_i ~ N(μ_i(x), σ_i(x)²), reparametrised as μ + σ·noise; without keys the mean."""
    del spec
    mean, log_var = mean_and_log_var(encoder(x, None))
    if row_keys is None:
        return mean
    return mean + jnp.exp(0.5 * log_var) * row_normal(row_keys, mean.shape[1], mean.dtype)


def universal(spec: Spec, encoder: Encoder, x: jax.Array, row_keys: jax.Array | None) -> jax.Array:
    """z = f(x, η) with η ~ N(0, I): any distribution that the encoder can make of noise (Eq. 2)."""
    if row_keys is None:
        raise UserError(
            "model.posterior is 'universal', which has no mean in closed form: give a key, "
            "or --seed on the command line"
        )
    return encoder(x, row_normal(row_keys, spec.model.noise_dim, x.dtype))


def mean_and_log_var(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two halves f[B, D] of a Gaussian posterior's encoder outputs f[B, 2D]."""
    mean, log_var = jnp.split(outputs, 2, axis=1)
    return mean, log_var


DETERMINISTIC = Posterior(num_outputs=lambda spec: spec.model.code_dim, sample=deterministic)
GAUSSIAN = Posterior(num_outputs=lambda spec: 2 * spec.model.code_dim, sample=gaussian)
UNIVERSAL = Posterior(
    num_outputs=lambda spec: spec.model.code_dim,
    sample=universal,
    noise_dim=lambda spec: spec.model.noise_dim,
)
