"""Runs of launch.py that are killed or run out of disk, as processes of their own."""

import os
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
from runs import (
    ROOT,
    assert_same_training,
    command,
    environment,
    launch,
    metrics,
    results,
    write_part,
)

import aae_jax as aae
from aae_jax.errors import UserError

STEPS, DISPATCH, EVERY = 400, 10, 20
FLAGS = (
    f"--config.train.num_steps={STEPS}",
    f"--config.run.steps_per_dispatch={DISPATCH}",
    f"--config.run.checkpoint_every={EVERY}",
    "--config.model.encoder_hidden=(64,)",
    "--config.model.decoder_hidden=(64,)",
    "--config.model.discriminator_hidden=(64,)",
    "--config.evaluation.num_samples=20_000",
)


def kill_when(reached, directory, *flags):
    """Starts launch.py in a directory and kills it once `reached(output)` is true."""
    said = directory / "said.txt"
    with open(said, "w") as out:
        process = subprocess.Popen(
            command(*flags), cwd=directory, env=environment(), stdout=out, stderr=out
        )
        while process.poll() is None and not reached(said.read_text()):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, said.read_text()


def finish(directory, *flags):
    """Runs launch.py to its end; returns its output."""
    done = launch(directory, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def saved(workdir):
    """The step of the newest checkpoint."""
    names = (path.name for path in (workdir / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def is_writing(workdir):
    """Whether a checkpoint is being written."""
    return any((workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))


@pytest.mark.slow
def test_a_run_killed_three_times_ends_bit_identical(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(tmp_path, f"--workdir={whole}", *FLAGS)
    assert [line["step"] for line in metrics(whole)] == list(range(DISPATCH, STEPS + 1, DISPATCH))
    flags = f"--workdir={killed}", *FLAGS
    kill_when(lambda said: saved(killed) >= 2 * EVERY, tmp_path, *flags)
    for step in range(4 * EVERY, STEPS // 2, EVERY):
        kill_when(lambda said: saved(killed) >= step and is_writing(killed), tmp_path, *flags)
        if is_writing(killed):  # the kill has cut a checkpoint; its end may have been faster
            break
    assert is_writing(killed)
    kill_when(lambda said: "\nscoring" in said, tmp_path, *flags)
    assert "training is finished" in finish(tmp_path, *flags)
    assert_same_training(killed, whole)
    assert results(killed) == results(whole)
    drawn = [sorted(os.listdir(run / "figures")) for run in (killed, whole)]
    assert drawn[0] == drawn[1]
    assert not list(killed.glob("**/*.part"))


@pytest.mark.slow
def test_a_chain_killed_in_either_part_ends_bit_identical(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))  # of the config files
    write_part(tmp_path, num_steps=STEPS)
    (tmp_path / "run.py").write_text(
        "from runs import finetuning_config\n\n\n"
        "def get_config():\n"
        f"    start_from = {str(tmp_path / 'part.py')!r}\n"
        f"    return finetuning_config(start_from, **{{'train.num_steps': {STEPS}}})\n"
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = f"--config={tmp_path / 'run.py'}", "--mode=train"
    finish(tmp_path, f"--workdir={whole / 'run'}", *flags)
    flags = f"--workdir={killed / 'run'}", *flags
    kill_when(lambda said: saved(killed / "part") >= 2 * EVERY, tmp_path, *flags)
    assert not (killed / "run").exists()
    kill_when(lambda said: saved(killed / "run") >= 2 * EVERY, tmp_path, *flags)
    finish(tmp_path, *flags)
    for name in ("part", "run"):
        assert_same_training(killed / name, whole / name)


@pytest.mark.slow
def test_a_run_may_be_loaded_from_while_it_trains(tmp_path):
    """Every 10 steps a checkpoint appears and an older one goes; the run ends as an undisturbed one."""
    flags = "--config.run.checkpoint_every=10", "--mode=train"
    flags = *[flag for flag in FLAGS if "checkpoint_every" not in flag], *flags
    finish(tmp_path, f"--workdir={tmp_path / 'alone'}", *flags)
    workdir, said = tmp_path / "read", []
    process = subprocess.Popen(
        command(f"--workdir={workdir}", *flags),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    steps = []
    while process.poll() is None or not steps:
        try:
            state = aae.load_state(str(workdir))
        except UserError as error:
            said.append(str(error))
            continue
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
        assert (np.asarray(state.opt_state["generator"][0].count) == int(state.step)).all()
        steps.append(int(state.step))
    assert process.wait() == 0 and process.stderr.read() == ""
    assert all(text.startswith("no checkpoint in ") and "\n" not in text for text in said), said[-1]
    assert steps == sorted(steps) and all(step % 10 == 0 for step in steps)
    assert_same_training(workdir, tmp_path / "alone")


def test_a_full_disk_is_one_line_and_keeps_what_is_saved(tmp_path):
    """Simulated by a limit on the size of files: a checkpoint's `_METADATA` alone needs 20 KiB.

    The arrays' files are unsuitable: orbax splits them differently each time.
    """
    workdir = tmp_path / "run"
    flags = f"--workdir={workdir}", *FLAGS[1:], "--config.train.num_steps=40", "--mode=train"
    limited = ["bash", "-c", 'ulimit -f 16; exec "$@"', "bash", *command(*flags)]
    # Compiled programs that the limit cuts are not for others to find.
    variables = environment(XDG_CACHE_HOME=str(tmp_path / "cache"))
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(limited, env=variables, capture_output=True, text=True)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert "checkpoint of step 20 can't be written" in lines[0] and "File too large" in lines[0]
    finish(tmp_path, *flags)  # the same command, with room
    assert metrics(workdir)[-1]["step"] == 40
