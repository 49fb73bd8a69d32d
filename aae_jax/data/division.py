"""The division of examples into training, validation and test.

Splits given by the data are used. For data without splits, a hash of each example's pixels decides:
a tenth is for validation, a tenth for the test. So the split does not depend on the machine or the
order, examples added later do not move others, and equal examples stay together. If a tenth is less
than one example, the one with the smallest hash is taken.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from aae_jax import data

ALL = "all"  # the part of data that name no splits


class Part(NamedTuple):
    """Examples stored together: a split, or all."""

    hashes: list[bytes]
    take: Callable[[np.ndarray], "data.Split"]  # some rows of it


def hash_of(example: np.ndarray) -> bytes:
    """A hash of 16 bytes, the same for equal examples from any file."""
    return hashlib.md5(np.ascontiguousarray(example).tobytes()).digest()


def divide(
    path: str, parts: dict[str, Part], num_classes: int, class_names: tuple[str, ...] | None
) -> "data.Dataset":
    """Makes the data set; a missing split is taken from the training examples by hash.

    Args:
        path: of the data, for messages.
        parts: either `ALL`, or "train" and optionally "validation" and "test".
        num_classes: K.
        class_names: of the labels 0 … K − 1; None if they are numbers.
    """
    whole = parts.get(ALL) or parts["train"]
    tenth = np.array([int.from_bytes(value[:8], "big") % 10 for value in whole.hashes])
    trains, held = np.ones(len(tenth), bool), {}
    for place, role in enumerate(("validation", "test")):
        if role not in parts:
            held[role] = tenth == place
            if not held[role].any():  # of a few dozen examples a tenth may be none
                free = np.flatnonzero(trains & (tenth > 1))
                smallest = min((whole.hashes[row] for row in free), default=None)
                held[role] = np.array([value == smallest for value in whole.hashes])
            trains &= ~held[role]
    if ALL not in parts:
        _tell(path, whole, held, parts)
    hold_out = {
        role: whole.take(np.flatnonzero(held[role])) if role in held else _all_of(parts[role])
        for role in ("validation", "test")
    }
    fold = data.Fold(
        **{role: {**s, "image": np.asarray(s["image"])} for role, s in hold_out.items()}
    )
    train = whole.take(np.flatnonzero(trains))
    return data.Dataset(train, (fold,), num_classes, class_names)


def _all_of(part):
    return part.take(np.arange(len(part.hashes)))


def _tell(path, whole, held, parts):
    """Prints how missing splits were made, and warns of splits that share examples."""
    for role, rows in held.items():
        doing = "validate" if role == "validation" else "are for the test"
        print(
            f"{path!r} has no {role} split: {rows.sum()} of its {len(rows)} training examples, "
            f"chosen by a hash of their pixels, {doing}",
            flush=True,
        )
    seen = set(whole.hashes)
    shared = [
        sum(value in seen for value in parts[role].hashes) if role in parts else 0
        for role in ("validation", "test")
    ]
    if any(shared):
        print(
            f"warning: {path!r}: {shared[0]} validation and {shared[1]} test images are training "
            "images too",
            flush=True,
        )
