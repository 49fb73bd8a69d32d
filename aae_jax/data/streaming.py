"""Batches of data that don't fit on the device, read ahead by grain while the device trains.

The batches and their order are those of `train_steps` on data on the device. So streaming does not
change the result of a run, even of one that is interrupted and resumed.
"""

import functools
import os
import threading
from collections.abc import Iterator

import jax
import numpy as np

from aae_jax import data, keys
from aae_jax.data import Split
from aae_jax.data.order import EXAMPLE, LABELLED, epoch_permutation
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
        train: the training split; images may be lazy. "example_order" and "labelled_rows" as in
            `train_steps`.
        rng: the state's, which determines the order of the images.
        first_step, last_step: of the training.
        batch_size: B.
        rows: the rows of each batch that this process reads.

    Returns:
        An iterator of `{"image": [B, H, W, C], "label": i32[B]}`, with "condition" f[B, K] if the
        data have conditions, and "labelled_image" and "labelled_label" if there are labelled rows.

    Raises:
        UserError: an image can't be read (while iterating); or grain is missing.
    """
    try:
        import grain
    except ImportError:
        raise UserError(
            "the images are streamed from the host, which needs grain: pip install 'aae-jax[data]'"
        ) from None
    # On this process alone: the threads below run programs in their own order.
    rng = jax.random.wrap_key_data(
        np.asarray(jax.random.key_data(rng)),  # type: ignore[arg-type]
        impl=jax.random.key_impl(rng),
    )
    order, labelled = train.get("example_order"), train.get("labelled_rows")
    num_places = len(train["image"] if order is None else order)
    lock = threading.Lock()

    # A cache for each stream: the many epochs of a few labelled rows must not displace the images'.
    @functools.cache
    def permutations(num_places, which):
        return functools.lru_cache(maxsize=4)(
            lambda epoch: np.asarray(epoch_permutation(rng, epoch, num_places, which))
        )

    def places(step, num_places, which):
        permutation = permutations(num_places, which)
        epoch, place = divmod(np.arange(step * batch_size, (step + 1) * batch_size), num_places)
        with lock:  # one thread computes a permutation, the others wait for it
            return np.concatenate([permutation(e)[place[epoch == e]] for e in np.unique(epoch)])

    def examples(step):
        found = places(step, num_places, keys.SHUFFLE)
        return found if order is None else order[found]

    def read(step):
        chosen = examples(step)[rows]
        try:
            batch = {name: train[name][chosen] for name in EXAMPLE if name in train}
            if labelled is not None:
                chosen = labelled[places(step, len(labelled), keys.LABELLED)][rows]
                batch |= {name: train[where][chosen] for name, where in LABELLED.items()}
            return batch
        except UserError as error:  # grain would wrap it
            return error

    batch_bytes = (
        batch_size * int(np.prod(train["image"].shape[1:])) * train["image"].dtype.itemsize
    )
    ahead = max(2, min(_AHEAD // batch_bytes, 500))
    # For small images, more threads would only wait for Python's lock.
    threads = 2 if data.is_small(train["image"].shape[1:]) else os.cpu_count()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    for batch in grain.MapDataset.range(first_step, last_step).map(read).to_iter_dataset(options):
        if isinstance(batch, UserError):
            raise batch
        yield batch
