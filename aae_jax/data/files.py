"""A user's own images: an .npz, a MATLAB .mat, or a directory of image files.

Where a file says which images train, it is obeyed. Otherwise a hash of each image decides: a tenth
validates, a tenth is for the test. So the split is the same on every machine and in every order,
images that are added later leave the others where they are, and equal images are never split.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from aae_jax import data
from aae_jax.data.tfds_images import decode, in_memory
from aae_jax.errors import UserError
from aae_jax.spec import DataSpec

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
_MEDMNIST = ("train", "val", "test")


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
        return data.Dataset(train, (data.Fold(validation, test),), spec.num_classes)
    if "X" in stored and "images" not in stored:
        stored["images"] = np.moveaxis(stored["X"], -1, 0)
        if "y" in stored:
            stored["labels"] = stored["y"] % 10
    split = _split(path, stored, "images", "labels")
    return _divide(
        (image.tobytes() for image in split["image"]),
        lambda rows: {name: values[rows] for name, values in split.items()},
        spec,
    )


def _load_directory(path, spec):
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        classes = [entry.path for entry in entries if entry.is_dir()]
        found = [(_image_files(directory), i) for i, directory in enumerate(classes)]
        flat = _image_files(path)
    except PermissionError as error:
        raise UserError(f"data.path: {error.filename!r} may not be read") from error
    if flat and classes:
        raise UserError(
            f"data.path is {path!r}, which holds images and directories: it must hold images "
            "alone, or one directory for each class"
        )
    found = found or [(flat, -1)]
    files = np.array([file for names, _ in found for file in names])
    labels = np.array([label for names, label in found for _ in names], np.int32)
    if len(files) == 0:
        raise UserError(
            f"data.path is {path!r}: there are no images in it, or in directories of classes in it "
            f"({', '.join(SUFFIXES)})"
        )

    def split(rows):
        chosen = files[rows]

        def read(indices):
            images = [decode(_read(name), spec.image_shape, name) for name in chosen[indices]]
            return np.stack(images) if images else np.empty((0, *spec.image_shape), np.uint8)

        return {
            "image": data.LazyImages(read, len(chosen), spec.image_shape),
            "label": labels[rows],
        }

    with ThreadPoolExecutor() as pool:
        return _divide(pool.map(_read, files), split, spec)


def _image_files(directory):
    names = sorted(entry.path for entry in os.scandir(directory) if entry.is_file())
    return [name for name in names if name.lower().endswith(SUFFIXES)]


def _read(name):
    try:
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{str(name)!r} can't be read: {error.strerror}") from error


def _divide(
    contents: Iterable[bytes], split: Callable[[np.ndarray], "data.Split"], spec: DataSpec
) -> "data.Dataset":
    """Divides by hash; `split` gives the images of some rows."""
    tenth = np.array([int.from_bytes(hashlib.md5(c).digest()[:8], "big") % 10 for c in contents])
    train, validation, test = (
        split(np.flatnonzero(rows)) for rows in (tenth > 1, tenth == 0, tenth == 1)
    )
    return data.Dataset(
        train, (data.Fold(in_memory(validation), in_memory(test)),), spec.num_classes
    )


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
        if not np.issubdtype(labels.dtype, np.number) or (labels != np.floor(labels)).any():
            raise UserError(f"{path!r}: {labels_name} is {labels.dtype}: it must be whole numbers")
        labels = labels.reshape(-1).astype(np.int32)
    return {"image": images, "label": labels}


def read_npz(path: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz; pickled objects are refused, never unpickled."""

    def read():
        if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle
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
