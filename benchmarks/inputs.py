"""Inputs of benchmarks and studies: the MNIST model at some width, random images, MNIST."""

import gzip
import os
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax.data import Dataset, Fold
from aae_jax.settings import DataSpec

if TYPE_CHECKING:  # machines with an accelerator may lack it
    from ml_collections import config_dict


def set_widths(config: "config_dict.ConfigDict", width: int) -> "config_dict.ConfigDict":
    """Gives all networks two hidden layers of this width."""
    for network in ("encoder", "decoder", "discriminator"):
        config.model[f"{network}_hidden"] = (width, width)
    return config


def random_dataset(
    num_images: int, image_shape: tuple[int, ...] = (28, 28, 1)
) -> dict[str, jax.Array]:
    """Uniform pixels; the images' content does not affect the time."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, *image_shape), dtype=np.uint8)
    return {"image": jnp.asarray(images), "label": jnp.zeros(num_images, jnp.int32)}


def mnist_spec(data_dir: str | None = None, manual_dir: str | None = None) -> DataSpec:
    """The spec of MNIST: prepared in `data_dir`, or from its original files in `manual_dir`."""
    return DataSpec("mnist", (28, 28, 1), 10, data_dir=data_dir, manual_dir=manual_dir)


def original_mnist(directory: str) -> Dataset:
    """MNIST from its four original files, without tensorflow-datasets; split as in `data.mnist`."""

    def split(name, rows):
        found = []
        for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
            with gzip.open(os.path.join(directory, f"{name}-{kind}-ubyte.gz")) as file:
                found.append(np.frombuffer(file.read(), np.uint8, offset=header))
        image, label = found[0].reshape(-1, 28, 28, 1), found[1].astype(np.int32)
        return {"image": image[rows], "label": label[rows]}

    train, validation = slice(50_000), slice(50_000, None)
    fold = Fold(split("train", validation), split("t10k", slice(None)))
    return Dataset(split("train", train), (fold,), num_classes=10)


def strokes(num_train: int, num_test: int) -> Dataset:
    """A substitute for MNIST: blurred strokes in the middle of 28 × 28 black pixels."""
    rng = np.random.default_rng(0)
    side = np.arange(28)

    def split(num_images):
        start, end = rng.uniform(8, 20, (2, num_images, 2))
        image = np.zeros((num_images, 28, 28))
        for share in np.linspace(0, 1, 8):
            row, column = ((1 - share) * start + share * end).T[:, :, None]
            rows, columns = (np.exp(-((side - v) ** 2) / 4) for v in (row, column))
            image = np.maximum(image, rows[:, :, None] * columns[:, None])
        pixels = np.rint(255 * np.where(image > 0.1, image, 0)).astype(np.uint8)
        return {"image": pixels[..., None], "label": np.zeros(num_images, np.int32)}

    return Dataset(split(num_train), (Fold(split(num_test), split(num_test)),), num_classes=10)


def flat(images: np.ndarray) -> np.ndarray:
    """Images, uint8 or floats in [0, 1], as f32[N, P] in [0, 1]."""
    images = np.asarray(images)
    scale = np.float32(255 if images.dtype == np.uint8 else 1)
    return images.reshape(len(images), -1) / scale
