"""What a run keeps in its directory beside the checkpoints: JSON, metrics, TensorBoard events.

Of several processes only the first writes; all read.
"""

import contextlib
import json
import os
import shutil
import zipfile
import zlib

import numpy as np

from aae_jax import parzen, processes
from aae_jax.errors import UserError

# Fields that may change between two starts in one workdir: they don't touch the training.
_FREE = ("evaluation.", "parallel.", "run.", "data.data_dir", "data.manual_dir", "data.fold")


def check(workdir, config_json):
    """Refuses a workdir that can't be used or holds another training, before data are loaded."""
    if os.path.exists(workdir) and not os.path.isdir(workdir):
        raise UserError(f"--workdir is {workdir!r}, which is a file: name a directory")
    parent = os.path.abspath(workdir)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not (os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK)):
        raise UserError(f"--workdir is {workdir!r}: {parent!r} can't be written to")
    earlier = read_json(os.path.join(workdir, "config.json"))
    if earlier is None:
        return
    before, now = _flatten(earlier), _flatten(config_json)
    differing = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not name.startswith(_FREE)
    ]
    if differing:
        raise UserError(
            f"{workdir!r} holds a run of another config ({'; '.join(differing)}): "
            "name another --workdir, or remove that one"
        )


def _flatten(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    flat = {}
    for name, value in tree.items():
        flat.update(_flatten(value, f"{prefix}{name}."))
    return flat


def remove_stale(workdir):
    """Scores and pictures of an earlier step must not pass for those of the finished model."""
    if not processes.is_first():
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(workdir, "results.json"))
    shutil.rmtree(partial_directory(workdir), ignore_errors=True)
    shutil.rmtree(os.path.join(workdir, "figures"), ignore_errors=True)


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events, one entry a dispatch: means over its steps."""

    def __init__(self, workdir, step):
        from tensorboardX import SummaryWriter

        # What was written after the checkpoint that is taken up will be written again.
        kept = [line for line in self.read(workdir) if line["step"] <= step]
        self.seconds = kept[-1]["seconds"] if kept else 0.0
        path = self._path(workdir)
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._writes = processes.is_first()
        if self._writes:
            self._file = open(path, "a")
            self._events = SummaryWriter(os.path.join(workdir, "tensorboard"), purge_step=step + 1)

    def write(self, step, metrics, seconds) -> dict[str, float]:
        """Waits for the metrics of a dispatch that ended at `step`; `seconds` is then called."""
        metrics = {name: np.asarray(values, np.float64) for name, values in metrics.items()}
        losses = {name: values for name, values in metrics.items() if name.startswith("loss/")}
        bad = np.flatnonzero(~np.isfinite(list(losses.values())).all(axis=0))
        if bad.size:
            shown = ", ".join(f"{name} is {values[bad[0]]:.4g}" for name, values in losses.items())
            raise UserError(
                f"at step {step - len(next(iter(losses.values()))) + bad[0] + 1} {shown}: training "
                "stopped, earlier checkpoints are kept; try lower optimizer.*.learning_rate"
            )
        line = {name: float(values.mean()) for name, values in sorted(metrics.items())}
        # The kurtosis of a code that has collapsed to a point; JSON has no NaN.
        line = {name: value if np.isfinite(value) else None for name, value in line.items()}
        if not self._writes:
            return line
        self._file.write(json.dumps({"step": step, "seconds": seconds(), **line}) + "\n")
        self._file.flush()
        for name, value in line.items():
            if value is not None:
                self._events.add_scalar(name, value, step)
        return line

    def close(self):
        if self._writes:
            self._file.close()
            self._events.close()

    @staticmethod
    def _path(workdir):
        return os.path.join(workdir, "metrics.jsonl")

    @classmethod
    def read(cls, workdir) -> list[dict[str, float]]:
        """All whole lines; a line cut short by a kill was not finished and does not count."""
        try:
            with open(cls._path(workdir)) as file:
                text = file.read()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @classmethod
    def last_seconds(cls, workdir) -> float:
        lines = cls.read(workdir)
        return lines[-1]["seconds"] if lines else 0.0


def write_json(path, value):
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path):
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{path!r} is not JSON: remove it, or name another --workdir") from None


def write_atomically(path, text):
    if not processes.is_first():
        return
    with open(path + ".part", "w") as file:
        file.write(text)
    os.replace(path + ".part", path)


def partial_directory(workdir):
    """Sums of a scoring pass under way; it goes when results.json is written."""
    return os.path.join(workdir, "partial")


def write_partial(path, done, sums):
    if not processes.is_first():
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "wb") as file:
        np.savez(file, done=done, nearest=sums.nearest, total=sums.total)
    os.replace(path + ".part", path)


def read_partial(path):
    """Rounds done and their sums; None where there are none, or none that can be read."""
    try:
        with np.load(path) as saved:
            return int(saved["done"]), parzen.Sums(saved["nearest"], saved["total"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
