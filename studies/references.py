"""Table 1's score for samples without a model: training images, and their k-means centroids.

    python -m studies.references [--data_dir=DIR]

The protocol of `experiments/mnist.py`: 10,000 samples, σ chosen by the first 1,000 validation
images, all test images. The images are the first 10,000 of the training set. The 10,000 centroids
are those of the 50,000 training images (Lloyd's algorithm from random images).
"""

import dataclasses
import time

from absl import app, flags
from sklearn.cluster import KMeans

import aae_jax as aae
from aae_jax import data
from aae_jax.config import parse_config
from benchmarks import inputs
from benchmarks.report import Report
from experiments import mnist

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Data of tensorflow-datasets; None: its default.")
_ITERATIONS = flags.DEFINE_integer(
    "iterations", 20, "Iterations of Lloyd's algorithm.", lower_bound=1
)

NUM_SAMPLES = 10_000


def centroids(images, iterations):
    """f32[NUM_SAMPLES, P], means of training images."""
    model = KMeans(NUM_SAMPLES, init="random", n_init=1, max_iter=iterations, random_state=0, tol=0)
    return model.fit(images).cluster_centers_


def main(argv):
    del argv
    report = Report()
    settings = parse_config(mnist.get_config())
    dataset = data.load(inputs.mnist_spec(_DATA_DIR.value))
    images = inputs.flat(dataset.train["image"])
    start = time.perf_counter()
    samples = {
        "training images": images[:NUM_SAMPLES],
        "k-means centroids": centroids(images, _ITERATIONS.value),
    }
    seconds = time.perf_counter() - start
    report.values({"iterations": _ITERATIONS.value, "k-means, seconds": seconds})
    grids = {
        "Goodfellow's grid": None,
        "the grid of mnist.py": settings.evaluation.sigmas,
    }
    rows = []
    for name, rows_of in samples.items():
        for grid, sigmas in grids.items():
            spec = dataclasses.replace(settings.evaluation, sigmas=sigmas)
            found = aae.evaluate(rows_of, dataset.folds, spec)
            nats = found["parzen/log_likelihood"], found["parzen/standard_error"]
            rows.append((f"{name}, {grid}", nats, found["parzen/sigma"]))
    report.table("Table 1's protocol", ("samples", "nats ± s.e.", "σ"), rows)
    report.end()


if __name__ == "__main__":
    app.run(main)
