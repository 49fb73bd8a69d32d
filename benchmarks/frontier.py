"""The likelihood of trained models against the number of samples, from 1,000 to ten million.

    python -m benchmarks.frontier --workdir=runs/mnist-smooth --workdir=runs/mnist \\
        [--num_samples=10_000_000] [--figure=frontier.png]

The protocol of Table 1 at every power of ten, on the samples of `--mode=evaluate`: σ is chosen on
validation images with the same number of samples, and all test images are scored with it. Fewer
samples are the first of more.
"""

import dataclasses
import json
import os
import sys
import time

import jax
import matplotlib.figure
from absl import app, flags, logging

import aae_jax as aae
from aae_jax import data, evaluation, experiment, figures, records
from aae_jax.spec import parse_config
from benchmarks import machine

_WORKDIRS = flags.DEFINE_multi_string("workdir", None, "Of a finished run; may be repeated.")
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 10_000_000, "Most samples; rounded down to a power of ten.", lower_bound=1_000
)
_FIGURE = flags.DEFINE_string("figure", None, "PNG to draw the curves into.")
flags.mark_flag_as_required("workdir")

KEPT = (
    "num_samples",
    "log_likelihood",
    "standard_error",
    "sigma",
    "validation_log_likelihood",
    "sigma_on_grid_edge",
)


def score(workdir, state, sizes):
    """For each number of samples: nats, ±, σ, and whether that lies on the edge of the grid."""
    settings = parse_config(records.read_json(os.path.join(workdir, "config.json")))
    dataset = data.load(settings.data)
    key = jax.random.fold_in(jax.random.key(settings.seed), 1)
    rows = []
    for size in sizes:
        start = time.monotonic()
        spec = dataclasses.replace(settings.evaluation, num_samples=size)
        found = evaluation.evaluate(state, dataset.folds, spec, key, aae.make_mesh())
        row = {name: found[f"parzen/{name}"] for name in KEPT}
        rows.append(row | {"seconds": time.monotonic() - start})
        edge = ", on the grid's edge" if row["sigma_on_grid_edge"] else ""
        print(
            f"{size:>10} {row['log_likelihood']:8.1f} ± {row['standard_error']:.1f} nats, "
            f"σ {row['sigma']:.3f}{edge}, {rows[-1]['seconds']:.0f} s",
            flush=True,
        )
    return rows


def draw(curves, path):
    """Nats over the number of samples, a line a run; the paper's two numbers as points."""
    figure = matplotlib.figure.Figure(figsize=(5.5, 3.6))
    axes = figure.subplots()
    for workdir, rows in curves.items():
        axes.errorbar(
            [row["num_samples"] for row in rows],
            [row["log_likelihood"] for row in rows],
            yerr=[row["standard_error"] for row in rows],
            marker="o",
            markersize=4,
            label=os.path.basename(os.path.normpath(workdir)),
        )
    axes.plot([10_000, 10_000_000], [340, 427], "kx", label="the paper's Table 1")
    axes.set_xscale("log")
    axes.set_xlabel("samples")
    axes.set_ylabel("test log-likelihood, nats")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figures.save(figure, os.path.abspath(path))


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)
    report = machine.describe()
    for name, value in report.items():
        print(f"{name:12} {value}")
    sizes = [10**p for p in range(3, 20) if 10**p <= _NUM_SAMPLES.value]
    try:  # all of them before the first is scored, which takes long
        states = {workdir: experiment.load_state(workdir) for workdir in _WORKDIRS.value}
    except aae.UserError as error:
        sys.exit(f"error: {error}")
    curves = {}
    for workdir, state in states.items():
        print(workdir, flush=True)
        curves[workdir] = score(workdir, state, sizes)
        print(json.dumps({workdir: curves[workdir]}), flush=True)
    if _FIGURE.value is not None:
        draw(curves, _FIGURE.value)


if __name__ == "__main__":
    app.run(main)
