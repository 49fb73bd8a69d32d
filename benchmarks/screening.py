"""The Parzen kernel that leaves samples out (`aae_jax.parzen.screening`) beside the plain one.

    python -m benchmarks.screening                    # samples of which few or none can be left out
    python -m benchmarks.screening --workdir=runs/mnist-smooth [--data_dir=DIR]   # whole evaluations
    python -m benchmarks.screening --workdir=… --num_samples=10_000_000 --plain=false
    python -m benchmarks.screening --workdir=… --stored       # both kernels beside a float32 product

The second is Table 1's protocol on the test images of a trained run: σ chosen, test images scored. *Plain* is
the kernel that multiplies everything out, with all samples drawn twice, first for σ and then for the test
images. Both are timed in turn, compilation included. Ratios are of CPU seconds, of all cores together, which
other work on the machine changes less than the clock's.

The last adds stored samples of the run to sums that already hold 200,000. Samples are left out by the
bound for ten million.
"""

import contextlib
import dataclasses
import math
import os
import resource
import sys
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import aae_jax as aae
from aae_jax import bandwidth, data, evaluation, parzen
from aae_jax.config import parse_config
from aae_jax.train_state import to_unit
from aae_jax.workdir import records
from benchmarks import timing
from benchmarks.report import Report

_WORKDIR = flags.DEFINE_string("workdir", None, "A trained run: time whole evaluations of it.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Of tensorflow-datasets; None: the run's own.")
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples",
    None,
    "Of an evaluation, or to be added; None: 1,000,000, or 200,000, or 100,000 with `--stored`.",
)
_PLAIN = flags.DEFINE_bool("plain", True, "Time whole evaluations by the plain kernel too.")
_STORED = flags.DEFINE_bool("stored", False, "With `--workdir`: rates of stored samples.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds.", lower_bound=1)

POINTS, DIM, SIGMA = 2_000, 784, 0.2
PIECE = 20_000  # samples that are added in a call
STORED_SIGMA, SEEN = 0.125, 200_000


def near_a_surface(rng, number):
    """Points f32[N, DIM] in [0, 1] near a surface of six dimensions, as images are."""
    weights = np.random.default_rng(1)
    first, second = weights.normal(size=(6, 40)), weights.normal(size=(40, DIM)) / np.sqrt(40)
    hidden = np.tanh(rng.normal(size=(number, 6)) @ first)
    return (1 / (1 + np.exp(-3 * hidden @ second))).astype(np.float32)


def cases(num_samples):
    """(name, points f32[T, DIM], samples f32[N, DIM])"""
    rng = np.random.default_rng(0)
    points, samples = near_a_surface(rng, POINTS), near_a_surface(rng, num_samples)
    far = points.copy()
    far[0] = 50
    on_points = np.resize(points, samples.shape)
    uniform = (rng.uniform(size=v.shape).astype(np.float32) for v in (points, samples))
    yield "near a surface, as images are", points, samples
    yield "all samples equal", points, np.repeat(samples[:1], num_samples, axis=0)
    yield "one far point", far, samples
    yield "samples on the points", points, on_points
    yield (
        "the nearest samples last",
        points,
        samples + np.float32(0.3) * (np.arange(num_samples)[:, None] < num_samples - PIECE),
    )
    yield "uniform numbers", *uniform


def added(num_samples, repeats):
    """Rows (samples, CPU seconds of the plain kernel, of this one, their ratio, share multiplied out)."""
    sigma = jnp.array([SIGMA])
    for name, x, samples in cases(num_samples):
        columns = parzen.varying(x)
        bound, x = parzen.make_bound(x, sigma, num_samples), jnp.asarray(x)
        pieces = [jnp.asarray(samples[i : i + PIECE]) for i in range(0, num_samples, PIECE)]

        def plain():
            sums = parzen.start(x, sigma)
            for piece in pieces:
                sums = parzen.add_samples(sums, x, piece, sigma, columns)
            return sums

        def screened():
            sums = parzen.start_screened(bound)
            for piece in pieces:
                sums = parzen.add_screened_samples(sums, piece, bound)
            return sums

        functions = {"plain": plain, "screened": screened}
        times = timing.interleaved(functions, repeats, time.process_time)
        plain_s, screened_s = (np.array(values) for values in times.values())
        share = parzen.multiplied_share(screened())
        values = plain_s, screened_s, screened_s / plain_s
        yield name, *map(timing.median_and_spread, values), share


@contextlib.contextmanager
def plain_kernel():
    """Nothing is left out, and samples are drawn for σ and again for the test images."""
    with (
        mock.patch.object(parzen.precision, "is_worth_it", return_value=False),
        mock.patch.object(bandwidth, "draws_once", return_value=False),
    ):
        yield


def whole(workdir, num_samples, with_plain, repeats):
    """Rows (kernel, seconds, CPU seconds, times as long as this one, share, nats, σ)."""
    (settings, folds), state = _settings_and_folds(workdir), aae.load_state(workdir)
    sampler, mesh = aae.sampler(state), aae.make_mesh()

    def run(one_pass):
        sums, last = one_pass.empty, one_pass.num_rounds
        step = max(1, last // 50)
        for done in range(0, last, step):
            sums = jax.block_until_ready(one_pass.add(sums, done, min(done + step, last)))
            print(f"\r{one_pass.name} {done}/{last} ", end="", file=sys.stderr)
        print(file=sys.stderr)
        return sums

    def evaluate(number, kernel):
        spec = dataclasses.replace(settings.evaluation, num_samples=number)
        start = np.array([time.perf_counter(), time.process_time()])
        with kernel():
            found = evaluation.evaluate(sampler, folds, spec, jax.random.key(1), mesh, run)
        return np.array([time.perf_counter(), time.process_time()]) - start, found

    kernels = {"screened": contextlib.nullcontext}
    if with_plain:
        kernels = {"plain": plain_kernel, **kernels}
    times, scores = {name: [] for name in kernels}, {}
    for _ in range(repeats):
        for name, kernel in kernels.items():
            spent, scores[name] = evaluate(num_samples, kernel)
            times[name].append(spent)
    for name, values in times.items():
        (seconds, cpu), found = np.transpose(values), scores[name]
        yield (
            name,
            timing.median_and_spread(seconds),
            timing.median_and_spread(cpu),
            timing.median_and_spread(cpu / np.transpose(times["screened"])[1]),
            found["parzen/multiplied_share"],
            found["parzen/log_likelihood"],
            found["parzen/sigma"],
        )


def stored(workdir, num_samples, repeats):
    """Rows (name, CPU seconds, the float32 product's time over this one, share) of adding samples.

    The product has the same operations: test images × pixels × samples, in the shape of `timing.PRODUCT`.
    """
    state, (_, folds) = aae.load_state(workdir), _settings_and_folds(workdir)
    x = np.asarray(to_unit(jnp.asarray(folds[0].test["image"]), jnp.float32))
    x = x.reshape(len(x), -1)
    sigma = jnp.array([STORED_SIGMA])
    bound, columns = parzen.make_bound(x, sigma, 10_000_000), parzen.varying(x)
    x = jnp.asarray(x)
    seen, new = (
        jnp.asarray(aae.generate(state, jax.random.key(seed), number)).reshape(number, -1)
        for seed, number in enumerate((SEEN, num_samples))
    )
    plain = parzen.add_samples(parzen.start(x, sigma), x, seen, sigma, columns)
    screened = parzen.add_screened_samples(parzen.start_screened(bound), seen, bound)
    product = timing.matrix_product(*timing.PRODUCT)
    operations = x.size * num_samples / math.prod(timing.PRODUCT)
    repeated = max(1, round(operations))

    def add_screened():
        return parzen.add_screened_samples(screened, new, bound)

    functions = {
        "a float32 product": lambda: timing.repeat(product, repeated),
        "plain": lambda: parzen.add_samples(plain, x, new, sigma, columns),
        "screened": add_screened,
    }
    found = timing.interleaved(functions, repeats, time.process_time)
    after = add_screened()
    rounds = (after.rounds - screened.rounds).sum()
    share = float((after.multiplied - screened.multiplied).sum() / rounds)
    found["a float32 product"] = np.array(found["a float32 product"]) * operations / repeated
    for name, values in found.items():
        ratio = found["a float32 product"] / np.array(values)
        yield (
            name,
            timing.median_and_spread(values),
            timing.median_and_spread(ratio),
            share if name == "screened" else 1.0,
        )


def _settings_and_folds(workdir):
    """The settings and the data of a run."""
    settings = parse_config(records.read_config(workdir))
    where = settings.data
    if _DATA_DIR.value is not None:
        where = dataclasses.replace(where, data_dir=_DATA_DIR.value)
    return settings, data.load(where).folds


def main(argv):
    del argv
    if _STORED.value and _WORKDIR.value is None:
        raise app.UsageError("--stored needs a trained run: give --workdir")
    report = Report()
    if _WORKDIR.value is None:
        number = _NUM_SAMPLES.value or 200_000
        columns = "samples", "plain, CPU s", "screened, CPU s", "ratio", "share"
        title = f"{POINTS} points, {number} samples"
        report.table(title, columns, added(number, _REPEATS.value))
    elif _STORED.value:
        number = _NUM_SAMPLES.value or 100_000
        columns = "kernel", "CPU s", "times the product's rate", "share"
        title = f"{number} stored samples after {SEEN}, σ {STORED_SIGMA}, bound for 10 million"
        rows = stored(os.path.abspath(_WORKDIR.value), number, _REPEATS.value)
        report.table(title, columns, rows)
    else:
        number = _NUM_SAMPLES.value or 1_000_000
        columns = "kernel", "s", "CPU s", "ratio", "share", "nats", "σ"
        workdir = os.path.abspath(_WORKDIR.value)
        rows = whole(workdir, number, _PLAIN.value, _REPEATS.value)
        report.table(f"{number} samples", columns, rows)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        report.values({"peak memory of the process, GB": memory})
    report.end()


if __name__ == "__main__":
    app.run(main)
