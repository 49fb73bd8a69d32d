"""p(z): the distributions that can be imposed on the code."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from aae_jax.spec import Spec


class PriorSample(NamedTuple):
    """Draws from the prior, the positive samples of the discriminator."""

    z: jax.Array  # f[B, D]
    label: jax.Array  # i32[B]; the component that a row was drawn from, −1: the full prior


def gaussian(spec: Spec, key: jax.Array, label: jax.Array) -> jax.Array:
    """N(0, std²) in every dimension; it has no components, so the label is not used."""
    shape = (label.shape[0], spec.model.code_dim)
    return spec.prior.std * jax.random.normal(key, shape, spec.model.param_dtype)


PRIORS = {"gaussian": gaussian}


def sample_prior(
    spec: Spec, key: jax.Array, batch_size: int, label: jax.Array | None = None
) -> PriorSample:
    """Draws codes from the prior.

    Args:
        spec: which prior, and the code's dimension.
        key: a PRNG key.
        batch_size: B, how many to draw.
        label: i32[B] or a scalar, the component to draw each row from; −1, or None for all rows,
            draws from the full prior.

    Returns:
        `PriorSample(z f[B, D], label i32[B])`.
    """
    label = jnp.full(batch_size, -1) if label is None else jnp.asarray(label)
    label = jnp.broadcast_to(label, (batch_size,)).astype(jnp.int32)
    return PriorSample(PRIORS[spec.prior.name](spec, key, label), label)
