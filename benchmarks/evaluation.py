"""Seconds of `--mode=evaluate` and `--mode=figures` of a trained run, compared with their floor.

    python -m benchmarks.evaluation --workdir=runs/mnist --config=experiments/mnist.py \\
        [--repeats=3] [-- --config.seed=1 …]

Arguments after `--` go to the launcher: the flags of the run other than its config.

Times are those of a user, from the command to its end, with compiled programs kept from a first
round that is not counted. The floor, in the same rounds, is a Python process that imports the
launcher's modules, reads data and checkpoint and ends. For the scores, the floor includes the
operations of distances and decoder at the rate of a float32 product.
"""

import math
import os
import subprocess
import sys

import jax
import numpy as np
from absl import app, flags

from aae_jax import data, networks, parzen
from aae_jax.config import parse_config
from aae_jax.workdir import records
from benchmarks import timing
from benchmarks.report import Report

_WORKDIR = flags.DEFINE_string("workdir", None, "A finished run of launch.py.", required=True)
_CONFIG = flags.DEFINE_string("config", "experiments/mnist.py", "The config of that run.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds.", lower_bound=1)

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_START = """
import sys
import aae_jax as aae
from aae_jax import data, experiment, figures
from aae_jax.config import parse_config
from aae_jax.workdir import records
data.load(parse_config(records.read_config(sys.argv[1])).data)
aae.load_state(sys.argv[1])
"""


def command(*arguments):
    """A function that runs Python with these arguments until it ends."""
    return lambda: subprocess.run(
        [sys.executable, *arguments], cwd=_ROOT, check=True, stdout=subprocess.DEVNULL
    )


def operations(settings):
    """The operations of all distances, none left out, and of the decoder in two passes over the samples."""
    dataset = data.load(settings.data)
    validation = dataset.validation["image"][: settings.evaluation.num_validation]
    params = jax.eval_shape(lambda: networks.init(settings.spec, jax.random.key(0)))
    # Of dense layers: a multiplication for each weight.
    decoder = sum(leaf.size for leaf in jax.tree.leaves(params["decoder"]) if leaf.ndim == 2)
    distances = sum(
        len(images) * len(parzen.varying(images.reshape(len(images), -1)))
        for images in (np.asarray(validation), np.asarray(dataset.test["image"]))
    )
    return 2 * settings.evaluation.num_samples * (distances + 2 * decoder)


def main(argv):
    report = Report()
    workdir = os.path.abspath(_WORKDIR.value)
    settings = parse_config(records.read_config(workdir))
    launch = ["launch.py", f"--config={_CONFIG.value}", f"--workdir={workdir}", *argv[1:]]
    times = timing.interleaved(
        {
            "imports, data, checkpoint": command("-c", _START, workdir),
            "--mode=evaluate": command(*launch, "--mode=evaluate"),
            "--mode=figures": command(*launch, "--mode=figures"),
            "product": timing.matrix_product(*timing.PRODUCT),
        },
        _REPEATS.value,
    )
    times = {name: np.array(values) for name, values in times.items()}
    products = operations(settings) * times.pop("product") / (2 * math.prod(timing.PRODUCT))
    start = times["imports, data, checkpoint"]
    floors = {"--mode=evaluate": start + products, "--mode=figures": start}
    times["products of the scores"] = products
    report.table(
        "whole commands",
        ("command", "s", "floor / time"),
        [
            (
                name,
                timing.median_and_spread(values),
                timing.median_and_spread(floors[name] / values) if name in floors else None,
            )
            for name, values in times.items()
        ],
    )
    report.end()


if __name__ == "__main__":
    app.run(main)
