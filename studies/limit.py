"""The likelihood of trained models in the limit of many samples, compared with the Parzen window's.

    python -m studies.limit --workdir=runs/mnist --workdir=runs/mnist-smooth --output=DIR \\
        [--row=gan:DIR/gan-0-last.npz --mnist_dir=DIR] [--num_images=1_000] [--sigma=0.125] \\
        [--num_temperatures=500] [--num_chains=16] [--num_samples=1_000_000]

Models are finished runs, or parameters saved by `studies.table1`. Each is scored on the first test
images, with the best σ for 64 validation images and with `--sigma`: by annealed importance
sampling, and by a Parzen window of 1,000 to `--num_samples` samples with the same σ. Both bounds of
the likelihood are given too, on images simulated from the model: other images have no upper bound.

`--output` gets all numbers (results.json), the curves with their limits (limit.png), and for each
model a picture (NAME.png) of the first sixteen test images and the sixteen with the lowest
likelihood, each above the decoded draw from its posterior with the largest weight.
"""

import json
import os
import sys
import time

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from absl import app, flags, logging

import aae_jax as aae
from aae_jax import annealed, figures, likelihood, parzen
from benchmarks.report import machine, markdown
from studies import runs

_WORKDIRS = flags.DEFINE_multi_string(
    "workdir", [], "Directory of a finished run; may be repeated."
)
_ROWS = flags.DEFINE_multi_string("row", [], "ROW:FILE, of Table 1; may be repeated.")
_MNIST_DIR = flags.DEFINE_string("mnist_dir", None, "For rows: the four original gz files.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "For rows: data of tensorflow-datasets.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory of results.json and pictures.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 1_000, "Test images.", lower_bound=1)
_SIGMA = flags.DEFINE_float("sigma", 0.125, "The same for all models.", lower_bound=1e-6)
_CHAINS = flags.DEFINE_integer("num_chains", 16, "For each image.", lower_bound=2)
_TEMPERATURES = flags.DEFINE_integer(
    "num_temperatures", 500, "Temperatures of a chain.", lower_bound=1
)
_BLOCK = flags.DEFINE_integer("block_size", 64, "Images that are run together.", lower_bound=1)
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 1_000_000, "Most of the Parzen window; rounded down to a power of ten."
)
flags.mark_flag_as_required("output")

_NUM_VALIDATION, _NUM_BRACKET = 64, 32
COLUMNS = (
    "model", "its σ", "limit, nats", "limit at the common σ", "images' spread over chains",
    "bracket on its own images", "s",
)  # fmt: skip


def names():
    """The names of the models: of workdirs and, for rows, of files."""
    files = [row.partition(":")[2] for row in _ROWS.value]
    found = [os.path.basename(os.path.normpath(workdir)) for workdir in _WORKDIRS.value]
    found += [os.path.splitext(os.path.basename(file))[0] for file in files]
    if not found:
        raise aae.UserError("no model is given: give --workdir or --row")
    for name in found:
        if found.count(name) > 1:
            raise aae.UserError(f"two models are called {name!r}: their results would be one")
    return found


def models():
    """(name, state, folds) of each model."""
    name = iter(names())
    for workdir in _WORKDIRS.value:
        run = runs.load(workdir)
        yield next(name), run.state, run.dataset.folds
    for asked in _ROWS.value:
        row, _, path = asked.partition(":")
        state, _ = runs.load_row(row, path)
        yield next(name), state, runs.load_mnist(_MNIST_DIR.value, _DATA_DIR.value).folds


def score(state, folds, spec):
    """All numbers of one model, and draws from the posterior of each image."""
    validation, test = folds[0]
    x = likelihood.as_rows(state, test["image"][: _NUM_IMAGES.value])
    fit_key, key, window_key, bracket_key = jax.random.split(jax.random.key(0), 4)
    fit_to = likelihood.as_rows(state, validation["image"][:_NUM_VALIDATION])
    own = likelihood.fit_sigma(state, fit_to, fit_key, 0.15, spec)
    arguments = aae.annealed_arguments(state, len(x))
    found, sampler = {"own_sigma": own}, aae.sampler(state)
    sizes = [10**p for p in range(3, 20) if 10**p <= _NUM_SAMPLES.value]
    sigmas = {"own": own, "common": _SIGMA.value}
    windows = [
        parzen.log_likelihood_streamed(
            x, sampler, window_key, size, jnp.asarray(list(sigmas.values()))
        ).mean(axis=1)
        for size in sizes
    ]
    for index, (name, sigma) in enumerate(sigmas.items()):
        chains = annealed.join(annealed.blocks(x=x, key=key, sigma=sigma, spec=spec, **arguments))
        limit = annealed.lower(chains)
        found[name] = {
            "sigma": sigma,
            "limit": np.asarray(limit.log_likelihood, np.float64),
            "spread": np.asarray(limit.spread),
            "log_weight_std": np.asarray(limit.log_weight_std),
            "acceptance": float(limit.acceptance.mean()),
            "window": {size: float(nats[index]) for size, nats in zip(sizes, windows)},
        }
        if name == "own":
            draws = chains
    del arguments["start"]  # simulated images have none
    bracket = annealed.bracket(
        key=bracket_key, sigma=own, num_images=_NUM_BRACKET, spec=spec, **arguments
    )
    found["bracket"] = {
        "lower": float(bracket.lower.log_likelihood.mean()),
        "gap": np.asarray(bracket.gap),
    }
    return found, draws, x


def mean(values):
    """Mean and standard error over images."""
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))


def row(name, found, seconds):
    gap = found["bracket"]["gap"]
    return (
        name,
        f"{found['own_sigma']:.4f}",
        mean(found["own"]["limit"]),
        mean(found["common"]["limit"]),
        float(found["own"]["spread"].mean()),
        f"{gap.mean():.2f}, at most {gap.max():.2f}",
        seconds,
    )


def draw_posterior(name, state, x, draws, nats):
    """Draws test images, the first and the least likely, above their decoded draws."""
    shape = state.spec.image_shape[:2]
    best = np.asarray(draws.log_weight).argmax(axis=1)
    z = np.asarray(draws.z)[np.arange(len(best)), best]
    chosen = {"first": np.arange(min(16, len(x))), "least likely": np.argsort(nats)[:16]}
    strips = []
    for which, rows in chosen.items():
        decoded = aae.decode(state, jnp.asarray(z[rows]))
        for line, images in ((which, x[rows]), ("  decoded", decoded)):
            images = np.asarray(images).reshape(len(rows), *shape)
            strips.append((line, images.transpose(1, 0, 2).reshape(shape[0], -1)))
    runs.save_strips(os.path.join(_OUTPUT.value, f"{name}.png"), strips)


def draw_curves(all_found):
    """Draws the Parzen window's means over the number of samples, with their limits, at one σ."""
    figure = matplotlib.figure.Figure(figsize=(6.5, 4.2))
    axes = figure.subplots()
    for index, (name, found) in enumerate(all_found.items()):
        shown, colour = found["common"], f"C{index}"
        axes.plot(*zip(*shown["window"].items()), "o-", color=colour, markersize=4, label=name)
        axes.axhline(shown["limit"].mean(), color=colour, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel(f"samples of the Parzen window, σ = {_SIGMA.value:g}; dashed: the limit")
    axes.set_ylabel("mean log-likelihood of the same test images, nats")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figures.save(figure, os.path.join(_OUTPUT.value, "limit.png"))


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)  # orbax narrates
    spec = aae.AnnealedSpec(
        num_chains=_CHAINS.value,
        num_temperatures=_TEMPERATURES.value,
        block_size=_BLOCK.value,
    )
    os.makedirs(_OUTPUT.value, exist_ok=True)
    print(machine(), flush=True)
    all_found = {}

    def rows():
        for name, state, folds in models():
            started = time.perf_counter()
            found, draws, x = score(state, folds, spec)
            all_found[name] = found
            if state.spec.image_shape[-1] == 1:
                draw_posterior(name, state, x, draws, found["own"]["limit"])
            with open(os.path.join(_OUTPUT.value, "results.json"), "w") as file:
                json.dump(all_found, file, default=lambda values: np.asarray(values).tolist())
            yield row(name, found, time.perf_counter() - started)

    title = f"{_NUM_IMAGES.value:,} test images, {spec.num_temperatures} temperatures"
    try:
        markdown(title, COLUMNS, rows())
    except aae.UserError as error:
        sys.exit(f"error: {error}")
    sizes = list(next(iter(all_found.values()))["own"]["window"])
    for which in ("own", "common"):
        lines = (
            (name, f"{found[which]['sigma']:.4f}", *found[which]["window"].values(),
             float(found[which]["limit"].mean()))
            for name, found in all_found.items()
        )  # fmt: skip
        markdown(f"{which} σ, nats", ("model", "σ", *(f"{n:,}" for n in sizes), "limit"), lines)
    draw_curves(all_found)


if __name__ == "__main__":
    app.run(main)
