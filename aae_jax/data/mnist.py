"""MNIST through tensorflow-datasets, in the order of the original files.

tensorflow-datasets stores the images shuffled by a hash, but the usual protocols mean the first
50,000 of the original files. So `_original_order` undoes the shuffle. Train: the first 50,000
training images. Validation: the other 10,000. Test: the 10,000 test images.
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
# SHA-256 of the four files, unpacked.
_CONTENTS = {
    "train-images-idx3-ubyte.gz": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    "train-labels-idx1-ubyte.gz": (
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
}


def load(spec: DataSpec) -> "data.Dataset":
    """Reads MNIST; prepares it first if it is not prepared yet.

    The four original files may be compressed or not: their content is compared with the published
    files.

    Raises:
        UserError: MNIST is neither prepared nor in `data.manual_dir`, and can't be downloaded.
    """
    builder = tfds_images.prepared_builder(spec, contents=_CONTENTS)
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
    """The position of each original example in the prepared file, which is sorted by MD5."""
    salted = hashlib.md5(split.encode())

    def digest(index):
        copy = salted.copy()
        copy.update(str(index).encode())
        return copy.digest()

    stored = sorted(range(num_examples), key=digest)
    return np.argsort(np.array(stored))
