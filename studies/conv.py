"""Compares a convolutional autoencoder with the perceptron, on colour images of 32×32.

    python -m studies.colour_digits --output=colour.mat
    python -m studies.conv --data=colour.mat --workdir=runs/conv [--num_steps=4000]

Both are trained by `experiments/fig5.py:b` (labels in decoder and discriminator) for the same
number of steps. The perceptron's encoder is "mlp_centred", its decoder "mlp". "conv" has a
convolutional encoder and decoder, and the perceptron's discriminator of codes. A classifier, trained
on real images without colours, classifies generated images. An interrupted training resumes in
`--workdir`.
"""

import os

import jax
import jax.numpy as jnp
from absl import app, flags

import aae_jax as aae
from aae_jax import experiment
from aae_jax.workdir import records
from benchmarks import timing
from benchmarks.report import Report
from experiments import fig5
from studies import runs

_DATA = flags.DEFINE_string("data", None, "The file of colour_digits.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Gets a run for each model.", required=True)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 4_000, "Steps of each training.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds, in which both are timed.", lower_bound=1)

NETWORKS = {"perceptron": ("mlp_centred", "mlp"), "conv": ("conv", "conv")}  # encoder, decoder
STEPS = 5  # of a timed call
COLUMNS = (
    "encoder and decoder",
    "parameters",
    "half squared error",
    "sliced Wasserstein / std",
    "code std / prior std",
    "cells read as their label",
    "s a step",
)


def make_config(encoder, decoder):
    """Panel b of Fig. 5 on the colour digits, with few steps."""
    config = fig5.get_config("b")
    config.data.name = "files"
    config.data.path = os.path.abspath(_DATA.value)
    config.model.encoder, config.model.decoder = encoder, decoder
    config.train.num_steps = _NUM_STEPS.value
    return config


def step_times(trained, repeats):
    """Seconds per step of each model, timed in turn."""
    functions = {}
    for name, run in trained.items():
        train = {key: jnp.asarray(value) for key, value in run.dataset.train.items()}
        functions[name] = lambda state=run.state, train=train: aae.train_steps(state, train, STEPS)
    times = timing.interleaved(functions, repeats)
    return {
        name: timing.median_and_spread([value / STEPS for value in values])
        for name, values in times.items()
    }


def row(name, workdir, run, classifier, step_time):
    """One of `COLUMNS`."""
    found = records.read_json(os.path.join(workdir, "results.json"))
    params = {network: run.state.params[network] for network in ("encoder", "decoder")}
    return (
        name,
        sum(leaf.size for leaf in jax.tree.leaves(params)),
        found["reconstruction/half_squared_error"],
        found["prior/sliced_wasserstein"] / found["prior/std"],
        found["code/std"] / found["prior/std"],
        runs.cells_read_as_their_label(run.state, classifier),
        step_time,
    )


def main(argv):
    del argv
    report = Report()
    workdirs = {name: os.path.join(_WORKDIR.value, name) for name in NETWORKS}
    for name, workdir in workdirs.items():
        experiment.run(make_config(*NETWORKS[name]), workdir)
    trained = {name: runs.load(workdir) for name, workdir in workdirs.items()}
    dataset = trained["perceptron"].dataset
    classifier = runs.fit_classifier(dataset, runs.contrast)
    test = dataset.test
    floor = records.read_json(os.path.join(workdirs["perceptron"], "results.json"))
    report.values(
        {
            "steps": _NUM_STEPS.value,
            "classifier, accuracy on real test images": classifier.score(
                test["image"], test["label"]
            ),
            "sliced Wasserstein / std, of two samples of the prior": floor[
                "prior/sliced_wasserstein_floor"
            ]
            / floor["prior/std"],
        }
    )
    times = step_times(trained, _REPEATS.value)
    rows = [row(name, workdirs[name], trained[name], classifier, times[name]) for name in NETWORKS]
    report.table("models", COLUMNS, rows)
    report.end()


if __name__ == "__main__":
    app.run(main)
