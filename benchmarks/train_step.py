"""Milliseconds a training step of the MNIST model, and the share of a run spent outside it.

python -m benchmarks.train_step
"""

import contextlib
import io
import json
import os
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

import aae_jax as aae
from aae_jax import data, experiment
from benchmarks import machine
from experiments import digits, mnist

STEPS, REPEATS = 100, 7


def one_step():
    """`train_steps` alone, beside a matrix product of the machine."""
    spec = aae.spec_from_config(mnist.get_config())
    state = aae.create_train_state(spec, jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (50_000, *spec.image_shape), dtype=np.uint8)
    dataset = {"image": jnp.asarray(images), "label": jnp.zeros(50_000, jnp.int32)}
    times = machine.interleaved(
        {
            "steps": lambda: aae.train_steps(state, dataset, STEPS),
            "product": machine.matrix_product(1_000, 784, 1_000),
        },
        REPEATS,
    )
    step, step_spread = machine.median_and_spread(times["steps"])
    product, _ = machine.median_and_spread(times["product"])
    return {
        "milliseconds a step": 1e3 * step / STEPS,
        "± (half the quartile range)": 1e3 * step_spread / STEPS,
        "GFLOP/s of a 1000×784×1000 product": 2 * 784e6 / product / 1e9,
    }


def outside():
    """A run of the launcher's training loop against the same steps in `train_steps` alone.

    The digits' images with the MNIST widths: the loop's own work (metrics, TensorBoard, progress,
    checkpoints) does not depend on the images.
    """
    config = digits.get_config()
    for network in ("encoder", "decoder", "discriminator"):
        config.model[f"{network}_hidden"] = (1_000, 1_000)
    config.train.num_steps = 1_000
    spec = aae.spec_from_config(config)
    state = aae.create_train_state(spec, jax.random.key(0))
    settings = experiment.parse_config(config)
    dataset = {name: jnp.asarray(value) for name, value in data.load(settings.data).train.items()}
    size = settings.run.steps_per_dispatch
    shares = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as workdir:
            with contextlib.redirect_stdout(io.StringIO()):
                experiment.run(config, workdir, "train")
            with open(os.path.join(workdir, "metrics.jsonl")) as file:
                lines = [json.loads(line) for line in file]
        # From the first line on: the first dispatch holds the compilation.
        steps = lines[-1]["step"] - lines[0]["step"]
        loop = (lines[-1]["seconds"] - lines[0]["seconds"]) / steps
        alone = np.median(machine.interleaved(
            {"alone": lambda: aae.train_steps(state, dataset, size)}, 10
        )["alone"]) / size  # fmt: skip
        shares.append(1 - alone / loop)
    middle, spread = machine.median_and_spread(shares)
    return {"share of a run outside train_steps": middle, "± of the share": spread}


def main():
    report = {**machine.describe(), **one_step(), **outside()}
    for name, value in report.items():
        print(f"{name:40} {value:.4g}" if isinstance(value, float) else f"{name:40} {value}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
