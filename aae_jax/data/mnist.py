"""MNIST through tensorflow-datasets, in the order of the original files.

tensorflow-datasets stores the images shuffled by a hash, and "the first 50,000" of the field's
protocols are those of the original files; `_original_order` undoes the shuffle. Train: the first
50,000 training images; validation: the other 10,000; test: the 10,000 test images.
"""

import hashlib
import zlib

import numpy as np

from aae_jax import data
from aae_jax.data import tfds_images
from aae_jax.errors import UserError
from aae_jax.settings import DataSpec

_NUM_TRAIN = 50_000
# CRC-32 of the labels, one byte each, in the order of the original files.
_LABELS_CRC = {"train": 0xBA07E8EF, "test": 0xEE8604D9}


def load(spec: DataSpec) -> "data.Dataset":
    """Reads MNIST; prepares it first where that has not been done.

    Raises:
        UserError: MNIST is neither prepared, nor in `data.manual_dir`, nor can it be downloaded.
    """
    builder = tfds_images.prepared_builder(spec)
    train, test = _read(builder, "train"), _read(builder, "test")
    train, validation = (
        {name: values[rows] for name, values in train.items()}
        for rows in (slice(_NUM_TRAIN), slice(_NUM_TRAIN, None))
    )
    return data.Dataset(train, (data.Fold(validation, test),), num_classes=10)


def _read(builder, split):
    """One split in the original order: uint8[N, 28, 28, 1] and i32[N]."""
    stored = tfds_images.read_split(builder, split)
    order = _original_order(split, len(stored["label"]))
    labels = stored["label"][order]
    if zlib.crc32(labels.astype(np.uint8).tobytes()) != _LABELS_CRC[split]:
        raise UserError(
            f"MNIST in {builder.data_path} is not in the order that tensorflow-datasets 4 writes: "
            "remove that directory and let it be prepared again"
        )
    return {"image": stored["image"][order], "label": labels}


def _original_order(split, num_examples):
    """Where each example of the original file lies in the prepared one, which is sorted by MD5."""
    salted = hashlib.md5(split.encode())

    def digest(index):
        copy = salted.copy()
        copy.update(str(index).encode())
        return copy.digest()

    stored = sorted(range(num_examples), key=digest)
    return np.argsort(np.array(stored))
