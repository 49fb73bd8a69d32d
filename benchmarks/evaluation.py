"""Seconds of `--mode=evaluate` and `--mode=figures` of a trained run, against what they must take.

    python -m benchmarks.evaluation --workdir=runs/mnist --config=experiments/mnist.py \\
        [--repeats=3] [-- --config.seed=1 …]

What follows `--` goes to the launcher: what the run was started with beside the config.

Started as a user does, from the command to its end, the compiled programs kept from the round that is
not counted. The floor, in the same rounds: a Python that imports what the launcher imports, reads
data and checkpoint and ends; for the scores also the operations of distances and decoder at the
rate of a float32 product.
"""

import json
import os
import subprocess
import sys

import numpy as np
from absl import app, flags

from aae_jax import data, parzen
from aae_jax.spec import parse_config
from benchmarks import machine

_WORKDIR = flags.DEFINE_string("workdir", None, "A finished run of launch.py.", required=True)
_CONFIG = flags.DEFINE_string("config", "experiments/mnist.py", "The config of that run.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds.", lower_bound=2)

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_START = """
import json, sys
import aae_jax as aae
from aae_jax import checkpoint, data, experiment, figures
from aae_jax.spec import parse_config
data.load(parse_config(json.load(open(sys.argv[1] + "/config.json"))).data)
aae.load_state(sys.argv[1])
"""


def command(*arguments):
    """A function that runs Python with these arguments to its end."""
    return lambda: subprocess.run(
        [sys.executable, *arguments], cwd=_ROOT, check=True, stdout=subprocess.DEVNULL
    )


def operations(settings):
    """Of the distances that need a product, and of the decoder in both passes over the samples."""
    dataset = data.load(settings.data)
    validation = dataset.validation["image"][: settings.evaluation.num_validation]
    widths = (
        settings.spec.model.code_dim,
        *settings.spec.model.decoder_hidden,
        settings.spec.num_pixels,
    )
    decoder = sum(m * n for m, n in zip(widths, widths[1:]))
    distances = sum(
        len(images) * len(parzen.varying(images.reshape(len(images), -1)))
        for images in (np.asarray(validation), np.asarray(dataset.test["image"]))
    )
    return 2 * settings.evaluation.num_samples * (distances + 2 * decoder)


def main(argv):
    report = machine.describe()
    for name, value in report.items():
        print(f"{name:12} {value}")
    workdir = os.path.abspath(_WORKDIR.value)
    with open(os.path.join(workdir, "config.json")) as file:
        config = json.load(file)
    launch = ["launch.py", f"--config={_CONFIG.value}", f"--workdir={workdir}", *argv[1:]]
    times = machine.interleaved(
        {
            "imports, data, checkpoint": command("-c", _START, workdir),
            "--mode=evaluate": command(*launch, "--mode=evaluate"),
            "--mode=figures": command(*launch, "--mode=figures"),
            "product": machine.matrix_product(2_000, 784, 2_000),
        },
        _REPEATS.value,
    )
    products = (
        operations(parse_config(config)) * np.array(times.pop("product")) / (2 * 2_000**2 * 784)
    )
    times["products of the scores"] = list(products)
    for name, values in times.items():
        report[name] = middle, spread = machine.median_and_spread(values)
        print(f"{name:30} {middle:6.2f} ± {spread:.2f} s")
    floor = np.array(times["imports, data, checkpoint"])
    shares = {
        "--mode=evaluate": (floor + products) / times["--mode=evaluate"],
        "--mode=figures": floor / times["--mode=figures"],
    }
    for name, values in shares.items():
        report[f"{name}, floor"] = middle, spread = machine.median_and_spread(list(values))
        print(f"{'floor / time, ' + name:30} {middle:6.2f} ± {spread:.2f}")
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main)
