"""Checkpoints return what was saved, bit for bit."""

import shutil

import chex
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest
from small import make_dataset, make_spec, start

import aae_jax as aae
from aae_jax import parallel
from aae_jax.workdir import checkpoint
from aae_jax.workdir.checkpoint import Checkpoints


def trained(seed=0, num_steps=3, **train):
    state = start(make_spec(**train), seed)
    # Not the default scale: whatever is not saved comes back with the value of a new state.
    scale = {phase: jnp.float32(0.5) for phase in state.learning_rate_scale}
    return steps_on(state.replace(learning_rate_scale=scale), num_steps)


def steps_on(state, num_steps):
    for _ in range(num_steps):
        state, _ = aae.train_steps(state, make_dataset(), 1)
    return state


def words(state):
    """The state without typed keys, which chex can't compare."""
    return state.replace(rng=jax.random.key_data(state.rng))


@pytest.mark.parametrize("train", [{}, {"ema_decay": 0.5}], ids=str)
def test_round_trip_is_exact(tmp_path, train):
    state = trained(**train)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 3
        new = start(make_spec(**train), 9)
        restored = checkpoints.restore(new)
    chex.assert_trees_all_equal(words(restored), words(state))
    # The restored state trains on exactly as the original does.
    chex.assert_trees_all_equal(words(steps_on(restored, 5)), words(steps_on(state, 5)))


def test_newest_of_several(tmp_path):
    with Checkpoints(tmp_path, max_to_keep=2) as checkpoints:
        for num_steps in (1, 2, 3):
            checkpoints.save(trained(num_steps=num_steps))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["2", "3"]
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(start(make_spec(), 9))
    chex.assert_trees_all_equal(words(restored), words(trained(num_steps=3)))


def test_restored_where_the_given_state_lies(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(trained())
        mesh = parallel.make_mesh()
        create = jax.jit(
            aae.create_train_state, static_argnums=0, out_shardings=parallel.replicated(mesh)
        )
        restored = checkpoints.restore(create(make_spec(), jax.random.key(9)))
    kernel = restored.params["encoder"]["Dense_0"]["kernel"]
    assert len(kernel.sharding.device_set) == 8
    chex.assert_trees_all_equal(jax.device_get(words(restored)), jax.device_get(words(trained())))


def test_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        with pytest.raises(aae.UserError, match="no checkpoint in"):
            checkpoints.restore(trained())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A directory with checkpoints of steps 2 and 3, and what they hold."""
    directory = tmp_path_factory.mktemp("two")
    states = {step: trained(num_steps=step) for step in (2, 3)}
    with Checkpoints(directory) as checkpoints:
        for state in states.values():
            checkpoints.save(state)
    return directory, states


def restore(directory):
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore(start(make_spec(), 9))


def flip(path):
    """Changes a byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, halve, lambda path: path.unlink()])
def test_damage_to_any_file_is_survived(two, tmp_path, capfd, damage):
    """If only orbax's metadata are damaged, the newest state is read, otherwise the one before."""
    directory, states = two
    directory = shutil.copytree(directory, tmp_path / "damaged")
    files = [path for path in (directory / "3").rglob("*") if path.is_file()]
    taken = {}
    for path in files:
        content = path.read_bytes()
        damage(path)
        restored = restore(directory)
        taken[path.relative_to(directory / "3").as_posix()] = int(restored.step)
        chex.assert_trees_all_equal(words(restored), words(states[int(restored.step)]))
        said = capfd.readouterr()
        warned = [line for line in said.out.splitlines() if line.startswith("warning: ")]
        assert len(warned) == (int(restored.step) == 2), said.out
        assert "Traceback" not in said.err
        path.write_bytes(content)
    assert [step for name, step in taken.items() if name.startswith("default/")].count(2) > 8
    assert all(step == 2 for name, step in taken.items() if name.startswith("default/"))


def test_an_empty_newest_checkpoint(two, tmp_path, capsys):
    directory = shutil.copytree(two[0], tmp_path / "empty")
    shutil.rmtree(directory / "3")
    (directory / "3").mkdir()
    assert int(restore(directory).step) == 2
    assert "checkpoint of step 3 is damaged" in capsys.readouterr().out


def test_none_left_is_one_line(two, tmp_path):
    directory = shutil.copytree(two[0], tmp_path / "none")
    for step in ("2", "3"):
        flip(directory / step / "default" / "manifest.ocdbt")
    with pytest.raises(aae.UserError, match="step 3 is damaged.*step 2 is damaged.*none before"):
        restore(directory)


def test_a_later_save_takes_the_place_of_a_damaged_one(two, tmp_path):
    directory = shutil.copytree(two[0], tmp_path / "again")
    flip(directory / "3" / "default" / "manifest.ocdbt")
    with Checkpoints(directory) as checkpoints:
        restored = checkpoints.restore(start(make_spec(), 9))
        checkpoints.remove_after(int(restored.step))
        checkpoints.save(steps_on(restored, 1))
    chex.assert_trees_all_equal(words(restore(directory)), words(two[1][3]))


def test_without_its_digests_a_checkpoint_is_damaged(two, tmp_path, capsys):
    directory = shutil.copytree(two[0], tmp_path / "digests")
    (directory / "3" / "sha256.json").unlink()
    assert int(restore(directory).step) == 2
    assert "step 3 is damaged (sha256.json is missing)" in capsys.readouterr().out


def test_a_failed_write_is_one_line_and_leaves_the_earlier_ones(two, tmp_path, monkeypatch):
    directory = shutil.copytree(two[0], tmp_path / "full")

    def full(self):
        raise OSError(28, "No space left on device")

    # In orbax's background thread, where the last files are written.
    monkeypatch.setattr(Checkpoints, "_write_digests", full)
    with pytest.raises(aae.UserError, match="step 5 can't be written.*No space left.*are kept"):
        with Checkpoints(directory) as checkpoints:
            checkpoints.save(trained(num_steps=5))
    monkeypatch.undo()
    assert sorted(ocp.utils.checkpoint_steps(directory)) == [2, 3]
    chex.assert_trees_all_equal(words(restore(directory)), words(two[1][3]))


@pytest.mark.parametrize("at", ["digests", "arrays"])
def test_a_checkpoint_that_is_removed_while_it_is_read(two, tmp_path, monkeypatch, capsys, at):
    """As a running training removes its older ones: the newest is then read."""
    directory = shutil.copytree(two[0], tmp_path / "at_work")
    shutil.move(directory / "3", tmp_path / "3")

    def move_on():
        if (directory / "2").exists():
            shutil.move(tmp_path / "3", directory / "3")
            shutil.rmtree(directory / "2")

    owner, name = {
        "digests": (checkpoint, "_digests"),
        "arrays": (ocp.Checkpointer, "restore"),
    }[at]
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: move_on() or original(*args, **kwargs))
    with Checkpoints(directory, read_only=True) as checkpoints:
        restored = checkpoints.restore(start(make_spec(), 9))
    chex.assert_trees_all_equal(words(restored), words(two[1][3]))
    assert capsys.readouterr().out == ""


def test_a_reader_changes_nothing(two, tmp_path):
    directory = shutil.copytree(two[0], tmp_path / "read")
    unfinished = directory / "4.orbax-checkpoint-tmp-1"
    unfinished.mkdir()
    before = sorted((path, path.stat().st_mtime_ns) for path in directory.rglob("*"))
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert int(checkpoints.restore(start(make_spec(), 9)).step) == 3
    assert sorted((path, path.stat().st_mtime_ns) for path in directory.rglob("*")) == before
