"""Whole runs with examples other than images: tables of any range, with conditions."""

import os
import signal

import jax
import numpy as np
import pytest
from reference import parzen_window
from runs import assert_close, assert_same_training, final_arrays, interrupt, results, small_config

import aae_jax as aae
from aae_jax import data, experiment, parallel
from aae_jax.config import parse_config
from tests.small import refused


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """An .npz of 300 examples with 6 numbers near 1,000, shifted by two conditions."""
    random = np.random.default_rng(0)
    conditions = random.normal(size=(300, 2)).astype(np.float32)
    weights = np.float32([[900, 0, -500, 200, 0, 0], [0, 700, 300, 0, -800, 0]])
    examples = 5_000 + conditions @ weights + 50 * random.normal(size=(300, 6)).astype(np.float32)
    path = tmp_path_factory.mktemp("table") / "table.npz"
    np.savez(path, images=examples.astype(np.float32), conditions=conditions)
    return str(path)


def config(path, **overrides):
    fields = {
        "data.name": "files",
        "data.path": path,
        "data.image_shape": (6,),
        "data.num_classes": 1,
        "data.condition_dim": 2,
        "parallel.num_devices": 1,
        "data.standardise": True,
        "model.output": "linear",
        "model.condition_in_decoder": True,
        "model.condition_in_discriminator": True,
        "evaluation.num_validation": None,
        "evaluation.sigmas": None,
    }
    return small_config(**{**fields, **overrides})


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    """The directory of a whole run."""
    workdir = tmp_path_factory.mktemp("tables") / "run"
    experiment.run(config(table), str(workdir))
    return str(workdir)


def test_a_run_is_scored_in_the_units_of_the_data(trained, table):
    """Compared with the plain formula in float64, for the run's own samples."""
    found = results(trained)
    dataset = data.load(parse_config(config(table)).data)
    valid = dataset.validation["image"].astype(np.float64)
    std = np.sqrt(valid.var(axis=0).mean())
    np.testing.assert_allclose(found["parzen/sigmas"], std * np.geomspace(0.03, 3, 20), rtol=1e-6)
    assert found["parzen/sigma"] in found["parzen/sigmas"]
    sampler = aae.sampler(aae.load_state(trained), conditions=dataset.train["condition"])
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), 0)
    samples = np.asarray(sampler(key, 1_000))[:200]
    assert 3_000 < samples.mean() < 7_000
    expected = parzen_window(dataset.test["image"], samples, found["parzen/sigma"]).mean()
    np.testing.assert_allclose(found["parzen/log_likelihood"], expected, atol=0.01)
    assert "nan" not in str(found).lower()


def test_any_number_of_devices_scores_the_same_samples(trained, table):
    dataset = data.load(parse_config(config(table)).data)
    mesh = parallel.make_mesh(jax.devices()[:4])
    state, conditions = aae.load_state(trained), dataset.train["condition"]
    spec = aae.EvaluationSpec(num_samples=5_000, num_validation=None, sigmas=(300.0, 600.0))
    alone = aae.evaluate(aae.sampler(state, conditions=conditions), dataset.folds, spec, 0)
    spread = jax.device_put(state, parallel.replicated(mesh))
    sampler = aae.sampler(spread, conditions=parallel.replicate(conditions, mesh))
    together = aae.evaluate(sampler, dataset.folds, spec, 0, mesh)
    assert_close(together, alone, 1e-4)


def test_pictures_that_need_images_are_left_out(trained):
    names = ["code_marginals.png", "training_curves.png"]
    assert sorted(os.listdir(os.path.join(trained, "figures"))) == names


@pytest.mark.slow
def test_a_cut_and_a_streamed_run_end_as_the_whole_one(trained, table, tmp_path, monkeypatch):
    for name, fields in (("cut", {}), ("streamed", {"run.stream": True})):
        workdir = str(tmp_path / name)
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            interrupt(patch, 4, signal.SIGTERM)
            experiment.run(config(table, **fields), workdir, "train")
        experiment.run(config(table, **fields), workdir, "train")
    assert_same_training(str(tmp_path / "cut"), trained)
    # Without LLVM's optimiser, as tests compile, the two programs round differently.
    streamed, whole = (final_arrays(run) for run in (tmp_path / "streamed", trained))
    for path, leaf in whole.items():
        np.testing.assert_allclose(streamed[path], leaf, rtol=1e-3, atol=1e-5, err_msg=path)


@pytest.mark.slow
def test_several_seeds_share_their_conditions(trained, table, tmp_path):
    workdir = str(tmp_path / "seeds")
    experiment.run(config(table, num_seeds=2), workdir)
    alone, both = final_arrays(trained), final_arrays(workdir)
    name = "['params']['decoder']['Dense_0']['kernel']"
    assert both[name].shape == (2, *alone[name].shape)
    # Two programs of the same 30 steps in float32: Adam amplifies rounding.
    np.testing.assert_allclose(both[name][0], alone[name], atol=1e-3)
    assert len(results(workdir)["by_seed"]) == 2


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"data.standardise": False}, "floats must lie in .*data.standardise=True"),
        ({"data.condition_dim": 3}, r"conditions is \(300, 2\).*\(300, 3\)"),
        ({"data.condition_dim": 0}, "condition_dim is 0, model.condition_in_decoder True"),
        ({"data.image_shape": (5,)}, r"data.image_shape=\(6,\)"),
        ({"model.encoder": "conv"}, r"'conv'.*\(6,\).*use 'mlp'"),
        ({"algorithm": "gan", "model.code_dim": 3}, "takes no conditions"),
    ],
    ids=str,
)
def test_mistakes_are_one_line_and_leave_nothing(table, tmp_path, fields, match):
    workdir = tmp_path / "run"
    with refused(match):
        experiment.run(config(table, **fields), str(workdir))
    assert not workdir.exists()
