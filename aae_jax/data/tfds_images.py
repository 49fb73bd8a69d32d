"""Any image data set of tensorflow-datasets, by the name of its builder or by an import path.

Prepared data are read without TensorFlow. Other data are prepared first, from a directory with the
original files or from the network. tensorflow-datasets writes to a temporary directory and renames
it at the end, so incomplete data are never used.
"""

import dataclasses
import os
from typing import Any

import numpy as np

from aae_jax import data
from aae_jax.data import repacked
from aae_jax.data.pixels import convert, decode, refuse_zero_one
from aae_jax.errors import UserError
from aae_jax.registry import import_path
from aae_jax.settings import DataSpec

_BLOCK = 1_000  # records that are parsed at a time


def load(spec: DataSpec) -> "data.Dataset":
    """Loads the splits that `data.train_split`, `validation_split` and `test_split` name."""
    builder = prepared_builder(spec)
    shape = builder.info.features[image_name(builder)].shape
    if shape != spec.image_shape and not spec.resize:
        raise UserError(
            f"data.image_shape is {spec.image_shape} in the config, but the images of "
            f"{spec.name!r} are {shape}, (height, width, channels); data.resize=True converts images"
        )
    splits = {}
    for role in ("train", "validation", "test"):
        field = f"{role}_split"
        splits[role] = read_split(
            builder,
            getattr(spec, field),
            f"data.{field}",
            lazy=role == "train",
            resize_to=spec.image_shape if spec.resize else None,
        )
    label = label_name(builder)
    check_disjoint(
        builder, {f"data.{role}_split": getattr(spec, f"{role}_split") for role in splits}
    )
    return data.Dataset(
        train=splits["train"],
        folds=(data.Fold(splits["validation"], splits["test"]),),
        num_classes=spec.num_classes if label is None else builder.info.features[label].num_classes,
        class_names=_class_names(builder, label),
    )


def _class_names(builder, label):
    """The names of the classes; None if classes are only numbered."""
    names = builder.info.features[label].names if label is not None else None
    numbered = [str(i) for i in range(len(names or ()))]
    return tuple(names) if names and names != numbered else None


def prepared_builder(
    spec: DataSpec,
    builder_class: type | None = None,
    contents: dict[str, str] | None = None,
    **arguments: Any,
) -> Any:
    """A prepared tfds builder.

    Args:
        spec: its `name` names the builder if no class is given; its directories hold the data.
        builder_class: a `tfds.core.DatasetBuilder`.
        contents: for each original .gz file the SHA-256 of its unpacked content, if known. Files
            that were unpacked or compressed again are then accepted.
        **arguments: of the builder's constructor.

    Raises:
        UserError: the builder is unknown, or its data are neither prepared nor in
            `data.manual_dir`, and can't be downloaded.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(
            f"data.name is {spec.name!r}, which comes through tensorflow-datasets: "
            "pip install 'aae-jax[data]'"
        ) from None
    tfds.disable_progress_bar()
    builder = _find_builder(tfds, spec, builder_class, arguments)
    if not builder.is_prepared():
        if contents is None or spec.manual_dir is None:
            _prepare(tfds, builder, spec)
        else:
            with repacked.as_published(tfds, builder, spec.manual_dir, contents) as manual_dir:
                _prepare(tfds, builder, dataclasses.replace(spec, manual_dir=manual_dir))
    elif spec.manual_dir is not None:
        print(
            f"{builder.name} is prepared in {builder.data_path}: data.manual_dir is not used",
            flush=True,
        )
    return builder


def _find_builder(tfds, spec, builder_class, arguments):
    data_dir = spec.data_dir and os.path.abspath(os.path.expanduser(spec.data_dir))
    if ":" in spec.name:
        builder_class = import_path("data.name", spec.name)
    try:
        if builder_class is not None:
            return builder_class(data_dir=data_dir, **arguments)
        return tfds.builder(spec.name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, TypeError) as error:
        raise UserError(
            f"data.name is {spec.name!r}: it must be 'digits', 'mnist', 'tfd', 'files', a builder "
            "of tensorflow-datasets or one of your own, 'package.module:Builder' "
            f"({_first_line(error)})"
        ) from error
    except PermissionError as error:
        raise UserError(f"data.data_dir: permission denied to read {error.filename!r}") from error
    except Exception as error:  # of the JSON that lies beside prepared data
        raise UserError(
            f"what is prepared of {spec.name!r} in {data_dir or 'the default data_dir'} is damaged: "
            f"remove its directory and let it be prepared again ({_first_line(error)})"
        ) from error


def _prepare(tfds, builder, spec):
    where = builder.data_path.parent.parent
    files = sorted(info.filename for info in (builder.url_infos or {}).values() if info.filename)
    download = None
    if spec.manual_dir is not None:
        manual_dir = os.path.abspath(os.path.expanduser(spec.manual_dir))
        if not os.path.isdir(manual_dir):
            raise UserError(f"data.manual_dir is {manual_dir!r}: there is no such directory")
        if not os.access(manual_dir, os.R_OK | os.X_OK):
            raise UserError(f"data.manual_dir is {manual_dir!r}: permission to read it is denied")
        missing = [name for name in files if not os.path.isfile(os.path.join(manual_dir, name))]
        if missing:
            raise UserError(
                f"data.manual_dir is {manual_dir!r}, which lacks {', '.join(missing)}: it must "
                f"hold the original files of {builder.name}, as they are published"
            )
        download = tfds.download.DownloadConfig(manual_dir=manual_dir)
    elif builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        raise UserError(
            f"{builder.name} is not prepared in {where} and can't be downloaded: "
            f"{' '.join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())} Name that directory with "
            "--config.data.manual_dir=DIR"
        )
    else:
        _check_reachable(builder, where, files)
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else TensorFlow prints a page about it
    print(f"preparing {builder.name} in {builder.data_path}", flush=True)
    try:
        builder.download_and_prepare(download_config=download, file_format="array_record")
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"{builder.name} is not prepared in {where}, and preparing it needs "
            f"{error.name or 'TensorFlow'}: pip install 'aae-jax[data]'"
        ) from error
    except Exception as error:  # the libraries below may raise anything
        raise UserError(
            f"{builder.name} could not be prepared in {where} from "
            f"{spec.manual_dir or 'the network'}: {_first_line(error)}"
        ) from error


def _check_reachable(builder, where, files):
    """Asks a server once; without a network, tensorflow-datasets would try for minutes."""
    import requests

    for url in list(builder.url_infos or {})[:1]:
        try:
            requests.head(url, timeout=10)
        except requests.RequestException as error:
            raise UserError(
                f"{builder.name} is not prepared in {where} and its server can't be reached: put "
                f"the original files ({', '.join(files)}) in a directory and name it with "
                "--config.data.manual_dir=DIR, or name prepared data with "
                "--config.data.data_dir=DIR"
            ) from error


def _first_line(error):
    return " ".join(str(error).split())[:300] or type(error).__name__


def image_name(builder: Any) -> str:
    """The feature that holds the image."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    images = [name for name, value in features.items() if type(value) is tfds.features.Image]
    supervised = builder.info.supervised_keys or ("image",)
    if supervised[0] in images:
        return supervised[0]
    if len(images) != 1:
        raise UserError(
            f"data.name is {builder.name!r}, which has {len(images)} images (tfds.features.Image) an "
            "example: one is needed; other arrays can be saved in an .npz, for data.path"
        )
    return images[0]


def label_name(builder: Any) -> str | None:
    """The feature that holds the class, or None: then every image is unlabelled."""
    import tensorflow_datasets as tfds

    name = (builder.info.supervised_keys or (None, "label"))[1]
    found = dict(builder.info.features.items()).get(name)
    return name if isinstance(found, tfds.features.ClassLabel) else None


def read_split(
    builder: Any,
    split: str,
    field: str = "split",
    lazy: bool = False,
    resize_to: tuple[int, ...] | None = None,
) -> "data.Split":
    """Reads one split, such as "train", or a slice or sum in the notation of tensorflow-datasets.

    Args:
        builder: a prepared builder.
        split: for instance "train[:90%]+extra", in the stored order, which is a shuffle by hash and
            the same on every machine.
        field: the split's name in errors.
        lazy: whether images are decoded on demand.
        resize_to: the shape that images are converted to; None: the builder's shape.

    Returns:
        `{"image": LazyImages or uint8[N, H, W, C], "label": i32[N]}`; always an array if the data
        are stored as tfrecord.
    """
    image, label = image_name(builder), label_name(builder)
    feature = builder.info.features[image]
    shape = resize_to or feature.shape
    depths = (np.uint8, np.uint16) if resize_to else (np.uint8,)
    if None in shape or feature.np_dtype not in depths:
        raise UserError(
            f"data.name is {builder.name!r}, whose images are {shape} of {feature.np_dtype}: all "
            "must be uint8 of one size; data.resize=True converts images of 8 or 16 bits"
        )
    try:
        source = _open(builder, split)
    except NotImplementedError:  # prepared as tfrecord, tensorflow-datasets' default elsewhere
        return _read_tfrecord(builder, split, resize_to)
    except (ValueError, AssertionError, KeyError) as error:
        if not builder.info.splits:
            raise _damaged(builder, error) from error
        there = [f"{name!r} ({info.num_examples})" for name, info in builder.info.splits.items()]
        raise UserError(
            f"{field} is {split!r}: {builder.name} has {', '.join(there)}, and slices and sums of "
            f"them such as 'train[:90%]' ({_first_line(error)})"
        ) from error

    name = f"an image of {builder.name} in {builder.data_path}"

    def read(rows, labels=None):
        examples = _examples(source, rows)
        if labels is not None and label is not None:
            labels[rows] = [example[label].int64_list.value[0] for example in examples]
        encoded = (example[image].bytes_list.value[0] for example in examples)
        images = [decode(content, shape, name, resize_to is not None) for content in encoded]
        return np.stack(images) if images else np.empty((0, *shape), np.uint8)

    try:
        labels = np.full(len(source), -1, np.int32)
        if lazy:
            if label is not None:
                labels = _integers(source, label).reshape(-1)
            return {"image": data.LazyImages(read, len(source), shape), "label": labels}
        images = np.empty((len(source), *shape), np.uint8)
        for start in range(0, len(source), _BLOCK):  # images and labels in one pass
            rows = np.arange(start, min(start + _BLOCK, len(source)))
            images[rows] = read(rows, labels)
        _refuse_zero_one(builder, images)
        return {"image": images, "label": labels}
    except UserError:
        raise
    except Exception as error:  # array_record may raise anything
        raise _damaged(builder, error) from error


def read_integers(builder: Any, split: str, feature: str) -> np.ndarray:
    """A feature of integers, i32[N, K], in the order of `read_split`."""
    try:
        source = _open(builder, split)
    except NotImplementedError:
        return _tfrecord(builder, split)[feature].astype(np.int32)
    return _integers(source, feature)


def _damaged(builder, error):
    return UserError(
        f"what is prepared in {builder.data_path} is damaged: remove that directory and let it be "
        f"prepared again ({_first_line(error)})"
    )


def check_disjoint(builder: Any, splits: dict[str, str]) -> None:
    """Raises if slices share images; `splits` maps a field of the config to its slice."""
    import tensorflow_datasets as tfds

    ranges = [
        (
            field,
            part.splitname,
            part.from_ or 0,
            part.to or builder.info.splits[part.splitname].num_examples,
        )
        for field, split in splits.items()
        for part in tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits)
    ]
    for i, (field, name, start, end) in enumerate(ranges):
        for other, other_name, other_start, other_end in ranges[:i]:
            if name == other_name and start < other_end and other_start < end:
                raise UserError(
                    f"{other} is {splits[other]!r} and {field} is {splits[field]!r}: they share "
                    f"images {max(start, other_start)} to {min(end, other_end) - 1} of {name!r}"
                )


def _open(builder, split):
    """Random access to the stored records, which are tf.train.Example messages.

    Parsing and decoding them here is several times faster than the features of tensorflow-datasets.
    """
    import tensorflow_datasets as tfds

    return builder.as_data_source(
        split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )


def _examples(source, rows):
    from tensorflow_datasets.proto import tf_example_pb2

    parse = tf_example_pb2.Example.FromString
    return [parse(record).features.feature for record in source.__getitems__(list(map(int, rows)))]


def _integers(source, feature):
    found = [np.empty((0, 1), np.int32)] if not len(source) else []
    for start in range(0, len(source), _BLOCK):
        examples = _examples(source, range(start, min(start + _BLOCK, len(source))))
        found.append(np.array([e[feature].int64_list.value for e in examples], np.int32))
    return np.concatenate(found)


def _read_tfrecord(builder, split, resize_to):
    image, label = image_name(builder), label_name(builder)
    stored = _tfrecord(builder, split, batched=resize_to is None)
    if resize_to is None:
        images = stored[image]
    else:  # of any size, one by one
        name, examples = f"an image of {builder.name}", list(stored)
        images = np.stack([convert(example[image], resize_to, name) for example in examples])
        stored = {label: np.array([example[label] for example in examples])} if label else {}
    _refuse_zero_one(builder, images)
    labels = np.full(len(images), -1) if label is None else stored[label]
    return {"image": images, "label": labels.astype(np.int32)}


def _refuse_zero_one(builder, images):
    """Checks images in memory; lazy training images are not decoded for this."""
    refuse_zero_one(
        f"data.name is {builder.name!r}",
        images.max(initial=0),
        "let the builder store 0 and 255, or save the images as bool in an .npz for data.path",
    )


def _tfrecord(builder, split, batched=True):
    """All examples of a split stored as tfrecord, in the order of array_record."""
    import tensorflow_datasets as tfds

    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    try:
        size = -1 if batched else None
        return tfds.as_numpy(builder.as_dataset(split=split, batch_size=size, read_config=in_order))
    except ImportError:
        raise UserError(
            f"{builder.name} in {builder.data_path} is in tfrecord format, which needs TensorFlow: "
            "pip install 'aae-jax[data]', or name another --config.data.data_dir=DIR"
        ) from None
