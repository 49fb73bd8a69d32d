"""Files of arrays → arrays by name. Pickles are never loaded."""

import csv
import functools
import os
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from aae_jax.errors import UserError

_LABEL_COLUMNS = ("label", "class", "target", "y")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_DELIMITERS = (",", ";", "\t")


def read(path: str, image_shape: tuple[int, ...]) -> dict[str, np.ndarray] | None:
    """All arrays of a file by name; None if its kind is unknown.

    `image_shape` decides the order of axes if the file does not. A bare `.npy` is called "arr_0",
    as in `np.savez`. A data set "train/images" of HDF5 is called "train_images".
    """
    readers: dict[str, Callable[[str], dict[str, np.ndarray]]] = {
        ".npz": read_npz,
        ".npy": _read_npy,
        ".mat": functools.partial(read_mat, image_shape=image_shape),
        ".h5": read_hdf5,
        ".hdf5": read_hdf5,
    }
    reader = readers.get(os.path.splitext(path)[1].lower())
    return reader(path) if reader else None


def read_npz(path: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz; pickled objects are refused."""

    def arrays():
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):  # NumPy would take it for a pickle
                raise ValueError("it is no zip archive")
        return dict(np.load(path, allow_pickle=False).items())

    return _readable(path, arrays)


def _read_npy(path):
    def array():
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    return _readable(path, lambda: {"arr_0": array()})


def read_mat(path: str, image_shape: tuple[int, ...] | None = None) -> dict[str, np.ndarray]:
    """All arrays of a MATLAB file; `logical` becomes bool, and cells of text become strings.

    In a 7.3 file not marked as MATLAB's, axes are reversed if the images fit `image_shape` only so.
    """
    from scipy.io import loadmat, whosmat

    if _readable(path, lambda: _starts_as_hdf5(path)):
        stored, by_matlab = _read_hdf5(path)
        return _in_order_of_rows(stored, by_matlab, image_shape)
    try:
        stored = _readable(path, lambda: loadmat(path), objects=True)
        kinds = {name: kind for name, _, kind in _readable(path, lambda: whosmat(path))}
    except NotImplementedError as error:
        raise UserError(f"{path!r} is damaged: it begins as MATLAB 7.3, but not as HDF5") from error
    found = {}
    for name, values in stored.items():
        if name.startswith("__"):
            continue
        if values.dtype == object:
            values = _words_of_cells(values)
        elif kinds.get(name) == "logical":
            values = values.astype(bool)
        elif kinds.get(name) in ("double", "single") and values.dtype.kind in "iu":
            # MATLAB stores whole doubles in fewer bytes; they must not pass for 8-bit pixels.
            values = values.astype(np.float32 if values.max(initial=0) <= 1 else np.int32)
        found[name] = values
    return found


def _starts_as_hdf5(path):
    """Whether the file starts as MATLAB 7.3 files do: HDF5 after 512 bytes of MATLAB's."""
    with open(path, "rb") as file:
        return _HDF5 in (file.read(8), file.read(512)[-8:])


def _words_of_cells(cells):
    """Strings if all cells hold text, otherwise the cells."""
    texts = [np.asarray(cell) for cell in cells.reshape(-1)]
    if any(text.dtype.kind != "U" or text.size > 1 for text in texts):
        return cells
    return np.array(["".join(text.reshape(-1).tolist()) for text in texts])


def _in_order_of_rows(stored, by_matlab, image_shape):
    """Reverses the axes of all arrays if the images have the right shape only then."""

    def fits(shape):
        return shape[1:] == image_shape or (*shape[1:], 1) == image_shape

    images = [values.shape for name, values in stored.items() if "images" in name.lower()]
    if by_matlab or any(map(fits, images)) or not any(fits(shape[::-1]) for shape in images):
        return stored
    return {name: values.T for name, values in stored.items()}


def read_hdf5(path: str) -> dict[str, np.ndarray]:
    """All data sets of an HDF5 file; those from MATLAB 7.3 get MATLAB's order of axes back."""
    return _read_hdf5(path)[0]


def _read_hdf5(path):
    """The arrays, and whether MATLAB wrote any of them."""
    try:
        import h5py
    except ImportError:
        raise UserError(
            f"{path!r} is HDF5, which needs h5py: pip install 'aae-jax[data]'"
        ) from None
    by_matlab = []

    def arrays():
        found: dict[str, np.ndarray] = {}

        def visit(name, item):
            if isinstance(item, h5py.Dataset) and item.shape is not None and name[0] != "#":
                by_matlab.append("MATLAB_class" in item.attrs)
                found[name.replace("/", "_")] = _of_hdf5(h5py, file, item)

        with open(path, "rb"):  # says whether it may be read
            pass
        with h5py.File(path, "r") as file:
            file.visititems(visit)
        return found

    return _readable(path, arrays, objects=True), any(by_matlab)


def _of_hdf5(h5py, file, item):
    kind = item.attrs.get("MATLAB_class", b"")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if h5py.check_string_dtype(item.dtype):
        return np.array(item.asstr()[()], dtype=str)
    if h5py.check_ref_dtype(item.dtype):  # cells
        texts = [file[reference] for reference in item[()].reshape(-1)]
        if not all(text.attrs.get("MATLAB_class") == b"char" for text in texts):
            return item[()]
        empty = ["MATLAB_empty" in text.attrs for text in texts]
        return np.array(["" if e else _text(t[()].T)[0] for e, t in zip(empty, texts)], str)
    values = item[()]
    if kind:  # MATLAB's first axis comes last
        values = np.transpose(values)
    if kind == "char":
        return np.array(_text(values))
    return values.astype(bool) if kind == "logical" else values


def _text(codes):
    return ["".join(map(chr, row)) for row in np.atleast_2d(codes)]


def read_csv(path: str, label_column: str | None) -> dict[str, np.ndarray]:
    """A table: `images` f32[N, P], every column but the label's, and `labels` if there is one.

    Args:
        path: of the file; commas, semicolons or tabs between columns.
        label_column: its name in the header; None: "label", "class", "target" or "y", if exactly
            one column has such a name.

    Raises:
        UserError: the column does not exist, or the other columns are not numbers.
    """

    def first_line():
        with open(path, encoding="utf-8-sig", newline="") as file:
            line = file.readline()
        delimiter = max(_DELIMITERS, key=line.count)
        return {"names": next(csv.reader([line], delimiter=delimiter), []), "delimiter": delimiter}

    first = _readable(path, first_line)
    names = [name.strip() for name in first["names"]]
    counted = names == [str(i) for i in range(len(names))]  # as pandas heads columns of no name
    has_header = counted or not all(map(_is_number, names))
    label = _label_of(path, names if has_header else [], label_column)
    options = {
        "delimiter": first["delimiter"],
        "skiprows": int(has_header),
        "encoding": "utf-8-sig",
        "comments": None,
        "quotechar": '"',
    }
    columns = [i for i in range(len(names)) if i != label]
    if not columns:
        raise UserError(f"{path!r} has no columns of numbers")

    def table():
        usecols = None if label is None else columns
        found = {"images": np.loadtxt(path, np.float32, usecols=usecols, ndmin=2, **options)}
        if label is not None:
            found["labels"] = np.loadtxt(path, str, usecols=label, ndmin=1, **options)
        return found

    _check_numbers(path, names, columns, options)
    found = _readable(path, table)
    if label is not None and all(map(_is_number, found["labels"])):
        found["labels"] = found["labels"].astype(float)
    return found


def _check_numbers(path, names, columns, options):
    """Raises if the first lines show a column of words; the message names the column."""

    def first_rows():
        lines = {**options, "max_rows": 5}
        return {"rows": np.loadtxt(path, str, ndmin=2, **lines)}

    rows = _readable(path, first_rows)["rows"]
    for column in columns if rows.shape[1] == len(names) else ():
        words = [word for word in rows[:, column].tolist() if not _is_number(word)]
        if words:
            raise UserError(
                f"{path!r}: column {names[column]!r} has {words[0]!r}: all columns but the labels' "
                "must be numbers; name the labels' with data.label_column, and leave others out"
            )


def _label_of(path, names, label_column):
    """The column that holds the labels; None if there is none."""
    shown = f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}" or "no header line"
    if label_column is not None:
        if names.count(label_column) != 1:
            raise UserError(
                f"data.label_column is {label_column!r}: it must name one column of {path!r}, "
                f"which has {shown}"
            )
        return names.index(label_column)
    found = [i for i, name in enumerate(names) if name.lower() in _LABEL_COLUMNS]
    if len(found) > 1:
        raise UserError(
            f"{path!r} has columns {', '.join(repr(names[i]) for i in found)}: name the labels' "
            "with data.label_column"
        )
    return found[0] if found else None


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def _readable(path: str, read: Callable[[], Any], objects: bool = False) -> Any:
    """Calls `read`; any exception becomes one line. Arrays of objects are refused."""
    try:
        stored = read()
    except (NotImplementedError, MemoryError, UserError):
        raise
    except PermissionError as error:
        raise UserError(f"permission to read {path!r} is denied") from error
    except Exception as error:  # the libraries may raise anything for a damaged file
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path!r} holds pickled objects: arrays of numbers are needed"
            ) from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path!r} is damaged, truncated or of another kind: {reason}") from error
    for name, values in stored.items() if isinstance(stored, dict) and not objects else ():
        if getattr(values, "dtype", None) == object:
            raise UserError(f"{path!r}: {name} holds objects: arrays of numbers are needed")
    return stored
