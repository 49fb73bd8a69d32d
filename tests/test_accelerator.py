"""`python -m benchmarks.accelerator`, small: every section prints its tables."""

import gzip
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from runs import ROOT

from aae_jax.config import parse_config
from benchmarks import inputs
from benchmarks.accelerator import models
from experiments import mnist

TABLES = {
    "checks": ["3 training steps", "4 steps in one call", "Errors of log-likelihoods"],
    "steps": ["What the card does", "A training step by `train_steps`"],
    "waiting": ["4 steps, batch 100", "Memory, MB"],
    "torch": ["A training step in PyTorch"],
    "parzen": [
        "Products alone",
        "Errors of log-likelihoods",
        "100 points × 2,000 stored samples",
        "100 points, samples drawn",
        "Time of one as a share",
        "Samples that are too far left out",
    ],
    "time_to_340": ["`experiments/mnist.py`, then `:smooth`"],
}


def accelerator(*arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.accelerator", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )


@pytest.mark.slow
def test_every_section_prints_its_tables():
    done = accelerator("--small")
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout, done.stdout
    head, *sections = re.split(r"^## (\w+)$", done.stdout, flags=re.MULTILINE)
    assert "| jaxlib |" in head and "| driver |" in head
    found = dict(zip(sections[::2], sections[1::2], strict=True))
    assert list(found) == list(TABLES)
    for name, titles in TABLES.items():
        # A title, the columns, a rule, and at least one row.
        tables = re.findall(r"^([^|\n].*)\n\n\|.*\|\n\|[-|]+\|\n\|.*\|$", found[name], re.MULTILINE)
        assert len(tables) == len(titles)
        for table, title in zip(tables, titles):
            assert table.startswith(title)


def test_a_section_that_stops_lets_the_others_go_on(tmp_path):
    done = accelerator("--small", "--sections=waiting,torch", f"--mnist_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "failed" in line]
    assert len(said) == 1 and said[0].startswith("section waiting failed: FileNotFoundError")
    assert "A training step in PyTorch" in done.stdout


def test_no_section_begins_late():
    done = accelerator("--small", "--sections=waiting,steps", "--seconds=0")
    assert done.returncode == 0, done.stderr
    left_out = [line for line in done.stdout.splitlines() if "left out: 0 s are over" in line]
    assert len(left_out) == 2 and "|---|" in done.stdout and "steps/s" not in done.stdout


def test_sections_are_checked():
    done = accelerator("--sections=step")
    assert done.returncode == 2 and done.stdout == ""
    assert "'step': there are checks, steps" in done.stderr


@pytest.mark.parametrize(
    "variant, spec",
    [("deterministic", models.aae_spec()), ("smooth", models.smooth_spec())],
)
def test_models_are_those_of_the_config(variant, spec):
    """They are written separately, since the command does not need ml_collections."""
    settings = parse_config(mnist.get_config(variant))
    assert spec == settings.spec
    assert models.SIGMAS == settings.evaluation.sigmas


def test_original_files_are_split_as_the_protocol_says(tmp_path):
    for name, num_images in (("train", 50_003), ("t10k", 4)):
        images = np.repeat(np.arange(num_images) % 256, 784).astype(np.uint8)
        for kind, header, values in (
            ("images-idx3", 16, images),
            ("labels-idx1", 8, (np.arange(num_images) % 10).astype(np.uint8)),
        ):
            with gzip.open(tmp_path / f"{name}-{kind}-ubyte.gz", "wb", compresslevel=1) as file:
                file.write(bytes(header) + values.tobytes())
    found = inputs.original_mnist(str(tmp_path))
    for split, first, size in (
        (found.train, 0, 50_000),
        (found.validation, 50_000, 3),
        (found.test, 0, 4),
    ):
        numbers = np.arange(first, first + size)
        assert split["image"].shape == (size, 28, 28, 1) and split["image"].dtype == np.uint8
        np.testing.assert_array_equal(split["image"][:, 3, 5, 0], numbers % 256)
        np.testing.assert_array_equal(split["label"], numbers % 10)
