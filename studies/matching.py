"""What keeps q(z) from p(z) with a 2-D code: variants of Fig. 2a's game and their mismatch.

    python -m studies.matching --output=DIR [--mnist_dir=DIR] [--panel=a] [--variant=before …] \\
        [--add='NAME: train.num_steps=4000, options.kinks=1.0' …] [--num_seeds=3] [--intervals=4]

A variant is the earlier config of `experiments/fig2.py` with changes, trained for all seeds in one
program by the algorithm of `studies.games`. `--add` defines another variant, which may start from
one: `NAME: OTHER, …`. `scale.PHASE=(0.5, 1, 2)` trains each seed with each of these multiples of a
phase's learning rate, in the same program.

After each of `--intervals` equal parts of a training, on codes of hold-out images (validation; test
images at the end), the study reports the distance to the prior, empty cells, half the squared
error, and:

- *left*: 2 ln 2 minus the loss of a new discriminator, trained for `--fresh_steps` on frozen codes
  of training images against the prior, in thousandths of a nat. It is at most twice the
  Jensen-Shannon divergence of q(z) and p(z). A discriminator that sees no difference has 0.
- *own*: the same for the game's discriminator. If it is near 0 while *left* is not, the
  discriminator has gone blind.
- *r* and *slope* of the game's logits as a function of the true log p/q (histograms of codes and of
  the prior, smoothed by a tenth of the std), over cells of a grid, weighted by the prior. 1 and 1
  are perfect, 0 and 0 are blind. *r fresh* is the new discriminator's.
- the norms of the gradients of reconstruction and generator on the encoder, over 1,000 images, and
  their share in the gradient of 100 (1: no noise).

`--output` gets results.json, codes and grids of each variant's first seed (npz), and matching.png
with one row per variant.
"""

import ast
import dataclasses
import functools
import json
import operator
import os
import re
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from absl import app, flags
from scipy.ndimage import gaussian_filter

import aae_jax as aae
from aae_jax import code_metrics, data, multi_seed
from aae_jax.algorithms import autoencoder
from aae_jax.algorithms.base import Inputs
from aae_jax.config import parse_config
from aae_jax.keys import row_keys
from aae_jax.priors import sample_prior
from aae_jax.spec import TrainSpec
from aae_jax.train_state import to_inputs
from benchmarks import inputs
from benchmarks.report import machine
from experiments import fig2
from studies import games
from studies.fresh import fresh_discriminator, left

_OUTPUT = flags.DEFINE_string("output", None, "Directory of the results.", required=True)
_MNIST_DIR = flags.DEFINE_string("mnist_dir", None, "With the four original gz files.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Data of tensorflow-datasets; None: its default.")
_PANEL = flags.DEFINE_enum("panel", "a", ("a", "b"), "Panel of fig2.py.")
_VARIANT = flags.DEFINE_multi_string("variant", [], "A name among VARIANTS or of --add.")
_ADD = flags.DEFINE_multi_string("add", [], "NAME: [OTHER,] FIELD=VALUE, …; trained too.")
_ALL = flags.DEFINE_string("all", "", "FIELD=VALUE, …: a change of every variant.")
_SEED = flags.DEFINE_integer("seed", 0, "The first.")
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 3, "Trained in one program.", lower_bound=1)
_INTERVALS = flags.DEFINE_integer("intervals", 4, "Parts of a training.", lower_bound=1)
_FRESH_STEPS = flags.DEFINE_integer(
    "fresh_steps", 500, "Steps with batches of 1,000.", lower_bound=1
)
_WIDTH = flags.DEFINE_integer("width", None, "Width of all hidden layers; None: the paper's.")

# The start of all variants: the configs before this study, with 8,000 steps.
BEFORE = (
    "model.discriminator='mlp', train.ema_decay=None, optimizer.reconstruction.floor=None, "
    "optimizer.discriminator.floor=None, optimizer.generator.floor=None, "
)
BEFORE_BY_PANEL = {
    "a": BEFORE
    + "optimizer.reconstruction.learning_rate=1e-3, optimizer.generator.learning_rate=2e-4",
    "b": BEFORE
    + "optimizer.reconstruction.learning_rate=2e-4, optimizer.generator.learning_rate=1e-3",
}
# Changes, by variant; `game.updates` is how often the discriminator is updated.
VARIANTS = {
    "before": "",
    "floors": (
        "optimizer.reconstruction.floor=0.05, optimizer.discriminator.floor=0.3, "
        "optimizer.generator.floor=0.3, train.ema_decay=0.999"
    ),
    "units": "floors, options.unit=5.0",
    "spread": "floors, model.discriminator='mlp_spread'",
    "spread_units": "units, options.kinks=1.0",
    "b99": "spread, optimizer.discriminator.b2=0.99, optimizer.generator.b2=0.99",
    "codes": "spread, train.batch_size=1000, options.rows=100",
    "batch": "spread, train.batch_size=500",
    "decoder": "spread, options.decoder_unit=5.0, options.decoder_kinks=1.0",
    "penalty": "spread, options.penalty=0.01",
    "noise": "spread, options.noise=0.1",
    "twice": "spread, game.updates=2",
    "hinge": "spread, options.loss='hinge'",
    "squares": "spread, options.loss='squares'",
    "b0": "spread, optimizer.discriminator.b1=0.0, optimizer.generator.b1=0.0",
    "b9": "spread, optimizer.discriminator.b1=0.9, optimizer.generator.b1=0.9",
}

CELLS = 80  # a side of the grid, over 6 stds


def changes_of(text):
    """`FIELD=VALUE, …` and names of variants → values by field, later ones first."""
    found = {}
    # Commas within brackets belong to a value.
    for part in filter(None, map(str.strip, re.split(r",(?![^(]*\))", text))):
        field, equals, value = part.partition("=")
        if not equals:
            found.update(changes_of(VARIANTS[field]))
        else:
            found[field.strip()] = ast.literal_eval(value)
    return found


def settings_of(name):
    """A variant's settings, and the multiples of its phases' learning rates trained together."""
    config, scales, updates = fig2.get_config(_PANEL.value), {}, 1
    texts = BEFORE_BY_PANEL[_PANEL.value], VARIANTS[name], _ALL.value
    changes = functools.reduce(operator.or_, map(changes_of, texts))
    updates = changes.pop("game.updates", 1)
    config.algorithm = {
        1: "studies.games:GAME",
        2: "studies.games:GAME_TWICE",
        4: "studies.games:GAME_FOUR_TIMES",
    }[updates]
    if _WIDTH.value is not None:
        inputs.set_widths(config, _WIDTH.value)
    for path, value in changes.items():
        *sections, field = path.split(".")
        if sections == ["scale"]:
            scales[field] = value
            continue
        section = functools.reduce(operator.getitem, sections, config)
        with config.unlocked(), config.ignore_type():
            section[field] = value
    for index in range(2, updates + 1):
        with config.unlocked():
            config.optimizer[f"discriminator_{index}"] = config.optimizer.discriminator
    return parse_config(config), scales


# -- What is measured ----------------------------------------------------------------------------


def gradients(state, x, key):
    """Norms of the encoder's gradients over all rows of x, shares for 100 rows, and cosine."""
    spec, found, means = state.spec, {}, {}
    phases = {phase.name: phase for phase in spec.algorithm.phases}
    for name in ("reconstruction", "generator"):

        def loss(encoder, part, phase=phases[name]):
            part = Inputs(part, part, None, row_keys(key, len(part)), None)
            return phase.loss(spec, {**state.params, "encoder": encoder}, part)[0].mean()

        by_part = jax.lax.map(
            lambda part: jax.flatten_util.ravel_pytree(
                jax.grad(loss)(state.params["encoder"], part)
            )[0],
            x.reshape(-1, 100, *spec.image_shape),
        )
        means[name] = by_part.mean(axis=0)
        found[f"gradient/{name}"] = norm = jnp.linalg.norm(means[name])
        found[f"gradient/{name}_share"] = norm / jnp.sqrt((by_part**2).sum(axis=1).mean())
    norms = found["gradient/reconstruction"] * found["gradient/generator"]
    found["gradient/cosine"] = means["reconstruction"] @ means["generator"] / norms
    return found


def grid_of(spec):
    """The centres f[CELLS², 2] of the grid's cells, in z."""
    side = 3 * games.prior_std(spec) * (2 * (np.arange(CELLS) + 0.5) / CELLS - 1)
    return np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)


@functools.partial(jax.jit, static_argnames="fresh_steps")
def measure(state, train_images, images, key, fresh_steps):
    """The measures of one member, its hold-out and training codes, and logits on the grid."""
    spec = state.spec
    keys = dict(zip(("prior", "floor", "fresh", "told", "directions"), jax.random.split(key, 5)))
    z = aae.encode(state, images)
    error = 0.5 * ((aae.decode(state, z) - to_inputs(state, images)) ** 2).sum(axis=(1, 2, 3))
    train_z = jax.lax.map(lambda part: aae.encode(state, part), train_images)
    train_z = train_z.reshape(-1, z.shape[1])
    prior_z = sample_prior(spec, keys["prior"], len(z)).z
    floor_z = sample_prior(spec, keys["floor"], len(z)).z
    distance = functools.partial(code_metrics.sliced_wasserstein, key=keys["directions"])
    fresh = fresh_discriminator(spec, train_z, keys["fresh"], fresh_steps)

    def own(z):
        return autoencoder.discriminate(spec, state.params, z, None)

    many_z = sample_prior(spec, keys["told"], 50_000).z
    fresh_left, fresh_told = left(fresh, z, many_z[: len(z)])
    own_left, own_told = left(own, z, many_z[: len(z)])
    train_left, _ = left(fresh, train_z, many_z[: len(train_z)])
    std = prior_z.std()
    found = {
        "half_squared_error": error.mean(),
        "distance": distance(z, prior_z) / std,
        "distance_floor": distance(floor_z, prior_z) / std,
        "left": fresh_left,
        "left_train": train_left,
        "told": fresh_told,
        "own": own_left,
        "own_told": own_told,
        "code_std": z.std() / std,
        **gradients(state, to_inputs(state, train_images[0, :1_000]), key),
    }
    grid = jnp.asarray(grid_of(spec), jnp.float32)
    arrays = {
        "z": z,
        "floor_z": floor_z,
        "train_z": train_z,
        "own": own(grid),
        "fresh": fresh(grid),
    }
    return found, arrays


def true_log_ratio(spec, z, prior_z, smoothing=0.1):
    """log p/q over the grid's cells, from histograms smoothed by so many stds, and p's weights."""
    edges = 3 * games.prior_std(spec) * (2 * np.arange(CELLS + 1) / CELLS - 1)
    densities = []
    for sample in (prior_z, z):
        counts, _, _ = np.histogram2d(*np.asarray(sample, np.float64).T, bins=[edges, edges])
        densities.append(gaussian_filter(counts, smoothing * CELLS / 6) / len(sample))
    p, q = (density.reshape(-1) for density in densities)
    least = 0.5 / len(z)  # half a code
    return np.log((p + least) / (q + least)), p / p.sum()


def compared(logits, truth, weights):
    """The weighted correlation of logits with the true log p/q, and their slope over it."""
    logits, truth = (np.asarray(v, np.float64) for v in (logits, truth))
    a, b = (v - weights @ v for v in (logits, truth))
    covariance = weights @ (a * b)
    return covariance / np.sqrt(weights @ a**2 * (weights @ b**2)), covariance / (weights @ b**2)


def measure_all(state, train_images, images, prior_z):
    """The measures of all members, and the arrays of the first."""
    by_member = []
    for index, member in enumerate(multi_seed.members(state)):
        # What does not matter here would be another program.
        spec = dataclasses.replace(member.spec, train=TrainSpec(), optimizer=None)
        unused = dict.fromkeys(("opt_state", "learning_rate_scale", "rng", "step"))
        member = member.replace(spec=spec, **unused)
        key = jax.random.key(1_000 + index)
        found, arrays = measure(member, train_images, images, key, _FRESH_STEPS.value)
        found = {name: float(value) for name, value in found.items()}
        arrays = {name: np.asarray(value) for name, value in arrays.items()}
        z = np.concatenate([arrays["train_z"], arrays["z"]])
        truth, weights = true_log_ratio(member.spec, z, prior_z)
        found["empty"] = code_metrics.empty_cells(arrays["z"], prior_z)
        for name in ("own", "fresh"):
            r, slope = compared(arrays[name], truth, weights)
            found[f"{name}_r"], found[f"{name}_slope"] = r, slope
        found["ratio_rms"] = float(np.sqrt(weights @ truth**2))
        by_member.append(found)
        if index == 0:
            found["empty_floor"] = code_metrics.empty_cells(arrays["floor_z"], prior_z)
            first = {**arrays, "truth": truth}
    return by_member, first


# -- Training ------------------------------------------------------------------------------------


def members_of(scales):
    """(seed, multiples by phase) of every member."""
    lengths = {len(values) for values in scales.values()} or {1}
    rows = [{phase: v[i] for phase, v in scales.items()} for i in range(max(lengths))]
    seeds = range(_SEED.value, _SEED.value + _NUM_SEEDS.value)
    return [(seed, row) for row in rows for seed in seeds]


def run(name, dataset, prior_samples=1_000_000):
    """Trains a variant; yields the measures after each part."""
    settings, scales = settings_of(name)
    spec, members = settings.spec, members_of(scales)
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 0) for seed, _ in members])
    state = jax.jit(multi_seed.create, static_argnums=0)(spec, keys)
    rates = dict(state.learning_rate_scale)
    for phase in rates:
        multiples = [row.get(re.sub(r"_\d+$", "", phase), 1.0) for _, row in members]
        rates[phase] = jnp.asarray(multiples, rates[phase].dtype)
    state = state.replace(learning_rate_scale=rates)
    images = jnp.asarray(dataset.train["image"])
    examples = {
        "image": images,
        "label": jnp.tile(jnp.asarray(dataset.train["label"]), (len(keys), 1)),
    }
    parts = images[: len(images) // 10_000 * 10_000].reshape(-1, 10_000, *images.shape[1:])
    prior_z = np.asarray(sample_prior(spec, jax.random.key(2_000), prior_samples).z)
    num_steps, started, measuring = spec.train.num_steps, time.perf_counter(), 0.0
    every = -(-num_steps // _INTERVALS.value)
    for step in range(0, num_steps, every):
        size = min(every, num_steps - step)
        state, metrics = jax.block_until_ready(multi_seed.train(state, examples, size))
        trained = time.perf_counter()
        at = {
            "step": step + size,
            "seconds": trained - started - measuring,
            "losses": {
                key: np.asarray(value)[:, -100:].mean(axis=1).tolist()
                for key, value in metrics.items()
                if key.startswith(("loss/", "discriminator/"))
            },
        }
        last = step + size == num_steps
        split = dataset.test if last else dataset.validation
        measured, arrays = measure_all(state, parts, jnp.asarray(split["image"]), prior_z)
        measuring += time.perf_counter() - trained
        yield {**at, "measuring": measuring, "members": measured}, arrays, spec, split


SHOWN = {
    "distance": "{:.3f}",
    "empty": "{:.1%}",
    "half_squared_error": "{:.2f}",
    "left": "{:.1f}",
    "own": "{:.1f}",
    "own_r": "{:.2f}",
    "own_slope": "{:.2f}",
    "fresh_r": "{:.2f}",
    "ratio_rms": "{:.2f}",
    "code_std": "{:.2f}",
    "gradient/reconstruction": "{:.3g}",
    "gradient/reconstruction_share": "{:.2f}",
    "gradient/generator": "{:.3g}",
    "gradient/generator_share": "{:.2f}",
    "gradient/cosine": "{:.2f}",
}


def line(name, at, seeds):
    """A row of the table, mean ± std over the seeds of one setting."""
    cells = [name, f"{at['step']:,}"]
    for measure_name, form in SHOWN.items():
        values = np.array([member[measure_name] for member in seeds])
        spread = f" ± {form.format(values.std(ddof=1))}" if len(values) > 1 else ""
        cells.append(form.format(values.mean()) + spread)
    return f"| {' | '.join([*cells, format(at['seconds'], '.0f')])} |"


HEAD = f"| {' | '.join(['variant', 'step', *SHOWN, 's'])} |\n{'|---' * (len(SHOWN) + 3)}|"


class Drawn(NamedTuple):
    """A variant's row of the picture, for its first seed."""

    arrays: dict[str, np.ndarray]
    label: np.ndarray
    edge: float  # of the grid


def draw(path, drawn):
    """Draws a row per variant: hold-out codes by label; log p/q, true and by two discriminators."""
    titles = {
        "truth": "true log p/q",
        "own": "game's discriminator",
        "fresh": "new discriminator",
    }
    figure = matplotlib.figure.Figure(figsize=(8, 1.7 * len(drawn) + 0.3), layout="constrained")
    every = figure.subplots(len(drawn), 4, squeeze=False)
    for axes, (name, (arrays, label, edge)) in zip(every, drawn.items()):
        axes[0].scatter(*arrays["z"].T, s=1, linewidths=0, c=label, cmap="tab10")
        axes[0].set(xlim=(-edge, edge), ylim=(-edge, edge), ylabel=name)
        for one, key in zip(axes[1:], titles):
            values = arrays[key].reshape(CELLS, CELLS).T
            extent = (-edge, edge, -edge, edge)
            shown = one.imshow(values, "RdBu_r", origin="lower", extent=extent, vmin=-1.5, vmax=1.5)
        for one in axes:
            one.set(aspect="equal", xticks=(), yticks=())
    for one, title in zip(every[0], ("hold-out codes", *titles.values())):
        one.set_title(title, fontsize=10)
    figure.colorbar(shown, ax=every, shrink=0.6, label="log p/q, nats", extend="both")
    figure.savefig(path, dpi=120)


def main(argv):
    del argv
    print(json.dumps(machine()), flush=True)
    os.makedirs(_OUTPUT.value, exist_ok=True)
    names = list(_VARIANT.value)
    for text in _ADD.value:
        name, _, changes = text.partition(":")
        VARIANTS[name.strip()] = changes
        names.append(name.strip())
    if _MNIST_DIR.value is None:
        dataset = data.load(inputs.mnist_spec(_DATA_DIR.value))
    else:
        dataset = inputs.original_mnist(_MNIST_DIR.value)
    for name in names:
        settings_of(name)  # all of them before the first is trained
    results, path = {}, os.path.join(_OUTPUT.value, "results.json")
    if os.path.exists(path):
        with open(path) as file:
            results = json.load(file)
    print(HEAD, flush=True)
    drawn = {}
    for name in names:
        _, scales = settings_of(name)
        results[name] = {"changes": changes_of(VARIANTS[name]), "panel": _PANEL.value, "at": []}
        for at, arrays, spec, split in run(name, dataset):
            results[name]["at"].append(at)
            rows = members_of(scales)[:: _NUM_SEEDS.value]
            for index, (_, row) in enumerate(rows):
                members = at["members"][index * _NUM_SEEDS.value :][: _NUM_SEEDS.value]
                print(line(f"{name} {row or ''}".strip(), at, members), flush=True)
            stem = os.path.join(_OUTPUT.value, name)
            np.savez_compressed(f"{stem}.npz", label=split["label"], **arrays)
            drawn[name] = Drawn(arrays, split["label"], 3 * games.prior_std(spec))
            draw(os.path.join(_OUTPUT.value, "matching.png"), drawn)
            with open(path, "w") as file:
                json.dump(results, file)


if __name__ == "__main__":
    app.run(main)
