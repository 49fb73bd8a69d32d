"""A user's own images: an .npz, a MATLAB .mat, or a directory of image files.

Where a file says which images train, it is obeyed. Otherwise a hash of each image's pixels decides: a
tenth validates, a tenth is for the test. So the split is the same on every machine and in every
order, images that are added later leave the others where they are, and equal images are never split.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from aae_jax import data
from aae_jax.data.tfds_images import decode
from aae_jax.errors import UserError
from aae_jax.settings import DataSpec

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
_MEDMNIST = ("train", "val", "test")
_BLOCK = 10_000  # files whose hashes are under way at a time


def load(spec: DataSpec) -> "data.Dataset":
    """Reads what `data.path` names.

    - `.npz`: `images` [N, H, W] or [N, H, W, C] and, if there are any, `labels` [N]; or
      `train_images`, `val_images`, `test_images` and the `_labels` of each, as MedMNIST has them.
    - `.mat`: the same names; or `X` [H, W, C, N] and `y` [N, 1] as SVHN has them, 10 meaning 0.
    - a directory: image files, with a sub-directory for each class (in alphabetical order), or
      none.

    Images are uint8, or floats in [0, 1].

    Raises:
        UserError: naming the file, what is wrong with it and what would be right.
    """
    path = os.path.abspath(os.path.expanduser(spec.path))
    if os.path.isdir(path):
        return _load_directory(path, spec)
    if not os.path.isfile(path):
        raise UserError(
            f"data.path is {path!r}: there is no such file or directory; it must be an .npz, a "
            ".mat, or a directory of images"
        )
    if path.endswith(".npz"):
        stored = read_npz(path)
    elif path.endswith(".mat"):
        stored = read_mat(path)
    else:
        raise UserError(f"data.path is {path!r}: it must be an .npz, a .mat, or a directory")
    if "train_images" in stored:
        train, validation, test = (
            _split(path, stored, f"{name}_images", f"{name}_labels") for name in _MEDMNIST
        )
        _warn_of_overlap(path, train, validation, test)
        return data.Dataset(train, (data.Fold(validation, test),), spec.num_classes)
    if "X" in stored and "images" not in stored:
        stored["images"] = np.moveaxis(stored["X"], -1, 0)
        split = _split(path, stored, "images", "y")
        if spec.num_classes == 10:  # SVHN writes the digit 0 as 10
            split["label"] = np.where(split["label"] == 10, 0, split["label"])
    else:
        split = _split(path, stored, "images", "labels")
    hashes = [_hash(image) for image in split["image"]]
    return _divide(hashes, lambda rows: {k: values[rows] for k, values in split.items()}, spec)


def _load_directory(path, spec):
    files, labels = _list_directory(path, spec.num_classes)

    def read(name):
        return decode(_read(name), spec.image_shape, repr(str(name)))

    def split(rows):
        chosen = files[rows]

        def images(indices):
            found = [read(name) for name in chosen[indices]]
            return np.stack(found) if found else np.empty((0, *spec.image_shape), np.uint8)

        return {
            "image": data.LazyImages(images, len(chosen), spec.image_shape),
            "label": labels[rows],
        }

    # Every file is decoded once before anything is trained: a damaged one is found now.
    hashes = []
    with ThreadPoolExecutor(2 if data.is_small(spec.image_shape) else None) as pool:
        for start in range(0, len(files), _BLOCK):
            block = files[start : start + _BLOCK]
            hashes += pool.map(lambda name: _hash(read(name)), block)
    return _divide(hashes, split, spec)


def _list_directory(path, num_classes):
    """Image files and their labels; −1 where there are no directories of classes."""
    try:
        entries = [entry for entry in os.scandir(path) if not entry.name.startswith((".", "__"))]
        classes = sorted(entry.path for entry in entries if entry.is_dir())
        flat, by_class = _image_files(path), [_image_files(directory) for directory in classes]
    except PermissionError as error:
        raise UserError(f"data.path: {error.filename!r} may not be read") from error
    if flat and classes:
        raise UserError(
            f"data.path is {path!r}, which holds images and directories: it must hold images "
            "alone, or one directory for each class"
        )
    if classes and len(classes) != num_classes:
        raise UserError(
            f"data.path is {path!r}, which holds {len(classes)} directories: with "
            f"data.num_classes = {num_classes} there must be one for each class"
        )
    files = np.array(flat + [file for names in by_class for file in names])
    labels = np.repeat(np.arange(len(classes)), [len(names) for names in by_class])
    for directory, names in zip(classes or [path], by_class or [flat]):
        if not names:
            raise UserError(f"there are no images in {directory!r} ({', '.join(SUFFIXES)})")
    return files, np.full(len(files), -1, np.int32) if flat else labels.astype(np.int32)


def _image_files(directory):
    names = sorted(entry.path for entry in os.scandir(directory) if entry.is_file())
    return [name for name in names if name.lower().endswith(SUFFIXES)]


def _read(name):
    try:
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{str(name)!r} can't be read: {error.strerror}") from error


def _warn_of_overlap(path, train, validation, test):
    """The file says what trains; where that is not apart from what scores, so does this."""
    seen = set(map(_hash, train["image"]))
    shared = [sum(_hash(i) in seen for i in split["image"]) for split in (validation, test)]
    if any(shared):
        print(
            f"warning: {path!r}: {shared[0]} validation and {shared[1]} test images are training "
            "images too",
            flush=True,
        )


def _hash(image):
    """16 bytes that equal images share, whatever file they come from."""
    return hashlib.md5(np.ascontiguousarray(image).tobytes()).digest()


def _divide(
    hashes: list[bytes], split: Callable[[np.ndarray], "data.Split"], spec: DataSpec
) -> "data.Dataset":
    """Divides by hash; `split` gives the images of some rows."""
    tenth = np.array([int.from_bytes(value[:8], "big") % 10 for value in hashes])
    train, *hold_out = (split(np.flatnonzero(rows)) for rows in (tenth > 1, tenth == 0, tenth == 1))
    fold = data.Fold(*({**split, "image": np.asarray(split["image"])} for split in hold_out))
    return data.Dataset(train, (fold,), spec.num_classes)


def _split(path, stored, images_name, labels_name):
    """Two arrays of a file, checked, as a split."""
    if images_name not in stored:
        raise UserError(
            f"{path!r} has {', '.join(sorted(stored)) or 'nothing'}: it must have 'images' (and "
            "'labels'), or those of MedMNIST, or in a .mat those of SVHN"
        )
    images = stored[images_name]
    if images.ndim == 3:
        images = images[..., None]
    name = f"{path!r}: {images_name}"
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(
            f"{name} is {stored[images_name].shape}: it must be (N, height, width) or "
            "(N, height, width, channels)"
        )
    if np.issubdtype(images.dtype, np.floating):
        data.check_unit(name, images)
        images = images.astype(np.float32)
    elif images.dtype != np.uint8:
        raise UserError(f"{name} is {images.dtype}: it must be uint8, or floats in [0, 1]")
    labels = np.full(len(images), -1, np.int32)
    if labels_name in stored:
        labels = stored[labels_name]
        if labels.size != len(images):
            raise UserError(f"{name}: {len(images)} images but {labels.size} labels")
        if labels.dtype.kind not in "iuf" or (labels != np.floor(labels)).any():
            raise UserError(f"{path!r}: {labels_name} is {labels.dtype}: it must be whole numbers")
        if abs(labels).max(initial=0) >= 2**31:
            raise UserError(f"{path!r}: {labels_name} goes up to {labels.max()}: not a class")
        labels = labels.reshape(-1).astype(np.int32)
    return {"image": images, "label": labels}


def read_npz(path: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz; pickled objects are refused, never unpickled."""

    def read():
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):  # NumPy would take it for a pickle
                raise ValueError("it is no zip archive")
        return dict(np.load(path, allow_pickle=False).items())

    return _readable(path, read)


def read_mat(path: str) -> dict[str, np.ndarray]:
    """All arrays of a MATLAB file of version 4 to 7."""
    from scipy.io import loadmat

    try:
        stored = _readable(path, lambda: loadmat(path))
    except NotImplementedError as error:
        raise UserError(
            f"{path!r} is a MATLAB 7.3 file: save it again as version 7 (save -v7)"
        ) from error
    return {name: values for name, values in stored.items() if not name.startswith("__")}


def _readable(path: str, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        stored = read()
    except (NotImplementedError, MemoryError):
        raise
    except PermissionError as error:
        raise UserError(f"{path!r} may not be read") from error
    except Exception as error:  # the libraries raise whatever a damaged file brings them to
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path!r} holds pickled objects: arrays of numbers are needed"
            ) from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path!r} is damaged, cut off or of another kind: {reason}") from error
    for name, values in stored.items():
        if getattr(values, "dtype", None) == object:
            raise UserError(f"{path!r}: {name} holds objects: arrays of numbers are needed")
    return stored
