"""What is timed and studied: the MNIST model at some width, random images, MNIST itself."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from aae_jax.settings import DataSpec


def set_widths(config: config_dict.ConfigDict, width: int) -> config_dict.ConfigDict:
    """Gives all networks two hidden layers of this width."""
    for network in ("encoder", "decoder", "discriminator"):
        config.model[f"{network}_hidden"] = (width, width)
    return config


def random_dataset(
    num_images: int, image_shape: tuple[int, ...] = (28, 28, 1)
) -> dict[str, jax.Array]:
    """Uniform pixels: what is in the images makes no difference to the time."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, *image_shape), dtype=np.uint8)
    return {"image": jnp.asarray(images), "label": jnp.zeros(num_images, jnp.int32)}


def mnist_spec(data_dir: str | None = None, manual_dir: str | None = None) -> DataSpec:
    """Where MNIST is: prepared in `data_dir`, or its four original files in `manual_dir`."""
    return DataSpec("mnist", (28, 28, 1), 10, data_dir=data_dir, manual_dir=manual_dir)


def flat(images: np.ndarray) -> np.ndarray:
    """Images, uint8 or floats in [0, 1], as f32[N, P] in [0, 1]."""
    images = np.asarray(images)
    scale = np.float32(255 if images.dtype == np.uint8 else 1)
    return images.reshape(len(images), -1) / scale
