"""A directory of images → splits, from `train/`, `val/` and `test/`, classes, or images alone."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from aae_jax import data
from aae_jax.data.division import ALL, Part, hash_of
from aae_jax.data.labels import natural_order, tell_classes
from aae_jax.data.pixels import decode, refuse_zero_one
from aae_jax.errors import UserError
from aae_jax.settings import DataSpec

SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".pbm",
    ".pgm",
    ".ppm",
    ".pnm",
)
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_UNLABELLED = {"unlabelled", "unlabeled"}  # a directory beside those of the classes: label −1
_OF_SYSTEMS = ("thumbs.db", "desktop.ini")  # written into directories unasked, as hidden files are
_BLOCK = 10_000  # files whose hashes are under way at a time


def read(path: str, spec: DataSpec) -> tuple[dict[str, Part], tuple[str, ...] | None]:
    """The splits of a directory, decoded on demand, and the names of its classes if any.

    Every file is decoded once here, so that damaged files are found before the training.

    Raises:
        UserError: the data are wrong; the message names the file, the fault and the remedy.
    """
    if len(spec.image_shape) != 3 or spec.image_shape[2] not in (1, 3):
        raise UserError(
            f"data.image_shape is {spec.image_shape}: for a directory of images it must be "
            "(height, width, 1), grey, or (height, width, 3), RGB"
        )
    splits, left_out = _list_splits(path)
    class_names = _class_names(path, splits, spec.num_classes)
    if left_out:
        counted = ", ".join(f"{count} {what}" for what, count in sorted(left_out.items()))
        print(f"{path!r}: left out: {counted}", flush=True)
    if class_names:
        tell_classes(path, class_names)
    parts, largest = {}, 0
    for role, by_class in splits.items():
        parts[role], found = _part(by_class, class_names, spec)
        largest = max(largest, found)
    refuse_zero_one(f"{path!r}: images", largest, "save them as 0 and 255")
    return parts, class_names


def _list_splits(path):
    """{split: {class or None: files}}, and the number of files left out, by kind."""
    left_out: Counter[str] = Counter()
    try:
        images, directories = _list(path, left_out)
        roles = _roles(path, directories)
        if not roles:
            return {ALL: _by_class(path, images, directories, left_out)}, left_out
        if images:
            raise UserError(
                f"{path!r} holds images beside {', '.join(map(repr, directories))}: put each into "
                "one of them"
            )
        splits = {
            role: _by_class(directories[name], *_list(directories[name], left_out), left_out)  # type: ignore[call-arg]
            for name, role in roles.items()
        }
        return splits, left_out
    except OSError as error:
        raise UserError(f"data.path: permission to read {error.filename!r} is denied") from error


def _roles(path, directories):
    """The split of each directory; empty if the directories are classes."""
    roles = {name: _SPLITS[name.lower()] for name in directories if name.lower() in _SPLITS}
    others = [name for name in directories if name not in roles]
    if not roles or (others and len(roles) == 1):  # classes, one of which may be called so
        return {}
    if others or "train" not in roles.values() or len(set(roles.values())) < len(roles):
        raise UserError(
            f"{path!r} holds {', '.join(map(repr, directories))}: beside train there may be val "
            "and test, once each, and nothing else; or else there must be a directory for each "
            "class"
        )
    return roles


def _by_class(path, images, directories, left_out):
    if images and directories:
        raise UserError(
            f"data.path has {path!r}, which holds images and directories: it must hold images "
            "alone, or one directory for each class, and 'unlabelled' for images without one"
        )
    if not directories:
        found = {None: images}
    else:
        found = {}
        for name, directory in directories.items():
            found[name], nested = _list(directory, left_out)
            if nested:
                left_out["nested directories"] += len(nested)
    for name, files in found.items():
        if not files:
            where = directories.get(name, path)
            raise UserError(f"there are no images in {where!r} ({', '.join(SUFFIXES)})")
    return found


def _list(directory, left_out):
    """Image files, and {name: path} of directories in natural order; counts all other files."""
    images, directories = [], {}
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith(".") or entry.name.lower() in _OF_SYSTEMS:
            continue
        if entry.is_dir():
            if not entry.name.startswith("__"):  # __MACOSX, __pycache__
                directories[entry.name] = entry.path
        elif not entry.is_file():
            left_out["dead links" if entry.is_symlink() else "special files"] += 1
        elif suffix in SUFFIXES:
            images.append(entry.path)
        else:
            left_out[f"{suffix} files" if suffix else "files without a suffix"] += 1
    return images, {name: directories[name] for name in natural_order(directories)}


def _class_names(path, splits, num_classes):
    """The names of the classes of all splits, in the order of labels; None without classes."""
    by_split = {
        role: {name for name in by_class if name is None or name.lower() not in _UNLABELLED}
        for role, by_class in splits.items()
    }
    known = set.union(*by_split.values())
    for role, names in by_split.items():
        if names != known:
            lacking = natural_order(str(name) for name in known - names if name is not None)
            raise UserError(
                f"{path!r}: all splits must have the same classes, and {role} "
                + (f"lacks {', '.join(lacking)[:200]}" if lacking else "has images without one")
            )
    if known in ({None}, set()):
        return None
    if len(known) != num_classes:
        raise UserError(
            f"data.path is {path!r}, which holds {len(known)} classes: with "
            f"data.num_classes = {num_classes} there must be one directory for each"
        )
    return tuple(natural_order(known))


def _part(by_class, class_names, spec):
    """A part of the data, and its largest pixel."""
    number = {name: index for index, name in enumerate(class_names or ())}
    order = [*number, *(name for name in by_class if name not in number)]
    files = np.array([file for name in order for file in by_class[name]])
    label = np.concatenate(
        [np.full(len(by_class[name]), number.get(name, -1), np.int32) for name in order]
    )

    def read_image(name):
        return decode(_content(name), spec.image_shape, repr(str(name)), spec.resize)

    def take(rows):
        chosen = files[rows]

        def images(indices):
            found = [read_image(name) for name in chosen[indices]]
            return np.stack(found) if found else np.empty((0, *spec.image_shape), np.uint8)

        return {
            "image": data.LazyImages(images, len(chosen), spec.image_shape),
            "label": label[rows],
        }

    def inspect(name):
        image = read_image(name)
        return hash_of(image), int(image.max())

    found: list[tuple[bytes, int]] = []
    with ThreadPoolExecutor(2 if data.is_small(spec.image_shape) else None) as pool:
        for start in range(0, len(files), _BLOCK):
            found += pool.map(inspect, files[start : start + _BLOCK])
    return Part([value for value, _ in found], take), max(value for _, value in found)


def _content(name):
    try:
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{str(name)!r} can't be read: {error.strerror}") from error
