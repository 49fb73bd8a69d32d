"""The order in which epochs visit the examples, a function of the training's key and the step."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from aae_jax import keys
from aae_jax.errors import UserError

EXAMPLE = ("image", "label", "condition")  # what a data set has for each example, in this order
# The arrays of a batch's labelled rows, and the arrays of a data set that they come from.
LABELLED = {"labelled_image": "image", "labelled_label": "label"}


def batch_rows(state: Any, dataset: dict[str, Any], num_steps: int) -> jax.Array:
    """The examples i32[K, B] of a data set (see `train_steps`) for the next steps."""
    order = dataset.get("example_order")
    num_places = len(dataset["image"] if order is None else order)
    rows = epoch_rows(state.rng, state.step, num_steps, state.spec.train.batch_size, num_places)
    return rows if order is None else jnp.asarray(order)[rows]


def labelled_batch_rows(state: Any, dataset: dict[str, Any], num_steps: int) -> jax.Array:
    """The labelled examples i32[K, B] for the next steps, in epochs of their own."""
    labelled = jnp.asarray(dataset["labelled_rows"])
    batch_size = state.spec.train.batch_size
    places = epoch_rows(state.rng, state.step, num_steps, batch_size, len(labelled), keys.LABELLED)
    return labelled[places]


def epoch_rows(
    rng: jax.Array,
    step: jax.Array,
    num_steps: int,
    batch_size: int,
    num_examples: int,
    which: int = keys.SHUFFLE,
) -> jax.Array:
    """The examples i32[num_steps, batch_size] for the next steps.

    Position p of the stream of examples holds `permutation(epoch p // N)[p % N]`, and step t takes
    positions tB … tB + B − 1.

    Args:
        rng: the training's PRNG key.
        step: i32[], the first step.
        num_steps, batch_size, num_examples: K, B, N; static.
        which: the stream of randomness that orders the epochs.
    """
    if num_examples < 1:
        raise UserError("the data set has no examples")
    # step · B overflows int32 in long runs; whole cycles of N / gcd steps are B / gcd epochs.
    common = math.gcd(num_examples, batch_size)
    cycle, epochs_a_cycle = num_examples // common, batch_size // common
    if cycle * epochs_a_cycle >= 2**31:
        raise UserError(
            f"{num_examples} examples in batches of {batch_size}: choose a batch size that "
            "shares a larger factor with the number of examples"
        )
    position = (step % cycle) * epochs_a_cycle  # in units of `common` examples
    first_epoch = (step // cycle) * epochs_a_cycle + position // cycle
    start = (position % cycle) * common
    # The last position can lie at most num_examples − common into the first epoch when it starts.
    num_epochs = -(-(num_examples - common + num_steps * batch_size) // num_examples)

    epochs = first_epoch + jnp.arange(num_epochs)
    stream = jax.vmap(lambda epoch: epoch_permutation(rng, epoch, num_examples, which))(epochs)
    stream = stream.reshape(-1)
    rows = jax.lax.dynamic_slice(stream, (start,), (num_steps * batch_size,))
    return rows.reshape(num_steps, batch_size)


@functools.partial(jax.jit, static_argnames=("num_examples", "which"))
def epoch_permutation(
    rng: jax.Array, epoch: jax.Array | int, num_examples: int, which: int = keys.SHUFFLE
) -> jax.Array:
    """The order i32[N] in which an epoch of a stream visits the examples."""
    return jax.random.permutation(keys.stream(rng, which, epoch), num_examples)
