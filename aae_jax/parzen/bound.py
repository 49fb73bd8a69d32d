"""A lower bound on distances at a tenth of their cost: which samples can be left out.

With an orthonormal projection P onto the K leading components of the test points, and the lengths r of
what it leaves of a point and of a sample,

    ‖x − s‖² ≥ ‖Px − Ps‖² + (r_x − r_s)² = ‖x‖² + ‖s‖² − 2 (Px·Ps + r_x r_s):

a product of K + 1 numbers instead of D. In terms of offset(x, s) = ‖s‖² − 2 s·x, a sample whose bound lies
above the nearest offset so far by more than 2σ² (ln N + ln 10⁶) adds less than 10⁻⁶ / N to the sum of which
the nearest sample is 1. All of them together, N at the most, change a score by less than 10⁻⁶ nats.

Rounding is given a slack of its own, so that no sample is left out by mistake. u is half an eps, and
γ_n = n u / (1 − n u) bounds the relative error of a sum of n products in any order (Higham 2002, "Accuracy
and stability of numerical algorithms", section 3.1). a is √(‖P‖₁ ‖P‖_∞), at least the spectral
norm of |P|.

- A projection errs by η ‖s‖ at the most, η = a γ_{D + 2}: the product, and P rounded. Twice: 2.1 η (‖x‖² + ‖s‖²).
- r_s² = ‖s‖² − ‖Ps‖² errs by 4 η ‖s‖². It is taken larger by as much, which can only lower the bound.
- ‖s‖² errs by γ_D ‖s‖², and the product of K + 3 numbers by γ_{K + 3} of its terms, ‖x‖² + 2 ‖s‖² and the
  threshold.
- The nearest offset o is of a product too. Its sample has ‖s‖² ≤ 4 ‖x‖² + 2 |o|: 9 γ_{D + 2} (‖x‖² + |o|).

a ≥ 1, so the sum is below 4 η ‖s‖² + (3 η + 9 γ_{D + 2}) ‖x‖² + 10 γ_{D + 2} |o|. For MNIST's images that is a tenth
of the margin for σ = 0.125 and N = 10 million.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax.parzen.running import far, prepare, varying

BLOCK = 64  # points that take the same samples
_GROUP = 8  # blocks of a product, or a few more or less
_COMPONENTS = 61  # of the projection: with three more numbers a point has 64
_NATS = 1e-6  # what all samples that are left out may add to a score
_FEWEST_POINTS, _FEWEST_SAMPLES, _FEWEST_COLUMNS = 500, 200_000, 256  # for fewer it does not pay
# Of the points' variance. Measured with MNIST's images, 10 million samples and AMX, beside split products:
# 0.65 times as long at 0.24 (σ 0.46, a block needs 11 % of the samples), 1.08 at 0.41 (σ 0.6, 25 %).
_LARGEST_MARGIN = 0.25


class Bound(NamedTuple):
    """What the bound needs to know of T test points, G groups of B points in blocks of 64, padded."""

    place: jax.Array  # i32[T], where in the blocks each test point is
    centre: jax.Array  # f[D], the mean of the points
    columns: jax.Array  # i32[C], in which points differ: in the others they are 0 about it
    points: jax.Array  # f[G, B, C], about it
    basis: jax.Array  # f[C, K + 3], with three columns of 0: products of 64 columns are faster
    factors: jax.Array  # f[G, B, K + 1], −2 Px and −2 r_x
    allowance: jax.Array  # f[G, B], how far above the nearest offset a bound may lie
    slack: jax.Array  # f[], 4 η, for rounding: a share of ‖s‖²
    of_nearest: jax.Array  # f[], the same for the nearest offset
    scale: jax.Array  # f[S], 1 / 2σ²


def is_worth_it(
    x: np.ndarray | jax.Array,
    sigma: np.ndarray | jax.Array,
    num_samples: int,
    bf16_split: bool = False,
) -> bool:
    """Whether the bound may save time for points f[T, D], bandwidths f[S] and N samples.

    It may on a CPU, where points and samples are many. Whether it does is measured while samples are
    added. If products would otherwise be split into bfloat16, it may only where the margin of the
    largest σ is small beside the variance of the points, their mean squared distance from their mean.
    On a GPU it has not been measured.
    """
    if jax.default_backend() != "cpu" or len(x) < _FEWEST_POINTS or num_samples < _FEWEST_SAMPLES:
        return False
    if len(varying(x)) < _FEWEST_COLUMNS:
        return False
    if not bf16_split:
        return True
    variance = np.asarray(x).var(axis=0, dtype=np.float64).sum()
    return bool(_margin(sigma, num_samples) <= _LARGEST_MARGIN * variance)


def make_bound(x: jax.Array, sigma: jax.Array, num_samples: int) -> Bound:
    """The bound for known test points f[T, D], bandwidths f[S] and N samples in all."""
    columns = varying(x)
    if len(columns) == 0:  # all points are equal; there are no products of nothing
        columns = np.zeros(1, np.int32)
    points, centre, scale = prepare(jnp.asarray(x), jnp.atleast_1d(jnp.asarray(sigma)))
    dtype, rows = points.dtype, np.asarray(points, np.float64)[:, columns]
    basis = _components(rows, min(_COMPONENTS, rows.shape[1])).astype(dtype)
    order = _side_by_side(rows @ basis)
    group = _points_of_a_group(len(order))
    padding = -len(order) % group
    padded = np.concatenate([order, np.full(padding, order[-1])])
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)

    unit, dim = np.finfo(dtype).eps / 2, points.shape[1]
    product = (dim + 2) * unit / (1 - (dim + 2) * unit)
    size = abs(basis.astype(np.float64))
    eta = product * math.sqrt(size.sum(axis=0).max() * size.sum(axis=1).max())
    norm, projected = (rows**2).sum(axis=1), rows @ basis
    rest = np.sqrt(np.maximum(norm - (projected**2).sum(axis=1), 0) + 4 * eta * norm)
    allowance = _margin(sigma, num_samples) + (3 * eta + 9 * product) * norm[padded]
    allowance[len(order) :] = -float(far(dtype))  # padding needs nothing

    def in_groups(value):
        return jnp.asarray(value, dtype).reshape(-1, group, *value.shape[1:])

    return Bound(
        place=jnp.asarray(place),
        centre=centre,
        columns=jnp.asarray(columns),
        points=in_groups(rows[padded]),
        basis=jnp.pad(jnp.asarray(basis), ((0, 0), (0, 3))),
        factors=in_groups(-2 * np.column_stack([projected, rest])[padded]),
        allowance=in_groups(allowance),
        slack=jnp.asarray(4 * eta, dtype),
        of_nearest=jnp.asarray(10 * product, dtype),
        scale=scale,
    )


def _margin(sigma, num_samples):
    """How far above the nearest squared distance the largest σ lets others count."""
    largest = float(np.max(np.asarray(sigma, np.float64)))
    return 2 * largest**2 * (math.log(num_samples) - math.log(_NATS))


def _points_of_a_group(num_points):
    """Whole blocks, as many as leave the least padding: padding is multiplied like points."""
    blocks = -(-num_points // BLOCK)
    sizes = range(min(blocks, _GROUP - 3), min(blocks, _GROUP + 2) + 1)
    return BLOCK * min(sizes, key=lambda size: (-blocks % size, abs(size - _GROUP)))


def _components(rows, number):
    """An orthonormal basis [C, K], near the leading components: any will do, a better one saves more."""
    basis = np.random.default_rng(0).normal(size=(rows.shape[1], number))
    for _ in range(4):
        basis, _ = np.linalg.qr(rows.T @ (rows @ basis))
    return basis


def _side_by_side(values):
    """An order i[T] of points [T, K] in which each 64 are alike: halved where they vary most."""

    def split(order):
        if len(order) <= BLOCK:
            return [order]
        rows = values[order]
        widest = rows[:, rows.var(axis=0).argmax()]
        order = order[np.argsort(widest, kind="stable")]
        middle = (len(order) // BLOCK + 1) // 2 * BLOCK
        return [*split(order[:middle]), *split(order[middle:])]

    return np.concatenate(split(np.arange(len(values))))
