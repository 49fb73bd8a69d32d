"""Arrays in npy and npz files, read on demand and written in blocks."""

import contextlib
import itertools
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from aae_jax.checks import expand_home
from aae_jax.errors import UserError

SUFFIXES = (".npy", ".npz")


def read(flag: str, value: str, main: str, beside: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Reads one array of numbers, and the arrays beside it that describe its rows.

    An npy file is memory-mapped and may be larger than the memory. An npz array is read whole.

    Args:
        flag: the flag that names the file, for messages.
        value: "file.npy", "file.npz" or "file.npz:name".
        main: the array to read if an npz file has several and `value` names none.
        beside: names of further arrays to read from an npz file if it has them.

    Returns:
        Arrays by name; the one that `value` means is under the name `main`.

    Raises:
        UserError: there is no such file or array, or it can't be read.
    """
    path, name = expand_home(f"--{flag}", value), None
    if ".npz:" in path:
        path, _, name = path.rpartition(":")
    try:
        with open(path, "rb") as file:
            magic = file.read(6)
        if magic != b"\x93NUMPY" and not magic.startswith(b"PK"):
            raise UserError(
                f"--{flag}: {path!r} is neither an npy nor an npz file; pickles are not read"
            )
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(stored, np.lib.npyio.NpzFile):
            with stored:
                meant = _member(
                    flag, path, name, main, [n for n in stored.files if n not in beside]
                )
                found = {n: stored[n] for n in beside if n in stored.files}
                found[main] = stored[meant]
        else:
            found = {main: stored}
    except FileNotFoundError:
        raise UserError(f"--{flag} is {value!r}: there is no such file") from None
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "object" in str(error).lower():
            raise UserError(
                f"--{flag}: {value!r} holds Python objects, which are not read: store numbers"
            ) from None
        raise UserError(
            f"--{flag}: {value!r} can't be read; it may be truncated or damaged ({error})"
        ) from None
    for name, array in found.items():
        if array.dtype.kind not in "biuf" or array.ndim == 0 or len(array) != len(found[main]):
            raise UserError(
                f"--{flag}: {value!r} holds {name} of {array.dtype}{array.shape}: it must hold numbers, "
                f"one row for each row of {main}"
            )
    if len(found[main]) == 0:
        raise UserError(f"--{flag} is {value!r}: it has no rows")
    return found


def _member(flag, path, name, main, names):
    """The name of the array of an npz file to read."""
    if name in names:
        return name
    if name is None and (main in names or len(names) == 1):
        return main if main in names else names[0]
    wanted = f"{len(names)} arrays" if name is None else f"no array {name!r}"
    raise UserError(
        f"--{flag}: {path!r} holds {wanted}: write {path}:NAME, with NAME one of "
        f"{', '.join(names) or '(none)'}"
    )


def check_output(path: str, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Raises, before anything is computed, unless a file of this name can be made."""
    directory = os.path.dirname(os.path.abspath(path))
    if not path.endswith(suffixes):
        raise UserError(f"--output is {path!r}: its name must end in {' or '.join(suffixes)}")
    if not os.path.isdir(directory):
        raise UserError(f"--output is {path!r}: there is no directory {directory!r}")
    if os.path.isdir(path):
        raise UserError(f"--output is {path!r}, which is a directory")


def write(path: str, num_rows: int, blocks: Iterator[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Writes arrays block by block; the file appears, or is replaced, once it is complete.

    Args:
        path: an npz file for all arrays, or an npy file for the first.
        num_rows: the rows of all blocks together.
        blocks: arrays [n, …] by name, the same names in each. The first array goes to the disk
            block by block. The others stay in memory until the end.

    Returns:
        By name, an array with no rows and the shape and type of the array written.

    Raises:
        UserError: the file can't be written.
    """
    # The first block is computed before the file is opened: most mistakes show there.
    first = {name: np.asarray(value) for name, value in next(blocks).items()}
    write_rows = _write_npz if path.endswith(".npz") else _write_npy
    with _replaced_when_whole(path) as file:
        names = write_rows(file, num_rows, first, blocks)
    return {name: first[name][:0] for name in names}


def write_bytes(path: str, content: bytes | bytearray) -> None:
    """Writes a file, which appears, or is replaced, once it is complete."""
    with _replaced_when_whole(path) as file:
        file.write(content)


@contextlib.contextmanager
def _replaced_when_whole(path):
    part = path + ".part"
    try:
        with open(part, "wb") as file:
            yield file
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(part)
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise UserError(f"{path!r} can't be written: {reason}") from error
        raise


def _write_npy(file, num_rows, first, blocks):
    main = next(iter(first))
    _write_rows(file, num_rows, first[main], (block[main] for block in blocks))
    return [main]


def _write_npz(file, num_rows, first, blocks):
    main, *others = first
    kept = {name: [first[name]] for name in others}

    def rows():
        for block in blocks:
            for name in others:
                kept[name].append(np.asarray(block[name]))
            yield block[main]

    with zipfile.ZipFile(file, "w") as archive:
        with archive.open(f"{main}.npy", "w", force_zip64=True) as member:
            _write_rows(member, num_rows, first[main], rows())
        for name in others:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy_format.write_array(member, np.concatenate(kept[name]), allow_pickle=False)
    return list(first)


def _write_rows(file, num_rows, first, blocks):
    """Writes the npy format: a header with the number of rows, then the rows."""
    header = {
        "descr": npy_format.dtype_to_descr(first.dtype),
        "fortran_order": False,
        "shape": (num_rows, *first.shape[1:]),
    }
    npy_format.write_array_header_1_0(file, header)
    for block in itertools.chain([first], blocks):
        file.write(np.asarray(block, first.dtype).tobytes())
