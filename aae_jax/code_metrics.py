"""Measures of how well the aggregated posterior q(z) matches the prior p(z).

Read each number beside its floor: the same measure for an independent sample of the prior in place
of the codes.
"""

import jax
import jax.numpy as jnp
import numpy as np


def sliced_wasserstein(
    z: jax.Array, prior_z: jax.Array, key: jax.Array, num_projections: int = 500
) -> jax.Array:
    """Sliced Wasserstein-2 distance between two samples, in units of z.

    The root of the mean, over random directions, of the squared Wasserstein-2 distance between the
    projected samples. In one dimension, it pairs the sorted samples (Bonneel et al. 2015).

    Args:
        z: f[N, D].
        prior_z: f[N, D].
        key: a PRNG key for the directions.
        num_projections: number of directions.

    Returns:
        f[].
    """
    if z.shape != prior_z.shape:
        raise ValueError(f"samples of shapes {z.shape} and {prior_z.shape}: they must be equal")
    directions = jax.random.normal(key, (num_projections, z.shape[1]), z.dtype)
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)

    def one(direction):
        return jnp.mean((jnp.sort(z @ direction) - jnp.sort(prior_z @ direction)) ** 2)

    return jnp.sqrt(jax.lax.map(one, directions, batch_size=50).mean())


def empty_cells(
    z: jax.Array | np.ndarray, prior_z: jax.Array | np.ndarray, cells_a_side: int = 50
) -> float:
    """Share of cells of equal prior probability that hold no code.

    The quantiles of the prior's first dimension cut the plane into `cells_a_side` strips. The
    quantiles of its second dimension within a strip cut the strip into as many cells. N independent
    draws from the prior leave about exp(−N / cells) of the cells empty.

    Args:
        z: f[N, 2], codes.
        prior_z: f[M, 2], a large sample of the prior, which defines the cells.
        cells_a_side: 50 makes 2,500 cells.

    Returns:
        The share, between 0 and 1.
    """
    z, prior_z = np.asarray(z, np.float64), np.asarray(prior_z, np.float64)
    levels = np.arange(1, cells_a_side) / cells_a_side
    strip_edges = np.quantile(prior_z[:, 0], levels)
    strip, prior_strip = (np.searchsorted(strip_edges, v[:, 0]) for v in (z, prior_z))
    occupied = 0
    for index in range(cells_a_side):
        edges = np.quantile(prior_z[prior_strip == index, 1], levels)
        occupied += len(np.unique(np.searchsorted(edges, z[strip == index, 1])))
    return 1 - occupied / cells_a_side**2


def share_in_component(component_log_prob: jax.Array, label: jax.Array) -> jax.Array:
    """Share of codes whose most probable component is the one of their label.

    Args:
        component_log_prob: f[N, K], log p(z | component). Components have equal weights, so the
            largest value has the largest posterior responsibility.
        label: i32[N]; rows with −1 don't count.

    Returns:
        f[], the share, between 0 and 1.
    """
    right = component_log_prob.argmax(axis=1) == label
    return (right & (label >= 0)).sum() / (label >= 0).sum()
