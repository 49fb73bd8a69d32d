"""What a benchmark ran on, and medians with their spread."""

import os
import platform
import statistics
import time
from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import optax


def describe() -> dict[str, str]:
    """Machine and versions, for the head of every table."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        processor = names[0] if names else processor
    except OSError:
        pass
    return {
        "processor": f"{processor}, {os.cpu_count()} cores",
        "devices": ", ".join(device.device_kind for device in jax.devices()),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
    }


def seconds(function: Callable[[], object]) -> float:
    """Time of one call, its arrays awaited."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def interleaved(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Times of several functions taken in turn, after one call each that is not counted.

    These machines drift: only numbers from the same rounds can be compared.
    """
    for function in functions.values():
        seconds(function)
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(seconds(function))
    return times


def median_and_spread(values: list[float]) -> tuple[float, float]:
    """Median, and half the range between the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, (high - low) / 2


def matrix_product(rows: int, inner: int, columns: int) -> Callable[[], object]:
    """A float32 matrix product, to be timed beside what is made of products."""
    key = jax.random.key(0)
    a = jax.random.normal(key, (rows, inner), jnp.float32)
    b = jax.random.normal(key, (inner, columns), jnp.float32)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST))
    return lambda: product(a, b)
