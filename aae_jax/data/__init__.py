"""Data sets as arrays: one file a source.

`load` returns a `Dataset` of NumPy arrays. Images are uint8, or float32 in [0, 1]; labels are
int32, −1 where unlabelled.
"""

from typing import NamedTuple

import numpy as np

from aae_jax.errors import UserError
from aae_jax.spec import DataSpec

Split = dict[str, np.ndarray]  # {"image": [N, H, W, C], "label": i32[N]}


class Dataset(NamedTuple):
    """Three disjoint splits, the same on every machine."""

    train: Split
    validation: Split
    test: Split
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return self.train["image"].shape[1:]


def load(spec: DataSpec) -> Dataset:
    """Loads a data set by name.

    Args:
        spec: the config's `data` section.

    Raises:
        UserError: no such data set, or its files are not there.
    """
    # Imported here so that one source's libraries are no other's requirement.
    if spec.name == "digits":
        from aae_jax.data import digits

        dataset = digits.load()
    elif spec.name == "mnist":
        from aae_jax.data import mnist

        dataset = mnist.load(spec.data_dir, spec.manual_dir)
    else:
        raise UserError(f"data.name is {spec.name!r}: it must be one of 'digits', 'mnist'")
    for split in (dataset.train, dataset.validation, dataset.test):
        low, high = split["label"].min(), split["label"].max()
        if low < -1 or high >= dataset.num_classes:
            raise UserError(
                f"the labels of data {spec.name!r} go from {low} to {high}: they must be −1 "
                f"(unlabelled) or 0 … {dataset.num_classes - 1}"
            )
    return dataset


def keep_labels(train: Split, num_labelled: int, num_classes: int, seed: int) -> Split:
    """Hides all but some labels, the same number of each class.

    Args:
        train: the training split.
        num_labelled: how many images keep their label; a multiple of the number of classes.
        num_classes: K.
        seed: chooses the images.

    Returns:
        The split with −1 for every other label.

    Raises:
        UserError: some class has not as many labelled images.
    """
    if num_labelled % num_classes:
        raise UserError(
            f"data.num_labelled is {num_labelled}: it must be a multiple of the {num_classes} "
            "classes, for as many of each"
        )
    random = np.random.RandomState(seed)
    label = np.full_like(train["label"], -1)
    for value in range(num_classes):
        rows = random.permutation(np.flatnonzero(train["label"] == value))
        if len(rows) < num_labelled // num_classes:
            raise UserError(
                f"data.num_labelled is {num_labelled}, {num_labelled // num_classes} of each "
                f"class: class {value} has only {len(rows)} labelled training images"
            )
        label[rows[: num_labelled // num_classes]] = value
    return {**train, "label": label}


def pixel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation f32[H, W, C] of every pixel of [0, 1] over training images.

    A pixel that never changes gets the standard deviation 1, and so stays at 0 when standardised.
    """
    scale = 255 if images.dtype == np.uint8 else 1
    mean = images.mean(axis=0, dtype=np.float64) / scale
    std = images.std(axis=0, dtype=np.float64) / scale
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)
