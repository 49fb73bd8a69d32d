"""The share of time in which the device waits for the host, and memory."""

import jax
import numpy as np

from benchmarks import timing
from benchmarks.accelerator import models
from benchmarks.report import markdown


def run(setup: models.Setup) -> None:
    """Prints two tables."""
    many, few = setup.call
    calls, spec = many // few, models.aae_spec(setup.hidden, products=setup.usual)
    state = models.create(spec)
    whole, part = (models.steps(setup, spec, number, setup.usual) for number in setup.call)

    def queued():
        found = state
        for _ in range(calls):
            found, _ = part(found)
        return found.params

    def looked_at():
        """As in a run: each call's metrics reach the host before the next call."""
        found = state
        for _ in range(calls):
            found, metrics = part(found)
            jax.device_get(metrics)
        return found.params

    names = {
        "one call": lambda: whole(state)[0].params,
        f"{calls} calls, queued": queued,
        f"{calls} calls, metrics fetched after each": looked_at,
    }
    times = timing.interleaved(names, setup.size(5, 3))
    alone = np.array(times["one call"])
    markdown(
        f"{many:,} steps, batch 100. *Waiting*: what is longer than one call",
        ("how", "seconds", "waiting, share"),
        (
            (name, timing.median_and_spread(found), np.median(1 - alone / np.array(found)))
            for name, found in times.items()
        ),
    )
    markdown("Memory, MB", ("", "MB"), memory(whole.compiled))


def memory(compiled):
    """The memory of the compiled steps, and the device's peak in this process so far."""
    found = compiled.memory_analysis()
    for name in ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes"):
        value = getattr(found, name, None)
        if value is not None:
            yield f"one call, {name.split('_')[0]}", value / 1e6
    statistics = jax.devices()[0].memory_stats() or {}
    for name in ("peak_bytes_in_use", "bytes_limit"):
        value = statistics.get(name)
        yield f"device, {name}", "not counted" if value is None else value / 1e6
