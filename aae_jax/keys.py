"""The random keys of a training: one for each stream, step and row of the batch.

Every key is a `fold_in` of the state's `rng`, which never changes. Noise belongs to a row of the
global batch, so it does not depend on how the batch is split over devices.
"""

from typing import Any

import jax
import jax.numpy as jnp

# Separate streams under one key. Other numbers would change the results of a seed.
INPUT_NOISE, PRIOR, SHUFFLE, POSTERIOR, DROPOUT, LABELLED, LABELLED_NOISE = range(7)


def stream(rng: jax.Array, which: int, index: Any) -> jax.Array:
    """The key of a stream at a step or an epoch."""
    return jax.random.fold_in(jax.random.fold_in(rng, which), index)


def row_keys(key: jax.Array, num_rows: int, first_row: jax.Array | int = 0) -> jax.Array:
    """key[B], one for each row of the global batch."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(first_row + jnp.arange(num_rows))


def fold_rows(row_keys: jax.Array, number: int) -> jax.Array:
    """key[B] for another draw of the same rows."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(row_keys)


def row_uniform(row_keys: jax.Array, dim: int, dtype: jnp.dtype) -> jax.Array:
    """Uniform noise on [0, 1) f[B, dim], each row from its own key."""
    return jax.vmap(lambda key: jax.random.uniform(key, (dim,), dtype))(row_keys)


def row_normal(row_keys: jax.Array, dim: int, dtype: jnp.dtype) -> jax.Array:
    """Standard normal noise f[B, dim], each row from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, (dim,), dtype))(row_keys)
