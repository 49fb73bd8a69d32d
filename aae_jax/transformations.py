"""Random transformations of images: they turn, move and stretch a little, each by its row's key."""

import jax
import jax.numpy as jnp

# The largest change of an entry of the linear map, and the largest shift in shares of a side.
_STRETCH, _SHIFT = 0.2, 0.07


def random_affine(row_keys: jax.Array, x: jax.Array) -> jax.Array:
    """Images f[B, H, W, C], each under a random affine map that is near the identity.

    The pixel at p, counted from the centre, becomes that at A p + t: the entries of A differ from the
    identity by up to 0.2, and t is up to 0.07 of the image's height and width, all drawn uniformly. So
    an image turns by up to 14°. Between pixels it is interpolated linearly; beyond the edge it has the
    edge's values.
    """

    def one(key, image):
        noise = jax.random.uniform(key, (2, 3), image.dtype, -1, 1)
        return affine(image, jnp.eye(2) + _STRETCH * noise[:, :2], _SHIFT * noise[:, 2])

    return jax.vmap(one)(row_keys, x)


def affine(image: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """An image f[H, W, C] whose pixel at p, from the centre, is that of the given one at A p + t.

    Args:
        image: f[H, W, C].
        matrix: A f[2, 2], for rows and columns.
        shift: t f[2], in shares of the image's height and width.
    """
    sides = jnp.array(image.shape[:2], image.dtype)
    centre = (sides - 1) / 2
    p = jnp.stack(jnp.indices(image.shape[:2], image.dtype), axis=-1) - centre
    matrix, shift = matrix.astype(image.dtype), shift.astype(image.dtype)
    # Sums, not a product of matrices: accelerators would round those.
    q = p[..., :1] * matrix[:, 0] + p[..., 1:] * matrix[:, 1] + centre + shift * sides

    def channel(pixels):
        return jax.scipy.ndimage.map_coordinates(
            pixels, [q[..., 0], q[..., 1]], order=1, mode="nearest"
        )

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)
