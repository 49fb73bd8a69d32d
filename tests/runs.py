"""Small runs of whole experiments: their configs, their files, and their interruption."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

from aae_jax.workdir import records
from experiments import digits

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = 30
LONG = {"evaluation.num_samples": 40_500}  # 6 rounds of 2,000 samples on each of 4 devices


def small_config(**overrides):
    """The digits with few steps; dotted names are fields to override."""
    config = digits.get_config()
    for network in ("encoder", "decoder", "discriminator"):
        config.model[f"{network}_hidden"] = (16, 16)
    config.train.num_steps = STEPS
    config.train.batch_size = 20
    config.parallel.num_devices = 4
    config.run.steps_per_dispatch = 4
    config.run.checkpoint_every = 10
    config.evaluation.num_samples = 200
    with config.unlocked():
        for name, value in overrides.items():
            *sections, field = name.split(".")
            section = config
            for part in sections:
                section = section[part]
            section[field] = value
    return config


def finetuning_config(start_from, **overrides):
    """A second stage, as in `experiments/mnist.py:smooth`: only the decoder is trained."""
    fields = {
        "algorithm": "decoder_finetuning",
        "start_from": start_from,
        "options.code_noise": 0.5,
        "parallel.num_devices": 1,
        "run.checkpoint_every": 4,
        "seed": 3,
        "train.num_steps": 8,
    }
    return small_config(**{**fields, **overrides})


def write_part(directory, num_steps=12):
    """A config file to start from, with an argument; its path."""
    path = directory / "part.py"
    path.write_text(
        "from runs import small_config\n\n\n"
        "def get_config(noise='0.1'):\n"
        "    return small_config(**{\n"
        "        'data.num_labelled': 100, 'parallel.num_devices': 2, 'run.checkpoint_every': 4,\n"
        "        'prior.std': 4.0, 'train.ema_decay': 0.9, 'train.input_noise': float(noise),\n"
        f"        'train.num_steps': {num_steps},\n"
        "    })\n"
    )
    return path


def metrics(workdir):
    """Lines of metrics.jsonl without their times."""
    with open(os.path.join(workdir, "metrics.jsonl")) as file:
        lines = [json.loads(line) for line in file]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def results(workdir):
    """results.json without its times."""
    with open(os.path.join(workdir, "results.json")) as file:
        loaded = json.load(file)
    return {name: value for name, value in loaded.items() if "seconds" not in name}


def final_arrays(workdir):
    """The arrays of the newest checkpoint by path, read without the package."""
    manager = ocp.CheckpointManager(os.path.abspath(os.path.join(workdir, "checkpoints")))
    arrays = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())
    manager.close()
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(arrays)}


def assert_same_arrays(workdir, expected):
    """Bit-identical checkpoints."""
    arrays, wanted = final_arrays(workdir), final_arrays(expected)
    assert arrays.keys() == wanted.keys()
    for name, leaf in arrays.items():
        np.testing.assert_array_equal(leaf, wanted[name], err_msg=name)


def assert_same_training(workdir, expected):
    """Bit-identical checkpoints and metrics."""
    assert_same_arrays(workdir, expected)
    assert metrics(workdir) == metrics(expected)


def assert_close(found, expected, tolerance):
    """Compares nested results or lists of metrics: numbers to a tolerance, the rest exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_close(found[name], expected[name], tolerance)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_close(*pair, tolerance)
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    else:
        assert found == expected


class Killed(BaseException):
    """Simulates a process that ends without saving."""


def interrupt(monkeypatch, at_write, how):
    """Replaces the n-th write of metrics by a signal, or by a death before the write."""
    original = records.MetricsLog.write
    count = 0

    def write(self, *arguments):
        nonlocal count
        count += 1
        if count == at_write:
            if how is Killed:
                raise Killed
            signal.raise_signal(how)
        return original(self, *arguments)

    monkeypatch.setattr(records.MetricsLog, "write", write)


def environment(devices=1, **variables):
    """The environment of a child process, with so many virtual devices."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    flags.append(f"--xla_force_host_platform_device_count={devices}")
    return {**os.environ, "XLA_FLAGS": " ".join(flags), **variables}


def command(*arguments):
    """The command `launch.py` with arguments, for any directory."""
    return [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)]


def launch(cwd, *arguments, **variables):
    """Runs launch.py in a directory; the finished process."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(**variables), stdin=subprocess.DEVNULL,
        capture_output=True, text=True,
    )  # fmt: skip
