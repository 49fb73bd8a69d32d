"""The likelihood of trained models against the number of samples, from 1,000 to ten million.

    python -m benchmarks.frontier --workdir=runs/mnist-smooth --workdir=runs/mnist \\
        [--num_samples=10_000_000] [--figure=frontier.png]

The protocol of Table 1 at every power of ten: σ by validation images with as many samples, all test
images scored with it. The samples are those of `--mode=evaluate`, and fewer of them are the first
of more, so that one pass over validation images and one over test images give all numbers.
"""

import json
import os
import time

import jax
import matplotlib.figure
import numpy as np
from absl import app, flags, logging

from aae_jax import data, evaluation, experiment, figures, parzen, records
from aae_jax.spec import parse_config
from benchmarks import machine

_WORKDIRS = flags.DEFINE_multi_string("workdir", None, "Of a finished run; may be repeated.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 10_000_000, "Most samples.", lower_bound=1_000)
_FIGURE = flags.DEFINE_string("figure", None, "PNG to draw the curves into.")
flags.mark_flag_as_required("workdir")

DISPATCH = 100  # chunks of samples in a call


def curve(state, images, key, sizes, sigmas, label):
    """Log-likelihoods f64[S, T] under the first N samples, for each N of `sizes`, by N.

    The sums that a pass ends with are those of its last N; on its way it has those of the others.
    """
    sums_at, start = {}, time.monotonic()

    def run(one_pass):
        sums, done = one_pass.empty, 0
        for size in sizes:
            while done < size // parzen.CHUNK:
                count = min(DISPATCH, size // parzen.CHUNK - done)
                sums = jax.block_until_ready(one_pass.add(sums, done, done + count))
                done += count
            sums_at[size] = sums
            print(f"  {label}: {size} samples, {time.monotonic() - start:.0f} s", flush=True)
        return sums

    evaluation.log_likelihoods(state, images, key, sizes[-1], tuple(sigmas), label, run=run)
    x = evaluation.to_unit(jax.numpy.asarray(images)).reshape(len(images), -1)
    sigma = jax.numpy.asarray(sigmas, x.dtype)
    return {n: np.asarray(parzen.finish(s, x, n, sigma), np.float64) for n, s in sums_at.items()}


def score(workdir, sizes):
    """For each number of samples: nats, ±, σ, and whether that lies on the edge of the grid."""
    state = experiment.load_state(workdir)
    settings = parse_config(records.read_json(os.path.join(workdir, "config.json")))
    dataset, spec = data.load(settings.data), settings.evaluation
    key = jax.random.fold_in(jax.random.key(settings.seed), 1)
    validation = dataset.validation["image"][: spec.num_validation]
    found = curve(state, validation, key, sizes, spec.sigmas, "validation")
    best = {n: int(nats.mean(axis=1).argmax()) for n, nats in found.items()}
    used = sorted(set(best.values()))
    sigmas = [spec.sigmas[index] for index in used]
    test = curve(state, dataset.test["image"], key, sizes, sigmas, "test")
    return [
        {
            "num_samples": n,
            "log_likelihood": nats.mean(),
            "standard_error": nats.std() / np.sqrt(len(nats)),
            "sigma": spec.sigmas[best[n]],
            "validation_log_likelihood": found[n][best[n]].mean(),
            "on_grid_edge": best[n] in (0, len(spec.sigmas) - 1),
        }
        for n in sizes
        for nats in [test[n][used.index(best[n])]]
    ]


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
    curves = {}
    for workdir in _WORKDIRS.value:
        start = time.monotonic()
        print(workdir, flush=True)
        curves[workdir] = score(workdir, sizes)
        for row in curves[workdir]:
            edge = ", on the grid's edge" if row["on_grid_edge"] else ""
            print(
                f"{row['num_samples']:>10} {row['log_likelihood']:8.1f} ± "
                f"{row['standard_error']:.1f} nats, σ {row['sigma']:.3f}{edge}"
            )
        print(f"{time.monotonic() - start:.0f} s")
        print(json.dumps({workdir: curves[workdir]}), flush=True)
    if _FIGURE.value is not None:
        draw(curves, _FIGURE.value)


if __name__ == "__main__":
    app.run(main)
