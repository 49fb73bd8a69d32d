"""A training step of the MNIST model beside its parts, and the share of a run spent outside it.

    python -m benchmarks.train_step [--batch_sizes=100,1000,10000] [--repeats=7]

A part is a matrix product that the step can't do without, or an optimiser's update, compiled and
timed alone at the shapes of the step, in the same rounds as the step. Their sum is the roofline:
what the step would take if nothing else cost anything and every part ran as fast as it does alone.
Products: each network's forward pass once where its parameters and input are the same (the codes of
the updated encoder serve the discriminator and the generator), and of the backward passes what the
trained parameters need. Left out of the roofline: activations, losses, noise, shuffling, the
gathering of the batch.
"""

import collections
import contextlib
import functools
import io
import json
import os
import tempfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging

import aae_jax as aae
from aae_jax import data, experiment, networks, phases
from benchmarks import machine
from experiments import digits, mnist

_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["100", "1000", "10000"], "Of the table.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Rounds, in which everything is timed in turn.")
_OUTSIDE = flags.DEFINE_bool("outside", True, "Time whole runs of the launcher's loop as well.")

ROWS = 10_000  # of a timed call: steps × batch size
REPEATS_OF_A_PART = 10


class Part(NamedTuple):
    """Something that a step does `count` times."""

    count: int
    work: float  # operations, of a product
    traffic: float  # bytes read and written, counted once each
    function: object


def layers(spec, name):
    """[(inputs, outputs)] of a network's layers."""
    shape = jax.eval_shape(lambda: networks.init(spec, jax.random.key(0), {name}))
    return [shape[name][f"Dense_{i}"]["kernel"].shape for i in range(len(shape[name]))]


def products(spec, batch_size):
    """Counter of (m, k, n), the products of one step."""
    found = collections.Counter()

    def forward(name, rows):
        for inputs, outputs in layers(spec, name):
            found[rows, inputs, outputs] += 1

    def backward(name, rows, to_weights, to_inputs):
        for index, (inputs, outputs) in enumerate(layers(spec, name)):
            if to_weights:
                found[inputs, rows, outputs] += 1
            if index > 0 or to_inputs:
                found[rows, outputs, inputs] += 1

    forward("encoder", batch_size)
    forward("decoder", batch_size)
    backward("decoder", batch_size, to_weights=True, to_inputs=True)
    backward("encoder", batch_size, to_weights=True, to_inputs=False)
    forward("encoder", batch_size)  # updated
    forward("discriminator", 2 * batch_size)
    backward("discriminator", 2 * batch_size, to_weights=True, to_inputs=False)
    forward("discriminator", batch_size)  # updated
    backward("discriminator", batch_size, to_weights=False, to_inputs=True)
    backward("encoder", batch_size, to_weights=True, to_inputs=False)
    return found


def product(m, k, n):
    """Timed a few times over, as one call would be mostly dispatch where it is small."""
    single = machine.matrix_product(m, k, n)

    def function():
        for _ in range(REPEATS_OF_A_PART - 1):
            single()
        return single()

    return function


def update(state, phase):
    """An optimiser's update of the networks of one phase, in place."""
    optimizer = phases.make_optimizer(state.spec, phase.name)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def apply(params, opt_state, grads):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    own = jax.tree.map(jnp.copy, {name: state.params[name] for name in phase.trains})
    held = [own, jax.tree.map(jnp.copy, state.opt_state[phase.name])]
    grads = jax.tree.map(lambda value: 1e-3 * jnp.ones_like(value), own)

    def function():
        for _ in range(REPEATS_OF_A_PART):
            held[:] = apply(*held, grads)
        return held

    return function, sum(value.nbytes for value in jax.tree.leaves(own))


def averaging(state):
    """The running averages of encoder and decoder, in place."""

    @functools.partial(jax.jit, donate_argnums=0)
    def apply(average, params):
        return optax.incremental_update(params, average, 1e-3)

    held = [jax.tree.map(jnp.copy, state.average)]
    params = {name: state.params[name] for name in state.average}

    def function():
        for _ in range(REPEATS_OF_A_PART):
            held[:] = [apply(*held, params)]
        return held

    return function, sum(value.nbytes for value in jax.tree.leaves(params))


def parts(state):
    """Name → part of a step."""
    batch_size = state.spec.train.batch_size
    found = {
        f"{m} × {k} × {n}": Part(
            count, 2 * m * k * n, 4 * (m * k + k * n + m * n), product(m, k, n)
        )
        for (m, k, n), count in products(state.spec, batch_size).items()
    }
    for phase in phases.ALGORITHMS[state.spec.algorithm]:
        function, size = update(state, phase)
        # Reads parameters, gradients and two moments; writes all but the gradients.
        found[f"Adam, {phase.name}"] = Part(1, 0, 7 * size, function)
    if state.average is not None:
        function, size = averaging(state)
        found["averages"] = Part(1, 0, 3 * size, function)
    return found


def roofline(batch_size, repeats):
    """One batch size: the step, its parts, and the machine's rates."""
    config = mnist.get_config()
    config.train.batch_size = batch_size
    spec = aae.spec_from_config(config)
    state = aae.create_train_state(spec, jax.random.key(0))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50_000, *spec.image_shape), dtype=np.uint8)
    dataset = {"image": jnp.asarray(images), "label": jnp.zeros(50_000, jnp.int32)}
    steps = max(1, ROWS // batch_size)
    own = parts(state)
    added = [jnp.zeros(2**24, jnp.float32)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def in_place():
        added[:] = [add(*added)]
        return added

    times = machine.interleaved(
        {
            "step": lambda: aae.train_steps(state, dataset, steps),
            "fastest product": machine.matrix_product(2_000, 784, 2_000),
            "in place": in_place,
            **{name: part.function for name, part in own.items()},
        },
        repeats,
    )
    step = np.array(times["step"]) / steps
    rate = 2 * 2_000 * 784 * 2_000 / np.array(times["fastest product"])
    bandwidth = 2 * added[0].nbytes / np.array(times["in place"])
    alone = {
        name: part.count * np.array(times[name]) / REPEATS_OF_A_PART for name, part in own.items()
    }
    rows = {}
    for name, part in own.items():
        floor = part.count * np.maximum(
            part.work / rate, (part.work == 0) * part.traffic / bandwidth
        )
        rows[name] = {
            "count": part.count,
            "GFLOP": part.count * part.work / 1e9,
            "MB": part.count * part.traffic / 1e6,
            "floor": machine.median_and_spread(list(1e3 * floor)),
            "alone": machine.median_and_spread(list(1e3 * alone[name])),
        }
    total = sum(alone.values())
    return {
        "batch_size": batch_size,
        "ms a step": machine.median_and_spread(list(1e3 * step)),
        "sum of the parts, ms": machine.median_and_spread(list(1e3 * total)),
        "share of the roofline": machine.median_and_spread(list(total / step)),
        "GFLOP/s of the step": machine.median_and_spread(
            list(sum(part.count * part.work for part in own.values()) / step / 1e9)
        ),
        "GFLOP/s of a 2000×784×2000 product": machine.median_and_spread(list(rate / 1e9)),
        "GB/s of adding 1 to 64 MB in place": machine.median_and_spread(list(bandwidth / 1e9)),
        "parts": rows,
    }


def outside():
    """A run of the launcher's training loop against the same steps in `train_steps` alone.

    The digits' images with the MNIST widths: the loop's own work (metrics, TensorBoard, progress,
    checkpoints) does not depend on the images.
    """
    config = digits.get_config()
    for network in ("encoder", "decoder", "discriminator"):
        config.model[f"{network}_hidden"] = (1_000, 1_000)
    config.train.num_steps = 1_000
    spec = aae.spec_from_config(config)
    state = aae.create_train_state(spec, jax.random.key(0))
    settings = experiment.parse_config(config)
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
        alone = np.median(machine.interleaved(
            {"alone": lambda: aae.train_steps(state, dataset, size)}, 3
        )["alone"]) / size  # fmt: skip
        shares.append(1 - alone / loop)
    middle, spread = machine.median_and_spread(shares)
    return {"share of a run outside train_steps": middle, "± of the share": spread}


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)  # orbax narrates
    report = machine.describe()
    for name, value in report.items():
        print(f"{name:12} {value}")
    for batch_size in map(int, _BATCH_SIZES.value):
        found = report[f"batch {batch_size}"] = roofline(batch_size, _REPEATS.value)
        print(f"\nbatch {batch_size}\n{'part':28} {'count':>5} {'GFLOP':>8} {'MB':>8} "
              f"{'floor, ms':>10} {'alone, ms':>16}")  # fmt: skip
        for name, row in found["parts"].items():
            alone, spread = row["alone"]
            print(
                f"{name:28} {row['count']:5} {row['GFLOP']:8.3f} {row['MB']:8.1f} "
                f"{row['floor'][0]:10.3f} {alone:9.3f} ± {spread:.3f}"
            )
        for name, value in found.items():
            if isinstance(value, tuple):
                print(f"{name:45} {value[0]:.4g} ± {value[1]:.2g}")
    if _OUTSIDE.value:
        report.update(outside())
        for name in ("share of a run outside train_steps", "± of the share"):
            print(f"{name:45} {report[name]:.4g}")
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main)
