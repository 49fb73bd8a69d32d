"""Every block of the guides and the tutorial runs unchanged, in order, in one directory.

`python -m aae_jax` runs in this process; tests/test_main.py starts it as a separate process.
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
    """Runs the blocks of a page; returns the names of its Python code at the end."""

    def run_page(page):
        names = {}
        for block in read_blocks(ROOT / "docs" / page):
            if block.module:
                pathlib.Path(block.module).write_text(block.text)
            elif block.language == "python":
                names |= run_python(block, None)
            elif block.language in ("console", "text"):
                continue  # the install, and blocks that are only shown
            else:
                assert block.language == "sh"
                for line in block.text.splitlines():
                    if line.startswith("python -m aae_jax "):
                        assert command.main(shlex.split(line)[2:]) == 0
                    else:
                        run_shell(block._replace(text=line), None)
        return names

    return run_page


@pytest.mark.slow
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


@pytest.mark.slow
def test_likelihood(run_page):
    """The line through the box: its integral over a grid of codes, in float64 NumPy."""
    names = run_page("likelihood.md")
    side = np.linspace(-6, 6, 601)
    z = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    x_hat = np.asarray(names["my_decoder"](z), np.float64)
    log_prior = -0.5 * (z**2).sum(axis=1) - np.log(2 * np.pi)
    for x, log_likelihood in zip(np.asarray(names["x"]), np.asarray(names["found"][0])):
        log_noise = -0.5 * (((x - x_hat) / 0.1) ** 2 + np.log(2 * np.pi * 0.1**2)).sum(axis=1)
        total = np.logaddexp.reduce(log_prior + log_noise) + 2 * np.log(side[1] - side[0])
        assert log_likelihood == pytest.approx(total, abs=0.3)
    assert names["draws"].shape == (5, 16, 2)
    assert names["of_model"].log_likelihood.shape == (8,)


@pytest.mark.slow
def test_using(run_page):
    names = run_page("using.md")
    state = aae.load_state("runs/digits")
    z = aae.encode(state, names["images"])
    np.testing.assert_allclose(names["z"], z, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(names["x_hat"], aae.decode(state, z), rtol=1e-5, atol=1e-5)
    assert {"codes.npz", "images.npz", "samples.npy", "scores.npz"} <= set(os.listdir())


@pytest.mark.slow
def test_tutorial(run_page):
    names = run_page("tutorial.md")
    assert names["z"].shape == (250, 6) and names["samples"].shape == (64, 8, 8, 1)
    assert names["last"] < names["first"] / 2 and 0.7 < names["code_std"] < 1.4
    assert names["more_samples"].shape == (4, 8, 8, 1)
    # The page says 23, 19 and 30 nats; std over seeds is 1. No training is part of the last.
    assert 19 < names["squared_error"] < 27 and 15 < names["absolute"] < 23
    assert names["training_images"] == pytest.approx(30.15, abs=0.02)


@pytest.mark.slow
def test_folder(run_page):
    names = run_page("folder.md")
    assert names["samples"].shape == (16, 64, 64, 3) and names["z"].shape == (16, 8)
    assert names["state"].spec.model.encoder.__module__ == "my_conv"


@pytest.mark.slow
def test_few_labels(run_page):
    """30 labels of 480 training images are enough to tell red, green and blue squares apart."""
    names = run_page("few_labels.md")
    np.testing.assert_array_equal(np.asarray(names["p"]).argmax(axis=1), 2)  # blue, green, red
    inside = np.asarray(names["green"])[:, 2:6, 2:6].mean(axis=(0, 1, 2))
    assert inside.argmax() == 1
    inside = np.asarray(names["new"])[:, 2:6, 2:6].mean(axis=(0, 1, 2))
    assert inside.argmax() == 0
    with np.load("classes.npz") as stored:
        labelled = stored["labels"] >= 0
        chosen = stored["classes"].argmax(axis=1)
        np.testing.assert_array_equal(chosen[labelled], stored["labels"][labelled])
