"""A table of small inputs from users: each is read as stated here, or refused in one line."""

import pathlib
import shutil

import cv2
import h5py
import numpy as np
import pytest
from scipy.io import savemat
from small import refused

from aae_jax import data
from aae_jax.data import files
from aae_jax.settings import DataSpec

N, SHAPE = 60, (6, 5, 1)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 255, (N, 6, 5), dtype=np.uint8)
BITS = RANDOM.integers(0, 2, (N, 6, 5), dtype=np.uint8)
BITS[:, 0, 0] = np.arange(N) % 2
LABELS = np.arange(N) % 4
WORDS = np.array(["cow", "ant", "dog", "bee"])[LABELS]
VECTORS = (RANDOM.normal(size=(N, 7)) * 100).astype(np.float32)
CONDITIONS = RANDOM.normal(size=(N, 2))
TRAIN, VAL, TEST = slice(0, 40), slice(40, 50), slice(50, 60)


def npz(path, **arrays):
    np.savez(path / "a.npz", **arrays)
    return path / "a.npz"


def npy(path, array):
    np.save(path / "a.npy", array)
    return path / "a.npy"


def mat(path, **arrays):
    savemat(path / "a.mat", arrays, do_compression=True)
    return path / "a.mat"


def hdf5(path, name="a.h5", **arrays):
    with h5py.File(path / name, "w") as file:
        for key, values in arrays.items():
            values = values.astype("S") if np.asarray(values).dtype.kind == "U" else values
            file.create_dataset(key, data=values)
    return path / name


def mat73(path, attributes=True, **arrays):
    """As MATLAB writes it: 512 bytes of its own, axes reversed, `logical` as uint8."""
    with h5py.File(path / "a.mat", "w", userblock_size=512) as file:
        for key, values in arrays.items():
            kind = {"b": "logical", "f": "double"}.get(values.dtype.kind, str(values.dtype))
            values = values.astype(np.uint8) if kind == "logical" else values
            item = file.create_dataset(key, data=values.T)
            if attributes:
                item.attrs["MATLAB_class"] = np.bytes_(kind)
    with open(path / "a.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path / "a.mat"


def mat73_cells(path, labels, **arrays):
    """A MATLAB 7.3 file of cells; each cell is a reference to the codes of its characters."""
    path = mat73(path, **arrays)
    with h5py.File(path, "r+") as file:
        cells = file.create_dataset("labels", (1, len(labels)), h5py.ref_dtype)
        cells.attrs["MATLAB_class"] = np.bytes_("cell")
        for i, word in enumerate(labels):
            codes = np.array([[ord(letter)] for letter in word], np.uint16)
            item = file.create_dataset(f"#refs#/{i}", data=codes)
            item.attrs["MATLAB_class"] = np.bytes_("char")
            cells[0, i] = item.ref
    return path


def csv(path, columns, header=True, delimiter=",", encoding="utf-8"):
    names, values = list(columns), list(columns.values())
    lines = [delimiter.join(names)] if header else []
    lines += [delimiter.join(map(str, row)) for row in zip(*values)]
    (path / "a.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    return path / "a.csv"


def pixel_columns(images):
    return {f"pixel{i}": column for i, column in enumerate(images.reshape(len(images), -1).T)}


def directory(path, tree, images=IMAGES):
    """`tree`: {name of a directory: which images}; a name with no class ends at the split."""
    for name, rows in tree.items():
        (path / name).mkdir(parents=True, exist_ok=True)
        for i in range(N)[rows] if isinstance(rows, slice) else rows:
            assert cv2.imwrite(str(path / name / f"{i}.png"), images[i])
    return path


def by_class(rows=slice(None), names=("cow", "ant", "dog", "bee"), where=""):
    chosen = np.arange(N)[rows]
    return {f"{where}{name}": chosen[LABELS[chosen] == k] for k, name in enumerate(names)}


def untidy(path):
    directory(path, by_class())
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "notes.txt", "moving.gif", "README"):
        (path / "cow" / name).write_bytes(b"?")
    (path / "ant" / "deeper").mkdir()
    (path / "__MACOSX").mkdir()
    (path / "dog" / "gone.png").symlink_to(path / "nowhere.png")
    return path


SPLIT_NAMES = {
    "x_train": IMAGES[TRAIN], "y_train": LABELS[TRAIN], "x_test": IMAGES[TEST],
    "y_test": LABELS[TEST],
}  # fmt: skip
MEDMNIST = {
    "train_images": IMAGES[TRAIN], "val_images": IMAGES[VAL], "test_images": IMAGES[TEST],
}  # fmt: skip
ALPHABETICAL = np.array([2, 0, 3, 1])[LABELS]  # ant, bee, cow, dog
NUMBERED = {str(k): range(k, N, 12) for k in range(12)}
NAMES = ("ant", "bee", "cow", "dog")
SIGNED = IMAGES.astype(np.int16) - 5
ROUNDED = np.where(IMAGES > 200, 1 + 5e-6, IMAGES / 255)

# How it is written; what the pixels are (0 … 1) of which label; other fields; what is printed.
READ = {
    "images and labels": (lambda p: npz(p, images=IMAGES, labels=LABELS), IMAGES, LABELS),
    "labels as a row": (lambda p: mat(p, images=IMAGES, labels=LABELS), IMAGES, LABELS),
    "no labels": (lambda p: npz(p, images=IMAGES), IMAGES, None),
    "labels of another name": (
        lambda p: npz(p, images=IMAGES, targets=LABELS), IMAGES, None, {}, "not read: targets",
    ),
    "bool": (lambda p: npz(p, images=BITS > 0), BITS * 255, None),
    "bool in npy": (lambda p: npy(p, BITS > 0), BITS * 255, None),
    "logical": (lambda p: mat(p, images=BITS > 0, labels=LABELS), BITS * 255, LABELS),
    "logical, 7.3": (lambda p: mat73(p, images=BITS > 0, labels=LABELS), BITS * 255, LABELS),
    "doubles 0 and 1": (lambda p: mat(p, images=BITS.astype(float)), BITS * 255, None),
    "bool in hdf5": (lambda p: hdf5(p, images=BITS > 0), BITS * 255, None),
    "0 and 1 in a table": (lambda p: csv(p, pixel_columns(BITS)), BITS * 255, None),
    "0 and 255": (lambda p: npz(p, images=BITS * np.uint8(255)), BITS * 255, None),
    "wide integers": (lambda p: npz(p, images=IMAGES.astype(np.int64)), IMAGES, None),
    "float16": (lambda p: npz(p, images=BITS.astype(np.float16)), BITS * 255, None),
    "rounding": (lambda p: npz(p, images=ROUNDED), np.minimum(ROUNDED, 1) * 255, None),
    "one-hot": (lambda p: npz(p, images=IMAGES, labels=np.eye(4)[LABELS]), IMAGES, LABELS),
    "one-hot, bool": (
        lambda p: npz(p, images=IMAGES, labels=np.eye(4, dtype=bool)[LABELS]), IMAGES, LABELS,
    ),
    "words": (
        lambda p: npz(p, images=IMAGES, labels=WORDS), IMAGES, ALPHABETICAL, {},
        "the classes are 0 = ant, 1 = bee, 2 = cow, 3 = dog",
    ),
    "words, bytes": (
        lambda p: npz(p, images=IMAGES, labels=WORDS.astype("S")), IMAGES, ALPHABETICAL,
    ),
    "words in hdf5": (lambda p: hdf5(p, images=IMAGES, labels=WORDS), IMAGES, ALPHABETICAL),
    "words in cells": (
        lambda p: mat(p, images=IMAGES, labels=WORDS.astype(object)), IMAGES, ALPHABETICAL,
    ),
    "words in a matrix of char": (
        lambda p: mat(p, images=IMAGES, labels=WORDS), IMAGES, ALPHABETICAL,
    ),
    "words, some empty": (
        lambda p: npz(p, images=IMAGES, labels=np.where(LABELS == 3, "", WORDS)), IMAGES,
        np.array([1, 0, 2, -1])[LABELS], {"num_classes": 3},
    ),
    "numpy's positions": (
        lambda p: (np.savez(p / "a.npz", IMAGES, LABELS), p / "a.npz")[1], IMAGES, LABELS,
    ),
    "one array": (lambda p: (np.savez(p / "a.npz", IMAGES), p / "a.npz")[1], IMAGES, None),
    "npy": (lambda p: npy(p, IMAGES), IMAGES, None),
    "keras": (
        lambda p: npz(p, **SPLIT_NAMES), IMAGES, LABELS, {"parts": (None, None, 10)},
        "has no validation split",
    ),
    "capital X, words": (
        lambda p: npz(
            p, X_train=IMAGES[TRAIN], y_train=WORDS[TRAIN], X_test=IMAGES[TEST], y_test=WORDS[TEST]
        ),
        IMAGES, ALPHABETICAL, {"parts": (None, None, 10)},
    ),
    "medmnist": (lambda p: npz(p, **MEDMNIST), IMAGES, None, {"parts": (40, 10, 10)}),
    "no test": (
        lambda p: npz(p, train_images=IMAGES[TRAIN], valid_images=IMAGES[VAL]), IMAGES, None,
        {"parts": (None, 10, None)}, "has no test split",
    ),
    "hdf5 in groups": (
        lambda p: hdf5(p, **{"train/images": IMAGES[TRAIN], "test/images": IMAGES[TEST]}),
        IMAGES, None, {"parts": (None, None, 10)},
    ),
    "hdf5": (lambda p: hdf5(p, images=IMAGES, labels=LABELS), IMAGES, LABELS),
    "matlab 7.3": (lambda p: mat73(p, images=IMAGES, labels=LABELS), IMAGES, LABELS),
    "matlab 7.3, one channel": (
        lambda p: mat73(p, images=IMAGES[..., None], labels=LABELS[:, None]), IMAGES, LABELS,
    ),
    "7.3, by others, reversed": (
        lambda p: mat73(p, attributes=False, images=IMAGES, labels=LABELS), IMAGES, LABELS,
    ),
    "7.3, by others, in order": (
        lambda p: hdf5(p, "a.mat", images=IMAGES, labels=LABELS), IMAGES, LABELS,
    ),
    "matlab 7.3, words in cells": (
        lambda p: mat73_cells(p, images=IMAGES, labels=WORDS), IMAGES, ALPHABETICAL,
    ),
    "cells of something else": (
        lambda p: mat(p, images=IMAGES, about=np.array([IMAGES[0], "a"], object)), IMAGES, None,
    ),
    "svhn, 7.3": (
        lambda p: mat73(p, X=np.moveaxis(IMAGES[..., None], 0, -1), y=LABELS[:, None]),
        IMAGES, LABELS,
    ),
    "table": (lambda p: csv(p, {"label": LABELS, **pixel_columns(IMAGES)}), IMAGES, LABELS),
    "table, class last, in words": (
        lambda p: csv(p, {**pixel_columns(IMAGES), "Class": WORDS}), IMAGES, ALPHABETICAL,
    ),
    "table, column named": (
        lambda p: csv(p, {"species": LABELS, **pixel_columns(IMAGES)}), IMAGES, LABELS,
        {"label_column": "species"},
    ),
    "table of a spreadsheet": (
        lambda p: csv(p, {"label": LABELS, **pixel_columns(IMAGES)}, delimiter=";",
                      encoding="utf-8-sig"),
        IMAGES, LABELS,
    ),
    "table, no header, no labels": (
        lambda p: csv(p, pixel_columns(IMAGES), header=False), IMAGES, None,
    ),
    "table of pandas, columns 0, 1, 2, …": (
        lambda p: csv(p, {str(i): v for i, v in enumerate(pixel_columns(IMAGES).values())}),
        IMAGES, None,
    ),
    "classes": (
        lambda p: directory(p, by_class()), IMAGES, ALPHABETICAL, {}, "0 = ant, 1 = bee, 2 = cow",
    ),
    "images alone": (lambda p: directory(p, {"": slice(None)}), IMAGES, None),
    "numbers for names": (
        lambda p: directory(p, NUMBERED), IMAGES, np.arange(N) % 12, {"num_classes": 12},
        "2 = 2, 3 = 3",
    ),
    "splits of classes": (
        lambda p: directory(p, by_class(TRAIN, where="train/") | by_class(VAL, where="valid/")
                            | by_class(TEST, where="Test/")),
        IMAGES, ALPHABETICAL, {"parts": (40, 10, 10)},
    ),
    "splits of images": (
        lambda p: directory(p, {"train": TRAIN, "test": TEST}), IMAGES, None,
        {"parts": (None, None, 10)}, "has no validation split",
    ),
    "a class called train": (
        lambda p: directory(p, by_class(names=("train", "bus", "car", "cab"))), IMAGES,
        np.array([3, 0, 2, 1])[LABELS],
    ),
    "an untidy directory": (
        untidy, IMAGES, ALPHABETICAL, {},
        ("left out: 1 .gif files, 1 .txt files, 1 dead links, 1 files without a suffix, 1 nested "
         "directories"),
    ),
    "one bit": (lambda p: directory(p, {"": slice(None)}, BITS * 255), BITS * 255, None),
    "a channel axis": (lambda p: npz(p, images=IMAGES[..., None]), IMAGES, None),
    "no channel axis": (lambda p: npz(p, images=IMAGES), IMAGES, None, {"image_shape": (6, 5)}),
    "two channels": (
        lambda p: npz(p, images=np.stack([IMAGES, IMAGES], axis=-1)),
        np.stack([IMAGES, IMAGES], axis=-1), None, {"image_shape": (6, 5, 2)},
    ),
    "few images": (lambda p: npz(p, images=IMAGES[:8]), IMAGES[:8], None),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_is_read(case, tmp_path, capsys):
    write, images, labels, *rest = READ[case]
    fields, printed = [*rest, *({}, "")[len(rest) :]]
    fields = dict(fields)
    sizes = fields.pop("parts", None)
    fields = {"image_shape": SHAPE, "num_classes": 4, **fields}
    spec = DataSpec(name="files", path=str(write(tmp_path)), **fields)
    loaded = files.load(spec)
    parts = [loaded.train, loaded.validation, loaded.test]
    out = capsys.readouterr().out
    assert printed in out
    wanted = images.reshape(len(images), *spec.image_shape) / 255
    index = {np.round(image, 4).tobytes(): i for i, image in enumerate(wanted)}
    seen = []
    for part, size in zip(parts, sizes or (None,) * 3):
        assert part["image"].dtype in (np.uint8, np.float32) and part["label"].dtype == np.int32
        assert size is None or len(part["label"]) == size
        pixels = np.asarray(part["image"], np.float64)
        pixels = pixels / 255 if part["image"].dtype == np.uint8 else pixels
        rows = [index[np.round(image, 4).tobytes()] for image in pixels]
        np.testing.assert_array_equal(part["label"], -1 if labels is None else labels[rows])
        seen += rows
        assert len(rows) > 0
    assert len(seen) == len(set(seen)) and (sizes or len(seen) == len(images))
    if "words" in case or "classes" in case:
        assert loaded.class_names == NAMES or case == "words, some empty"
    else:
        assert loaded.class_names is None or len(loaded.class_names) == spec.num_classes


# Of any shape and range, as they are: what is written, the values, the fields.
STANDARDISED = {
    "vectors": (lambda p: npz(p, images=VECTORS), VECTORS, {"image_shape": (7,)}),
    "a channel axis": (lambda p: npz(p, images=VECTORS), VECTORS, {"image_shape": (7, 1)}),
    "vectors in npy": (lambda p: npy(p, VECTORS.astype(np.float64)), VECTORS, {}),
    "vectors, 7.3": (lambda p: mat73(p, images=VECTORS), VECTORS, {}),
    "counts": (
        lambda p: npz(p, images=np.arange(N * 7).reshape(N, 7)), np.arange(N * 7).reshape(N, 7), {},
    ),
    "doubles that are counts": (
        lambda p: mat(p, images=np.arange(N * 7.0).reshape(N, 7) % 199),
        np.arange(N * 7).reshape(N, 7) % 199, {},
    ),
    "negative": (lambda p: npz(p, images=SIGNED), SIGNED, {"image_shape": SHAPE}),
    "columns": (
        lambda p: csv(p, {f"x{i}": column for i, column in enumerate(VECTORS.T)}), VECTORS, {},
    ),
    "columns of counts": (
        lambda p: csv(p, {f"x{i}": np.arange(N) * (i + 1) % 97 for i in range(7)}),
        np.stack([np.arange(N) * (i + 1) % 97 for i in range(7)], axis=1), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STANDARDISED)
def test_other_arrays_are_read_as_they_are(case, tmp_path):
    write, values, fields = STANDARDISED[case]
    fields = {"image_shape": (7,), "num_classes": 4, "standardise": True, **fields}
    loaded = files.load(DataSpec(name="files", path=str(write(tmp_path)), **fields))
    parts = [part["image"] for part in (loaded.train, loaded.validation, loaded.test)]
    assert all(part.dtype == np.float32 for part in parts)
    found = np.concatenate(parts).reshape(len(values), -1)
    wanted = np.asarray(values, np.float32).reshape(len(values), -1)
    np.testing.assert_array_equal(found[np.lexsort(found.T)], wanted[np.lexsort(wanted.T)])


CONDITIONED = {
    "npz": lambda p: npz(p, images=IMAGES, labels=LABELS, conditions=CONDITIONS),
    "mat": lambda p: mat(p, images=IMAGES, labels=LABELS, conditions=CONDITIONS),
    "7.3": lambda p: mat73(p, images=IMAGES, labels=LABELS, conditions=CONDITIONS),
    "hdf5": lambda p: hdf5(p, images=IMAGES, labels=LABELS, conditions=CONDITIONS),
    "splits": lambda p: npz(
        p, **SPLIT_NAMES, train_conditions=CONDITIONS[TRAIN], test_conditions=CONDITIONS[TEST]
    ),
}


@pytest.mark.parametrize("case", CONDITIONED)
def test_conditions_stay_with_their_examples(case, tmp_path, capsys):
    path = CONDITIONED[case](tmp_path)
    spec = {"name": "files", "path": str(path), "image_shape": SHAPE, "num_classes": 4}
    loaded = data.load(DataSpec(**spec, condition_dim=2))
    index = {image.tobytes(): i for i, image in enumerate(IMAGES)}
    for part in (loaded.train, loaded.validation, loaded.test):
        rows = [index[image.tobytes()] for image in part["image"]]
        assert part["condition"].dtype == np.float32
        np.testing.assert_array_equal(part["condition"], CONDITIONS[rows].astype(np.float32))
    capsys.readouterr()
    loaded = data.load(DataSpec(**spec))
    assert "condition" not in loaded.train
    assert "conditions is not read; data.condition_dim=2 reads it" in capsys.readouterr().out
    with refused(r"conditions is \(\d+, 2\): with \d+ images and data.condition_dim = 3"):
        data.load(DataSpec(**spec, condition_dim=3))


def wide(path):
    path = directory(path, by_class())
    shutil.copytree(path / "cow", path / "train")
    shutil.copytree(path / "cow", path / "test")
    return path


REFUSED = {
    "0 and 1 in 8 bits": (lambda p: npz(p, images=BITS), "largest pixel is 1.*as bool"),
    "0 and 1 in 64 bits": (lambda p: npz(p, images=BITS.astype(int)), "largest pixel is 1"),
    "0 and 1 in npy": (lambda p: npy(p, BITS), "largest pixel is 1"),
    "0 and 1 in mat": (lambda p: mat(p, images=BITS), "largest pixel is 1"),
    "0 and 1 in 7.3": (lambda p: mat73(p, images=BITS), "largest pixel is 1"),
    "0 and 1 in hdf5": (lambda p: hdf5(p, images=BITS), "largest pixel is 1"),
    "0 and 1 in splits": (
        lambda p: npz(p, x_train=BITS[TRAIN], x_test=BITS[TEST]), "largest pixel is 1",
    ),
    "0 and 1 in png": (
        lambda p: directory(p, {"": slice(None)}, BITS), "largest pixel is 1.*as 0 and 255",
    ),
    "channels first": (
        lambda p: npz(p, images=np.stack([IMAGES] * 3, axis=1)),
        (
            r"is \(60, 3, 6, 5\), which looks like \(N, channels, height, width\): it must be "
            r"\(N, height, width, channels\).*image_shape=\(6, 5, 3\)"
        ),
        {"image_shape": (6, 5, 3)},
    ),
    "channels first, as stated": (
        lambda p: npz(p, images=np.random.default_rng(0).random((N, 3, 6, 5))),
        "looks like .N, channels, height, width", {"image_shape": (3, 6, 5)},
    ),
    "one channel first": (
        lambda p: mat(p, images=IMAGES[:, None]), "looks like .N, channels, height, width",
    ),
    "channels first, to be resized": (
        lambda p: hdf5(p, images=np.stack([IMAGES] * 3, axis=1)),
        "looks like .N, channels", {"image_shape": (3, 3, 3), "resize": True},
    ),
    "examples last": (
        lambda p: npz(p, images=np.moveaxis(IMAGES, 0, -1)), r"looks like \(…, N\).*first axis",
    ),
    "examples last in MATLAB": (
        lambda p: mat(p, images=np.moveaxis(IMAGES, 0, -1)), r"looks like \(…, N\).*first axis",
        {"image_shape": (6, 5, 1)},
    ),
    "examples last in MATLAB 7.3": (
        lambda p: mat73(p, images=np.moveaxis(IMAGES, 0, -1)), r"looks like \(…, N\).*first axis",
    ),
    "negative": (lambda p: npz(p, images=SIGNED), "ranges from -5 to .*standardise=True.*'linear'"),
    "large": (
        lambda p: npz(p, images=IMAGES.astype(np.uint16) * 257), "uint16 and ranges from 0 to 65278",
    ),
    "floats to 255": (
        lambda p: npz(p, images=IMAGES.astype(float)),
        "pixels range from 0 to 254; floats must lie in .0, 1.*standardise=True.*'linear'",
    ),
    "more than rounding": (
        lambda p: npz(p, images=np.where(IMAGES > 9, 1.001, 0)), "pixels range from 0 to 1.001",
    ),
    "nan": (
        lambda p: npz(p, images=np.full((N, 7), np.nan)), "NaN or infinity",
        {"standardise": True, "image_shape": (7,)},
    ),
    "more than float32 holds": (
        lambda p: npz(p, images=np.full((N, 7), 1e300)), "float32",
        {"standardise": True, "image_shape": (7,)},
    ),
    "vectors for images": (
        lambda p: npz(p, images=VECTORS), r"is \(60, 7\).*or data.image_shape=\(7,\)",
    ),
    "one-hot of other classes": (
        lambda p: npz(p, images=IMAGES, labels=np.eye(5)[LABELS]), r"is \(60, 5\).*num_classes.* 4",
    ),
    "soft labels": (
        lambda p: npz(p, images=IMAGES, labels=np.full((N, 4), 0.25)), "each row must be one-hot",
    ),
    "more words": (
        lambda p: npz(p, images=IMAGES, labels=WORDS), r"4 classes \(ant, bee, cow, dog\)",
        {"num_classes": 3},
    ),
    "words here, numbers there": (
        lambda p: npz(p, **{**SPLIT_NAMES, "y_test": WORDS[TEST]}), "words in test, but numbers",
    ),
    "four positions": (
        lambda p: (np.savez(p / "a.npz", *SPLIT_NAMES.values()), p / "a.npz")[1], "need names",
    ),
    "only a test": (lambda p: npz(p, x_test=IMAGES), "has x_test: it must have 'images'"),
    "two columns of labels": (
        lambda p: csv(p, {"label": LABELS, "y": LABELS, **pixel_columns(IMAGES)}),
        "columns 'label', 'y': name the labels' with data.label_column",
    ),
    "no such column": (
        lambda p: csv(p, {"label": LABELS, **pixel_columns(IMAGES)}),
        "data.label_column is 'kind': it must name one column of .*has label, pixel0",
        {"label_column": "kind"},
    ),
    "a column of names": (
        lambda p: csv(p, {"file": [f"f{i}" for i in range(N)], **pixel_columns(IMAGES[:, 1:])}),
        "column 'file' has 'f0': all columns but the labels' must be numbers", {"image_shape": (26,)},
    ),
    "columns too many": (
        lambda p: csv(p, {"label": LABELS, "id": LABELS, **pixel_columns(IMAGES)}),
        "31 columns beside the labels: .* there must be 30",
    ),
    "a ragged table": (
        lambda p: (csv(p, pixel_columns(IMAGES)).write_text("a,b\n1,2\n3\n"), p / "a.csv")[1],
        "damaged, truncated or of another kind: .*columns", {"image_shape": (2,)},
    ),
    "an empty table": (
        lambda p: (pathlib.Path(p / "a.csv").write_text(""), p / "a.csv")[1], "no columns",
    ),
    "a column of an npz": (
        lambda p: npz(p, images=IMAGES), "label_column is 'y': only a .csv", {"label_column": "y"},
    ),
    "no conditions": (lambda p: npz(p, images=IMAGES), "no conditions", {"condition_dim": 2}),
    "conditions of a directory": (
        lambda p: directory(p, by_class()), "is a directory", {"condition_dim": 2},
    ),
    "nan among conditions": (
        lambda p: npz(p, images=IMAGES, conditions=np.full((N, 2), np.nan)),
        "conditions contains NaN", {"condition_dim": 2},
    ),
    "splits of other classes": (
        lambda p: directory(p, by_class(TRAIN, where="train/") | {"test/cow": TEST}),
        "all splits must have the same classes, and test lacks ant, bee, dog",
    ),
    "splits, one without classes": (
        lambda p: directory(p, by_class(TRAIN, where="train/") | {"test": TEST}),
        "all splits must have the same classes, and test",
    ),
    "nothing to train": (
        lambda p: directory(p, {"val": VAL, "test": TEST}), "beside train there may be val",
    ),
    "splits and classes": (wide, "holds 'ant'.*beside train there may be val"),
    "images beside splits": (
        lambda p: directory(p, {"": VAL, "train": TRAIN, "test": TEST}), "images beside 'test'",
    ),
    "one split twice": (
        lambda p: directory(p, {"train": TRAIN, "val": VAL, "valid": TEST}), "once each",
    ),
    "a directory for vectors": (
        lambda p: directory(p, by_class()), r"for a directory of images", {"image_shape": (30,)},
    ),
    "pickled": (lambda p: npy(p, np.array([{}], object)), "pickled objects"),
    "a cut npy": (
        lambda p: (npy(p, IMAGES).write_bytes(b"\x93NUMPY\x01"), p / "a.npy")[1], "damaged",
    ),
    "a cut h5": (
        lambda p: (hdf5(p, images=IMAGES).write_bytes(b"\x89HDF\r\n\x1a\n??"), p / "a.h5")[1],
        "damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_is_refused_in_one_line(case, tmp_path):
    write, match, fields = (*REFUSED[case], {})[:3]
    fields = {"image_shape": SHAPE, "num_classes": 4, **fields}
    path = write(tmp_path)
    with refused(match):
        data.load(DataSpec(name="files", path=str(path), **fields))


def test_home_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    npz(tmp_path, images=IMAGES)
    loaded = data.load(DataSpec("files", SHAPE, 4, path="~/a.npz"))
    assert len(loaded.train["label"]) + len(loaded.test["label"]) < N


def test_a_table_is_read_in_one_pass_of_numpy(tmp_path):
    """Quoted fields, as spreadsheets write them, and labels that are numbers with a point."""
    lines = ['"label","a, b","c"'] + [f'"{i % 4}.0","{i}","{255 - i}"' for i in range(N)]
    (tmp_path / "a.csv").write_text("\r\n".join(lines))
    loaded = data.load(DataSpec("files", (2,), 4, path=str(tmp_path / "a.csv")))
    for part in (loaded.train, loaded.validation, loaded.test):
        np.testing.assert_array_equal(part["image"].sum(axis=1), 255)
        np.testing.assert_array_equal(part["image"][:, 0] % 4, part["label"])
