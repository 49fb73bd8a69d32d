"""The exactness of distances: the bound on σ below which float32 products are not enough.

A product gives ‖x − s‖² as ‖x‖² + ‖s‖² − 2 s·x about the mean of the test points. The distance to a
near sample is a small difference of large terms and keeps their rounding: c · eps · ‖x‖². Here
c = 1 + D^¼: a processor sums D terms in blocks, and the errors of about √D partial sums add up like
a random walk. The mean is rounded too, which matters if it is far from 0. The error of a score is the
sum of both over 2σ². Products are used while the root mean square of this error over the test points
is below 0.01 nats: down to σ = 0.05 for MNIST's images in [0, 1], and to 0.005 for numbers of variance
1 in one dimension. If all coordinates vary together, they round together. Such scores are off by more:
just above the bound, up to 0.03 nats were seen with AVX-512 and 0.16 with AVX2, which sums longer blocks.

Below the bound, arrays that are all known are scored in float64, where the same bound holds with its
eps. Otherwise, distances are sums of squared differences, whose error is relative: √D / 2 + 4 ulps at
the most. So a score is within 0.01 nats, or, where float32 can't hold 0.01 nats of them, within as many
ulps of the larger of ‖x − s‖² / 2σ² (s the nearest sample) and D log σ.
"""

from typing import NamedTuple

import jax
import numpy as np

from aae_jax.parzen.bound import is_worth_it
from aae_jax.parzen.running import can_bf16_split, varying

_NATS = 0.01


class Method(NamedTuple):
    """How distances to test points are computed: for `start`, `add_samples` and `add_drawn`.

    Or, where it is `screened`, for the functions of `screening`.
    """

    columns: np.ndarray | None = None  # i32[C], those of `varying`
    bf16_split: bool = False
    differences: bool = False
    screened: bool = False  # far samples are left out; the other two are False


def choose_method(
    x: np.ndarray | jax.Array, sigma: np.ndarray | jax.Array, num_samples: int | None = None
) -> Method:
    """The fastest method that holds 0.01 nats for test points f[T, D] and every σ, f[] or f[S].

    Both must be known: with jit, call it outside and pass its result on. Samples are left out only if
    their number is given (`is_worth_it`).
    """
    x = np.asarray(x)
    if not products_hold(x, sigma):
        return Method(varying(x), differences=True)
    bf16_split = can_bf16_split(x) and products_hold(x, sigma, bf16_split=True)
    if num_samples is not None and is_worth_it(x, sigma, num_samples, bf16_split):
        return Method(varying(x), screened=True)
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
    num_points, dim = x.shape
    of_product = 1 + dim**0.25 + (16 / dim**0.5 if bf16_split else 0)
    of_mean = 1 + num_points**0.5 / 8
    centre = x.mean(axis=0, dtype=np.float64)
    error = np.empty(num_points)
    for start in range(0, num_points, 100):  # rows that stay in the cache
        squares = (x[start : start + 100] - centre) ** 2
        error[start : start + 100] = of_product * squares.sum(axis=1)
        error[start : start + 100] += of_mean * np.sqrt(squares @ centre**2)
    eps = np.finfo(np.promote_types(x.dtype, np.float32)).eps
    smallest = np.min(np.asarray(sigma, np.float64))
    # NaN, which no method helps, passes.
    return not eps * np.sqrt(np.mean(error**2)) / (2 * smallest**2) > _NATS


def are_in_range(sigma: np.ndarray) -> bool:
    """Whether every σ is from 1e-15 to 1e15, so that σ² and 1 / 2σ² are numbers in float32."""
    with np.errstate(over="ignore"):
        sigma = np.asarray(sigma).astype(np.float32)  # 1e-15 too, which may round downwards
    return bool(((sigma >= np.float32(1e-15)) & (sigma <= np.float32(1e15))).all())
