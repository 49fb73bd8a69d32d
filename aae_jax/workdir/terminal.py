"""Terminal output and signal handling.

If there are several processes, only the first prints.
"""

import contextlib
import os
import signal
import sys
import time
from typing import Any

import jax

from aae_jax import processes

_SIGNALS = [  # Windows has no SIGHUP
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def say(text: str) -> None:
    """Prints a line at once, on the first process."""
    if processes.is_first():
        print(text, flush=True)


def _num_columns(stream) -> int:
    """The width of a terminal; 0 if there is none. Some pseudo-terminals report 0 too."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (AttributeError, OSError, ValueError):  # no stream, closed, a terminal that is gone
        return 0


class Progress:
    """Progress: a bar with rate and time left on a terminal, about ten plain lines elsewhere."""

    def __init__(self, total: int, unit: str = "step", label: str | None = None) -> None:
        self._total, self._unit, self._label = total, unit, label
        self._bar: Any = None
        self._begun: tuple[int, float] | None = (
            None  # step and time of the first report: the rate leaves out compilation
        )
        self._next = 0.0
        self._wants_bar = _num_columns(sys.stderr) > 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, metrics: dict[str, Any] | None = None) -> None:
        if not processes.is_first():
            return
        losses = {
            name.removeprefix("loss/"): f"{value:.3g}"
            for name, value in (metrics or {}).items()
            if name.startswith("loss/")
        }
        if self._wants_bar:
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(
                    total=self._total,
                    initial=done,
                    unit=self._unit,
                    unit_scale=self._unit != "step",
                    desc=self._label,
                    dynamic_ncols=True,
                )
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        self._begun = self._begun or (done, now)
        if done >= self._next or done == self._total:
            self._next = done + self._total / 10
            label = f"{self._label}: " if self._label else ""
            parts = [f"{label}{self._unit} {done}/{self._total}"]
            if done > self._begun[0]:
                rate = (done - self._begun[0]) / (now - self._begun[1])
                parts += [
                    f"{rate:.1f} {self._unit}s/s",
                    f"{(self._total - done) / rate:.0f} s left",
                ]
            shown = ", ".join(f"{name} {value}" for name, value in losses.items())
            say(", ".join(parts) + (f", loss: {shown}" if shown else ""))


class Signals:
    """Notes SIGINT, SIGTERM and SIGHUP, so that the loop can save before it stops.

    A second SIGINT or SIGTERM acts at once. A signal that is ignored stays ignored, such as SIGHUP
    under `nohup`.

    Several processes must stop at the same step, whichever of them got the signal. So all `ask` at
    the same points, and then obey `to_obey`.
    """

    def __enter__(self) -> "Signals":
        self.received = 0
        self._asked: Any = [0]
        self._previous = {}
        # Python delivers signals to its main thread only, and only there may handlers be set.
        with contextlib.suppress(ValueError):
            for signum in _SIGNALS:
                if signal.getsignal(signum) is signal.SIG_IGN:
                    continue
                # None where a library set it, not Python.
                self._previous[signum] = signal.signal(signum, self._note) or signal.SIG_DFL
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def ask(self) -> None:
        """Starts to find out which signal any process has received, without blocking."""
        self._asked = processes.all_reduce_max([self.received])

    def to_obey(self) -> int:
        """The number of the signal to stop for, or 0."""
        return self.received if jax.process_count() == 1 else int(self._asked[0])

    def _note(self, signum, frame):
        del frame
        self.received = signum
        # A terminal that closes sends SIGHUP, and its shell sends it again.
        if signum != getattr(signal, "SIGHUP", None):
            signal.signal(signum, self._previous[signum])
