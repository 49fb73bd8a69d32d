"""Labels from files → i32[N], and the names of classes."""

import re
from collections.abc import Iterable

import numpy as np

from aae_jax.errors import UserError

_SHOWN = 400  # characters of a map of classes


def natural_order(names: Iterable[str]) -> list[str]:
    """Sorts as people do: 2 before 10."""

    def key(name):
        parts = re.split(r"(\d+)", name)
        return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts], name

    return sorted(names, key=key)


def tell_classes(path: str, class_names: tuple[str, ...]) -> None:
    """Prints the label of each class, in one line."""
    shown = ", ".join(f"{i} = {name}" for i, name in enumerate(class_names))
    if len(shown) > _SHOWN:
        last = f", …, {len(class_names) - 1} = {class_names[-1]}"
        shown = shown[:_SHOWN].rpartition(",")[0] + last
    print(f"{path!r}: the classes are {' '.join(shown.split())}", flush=True)


def read_labels(
    path: str, stored: dict[str, tuple[str, np.ndarray, int]], num_classes: int
) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Labels of all splits of a file, which share their classes.

    Args:
        path: of the file.
        stored: for each split the name of its array, the array and the number of examples. The
            array holds integers or words [N], [N, 1] or [1, N], or one-hot rows [N, K]. An empty
            word and a row of zeros mean unlabelled.
        num_classes: K.

    Returns:
        i32[N] of each split, and the names of the classes if labels are words.

    Raises:
        UserError: labels of another kind, or their number does not match examples or classes.
    """
    found = {
        role: _flat(f"{path!r}: {name}", values, count, num_classes)
        for role, (name, values, count) in stored.items()
    }
    words = {role: values for role, values in found.items() if values.dtype.kind == "U"}
    if not words:
        return found, None
    if len(words) != len(found):
        raise UserError(f"{path!r}: labels are words in {', '.join(words)}, but numbers elsewhere")
    class_names = natural_order({str(w) for values in words.values() for w in values} - {""})
    if len(class_names) != num_classes:
        raise UserError(
            f"{path!r} has {len(class_names)} classes ({', '.join(class_names)[:200]}), but "
            f"data.num_classes is {num_classes}"
        )
    index = {"": -1} | {name: i for i, name in enumerate(class_names)}
    labels = {
        role: np.array([index[word] for word in values.tolist()], np.int32)
        for role, values in words.items()
    }
    return labels, tuple(class_names)


def _flat(name, labels, num_examples, num_classes):
    """i32[N], or words [N]."""
    if labels.ndim == 2 and min(labels.shape) > 1 and len(labels) == num_examples:
        return _of_one_hot(name, labels, num_classes)
    if labels.size != num_examples:
        raise UserError(f"{name}: {num_examples} images but {labels.size} labels")
    labels = labels.reshape(-1)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind == "U":
        return np.char.strip(labels)
    if labels.dtype.kind not in "biuf" or (labels != np.floor(labels)).any():
        raise UserError(f"{name} is {labels.dtype}: it must be integers, or words")
    for value in (labels.min(initial=0), labels.max(initial=0)):
        if not -(2**31) <= value < 2**31:
            raise UserError(f"{name} contains {value}, which is not a class")
    return labels.astype(np.int32)


def _of_one_hot(name, labels, num_classes):
    if labels.shape[1] != num_classes:
        raise UserError(
            f"{name} is {labels.shape}: it must be (N,), or one-hot with as many columns as "
            f"data.num_classes, which is {num_classes}"
        )
    if labels.dtype.kind not in "biuf" or not (
        np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) <= 1).all()
    ):
        raise UserError(f"{name} is {labels.shape}: each row must be one-hot, a 1 among zeros")
    labels = labels.astype(bool)
    return np.where(labels.any(axis=1), labels.argmax(axis=1), -1).astype(np.int32)
