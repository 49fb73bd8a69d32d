"""Compares the annealed likelihood with the integral over a grid of codes, for a 2-D code.

    python -m studies.limit_grid --workdir=runs/fig2-a [--num_images=6] [--sigma=0.125] \\
        [--num_chains=16 --num_chains=64]

The integral, in float64 over the prior's ±5 standard deviations, is computed on a coarse grid, then
on a fine one in the cells that count. It is the true value of the estimate.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

import aae_jax as aae
from aae_jax import annealed, likelihood
from benchmarks.report import Report
from studies import runs

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run with a 2-D Gaussian code.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 6, "Test images.", lower_bound=1)
_SIGMA = flags.DEFINE_float("sigma", 0.125, "Std of the noise.", lower_bound=1e-6)
_CHAINS = flags.DEFINE_multi_integer("num_chains", [16], "For each image; repeated.", lower_bound=2)
_TEMPERATURES = flags.DEFINE_integer(
    "num_temperatures", 500, "Temperatures of a chain.", lower_bound=1
)
flags.mark_flag_as_required("workdir")

_CELL, _CELLS, _PARTS = 0.01, 600, 12  # of the prior's std; cells that count; parts of their sides


def log_joint(decode, x, sigma, u):
    """log p(x, u) f64[N, T] of codes u f64[N, 2], in the prior's standard deviations."""
    pixels = x.shape[1]
    found = []
    for rows in np.split(u, range(5_000, len(u), 5_000)):
        x_hat = np.asarray(decode(jnp.asarray(rows, jnp.float32)), np.float64)
        squares = (x_hat**2).sum(axis=1)[:, None] - 2 * x_hat @ x.T + (x**2).sum(axis=1)
        found.append(-squares / (2 * sigma**2) - (rows**2).sum(axis=1)[:, None] / 2)
    return np.concatenate(found) - pixels * np.log(sigma * np.sqrt(2 * np.pi)) - np.log(2 * np.pi)


def integrate(decode, x, sigma):
    """log p(x) f64[T], and the distance in nats of the least refined cell below the best."""
    side = np.arange(-5, 5, _CELL) + _CELL / 2
    coarse = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    height = log_joint(decode, x, sigma, coarse)
    part = (np.arange(_PARTS) + 0.5) / _PARTS * _CELL - _CELL / 2
    parts = np.stack(np.meshgrid(part, part), axis=-1).reshape(-1, 2)
    found = []
    for index in range(len(x)):
        cells = np.argsort(-height[:, index])[:_CELLS]
        fine = (coarse[cells][:, None] + parts).reshape(-1, 2)
        values = log_joint(decode, x[index : index + 1], sigma, fine)[:, 0]
        total = np.logaddexp.reduce(values) + 2 * np.log(_CELL / _PARTS)
        by_cell = values.reshape(_CELLS, -1).max(axis=1)
        found.append((total, values.max() - by_cell[-_CELLS // 4 :].max()))
    return np.array(found).T


def main(argv):
    del argv
    report = Report()
    logging.set_verbosity(logging.ERROR)
    try:
        run = runs.load(_WORKDIR.value)
        x = likelihood.as_rows(run.state, run.dataset.test["image"][: _NUM_IMAGES.value])
        arguments = aae.annealed_arguments(run.state, len(x))
    except aae.UserError as error:
        sys.exit(f"error: {error}")
    spec = run.state.spec
    if spec.model.code_dim != 2 or spec.prior.name != "gaussian":
        sys.exit(
            f"error: {_WORKDIR.value!r} has no 2-D Gaussian code: only that is integrated here"
        )
    std = spec.prior.std
    decode = jax.jit(lambda u: arguments["decoder"](std * u))
    start = time.perf_counter()
    truth, below = integrate(decode, np.asarray(x, np.float64), _SIGMA.value)
    title = f"image: grid ({time.perf_counter() - start:.0f} s), nats"
    report.table(
        title,
        ("image", "integral", "refined down to, nats below the best"),
        ((str(index), *pair) for index, pair in enumerate(zip(truth, below))),
    )

    def rows():
        for chains in _CHAINS.value:
            start = time.perf_counter()
            options = aae.AnnealedSpec(
                num_chains=chains, num_temperatures=_TEMPERATURES.value, block_size=1
            )
            found = annealed.log_likelihood(
                x=x, key=jax.random.key(0), sigma=_SIGMA.value, spec=options, **arguments
            )
            error = np.asarray(found.log_likelihood, np.float64) - truth
            shown = ", ".join(f"{value:.2f}" for value in error)
            yield str(chains), shown, float(np.abs(error).mean()), time.perf_counter() - start

    report.table(
        "chains: estimate − integral, nats", ("chains", "by image", "mean |·|", "s"), rows()
    )
    report.end()


if __name__ == "__main__":
    app.run(main)
