"""Milliseconds a training step against width, size of the code, batch and number of seeds.

    python -m benchmarks.scaling [--sweeps=width,code,batch,seeds] [--repeats=5]

The MNIST model, one thing changed at a time. Beside each time the line that fits its sweep best
(least squares of the relative error): a + b·(parameters), code size, examples of a batch or members
of an ensemble (vmap). Where the line misses, the cost bends.
"""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import aae_jax as aae
from aae_jax import ensemble
from benchmarks import machine
from experiments import mnist

_SWEEPS = flags.DEFINE_list("sweeps", ["width", "code", "batch", "seeds"], "Which.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds, in which a sweep is timed in turn.")

SWEEPS = {
    "width": (500, 1_000, 2_000, 4_000, 8_000),
    "code": (2, 8, 32, 128, 512),
    "batch": (25, 50, 100, 200, 400, 1_000, 4_000),
    "seeds": (1, 2, 4, 8),
}
LEAST_SECONDS = 0.5  # of a timed call


def step_of(sweep, value, dataset):
    """A function of the number of steps, and what the fitted line is over."""
    config = mnist.get_config()
    seeds = 1
    if sweep == "width":
        for network in ("encoder", "decoder", "discriminator"):
            config.model[f"{network}_hidden"] = (value, value)
    elif sweep == "code":
        config.model.code_dim = value
    elif sweep == "batch":
        config.train.batch_size = value
    else:
        seeds = value
    spec = aae.spec_from_config(config)
    if seeds > 1:
        state = ensemble.create(spec, jax.random.split(jax.random.key(0), seeds))
        dataset = {**dataset, "label": jnp.stack([dataset["label"]] * seeds)}
        return lambda steps: ensemble.train(state, dataset, steps), value
    state = aae.create_train_state(spec, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return lambda steps: aae.train_steps(state, dataset, steps), size if sweep == "width" else value


def fitted(x, y):
    """a and b of a + b·x, by the least squares of its relative error."""
    design = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    return np.linalg.lstsq(design, np.ones_like(y), rcond=None)[0]


def measure(sweep, dataset, repeats):
    """Rows (value, ms, ±, fitted ms) of one sweep, and the line."""
    functions, over, steps = {}, {}, {}
    for value in SWEEPS[sweep]:
        run, over[value] = step_of(sweep, value, dataset)
        machine.seconds(lambda run=run: run(1))
        once = machine.seconds(lambda run=run: run(1))
        steps[value] = max(4, math.ceil(LEAST_SECONDS / once))  # a call copies the state once
        functions[value] = lambda run=run, n=steps[value]: run(n)
    times = machine.interleaved(functions, repeats)
    found = {
        value: machine.median_and_spread([1e3 * t / steps[value] for t in times[value]])
        for value in functions
    }
    x = np.array([over[value] for value in functions], float)
    a, b = fitted(x, np.array([found[value][0] for value in functions]))
    rows = [(value, *found[value], a + b * over[value]) for value in functions]
    return {"rows": rows, "a, ms": a, "b, ms": b}


def main(argv):
    del argv
    report = machine.describe()
    for name, value in report.items():
        print(f"{name:12} {value}")
    images = np.random.default_rng(0).integers(0, 256, (10_000, 28, 28, 1), dtype=np.uint8)
    dataset = {"image": jnp.asarray(images), "label": jnp.zeros(10_000, jnp.int32)}
    for sweep in _SWEEPS.value:
        found = report[sweep] = measure(sweep, dataset, _REPEATS.value)
        print(
            f"\n{sweep:>8} {'ms a step':>18} {'line':>10}   ({found['a, ms']:.3g} + {found['b, ms']:.3g}·x)"
        )
        for value, middle, spread, line in found["rows"]:
            print(f"{value:8} {middle:10.2f} ± {spread:5.2f} {line:10.2f}")
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main)
