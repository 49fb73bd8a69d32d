"""Which examples train, validate and test.

Where the data say it, they are obeyed. Otherwise a hash of each example's pixels decides: a tenth
validates, a tenth is for the test. So the split is the same on every machine and in every order,
examples that are added later leave the others where they are, and equal examples are never split.
Where there are so few that a tenth is none, it is the example with the smallest hash.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from aae_jax import data

ALL = "all"  # the part of data that name no splits


class Part(NamedTuple):
    """Examples that lie together: of a split, or all."""

    hashes: list[bytes]
    take: Callable[[np.ndarray], "data.Split"]  # some rows of it


def hash_of(example: np.ndarray) -> bytes:
    """16 bytes that equal examples share, whatever file they come from."""
    return hashlib.md5(np.ascontiguousarray(example).tobytes()).digest()


def divide(
    path: str, parts: dict[str, Part], num_classes: int, class_names: tuple[str, ...] | None
) -> "data.Dataset":
    """Makes the data set; a split that is not there is taken from what trains, by hash.

    Args:
        path: of the data, for what is printed.
        parts: either `ALL`, or "train" and perhaps "validation" and "test".
        num_classes: K.
        class_names: of the labels 0 … K − 1; None where they are numbers.
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
    """What is done about splits that are not there, or that share examples."""
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
