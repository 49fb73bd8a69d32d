"""p(z) for the chains: a density in an unbounded space, and the map from there to codes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from aae_jax.checks import check_length
from aae_jax.errors import UserError


def _same(v):
    return v


class Prior(NamedTuple):
    """One choice of p(z), as a density of v and a map to codes z = to_code(v).

    Chains move in the space of v, which must be unbounded. `normal`, `uniform` and `density` make
    the usual priors. A function that is a `jax.tree_util.Partial` may hold arrays; equal programs
    are then compiled once.

    Attributes:
        to_code: (v f[D]) → z f[D], smooth.
        from_code: its inverse, for chains that start around a code.
        log_prob: (v f[D]) → f[] nats. None: v is standard normal, and codes can be drawn.
    """

    to_code: Callable[[jax.Array], jax.Array] = _same
    from_code: Callable[[jax.Array], jax.Array] = _same
    log_prob: Callable[[jax.Array], jax.Array] | None = None


def normal(std: float = 1.0) -> Prior:
    """z ~ N(0, std² I)."""
    std = _length("std", std)
    return Prior(Partial(_times, std), Partial(_over, std))


def uniform(radius: float) -> Prior:
    """z ~ U(−radius, radius) in each dimension: z is the distribution function of a normal v."""
    radius = _length("radius", radius)
    return Prior(Partial(_to_box, radius), Partial(_from_box, radius))


def density(log_prob: Callable[[jax.Array], jax.Array]) -> Prior:
    """Any log density (z f[D]) → f[] nats; chains then need a Gaussian `start`."""
    if not callable(log_prob):
        raise UserError(
            f"log_prob is a {type(log_prob).__name__}: it must be a function (z f[D]) → f[]"
        )
    return Prior(log_prob=log_prob)


def _length(name, value):
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name} is {value!r}: it must be one number") from None
    check_length(name, number, value)
    return number


def _times(std, v):
    return jnp.asarray(std, v.dtype) * v


def _over(std, z):
    return z / jnp.asarray(std, z.dtype)


def _to_box(radius, v):
    return jnp.asarray(radius, v.dtype) * jax.lax.erf(v / jnp.sqrt(jnp.asarray(2, v.dtype)))


def _from_box(radius, z):
    """v of codes; codes at or beyond the faces of the box are moved inside first."""
    share = z / jnp.asarray(radius, z.dtype)
    # Only the value is clipped: a slope of 0 would be a start of zero width.
    share += jax.lax.stop_gradient(jnp.clip(share, -0.99, 0.99) - share)
    return jnp.sqrt(jnp.asarray(2, z.dtype)) * jax.lax.erf_inv(share)
