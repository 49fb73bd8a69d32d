"""Standard output whose failures can't end a program: encodings, closed pipes, closed terminals.

Imports only the standard library, so that a launcher can call it before anything opens a file.
"""

import io
import os
import sys


class _Unfailing(io.FileIO):
    """A file whose writes never fail: data that can't be written are dropped."""

    def write(self, data):
        try:
            return super().write(data)
        except OSError:  # a closed pipe, a closed terminal, a full disk
            return len(data)


def protect() -> None:
    """Makes `sys.stdout` and `sys.stderr` drop or replace what they can't write.

    A character that the encoding lacks becomes "?". A closed descriptor (`2>&-`) is opened on the
    null device. Otherwise the next file to be opened would get its number, and libraries that write
    to descriptor 2 would write into that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not None:
            stream.flush()
        raw = _Unfailing(descriptor, "w", closefd=False)
        replacing = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding="utf-8" if stream is None else stream.encoding,
            errors="replace",
            line_buffering=descriptor == 2 or raw.isatty(),
        )
        setattr(sys, name, replacing)
