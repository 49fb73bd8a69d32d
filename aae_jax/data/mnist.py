"""MNIST through tensorflow-datasets, in the order of the original files.

tensorflow-datasets stores the images shuffled by a hash, and "the first 50,000" of the field's
protocols are those of the original files; `_original_order` undoes the shuffle. Train: the first
50,000 training images; validation: the other 10,000; test: the 10,000 test images.
"""

import hashlib
import io
import os
import zlib

import numpy as np

from aae_jax import data
from aae_jax.errors import UserError

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_SERVER = "https://storage.googleapis.com/cvdf-datasets/mnist/"  # tensorflow-datasets' own
_NUM_TRAIN = 50_000
# CRC-32 of the labels, one byte each, in the order of the original files.
_LABELS_CRC = {"train": 0xBA07E8EF, "test": 0xEE8604D9}


def load(data_dir: str | None = None, manual_dir: str | None = None) -> "data.Dataset":
    """Reads MNIST; prepares it first where that has not been done.

    Args:
        data_dir: where tensorflow-datasets keeps prepared data sets; None for its own default
            (`~/tensorflow_datasets`, or the environment variable TFDS_DATA_DIR).
        manual_dir: a directory with the four original files, to prepare without a network.

    Raises:
        UserError: MNIST is neither prepared, nor in `manual_dir`, nor can it be downloaded.
    """
    builder = _prepared_builder(data_dir, manual_dir)
    train, test = _read(builder, "train"), _read(builder, "test")
    return data.Dataset(
        train={name: values[:_NUM_TRAIN] for name, values in train.items()},
        validation={name: values[_NUM_TRAIN:] for name, values in train.items()},
        test=test,
        num_classes=10,
    )


def _prepared_builder(data_dir, manual_dir):
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(
            "data.name is 'mnist', which comes through tensorflow-datasets: "
            "pip install 'aae-jax[data]'"
        ) from None
    tfds.disable_progress_bar()
    if data_dir is not None:
        data_dir = os.path.abspath(os.path.expanduser(data_dir))
    builder = tfds.builder("mnist", data_dir=data_dir)
    if builder.is_prepared():
        return builder

    download = None
    if manual_dir is not None:
        manual_dir = os.path.abspath(os.path.expanduser(manual_dir))
        missing = [name for name in FILES if not os.path.isfile(os.path.join(manual_dir, name))]
        if missing:
            raise UserError(
                f"data.manual_dir is {manual_dir!r}, which lacks {', '.join(missing)}: it must "
                "hold the four original MNIST files, still compressed"
            )
        download = tfds.download.DownloadConfig(manual_dir=manual_dir)
    if manual_dir is None:
        _check_reachable(builder)
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else TensorFlow prints a page about it
    try:
        import tensorflow  # noqa: F401  tensorflow-datasets needs it to prepare, not to read
    except ImportError:
        raise UserError(
            f"MNIST is not prepared in {builder.data_path.parent.parent}, and preparing it needs "
            "TensorFlow: pip install 'aae-jax[data]'"
        ) from None
    print(f"preparing mnist in {builder.data_path}", flush=True)
    try:
        builder.download_and_prepare(download_config=download, file_format="array_record")
    except Exception as error:  # the libraries below raise whatever they like
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"MNIST could not be prepared from {manual_dir or 'the network'}: {reason}"
        ) from error
    return builder


def _check_reachable(builder):
    """Asks the server once: without a network tensorflow-datasets tries for minutes."""
    import requests

    try:
        requests.head(_SERVER, timeout=10)
    except requests.RequestException as error:
        raise UserError(
            f"MNIST is not prepared in {builder.data_path.parent.parent} and its server can't be "
            f"reached: put the four original files ({', '.join(FILES)}) in a directory and name it "
            "with --config.data.manual_dir=DIR, or name prepared data with --config.data.data_dir=DIR"
        ) from error


def _read(builder, split):
    """One split in the original order: uint8[N, 28, 28, 1] and i32[N]."""
    import tensorflow_datasets as tfds
    from PIL import Image

    # Skipping the decoder of tensorflow-datasets and calling Pillow at once is 1.5 times faster.
    skip = {"image": tfds.decode.SkipDecoding()}
    try:
        source = builder.as_data_source(split=split, decoders=skip)
    except NotImplementedError:  # prepared in the older tfrecord format, which needs TensorFlow
        try:
            stored = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
        except ImportError:
            raise UserError(
                f"MNIST in {builder.data_path} is in tfrecord format, which needs TensorFlow: "
                "pip install 'aae-jax[data]', or name another --config.data.data_dir=DIR"
            ) from None
        images, labels = stored["image"], stored["label"]
    else:
        records = source.__getitems__(range(len(source)))
        images = np.stack([np.asarray(Image.open(io.BytesIO(r["image"]))) for r in records])
        labels = np.array([record["label"] for record in records])
    order = _original_order(split, len(labels))
    images, labels = images.reshape(-1, 28, 28, 1)[order], labels[order]
    if zlib.crc32(labels.astype(np.uint8).tobytes()) != _LABELS_CRC[split]:
        raise UserError(
            f"MNIST in {builder.data_path} is not in the order that tensorflow-datasets 4 writes: "
            "remove that directory and let it be prepared again"
        )
    return {"image": images, "label": labels.astype(np.int32)}


def _original_order(split, num_examples):
    """Where each example of the original file lies in the prepared one, which is sorted by MD5."""
    salted = hashlib.md5(split.encode())

    def digest(index):
        copy = salted.copy()
        copy.update(str(index).encode())
        return copy.digest()

    stored = sorted(range(num_examples), key=digest)
    return np.argsort(np.array(stored))
