"""Checkpoints of a `TrainState` in a directory, through orbax."""

import os

import jax
import orbax.checkpoint as ocp

from aae_jax.errors import UserError
from aae_jax.train_state import TrainState


class Checkpoints:
    """The checkpoints of one run; use it as a context, which waits for writes under way.

    Only arrays are written: the spec comes from the config, whose copy lies in the workdir. Each
    checkpoint appears by one rename, so a killed write leaves the earlier ones whole.
    """

    def __init__(self, directory: str, max_to_keep: int = 2):
        self._manager = ocp.CheckpointManager(
            os.path.abspath(directory),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=max_to_keep, cleanup_tmp_directories=True
            ),
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._manager.close()

    def wait(self) -> None:
        """Returns when every checkpoint is on the disk."""
        self._manager.wait_until_finished()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Copies the state to the host and writes it in the background."""
        step = int(state.step)
        if step != self.latest_step():
            self._manager.save(step, args=ocp.args.StandardSave(_arrays(state)))

    def restore(self, like: TrainState) -> TrainState:
        """Reads the newest checkpoint.

        Args:
            like: a state of the same spec; its arrays say shapes, dtypes and placement.

        Raises:
            UserError: there is no checkpoint, or it can't be read.
        """
        step = self.latest_step()
        if step is None:
            raise UserError(f"no checkpoint in {self._manager.directory}: train first")
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _arrays(like))
        try:
            arrays = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except Exception as error:  # tensorstore and orbax raise whatever they like
            raise UserError(
                f"the checkpoint {self._manager.directory / str(step)} can't be read "
                f"({type(error).__name__}): remove it, and the one before is taken"
            ) from error
        rng = jax.random.wrap_key_data(arrays.pop("rng"), impl=jax.random.key_impl(like.rng))
        return like.replace(rng=rng, **arrays)


def _arrays(state):
    """The state as a dict of plain arrays; typed keys as their words."""
    arrays = {
        name: getattr(state, name)
        for name in (
            "step",
            "params",
            "opt_state",
            "learning_rate_scale",
            "pixel_mean",
            "pixel_std",
        )
    }
    return {**arrays, "rng": jax.random.key_data(state.rng)}
