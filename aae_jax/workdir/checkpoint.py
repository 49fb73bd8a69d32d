"""Checkpoints of a `TrainState` in a directory, written by orbax."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from typing import Any

import jax
import orbax.checkpoint as ocp

from aae_jax import processes
from aae_jax.errors import PeerLost, UserError
from aae_jax.train_state import TrainState
from aae_jax.workdir import terminal

_DIGESTS = "sha256.json"  # of a checkpoint's files, in its directory
_ITEM = "default"  # orbax's name for what a checkpoint holds, where it is one thing


class Checkpoints:
    """The checkpoints of one run, as a context manager that waits for pending writes.

    Only arrays are written; the spec comes from the config in the workdir. Each checkpoint appears
    by one rename, so that a killed write leaves the earlier ones intact. It includes the SHA-256 of
    its files: tensorstore's checksums don't cover all files, and their failures print tracebacks.
    """

    def __init__(self, directory: str, max_to_keep: int = 2, read_only: bool = False) -> None:
        """`read_only`: changes nothing on the disk, where another run may be writing."""
        self._saving: int | None = None  # step of the newest write
        self._directory = pathlib.Path(os.path.abspath(directory))
        # Opening a manager fails where a run at work removes a checkpoint meanwhile.
        self._manager: Any = None if read_only else self._open_manager(max_to_keep)

    def _open_manager(self, max_to_keep):
        return ocp.CheckpointManager(
            self._directory,
            # Otherwise orbax infers them from the newest checkpoint, which may be empty.
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=max_to_keep,
                save_interval_steps=1,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_digests),
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._manager is None or kind is PeerLost:  # closing would wait for the peer
            return
        try:
            self._manager.close()
        except Exception as error:
            if kind is None:  # otherwise what went wrong before is told
                raise self._write_error(error) from error

    def wait(self) -> None:
        """Waits until every checkpoint is on the disk; raises `UserError` if a write failed."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:  # tensorstore and orbax may raise anything
            raise self._write_error(error) from error

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, intact or not; None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Copies the state to the host and writes it in the background.

        Raises:
            UserError: this write or the one before failed; earlier checkpoints are intact.
        """
        step = int(state.step)
        if step == self.latest_step():
            return
        self.wait()
        self._saving = step
        try:
            self._manager.save(step, args=ocp.args.StandardSave(_arrays(state)))
        except Exception as error:
            raise self._write_error(error) from error

    def remove_after(self, step: int) -> None:
        """Removes later checkpoints, which are damaged and will be written again."""
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)

    def restore(self, like: TrainState) -> TrainState:
        """Reads the newest intact checkpoint, with a warning if newer ones are damaged.

        Args:
            like: a state of the same spec, with the shapes, dtypes and placement of its arrays.

        Raises:
            UserError: there is no checkpoint, or none can be read.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _arrays(like))
        while True:
            steps = self._steps()
            try:
                step, arrays, damaged = self._read_newest(steps, target)
            except UserError:
                if self._steps() == steps:
                    raise
            else:
                if not damaged or self._steps() == steps:
                    break
            # A run at work has removed what was being read, and written a newer one.
        if damaged:
            terminal.say(f"warning: {'; '.join(damaged)}: taking that of step {step}")
        rng = jax.random.wrap_key_data(arrays.pop("rng"), impl=jax.random.key_impl(like.rng))
        return like.replace(rng=rng, **arrays)

    def _steps(self):
        """The steps of the checkpoints on the disk now, the newest first."""
        names = (path.name for path in self._directory.iterdir())
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)

    def _read_newest(self, steps, target):
        """Step and arrays of the first intact checkpoint, and the faults of those before it."""
        damaged: list[str] = []
        for step in steps:
            arrays, damage = self._read(step, target)
            if damage is None:
                return step, arrays, damaged
            damaged.append(f"the checkpoint of step {step} is damaged ({damage})")
        if damaged:
            raise UserError(
                f"{'; '.join(damaged)}, and there is none before: remove "
                f"{str(self._directory)!r} to train anew"
            )
        raise UserError(f"no checkpoint in {self._directory}: train first")

    def _read(self, step, target):
        """(arrays, None), or (None, the fault of the files)."""
        directory = self._directory / str(step)
        try:
            recorded = json.loads((directory / _DIGESTS).read_bytes())
        except FileNotFoundError:
            return None, f"{_DIGESTS} is missing"
        except ValueError:
            recorded = None
        if not isinstance(recorded, dict):
            return None, f"{_DIGESTS} is not as it was written"
        try:
            found = _digests(directory)
        except FileNotFoundError as error:  # removed meanwhile
            return None, f"{pathlib.Path(error.filename).name} is missing"
        for name in sorted(recorded.keys() | found.keys()):
            if name not in found:
                return None, f"{name} is missing"
            if found[name] != recorded.get(name):
                return None, f"{name} is not as it was written"
        try:
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
                arguments = ocp.args.StandardRestore(target)
                return reader.restore(directory / _ITEM, args=arguments), None
        except Exception as error:  # tensorstore and orbax may raise anything
            raise UserError(
                f"the checkpoint {str(directory)!r} is whole but can't be read: {_first_line(error)}"
            ) from error

    def _write_digests(self):
        """Called by orbax when the files are complete, before the rename that shows them."""
        if not processes.is_first():
            return
        step = str(self._saving)
        for path in self._directory.iterdir():
            if path.name == step or path.name.startswith(f"{step}.orbax-checkpoint-tmp"):
                (path / _DIGESTS).write_text(json.dumps(_digests(path), indent=2) + "\n")

    def _write_error(self, error):
        return UserError(
            f"the checkpoint of step {self._saving} can't be written to "
            f"{str(self._directory)!r}: {_first_line(error)}; earlier ones are kept"
        )


def _digests(directory: pathlib.Path) -> dict[str, str]:
    """SHA-256 of the files that hold the arrays; orbax's metadata lie in the directory above."""
    files = (path for path in directory.glob("*/**/*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }


def _first_line(error) -> str:
    of_system = re.search(r"os_error_code='(\d+)'", str(error))  # deep in what tensorstore says
    if of_system:
        return os.strerror(int(of_system[1]))
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _arrays(state):
    """The state as a dict of plain arrays; typed keys become their integers."""
    fields = [
        field.name for field in dataclasses.fields(state) if field.name not in ("spec", "rng")
    ]
    arrays = {name: getattr(state, name) for name in fields}
    return {**arrays, "rng": jax.random.key_data(state.rng)}
