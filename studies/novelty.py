"""How well a model that never saw a digit finds it among the others (docs/novelty.md).

    python -m studies.novelty --output=novelty [--data_dir=DIR] [--digits=0,1] [--num_steps=2000]

For each digit, a model is trained without it, `aae.score` scores all MNIST test images, and the
AUROC measures how well a score separates the left-out digit from the other nine. "both" is the sum
of the two scores, each standardised by its mean and standard deviation over the validation images
of the other nine digits. Labels are used only to leave the digit out, and its images only for the
AUROC. Each digit's result is kept in --output, so that a killed study resumes. A digit takes about
80 s on one core.
"""

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import aae_jax as aae
from aae_jax import data, multi_seed
from aae_jax.workdir import records
from benchmarks import inputs
from benchmarks.report import Report
from experiments import mnist

PARTS = ("reconstruction", "code", "both")
COLUMNS = ("left out", *PARTS, "error, validation", "error, left out")
_BLOCK = 1_000  # images that are scored at a time


def auroc(normal: np.ndarray, unusual: np.ndarray) -> float:
    """The probability that an unusual example scores above a normal one; ties count a half.

    Computed from the sum of ranks (Mann & Whitney 1947).

    Args:
        normal: f[N], scores.
        unusual: f[M], scores.
    """
    values, place, counts = np.unique(
        np.concatenate([normal, unusual]), return_inverse=True, return_counts=True
    )
    del values
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # from 1; equal scores share the mean
    least = len(unusual) * (len(unusual) + 1) / 2
    return float((ranks[len(normal) :].sum() - least) / (len(normal) * len(unusual)))


def standardised_sum(parts: aae.Scores, reference: aae.Scores) -> np.ndarray:
    """The sum f[N] of both scores, each standardised by the reference's mean and std."""
    return sum(
        (value - known.mean()) / known.std()
        for value, known in (
            (parts.reconstruction, reference.reconstruction),
            (parts.code, reference.code),
        )
    )


def train_without(digit: int, train: data.Split, spec: aae.Spec, seeds: int) -> aae.TrainState:
    """The state of several seeds after all steps on the other nine digits."""
    kept = train["label"] != digit
    keys = jnp.stack([jax.random.key(seed) for seed in range(seeds)])
    dataset = {
        "image": jnp.asarray(train["image"][kept]),
        "label": jnp.tile(train["label"][kept], (seeds, 1)),
    }
    state, _ = multi_seed.train(multi_seed.create(spec, keys), dataset, spec.train.num_steps)
    return state


def scores_of(state: aae.TrainState, images: np.ndarray) -> aae.Scores:
    """`aae.score` in float64, without the errors by pixel."""
    score = jax.jit(lambda state, images: aae.score(state, images)._replace(by_pixel=()))
    found = [
        score(state, images[start : start + _BLOCK]) for start in range(0, len(images), _BLOCK)
    ]
    return jax.tree.map(lambda *v: np.concatenate(v).astype(np.float64), *found)


def find(digit: int, dataset: data.Dataset, spec: aae.Spec, seeds: int) -> dict[str, list[float]]:
    """AUROC of each score, and half squared errors of validation images and the left-out digit."""
    state = train_without(digit, dataset.train, spec, seeds)
    validation = dataset.validation["image"][dataset.validation["label"] != digit]
    unusual = dataset.test["label"] == digit
    found = {name: [] for name in COLUMNS[1:]}
    for member in multi_seed.members(state):
        reference = scores_of(member, validation)
        scores = scores_of(member, dataset.test["image"])
        by_part = {**scores._asdict(), "both": standardised_sum(scores, reference)}
        for part in PARTS:
            found[part].append(auroc(by_part[part][~unusual], by_part[part][unusual]))
        found["error, validation"].append(float(reference.reconstruction.mean()))
        found["error, left out"].append(float(scores.reconstruction[unusual].mean()))
    return found


def make_spec(width: int, num_steps: int) -> aae.Spec:
    """The model of `experiments/mnist.py`, smaller and shorter."""
    config = inputs.set_widths(mnist.get_config(), width)
    config.train.num_steps = num_steps
    return aae.spec_from_config(config)


def rows(dataset, digits, output, how):
    """A row of `COLUMNS` for each digit: means and standard deviations over seeds."""
    for digit in digits:
        path = os.path.join(output, f"digit_{digit}.json")
        kept = records.read_json(path)
        if kept is None:
            spec = make_spec(how["width"], how["num_steps"])
            kept = {"how": how, "found": find(digit, dataset, spec, how["seeds"])}
            records.write_json(path, kept)
        elif kept["how"] != how:
            raise aae.UserError(f"{path!r} is of {kept['how']}, now {how}: name another --output")
        yield kept["found"]


def mean_and_std(values):
    """The pair that a report prints; without a spread for one seed."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def table(found_by_digit, digits):
    """Printed rows, and the mean over all digits, also with its spread over seeds."""
    all_found = []
    for digit, found in zip(digits, found_by_digit):
        all_found.append(found)
        yield str(digit), *(mean_and_std(found[name]) for name in COLUMNS[1:])
    means = {name: np.mean([found[name] for found in all_found], axis=0) for name in COLUMNS[1:]}
    yield "mean", *(mean_and_std(means[name]) for name in COLUMNS[1:])


def main(argv):
    del argv
    given = flags.FLAGS
    report = Report()
    how = {"width": given.width, "num_steps": given.num_steps, "seeds": given.seeds}
    digits = [int(digit) for digit in given.digits]
    output = os.path.expanduser(given.output)
    os.makedirs(output, exist_ok=True)
    try:
        dataset = data.load(inputs.mnist_spec(given.data_dir))
        found = rows(dataset, digits, output, how)
        report.table("AUROC of the left-out digit", COLUMNS, table(found, digits))
    except aae.UserError as error:
        sys.exit(f"error: {error}")
    report.end()


def define_flags():
    """Defines the flags; not on import, since tests import several scripts with equal flags."""
    all_digits = [str(digit) for digit in range(10)]
    flags.DEFINE_string("output", None, "Directory of the results, a file a digit.", required=True)
    flags.DEFINE_string("data_dir", None, "Data of tensorflow-datasets; None: its default.")
    flags.DEFINE_list("digits", all_digits, "Which are left out.")
    flags.DEFINE_integer("num_steps", 2_000, "Steps of each training.", lower_bound=1)
    flags.DEFINE_integer(
        "width", 500, "Width of the two hidden layers of each network.", lower_bound=1
    )
    flags.DEFINE_integer("seeds", 3, "How many models a digit.", lower_bound=1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
