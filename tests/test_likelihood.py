"""A trained model scored by its annealed likelihood: σ, results of a run, cuts, one-line errors."""

import functools
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from runs import Killed, results, small_config
from small import make_spec, refused, start

import aae_jax as aae
from aae_jax import experiment, likelihood
from aae_jax.settings import AnnealedScoring
from aae_jax.workdir import records, scoring

PIXELS = 64
SHORT = {
    "evaluation.annealed.num_images": 7,
    "evaluation.annealed.num_validation": 5,
    "evaluation.annealed.num_chains": 3,
    "evaluation.annealed.num_temperatures": 6,
    "evaluation.annealed.num_leapfrog": 2,
    "evaluation.annealed.block_size": 2,
}


@pytest.fixture(scope="module")
def linear():
    """A state whose decoder is linear, images f[N, 8, 8, 1] of it, and their covariance without noise."""
    spec = make_spec(
        model={"decoder_hidden": (), "output": "linear"}, prior={"std": 1.0}, image_shape=(8, 8, 1)
    )
    state = start(spec)
    rng = np.random.default_rng(0)
    weight, bias = 0.05 * rng.normal(size=(2, PIXELS)), np.full(PIXELS, 0.5)
    layer = {"kernel": jnp.asarray(weight, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    state = state.replace(params={**state.params, "decoder": {"Dense_0": layer}})
    images = bias + rng.normal(size=(40, 2)) @ weight + 0.04 * rng.normal(size=(40, PIXELS))
    return state, np.float32(images.reshape(-1, 8, 8, 1)), weight.T @ weight


def tolerance(found):
    """For a mean over images: four standard errors over chains, plus the bias of a log."""
    spread = found["annealed/spread"]
    return 4 * spread / np.sqrt(found["annealed/num_images"]) + spread**2 / 2


def closed_form(images, covariance, sigma):
    """log p(x) of each image: probabilistic PCA, float64."""
    total = covariance + sigma**2 * np.eye(PIXELS)
    return scipy.stats.multivariate_normal(np.full(PIXELS, 0.5), total).logpdf(
        np.float64(images.reshape(-1, PIXELS))
    )


def test_sigma_and_score_equal_the_closed_form(linear):
    state, images, covariance = linear
    validation, test = images[:20], images[20:]
    best = scipy.optimize.minimize_scalar(
        lambda sigma: -closed_form(validation, covariance, sigma).mean(), bounds=(0.01, 0.5)
    ).x
    spec = AnnealedScoring(num_images=15, num_validation=20, num_temperatures=100, block_size=20)
    folds = [({"image": validation}, {"image": test})]
    found = likelihood.score_annealed(state, folds, spec, jax.random.key(0), 0.2)
    # The search ends where σ changes by 1 %; the rest is the draws' own spread: 20 images of 64
    # numbers tell σ to 1 / √(2 · 20 · 64), and draws add no more than that.
    assert abs(found["annealed/sigma"] / best - 1) < 0.01 + 1 / np.sqrt(2 * 20 * PIXELS)
    truth = closed_form(test[:15], covariance, found["annealed/sigma"])
    assert abs(found["annealed/log_likelihood"] - truth.mean()) < tolerance(found)
    spread = truth.std() / np.sqrt(15)
    np.testing.assert_allclose(found["annealed/standard_error"], spread, rtol=0.05)
    assert found["annealed/num_images"] == 15
    given = AnnealedScoring(num_images=15, num_temperatures=100, sigma=0.1, block_size=20)
    found = likelihood.score_annealed(state, folds, given, jax.random.key(0), 0.2)
    assert found["annealed/sigma"] == 0.1
    truth = closed_form(test[:15], covariance, 0.1).mean()
    assert abs(found["annealed/log_likelihood"] - truth) < tolerance(found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that is only trained, and one that is also scored without interruption."""
    workdir = str(tmp_path_factory.mktemp("trained") / "run")
    experiment.run(small_config(), workdir, "train")
    scored = shutil.copytree(workdir, tmp_path_factory.mktemp("scored") / "run")
    experiment.run(small_config(**SHORT), str(scored), "evaluate")
    return workdir, results(scored)


def test_a_run_has_the_score_of_its_state(trained):
    workdir, expected = trained
    found = {name: value for name, value in expected.items() if name.startswith("annealed/")}
    assert found["annealed/num_images"] == 7 and 0 < found["annealed/sigma"] < 1
    assert found["annealed/log_likelihood"] > expected["parzen/log_likelihood"] - 50
    assert expected["evaluation"]["annealed"]["num_temperatures"] == 6
    # σ is the search's, and images are scored by it: the same numbers by the library's function.
    settings = aae.config.parse_config(small_config(**SHORT))
    dataset = aae.data.load(settings.data)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(settings.seed), 1), 0)
    again = likelihood.score_annealed(
        aae.load_state(workdir),
        dataset.folds,
        settings.evaluation.annealed,
        key,
        expected["parzen/sigma"],
    )
    for name, value in found.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-3)


def test_what_fails_in_it_does_not_lose_the_parzen_window(trained, tmp_path, monkeypatch):
    workdir, expected = trained
    workdir = str(shutil.copytree(workdir, tmp_path / "run"))

    def fail(*arguments):
        raise aae.UserError("decoder or prior returns NaN")

    monkeypatch.setattr(likelihood, "score_annealed", fail)
    with refused("returns NaN"):
        experiment.run(small_config(**SHORT), workdir, "evaluate")
    kept = results(workdir)
    assert kept["parzen/log_likelihood"] == expected["parzen/log_likelihood"]
    assert "evaluation" not in kept  # it does not pass for whole


def test_what_is_not_asked_for_is_no_part_of_the_protocol():
    settings = [
        aae.config.parse_config(small_config(**{"evaluation.annealed.num_chains": number}))
        for number in (3, 4)
    ]
    fields = [scoring._evaluation_fields(one) for one in settings]
    assert fields[0] == fields[1] and "annealed" not in fields[0]


def test_no_validation_images_are_needed_where_sigma_is_given():
    overrides = {**SHORT, "evaluation.annealed.num_validation": 10**6}
    settings = aae.config.parse_config(small_config(**overrides))
    dataset = aae.data.load(settings.data)
    with refused("num_validation is 1000000"):
        experiment._check_hold_out(settings, dataset)
    overrides["evaluation.annealed.sigma"] = 0.1
    experiment._check_hold_out(aae.config.parse_config(small_config(**overrides)), dataset)


@pytest.mark.parametrize("how", [Killed, signal.SIGTERM])
def test_a_cut_scoring_goes_on_bit_identical(trained, tmp_path, monkeypatch, capsys, how):
    """Blocks of 2 images: 3 for each round of σ, then 4."""
    workdir, expected = trained
    workdir = str(shutil.copytree(workdir, tmp_path / "run"))
    monkeypatch.setattr(scoring, "_DISPATCH_SECONDS", 0.0)
    monkeypatch.setattr(scoring, "_SAVE_SECONDS", -1.0)
    blocks, original = [], aae.annealed.blocks

    def counted(stop_at, *args, **kwargs):
        work = original(*args, **kwargs)

        def run(index):
            if len(blocks) == stop_at:
                if how is Killed:
                    raise Killed
                signal.raise_signal(how)
            blocks.append(index)
            return work.run(index)

        return work._replace(run=run)

    with monkeypatch.context() as patch:
        patch.setattr(aae.annealed, "blocks", functools.partial(counted, 5))
        with pytest.raises((Killed, SystemExit)):
            experiment.run(small_config(**SHORT), workdir, "evaluate")
    first = len(blocks)
    with monkeypatch.context() as patch:
        patch.setattr(aae.annealed, "blocks", functools.partial(counted, -1))
        experiment.run(small_config(**SHORT), workdir, "evaluate")
    assert results(workdir) == expected
    assert not os.path.exists(records.partial_directory(workdir))
    # Blocks that were saved are not run again.
    rounds = (len(blocks) - 4) // 3
    assert blocks == [0, 1, 2] * rounds + [0, 1, 2, 3]
    assert first == (5 if how is Killed else 6)
    if how is not Killed:
        assert "fitting σ, round 2: resuming from image" in capsys.readouterr().out


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"evaluation.annealed.num_images": 0}, r"^evaluation.annealed.num_images is 0: "),
        ({"evaluation.annealed.num_images": 10**6}, r"num_images is 1000000: .* only \d+ test"),
        (
            {**SHORT, "evaluation.annealed.num_validation": 10**6},
            r"annealed.num_validation is 1000000: .* only \d+ validation",
        ),
        ({"evaluation.annealed.sigma": -0.1}, r"^evaluation.annealed.sigma is -0.1: "),
        ({"evaluation.annealed.num_chains": 0}, r"^evaluation.annealed.num_chains is 0: "),
        ({"evaluation.annealed.num_temperatures": 0}, r"annealed.num_temperatures is 0: "),
        ({"evaluation.annealed.chains": 3}, r"^evaluation.annealed.chains is not a field; "),
        (
            {**SHORT, "algorithm": "rbm", "train.input_noise": 0.0},
            r"num_images is 7: algorithm 'rbm' has no decoder",
        ),
        (
            {**SHORT, "prior.name": "swiss_roll", "model.code_dim": 2},
            r"num_images is 7: prior 'swiss_roll' has no density",
        ),
        (
            {**SHORT, "model.label_in_decoder": True},
            r"num_images is 7, and the decoder takes a label: score p\(x \| label\)",
        ),
    ],
)
def test_bad_fields_are_one_line_before_anything_is_trained(tmp_path, overrides, message):
    with refused(message):
        experiment.run(small_config(**overrides), str(tmp_path / "run"))
    assert not os.path.exists(tmp_path / "run")
