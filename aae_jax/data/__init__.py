"""Data sets: one file a source. docs/data.md says what each takes and how it is split.

`load` returns a `Dataset`. Images are uint8, or float32 in [0, 1]; labels are int32, −1 where
unlabelled. Training images may be `LazyImages`, which are decoded when they are asked for.
"""

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from aae_jax import registry
from aae_jax.errors import UserError
from aae_jax.settings import DataSpec

_BLOCK = 1_000  # images that one thread decodes at a time
_STATISTICS_BYTES = 2**26  # of the images whose sums are taken at a time, as 8-byte numbers


class LazyImages:
    """uint8[N, H, W, C] that is decoded when it is indexed; `np.asarray` decodes all of it."""

    dtype = np.dtype(np.uint8)

    def __init__(self, read: Callable, num_images: int, image_shape: tuple[int, ...]) -> None:
        """`read`: i64[n] → uint8[n, H, W, C]; called from several threads at once."""
        self._read = read
        self._numbers = np.arange(num_images)
        self.shape = (num_images, *image_shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        rows = self._numbers[rows]  # slices, masks, lists: whatever NumPy takes
        return self._read(rows) if rows.ndim else self._read(rows[None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        found = np.empty(self.shape, self.dtype)
        blocks = [slice(start, start + _BLOCK) for start in range(0, len(self), _BLOCK)]

        def decode(block):
            images = self[block]
            if images.dtype != self.dtype:
                raise TypeError(f"images are decoded to {images.dtype}, not to {self.dtype}")
            found[block] = images

        with ThreadPoolExecutor(1 if is_small(self.shape[1:]) else None) as pool:
            list(pool.map(decode, blocks))
        return found if dtype is None else found.astype(dtype)


def is_small(image_shape: tuple[int, ...]) -> bool:
    """Whether threads would wait for Python's lock longer than they decode such images."""
    return int(np.prod(image_shape)) < 2**14


# {"image": [N, H, W, C], "label": i32[N]}, and "condition" f32[N, K] where the data have any.
Split = dict[str, np.ndarray | LazyImages]


class Fold(NamedTuple):
    """Images that choose σ and images that are scored."""

    validation: Split
    test: Split


class Dataset(NamedTuple):
    """Disjoint splits, the same on every machine; several folds share the training images."""

    train: Split
    folds: tuple[Fold, ...]
    num_classes: int
    class_names: tuple[str, ...] | None = None  # of labels 0 … K − 1, where they have names

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels), or the shape of examples that are no images."""
        return self.train["image"].shape[1:]

    @property
    def validation(self) -> Split:
        """Of the first fold; most data have one."""
        return self.folds[0].validation

    @property
    def test(self) -> Split:
        """Of the first fold."""
        return self.folds[0].test


def load(spec: DataSpec) -> Dataset:
    """Loads a data set by name; validation and test images as arrays.

    Args:
        spec: the config's `data` section.

    Raises:
        UserError: no such data set, its files are not there, or something in them is not as it
            should be.
    """
    own = registry.SOURCES
    if spec.name not in own and spec.name.lower() in own:
        raise UserError(f"data.name is {spec.name!r}: write {spec.name.lower()!r}")
    path, _ = own.get(spec.name, registry.BUILDERS)
    # Imported here so that one source's libraries are no other's requirement.
    module, _, function = path.partition(":")
    dataset = getattr(importlib.import_module(module), function)(spec)
    if dataset.image_shape != spec.image_shape:
        raise UserError(
            f"data.image_shape is {spec.image_shape} in the config, but the images of "
            f"{spec.name!r} are {dataset.image_shape}: (height, width, channels) for images"
        )
    splits = [("training", dataset.train)]
    for fold in dataset.folds:
        splits += [("validation", fold.validation), ("test", fold.test)]
    for name, split in splits:
        _check_split(f"the {name} images of {spec.name!r}", split, dataset, spec)
    return dataset


def _check_split(name, split, dataset, spec):
    """What every source promises, whatever its files held."""
    image, label = split["image"], split["label"]
    image_shape, num_classes = dataset.image_shape, dataset.num_classes
    if len(image) == 0:
        raise UserError(f"{name}: there are none; more images are needed")
    if image.shape[1:] != image_shape:
        raise UserError(f"{name} are {image.shape[1:]}, the training images {image_shape}")
    if len(image) != len(label):
        raise UserError(f"{name}: {len(image)} images but {len(label)} labels")
    low, high = label.min(), label.max()
    if low < -1 or high >= num_classes:
        raise UserError(
            f"{name}: labels go from {low} to {high}; with data.num_classes = {num_classes} they "
            f"must be −1 (unlabelled) or 0 … {num_classes - 1}"
        )
    if image.dtype != np.uint8:
        _check_range(name, image, spec.standardise)
    if not spec.condition_dim:
        return
    condition = split.get("condition")
    if condition is None or condition.shape != (len(image), spec.condition_dim):
        raise UserError(
            f"{name} have {'no conditions' if condition is None else f'conditions {condition.shape}'}: "
            f"with data.condition_dim = {spec.condition_dim} they must be {(len(image), spec.condition_dim)}"
        )
    if not np.isfinite(condition).all():
        raise UserError(
            f"{name}: conditions must be finite, and there is NaN or infinity among them"
        )


def _check_range(name: str, images: np.ndarray, standardise: bool) -> None:
    """Refuses floats that are not finite, or not in [0, 1] where they are not standardised."""
    low, high = images.min(), images.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{name}: pixels must be finite, and there is NaN or infinity among them")
    if standardise and max(abs(low), abs(high)) > 1e14:
        raise UserError(
            f"{name}: numbers go from {low:.4g} to {high:.4g}: they must lie within 1e14, so that "
            "float32 holds their squares; scale them"
        )
    if not standardise and (low < 0 or high > 1):
        raise UserError(
            f"{name}: pixels go from {low:.4g} to {high:.4g}; floats must lie in [0, 1], and 0 … "
            "255 must be stored as uint8; numbers of another kind need data.standardise=True and "
            "model.output='linear'"
        )


def keep_labels(train: Split, num_labelled: int, num_classes: int, seed: int) -> Split:
    """Hides all but some labels, the same number of each class.

    Args:
        train: the training split.
        num_labelled: how many images keep their label; a multiple of the number of classes, or as
            many as are labelled, and then all keep theirs.
        num_classes: K.
        seed: chooses the images.

    Returns:
        The split with −1 for every other label.

    Raises:
        UserError: some class has not as many labelled images.
    """
    if num_labelled == (np.asarray(train["label"]) >= 0).sum():
        return train
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


def example_order(label: np.ndarray, labelled_repeats: int) -> np.ndarray:
    """The examples i32[M] that an epoch visits: all once, labelled ones `labelled_repeats` times."""
    labelled = np.flatnonzero(label >= 0)
    return np.concatenate(
        [np.arange(len(label)), np.tile(labelled, labelled_repeats - 1)], dtype=np.int32
    )


def pixel_statistics(images: np.ndarray | LazyImages) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation f32[H, W, C] of every pixel of [0, 1] over training images.

    A pixel that never changes gets the standard deviation 1, and so stays at 0 when standardised.
    """
    whole = images.dtype == np.uint8
    total = np.zeros(images.shape[1:], np.uint64 if whole else np.float64)
    squares = np.zeros_like(total)
    block = max(1, _STATISTICS_BYTES // (8 * total.size))
    for start in range(0, len(images), block):
        values = images[start : start + block].astype(total.dtype)
        total += values.sum(axis=0)
        squares += np.square(values, out=values).sum(axis=0)
    total, squares = total.astype(np.float64), squares.astype(np.float64)
    mean = total / len(images)
    variance = squares / len(images) - mean**2
    # Of a float pixel that never changes rounding leaves about 1e-16.
    std = np.sqrt(np.where(variance > 1e-12 * squares / len(images), variance, 0))
    scale = 255 if whole else 1
    mean, std = mean / scale, np.where(std > 0, std / scale, 1)
    return mean.astype(np.float32), std.astype(np.float32)
