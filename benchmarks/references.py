"""Table 1's number for samples that no model drew: training images, and k-means centroids of them.

    python -m benchmarks.references [--data_dir=DIR]

The protocol of `experiments/mnist.py`: 10,000 samples, σ by the first 1,000 validation images, all
test images. The images are the first 10,000 of the training set; the centroids 10,000 of the 50,000
training images (Lloyd's algorithm from random images).
"""

import json
import time

import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from sklearn.cluster import KMeans

from aae_jax import data, parzen
from aae_jax.spec import parse_config
from benchmarks import machine
from experiments import default, mnist

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Of tensorflow-datasets; None: its default.")
_ITERATIONS = flags.DEFINE_integer("iterations", 20, "Of Lloyd's algorithm.", lower_bound=1)

NUM_SAMPLES = 10_000


def flat(images):
    """f32[N, P], pixels in [0, 1]."""
    return np.asarray(images).reshape(len(images), -1) / np.float32(255)


def score(samples, dataset, num_validation, sigmas):
    """σ, and the mean test log-likelihood with its standard error, in nats."""
    validation, test = (
        jnp.asarray(flat(split["image"])) for split in (dataset.validation, dataset.test)
    )
    samples = jnp.asarray(samples)
    sigma, _ = parzen.select_sigma(validation[:num_validation], samples, jnp.asarray(sigmas))
    nats = np.asarray(parzen.log_likelihood(test, samples, sigma), np.float64)
    return {
        "sigma": float(sigma),
        "log_likelihood": nats.mean(),
        "standard_error": nats.std() / np.sqrt(len(nats)),
    }


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)
    config = mnist.get_config()
    config.data.data_dir = _DATA_DIR.value
    settings = parse_config(config)
    dataset = data.load(settings.data)
    train = flat(dataset.train["image"])
    start = time.perf_counter()
    centroids = (
        KMeans(
            NUM_SAMPLES, init="random", n_init=1, max_iter=_ITERATIONS.value, random_state=0, tol=0
        )
        .fit(train)
        .cluster_centers_
    )
    seconds = time.perf_counter() - start
    report = {**machine.describe(), "iterations": _ITERATIONS.value, "k-means, seconds": seconds}
    grids = {
        "Goodfellow's grid": default.get_config().evaluation.sigmas,
        "the grid of mnist.py": settings.evaluation.sigmas,
    }
    rows = {"training images": train[:NUM_SAMPLES], "k-means centroids": centroids}
    for name, value in report.items():
        print(f"{name:20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}")
    for name, samples in rows.items():
        for grid, sigmas in grids.items():
            found = score(samples, dataset, settings.evaluation.num_validation, sigmas)
            report[f"{name}, {grid}"] = found
            print(
                f"{name:20} {grid:22} {found['log_likelihood']:8.2f} ± "
                f"{found['standard_error']:.2f} nats, σ {found['sigma']:.4f}"
            )
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main)
