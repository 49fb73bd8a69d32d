"""The Parzen kernel on an accelerator: products, tiles, and their errors."""

import functools
import math
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import aae_jax as aae
from aae_jax import parzen
from aae_jax.parzen import running
from benchmarks import inputs, timing
from benchmarks.accelerator import models
from benchmarks.parzen import DECODER, DIM, float64_scores
from benchmarks.report import markdown

SIGMAS = np.logspace(-1, 0, 10, dtype=np.float32)
NEGLIGIBLE = 0.01  # nats; the standard errors of Table 1 are about 2
USUAL = 500, 2_000  # points × samples at a time in the package
TILES = (2_000, 2_000), (2_000, 10_000), (10_000, 10_000)
CALLS = 5  # of a product that is timed
LONGEST = 60.0  # seconds; what would take longer is extrapolated
ADDITION = "one float32 product", "two bfloat16 products"  # of add_samples, by bf16_split
# By the names that JAX gives them; a backend has some of them.
PRESETS = {
    "float32": "highest",
    "TF32, the default": "default",
    **{
        name: name
        for name in (
            "TF32_TF32_F32_X3",
            "BF16_BF16_F32",
            "BF16_BF16_F32_X3",
            "BF16_BF16_F32_X6",
            "BF16_BF16_F32_X9",
        )
    },
}


def run(setup: models.Setup) -> None:
    """Prints products, errors, tiles, and whole evaluations."""
    markdown(
        "Products alone, points × 784 × samples (operations of one float32 product)",
        ("product", "shape", "TFLOP/s"),
        product_rows(setup),
    )
    print_errors(setup)
    fastest = tiles(setup)
    whole(setup, fastest)
    markdown(
        "Samples that are too far left out, one σ, sums that have seen these samples",
        ("kernel", "ms", "times as long as two bfloat16 products", "share multiplied out"),
        screened_rows(setup),
    )


def points_and_samples(setup, num_points, num_samples):
    """f32[T, 784], 8-bit test images, and f32[N, 784], training images with noise."""
    data = models.dataset(setup)
    x = inputs.flat(data.test["image"][:num_points])
    rows = np.resize(np.arange(len(data.train["image"])), num_samples)
    samples = inputs.flat(data.train["image"][rows])
    rng = np.random.default_rng(0)
    samples = samples + np.float32(0.05) * rng.standard_normal(samples.shape, np.float32)
    return x, samples.clip(0, 1)


def product(a, b, precision):
    """a [M, D], b [N, D] → f32[M, N]."""
    dimensions = ((1,), (1,)), ((), ())
    return jax.lax.dot_general(
        a, b, dimensions, precision=precision, preferred_element_type=jnp.float32
    )


def product_rows(setup):
    """Rates at one large shape, and of the kernel's own two kinds of product."""
    num_points, num_samples = setup.size((10_000, 10_000), (100, 200))
    x, samples = (jnp.asarray(v) for v in points_and_samples(setup, num_points, num_samples))
    operations, shape = 2 * num_points * num_samples * DIM, f"{num_points} × {DIM} × {num_samples}"
    # As two bfloat16 products are made: halves side by side.
    halves = [jnp.tile(v.astype(jnp.bfloat16), 2) for v in (x, samples)]
    named = {name: (x, samples, preset) for name, preset in PRESETS.items()}
    named["two bfloat16 products as one"] = *halves, None
    for name, (a, b, precision) in named.items():
        try:
            function = jax.jit(functools.partial(product, precision=precision))
            calls = functools.partial(timing.repeat, function, CALLS, a, b)
            times = np.array(timing.interleaved({"": calls}, 3)[""]) / CALLS
        except Exception as error:  # a preset that this backend does not have
            yield name, shape, f"not there: {first_line(error)}"
            continue
        yield name, shape, timing.median_and_spread(operations / times / 1e12)


def first_line(error):
    """The first line of a message."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:120].replace("|", "/")


@functools.partial(jax.jit, static_argnames="precision")
def plain(x, samples, sigma, precision):
    """The window's formula about the mean of x, in one piece: f[T] nats."""
    centre = x.mean(axis=0)
    x, samples = x - centre, samples - centre
    squared = (x**2).sum(axis=1)[:, None] + (samples**2).sum(axis=1)
    squared = squared - 2 * product(x, samples, precision)
    log_sum = jax.nn.logsumexp(-squared / (2 * sigma**2), axis=1)
    log_volume = DIM * jnp.log(sigma * math.sqrt(2 * math.pi))
    return log_sum - math.log(len(samples)) - log_volume


@functools.cache
def error_rows(setup):
    """Rows (score, rms, mean, largest error in nats, whether the rms is negligible)."""
    x, samples = points_and_samples(setup, *setup.size((1_000, 10_000), (100, 500)))
    expected, sigma = float64_scores(x, samples, models.SIGMA), jnp.array([models.SIGMA])

    def kernel(bf16_split):
        sums = parzen.start(x, sigma)
        sums = parzen.add_samples(sums, x, samples, sigma, parzen.varying(x), bf16_split)
        return parzen.finish(sums, x, len(samples), sigma)[0]

    scores = {
        f"add_samples, {name}": functools.partial(kernel, bool(split))
        for split, name in enumerate(ADDITION)
    }
    for name, preset in PRESETS.items():
        scores[f"plain formula, {name}"] = functools.partial(
            plain, x, samples, models.SIGMA, precision=preset
        )
    rows = []
    for name, function in scores.items():
        try:
            error = np.asarray(function(), np.float64) - expected
        except Exception as problem:  # a preset that this backend does not have
            rows.append((name, f"not there: {first_line(problem)}", None, None, None))
            continue
        rms = np.sqrt((error**2).mean())
        judged = "yes" if rms < NEGLIGIBLE else "NO"
        rows.append((name, rms, error.mean(), abs(error).max(), judged))
    return rows


def print_errors(setup):
    """Prints the table."""
    markdown(
        f"Errors of log-likelihoods against float64, nats, σ {models.SIGMA}, "
        f"{models.name_of_data(setup)}",
        ("score", "rms", "mean", "largest", f"rms below {NEGLIGIBLE}"),
        error_rows(setup),
    )


def tiled(tile, function, *arguments):
    """Compiles a function with another tile, (points, samples)."""
    points, samples = tile
    with mock.patch.multiple(
        running,
        tile=lambda: (points, samples // running.CHUNK),
        samples_per_round=lambda num_samples, mesh=None: samples,  # of which the number is traced
    ):
        # A new function, so that nothing of another tile is found compiled.
        return jax.jit(lambda *arguments: function(*arguments)).lower(*arguments).compile()


def tile_name(tile):
    """For tables."""
    return f"{tile[0]} × {tile[1]}"


def tiles(setup):
    """Prints stored samples scored with several tiles; the fastest tile, by bf16_split."""
    num_points, num_samples = setup.size((10_000, 100_000), (100, 2_000))
    x, samples = points_and_samples(setup, num_points, num_samples)
    columns = parzen.varying(x)
    x, samples = jnp.asarray(x), jnp.asarray(samples)
    operations = 2 * num_points * num_samples * DIM
    times = {False: {}, True: {}}

    def rows():
        for bf16_split, name in enumerate(ADDITION):
            sigma = jnp.asarray(SIGMAS[3:4])

            def score(x, samples, sigma):
                # Not its compiled self, which knows one tile.
                add = parzen.add_samples.__wrapped__
                return add(parzen.start(x, sigma), x, samples, sigma, columns, bool(bf16_split))

            for tile in setup.size((USUAL, *TILES), (USUAL,)):
                function = tiled(tile, score, x, samples, sigma)
                found = timing.interleaved({"": lambda: function(x, samples, sigma)}, 3)[""]
                median = times[bool(bf16_split)][tile] = np.median(found)
                yield name, tile_name(tile), 1e3 * median, operations / median / 1e12

    markdown(
        f"{num_points:,} points × {num_samples:,} stored samples, one σ, by tile "
        f"({tile_name(USUAL)} is the package's on a CPU)",
        ("products", "points × samples at a time", "ms", "TFLOP/s of the distances"),
        rows(),
    )
    return {bf16_split: min(found, key=found.get) for bf16_split, found in times.items()}


def screened_rows(setup):
    """The kernel that only CPUs use so far, beside the plain one, by the tiles of this backend."""
    num_points, num_samples = setup.size((10_000, 100_000), (100, 10_000))
    x, samples = points_and_samples(setup, num_points, num_samples)
    columns, bound = parzen.varying(x), parzen.make_bound(x, SIGMAS[3:4], 10_000_000)
    x, samples, sigma = jnp.asarray(x), jnp.asarray(samples), jnp.asarray(SIGMAS[3:4])
    plain = parzen.start(x, sigma)
    seen = parzen.start_screened(bound)
    for _ in range(2):  # the first round is a plain product
        seen = parzen.add_screened_samples(seen, samples, bound)
    again = parzen.add_screened_samples(seen, samples, bound)
    share = float((again.multiplied - seen.multiplied)[0] / (again.rounds - seen.rounds)[0])
    add = parzen.add_samples
    functions = {
        ADDITION[1]: lambda: add(plain, x, samples, sigma, columns, True),
        ADDITION[0]: lambda: add(plain, x, samples, sigma, columns, False),
        "left out": lambda: parzen.add_screened_samples(seen, samples, bound),
    }
    times = {name: np.array(v) for name, v in timing.interleaved(functions, 3).items()}
    for name, found in times.items():
        ratio = timing.median_and_spread(found / times[ADDITION[1]])
        milliseconds = timing.median_and_spread(1e3 * found)
        yield name, milliseconds, ratio, share if name == "left out" else 1.0


def whole(setup, fastest):
    """Prints the scoring of test images under samples that are drawn from the decoder."""
    num_points, few, many = setup.size((10_000, 1_000_000, 10_000_000), (100, 4_000, 8_000))
    x, _ = points_and_samples(setup, num_points, 1)
    columns, x = parzen.varying(x), jnp.asarray(x)
    sampler, key = aae.sampler(models.create(models.aae_spec(setup.hidden))), jax.random.key(1)
    work = 2 * num_points * DIM + DECODER  # a sample
    times = {}

    def scoring(tile, bf16_split, sigma):
        """Number of samples → sums; and the seconds of its compilation."""

        def score(sampler, x, sigma, total):
            stream = parzen.Stream(sampler, key, total)
            sums, rounds = parzen.start(x, sigma), -(-total // tile[1])
            return parzen.add_drawn(sums, x, stream, sigma, 0, rounds, columns, bf16_split)

        start = time.perf_counter()
        function = tiled(tile, score, sampler, x, sigma, jnp.int32(0))
        compiling = time.perf_counter() - start
        timing.seconds(lambda: function(sampler, x, sigma, jnp.int32(tile[1])))
        return lambda total: function(sampler, x, sigma, jnp.int32(total)), compiling

    def rows():
        for bf16_split, name in enumerate(ADDITION):
            best = fastest[bool(bf16_split)]
            cases = dict.fromkeys(((1, USUAL), (1, best), (10, best)))
            for num_sigmas, tile in cases:
                sigma = jnp.asarray(SIGMAS[3:4] if num_sigmas == 1 else SIGMAS)
                function, compiling = scoring(tile, bool(bf16_split), sigma)
                found = timing.seconds(lambda: function(few))
                total, how = found * many / few, "extrapolated"
                if (num_sigmas, tile) == (1, best) and total < LONGEST:
                    total, how = timing.seconds(lambda: function(many)), "measured"
                times[name, num_sigmas, tile] = found
                yield (
                    name, num_sigmas, tile_name(tile), compiling, found, total, how,
                    work * many / total / 1e12,
                )  # fmt: skip

    markdown(
        f"{num_points:,} points, samples drawn from the decoder",
        (
            "products",
            "σ",
            "points × samples at a time",
            "compiling, s",
            f"{few:,} samples, s",
            f"{many:,} samples, s",
            "",
            "TFLOP/s, distances and decoder",
        ),
        rows(),
    )
    one, two = ADDITION
    own = "the fastest tile of each", fastest[False], fastest[True]
    cases = (1, "the package's tile", USUAL, USUAL), (1, *own), (10, *own)
    ratios = [
        (
            f"{two} / {one}, {num_sigmas} σ, {how}",
            times[two, num_sigmas, b] / times[one, num_sigmas, a],
        )
        for num_sigmas, how, a, b in cases
    ]
    ratios += [
        (
            f"tile {tile_name(tile)} / {tile_name(USUAL)}, 1 σ, {name}",
            times[name, 1, tile] / times[name, 1, USUAL],
        )
        for name, tile in zip(ADDITION, fastest.values())
    ]
    markdown("Time of one as a share of another's, samples drawn", ("", "share"), ratios)
