"""Errors of scikit-learn's KernelDensity and of `parzen` against float64 NumPy.

    python -m studies.kernel_density [--manual_dir=DIR]

The data are uniform points in growing dimension and, with the four original MNIST files in DIR, 200
test images under the first 10,000 training images. KernelDensity runs with its defaults (atol=0,
rtol=0), and with a leaf size of N, for which its tree is one leaf and uses no bounds.
"""

import numpy as np
import sklearn
from absl import app, flags
from sklearn.neighbors import KernelDensity

from aae_jax import data, parzen
from benchmarks import inputs
from benchmarks.report import Report

_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "The four original MNIST files.")


def reference(x, samples, sigma):
    """Mean log-likelihoods in float64, by the formula."""
    squared = (x**2).sum(axis=1)[:, None] + (samples**2).sum(axis=1) - 2 * x @ samples.T
    exponent = -squared / (2 * sigma**2)
    top = exponent.max(axis=1)
    log_mean = top + np.log(np.exp(exponent - top[:, None]).mean(axis=1))
    return log_mean - x.shape[1] * np.log(sigma * np.sqrt(2 * np.pi))


def compare(name, x, samples, sigma):
    """One row: the true mean, and the mean error of each estimator."""
    truth = reference(x, samples, sigma)
    errors = [
        KernelDensity(bandwidth=sigma, **options).fit(samples).score_samples(x) - truth
        for options in ({}, {"algorithm": "ball_tree"}, {"leaf_size": len(samples)})
    ]
    errors.append(
        np.asarray(parzen.log_likelihood(np.float32(x), np.float32(samples), sigma)) - truth
    )
    return name, sigma, truth.mean(), *(error.mean() for error in errors)


def comparisons(manual_dir):
    """Rows as they are found."""
    rng = np.random.default_rng(0)
    for dim in (2, 8, 32, 128, 784):
        x, samples = rng.uniform(size=(100, dim)), rng.uniform(size=(2_000, dim))
        yield compare(f"uniform, {dim} dimensions", x, samples, 0.2)
    if manual_dir is not None:
        loaded = data.load(inputs.mnist_spec(manual_dir=manual_dir))
        x, samples = (
            images.reshape(len(images), -1) / 255.0
            for images in (loaded.test["image"][:200], loaded.train["image"][:10_000])
        )
        for sigma in (0.167, 0.3):
            yield compare("MNIST, 784 dimensions", x, samples, sigma)


def main(argv):
    del argv
    report = Report(sklearn=sklearn.__version__)
    report.table(
        "errors, means over test points, nats",
        ("points", "σ", "true", "default", "ball tree", "one leaf", "parzen"),
        comparisons(_MANUAL_DIR.value),
    )
    report.end()


if __name__ == "__main__":
    app.run(main)
