"""Losses, one number per example; the caller takes the mean over the batch.

The exception is `mmd_squared`: one number for two batches.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Reconstruction(NamedTuple):
    """A reconstruction loss: `model.reconstruction`.

    Attributes:
        loss: (x_hat f[B, …], x f[B, …]) → f[B].
        on_logits: whether x_hat is the decoder's output before the sigmoid, or after it.
    """

    loss: Callable[[jax.Array, jax.Array], jax.Array]
    on_logits: bool = False


def half_squared_error(x_hat: jax.Array, x: jax.Array) -> jax.Array:
    """Half the sum of squared differences over pixels (footnote 1: "a Euclidean cost function").

    Args:
        x_hat: f[B, …], reconstructions.
        x: f[B, …], targets.

    Returns:
        f[B].
    """
    chex.assert_equal_shape([x_hat, x])
    return 0.5 * ((_flat(x_hat) - _flat(x)) ** 2).sum(axis=-1)


def discriminator_loss(prior_logits: jax.Array, code_logits: jax.Array) -> jax.Array:
    """−log D(z_prior) − log(1 − D(z_code)), the discriminator's side of section 1.1.

    Computed from logits: −log sigmoid(l) = softplus(−l) never overflows.

    Args:
        prior_logits: f[B], of samples of the prior (positive examples).
        code_logits: f[B], of codes of images (negative examples).

    Returns:
        f[B].
    """
    chex.assert_rank([prior_logits, code_logits], 1)
    chex.assert_equal_shape([prior_logits, code_logits])
    return jax.nn.softplus(-prior_logits) + jax.nn.softplus(code_logits)


def generator_loss(code_logits: jax.Array) -> jax.Array:
    """−log D(z_code), the non-saturating loss: log(1 − D) has no gradient where D is right.

    Goodfellow et al. 2014, section 3.

    Args:
        code_logits: f[B], of codes of images.

    Returns:
        f[B].
    """
    chex.assert_rank(code_logits, 1)
    return jax.nn.softplus(-code_logits)


def binary_cross_entropy(logits: jax.Array, x: jax.Array) -> jax.Array:
    """−log p(x|z) in nats for Bernoulli pixels (Kingma & Welling 2014, appendix C.1).

    −x log s(l) − (1 − x) log(1 − s(l)) = softplus(l) − x·l, which never overflows.

    Args:
        logits: f[B, …], of the decoder.
        x: f[B, …], targets in [0, 1].

    Returns:
        f[B].
    """
    chex.assert_equal_shape([logits, x])
    logits, x = _flat(logits), _flat(x)
    return (jax.nn.softplus(logits) - x * logits).sum(axis=-1)


def gaussian_cross_entropy(mean: jax.Array, std: jax.Array, prior_std: float) -> jax.Array:
    """E_q[−log p(z)] in nats for q = N(mean, std²) and p = N(0, prior_std²), exact (Eq. 3).

    Args:
        mean, std: f[B, D], of the posterior.
        prior_std: of every dimension of the prior.

    Returns:
        f[B].
    """
    chex.assert_rank([mean, std], 2)
    chex.assert_equal_shape([mean, std])
    normaliser = math.log(prior_std * math.sqrt(2 * math.pi))
    return (0.5 * (mean**2 + std**2) / prior_std**2 + normaliser).sum(axis=-1)


def mmd_squared(x: jax.Array, y: jax.Array, bandwidths: tuple[float, ...]) -> jax.Array:
    """The squared maximum mean discrepancy of two samples, biased (Gretton et al. 2012, Eq. 5).

    The kernel is Σ_i exp(−‖a − b‖² / 2σ_i), with σ_i not squared (Li, Swersky, Zemel 2015).

    Args:
        x: f[N, …], one sample.
        y: f[M, …], the other.
        bandwidths: σ_i, in squared units of the examples.

    Returns:
        f[], at least 0 up to rounding.
    """
    x, y = _flat(x), _flat(y)
    chex.assert_equal_shape_suffix([x, y], 1)

    def mean_kernel(a, b):
        # Not in TensorFloat-32, a GPU's default: its rounding would spoil the distances.
        products = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
        squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * products
        return sum(jnp.exp(-squares / (2 * bandwidth)).mean() for bandwidth in bandwidths)

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


def _flat(values):
    return values.reshape(values.shape[0], -1)


SQUARED_ERROR = Reconstruction(half_squared_error)
BERNOULLI = Reconstruction(binary_cross_entropy, on_logits=True)
