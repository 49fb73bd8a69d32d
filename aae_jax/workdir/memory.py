"""Memory: an estimate before the training, and a one-line error if a model does not fit."""

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from aae_jax.config import parse_config
from aae_jax.errors import UserError
from aae_jax.settings import Settings
from aae_jax.train_state import create_train_state


def device_bytes() -> int | None:
    """The memory of a device, for a CPU the machine's; None if it is unknown."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def estimate(settings: Settings) -> dict[str, int]:
    """The bytes that a training keeps on each device, found by tracing.

    Args:
        settings: a whole config.

    Returns:
        "parameters", "moments" of the optimisers and "averages" of all seeds; "batch" of images.
        A step's intermediate values are not counted.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: create_train_state(settings.spec, key), key)
    parts = {
        "parameters": state.params,
        "moments": state.opt_state,
        "averages": state.ema_params,
    }
    found = {
        name: settings.num_seeds * sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
        for name, leaves in ((name, jax.tree.leaves(tree)) for name, tree in parts.items())
    }
    spec = settings.spec
    itemsize = np.dtype(spec.model.param_dtype).itemsize
    return {**found, "batch": spec.train.batch_size * math.prod(spec.image_shape) * itemsize}


def check(settings: Settings, num_copies: int) -> None:
    """Raises if the parameters and moments of a model alone exceed the memory.

    Args:
        settings: a whole config.
        num_copies: copies in one memory: the number of CPU devices, otherwise 1.
    """
    found, most = estimate(settings), device_bytes()
    state = num_copies * (found["parameters"] + found["moments"])
    if most is not None and state > most:
        raise UserError(
            f"the model does not fit into memory: {_shown(found)}"
            + (f", on each of {num_copies} CPU devices" if num_copies > 1 else "")
            + f", but there are {_size(most)}; make the networks smaller (model.*_hidden, "
            "model.conv_channels)"
        )


@contextlib.contextmanager
def reported(config: Any) -> Iterator[None]:
    """Turns an out-of-memory error into one line with the estimate."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        most = device_bytes()
        there = "" if most is None else f" of {_size(most)}"
        first = (str(error).splitlines() or ["MemoryError"])[0][:150]
        raise UserError(
            f"the memory{there} has run out ({first}): {_shown(estimate(parse_config(config)))}, "
            "plus the images and a step's intermediate values; try a smaller train.batch_size, "
            "smaller networks (model.*), or --config.run.stream=True; checkpoints are kept"
        ) from error


def _shown(found):
    return ", ".join(f"{name} {_size(size)}" for name, size in found.items() if size)


def _size(size):
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
