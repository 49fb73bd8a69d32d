"""A training step of the MNIST model compared with its parts, and a run's share outside the steps.

    python -m benchmarks.train_step [--batch_sizes=100,1000,10000] [--repeats=7]

A part is a necessary matrix product or an optimiser's update, compiled and timed alone at the
shapes of the step, in the same rounds as the step. The sum of the parts is the roofline: the time
of a step without any other work, if every part ran as fast as alone. Products include each
network's forward pass once for the same parameters and input (discriminator and generator share the
codes of the updated encoder), and the backward products that the trained parameters need. Not
included are activations, losses, noise, shuffling, and gathering the batch.
"""

import contextlib
import functools
import io
import json
import math
import os
import tempfile
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

import aae_jax as aae
from aae_jax import data, experiment
from aae_jax.config import parse_config
from aae_jax.optimizers import make_phase_optimizer
from benchmarks import inputs, timing, work
from benchmarks.report import Report
from experiments import digits, mnist

_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", ["100", "1000", "10000"], "Batch sizes of the table."
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 7, "Rounds, in which everything is timed in turn.", lower_bound=1
)
_OUTSIDE = flags.DEFINE_bool("outside", True, "Time whole runs of the launcher's loop as well.")
_CPU_SECONDS = flags.DEFINE_bool(
    "cpu_seconds", False, "Time steps and parts by CPU seconds: for a machine with other work."
)

ROWS = 10_000  # of a timed call: steps × batch size
REPEATS_OF_A_PART = 10


class Part(NamedTuple):
    """A computation that a step runs `count` times."""

    count: int
    work: float  # operations, of a product
    traffic: float  # bytes read and written, counted once each
    function: object


def update(state, phase):
    """An optimiser's update of the networks of one phase, in place."""
    optimizer = make_phase_optimizer(state.spec, phase)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def apply(params, opt_state, grads):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    own = jax.tree.map(jnp.copy, {name: state.params[name] for name in phase.trains})
    held = [own, jax.tree.map(jnp.copy, state.opt_state[phase.name])]
    grads = jax.tree.map(lambda value: 1e-3 * jnp.ones_like(value), own)

    def function():
        held[:] = apply(*held, grads)
        return held

    return function, sum(value.nbytes for value in jax.tree.leaves(own))


def averaging(state):
    """The running averages of encoder and decoder, in place."""

    @functools.partial(jax.jit, donate_argnums=0)
    def apply(ema_params, params):
        return optax.incremental_update(params, ema_params, 1e-3)

    held = [jax.tree.map(jnp.copy, state.ema_params)]
    params = {name: state.params[name] for name in state.ema_params}

    def function():
        held[:] = [apply(*held, params)]
        return held

    return function, sum(value.nbytes for value in jax.tree.leaves(params))


def parts(state):
    """Name → part of a step."""
    batch_size = state.spec.train.batch_size
    found = {
        f"{m} × {k} × {n}": Part(
            count,
            2 * m * k * n,
            4 * (m * k + k * n + m * n),
            timing.matrix_product(m, k, n),
        )
        for (m, k, n), count in work.products(state.spec, batch_size).items()
    }
    for phase in state.spec.algorithm.phases:
        function, size = update(state, phase)
        found[f"Adam, {phase.name}"] = Part(1, 0, work.UPDATE_PASSES * size, function)
    if state.ema_params is not None:
        function, size = averaging(state)
        found["averages"] = Part(1, 0, work.AVERAGE_PASSES * size, function)
    return found


def roofline(batch_size, repeats):
    """Rows for one batch size: the parts, and the step with their sum and the machine's rates."""
    config = mnist.get_config()
    config.train.batch_size = batch_size
    spec = aae.spec_from_config(config)
    state = aae.create_train_state(spec, jax.random.key(0))
    dataset = inputs.random_dataset(50_000, spec.image_shape)
    steps = max(1, ROWS // batch_size)
    own = parts(state)
    added = [jnp.zeros(2**24, jnp.float32)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def in_place():
        added[:] = [add(*added)]
        return added

    # A small part is timed several times over, as one call would be mostly dispatch.
    times = timing.interleaved(
        {
            "step": lambda: aae.train_steps(state, dataset, steps),
            "fastest product": timing.matrix_product(*timing.PRODUCT),
            "in place": in_place,
            **{
                name: functools.partial(timing.repeat, part.function, REPEATS_OF_A_PART)
                for name, part in own.items()
            },
        },
        repeats,
        time.process_time if _CPU_SECONDS.value else time.perf_counter,
    )
    step = np.array(times["step"]) / steps
    rate = 2 * math.prod(timing.PRODUCT) / np.array(times["fastest product"])
    bandwidth = 2 * added[0].nbytes / np.array(times["in place"])
    alone = {
        name: part.count * np.array(times[name]) / REPEATS_OF_A_PART for name, part in own.items()
    }
    rows = []
    for name, part in own.items():
        floor = part.count * np.maximum(
            part.work / rate, (part.work == 0) * part.traffic / bandwidth
        )
        gflop, megabytes = part.count * part.work / 1e9, part.count * part.traffic / 1e6
        floor, own_time = (timing.median_and_spread(1e3 * value) for value in (floor, alone[name]))
        rows.append((name, part.count, gflop, megabytes, floor, own_time))
    total = sum(alone.values())
    total_work = sum(part.count * part.work for part in own.values())
    found = {
        "ms a step": 1e3 * step,
        "sum of the parts, ms": 1e3 * total,
        "share of the roofline": total / step,
        "GFLOP/s of the step": total_work / step / 1e9,
        f"GFLOP/s of a product {'×'.join(map(str, timing.PRODUCT))}": rate / 1e9,
        "GB/s of adding 1 to 64 MB in place": bandwidth / 1e9,
    }
    return rows, {name: timing.median_and_spread(values) for name, values in found.items()}


def outside():
    """Compares a run of the launcher's training loop with the same steps in `train_steps` alone.

    The digits' images with the MNIST widths: the loop's own work (metrics, TensorBoard, progress,
    checkpoints) does not depend on the images.
    """
    config = inputs.set_widths(digits.get_config(), 1_000)
    config.train.num_steps = 1_000
    settings = parse_config(config)
    state = aae.create_train_state(settings.spec, jax.random.key(0))
    dataset = {name: jnp.asarray(value) for name, value in data.load(settings.data).train.items()}
    size = settings.run.steps_per_dispatch
    shares = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as workdir:
            with contextlib.redirect_stdout(io.StringIO()):
                experiment.run(config, workdir, "train")
            with open(os.path.join(workdir, "metrics.jsonl")) as file:
                lines = [json.loads(line) for line in file]
        # From the first line on: the first dispatch holds the compilation.
        steps = lines[-1]["step"] - lines[0]["step"]
        loop = (lines[-1]["seconds"] - lines[0]["seconds"]) / steps
        alone = timing.interleaved({"": lambda: aae.train_steps(state, dataset, size)}, 3)[""]
        shares.append(1 - np.median(alone) / size / loop)
    return {"share of a run outside train_steps": timing.median_and_spread(shares)}


def main(argv):
    del argv
    report = Report()
    for batch_size in map(int, _BATCH_SIZES.value):
        rows, found = roofline(batch_size, _REPEATS.value)
        columns = "part", "count", "GFLOP", "MB", "floor, ms", "alone, ms"
        report.table(f"batch {batch_size}", columns, rows)
        report.values({f"batch {batch_size}: {name}": value for name, value in found.items()})
    if _OUTSIDE.value:
        report.values(outside())
    report.end()


if __name__ == "__main__":
    app.run(main)
