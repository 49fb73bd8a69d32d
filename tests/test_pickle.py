"""Nothing that is loaded from a disk can run code; the parzen command is in its own tests."""

import pickle

import chex
import numpy as np
import pytest
from scipy.io import savemat
from small import make_dataset, make_spec, start

import aae_jax as aae
from aae_jax import parzen
from aae_jax.data import readers
from aae_jax.errors import UserError
from aae_jax.workdir import records
from aae_jax.workdir.checkpoint import Checkpoints


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def no_pickle(monkeypatch):
    """Forbids the unpicklers of NumPy, SciPy and orbax."""

    def refuse(*arguments, **kwargs):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


def test_objects_are_refused_and_not_run(tmp_path):
    trap = np.array([Trap(tmp_path / "trapped")], object)
    np.savez(tmp_path / "images.npz", images=trap)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(trap))
    for name in ("images.npz", "raw.npz"):
        with pytest.raises(UserError, match="pickled objects|no zip archive"):
            readers.read_npz(str(tmp_path / name))
        assert records.read_partial(tmp_path / name, parzen.Sums) is None
    np.savez(tmp_path / "sums.npz", done=trap, nearest=trap, total=trap)
    assert records.read_partial(tmp_path / "sums.npz", parzen.Sums) is None
    assert not (tmp_path / "trapped").exists()
    np.load(tmp_path / "images.npz", allow_pickle=True)["images"]  # the trap is one
    assert (tmp_path / "trapped").exists()


def test_what_is_loaded_is_not_unpickled(tmp_path, no_pickle):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.savez(tmp_path / "images.npz", images=images)
    savemat(tmp_path / "images.mat", {"images": images})
    for read, name in ((readers.read_npz, "images.npz"), (readers.read_mat, "images.mat")):
        np.testing.assert_array_equal(read(str(tmp_path / name))["images"], images)
    sums = parzen.Sums(np.ones(3), np.ones(3))
    records.write_partial(str(tmp_path / "partial" / "sums.npz"), 2, sums)
    assert records.read_partial(str(tmp_path / "partial" / "sums.npz"), parzen.Sums)[0] == 2
    state, _ = aae.train_steps(start(make_spec()), make_dataset(), 3)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        restored = checkpoints.restore(state)
    chex.assert_trees_all_equal(restored.params, state.params)
