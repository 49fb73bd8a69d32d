"""Guides of docs/ and the tutorial: every block runs as it stands, in order, in one directory.

`python -m aae_jax` runs in this process; tests/test_main.py starts it as a process of its own.
"""

import os
import pathlib
import shlex

import numpy as np
import pytest
from conftest import ROOT
from test_extending import directory, read_blocks, run_python, run_shell

import aae_jax as aae
from aae_jax import __main__ as command

assert directory  # a fixture


@pytest.fixture
def run_page(directory):
    """Runs the blocks of a page; the names that its Python has at the end."""

    def run_page(page):
        names = {}
        for block in read_blocks(ROOT / "docs" / page):
            if block.module:
                pathlib.Path(block.module).write_text(block.text)
            elif block.language == "python":
                names |= run_python(block, None)
            elif block.language in ("console", "text"):
                continue  # set-up that the tests have behind them, and what is only shown
            else:
                assert block.language == "sh"
                for line in block.text.splitlines():
                    if line.startswith("python -m aae_jax "):
                        assert command.main(shlex.split(line)[2:]) == 0
                    else:
                        run_shell(block._replace(text=line), None)
        return names

    return run_page


def test_novelty(run_page):
    names = run_page("novelty.md")
    normal, parts, dataset = (names[name] for name in ("normal", "parts", "dataset"))
    # The standardised sum again, in NumPy.
    total, of_normal = (
        sum(
            (np.asarray(value, np.float64) - known.mean()) / known.std()
            for value, known in (
                (scores.reconstruction, np.asarray(normal.reconstruction, np.float64)),
                (scores.code, np.asarray(normal.code, np.float64)),
            )
        )
        for scores in (parts, normal)
    )
    np.testing.assert_allclose(names["both"](parts), total, rtol=1e-3, atol=1e-3)
    is_zero = dataset.test["label"] == 0
    assert names["found"] == pytest.approx(
        (total > np.quantile(of_normal, 0.95))[is_zero].mean(), abs=2 / is_zero.sum()
    )
    assert sorted(np.load("scores.npz").files) == ["by_pixel", "code", "labels", "reconstruction"]


def test_using(run_page):
    names = run_page("using.md")
    state = aae.load_state("runs/digits")
    z = aae.encode(state, names["images"])
    np.testing.assert_allclose(names["z"], z, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(names["x_hat"], aae.decode(state, z), rtol=1e-5, atol=1e-5)
    assert {"codes.npz", "images.npz", "samples.npy", "scores.npz"} <= set(os.listdir())


def test_tutorial(run_page):
    names = run_page("tutorial.md")
    assert names["z"].shape == (250, 6) and names["samples"].shape == (64, 8, 8, 1)
    assert names["last"] < names["first"] / 5 and 0.7 < names["code_std"] < 1.4
    assert names["more_samples"].shape == (4, 8, 8, 1)
    # The page says 27, 24 and 30 nats; std over seeds is 1. No training is part of the last.
    assert 23 < names["squared_error"] < 30 and 19 < names["absolute"] < 28
    assert names["training_images"] == pytest.approx(30.15, abs=0.02)


def test_folder(run_page):
    names = run_page("folder.md")
    assert names["samples"].shape == (16, 64, 64, 3) and names["z"].shape == (16, 8)
    assert names["state"].spec.model.encoder.__module__ == "my_conv"
