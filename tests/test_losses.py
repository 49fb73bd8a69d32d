"""Losses against hand-computed numbers and float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aae_jax import losses


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 1, 1), (2, 1, 1, 2)], ids=str)
def test_half_squared_error_by_hand(wrap, shape):
    x_hat = jnp.array([[1.0, 2.0], [0.0, 0.0]]).reshape(shape)
    x = jnp.array([[0.0, 4.0], [3.0, 4.0]]).reshape(shape)
    np.testing.assert_allclose(wrap(losses.half_squared_error)(x_hat, x), [2.5, 12.5])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_adversarial_losses_against_probabilities(wrap):
    prior = np.array([-3.0, 0.0, 1.5], np.float32)
    code = np.array([2.0, 0.0, -4.0], np.float32)

    def sigmoid(logits):
        return 1 / (1 + np.exp(-logits.astype(np.float64)))

    np.testing.assert_allclose(
        wrap(losses.discriminator_loss)(prior, code),
        -np.log(sigmoid(prior)) - np.log(1 - sigmoid(code)),
        rtol=1e-6,
    )
    np.testing.assert_allclose(wrap(losses.generator_loss)(code), -np.log(sigmoid(code)), rtol=1e-6)


def test_generator_loss_does_not_saturate():
    # Where the discriminator wins by far, log(1 − D) would have gradient 0; this has −1.
    assert (
        jax.grad(lambda logits: losses.generator_loss(logits).sum())(jnp.array([-50.0]))[0] == -1.0
    )


def test_losses_are_finite_for_extreme_logits():
    extreme = jnp.array([-1e4, 1e4])
    assert np.isfinite(losses.generator_loss(extreme)).all()
    assert np.isfinite(losses.discriminator_loss(extreme, extreme)).all()
    np.testing.assert_allclose(losses.generator_loss(extreme), [1e4, 0.0])


def test_gradients_by_hand():
    sigmoid = 1 / (1 + np.exp(-0.7))
    d_prior, d_code = jax.grad(lambda p, c: losses.discriminator_loss(p, c).sum(), (0, 1))(
        jnp.array([0.7]), jnp.array([0.7])
    )
    np.testing.assert_allclose([d_prior[0], d_code[0]], [sigmoid - 1, sigmoid], rtol=1e-6)


def test_shapes_are_checked():
    with pytest.raises(AssertionError):
        losses.half_squared_error(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
    with pytest.raises(AssertionError):
        losses.generator_loss(jnp.zeros((2, 1)))
