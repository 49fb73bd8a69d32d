"""Several trainings in one compiled program: `vmap` over seeds and over their learning rates.

Several seeds are one `TrainState` whose arrays have a leading axis of members. Only `step` is
shared. Each member takes the same steps as in a training of its own.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from aae_jax.spec import Spec
from aae_jax.train_state import TrainState, create_train_state
from aae_jax.training import train_steps

SHARED = ("image", "condition")  # the arrays of a data set that all members share


def axes(state: TrainState) -> TrainState:
    """The `in_axes` of `jax.vmap` for a state of several seeds: 0 for everything but `step`."""
    mapped = {field.name: 0 for field in dataclasses.fields(state) if field.name != "spec"}
    return state.replace(**{**mapped, "step": None})


def create(
    spec: Spec,
    keys: jax.Array,
    pixel_mean: jax.Array | None = None,
    pixel_std: jax.Array | None = None,
    image_mean: jax.Array | None = None,
) -> TrainState:
    """`create_train_state` for each of K keys.

    Args:
        spec: what to build, the same for all.
        keys: key[K].
        pixel_mean, pixel_std, image_mean: as in `create_train_state`, the same for all.

    Returns:
        The state of all K at step 0.
    """
    statistics = pixel_mean, pixel_std, image_mean
    state = jax.vmap(lambda key: create_train_state(spec, key, *statistics))(keys)
    return state.replace(step=jnp.zeros_like(state.step, shape=()))


def size(state: TrainState) -> int:
    """The number of members of a state of several seeds."""
    return state.rng.shape[0]


def member(state: TrainState, index: int) -> TrainState:
    """One member's state, as if it had been trained alone."""
    return jax.tree.map(lambda leaf: leaf[index], state.replace(step=())).replace(step=state.step)


def members(state: TrainState) -> list[TrainState]:
    """The states of all members; for a state of one seed, that state."""
    if state.rng.ndim == 0:
        return [state]
    return [member(state, index) for index in range(size(state))]


@functools.partial(jax.jit, static_argnames=("num_steps", "batch_sharding"))
def train(
    state: TrainState,
    dataset: dict[str, jax.Array],
    num_steps: int,
    *,
    batch_sharding: jax.sharding.Sharding | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`train_steps` of every member on the same images.

    Args:
        state: of K members.
        dataset: `{"image": [N, H, W, C], "label": i32[K, N]}`: members may have different labels;
            optionally "example_order": i32[K, M], "labelled_rows": i32[K, M] and "condition":
            f[N, C], as in `train_steps`.
        num_steps: static.
        batch_sharding: how each member's batches are split over devices; static.

    Returns:
        The state after, and metrics f[K, num_steps].
    """
    mapped = axes(state)
    return jax.vmap(
        lambda state, dataset: train_steps(
            state, dataset, num_steps, batch_sharding=batch_sharding
        ),
        in_axes=(mapped, {name: None if name in SHARED else 0 for name in dataset}),
        out_axes=(mapped, 0),
    )(state, dataset)
