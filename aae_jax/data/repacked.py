"""Original files that were unpacked or compressed again, recognised by their content.

tensorflow-datasets itself accepts only the published .gz files, byte for byte.
"""

import contextlib
import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any

from aae_jax.errors import UserError


@contextlib.contextmanager
def as_published(
    tfds: Any, builder: Any, manual_dir: str, contents: dict[str, str]
) -> Iterator[str]:
    """A directory that the builder accepts as the one with its original files.

    Args:
        tfds: tensorflow-datasets.
        builder: not yet prepared.
        manual_dir: the directory with the files: `name.gz`, published or compressed again, or
            unpacked `name` ("train-images-idx3-ubyte", also "train-images.idx3-ubyte").
        contents: for each `name.gz` the SHA-256 of its unpacked content.

    Yields:
        A temporary directory if files have the right content in another packing, otherwise the
        directory itself. The builder reports missing and wrong files.

    Raises:
        UserError: an unpacked file differs from the published one, or can't be read.
    """
    directory = os.path.expanduser(manual_dir)
    found = {name: _find(directory, name) for name in contents}
    if not all(found.values()):
        yield manual_dir
        return
    published = {info.filename: info.checksum for info in builder.url_infos.values()}
    packed = {name: _read(path) for name, path in found.items()}
    if all(_sha256(packed[name]) == published[name] for name in contents):
        yield manual_dir
        return
    unpacked = {name: _unpack(values) for name, values in packed.items()}
    for name, path in found.items():
        if unpacked[name] is None or _sha256(unpacked[name]) != contents[name]:
            if path.endswith(".gz"):  # damaged: the builder says so
                yield manual_dir
                return
            raise UserError(
                f"{path!r} differs from the published {name}: it is damaged, truncated, or of "
                "another data set"
            )
    with tempfile.TemporaryDirectory() as temporary:
        infos = {}
        for url, info in builder.url_infos.items():
            values = gzip.compress(unpacked[info.filename], compresslevel=1, mtime=0)
            with open(os.path.join(temporary, info.filename), "wb") as file:
                file.write(values)
            infos[url] = tfds.core.download.checksums.UrlInfo(
                size=len(values), checksum=_sha256(values), filename=info.filename
            )
        with _url_infos(type(builder), infos):
            yield temporary


@contextlib.contextmanager
def _url_infos(builder_class, infos):
    """Replaces the checksums that the builder expects; it has no argument for them."""
    own = vars(builder_class).get("url_infos")
    builder_class.url_infos = infos
    try:
        yield
    finally:
        if own is None:
            del builder_class.url_infos
        else:
            builder_class.url_infos = own


def _find(directory, name):
    """The path of a file, compressed or not; None if there is none."""
    plain = name.removesuffix(".gz")
    names = (name, plain, plain.replace("-idx", ".idx"))
    paths = [os.path.join(directory, each) for each in names]
    return next((path for path in paths if os.path.isfile(path)), None)


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path!r} can't be read: {error.strerror}") from error


def _unpack(values):
    """The content of a .gz, or the values themselves; None if it is damaged."""
    if values[:2] != b"\x1f\x8b":
        return values
    try:
        return gzip.decompress(values)
    except (OSError, EOFError, zlib.error):
        return None


def _sha256(values):
    return hashlib.sha256(values).hexdigest()
