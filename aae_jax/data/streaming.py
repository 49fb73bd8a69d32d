"""Batches for data that don't fit on the device: read ahead by grain while the device trains.

The batches are those that `train_steps` takes from data on the device, in the same order, so it
makes no difference to a run which of the two it uses, or whether it was cut in between.
"""

import functools
import os
import threading
from collections.abc import Iterator

import jax
import numpy as np

from aae_jax import data
from aae_jax.data import Split
from aae_jax.data.order import EXAMPLE, epoch_permutation
from aae_jax.errors import UserError

_AHEAD = 2**28  # bytes of images that are read ahead


def batches(
    train: Split,
    rng: jax.Array,
    first_step: int,
    last_step: int,
    batch_size: int,
    rows: slice = slice(None),
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of steps first_step … last_step − 1.

    Args:
        train: the training split; images may be lazy. "example_order" as in `train_steps`.
        rng: the state's, from which the order of the images follows.
        first_step, last_step: of the training.
        batch_size: B.
        rows: those of each batch that this process reads.

    Returns:
        An iterator of `{"image": [B, H, W, C], "label": i32[B]}`, "condition" f[B, K] where the
        data have any.

    Raises:
        UserError: an image can't be read (while iterating); grain is missing.
    """
    try:
        import grain
    except ImportError:
        raise UserError(
            "the images are streamed from the host, which needs grain: pip install 'aae-jax[data]'"
        ) from None
    # On this process alone: the threads below run programs in an order of their own.
    rng = jax.random.wrap_key_data(
        np.asarray(jax.random.key_data(rng)),  # type: ignore[arg-type]
        impl=jax.random.key_impl(rng),
    )
    order = train.get("example_order")
    num_places = len(train["image"] if order is None else order)
    lock = threading.Lock()

    @functools.lru_cache(maxsize=2)
    def permutation(epoch):
        return np.asarray(epoch_permutation(rng, epoch, num_places))

    def examples(step):
        epoch, place = divmod(np.arange(step * batch_size, (step + 1) * batch_size), num_places)
        with lock:  # one thread computes a permutation, the others wait for it
            found = np.concatenate([permutation(e)[place[epoch == e]] for e in np.unique(epoch)])
        return found if order is None else order[found]

    def read(step):
        chosen = examples(step)[rows]
        try:
            return {name: train[name][chosen] for name in EXAMPLE if name in train}
        except UserError as error:  # grain would wrap it
            return error

    batch_bytes = (
        batch_size * int(np.prod(train["image"].shape[1:])) * train["image"].dtype.itemsize
    )
    ahead = max(2, min(_AHEAD // batch_bytes, 500))
    # More threads only wait for each other's Python where images are small.
    threads = 2 if data.is_small(train["image"].shape[1:]) else os.cpu_count()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    for batch in grain.MapDataset.range(first_step, last_step).map(read).to_iter_dataset(options):
        if isinstance(batch, UserError):
            raise batch
        yield batch
