"""Sums over samples that come in pieces: the kernel of the Parzen window.

With the running sums of `start`, samples are added in any number of calls, and `finish` turns the
sums into log-likelihoods. The sums are plain arrays, so a long evaluation can save them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.sharding import Mesh, PartitionSpec

Sampler = Callable[[jax.Array, int], jax.Array]

CHUNK = 1_000  # samples that a sampler draws at a time: chunk i of a stream with fold_in(key, i)
_LEVELS = 255  # of an 8-bit pixel: integers up to 256 are exact in bfloat16


class Sums(NamedTuple):
    """A log-sum-exp under way, one for each device (P of them), test point and σ.

    Both are measured from offset(x, s) = ‖s‖² − 2 s·x, about the mean of the test points: the
    squared distance less ‖x‖², which is the same for all samples.
    """

    nearest: jax.Array  # f[P, T], the smallest offset so far
    total: jax.Array  # f[P, T, S], Σ exp((nearest − offset) / 2σ²)


class DifferenceSums(Sums):
    """Sums whose offset is the squared distance itself, the sum of squared differences.

    For σ so small that products are not exact enough (`products_hold`); the class is static
    under jit.
    """

    __slots__ = ()


class Stream(NamedTuple):
    """Samples that are drawn on the device: chunk i is `sampler(fold_in(key, i), CHUNK)`."""

    sampler: Sampler
    key: jax.Array
    num_samples: int
    mesh: Mesh | None = None  # the devices that share the chunks between them; None: one


def start(
    x: jax.Array, sigma: jax.Array, mesh: Mesh | None = None, differences: bool = False
) -> Sums:
    """Sums over no samples: x f[T, D], σ f[S]; of products, or of `differences` where σ is tiny."""
    devices = 1 if mesh is None else mesh.size
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    kind = DifferenceSums if differences else Sums
    return kind(
        nearest=jnp.full((devices, len(x)), far(dtype), dtype),
        total=jnp.zeros((devices, len(x), len(sigma)), dtype),
    )


def varying(x: np.ndarray | jax.Array) -> np.ndarray:
    """The columns i32[C] in which test points [T, D] differ: the only ones that need a product.

    Where all points hold one value, as MNIST's test images do in 116 of 784 pixels, a distance
    depends on the sample alone.
    """
    x = np.asarray(x)
    return np.flatnonzero((x != x[0]).any(axis=0)).astype(np.int32)


def can_bf16_split(x: np.ndarray | jax.Array) -> bool:
    """Whether products with test points f[T, D] are better split: `add_samples` says how.

    They are where all values are 8-bit pixels divided by 255, and this machine multiplies bfloat16
    several times as fast as float32: a CPU with AMX, or a GPU of compute capability 8 or more. On a
    TPU that has not been measured. `choose_method` leaves samples out instead where that is faster.
    """
    if x.dtype != np.float32 or not _has_fast_bfloat16():
        return False
    x = np.asarray(x)
    for start in range(0, len(x), 100):  # rows that stay in the cache
        with np.errstate(over="ignore"):
            pixels = x[start : start + 100] * np.float32(_LEVELS)
        levels = np.rint(pixels).clip(0, _LEVELS)
        # An ulp: x may have been multiplied by the reciprocal of 255.
        if not (abs(pixels - levels) <= 2**-23 * levels).all():
            return False
    return True


@functools.cache
def _has_fast_bfloat16():
    """An NVIDIA A100 or later; or AMX, and a jaxlib that uses it: from 0.9 on."""
    if jax.default_backend() == "gpu":
        capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
        return capability.partition(".")[0].isdigit() and float(capability) >= 8
    if jax.default_backend() != "cpu":
        return False
    if tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 9):
        return False
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return any("amx_bf16" in line.split() for line in lines)
    except OSError:  # not Linux
        return False


@functools.partial(jax.jit, static_argnames="bf16_split")
def add_samples(
    sums: Sums,
    x: jax.Array,
    samples: jax.Array,
    sigma: jax.Array,
    columns: jax.Array | None = None,
    bf16_split: bool = False,
) -> Sums:
    """Adds stored samples f[N, D] to sums that were started without a mesh.

    Args, here and below:
        sums: those of `start`, or of an earlier call; their class says how distances are computed.
        columns: for products, those of `varying(x)`; None for all, which only takes longer. Another
            number of them compiles anew.
        bf16_split: static; only where `can_bf16_split(x)`, or where all values of x are known to
            be k / 255: 255 x is exact in bfloat16, also about a whole number. A sample less the
            mean of x is rounded to 17 bits, the sum of two bfloat16 numbers, and the product is
            made of two, exact but for their float32 sum.

    The order in which a processor's product adds its terms decides how exact scores are. On MNIST's
    images, σ 0.167, one float32 product errs by 0.00015 nats rms (AVX-512) or 0.0006 (AVX2), two
    bfloat16 products by 0.0004 (AVX-512).
    """
    num_samples = samples.shape[0]
    rounds = num_rounds(num_samples)
    size = -(-num_samples // rounds)

    def read(index):
        # The last piece is moved back to end with the samples; what it repeats is masked.
        first = jnp.minimum(index * size, num_samples - size)
        rows = first + jnp.arange(size)
        return jax.lax.dynamic_slice_in_dim(samples, first, size), rows >= index * size

    return _add(sums, x, read, 0, rounds, sigma, columns, bf16_split)


def tile() -> tuple[int, int]:
    """Test points, and chunks of samples, that a device takes at a time: the fastest of several.

    docs/performance.md has the times, on CPUs and on a GPU.
    """
    return (10_000, 10) if jax.default_backend() == "gpu" else (500, 2)


def samples_per_round(
    num_samples: int, mesh: Mesh | None = None, num_chunks: int | None = None
) -> int:
    """How many samples the devices add together in a round of `add_drawn`.

    Each adds `num_chunks`, as many as `tile` says for None, or fewer where there are no more.
    """
    one_each = CHUNK * (1 if mesh is None else mesh.size)
    return one_each * min(num_chunks or tile()[1], -(-num_samples // one_each))


def num_rounds(num_samples: int, mesh: Mesh | None = None) -> int:
    """How many rounds `add_drawn` takes for `num_samples`."""
    return -(-num_samples // samples_per_round(num_samples, mesh))


def add_drawn(
    sums: Sums,
    x: jax.Array,
    stream: Stream,
    sigma: jax.Array,
    first: jax.Array | int,
    last: jax.Array | int,
    columns: jax.Array | None = None,
    bf16_split: bool = False,
) -> Sums:
    """Adds the samples that rounds `first` to `last − 1` of a stream draw.

    The chunks are the same whatever the mesh; its devices take turns. `first` and `last` may be traced: however the rounds are split
    into calls of one compiled function, the sums end bit-identical.
    """

    def add(sums, draw):
        return _add(sums, x, draw, first, last, sigma, columns, bf16_split)

    return over_devices(add, sums, stream, samples_per_round(stream.num_samples, stream.mesh))


def over_devices(
    add: Callable[[Any, Callable], Any], sums: Any, stream: Stream, per_round: int
) -> Any:
    """Calls `add(sums, draw)` on every device of a stream's mesh with its own sums.

    `draw(i)` gives the samples of a device in round i, of `per_round` on all, and which of them count.
    """
    sampler, key, num_samples, mesh = stream

    def rounds(sums, device, num_devices):
        size = per_round // num_devices

        def draw(index):
            first = (index * num_devices + device) * size
            chunks = first // CHUNK + jnp.arange(size // CHUNK)
            samples = jax.lax.map(lambda i: sampler(jax.random.fold_in(key, i), CHUNK), chunks)
            return samples.reshape(size, -1), first + jnp.arange(size) < num_samples

        return add(sums, draw)

    if mesh is None:
        return rounds(sums, 0, 1)
    axes = mesh.axis_names
    # Without check_vma: nothing is differentiated here, and the sums don't mix until `finish`.
    return jax.shard_map(
        lambda sums: rounds(sums, jax.lax.axis_index(axes), mesh.size),
        mesh=mesh,
        in_specs=PartitionSpec(axes),
        out_specs=PartitionSpec(axes),
        check_vma=False,
    )(sums)


@functools.partial(jax.jit, static_argnames="num_samples")
def finish(sums: Sums, x: jax.Array, num_samples: int, sigma: jax.Array) -> jax.Array:
    """Log-likelihoods f[S, T] in nats under the window of all samples that were added."""
    x, _, scale = prepare(x, sigma)
    nearest = sums.nearest.min(axis=0)
    total = (sums.total * _shrink(scale, nearest - sums.nearest)).sum(axis=0)
    differences = isinstance(sums, DifferenceSums)
    distance = nearest if differences else nearest + (x**2).sum(axis=1)
    log_sum = jnp.log(total).T - scale[:, None] * distance
    dim = x.shape[1]
    log_volume = dim * jnp.log(sigma.astype(x.dtype)[:, None] * math.sqrt(2 * math.pi))
    return log_sum - math.log(num_samples) - log_volume


def far(dtype: Any) -> Any:
    """An offset beyond any other, yet finite: the difference of two of them is 0, not NaN."""
    return jnp.finfo(dtype).max / 4


def prepare(x: jax.Array, sigma: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Test points about their mean, that mean, and 1 / 2σ²."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x = x.astype(dtype)
    # Distances don't change when both sides move; near the origin they round less.
    centre = x.mean(axis=0)
    return x - centre, centre, 1 / (2 * sigma.astype(dtype) ** 2)


def _shrink(scale, difference):
    """What a sum is multiplied by when its reference falls: [...] and [S] → [..., S]."""
    return jnp.exp(scale * difference[..., None])


def fold(
    offsets: jax.Array, nearest: jax.Array, total: jax.Array, scale: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Folds samples into the sums of points: offsets f[B, N], f[B], f[B, S], 1 / 2σ² f[S]."""

    def one_point(offset, nearest, total):
        """[N], [], [S] → [], [S]."""
        # The nearest sample is the largest term for every σ, so one minimum serves them all.
        closer = jnp.minimum(nearest, offset.min())
        terms = jnp.exp(scale[:, None] * (closer - offset)).sum(axis=1)
        return closer, total * _shrink(scale, closer - nearest) + terms

    return jax.vmap(one_point)(offsets, nearest, total)


@jax.checkpoint
def _squared_distances(samples, point):
    """‖s − x‖² to a point: [N, D] and [D] → [N], one fused loop.

    No difference is stored; with the checkpoint none is stored for derivatives either.
    """
    return ((samples - point) ** 2).sum(axis=1)


def _halves(value):
    """Two bfloat16 arrays whose sum is f32 `value` to 17 bits."""
    # A compiler may leave out a cast there and back; the second half would be 0.
    high = jax.lax.reduce_precision(value, exponent_bits=8, mantissa_bits=7)
    return high.astype(jnp.bfloat16), (value - high).astype(jnp.bfloat16)


def _add(sums, x, read, first, last, sigma, columns, bf16_split):
    """Folds in pieces `first` to `last − 1`; `read(i)` gives piece i and which rows count.

    The sums are those of one device: P is 1.
    """
    kind, differences = type(sums), isinstance(sums, DifferenceSums)
    given, (x, centre, scale) = x, prepare(x, sigma)
    num_points = len(x)
    num_blocks = -(-num_points // tile()[0])
    block = -(-num_points // num_blocks)
    padding = num_blocks * block - num_points

    def into_blocks(value):
        value = jnp.pad(value, ((0, padding),) + ((0, 0),) * (value.ndim - 1))
        return value.reshape(num_blocks, block, *value.shape[1:])

    def vary(value):  # in the other columns points are 0, since they are about their mean
        return value if columns is None else value[..., columns]

    def side_by_side(low, high):
        # Low halves first: added to the large sum of the high ones, each would round that sum.
        # Rows of whole cache lines: a product of 1,336 columns takes longer than one of 1,344.
        unused = jnp.zeros((len(high), -2 * high.shape[1] % 32), jnp.bfloat16)
        return jnp.concatenate([low, high, unused], axis=1)

    def factors(samples):
        """‖s‖² of samples about the centre f[N, D], and what points multiply for 2 s·x."""
        if not bf16_split:
            return (samples**2).sum(axis=1), 2 * vary(samples)
        high, low = _halves(samples * (2 / _LEVELS))
        # Rounded in every term, so that the distance to a near sample stays small.
        samples = (high.astype(x.dtype) + low.astype(x.dtype)) * (_LEVELS / 2)
        # s·(x − centre) = s·(x − middle) − s·(centre − middle), and points hold 255 (x − middle);
        # where they don't vary, both are 0.
        squared_norm = (samples**2 + 2 * samples * from_middle).sum(axis=1)
        return squared_norm, side_by_side(vary(low), vary(high))

    def one_piece(index, sums):
        samples, counts = read(index)
        samples = samples.astype(x.dtype)
        if differences:  # of the given numbers: about the mean, they would round once more
            unseen = jnp.where(counts, 0, far(x.dtype))
        else:
            squared_norm, factor = factors(samples - centre)
            squared_norm = jnp.where(counts, squared_norm, far(x.dtype))

        def offsets(point):
            """[D] → [N]"""
            if differences:
                return _squared_distances(samples, point) + unseen
            # A transposed factor would be widened to float32 first.
            product = jnp.matmul(
                factor,
                point,
                precision=jax.lax.Precision.HIGHEST,
                preferred_element_type=x.dtype,
            )
            return squared_norm - product

        def one_block(block):
            points, nearest, total = block
            # The distances of a block of points are one matrix product. Differences come from a
            # loop: fused with what uses them, they would be computed more than once, and may round
            # in several ways, so that the nearest sample is not where the minimum is.
            every = jax.lax.map if differences else lambda f, points: jax.vmap(f)(points)
            return fold(every(offsets, points), nearest, total, scale)

        return jax.lax.map(one_block, (blocks, *sums))

    if differences:
        blocks = into_blocks(given.astype(x.dtype))
    elif bf16_split:
        middle = jnp.round(centre * _LEVELS)
        # centre − middle / 255 is less exact: XLA multiplies by 1 / 255, rounded, which errs the
        # same way in every column.
        from_middle = (centre * _LEVELS - middle) / _LEVELS
        levels = vary((jnp.round(given * _LEVELS) - middle).astype(jnp.bfloat16))
        blocks = into_blocks(side_by_side(levels, levels))
    else:
        blocks = into_blocks(vary(x))
    added = jax.lax.fori_loop(first, last, one_piece, tuple(into_blocks(v[0]) for v in sums))
    return kind(*(v.reshape(-1, *v.shape[2:])[None, :num_points] for v in added))
