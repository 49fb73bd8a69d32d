"""The measures of the match between codes and prior, on samples whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aae_jax import code_metrics


def test_sliced_wasserstein_of_a_shift():
    # A shift by m moves each projection by m·θ, and E[(m·θ)²] = ‖m‖² / D.
    z = jax.random.normal(jax.random.key(0), (500, 3))
    shift = jnp.array([1.0, -2.0, 2.0])
    found = code_metrics.sliced_wasserstein(z, z + shift, jax.random.key(1), 2_000)
    # (m·θ)² / ‖m‖² has the mean 1 / 3 and the variance 4 / 45: three standard deviations.
    np.testing.assert_allclose(found, np.sqrt(9 / 3), rtol=3 * 0.45 / np.sqrt(2_000))
    permuted = z[jax.random.permutation(jax.random.key(2), 500)]
    np.testing.assert_allclose(
        code_metrics.sliced_wasserstein(z, permuted, jax.random.key(1)), 0, atol=1e-6
    )


def test_sliced_wasserstein_in_one_dimension():
    # Two Gaussians of std 1 and 3: the optimal transport stretches, W2 = 2.
    rng = np.random.default_rng(0)
    z, prior_z = (jnp.asarray(std * rng.normal(size=(40_000, 1))) for std in (1, 3))
    found = code_metrics.sliced_wasserstein(z, prior_z, jax.random.key(0), 4)
    np.testing.assert_allclose(found, 2, rtol=0.03)
    with pytest.raises(ValueError, match="must be equal"):
        code_metrics.sliced_wasserstein(jnp.ones((3, 2)), jnp.ones((4, 2)), jax.random.key(0))


def test_empty_cells():
    rng = np.random.default_rng(0)
    prior_z = rng.normal(size=(400_000, 2))
    # 10,000 independent draws leave exp(−4) = 1.8 % of 2,500 cells of equal probability empty.
    found = code_metrics.empty_cells(rng.normal(size=(10_000, 2)), prior_z)
    np.testing.assert_allclose(found, np.exp(-4), atol=0.008)
    assert code_metrics.empty_cells(np.zeros((10_000, 2)), prior_z) == 1 - 1 / 2_500
    half = rng.normal(size=(100_000, 2))
    half[:, 0] = np.abs(half[:, 0])
    np.testing.assert_allclose(code_metrics.empty_cells(half, prior_z), 0.5, atol=0.01)


def test_share_in_component():
    log_prob = jnp.log(jnp.array([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1], [0.2, 0.8]]))
    found = code_metrics.share_in_component(log_prob, jnp.array([0, 1, 1, -1]))
    assert found == pytest.approx(2 / 3)
