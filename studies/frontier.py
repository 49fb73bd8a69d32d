"""The likelihood of trained models against the number of samples, from 1,000 to ten million.

    python -m studies.frontier --workdir=runs/mnist-smooth --workdir=runs/mnist \\
        [--num_samples=10_000_000] [--figure=frontier.png]

The protocol of Table 1 at every power of ten, on the samples of `--mode=evaluate`. For each number
of samples, validation images choose σ, and all test images are scored. Smaller numbers use the
first of the samples.
"""

import dataclasses
import os
import sys
import time

import jax
import matplotlib.figure
from absl import app, flags

import aae_jax as aae
from aae_jax import figures
from benchmarks.report import Report
from studies import runs

_WORKDIRS = flags.DEFINE_multi_string(
    "workdir", None, "Directory of a finished run; may be repeated."
)
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 10_000_000, "Most samples; rounded down to a power of ten.", lower_bound=1_000
)
_FIGURE = flags.DEFINE_string("figure", None, "PNG to draw the curves into.")
flags.mark_flag_as_required("workdir")

COLUMNS = "samples", "nats", "±", "σ", "on the grid's edge", "validation nats", "s"


def scores(run, sizes):
    """A row of `COLUMNS` for each number of samples."""
    key = jax.random.fold_in(jax.random.key(run.settings.seed), 1)
    sampler, mesh = aae.sampler(run.state), aae.make_mesh()
    for size in sizes:
        start = time.monotonic()
        spec = dataclasses.replace(run.settings.evaluation, num_samples=size)
        found = aae.evaluate(sampler, run.dataset.folds, spec, key, mesh)
        yield (
            f"{size:,}",
            found["parzen/log_likelihood"],
            found["parzen/standard_error"],
            found["parzen/sigma"],
            "yes" if found["parzen/sigma_on_grid_edge"] else "no",
            found["parzen/validation_log_likelihood"],
            time.monotonic() - start,
        )


def draw(curves, path):
    """Draws nats over the number of samples, one line per run, with the paper's two numbers."""
    figure = matplotlib.figure.Figure(figsize=(6.5, 4.2))
    axes = figure.subplots()
    for workdir, rows in curves.items():
        axes.errorbar(
            [int(row["samples"].replace(",", "")) for row in rows],
            [row["nats"] for row in rows],
            yerr=[row["±"] for row in rows],
            marker="o",
            markersize=4,
            label=os.path.basename(os.path.normpath(workdir)),
        )
    style = {"marker": "x", "color": "black", "s": 80, "zorder": 3}  # above the curves
    axes.scatter([10_000, 10_000_000], [340, 427], **style, label="the paper's Table 1")
    axes.set_xscale("log")
    axes.set_xlabel("samples")
    axes.set_ylabel("test log-likelihood, nats")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figures.save(figure, os.path.abspath(path))


def main(argv):
    del argv
    report = Report()
    sizes = [10**p for p in range(3, 20) if 10**p <= _NUM_SAMPLES.value]
    try:  # all of them before the first is scored, which takes long
        models = {workdir: runs.load(workdir) for workdir in _WORKDIRS.value}
    except aae.UserError as error:
        sys.exit(f"error: {error}")
    for workdir, run in models.items():
        report.table(workdir, COLUMNS, scores(run, sizes))
    if _FIGURE.value is not None:
        draw({workdir: report.found[workdir] for workdir in models}, _FIGURE.value)
    report.end()


if __name__ == "__main__":
    app.run(main)
