"""The Parzen kernel, compared with its matrix product and with other libraries.

    python -m benchmarks.parzen                            # rates, as shares of the product rate
    python -m benchmarks.parzen --mnist [--data_dir=DIR]   # MNIST's images instead of uniform numbers

Whole evaluations: `python -m benchmarks.screening`.

PyTorch's rows need PyTorch, `pip install torch==2.13.0`, and its compiled rows a C++ compiler.

*Work* is 2·T·N·D operations for the distances and 2·(8·1000 + 1000·1000 + 1000·784) for each sample
drawn from the decoder; exponentials and sums are not counted. With --mnist it includes all 784
pixels, although the kernel leaves out the 116 that are 0 in every test image. *Share* is the share
of the rate of the fastest float32 product of the same library, in the same round. Two bfloat16
products, into which `parzen.add_samples` splits products of 8-bit pixels on some processors, count
as one product, so that shares above 1 are possible. In the row of `parzen.screening`, the work of the
samples that are left out counts too; of uniform numbers, none can be left out.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import aae_jax as aae
from aae_jax import data, parzen
from benchmarks import inputs, pytorch, timing
from benchmarks.report import Report

_MNIST = flags.DEFINE_bool("mnist", False, "Score MNIST's test images, not uniform numbers.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Data of tensorflow-datasets; None: its default.")
_REPEATS = flags.DEFINE_integer(
    "repeats", 7, "Rounds, in which everything is timed in turn.", lower_bound=1
)

POINTS, SAMPLES, DIM = 10_000, 10_000, 784  # of a timed call: the 10K column of Table 1
TABLE_SAMPLES = 10_000_000  # that the margin of what is left out is for
FEW = 100  # points for the naive version
DECODER = 2 * (8 * 1_000 + 1_000 * 1_000 + 1_000 * DIM)  # operations a sample
SHAPES = ((500, 1_000), (500, 2_000), (2_000, 2_000))  # points × samples of a product
PRODUCTS = 20  # of each shape in a timed call
# Points × samples at a time in the other libraries' versions of the kernel.
TILES = ((500, 1_000), (500, 2_000), (2_000, 1_000), (2_000, 2_000))
SIGMA, SIGMAS = 0.2, np.logspace(-1, 0, 10, dtype=np.float32)


def distances(num_points, num_samples=SAMPLES):
    """Operations of the distances between points and samples."""
    return 2 * num_points * num_samples * DIM


def jax_rows(x, samples):
    """Name → (operations, function), for the product, the kernel and the naive version."""

    @jax.jit
    def product(a, b):
        # Not a @ b.T: bfloat16 numbers would be widened to transpose them.
        return jax.lax.dot_general(
            a,
            b,
            (((1,), (1,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )

    @jax.jit
    def naive(x, samples):
        def one_point(point):
            squared = ((point - samples) ** 2).sum(axis=1)
            return jax.nn.logsumexp(-squared / (2 * SIGMA**2))

        return jax.lax.map(one_point, x)

    state = aae.create_train_state(aae.Spec(image_shape=(28, 28, 1)), jax.random.key(0))
    sampler = aae.sampler(state)

    @functools.partial(jax.jit, static_argnames="bf16_split")
    def streamed(sampler, x, sigma, columns, bf16_split):
        """The computation of `log_likelihood_streamed`, traced only once."""
        stream = parzen.Stream(sampler, jax.random.key(1), SAMPLES)
        rounds = parzen.num_rounds(SAMPLES)
        sums = parzen.start(x, sigma)
        sums = parzen.add_drawn(sums, x, stream, sigma, 0, rounds, columns, bf16_split)
        return parzen.finish(sums, x, SAMPLES, sigma)

    columns, bf16_split = parzen.varying(x), parzen.can_bf16_split(x)

    def float32(sigma):
        """`log_likelihood` without split products."""
        sums = parzen.add_samples(parzen.start(x, sigma), x, samples, sigma, columns)
        return parzen.finish(sums, x, SAMPLES, sigma)

    def screened(sigma):
        """Adds the samples to sums that have seen them: only those that may count are multiplied."""
        bound = parzen.make_bound(x, sigma, TABLE_SAMPLES)
        sums = parzen.start_screened(bound)
        for _ in range(2):  # the first round is a plain product
            sums = parzen.add_screened_samples(sums, samples, bound)
        return functools.partial(parzen.add_screened_samples, sums, samples, bound)

    x, samples, sigmas = jnp.asarray(x), jnp.asarray(samples), jnp.asarray(SIGMAS)
    drawn = distances(POINTS) + SAMPLES * DECODER
    rows = {
        f"product {m}×{DIM}×{n}": (
            PRODUCTS * distances(m, n),
            functools.partial(timing.repeat, product, PRODUCTS, x[:m], samples[:n]),
        )
        for m, n in SHAPES
    }
    a, b = (
        jnp.tile(v[: SHAPES[-1][i]].astype(jnp.bfloat16), 2) for i, v in enumerate((x, samples))
    )
    for m, n in SHAPES:
        rows[f"two bfloat16 products {m}×{DIM}×{n}"] = (
            PRODUCTS * distances(m, n),
            functools.partial(timing.repeat, product, PRODUCTS, a[:m], b[:n]),
        )
    rows["one σ"] = distances(POINTS), lambda: parzen.log_likelihood(x, samples, SIGMA)
    rows["ten σ"] = distances(POINTS), lambda: parzen.log_likelihood(x, samples, sigmas)
    if bf16_split:
        rows["one σ, one float32 product"] = distances(POINTS), lambda: float32(jnp.array([SIGMA]))
        rows["ten σ, one float32 product"] = distances(POINTS), lambda: float32(sigmas)
    rows["one σ, warm, samples too far left out"] = (
        distances(POINTS),
        screened(jnp.array([SIGMA])),
    )
    for name, sigma in (("one σ", sigmas[3:4]), ("ten σ", sigmas)):
        rows[f"{name}, drawn from the decoder"] = (
            drawn,
            functools.partial(streamed, sampler, x, sigma, columns, bf16_split),
        )
    rows["one σ, naive: a point at a time"] = distances(FEW), lambda: naive(x[:FEW], samples)
    return rows


def numpy_rows(x, samples):
    """The product, and the kernel's algorithm in NumPy."""

    def kernel(block, chunk):
        scale = np.float32(1 / (2 * SIGMA**2))
        nearest = np.full(len(x), np.float32(1e30))
        total = np.zeros_like(nearest)
        for s in np.split(samples, len(samples) // chunk):
            squared_norm = (s**2).sum(axis=1)
            for start in range(0, len(x), block):
                rows = slice(start, start + block)
                offset = x[rows] @ s.T
                offset *= -2
                offset += squared_norm
                closer = np.minimum(nearest[rows], offset.min(axis=1))
                np.subtract(closer[:, None], offset, out=offset)
                offset *= scale
                np.exp(offset, out=offset)
                shrink = np.exp(scale * (closer - nearest[rows]))
                total[rows] = total[rows] * shrink + offset.sum(axis=1)
                nearest[rows] = closer
        return np.log(total) - scale * (nearest + (x**2).sum(axis=1))

    rows = {
        f"product {m}×{DIM}×{n}": (
            PRODUCTS * distances(m, n),
            functools.partial(timing.repeat, np.matmul, PRODUCTS, x[:m], samples[:n].T),
        )
        for m, n in SHAPES
    }
    for tile in TILES:
        rows[f"one σ, {tile}"] = distances(POINTS), functools.partial(kernel, *tile)
    return rows


def torch_rows(x, samples):
    """Products and kernels, eager and compiled, by the default library and by oneDNN.

    If `parzen` splits its products, PyTorch gets the same numbers, exact in bfloat16, and oneDNN
    multiplies them in bfloat16.
    """
    import torch

    bf16_split = parzen.can_bf16_split(x)
    x, samples = torch.from_numpy(x), torch.from_numpy(samples)

    def default(a, b):
        return a @ b.T

    def onednn(a, b):
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")

    def halves(a, b):
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        try:
            return onednn(a, b)
        finally:
            torch.backends.mkldnn.matmul.fp32_precision = "none"

    def as_given(x):
        return x

    def levels(x):
        return (255 * x).round().tile(2)

    def in_halves(s):
        s = s / 255
        high = s.bfloat16().float()
        return torch.cat([high, (s - high).bfloat16().float()], dim=1)

    def fold(product, squared_norm, nearest, total, scale):
        offset = squared_norm - 2 * product
        closer = torch.minimum(nearest, offset.amin(dim=1))
        terms = torch.exp(scale[:, None, None] * (closer[:, None] - offset)).sum(dim=2)
        return closer, total * torch.exp(scale[:, None] * (closer - nearest)) + terms

    def kernel(multiply, of_points, of_samples, fold, tile, sigma):
        block, chunk = tile
        points = of_points(x)
        scale = 1 / (2 * torch.atleast_1d(torch.as_tensor(sigma)) ** 2)
        nearest = torch.full((len(x),), 1e30)
        total = torch.zeros(len(scale), len(x))
        for s in samples.split(chunk):
            squared_norm, factor = (s**2).sum(dim=1), of_samples(s)
            for start in range(0, len(x), block):
                rows = slice(start, start + block)
                product = multiply(points[rows], factor)
                nearest[rows], total[:, rows] = fold(
                    product, squared_norm, nearest[rows], total[:, rows], scale
                )
        return torch.log(total) - scale[:, None] * (nearest + (x**2).sum(dim=1))

    # `fold` is everything but the product, which a compiler hands to the same library.
    compiled = torch.compile(fold, dynamic=False)
    rows = {}
    libraries = [("default", default, as_given, as_given), ("oneDNN", onednn, as_given, as_given)]
    if bf16_split:
        libraries.append(("two bfloat16 products", halves, levels, in_halves))
    for library, *how_to in libraries:
        multiply, of_points, of_samples = how_to
        for m, n in SHAPES:
            name = library if multiply is halves else f"product, {library}"
            rows[f"{name}, {m}×{DIM}×{n}"] = (
                PRODUCTS * distances(m, n),
                functools.partial(
                    timing.repeat, multiply, PRODUCTS, of_points(x[:m]), of_samples(samples[:n])
                ),
            )
        for how, folded, sigma, tiles in (
            ("one σ, eager", fold, SIGMA, TILES[-2:]),
            ("one σ, compiled", compiled, SIGMA, TILES),
            ("ten σ, compiled", compiled, SIGMAS, TILES[:2]),
        ):
            for tile in tiles:
                rows[f"{how}, {library}, {tile}"] = (
                    distances(POINTS),
                    functools.partial(kernel, *how_to, folded, tile, sigma),
                )
    inference = torch.inference_mode()
    return {name: (work, inference(function)) for name, (work, function) in rows.items()}


def points_and_samples():
    """f32[POINTS, DIM] and f32[SAMPLES, DIM]: MNIST's test and training images, or uniform."""
    if _MNIST.value:
        mnist = data.load(inputs.mnist_spec(_DATA_DIR.value))
        return inputs.flat(mnist.test["image"][:POINTS]), inputs.flat(
            mnist.train["image"][:SAMPLES]
        )
    rng = np.random.default_rng(0)
    return tuple(rng.uniform(size=(n, DIM)).astype(np.float32) for n in (POINTS, SAMPLES))


def rates(x, samples, repeats, with_torch):
    """Rows (name, GFLOP/s, share of the fastest product of the same library)."""
    libraries = {"JAX": jax_rows(x, samples), "NumPy": numpy_rows(x, samples)}
    if with_torch:
        libraries["PyTorch"] = torch_rows(x, samples)
    rows = {
        (library, name): row for library, named in libraries.items() for name, row in named.items()
    }
    times = timing.interleaved({name: row[1] for name, row in rows.items()}, repeats)
    found = {name: rows[name][0] / np.array(times[name]) / 1e9 for name in rows}
    table = []
    for library in libraries:
        own = {name: values for (of, name), values in found.items() if of == library}
        products = [values for name, values in own.items() if name.startswith("product")]
        fastest = max(products, key=np.median)
        for name, values in own.items():
            rate, share = (timing.median_and_spread(v) for v in (values, values / fastest))
            table.append((f"{library}, {name}", rate, share))
    return table


def float64_scores(x, samples, sigma):
    """Log-likelihoods f64[T] of x [T, D] under samples [N, D], in NumPy."""
    x, samples = x.astype(np.float64), samples.astype(np.float64)
    squared = (x**2).sum(axis=1)[:, None] + (samples**2).sum(axis=1)
    exponent = (x @ samples.T - squared / 2) / sigma**2
    top = exponent.max(axis=1)
    log_mean = top + np.log(np.exp(exponent - top[:, None]).mean(axis=1))
    return log_mean - x.shape[1] * np.log(sigma * np.sqrt(2 * np.pi))


def errors(x, samples, few=1_000):
    """Errors of the first points' scores against float64, nats: rows (name, rms, of the mean)."""
    expected, sigma = float64_scores(x[:few], samples, SIGMA), jnp.array([SIGMA])
    table = []
    for name, bf16_split in (("one float32 product", False), ("two bfloat16 products", True)):
        if bf16_split and not parzen.can_bf16_split(x):
            continue
        sums = parzen.start(x, sigma)
        sums = parzen.add_samples(sums, x, samples, sigma, parzen.varying(x), bf16_split)
        error = np.asarray(parzen.finish(sums, x, len(samples), sigma))[0, :few] - expected
        table.append((f"JAX, {name}", np.sqrt((error**2).mean()), error.mean()))
    return table


def main(argv):
    del argv
    torch = pytorch.load()
    report = Report(**pytorch.versions(torch))
    arrays = points_and_samples()
    rows = rates(*arrays, _REPEATS.value, torch is not None)
    title = f"{POINTS} points × {SAMPLES} samples × {DIM}"
    report.table(title, ("row", "GFLOP/s", "share of product"), rows)
    columns = "error against float64, nats", "root mean square", "of the mean"
    report.table("one σ", columns, errors(*arrays))
    report.end()


if __name__ == "__main__":
    app.run(main)
