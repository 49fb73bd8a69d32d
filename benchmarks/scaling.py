"""Milliseconds per training step by width, size of the code, batch and number of seeds.

    python -m benchmarks.scaling [--sweeps=width,code,batch,seeds] [--repeats=5]

The MNIST model, with one quantity changed at a time: parameters, size of the code, examples of a
batch, or seeds in one program (vmap). Each time is compared with the line a + b·x that fits its
sweep best (least squares of the relative error). A cost that differs from its line is not linear.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import aae_jax as aae
from aae_jax import multi_seed
from benchmarks import inputs, timing
from benchmarks.report import Report
from experiments import mnist

_SWEEPS = flags.DEFINE_list("sweeps", ["width", "code", "batch", "seeds"], "Which.")
_REPEATS = flags.DEFINE_integer(
    "repeats", 5, "Rounds, in which a sweep is timed in turn.", lower_bound=1
)

SWEEPS = {
    "width": (500, 1_000, 2_000, 4_000, 8_000),
    "code": (2, 8, 32, 128, 512),
    "batch": (25, 50, 100, 200, 400, 1_000, 4_000),
    "seeds": (1, 2, 4, 8),
}
LEAST_SECONDS = 0.5  # of a timed call


def step_of(sweep, value, dataset):
    """A function of the number of steps, and the x of the fitted line."""
    config = mnist.get_config()
    seeds = 1
    if sweep == "width":
        inputs.set_widths(config, value)
    elif sweep == "code":
        config.model.code_dim = value
    elif sweep == "batch":
        config.train.batch_size = value
    else:
        seeds = value
    spec = aae.spec_from_config(config)
    if seeds > 1:
        state = multi_seed.create(spec, jax.random.split(jax.random.key(0), seeds))
        dataset = {**dataset, "label": jnp.stack([dataset["label"]] * seeds)}
        return lambda steps: multi_seed.train(state, dataset, steps), value
    state = aae.create_train_state(spec, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return lambda steps: aae.train_steps(state, dataset, steps), size if sweep == "width" else value


def fitted(x, y):
    """a and b of a + b·x, by least squares of the relative error."""
    design = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    return np.linalg.lstsq(design, np.ones_like(y), rcond=None)[0]


def measure(sweep, dataset, repeats):
    """Rows (value, ms, fitted ms) of one sweep, and the line's a and b."""
    functions, over, steps = {}, {}, {}
    for value in SWEEPS[sweep]:
        run, over[value] = step_of(sweep, value, dataset)
        timing.seconds(lambda run=run: run(1))
        once = timing.seconds(lambda run=run: run(1))
        steps[value] = max(4, math.ceil(LEAST_SECONDS / once))  # a call copies the state once
        functions[value] = lambda run=run, n=steps[value]: run(n)
    times = timing.interleaved(functions, repeats)
    found = {
        value: timing.median_and_spread([1e3 * t / steps[value] for t in times[value]])
        for value in functions
    }
    x = np.array([over[value] for value in functions], float)
    a, b = fitted(x, np.array([found[value][0] for value in functions]))
    return [(f"{value:,}", found[value], a + b * over[value]) for value in functions], (a, b)


def main(argv):
    del argv
    report = Report()
    dataset = inputs.random_dataset(10_000)
    for sweep in _SWEEPS.value:
        rows, (a, b) = measure(sweep, dataset, _REPEATS.value)
        report.table(sweep, (sweep, "ms a step", "line"), rows)
        report.values({f"{sweep}: a, ms": a, f"{sweep}: b, ms": b})
    report.end()


if __name__ == "__main__":
    app.run(main)
