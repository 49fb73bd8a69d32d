"""The report of a script: the machine, the tables, and everything again as one line of JSON."""

import json
import math
import os
import platform
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import flax
import jax
import jaxlib
import numpy as np
import optax
from absl import logging

_LABEL, _CELL = 44, 15  # widths of a table's first column and of the others

# Text, a number, None, or a pair: a median and its spread.
Cell = str | float | tuple[float, float | None] | None


def machine() -> dict[str, str]:
    """Processor, devices and versions."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        processor = names[0] if names else processor
    except OSError:
        pass
    return {
        "processor": f"{processor}, {os.cpu_count()} cores",
        "devices": ", ".join(device.device_kind for device in jax.devices()),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
    }


class Report:
    """Prints a script's results as they come, and keeps them for the JSON line at the end."""

    def __init__(self, **versions: str):
        """Prints the head: the machine, and the versions of other libraries."""
        logging.set_verbosity(logging.ERROR)  # JAX and orbax narrate
        self.found: dict[str, Any] = {}
        self.values({**machine(), **versions})

    def values(self, named: dict[str, Cell]) -> None:
        """Prints names and values, one per line."""
        self._begin()
        width = max(map(len, named), default=0)
        for name, value in named.items():
            print(f"{name:{width}}  {_shown(value)}", flush=True)
        self.found.update(named)

    def table(self, title: str, columns: tuple[str, ...], rows: Iterable[tuple[Cell, ...]]) -> None:
        """Prints a table.

        Args:
            title: printed above; in the JSON line, the name of the rows.
            columns: names, each with its unit.
            rows: one cell per column. Rows of an iterator are printed as they come.
        """
        self._begin()
        print(f"{title}\n{_line(columns)}", flush=True)
        kept = self.found[title] = []
        for row in rows:
            print(_line(map(_shown, row)), flush=True)
            kept.append(dict(zip(columns, row, strict=True)))

    def end(self) -> None:
        """Prints everything as one line of JSON."""
        self._begin()
        print(json.dumps(self.found, default=float))

    def _begin(self):
        """Prints an empty line, except before the head."""
        if self.found:
            print()


def markdown(title: str, columns: tuple[str, ...], rows: Iterable[tuple[Cell, ...]]) -> None:
    """Prints a table in Markdown; rows of an iterator are printed as they come."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(_shown, row))} |", flush=True)


def _line(cells):
    label, *others = cells
    return f"{label:{_LABEL}}" + "".join(f" {cell:>{_CELL}}" for cell in others)


def _shown(cell):
    """A pair as "25.71 ± 0.31": two digits of the spread, and as many decimals of the median."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Integral):
        return f"{cell:,}"
    if isinstance(cell, Real):
        return f"{cell:,.0f}" if abs(cell) >= 1e4 else f"{cell:.4g}"
    middle, spread = cell
    if not spread:
        return _shown(float(middle))
    decimals = max(0, 1 - math.floor(math.log10(spread)))
    return f"{middle:,.{decimals}f} ± {spread:,.{decimals}f}"
