"""Times of functions, and medians with their spread."""

import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

PRODUCT = 2_000, 784, 2_000  # rows × inner × columns of a product that runs at the machine's rate


def seconds(
    function: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    """The time of one call, until its arrays are ready."""
    start = clock()
    jax.block_until_ready(function())
    return clock() - start


def interleaved(
    functions: dict[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times of several functions in turn, after one call each that is not counted.

    Machines drift, so only numbers from the same rounds can be compared. `time.process_time` adds up
    the seconds of all cores: other work on the machine changes these less.
    """
    for function in functions.values():
        seconds(function)
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(seconds(function, clock))
    return times


def median_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """The median, and half the range between the quartiles; None for a single value."""
    if len(values) == 1:
        return values[0], None
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, (high - low) / 2


def repeat(function: Callable[..., object], times: int, *arguments: object) -> object:
    """Repeats a function that is too short to be timed alone; returns the last result."""
    for _ in range(times - 1):
        function(*arguments)
    return function(*arguments)


def matrix_product(rows: int, inner: int, columns: int) -> Callable[[], object]:
    """A float32 matrix product, as a reference for the times of other functions."""
    key = jax.random.key(0)
    a = jax.random.normal(key, (rows, inner), jnp.float32)
    b = jax.random.normal(key, (inner, columns), jnp.float32)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST))
    return lambda: product(a, b)
