"""Every block of docs/extending.md runs unchanged, in order, in one directory."""

import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import ROOT
from runs import environment, metrics
from small import make_spec, partly_labelled, start, train_compiled_fast

import aae_jax as aae
from aae_jax import figures, parallel

PAGE = ROOT / "docs" / "extending.md"


class Block(NamedTuple):
    """One fenced block."""

    language: str
    line: int  # of its fence in the page
    text: str

    @property
    def module(self):
        """The file name of a block of Python that is saved; None: the block is run."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found[1] if found and self.language == "python" else None


def read_blocks(path=PAGE):
    page = path.read_text()
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [Block(f[1], page[: f.start()].count("\n") + 1, f[2]) for f in found]


BLOCKS = read_blocks()


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A directory with a clone's files for users, as the working directory and on sys.path."""
    shutil.copy(ROOT / "launch.py", tmp_path)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def write_modules():
    for block in BLOCKS:
        if block.module:
            pathlib.Path(block.module).write_text(block.text)


def run_shell(block, expected):
    """Runs a block; `expected` is the output of a command that must fail."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # "python"
    done = subprocess.run(
        ["sh", "-ec", block.text],
        env=environment(PATH=path), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    where = f"{PAGE.name}, line {block.line}: {done.stdout}{done.stderr}"
    if expected is None:
        assert done.returncode == 0 and done.stderr == "", where
    else:
        assert done.returncode == 2 and done.stdout == "", where
        assert done.stderr == expected, where
    return done.stdout


def run_python(block, expected):
    """Runs a block by itself; all numbers that it assigns are finite."""
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.text, f"{PAGE.name}:{block.line}", "exec"), names)
    if expected is not None:
        assert printed.getvalue() == expected
    for name, value in names.items():
        if isinstance(value, (jax.Array, np.ndarray)) and jnp.issubdtype(value.dtype, jnp.floating):
            assert np.isfinite(value).all(), name
    return names


@pytest.mark.slow
def test_every_block_runs_as_it_stands(directory):
    said, names, trained_once = [], {}, None
    for block, after in zip(BLOCKS, [*BLOCKS[1:], Block("", 0, "")]):
        expected = after.text if after.language == "text" else None
        if block.module:
            pathlib.Path(block.module).write_text(block.text)
        elif block.language == "python":
            names |= run_python(block, expected)
        elif block.language == "sh":
            if "rm -r runs/wae" in block.text:
                trained_once = metrics("runs/wae")
            said.append(run_shell(block, expected))
        else:
            assert block.language == "text", block

    workdirs = set(re.findall(r"--workdir=(\S+)", PAGE.read_text())) - {"runs/wae-pmap"}
    assert workdirs == {f"runs/{name}" for name in os.listdir("runs")}  # a refused run leaves none
    for workdir in workdirs:
        lines = metrics(workdir)
        assert [line["step"] for line in lines] == [10, 20], workdir
        assert all(np.isfinite(value) for line in lines for value in line.values()), workdir
        assert os.path.isdir(f"{workdir}/checkpoints/20")
    assert any("resuming from step 10" in output for output in said)
    assert metrics("runs/wae") == trained_once

    results = json.loads(pathlib.Path("runs/wae/results.json").read_text())
    assert results["steps"] == 20 and results["parzen/num_samples"] == 200
    for name in ("parzen/log_likelihood", "parzen/standard_error", "prior/sliced_wasserstein"):
        assert np.isfinite(results[name])
    spec = aae.load_state("runs/wae").spec
    assert spec.options.mmd_weight == 20 and dict(spec.optimizer)["wae"].learning_rate == 2e-3
    assert set(os.listdir("runs/wae/figures")) == set(figures.drawings(spec))
    assert "code_lengths.png" in os.listdir("runs/wae/figures")
    scores = [names[of]["parzen/log_likelihood"] for of in ("of_wae", "of_gaussian")]
    assert scores[0] < scores[1] < names["of_training_images"]["parzen/log_likelihood"]


def test_its_formulas_are_right(directory):
    write_modules()
    import my_posteriors
    import my_priors
    import my_wae

    rng = np.random.default_rng(0)
    z, prior_z = rng.normal(size=(2, 7, 3))
    c = 2 * prior_z.var(axis=0).sum()
    pairs = [(i, j) for i in range(7) for j in range(7)]

    def kernel(a, b):
        return c / (c + np.sum((a - b) ** 2))

    own = sum(kernel(z[i], z[j]) + kernel(prior_z[i], prior_z[j]) for i, j in pairs if i != j)
    across = sum(kernel(z[i], prior_z[j]) for i, j in pairs)
    expected = own / (7 * 6) - 2 * across / 7**2  # Tolstikhin et al. 2018, Algorithm 2
    np.testing.assert_allclose(my_wae.mmd_squared(z, prior_z), expected, rtol=1e-5)

    spec = aae.Spec(
        (8, 8, 1),
        model=aae.ModelSpec(posterior=my_posteriors.LAPLACE, code_dim=3),
        prior=aae.PriorSpec(name=my_priors.LOGISTIC, std=0.7),
    )
    logistic = scipy.stats.logistic(scale=0.7)
    log_prob = spec.prior.distribution.log_prob(spec, jnp.asarray(z))
    np.testing.assert_allclose(log_prob, logistic.logpdf(z).sum(axis=1), rtol=1e-5)
    drawn = aae.sample_prior(spec, jax.random.key(0), 3_000).z
    assert scipy.stats.kstest(np.ravel(drawn), logistic.cdf).pvalue > 1e-3

    def encoder(x, eta):
        return jnp.tile(jnp.array([1.0, 2.0, 3.0, -1.0, 0.0, 1.0]), (len(x), 1))

    x, keys = jnp.zeros((3_000, 8, 8, 1)), jax.random.split(jax.random.key(1), 3_000)
    sample = spec.model.posterior.sample
    np.testing.assert_array_equal(sample(spec, encoder, x, None)[0], [1.0, 2.0, 3.0])
    codes = np.asarray(sample(spec, encoder, x, keys))
    for dimension in range(3):
        laplace = scipy.stats.laplace(loc=dimension + 1, scale=np.exp(dimension - 1))
        assert scipy.stats.kstest(codes[:, dimension], laplace.cdf).pvalue > 1e-3

    z = np.asarray(my_priors.ring(jax.random.key(2), 1_000, jnp.arange(1_000) % 10))
    tenth = np.mod(np.arctan2(z[:, 1], z[:, 0]), 2 * np.pi) // (2 * np.pi / 10)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(tenth, np.arange(1_000) % 10)


def test_the_wasserstein_autoencoder_is_the_same_on_eight_devices(directory, x64):
    write_modules()
    import my_wae

    dataset, mesh = partly_labelled(), parallel.make_mesh()
    assert mesh.size == 8
    state = start(make_spec("float64", algorithm=my_wae.WAE))
    expected = train_compiled_fast(state, dataset, 20)
    whole = parallel.replicate(dataset, mesh)
    state = jax.device_put(state, parallel.replicated(mesh))
    sharding = parallel.batch_sharding(mesh)
    found = train_compiled_fast(state, whole, 20, batch_sharding=sharding)
    # (state, metrics); in float64, because Adam amplifies rounding.
    assert found[1]["loss/wae"].dtype == np.float64
    chex.assert_trees_all_close(found[0].params, expected[0].params, rtol=0, atol=1e-9)
    chex.assert_trees_all_close(found[1], expected[1], rtol=0, atol=1e-9)
