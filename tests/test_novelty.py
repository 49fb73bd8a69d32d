"""`aae.score` against float64 NumPy and closed forms, and the study that uses it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from reference import forward, layers_of, sigmoid
from small import MIXTURE, SHAPE, make_dataset, make_spec, refused, start

import aae_jax as aae
from aae_jax import multi_seed
from aae_jax.algorithms import adversarial, autoencoder
from studies import novelty as study

IMAGES = make_dataset()["image"]
SWISS_ROLL = {"name": "swiss_roll", "radius": 3.0, "std": 0.1}


def codes(state):
    """Codes f64[20, 2] of `IMAGES` by NumPy."""
    x = np.asarray(IMAGES, np.float64).reshape(20, -1) / 255
    return forward(layers_of(state.params["encoder"]), x)[0]


def logits(state, z, *beside):
    inputs = np.concatenate([z, *beside], axis=1)
    return forward(layers_of(state.params["discriminator"]), inputs)[0][:, 0]


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_gaussian_prior_against_numpy(wrap):
    state = start(make_spec())
    z = codes(state)
    x_hat = sigmoid(forward(layers_of(state.params["decoder"]), z)[0]).reshape(20, *SHAPE)
    squared = (x_hat - np.asarray(IMAGES) / 255) ** 2
    found = wrap(aae.score)(state, IMAGES)
    np.testing.assert_allclose(found.by_pixel, squared, atol=1e-5)
    np.testing.assert_allclose(
        found.reconstruction, squared.reshape(20, -1).sum(axis=1) / 2, rtol=1e-4
    )
    expected = -scipy.stats.norm(scale=2.0).logpdf(z).sum(axis=1)
    np.testing.assert_allclose(found.code, expected, rtol=1e-4)
    unit = aae.score(state, IMAGES / 255)
    np.testing.assert_allclose(unit.reconstruction, found.reconstruction, rtol=1e-4)


def test_mixture_prior_against_scipy():
    state = start(make_spec(prior=MIXTURE))
    z, densities = codes(state), []
    for angle in 2 * np.pi * np.arange(10) / 10:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        covariance = turn @ np.diag([1.0**2, 0.3**2]) @ turn.T
        normal = scipy.stats.multivariate_normal(turn @ [3.0, 0.0], covariance)
        densities.append(normal.pdf(z))
    expected = -np.log(np.mean(densities, axis=0))
    np.testing.assert_allclose(aae.score(state, IMAGES).code, expected, rtol=1e-3)


@pytest.mark.parametrize("prior", [SWISS_ROLL, {"name": "uniform"}], ids=["roll", "uniform"])
def test_a_prior_without_a_positive_density_is_judged_by_the_discriminator(prior):
    """The discriminator uses its last parameters; the other networks use averages."""
    state = start(make_spec(prior=prior, ema_decay=0.5))
    expected = -logits(state, codes(state))
    np.testing.assert_allclose(aae.score(state, IMAGES).code, expected, atol=1e-4)


def test_labels_reach_the_discriminator():
    spec = make_spec(prior=SWISS_ROLL, model={"label_in_discriminator": True})
    state, label = start(spec), np.arange(20) % 11 - 1
    one_hot = np.eye(11)[np.where(label < 0, 10, label)]
    for given, beside in ((label, one_hot), (None, np.eye(11)[[10] * 20])):
        found = aae.score(state, IMAGES, given).code
        np.testing.assert_allclose(found, -logits(state, codes(state), beside), atol=1e-4)
    with refused(r"label is \[N, K\]"):
        aae.score(state, IMAGES, np.eye(10, dtype=np.float32)[label])


def test_labels_reach_the_decoder():
    state, label = start(make_spec(model={"label_in_decoder": True})), np.arange(20) % 10
    inputs = np.concatenate([codes(state), np.eye(10)[label]], axis=1)
    x_hat = sigmoid(forward(layers_of(state.params["decoder"]), inputs)[0])
    squared = (x_hat - np.asarray(IMAGES).reshape(20, -1) / 255) ** 2
    found = aae.score(state, IMAGES, label)
    np.testing.assert_allclose(found.reconstruction, squared.sum(axis=1) / 2, rtol=1e-4)
    with refused("decoding needs labels"):
        aae.score(state, IMAGES)


def test_scores_are_in_the_units_of_the_data():
    mean, std = np.full(SHAPE, 0.4), np.full(SHAPE, 0.2)
    state = aae.create_train_state(make_spec(model={"output": "linear"}), 0, mean, std)
    found = aae.score(state, IMAGES)
    x_hat = np.asarray(aae.reconstruct(state, IMAGES), np.float64)
    np.testing.assert_allclose(
        found.by_pixel, (x_hat - np.asarray(IMAGES) / 255) ** 2, rtol=1e-4, atol=1e-5
    )


def test_nobody_judges_codes():
    silent = make_spec(prior=SWISS_ROLL, algorithm="decoder_finetuning")
    found = aae.score(start(silent), IMAGES)
    assert found.code is None and found.reconstruction.shape == (20,)


def test_codes_that_nothing_matches_to_the_prior_are_not_judged():
    state = start(make_spec(algorithm="autoencoder"))
    assert aae.score(state, IMAGES).code is None
    found = aae.diagnose(state, {"image": IMAGES}, 0)
    assert "code/std" in found and not any(name.startswith("prior/") for name in found)


def test_a_discriminator_of_images_judges_no_codes():
    def networks(spec):
        named = autoencoder.with_discriminator(spec)
        of_images = named["discriminator"]._replace(inputs=(spec.image_shape, None))
        return {**named, "discriminator": of_images}

    algorithm = adversarial.ADVERSARIAL_AUTOENCODER._replace(networks=networks)
    state = start(make_spec(prior=SWISS_ROLL, algorithm=algorithm))
    assert aae.score(state, IMAGES).code is None


def test_an_algorithm_with_its_own_reconstruction():
    def darker(spec, params, x, row_keys, label):
        return 0.5 * x

    algorithm = adversarial.ADVERSARIAL_AUTOENCODER._replace(reconstruct=darker)
    found = aae.score(start(make_spec(algorithm=algorithm)), IMAGES)
    np.testing.assert_allclose(found.by_pixel, (np.asarray(IMAGES) / 510) ** 2, atol=1e-6)


def test_a_stochastic_posterior_takes_a_key():
    state = start(make_spec(model={"posterior": "universal"}))
    with refused("give a key"):
        aae.score(state, IMAGES)
    z = np.asarray(aae.encode(state, IMAGES, 3), np.float64)
    expected = -scipy.stats.norm(scale=2.0).logpdf(z).sum(axis=1)
    np.testing.assert_allclose(aae.score(state, IMAGES, key=3).code, expected, rtol=1e-4)


def test_mistakes_are_one_line():
    state = start(make_spec())
    for match, call in (
        ("a label is given", lambda: aae.score(state, IMAGES, 3)),
        ("a condition is given", lambda: aae.score(state, IMAGES, condition=[1.0])),
        (r"images has shape \(20, 3\)", lambda: aae.score(state, IMAGES[:, :, 0, 0])),
        ("floats must lie in", lambda: aae.score(state, 2.0 * jnp.asarray(IMAGES))),
    ):
        with refused(match):
            call()
    for name in ("encode", "decode"):
        algorithm = adversarial.ADVERSARIAL_AUTOENCODER._replace(**{name: None})
        with refused(f"has no '{name}'"):
            aae.score(start(make_spec(algorithm=algorithm)), IMAGES)


def test_under_vmap_over_seeds():
    spec = make_spec()
    state = multi_seed.create(spec, jnp.stack([jax.random.key(seed) for seed in range(3)]))
    score = jax.vmap(functools.partial(aae.score, images=IMAGES), in_axes=(multi_seed.axes(state),))
    found = score(state)
    for seed, member in enumerate(multi_seed.members(state)):
        for values, alone in zip(found, aae.score(member, IMAGES)):
            np.testing.assert_allclose(values[seed], alone, rtol=1e-4, atol=1e-5)


def test_auroc_by_hand():
    # Of six pairs four are in order and one is a tie.
    assert study.auroc(np.array([1.0, 2.0, 4.0]), np.array([2.0, 5.0])) == 4.5 / 6
    assert study.auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.0
    assert study.auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 0.0
    assert study.auroc(np.zeros(3), np.zeros(4)) == 0.5
    rng = np.random.default_rng(0)
    normal, unusual = rng.integers(0, 9, 50), rng.integers(2, 12, 30)
    pairs = unusual[:, None] - normal
    assert study.auroc(normal, unusual) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_standardised_sum_by_hand():
    reference = aae.Scores(np.array([1.0, 3.0]), (), np.array([-10.0, 10.0]))
    parts = aae.Scores(np.array([4.0]), (), np.array([5.0]))
    np.testing.assert_allclose(study.standardised_sum(parts, reference), [2.0 + 0.5])


@pytest.mark.slow
def test_the_study_leaves_a_digit_out_and_goes_on(tmp_path, monkeypatch):
    data = make_dataset(60, image_shape=(28, 28, 1))
    split = {name: np.asarray(value) for name, value in data.items()}
    split["label"] = np.arange(60, dtype=np.int32) % 10
    dataset = study.data.Dataset(split, (study.data.Fold(split, split),), 10)
    trained_on = []
    train = multi_seed.train
    monkeypatch.setattr(
        multi_seed, "train", lambda *given: trained_on.append(given[1]) or train(*given)
    )
    how = {"width": 8, "num_steps": 2, "seeds": 2}
    first = list(study.rows(dataset, [3], str(tmp_path), how))
    assert set(np.unique(trained_on[0]["label"])) == set(range(10)) - {3}
    assert len(trained_on[0]["image"]) == 54
    assert all(0 <= value <= 1 for part in study.PARTS for value in first[0][part])
    assert list(study.rows(dataset, [3], str(tmp_path), how)) == first and len(trained_on) == 1
    with refused("name another --output"):
        list(study.rows(dataset, [3], str(tmp_path), {**how, "seeds": 3}))
