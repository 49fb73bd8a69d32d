"""Whole runs of launch.py, killed or short of disk: `python -m benchmarks.kill` does it at length."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks import kill


@pytest.fixture(autouse=True)
def compile_once(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.getbasetemp() / "compiled"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.delenv("XLA_FLAGS")  # one device: four fake ones are slow


@pytest.mark.slow
def test_a_run_killed_three_times_ends_bit_identical(tmp_path):
    whole = tmp_path / "whole"
    kill.Run(whole).finish()
    expected = kill.outcome(whole)
    steps = [line["step"] for line in expected["metrics"]]
    assert steps == list(range(kill.DISPATCH, kill.STEPS + 1, kill.DISPATCH))
    moments = [
        ("training", 2 * kill.EVERY, 0.0),
        ("checkpoint write", 4 * kill.EVERY, 0.0),
        ("scoring", 0, 0.0),
    ]
    hits, differing = kill.series(tmp_path / "killed", moments, expected)
    assert not differing
    assert "checkpoint write" in dict(hits) and len(hits) == 3, hits


def test_a_full_disk_is_one_line_and_keeps_what_is_saved(tmp_path):
    """A limit on the size of files stands for it: a checkpoint's `_METADATA` alone needs 20 KiB.

    The arrays' own files are no measure: orbax splits them differently each time.
    """
    workdir = tmp_path / "run"
    command = [sys.executable, "launch.py", f"--workdir={workdir}", *kill.OVERRIDES]
    limited = ["bash", "-c", 'ulimit -f 16; exec "$@"', "bash", *command]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(limited, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert "checkpoint of step 20 can't be written" in lines[0] and "File too large" in lines[0]
    kill.Run(workdir).finish()  # the same command, with room
    assert kill.outcome(workdir)["metrics"][-1]["step"] == kill.STEPS
