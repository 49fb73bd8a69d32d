"""The files of a run's directory other than checkpoints: JSON, metrics, TensorBoard events.

If there are several processes, only the first writes; all read.
"""

import contextlib
import errno
import json
import math
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from aae_jax import processes
from aae_jax.config import named_config
from aae_jax.errors import UserError
from aae_jax.optimizers import bound_to_length
from aae_jax.spec import Spec
from aae_jax.workdir import terminal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# The errors of a disk that is full, read-only, without permission, or broken.
_DISK_ERRORS = {
    getattr(errno, name) for name in "ENOSPC EDQUOT EFBIG EROFS EACCES EPERM EIO ESTALE".split()
}

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}

# Fields that may change between two starts in one workdir: they don't affect the training.
_FREE = ("evaluation.", "parallel.", "run.", "data.data_dir", "data.manual_dir", "data.fold")
_LENGTH = ("train.num_steps", "run.max_steps")  # see _check_length

# Fields that the config.json of earlier versions lacks, with the values that stand for what they did.
_LATER = {"train.mirror": False}


def check(workdir: str, config_json: dict[str, Any], spec: Spec) -> None:
    """Raises, before data are loaded, if a workdir can't be used or holds another training."""
    if os.path.exists(workdir) and not os.path.isdir(workdir):
        raise UserError(f"--workdir is {workdir!r}, which is a file: name a directory")
    parent = os.path.abspath(workdir)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not (os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK)):
        raise UserError(f"--workdir is {workdir!r}: {parent!r} can't be written to")
    earlier = read_config(workdir)
    if earlier is None:
        return
    before, now = flatten(earlier), flatten(config_json)
    differing = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not name.startswith(_FREE + _LENGTH)
    ]
    if differing:
        raise UserError(
            f"{workdir!r} holds a run of another config ({'; '.join(differing)}): "
            "name another --workdir, or remove that one"
        )
    _check_length(workdir, before, now, spec)


def _check_length(workdir, before, now, spec):
    """Raises if a training's length was changed and the steps done depend on it."""
    done = newest_step(workdir)
    if done == 0:
        return
    start_from, most = now.get("start_from"), [flat.get("run.max_steps") for flat in (before, now)]
    if start_from is not None and named_config(start_from) and most[0] != most[1]:
        raise UserError(
            f"run.max_steps was {most[0]}, now {most[1]}: the run in {workdir!r} started from "
            f"{start_from!r}, trained for that many steps; name another --workdir"
        )
    lengths = (before.get("train.num_steps"), most[0])
    was = min((length for length in lengths if length is not None), default=None)
    num_steps = spec.train.num_steps
    if num_steps < done:
        raise UserError(
            f"train.num_steps or run.max_steps is {num_steps}: the run in {workdir!r} has done "
            f"{done} steps; name another --workdir"
        )
    bound = bound_to_length(spec)
    if num_steps != was and bound:
        raise UserError(
            f"train.num_steps was {was}, now {num_steps}, and {done} steps are done in {workdir!r}: "
            f"the 'cosine' schedule of {' and '.join(bound)} depends on it; name another --workdir "
            "(runs with the other schedules can be made longer)"
        )


def newest_step(workdir: str) -> int:
    """The step of the newest checkpoint, judged by names alone; 0 if there is none."""
    try:
        names = os.listdir(os.path.join(workdir, "checkpoints"))
    except FileNotFoundError:
        return 0
    return max((int(name) for name in names if name.isdigit()), default=0)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The fields of nested sections by dotted names."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    flat = {}
    for name, value in tree.items():
        flat.update(flatten(value, f"{prefix}{name}."))
    return flat


@contextlib.contextmanager
def at_work(workdir: str) -> Iterator[None]:
    """Keeps other runs out of a workdir, and turns failed writes into one line."""
    try:
        with open(os.path.join(workdir, "lock"), "w") as file:
            try:
                # The system takes the lock back however the process ends. On NFS it may hold on
                # this machine only (mounted with nolock or local_lock).
                if jax.process_index() == 0:  # for all processes of the run
                    if fcntl is None:
                        raise OSError(errno.ENOSYS, "this system has no fcntl")
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another run is at work in {workdir!r}: wait for it, or name another --workdir"
                ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                terminal.say(
                    f"warning: the disk of {workdir!r} has no locks: nothing keeps a second run out"
                )
            yield
    except OSError as error:
        inside = error.filename is None or os.path.abspath(error.filename).startswith(
            os.path.abspath(workdir)
        )
        if error.errno not in _DISK_ERRORS or not inside:
            raise
        raise UserError(
            f"{workdir!r} can't be written to ({error.strerror}): earlier checkpoints are kept, and "
            "the same command resumes from them"
        ) from error


def remove_stale(workdir: str) -> None:
    """Removes scores and pictures of an earlier step, which are not the finished model's."""
    if not processes.is_first():
        return
    for name in ("results.json", "report.html", "failure.json"):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(workdir, name))
    shutil.rmtree(partial_directory(workdir), ignore_errors=True)
    shutil.rmtree(os.path.join(workdir, "figures"), ignore_errors=True)


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events, one entry per dispatch: means over its steps."""

    def __init__(self, workdir: str, step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        # What was written after the checkpoint that is taken up will be written again.
        self.kept = [line for line in self.read(workdir) if line["step"] <= step]
        self.seconds = self.kept[-1]["seconds"] if self.kept else 0.0
        path = self._path(workdir)
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in self.kept))
        self._writes = processes.is_first()
        if not self._writes:
            return
        self._file = open(path, "a")  # noqa: SIM115 — closed by `close`
        # Not SummaryWriter: on a full disk its thread dies, and the next writes wait for ever.
        os.makedirs(os.path.join(workdir, "tensorboard"), exist_ok=True)
        self._events = EventsWriter(os.path.join(workdir, "tensorboard", "events"))
        # TensorBoard drops what an earlier start wrote of later steps.
        start = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(wall_time=time.time(), step=step + 1, session_log=start))

    def write(
        self, step: int, metrics: dict[str, Any], seconds: Callable[[], float]
    ) -> dict[str, Any]:
        """Waits for the metrics of a dispatch that ended at `step`, then calls `seconds`."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import Summary

        metrics = {name: np.asarray(values, np.float64) for name, values in metrics.items()}
        # None: the kurtosis of a code that has collapsed to a point.
        line: dict[str, Any] = _finite(
            {name: float(values.mean()) for name, values in sorted(metrics.items())}
        )
        by_seed = _finite(
            {
                name: values.mean(axis=1).tolist()
                for name, values in sorted(metrics.items())
                if values.ndim == 2
            }
        )
        line = {"step": step, "seconds": seconds(), **line}
        if by_seed:
            line["by_seed"] = by_seed
        if not self._writes:
            return line
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        values = [
            Summary.Value(tag=name, simple_value=line[name])
            for name in metrics
            if line[name] is not None
        ]
        self._events.write_event(
            Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        )
        return line

    def flush(self) -> None:
        """Writes the metrics to the disk; called before each checkpoint, so that they are first."""
        if not self._writes:
            return
        os.fsync(self._file.fileno())
        self._events.flush()

    def close(self) -> None:
        if self._writes:
            self._file.close()
            self._events.close()

    @staticmethod
    def _path(workdir):
        return os.path.join(workdir, "metrics.jsonl")

    @classmethod
    def read(cls, workdir: str) -> list[dict[str, Any]]:
        """All complete lines; a line truncated by a kill is ignored."""
        try:
            with open(cls._path(workdir)) as file:
                text = file.read()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @classmethod
    def last_seconds(cls, workdir: str) -> float:
        lines = cls.read(workdir)
        return lines[-1]["seconds"] if lines else 0.0


def write_json(path: str, value: Any) -> None:
    """Writes JSON; a number that is not finite becomes null, since JSON has no NaN."""
    write_atomically(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value):
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_config(workdir: str) -> Any:
    """The config of a run, with the fields that came after its version; None if there is no file."""
    config = read_json(os.path.join(workdir, "config.json"))
    for name, value in _LATER.items():
        section, _, field = name.partition(".")
        if config is not None and section in config:
            config[section].setdefault(field, value)
    return config


def read_json(path: str) -> Any:
    """The content of a JSON file; None if there is no file."""
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{path!r} is not JSON: remove it, or name another --workdir") from None


def write_atomically(path: str, text: str) -> None:
    """Writes a file by one rename, on the first process."""
    if not processes.is_first():
        return
    with open(path + ".part", "w") as file:
        file.write(text)
    os.replace(path + ".part", path)


def partial_directory(workdir: str) -> str:
    """The directory of unfinished scoring passes; removed when results.json is written."""
    return os.path.join(workdir, "partial")


def write_partial(path: str, done: int, sums: Any) -> None:
    """Saves the sums of the finished rounds."""
    if not processes.is_first():
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "wb") as file:
        np.savez(file, done=done, **sums._asdict())
    os.replace(path + ".part", path)


def read_partial(path: str, kind: type[Any]) -> tuple[int, Any] | None:
    """The number of finished rounds and their sums, of a type; None if they can't be read."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            return int(saved["done"]), kind(*(saved[name] for name in kind._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
