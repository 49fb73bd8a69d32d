"""Rows of Table 1, MNIST: trained for several seeds in one program, scored by one protocol.

    python -m studies.table1 --mnist_dir=DIR --output=DIR [--row=gan … --row=gsn] \\
        [--num_seeds=3] [--steps_scale=1.0] [--max_seconds=100] [--intervals=12] \\
        [--more_samples=10_000_000] \\
        [--set=gan:train.num_steps=60000 --set=gmmn:optimizer.mmd.learning_rate=1.0]

The recipes are those of `experiments/table1.py`; `--set` changes a field of a row's config. After
each of `--intervals` equal parts of a training, the validation log-likelihood is logged: 10,000
samples, the best σ, the first 1,000 validation images. The table gives the test log-likelihood (all
test images; σ from the same validation images) of the last parameters, and of the best parameters
on validation images. `--more_samples` adds the score of the last parameters with so many samples.

Markov chains start at training images. The row gsn has a second line, `gsn_consecutive`, the
protocol of its authors: 10,000 states of one chain from the first test image, which counts as a
sample, at σ = 0.2. Chains take most of the scoring time: `--intervals=4` saves two thirds of it.

`--mnist_dir` has the four original gz files; without it MNIST comes through tensorflow-datasets.
`--max_seconds` ends the training of a row at the first interval beyond it; the row is still scored.
`--output` gets, for each row and seed, the parameters (npz, by path) and 64 samples (npy) at the
end and at the best, all numbers (results.json, after each row), and samples of each row's first
seed, one row above the other (samples.png; faces.png for the rows tfd_…, whose validation images
are the first fold's).
"""

import ast
import dataclasses
import functools
import json
import operator
import os
import re
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import aae_jax as aae
from aae_jax import data, multi_seed
from aae_jax.config import parse_config
from aae_jax.evaluation import log_likelihoods
from aae_jax.settings import Settings
from aae_jax.train_state import chain_starts, inference_params, take_networks
from aae_jax.training import check_algorithm
from benchmarks.report import machine
from experiments import table1
from studies import runs

_ROWS = flags.DEFINE_multi_enum(
    "row", ["gan", "gmmn", "gmmn_pixels", "cae", "dbn", "gsn"], table1.VARIANTS, "Repeated."
)
_MNIST_DIR = flags.DEFINE_string("mnist_dir", None, "With the four original gz files.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Data of tensorflow-datasets; None: its default.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "With TFD_48x48.mat, for the rows tfd_….")
_OUTPUT = flags.DEFINE_string("output", None, "Directory of parameters, samples and results.json.")
_SEED = flags.DEFINE_integer("seed", 0, "The first.")
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 3, "Trained in one program.", lower_bound=1)
_STEPS_SCALE = flags.DEFINE_float(
    "steps_scale", 1.0, "Scale of every training's length; schedules stay.", lower_bound=1e-6
)
_SET = flags.DEFINE_multi_string("set", [], "ROW:FIELD=VALUE, of a row's config; repeated.")
_MAX_SECONDS = flags.DEFINE_float("max_seconds", None, "Limit of a row's training; None: none.")
_MORE_SAMPLES = flags.DEFINE_integer(
    "more_samples", None, "Scored too, besides 10,000; None: no others.", lower_bound=10_001
)
_INTERVALS = flags.DEFINE_integer("intervals", 12, "Scores on validation images.", lower_bound=1)
flags.mark_flag_as_required("output")
_CHANGE = rf"({'|'.join(table1.VARIANTS)}):([\w.]+)=(.+)"
flags.register_validator(
    "set",
    lambda changes: all(re.fullmatch(_CHANGE, change) for change in changes),
    f"write ROW:FIELD=VALUE, with a row among {', '.join(table1.VARIANTS)}",
)

PAPER = {
    "aae": "340 ± 2",
    "gan": "225 ± 2",
    "gmmn": "282 ± 2",
    "gmmn_pixels": "147 ± 2",
    "cae": "121 ± 1.6",
    "dbn": "138 ± 2",
    "gsn": "214 ± 1.1 (by the row below)",
    "gsn_consecutive": "214 ± 1.1",
    "tfd_aae": "2252 ± 16 on TFD",
    "tfd_gan": "2057 ± 26 on TFD",
    "tfd_gmmn": "2204 ± 20 on TFD",
}


class Best(NamedTuple):
    """One seed's parameters with the highest validation log-likelihood so far."""

    validation: float
    state: aae.TrainState


def load(row: str) -> data.Dataset:
    """The data on which a row is trained and scored."""
    if not row.startswith("tfd_"):
        return runs.load_mnist(_MNIST_DIR.value, _DATA_DIR.value)
    spec = settings_of(row).data
    return data.load(
        dataclasses.replace(spec, data_dir=_DATA_DIR.value, manual_dir=_MANUAL_DIR.value)
    )


def settings_of(row: str) -> Settings:
    """A row's settings, with `--set` and `--steps_scale`."""
    config = table1.get_config(row)
    config.train.num_steps = max(1, round(config.train.num_steps * _STEPS_SCALE.value))
    for change in _SET.value:
        of, path, value = re.fullmatch(_CHANGE, change).groups()
        if of != row:
            continue
        *sections, field = path.split(".")
        section = functools.reduce(operator.getitem, sections, config)
        with config.unlocked(), config.ignore_type():
            section[field] = ast.literal_eval(value)
    return parse_config(config)


def sampler_of(state, dataset):
    """The model as a function (key, n) → samples; chains start at training images."""
    return aae.sampler(state, chain_starts(state, dataset.train["image"]))


def consecutive_states(state, dataset, key, num_samples=10_000):
    """A GSN's samples by its authors' protocol: one chain from the first test image, included."""
    first = dataset.test["image"][:1]
    options = dataclasses.replace(state.spec.options, burn_in=1, spacing=1, num_chains=1)
    chain = state.replace(spec=dataclasses.replace(state.spec, options=options))
    draw = jax.jit(lambda sampler: sampler(key, num_samples - 1))
    states = draw(aae.sampler(chain, first))
    return np.concatenate([np.float32(first.reshape(1, -1)) / 255, states])


def validate(state, dataset, settings, key):
    """The validation log-likelihood at the best σ, and this σ."""
    spec = settings.evaluation
    images = dataset.validation["image"][: spec.num_validation]  # of the first fold
    sampler = sampler_of(state, dataset)
    found = log_likelihoods(sampler, images, key, spec.num_samples, spec.sigmas, "validation")
    means = found.astype(np.float64).mean(axis=1)
    return float(means.max()), float(spec.sigmas[means.argmax()])


def train(row, dataset, keys, log):
    """Trains a row, after its earlier stage if any; yields (step, state of all seeds, metrics)."""
    settings = settings_of(row)
    mean, std = data.pixel_statistics(dataset.train["image"])
    statistics = (mean, std, mean) if settings.data.standardise else (None, None, mean)
    create = jax.jit(multi_seed.create, static_argnums=0)
    state = create(settings.spec, keys, *statistics)
    if settings.start_from is not None:
        part = settings.start_from.partition(":")[2]
        for _, earlier, metrics in train(part, dataset, keys, log):
            log(part, earlier, metrics)
        names = settings.spec.algorithm.starts_from
        state = take_networks(state, {name: inference_params(earlier)[name] for name in names})
    images = {
        "image": jnp.asarray(dataset.train["image"]),
        "label": jnp.tile(jnp.asarray(dataset.train["label"]), (len(keys), 1)),
    }
    num_steps = settings.spec.train.num_steps
    every = -(-num_steps // _INTERVALS.value)
    for step in range(0, num_steps, every):
        size = min(every, num_steps - step)
        state, metrics = jax.block_until_ready(multi_seed.train(state, images, size))
        yield step + size, state, metrics


def save(state, dataset, key, name):
    """Saves the parameters of the trained model, by path, and 64 samples."""
    path = os.path.join(_OUTPUT.value, name)
    np.savez(f"{path}.npz", **runs.by_path(inference_params(state)))
    samples = jax.jit(lambda sampler: sampler(key, 64))(sampler_of(state, dataset))
    np.save(f"{path}.npy", np.asarray(samples).reshape(64, *state.spec.image_shape))


def run(row, dataset):
    """Trains and scores one row; returns results by seed and curves, by the name of the score."""
    seeds = range(_SEED.value, _SEED.value + _NUM_SEEDS.value)
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 0) for seed in seeds])
    score_keys = [jax.random.fold_in(jax.random.key(seed), 1) for seed in seeds]
    settings = settings_of(row)
    started, best, curve = time.perf_counter(), [None] * len(seeds), []

    def log(name, state, metrics, more=""):
        losses = ", ".join(
            f"{key} {np.asarray(value)[:, -100:].mean():.4g}"
            for key, value in metrics.items()
            if not key.startswith(("code/", "prior/"))
        )
        seconds = time.perf_counter() - started
        print(f"{name} {int(state.step):7,d} {seconds:6.1f} s {more} {losses}", flush=True)

    for step, state, metrics in train(row, dataset, keys, log):
        members = multi_seed.members(state)
        found = [
            validate(member, dataset, settings, key) for member, key in zip(members, score_keys)
        ]
        for index, (nats, _) in enumerate(found):
            if best[index] is None or nats > best[index].validation:
                best[index] = Best(nats, members[index])
        shown = " ".join(f"{nats:.1f} (σ {sigma:.3g})" for nats, sigma in found)
        log(row, state, metrics, f"validation {shown} nats;")
        curve.append({"step": step, "validation": found})
        if _MAX_SECONDS.value and time.perf_counter() - started > _MAX_SECONDS.value:
            break
    seconds = time.perf_counter() - started
    spec = settings.evaluation
    protocols = {row: (lambda state, dataset, key: sampler_of(state, dataset), spec)}
    if row == "gsn":
        protocols["gsn_consecutive"] = consecutive_states, dataclasses.replace(spec, sigmas=(0.2,))
    by_seed = {name: [{"seed": seed} for seed in seeds] for name in protocols}
    for index, seed in enumerate(seeds):
        key = score_keys[index]
        for when, state in (("last", members[index]), ("best", best[index].state)):
            save(state, dataset, key, f"{row}-{seed}-{when}")
            for name, (samples_of, protocol) in protocols.items():
                samples = samples_of(state, dataset, key)
                found = aae.evaluate(samples, dataset.folds, protocol, key)
                by_seed[name][index][when] = {"step": int(state.step), **found}
        if _MORE_SAMPLES.value:
            protocol = dataclasses.replace(spec, num_samples=_MORE_SAMPLES.value)
            started = time.perf_counter()
            found = aae.evaluate(sampler_of(members[index], dataset), dataset.folds, protocol, key)
            more = {"step": int(members[index].step), **found}
            by_seed[row][index]["more"] = {"seconds": time.perf_counter() - started, **more}
    common = {"seconds": seconds, "steps": step, "curve": curve}
    return {name: {**common, "by_seed": results} for name, results in by_seed.items()}


def cell(by_seed, when):
    """Each seed's nats ± standard error (σ, step), and the mean ± std over the seeds."""
    found = [seed[when] for seed in by_seed if when in seed]
    if not found:
        return " | "
    each = ", ".join(
        f"{one['parzen/log_likelihood']:.1f} ± {one['parzen/standard_error']:.1f} "
        f"(σ {one['parzen/sigma']:.3g}, {one['step']:,})"
        for one in found
    )
    nats = np.array([one["parzen/log_likelihood"] for one in found])
    spread = f" ± {nats.std(ddof=1):.1f}" if len(nats) > 1 else ""
    return f"{each} | {nats.mean():.1f}{spread}"


def table(results):
    """Markdown: scores of the last and the best parameters, with the paper's number."""
    scored = {"last": "last, by seed (σ, step)", "best": "best on validation"}
    if _MORE_SAMPLES.value:
        scored["more"] = f"last, {_MORE_SAMPLES.value:,} samples"
    head = ["row", *(part for name in scored.values() for part in (name, "mean ± std"))]
    lines = [f"| {' | '.join((*head, 'paper', 's'))} |", "|---" * (len(head) + 2) + "|"]
    for row, result in results.items():
        cells = [row, *(cell(result["by_seed"], when) for when in scored)]
        cells += [PAPER.get(row, ""), f"{result['seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(directory, rows, seed, name, lines=2, columns=16):
    """Draws the samples of the rows in a directory, one above the other."""
    blocks = []
    for row in rows:
        path = os.path.join(directory, f"{row}-{seed}-best.npy")
        if os.path.exists(path):
            images = np.load(path)[: lines * columns, :, :, 0]
            height, width = images.shape[1:]
            block = images.reshape(lines, columns, height, width).transpose(0, 2, 1, 3)
            blocks.append((row, block.reshape(lines * height, -1)))
    if blocks:
        runs.save_strips(os.path.join(directory, name), blocks)


def main(argv):
    del argv
    print(machine(), flush=True)
    os.makedirs(_OUTPUT.value, exist_ok=True)
    results = {}
    try:
        for row in _ROWS.value:  # all of them before the first is trained
            check_algorithm(settings_of(row).spec)
        datasets = {row: load(row) for row in _ROWS.value}
    except aae.UserError as error:
        sys.exit(f"error: {error}")
    for row in _ROWS.value:
        found = run(row, datasets[row])
        results.update(found)
        with open(os.path.join(_OUTPUT.value, "results.json"), "w") as file:
            json.dump(results, file)
        print(table(found), flush=True)
    faces = {row for row in table1.VARIANTS if row.startswith("tfd_")}
    for name, rows in (("samples.png", faces ^ set(table1.VARIANTS)), ("faces.png", faces)):
        shown = [row for row in table1.VARIANTS if row in rows]
        draw(_OUTPUT.value, shown, _SEED.value, name)
    print(f"\n{table(results)}")


if __name__ == "__main__":
    app.run(main)
