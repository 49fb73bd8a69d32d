"""The protocol of Table 1 against float64 NumPy."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT
from reference import parzen_window
from small import SHAPE, make_dataset, make_spec, refused, start

import aae_jax as aae
from aae_jax import bandwidth, evaluation, parzen
from aae_jax.evaluation import fingerprint


def evaluate(sampler, test, sigmas, num_samples=100, key=None):
    """`aae.evaluate` with one split for validation and test images."""
    spec = aae.EvaluationSpec(num_samples, num_validation=None, sigmas=sigmas)
    key = jax.random.key(7) if key is None else key
    return evaluation.evaluate(sampler, [(test, test)], spec, key)


def split_of(num_images, seed=0):
    return {name: np.asarray(v) for name, v in make_dataset(num_images, seed=seed).items()}


def test_protocol():
    state = start(make_spec())
    valid_split, hold_out = split_of(30, seed=1), split_of(40, seed=2)
    valid_split["image"] = valid_split["image"] // 4  # another σ suits them than the test images
    validation, test = valid_split["image"], hold_out["image"]
    sigmas = (0.1, 0.2, 0.3, 0.4, 0.5, 0.9)
    spec = aae.EvaluationSpec(num_samples=1_500, num_validation=25, sigmas=sigmas)
    key = jax.random.key(7)
    found = aae.evaluate(aae.sampler(state), [(valid_split, hold_out)], spec, key)
    assert {name.partition("/")[0] for name in found} == {"parzen"}

    samples = np.concatenate(
        [np.asarray(aae.generate(state, jax.random.fold_in(key, i), 1_000)) for i in range(2)]
    ).reshape(2_000, -1)[:1_500]
    valid = validation.reshape(30, -1)[:25] / 255  # the first 25, and not one more
    means = [parzen_window(valid, samples, sigma).mean() for sigma in sigmas]
    best = sigmas[int(np.argmax(means))]
    scores = parzen_window(test.reshape(40, -1) / 255, samples, best)
    every = [parzen_window(test.reshape(40, -1) / 255, samples, s).mean() for s in sigmas]
    assert found["parzen/sigma"] == best != sigmas[int(np.argmax(every))]
    np.testing.assert_allclose(found["parzen/validation_log_likelihood"], max(means), atol=0.01)
    np.testing.assert_allclose(found["parzen/log_likelihood"], scores.mean(), atol=0.01)
    np.testing.assert_allclose(
        found["parzen/standard_error"], scores.std() / np.sqrt(40), atol=0.01
    )


def test_what_is_measured_of_an_autoencoder():
    state, test = start(make_spec()), split_of(40, seed=2)
    found = aae.diagnose(state, test, jax.random.key(7))
    assert {name.partition("/")[0] for name in found} == {"reconstruction", "code", "prior"}
    x = test["image"] / 255
    x_hat = np.asarray(aae.reconstruct(state, test["image"]), np.float64)
    np.testing.assert_allclose(
        found["reconstruction/half_squared_error"],
        0.5 * ((x - x_hat) ** 2).sum(axis=(1, 2, 3)).mean(),
        rtol=1e-4,
    )
    z = np.asarray(aae.encode(state, test["image"]), np.float64)
    np.testing.assert_allclose(found["code/std"], z.std(), rtol=1e-5)
    np.testing.assert_allclose(found["code/std_by_dimension"], z.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["code/mean_by_dimension"], z.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found["prior/std"], 2.0, rtol=0.2)
    assert found["prior/sliced_wasserstein_floor"] < found["prior/sliced_wasserstein"]


def test_edge_of_the_grid_is_noticed():
    samples, test = split_of(100, seed=1)["image"], split_of(20)
    for sigmas, edge in (((2.0, 3.0), True), ((1e-3, 1e-2), True), ((0.01, 0.4, 5.0), False)):
        assert evaluate(samples, test, sigmas)["parzen/sigma_on_grid_edge"] is edge


def test_folds_each_with_its_own_sigma_and_all_with_one():
    state = start(make_spec())
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
    found = aae.evaluate(aae.sampler(state), folds, spec, key)

    samples = np.asarray(aae.generate(state, jax.random.fold_in(key, 0), 1_000))[:500]
    samples = samples.reshape(500, -1)

    def scores(split, sigma):
        return parzen_window(split["image"].reshape(len(split["label"]), -1) / 255, samples, sigma)

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
    best = valid.max(axis=1).mean()
    np.testing.assert_allclose(found["parzen/validation_log_likelihood"], best, atol=0.01)
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


def test_folds_of_different_types_are_on_one_scale(monkeypatch):
    levels, key = split_of(20), jax.random.key(7)
    unit = {"image": np.float32(levels["image"] / 255)}
    spec = aae.EvaluationSpec(1_500, num_validation=None, sigmas=(0.2, 0.3, 0.5))

    def score(*folds):
        found = aae.evaluate(grey_levels, folds, spec, key)
        return [fold["log_likelihood"] for fold in found["parzen/by_fold"]]

    expected = score((levels, levels), (levels, levels))
    for _ in range(2):
        for folds in ([(levels, levels), (unit, unit)], [(levels, unit), (levels, unit)]):
            np.testing.assert_allclose(score(*folds), expected, atol=1e-3)
        monkeypatch.setattr(bandwidth, "FEW", 150)  # validation and test images in one pass


SPLIT = {"image": np.zeros((5, *SHAPE), np.uint8)}
EMPTY = {"image": SPLIT["image"][:0]}


@pytest.mark.parametrize(
    "folds, match",
    [
        ([], "^folds is empty: it must be a list"),
        (None, "^folds is a NoneType: it must be a list"),
        ((SPLIT, SPLIT), r"^folds\[0\] is a dict: it must be a pair \(validation, test\)"),
        ([(SPLIT, SPLIT), (SPLIT, {})], r"^folds\[1\] is a tuple: it must be .* with 'image'$"),
        ([(EMPTY, SPLIT)], r"^validation images of folds\[0\] are of shape \(0, 3, 4, 1\): "),
        ([(SPLIT, EMPTY)], r"^test images of folds\[0\] are of shape \(0, 3, 4, 1\): "),
        (
            [(SPLIT, {"image": SPLIT["image"].tolist()})],
            r"^test images of folds\[0\] are a list: they must be an array \[N, H, W, C\]",
        ),
    ],
)
def test_folds_that_are_empty_or_malformed_are_one_line(folds, match):
    for sigmas in (None, (0.3,)):
        with refused(match):
            aae.evaluate(SPLIT["image"], folds, aae.EvaluationSpec(10, sigmas=sigmas))


def test_split_products_have_sums_of_their_own(monkeypatch):
    """Saved sums are not continued if another machine would add different bits."""
    sampler = aae.sampler(start(make_spec()))
    images, seen = split_of(6)["image"], []

    def run(one_pass):
        seen.append(one_pass.identity)
        return evaluation.at_once(one_pass)

    for fast in (False, True, True):
        monkeypatch.setattr(parzen.running, "_has_fast_bfloat16", lambda: fast)
        arguments = sampler, images, jax.random.key(7), 10, (0.2, 0.5), "test", None, run
        evaluation.log_likelihoods(*arguments)
    assert seen[0] != seen[1] == seen[2]


def test_devices_and_cuts_change_nothing(bf16_split):
    """The pass over the samples may be interrupted anywhere, and split over devices."""
    sampler = aae.sampler(start(make_spec()))
    images = split_of(6)["image"]

    def score(mesh, run):
        arguments = sampler, images, jax.random.key(7), 9_500, (0.2, 0.5), "test", mesh, run
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
    one, eight = (score(m, evaluation.at_once) for m in (None, mesh))
    np.testing.assert_array_equal(score(None, in_two), one)
    np.testing.assert_array_equal(score(mesh, in_two), eight)
    np.testing.assert_allclose(one, eight, atol=1e-3)
    # Sums of eight devices are not those of one.
    assert len(set(seen)) == 2 == len(seen)
    # Nor of two, where both add as many samples in a round.
    for count in (2, 4):
        mesh = aae.make_mesh(jax.devices()[:count])
        arguments = sampler, images, jax.random.key(7), 4_000, (0.2, 0.5), "test", mesh, in_one
        evaluation.log_likelihoods(*arguments)
    assert len(set(seen)) == 4


def test_sums_that_were_read_whole_end_as_those_that_just_ran():
    """A pass that was saved at its end is read as host arrays, with no rounds left."""
    sampler = aae.sampler(start(make_spec()))
    images, sigmas = split_of(500)["image"], tuple(np.linspace(0.1, 1, 20))

    def score(run):
        arguments = sampler, images, jax.random.key(7), 20_500, sigmas, "test", aae.make_mesh(), run
        return evaluation.log_likelihoods(*arguments)

    def read(one_pass):
        return jax.tree.map(np.asarray, evaluation.at_once(one_pass))

    np.testing.assert_array_equal(score(read), score(evaluation.at_once))


class Stop(Exception):
    pass


def identity(sampler, images, key=None, num_samples=9_500, sigmas=(0.2, 0.5)):
    """The identity of the pass that scores the images, without running it."""
    seen = []

    def stop(one_pass):
        seen.append(one_pass.identity)
        raise Stop

    key = jax.random.key(7) if key is None else key
    with pytest.raises(Stop):
        evaluation.log_likelihoods(sampler, images, key, num_samples, sigmas, "test", run=stop)
    return seen[0]


def test_whatever_the_sums_depend_on_is_in_their_identity():
    state, other = (start(make_spec(), seed) for seed in range(2))
    sampler, images = aae.sampler(state), split_of(6)["image"]
    seen = [
        identity(sampler, images),
        identity(aae.sampler(other), images),
        identity(aae.sampler(start(make_spec(prior={"std": 3.0}))), images),
        identity(sampler, images[::-1]),
        identity(sampler, images, key=jax.random.key(8)),
        identity(sampler, images, num_samples=9_501),
        identity(sampler, images, sigmas=(0.2, 0.6)),
    ]
    assert len(set(seen)) == len(seen)
    # What the samples do not depend on is not in it: a scoring goes on after a longer training
    # that moved nothing.
    params = {**state.params, "discriminator": other.params["discriminator"]}
    changed = state.replace(
        step=state.step + 1, rng=other.rng, opt_state=other.opt_state, params=params
    )
    assert identity(aae.sampler(changed), images) == seen[0]


# Any source of samples.


def grey_levels(key, num_samples):
    """Samples of 8-bit pixels, darker towards the end of an image."""
    levels = jax.random.randint(key, (num_samples, 12), 0, 256 - 16 * np.arange(12))
    return levels / np.float32(255)


def drawn(sampler, key, num_samples):
    """The stream of samples: chunk i is sampler(fold_in(key, i), 1000)."""
    chunks = [
        np.asarray(sampler(jax.random.fold_in(key, i), 1_000))
        for i in range(-(-num_samples // 1_000))
    ]
    return np.concatenate(chunks)[:num_samples]


def test_functions_samplers_and_stored_samples_give_the_same_numbers():
    test, key, sigmas = split_of(40), jax.random.key(7), (0.1, 0.2, 0.3, 0.5)
    samples = drawn(grey_levels, key, 1_300)
    levels = np.round(255 * samples).astype(np.uint8)
    np.testing.assert_allclose(levels / 255, samples, rtol=1e-6)
    found = [
        evaluate(given, test, sigmas, 1_300, key)
        for given in (
            grey_levels,
            lambda key, num_samples: grey_levels(key, num_samples),
            jax.tree_util.Partial(grey_levels),
            samples,
            jax.numpy.asarray(samples),
            samples.reshape(-1, *SHAPE),
            levels,
            levels.reshape(-1, *SHAPE),
        )
    ]
    x = test["image"].reshape(40, -1) / 255
    scores = {sigma: parzen_window(x, samples, sigma) for sigma in sigmas}
    best = max(sigmas, key=lambda sigma: scores[sigma].mean())
    for one in found:
        assert one["parzen/sigma"] == best and one["parzen/num_samples"] == 1_300
        np.testing.assert_allclose(one["parzen/log_likelihood"], scores[best].mean(), atol=1e-3)
        np.testing.assert_allclose(
            one["parzen/standard_error"], scores[best].std() / np.sqrt(40), atol=1e-3
        )


def test_a_sampler_gives_the_same_numbers_as_its_samples():
    state, test, key = start(make_spec(ema_decay=0.5)), split_of(40), jax.random.key(7)
    sampler = aae.sampler(state)
    samples = drawn(sampler, key, 1_300)
    # The model's images, flat.
    expected = aae.generate(state, jax.random.fold_in(key, 1), 1_000).reshape(1_000, -1)[:300]
    np.testing.assert_allclose(samples[1_000:], expected, atol=1e-6)
    found = [evaluate(given, test, (0.3,), 1_300, key) for given in (sampler, samples)]
    assert found[0].keys() == found[1].keys()
    score = parzen_window(test["image"].reshape(40, -1) / 255, samples, 0.3).mean()
    for one in found:
        np.testing.assert_allclose(one["parzen/log_likelihood"], score, atol=1e-3)


def test_stored_samples_are_scored_whole_and_in_pieces(monkeypatch):
    monkeypatch.setattr(evaluation, "_PIECE", 300)
    samples = np.asarray(grey_levels(jax.random.key(0), 1_000))
    test = split_of(10)
    # All of them, whatever `num_samples` says.
    found = evaluate(samples, test, (0.3,), num_samples=20)
    assert found["parzen/num_samples"] == 1_000
    score = parzen_window(test["image"].reshape(10, -1) / 255, samples, 0.3).mean()
    np.testing.assert_allclose(found["parzen/log_likelihood"], score, atol=1e-3)


@pytest.mark.parametrize("shape", [(9, 13), (9, 3, 5, 1), (9,), (0, 12), (9, 3)], ids=str)
def test_stored_samples_of_another_shape_are_refused(shape):
    with pytest.raises(aae.UserError, match=r"samples have shape .*: they must be \[N, 12\]"):
        evaluate(np.zeros(shape, np.float32), split_of(5), (0.3,))


def test_stored_samples_of_another_type_are_refused():
    with pytest.raises(aae.UserError, match="int32: give uint8, or floats"):
        evaluate(np.zeros((9, 12), np.int32), split_of(5), (0.3,))


def test_functions_that_give_another_shape_are_refused():
    test, spec = split_of(5), aae.EvaluationSpec(100, num_validation=None, sigmas=(0.3,))
    for function, shape in (
        (lambda key, num_samples: jax.numpy.zeros((num_samples, 13)), r"\(1000, 13\)"),
        (lambda key, num_samples: jax.numpy.zeros((num_samples, *SHAPE)), r"\(1000, 3, 4, 1\)"),
        (lambda key, num_samples: 0.5, r"\(\)"),
    ):
        with refused(rf"^sampler\(key, 1000\) gives shape {shape}: .* it must be \(1000, 12\)$"):
            aae.evaluate(function, [(test, test)], spec, jax.random.key(0))
    with refused("^key is None"):
        aae.evaluate(grey_levels, [(test, test)], spec)


def test_a_sampler_holds_what_samples_are_made_of_and_no_more():
    for fields in ({}, {"ema_decay": 0.5}):
        state = start(make_spec(**fields))
        used = state.params if state.ema_params is None else state.ema_params
        found = jax.tree.leaves(aae.sampler(state))
        wanted = jax.tree.leaves({name: used[name] for name in ("encoder", "decoder")})
        assert len(found) == len(wanted)  # no rng, no moments of Adam, no discriminator
        assert {id(leaf) for leaf in found} == {id(leaf) for leaf in wanted}
    mean, std = np.full(SHAPE, 0.5, np.float32), np.full(SHAPE, 0.25, np.float32)
    spec = make_spec(model={"output": "linear"})
    standardised = aae.create_train_state(spec, jax.random.key(0), mean, std)
    leaves = jax.tree.leaves(aae.sampler(standardised))
    assert sum(leaf.shape == SHAPE for leaf in leaves) == 2
    assert len(leaves) == len(wanted) + 2


def test_samplers_of_equal_specs_share_one_program():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    test = split_of(21)
    # Equal specs that no other test has, each made anew.
    states = [
        aae.create_train_state(make_spec(prior={"std": 2.5}), jax.random.key(seed))
        for seed in range(3)
    ]
    scores, counts = [], [len(compiled)]
    for state in states:
        scores.append(evaluate(aae.sampler(state), test, (0.3,))["parzen/log_likelihood"])
        counts.append(len(compiled))
    assert len(set(scores)) == 3
    assert counts[0] < counts[1] == counts[2] == counts[3]


def make_closure(value):
    return lambda key, num_samples: value + grey_levels(key, num_samples)


def test_fingerprints():
    state, other = (start(make_spec(), seed) for seed in range(2))
    array = np.arange(6, dtype=np.float32)
    values = [
        aae.sampler(state),
        aae.sampler(other),
        aae.sampler(start(make_spec(prior={"std": 3.0}))),
        state.spec,
        grey_levels,
        evaluate,
        array,
        array.reshape(2, 3),
        array.astype(np.float64),
        array + 1,
        (array, array),
        [array, array],
        jax.random.key(0),
        jax.random.key(1),
        {"a": 1, "b": 2},
        {"a": 2, "b": 1},
        0.1,
        0.2,
        (0.1, 0.2),
        "a",
        ("a",),
        None,
    ]
    assert len({fingerprint(value) for value in values}) == len(values)
    for value in values:
        assert fingerprint(value) == fingerprint(value)
    assert fingerprint(0.1, 0.2) != fingerprint(0.2, 0.1)
    again = aae.sampler(aae.create_train_state(make_spec(), jax.random.key(0)))
    assert fingerprint(again) == fingerprint(aae.sampler(state))
    # A closure holds what can't be seen.
    closure = make_closure(0.0)
    assert fingerprint(closure) != fingerprint(closure)
    assert fingerprint(jax.tree_util.Partial(grey_levels)) == fingerprint(
        jax.tree_util.Partial(grey_levels)
    )


def test_a_fingerprint_is_the_same_in_another_process():
    """It decides whether saved sums may be continued."""
    program = (
        "import sys; sys.path[:0] = ['tests', '.']; import aae_jax as aae; import small; "
        "from aae_jax.evaluation import fingerprint; "
        "print(fingerprint(small.make_spec(prior={'name': 'gaussian_mixture'})))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == fingerprint(make_spec(prior={"name": "gaussian_mixture"}))
