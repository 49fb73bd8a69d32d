"""Data sets, one module per source. docs/data.md describes each source and its splits.

`load` returns a `Dataset`. Images are uint8, or float32 in [0, 1]. Labels are int32; −1 means
unlabelled. Training images may be `LazyImages`, which are decoded on demand.
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
    """uint8[N, H, W, C], decoded when indexed; `np.asarray` decodes all of it."""

    dtype = np.dtype(np.uint8)

    def __init__(self, read: Callable, num_images: int, image_shape: tuple[int, ...]) -> None:
        """`read`: i64[n] → uint8[n, H, W, C]; several threads call it at once."""
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


# {"image": [N, H, W, C], "label": i32[N]}, and "condition" f32[N, K] if the data have conditions.
Split = dict[str, np.ndarray | LazyImages]


class Fold(NamedTuple):
    """The images that choose σ and the images that are scored."""

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
        """(height, width, channels), or the shape of other kinds of examples."""
        return self.train["image"].shape[1:]

    @property
    def validation(self) -> Split:
        """The validation images of the first fold; most data have one fold."""
        return self.folds[0].validation

    @property
    def test(self) -> Split:
        """The test images of the first fold."""
        return self.folds[0].test


def load(spec: DataSpec) -> Dataset:
    """Loads a data set by name; validation and test images as arrays.

    Args:
        spec: the config's `data` section.

    Raises:
        UserError: the data set is unknown, or its files are missing or invalid.
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
    """Checks what every source guarantees, whatever its files hold."""
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
            f"{name}: labels range from {low} to {high}; with data.num_classes = {num_classes} "
            f"they must be −1 (unlabelled) or 0 … {num_classes - 1}"
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
        raise UserError(f"{name}: conditions must be finite, but they contain NaN or infinity")


def _check_range(name: str, images: np.ndarray, standardise: bool) -> None:
    """Raises if floats are not finite, or not in [0, 1] and not to be standardised."""
    low, high = images.min(), images.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{name}: pixels must be finite, but they contain NaN or infinity")
    if standardise and max(abs(low), abs(high)) > 1e14:
        raise UserError(
            f"{name}: numbers range from {low:.4g} to {high:.4g}: they must lie within 1e14, so "
            "that float32 holds their squares; scale them"
        )
    if not standardise and (low < 0 or high > 1):
        raise UserError(
            f"{name}: pixels range from {low:.4g} to {high:.4g}; floats must lie in [0, 1], and "
            "0 … 255 must be stored as uint8; other numbers need data.standardise=True and "
            "model.output='linear'"
        )


def keep_labels(train: Split, num_labelled: int, num_classes: int, seed: int) -> Split:
    """Keeps some labels, the same number of each class, and hides all others.

    Args:
        train: the training split.
        num_labelled: the number of images that keep their label: a multiple of the number of
            classes, or the number of labelled images, which then all keep their label.
        num_classes: K.
        seed: chooses the images.

    Returns:
        The split with −1 for every other label.

    Raises:
        UserError: some class has too few labelled images.
    """
    if num_labelled == (np.asarray(train["label"]) >= 0).sum():
        return train
    if num_labelled % num_classes:
        raise UserError(
            f"data.num_labelled is {num_labelled}: it must be a multiple of the {num_classes} "
            "classes, for the same number of each"
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
    """The examples i32[M] of an epoch: each labelled one `labelled_repeats` times, others once."""
    labelled = np.flatnonzero(label >= 0)
    return np.concatenate(
        [np.arange(len(label)), np.tile(labelled, labelled_repeats - 1)], dtype=np.int32
    )


def labelled_rows(label: np.ndarray, num_classes: int) -> np.ndarray:
    """The examples i32[M] that have a label, for algorithms that learn from few of them.

    Raises:
        UserError: a class has none.
    """
    label = np.asarray(label)
    counts = np.bincount(label[label >= 0], minlength=num_classes)
    missing = np.flatnonzero(counts == 0)
    if len(missing) == num_classes:
        raise UserError(
            "no training image has a label, and the algorithm learns classes from some: give labels, "
            "raise data.num_labelled, or set options.labels=False for clusters without names"
        )
    if len(missing):
        raise UserError(
            f"class{'es' if len(missing) > 1 else ''} {', '.join(map(str, missing))} of {num_classes} "
            f"{'have' if len(missing) > 1 else 'has'} no labelled training image: each needs at least "
            "one, or data.num_classes is wrong"
        )
    return np.flatnonzero(label >= 0).astype(np.int32)


def pixel_statistics(images: np.ndarray | LazyImages) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation f32[H, W, C] of every pixel in [0, 1] over training images.

    A constant pixel gets the standard deviation 1, so that its standardised value is 0.
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
