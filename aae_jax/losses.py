"""Losses, one number an example; the mean over the batch is the caller's."""

import chex
import jax


def squared_error(x_hat: jax.Array, x: jax.Array) -> jax.Array:
    """Half the sum of squared differences over pixels (footnote 1: "a Euclidean cost function").

    Args:
        x_hat: f[B, P], reconstructions.
        x: f[B, P], targets.

    Returns:
        f[B].
    """
    chex.assert_rank([x_hat, x], 2)
    chex.assert_equal_shape([x_hat, x])
    return 0.5 * ((x_hat - x) ** 2).sum(axis=-1)


def discriminator_loss(prior_logits: jax.Array, code_logits: jax.Array) -> jax.Array:
    """−log D(z_prior) − log(1 − D(z_code)), the discriminator's side of section 1.1.

    On logits, −log sigmoid(l) = softplus(−l) never overflows.

    Args:
        prior_logits: f[B], of samples of the prior (positive).
        code_logits: f[B], of codes of images (negative).

    Returns:
        f[B].
    """
    chex.assert_rank([prior_logits, code_logits], 1)
    chex.assert_equal_shape([prior_logits, code_logits])
    return jax.nn.softplus(-prior_logits) + jax.nn.softplus(code_logits)


def generator_loss(code_logits: jax.Array) -> jax.Array:
    """−log D(z_code): non-saturating, since log(1 − D) has no gradient where D wins.

    Goodfellow et al. 2014, section 3.

    Args:
        code_logits: f[B], of codes of images.

    Returns:
        f[B].
    """
    chex.assert_rank(code_logits, 1)
    return jax.nn.softplus(-code_logits)
