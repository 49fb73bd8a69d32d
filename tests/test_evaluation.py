"""The protocol of Table 1 against float64 NumPy."""

import jax
import numpy as np
import pytest
from small import make_dataset, make_spec
from test_parzen import reference

import aae_jax as aae
from aae_jax import evaluation, parzen


def test_protocol():
    state = aae.create_train_state(make_spec(), jax.random.key(0))
    valid_split = {name: np.asarray(v) for name, v in make_dataset(30, seed=1).items()}
    validation = valid_split["image"]
    hold_out = {name: np.asarray(v) for name, v in make_dataset(40, seed=2).items()}
    test = hold_out["image"]
    sigmas = (0.1, 0.2, 0.3, 0.5, 0.9)
    spec = aae.EvaluationSpec(num_samples=1_500, num_validation=25, sigmas=sigmas)
    key = jax.random.key(7)
    found = evaluation.evaluate(state, [(valid_split, hold_out)], spec, key)

    samples = np.concatenate(
        [np.asarray(aae.generate(state, jax.random.fold_in(key, i), 1_000)) for i in range(2)]
    ).reshape(2_000, -1)[:1_500]
    valid = validation.reshape(30, -1)[:25] / 255  # the first 25, and not one more
    means = [reference(valid, samples, sigma).mean() for sigma in sigmas]
    best = sigmas[int(np.argmax(means))]
    scores = reference(test.reshape(40, -1) / 255, samples, best)
    assert found["parzen/sigma"] == best
    np.testing.assert_allclose(found["parzen/validation_log_likelihood"], max(means), atol=0.01)
    np.testing.assert_allclose(found["parzen/log_likelihood"], scores.mean(), atol=0.01)
    np.testing.assert_allclose(
        found["parzen/standard_error"], scores.std() / np.sqrt(40), atol=0.01
    )
    x = test.reshape(40, -1) / 255
    x_hat = np.asarray(aae.reconstruct(state, test), np.float64).reshape(40, -1)
    np.testing.assert_allclose(
        found["reconstruction/squared_error"], ((x - x_hat) ** 2).sum(axis=1).mean(), rtol=1e-4
    )
    np.testing.assert_allclose(found["code/std"], np.std(aae.encode(state, test)), rtol=1e-5)


def test_edge_of_the_grid_is_noticed():
    state = aae.create_train_state(make_spec(), jax.random.key(0))
    hold_out = {name: np.asarray(v) for name, v in make_dataset().items()}
    for sigmas, edge in (((2.0, 3.0), True), ((1e-3, 1e-2), True), ((0.01, 0.4, 5.0), False)):
        spec = aae.EvaluationSpec(num_samples=100, num_validation=20, sigmas=sigmas)
        found = evaluation.evaluate(state, [(hold_out, hold_out)], spec, jax.random.key(0))
        assert found["parzen/sigma_on_grid_edge"] is edge


def test_folds_each_with_its_own_sigma_and_all_with_one():
    state = aae.create_train_state(make_spec(), jax.random.key(0))
    key, sigmas = jax.random.key(7), (0.25, 0.3, 0.35, 0.4, 0.45)
    folds = []
    for i, (num_validation, num_test) in enumerate([(7, 11), (5, 9), (6, 30)]):
        images = make_dataset(num_validation + num_test, seed=i)
        # Folds of different contrast, so that they differ in the σ that suits them.
        split = {"image": np.asarray(images["image"]) // (2 * i + 1), "label": images["label"]}
        split = {name: np.asarray(values) for name, values in split.items()}
        folds.append(
            tuple(
                {name: values[rows] for name, values in split.items()}
                for rows in (slice(num_validation), slice(num_validation, None))
            )
        )
    spec = aae.EvaluationSpec(num_samples=500, num_validation=None, sigmas=sigmas)
    found = evaluation.evaluate(state, folds, spec, key)

    samples = np.asarray(aae.generate(state, jax.random.fold_in(key, 0), 1_000))[:500]
    samples = samples.reshape(500, -1)

    def scores(split, sigma):
        return reference(split["image"].reshape(len(split["label"]), -1) / 255, samples, sigma)

    valid = np.array([[scores(v, sigma).mean() for sigma in sigmas] for v, _ in folds])
    own = [sigmas[i] for i in valid.argmax(axis=1)]
    assert len(set(own)) > 1  # else the test shows nothing
    assert [fold["sigma"] for fold in found["parzen/by_fold"]] == own
    means = [scores(t, sigma).mean() for (_, t), sigma in zip(folds, own)]
    errors = [scores(t, s).std() / np.sqrt(len(t["label"])) for (_, t), s in zip(folds, own)]
    for fold, mean, error in zip(found["parzen/by_fold"], means, errors):
        np.testing.assert_allclose(fold["log_likelihood"], mean, atol=0.01)
        np.testing.assert_allclose(fold["standard_error"], error, atol=0.01)
    np.testing.assert_allclose(found["parzen/log_likelihood"], np.mean(means), atol=0.01)
    over_folds = np.sqrt(((means - np.mean(means)) ** 2).sum() / 2) / np.sqrt(3)
    np.testing.assert_allclose(found["parzen/standard_error"], over_folds, atol=0.01)

    shared = sigmas[valid.mean(axis=0).argmax()]
    every = [scores(t, shared) for _, t in folds]
    one = found["parzen/shared_sigma"]
    assert one["sigma"] == shared
    np.testing.assert_allclose(one["log_likelihood"], np.mean([v.mean() for v in every]), atol=0.01)
    pooled = np.concatenate(every)
    np.testing.assert_allclose(
        one["standard_error_over_images"], pooled.std() / np.sqrt(50), atol=0.01
    )


def test_split_products_have_sums_of_their_own(monkeypatch):
    """Saved sums are not gone on with where another machine would add other bits to them."""
    state = aae.create_train_state(make_spec(), jax.random.key(0))
    images, seen = np.asarray(make_dataset(6)["image"]), []

    def run(one_pass):
        seen.append(one_pass.identity)
        return evaluation.at_once(one_pass)

    for fast in (False, True, True):
        monkeypatch.setattr(parzen.running, "_has_fast_bfloat16", lambda: fast)
        arguments = state, images, jax.random.key(7), 10, (0.2, 0.5), "test", None, run
        evaluation.log_likelihoods(*arguments)
    assert seen[0] != seen[1] == seen[2]


def test_devices_and_cuts_change_nothing(split):
    """The pass over the samples may be cut anywhere, and shared by devices."""
    state = aae.create_train_state(make_spec(), jax.random.key(0))
    images = np.asarray(make_dataset(6)["image"])

    def score(mesh, run):
        arguments = state, images, jax.random.key(7), 9_500, (0.2, 0.5), "test", mesh, run
        return evaluation.log_likelihoods(*arguments)

    def in_two(one_pass):
        seen.append(one_pass.identity)
        sums = one_pass.add(one_pass.empty, 0, 1)
        return one_pass.add(sums, 1, one_pass.num_rounds)

    def in_one(one_pass):
        seen.append(one_pass.identity)
        assert one_pass.samples_per_round == 4_000
        return evaluation.at_once(one_pass)

    seen = []
    mesh = aae.make_mesh()
    one, four = (score(m, evaluation.at_once) for m in (None, mesh))
    np.testing.assert_array_equal(score(None, in_two), one)
    np.testing.assert_array_equal(score(mesh, in_two), four)
    np.testing.assert_allclose(one, four, atol=1e-3)
    # Sums of four devices are not those of one.
    assert len(set(seen)) == 2 == len(seen)
    # Nor of two, where both add as many samples in a round.
    for count in (2, 4):
        mesh = aae.make_mesh(jax.devices()[:count])
        arguments = state, images, jax.random.key(7), 4_000, (0.2, 0.5), "test", mesh, in_one
        evaluation.log_likelihoods(*arguments)
    assert len(set(seen)) == 4


def test_sums_that_were_read_whole_end_as_those_that_just_ran():
    """A pass that was saved at its end comes back as host arrays, with no round left to run."""
    state = aae.create_train_state(make_spec(), jax.random.key(0))
    images, sigmas = np.asarray(make_dataset(500)["image"]), tuple(np.linspace(0.1, 1, 20))

    def score(run):
        arguments = state, images, jax.random.key(7), 20_500, sigmas, "test", aae.make_mesh(), run
        return evaluation.log_likelihoods(*arguments)

    def read(one_pass):
        return jax.tree.map(np.asarray, evaluation.at_once(one_pass))

    np.testing.assert_array_equal(score(read), score(evaluation.at_once))


def test_whatever_the_sums_depend_on_is_in_their_identity():
    class Stop(Exception):
        pass

    def stop(one_pass):
        seen.append(one_pass.identity)
        raise Stop

    seen = []
    state, other = (aae.create_train_state(make_spec(), jax.random.key(i)) for i in range(2))
    images, key, sigmas = np.asarray(make_dataset(6)["image"]), jax.random.key(7), (0.2, 0.5)
    for arguments in (
        (state, images, key, 9_500, sigmas),
        (other, images, key, 9_500, sigmas),
        (state.replace(step=state.step + 1), images, key, 9_500, sigmas),
        (state, images[::-1], key, 9_500, sigmas),
        (state, images, jax.random.key(8), 9_500, sigmas),
        (state, images, key, 9_501, sigmas),
        (state, images, key, 9_500, (0.2, 0.6)),
        (state, images, key, 9_500, sigmas),
    ):
        with pytest.raises(Stop):
            evaluation.log_likelihoods(*arguments, "test", run=stop)
    assert seen[0] == seen[-1] and len(set(seen)) == len(seen) - 1
