"""How exactly distances are computed: the bound on σ below which float32 products are not enough.

A product gives ‖x − s‖² as ‖x‖² + ‖s‖² − 2 s·x about the mean of the test points. Near samples leave
a small difference of large terms, whose rounding stays: c · eps · ‖x‖², where c = 1 + D^¼, since a
processor sums D terms in blocks and the errors of about √D partial sums add up like a random walk.
A score is off by that over 2σ². While the root mean square of that over the test points is below
0.01 nats, products are used. Of float32 pixels in [0, 1] that is σ ≥ 0.05 for MNIST's images, and
for points of one dimension and variance 1 σ ≥ 0.005.

Below, distances are sums of squared differences, whose error is relative: a few ulps of each. So a
score is within 0.01 nats, or within a few ulps of the larger of ‖x − s‖² / 2σ² and D log σ where
float32 cannot hold 0.01 nats of them.
"""

from typing import NamedTuple

import jax
import numpy as np

from aae_jax.parzen.running import can_bf16_split, varying

_NATS = 0.01


class Method(NamedTuple):
    """How distances to test points are computed: for `start`, `add_samples` and `add_drawn`."""

    columns: np.ndarray | None = None  # i32[C], those of `varying`
    bf16_split: bool = False
    differences: bool = False


def choose_method(x: np.ndarray | jax.Array, sigma: np.ndarray | jax.Array) -> Method:
    """The fastest method that holds 0.01 nats for test points f[T, D] and every σ, f[] or f[S].

    Both must be known: under jit call it outside, and pass on what it gives.
    """
    x = np.asarray(x)
    if not products_hold(x, sigma):
        return Method(varying(x), differences=True)
    bf16_split = can_bf16_split(x) and products_hold(x, sigma, bf16_split=True)
    return Method(varying(x), bf16_split)


def products_hold(
    x: np.ndarray | jax.Array, sigma: np.ndarray | jax.Array, bf16_split: bool = False
) -> bool:
    """Whether matrix products in the type of x f[T, D] hold 0.01 nats, as said above.

    Split, they round each number of a sample to 17 bits: by 2⁻¹⁹ of itself, root mean square. With
    samples half as far from a point as the point is from the mean, that moves a squared distance by
    16 / √D eps more.
    """
    x = np.asarray(x)
    dim = x.shape[1]
    squares = _squared_norms(x)
    factor = 1 + dim**0.25 + (16 / dim**0.5 if bf16_split else 0)
    eps = np.finfo(np.promote_types(x.dtype, np.float32)).eps
    error = factor * eps * np.sqrt(np.mean(squares**2))
    # Written so that NaN, which no method helps, holds.
    return not error > _NATS * 2 * np.min(np.asarray(sigma, np.float64)) ** 2


def _squared_norms(x):
    """‖x − mean‖² of every test point, f64[T]."""
    centre = x.mean(axis=0, dtype=np.float64)
    squares = np.empty(len(x))
    for start in range(0, len(x), 100):  # rows that stay in the cache
        rows = x[start : start + 100] - centre
        squares[start : start + 100] = np.einsum("td,td->t", rows, rows)
    return squares


def are_in_range(sigma: np.ndarray) -> bool:
    """Whether every σ is from 1e-6 to 1e6, so that σ² and 1 / 2σ² are numbers in float32."""
    with np.errstate(over="ignore"):
        sigma = np.asarray(sigma).astype(np.float32)  # 1e-6 too, which rounds downwards
    return bool(((sigma >= np.float32(1e-6)) & (sigma <= np.float32(1e6))).all())
