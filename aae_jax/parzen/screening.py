"""The kernel of the Parzen window that computes distances only to samples that can count.

`bound` selects these samples. In each round, a block of 64 points takes the samples that any of its
points may need, 64 at a time. A round is a plain product while most samples are needed: before near
samples have been seen, or for a large σ. Products are in the type of the points, never split. Scores of
stored and of drawn samples are exact to 10⁻⁶ nats and the rounding of products.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from aae_jax.parzen.bound import BLOCK, Bound
from aae_jax.parzen.running import CHUNK, Stream, Sums, far, fold, over_devices, samples_per_round

NUM_CHUNKS = 10  # of samples in a round of a device
_TAKEN = 64  # samples that a block takes at a time
_LARGEST_SHARE = 0.3  # beyond which the plain product is faster
_EVERY = 16  # rounds between two tries where it was


class ScreenedSums(NamedTuple):
    """Sums for the points of a `Bound`, in its order, and what has been multiplied out for them."""

    nearest: jax.Array  # f[P, T'], as in `Sums`, of T' points with padding
    total: jax.Array  # f[P, T', S]
    rounds: jax.Array  # i32[P], how many there were
    share: jax.Array  # f[P], of the samples that a block needed when that was last counted
    multiplied: jax.Array  # f[P], the sum over rounds of the share that was multiplied out


def start_screened(bound: Bound, mesh: Mesh | None = None) -> ScreenedSums:
    """Sums over no samples."""
    devices, num_points = 1 if mesh is None else mesh.size, bound.allowance.size
    dtype = bound.points.dtype
    return ScreenedSums(
        nearest=jnp.full((devices, num_points), far(dtype), dtype),
        total=jnp.zeros((devices, num_points, len(bound.scale)), dtype),
        rounds=jnp.zeros(devices, jnp.int32),
        share=jnp.ones(devices, dtype),
        multiplied=jnp.zeros(devices, dtype),
    )


@jax.jit
def add_screened_samples(sums: ScreenedSums, samples: jax.Array, bound: Bound) -> ScreenedSums:
    """Adds stored samples f[N, D]: as `add_samples`."""
    num_samples = len(samples)
    size = samples_per_round(num_samples, None, NUM_CHUNKS)
    samples = jnp.pad(samples, ((0, max(0, size - num_samples)), (0, 0)))

    def read(index):
        # The last piece is moved back to end with the samples; what it repeats is masked.
        first = jnp.minimum(index * size, len(samples) - size)
        rows = first + jnp.arange(size)
        counts = (rows >= index * size) & (rows < num_samples)
        return jax.lax.dynamic_slice_in_dim(samples, first, size), counts

    return _add(sums, read, 0, -(-num_samples // size), bound)


def add_screened_drawn(
    sums: ScreenedSums,
    stream: Stream,
    first: jax.Array | int,
    last: jax.Array | int,
    bound: Bound,
) -> ScreenedSums:
    """Adds rounds `first` to `last − 1` of a stream, of `NUM_CHUNKS` a device: as `add_drawn`."""

    def add(sums, draw):
        return _add(sums, draw, first, last, bound)

    per_round = samples_per_round(stream.num_samples, stream.mesh, NUM_CHUNKS)
    return over_devices(add, sums, stream, per_round)


def in_order(sums: ScreenedSums, bound: Bound) -> Sums:
    """The sums of the test points as they were given: for `finish`."""
    return Sums(sums.nearest[:, bound.place], sums.total[:, bound.place])


def multiplied_share(sums: ScreenedSums) -> float:
    """Which share of the products of points and samples was multiplied out, from 0 to 1."""
    return float(sums.multiplied.sum() / sums.rounds.sum())


def _add(sums, read, first, last, bound):
    """Folds in pieces `first` to `last − 1`, of a multiple of 1,000 samples, on one device."""
    dtype = bound.points.dtype

    def one_round(index, sums):
        nearest, total, rounds, share, multiplied = sums
        samples, counts = read(index)
        samples, squared_norm = _about_the_mean(samples, bound)
        squared_norm = jnp.where(counts, squared_norm, far(dtype))

        def plain(_):
            return _multiply_all((nearest, total), samples, squared_norm, bound), 1.0

        def screened(needed):
            found = needed.mean(dtype=dtype)
            return jax.lax.cond(
                found > _LARGEST_SHARE,
                plain,
                lambda needed: (
                    _multiply_needed((nearest, total), samples, squared_norm, needed, bound), found
                ),
                needed,
            ), found  # fmt: skip

        def tried():
            return screened(_needed(nearest, samples, squared_norm, bound))

        def untried():
            return plain(None), share

        is_tried = (share <= _LARGEST_SHARE) | (rounds % _EVERY == 1)
        (added, done), share = jax.lax.cond(is_tried, tried, untried)
        return *added, rounds + 1, share.astype(dtype), multiplied + done

    groups = bound.allowance.shape
    nearest, total, *others = (value[0] for value in sums)
    into = nearest.reshape(groups), total.reshape(*groups, -1), *others
    nearest, total, *others = jax.lax.fori_loop(first, last, one_round, into)
    sums = ScreenedSums(nearest.reshape(-1), total.reshape(groups[0] * groups[1], -1), *others)
    return jax.tree.map(lambda value: value[None], sums)


def _offsets(points, samples, squared_norm):
    """f[B, C] and f[N, C] → f[B, N]"""
    return squared_norm - _product(2 * points, samples)


def _product(points, samples):
    return jnp.matmul(points, samples.T, precision=jax.lax.Precision.HIGHEST)


def _tiles(value):
    """Samples of a product that stays in the cache: [N, …] → [N / 2000, 2000, …]."""
    size = 2 * CHUNK if len(value) % (2 * CHUNK) == 0 else CHUNK
    return value.reshape(len(value) // size, size, *value.shape[1:])


def _about_the_mean(samples, bound):
    """Samples f[N, D] about the points' mean: f[N, C] where points vary, and ‖s‖² f[N] of all columns."""

    def one_tile(tile):
        tile = tile.astype(bound.points.dtype) - bound.centre
        # Indexing fails under shard_map where the bound is an argument of the jitted caller.
        return jnp.take(tile, bound.columns, axis=1, mode="clip"), (tile**2).sum(axis=1)

    # All samples at once, XLA would keep them transposed, and their differences twice.
    varied, squared_norm = jax.lax.map(one_tile, _tiles(samples))
    return varied.reshape(len(samples), -1), squared_norm.reshape(-1)


def _multiply_all(sums, samples, squared_norm, bound):
    """The plain kernel: all samples for all points."""

    def one_tile(sums, tile):
        def one_group(group):
            points, nearest, total = group
            return fold(_offsets(points, *tile), nearest, total, bound.scale)

        return jax.lax.map(one_group, (bound.points, *sums)), None

    return jax.lax.scan(one_tile, sums, (_tiles(samples), _tiles(squared_norm)))[0]


def _needed(nearest, samples, squared_norm, bound):
    """Which samples any point of a block may need: bool[G, B / 64, N].

    The bound less the threshold is one product of K + 3 numbers.
    """
    projected = jnp.matmul(samples, bound.basis, precision=jax.lax.Precision.HIGHEST)
    rest = squared_norm - (projected**2).sum(axis=1)
    rest = jnp.sqrt(jnp.maximum(rest, 0) + bound.slack * squared_norm)
    lowered = squared_norm * (1 - bound.slack)
    of_samples = jnp.column_stack([projected[:, :-3], rest, lowered, jnp.ones_like(lowered)])
    threshold = nearest + bound.allowance + bound.of_nearest * abs(nearest)
    ends = jnp.stack([jnp.ones_like(threshold), -threshold], axis=-1)
    of_points = jnp.concatenate([bound.factors, ends], axis=-1)

    def one_group(points):
        def one_tile(tile):
            above = _product(points, tile).reshape(-1, BLOCK, tile.shape[0])
            return above.min(axis=1) <= 0

        needed = jax.lax.map(one_tile, _tiles(of_samples))
        return jnp.swapaxes(needed, 0, 1).reshape(needed.shape[1], -1)

    return jax.lax.map(one_group, of_points)


def _multiply_needed(sums, samples, squared_norm, needed, bound):
    """Each block's own samples, as many at a time as make a product."""
    num_blocks = needed.shape[0] * needed.shape[1]

    def in_blocks(value):
        return value.reshape(num_blocks, BLOCK, *value.shape[2:])

    def one_block(block):
        points, needed, *sums = block
        # The k-th needed sample is where the count reaches k.
        counts = jnp.cumsum(needed.astype(jnp.int32))

        def some(index, sums):
            ranks = index * _TAKEN + jnp.arange(1, _TAKEN + 1)
            rows = jnp.searchsorted(counts, ranks)
            norms = jnp.where(ranks <= counts[-1], squared_norm[rows], far(samples.dtype))
            nearest, total = sums
            return fold(_offsets(points, samples[rows], norms), nearest, total, bound.scale)

        return jax.lax.fori_loop(0, -(-counts[-1] // _TAKEN), some, tuple(sums))

    blocks = in_blocks(bound.points), needed.reshape(num_blocks, -1), *map(in_blocks, sums)
    found = jax.lax.map(one_block, blocks)
    return tuple(value.reshape(like.shape) for value, like in zip(found, sums))
