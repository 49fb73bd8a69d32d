"""The Toronto Face Dataset (Susskind, Anderson, Hinton 2010) as a tensorflow-datasets builder.

The authors give out its file on request, so it is prepared from a `manual_dir`. The unlabelled
images are in no fold, and are the training images. In fold k (1 … 5) of the labelled images,
validation images choose σ and test images are scored (Goodfellow et al. 2014).
"""

import os
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from aae_jax import data
from aae_jax.data import tfds_images
from aae_jax.errors import UserError
from aae_jax.settings import DataSpec

NUM_FOLDS, NUM_CLASSES = 5, 7
_VALIDATION, _TEST = 2, 3  # in the file's folds; 0: unlabelled, 1: train
_VARIABLES = ("images", "labs_ex", "labs_id", "folds")


def file_names(size: int) -> tuple[str, str]:
    """The two known names of the file."""
    return f"TFD_{size}x{size}.mat", f"TFD_ranzato_{size}x{size}.mat"


class Tfd(tfds.core.GeneratorBasedBuilder):
    """`tfds.load("tfd/48x48", split="unlabelled")` after importing this module.

    Splits: "unlabelled" and "labelled", both in the order of the file.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[Any]] = [
        tfds.core.BuilderConfig(name=f"{size}x{size}", description=f"Images of {size}×{size}")
        for size in (48, 96)
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask the authors of the Toronto Face Dataset for TFD_48x48.mat (also known as "
        "TFD_ranzato_48x48.mat; 96x96 likewise), and put it in a directory."
    )

    def _info(self):
        size = int(self.builder_config.name.split("x")[0])
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(size, size, 1)),
                    # Anger, disgust, fear, happy, sad, surprise, neutral; −1: unlabelled.
                    "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
                    "identity": np.int32,  # −1: unknown
                    "folds": tfds.features.Tensor(shape=(NUM_FOLDS,), dtype=np.uint8),
                    "index": np.int32,  # row of the file, from 0
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        size = int(self.builder_config.name.split("x")[0])
        for name in file_names(size):
            path = os.path.join(dl_manager.manual_dir, name)
            if os.path.isfile(path):
                break
        else:
            raise UserError(
                f"data.manual_dir is {str(dl_manager.manual_dir)!r}, which has neither of "
                f"{' and '.join(file_names(size))}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        file = read_file(path, size)
        unlabelled = (file["folds"] == 0).all(axis=1)
        return {
            name: self._generate_examples(file, np.flatnonzero(rows))
            for name, rows in (("unlabelled", unlabelled), ("labelled", ~unlabelled))
        }

    def _generate_examples(self, file, rows):
        for row in rows.tolist():
            yield (
                row,
                {
                    "image": file["images"][row],
                    "label": int(file["labs_ex"][row]),
                    "identity": int(file["labs_id"][row]),
                    "folds": file["folds"][row],
                    "index": row,
                },
            )


def read_file(path: str, size: int) -> dict[str, np.ndarray]:
    """Reads and checks the MATLAB file.

    Args:
        path: of the file.
        size: 48 or 96.

    Returns:
        images uint8[N, size, size, 1]; labs_ex i32[N], 0 … 6 or −1; labs_id i32[N]; folds u8[N, 5].

    Raises:
        UserError: the file is damaged, lacks a variable, or does not hold the data set.
    """
    from aae_jax.data.readers import read_mat

    stored = read_mat(path)
    missing = [name for name in _VARIABLES if name not in stored]
    if missing:
        raise UserError(
            f"{path!r} lacks {', '.join(missing)}: it must hold {', '.join(_VARIABLES)}"
        )
    images = stored["images"]
    if images.shape[1:] != (size, size):
        raise UserError(f"{path!r}: images is {images.shape}: it must be (N, {size}, {size})")
    for name, shape in (("labs_ex", (1,)), ("labs_id", (1,)), ("folds", (NUM_FOLDS,))):
        if stored[name].shape != (len(images), *shape):
            raise UserError(
                f"{path!r}: {name} is {stored[name].shape}: with {len(images)} images it must be "
                f"{(len(images), *shape)}"
            )
    for name, low, high in (("images", 0, 255), ("labs_ex", -1, NUM_CLASSES), ("folds", 0, 3)):
        _check_whole(path, name, stored[name], low, high)
    expression = stored["labs_ex"][:, 0].astype(np.int32)
    if (expression == 0).any():
        raise UserError(f"{path!r}: labs_ex has a 0: it must be 1 … {NUM_CLASSES}, or −1")
    return {
        "images": images.astype(np.uint8)[..., None],
        "labs_ex": np.where(expression > 0, expression - 1, -1),
        "labs_id": stored["labs_id"][:, 0].astype(np.int32),
        "folds": stored["folds"].astype(np.uint8),
    }


def _check_whole(path, name, values, low, high):
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise UserError(f"{path!r}: {name} is {values.dtype}: it must be numbers")
    found = values.min(), values.max()
    if not (np.isfinite(found).all() and low <= found[0] and found[1] <= high):
        raise UserError(
            f"{path!r}: {name} ranges from {found[0]} to {found[1]}: it must be {low} … {high}"
        )
    if np.issubdtype(values.dtype, np.floating) and (values != np.floor(values)).any():
        raise UserError(f"{path!r}: {name} has fractions: it must be integers")


def load(spec: DataSpec) -> "data.Dataset":
    """Loads the unlabelled images for training, and the folds of labelled images for scoring.

    `data.fold` picks one fold; None scores all five. `data.drop_black` leaves out the images that
    are all black (130 in the published file); published scores include them.
    """
    sizes = [config.name for config in Tfd.BUILDER_CONFIGS]
    size = "x".join(map(str, spec.image_shape[:2]))
    if len(spec.image_shape) != 3 or size not in sizes:
        raise UserError(
            f"data.image_shape is {spec.image_shape}: the Toronto Face Dataset has {sizes}, grey"
        )
    builder = tfds_images.prepared_builder(spec, Tfd, config=size)
    train = tfds_images.read_split(builder, "unlabelled")
    labelled = tfds_images.read_split(builder, "labelled")
    folds = tfds_images.read_integers(builder, "labelled", "folds")
    if spec.drop_black:
        train = _rows(train, np.asarray(train["image"]).any(axis=(1, 2, 3)))
        keep = np.asarray(labelled["image"]).any(axis=(1, 2, 3))
        labelled, folds = _rows(labelled, keep), folds[keep]
    chosen = range(NUM_FOLDS) if spec.fold is None else [spec.fold - 1]
    return data.Dataset(
        train=train,
        folds=tuple(
            data.Fold(*(_rows(labelled, folds[:, k] == part) for part in (_VALIDATION, _TEST)))
            for k in chosen
        ),
        num_classes=NUM_CLASSES,
    )


def _rows(split, rows):
    return {name: values[rows] for name, values in split.items()}
