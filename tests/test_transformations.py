"""Transformed images, against SciPy's interpolation in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from aae_jax import keys, transformations

IMAGE = np.random.default_rng(0).random((9, 12, 3))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_images_keep_their_type(x64, dtype):
    images = jnp.asarray(IMAGE, dtype)[None]
    assert transformations.random_affine(keys.row_keys(jax.random.key(0), 1), images).dtype == dtype


@pytest.mark.parametrize("image", [IMAGE, IMAGE[:, :, :1], IMAGE[:1, :, :]])
def test_affine_is_scipys(x64, image):
    matrix, shift = np.array([[1.1, 0.2], [-0.15, 0.9]]), np.array([0.1, -0.05])
    sides = np.array(image.shape[:2])
    centre = (sides - 1) / 2
    offset = centre + shift * sides - matrix @ centre
    wanted = [
        ndimage.affine_transform(channel, matrix, offset, order=1, mode="nearest")
        for channel in image.transpose(2, 0, 1)
    ]
    found = transformations.affine(jnp.asarray(image), jnp.asarray(matrix), jnp.asarray(shift))
    np.testing.assert_allclose(found, np.stack(wanted, axis=-1), rtol=0, atol=1e-12)


def test_a_row_changes_by_its_own_key_and_within_bounds(x64):
    """An image whose value is its row, or its column, shows the map of every pixel."""
    rows, columns = np.indices((41, 61)) - np.array([20, 30])[:, None, None]
    x = jnp.asarray(np.stack([rows, columns], axis=-1), jnp.float64)
    row_keys = keys.row_keys(jax.random.key(0), 300)
    found = np.asarray(transformations.random_affine(row_keys, jnp.stack([x] * 300)))
    alone = transformations.random_affine(row_keys[7:8], x[None])[0]
    np.testing.assert_allclose(found[7], alone, rtol=0, atol=1e-12)

    shift = found[:, 20, 30] / [41, 61]  # the middle shows t
    down, right = (found[:, 20 + i, 30 + j] - found[:, 20, 30] for i, j in ((1, 0), (0, 1)))
    change = np.stack([down, right], axis=-1) - np.eye(2)
    for values, most in ((shift, 0.07), (change, 0.2)):
        assert abs(values).max() <= most
        # The largest of 300 uniform draws falls short of the bound by 5 % once in 5 million times.
        assert (abs(values).reshape(300, -1).max(axis=0) > 0.95 * most).all()
        # Means of 300 uniform draws: a normal standard error, five of which are allowed.
        assert (abs(values.mean(axis=0)) < 5 * most / np.sqrt(3 * 300)).all()
