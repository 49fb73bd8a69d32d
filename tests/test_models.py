"""The posteriors, both uses of labels, and the VAE."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import forward, layers_of
from small import MIXTURE, make_dataset, make_spec, partly_labelled, start

import aae_jax as aae
from aae_jax import losses
from aae_jax.algorithms import autoencoder, variational
from aae_jax.algorithms.base import Inputs
from aae_jax.keys import row_keys
from aae_jax.train_state import to_inputs

MODELS = {
    "gaussian": {"model": {"posterior": "gaussian"}},
    "universal": {"model": {"posterior": "universal"}},
    "label_in_discriminator": {"model": {"label_in_discriminator": True}, "prior": MIXTURE},
    "label_in_decoder": {"model": {"label_in_decoder": True}},
    "label_in_both": {"model": {"label_in_decoder": True, "label_in_discriminator": True}},
    "vae": {"algorithm": "vae", "model": {"posterior": "gaussian"}},
    "vae_mixture": {"algorithm": "vae", "model": {"posterior": "gaussian"}, "prior": MIXTURE},
}


def state_of(name, **kwargs):
    return start(make_spec(**MODELS[name], **kwargs))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_and_generates(name):
    state, metrics = aae.train_steps(state_of(name), partly_labelled(), 5)
    for values in metrics.values():
        assert np.isfinite(values).all()
    samples = aae.generate(state, jax.random.key(1), 7)
    assert samples.shape == (7, 3, 4, 1) and (samples >= 0).all() and (samples <= 1).all()


# Posteriors (section 2).


def flat_inputs(state, images):
    return np.asarray(to_inputs(state, images)).reshape(len(images), -1)


def test_gaussian_posterior_is_mean_plus_std_times_noise():
    state = state_of("gaussian")
    images = make_dataset()["image"]
    outputs, _ = forward(layers_of(state.params["encoder"]), flat_inputs(state, images))
    mean, log_var = outputs[:, :2], outputs[:, 2:]
    np.testing.assert_allclose(aae.encode(state, images), mean, atol=1e-5)
    draws = jax.vmap(lambda key: aae.encode(state, images, key))(
        jax.random.split(jax.random.key(1), 4_000)
    )
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.25)
    np.testing.assert_allclose(draws.std(axis=0), np.exp(0.5 * log_var), rtol=0.1)


def test_universal_posterior_is_the_encoder_of_image_and_noise():
    state = state_of("universal")
    images = make_dataset()["image"]
    key = jax.random.key(4)
    eta = np.stack([jax.random.normal(k, (3,)) for k in row_keys(key, 20)])
    inputs = np.concatenate([flat_inputs(state, images), eta], axis=1)
    expected, _ = forward(layers_of(state.params["encoder"]), inputs)
    np.testing.assert_allclose(aae.encode(state, images, key), expected, atol=1e-5)
    assert (aae.encode(state, images, jax.random.key(5)) != expected).any()
    with pytest.raises(aae.UserError, match="universal.*give a key"):
        aae.encode(state, images)


@pytest.mark.parametrize("name", ["gaussian", "universal"])
def test_rows_have_their_own_noise(name):
    state = state_of(name)
    images = jnp.repeat(make_dataset()["image"][:1], 5, axis=0)
    z = np.asarray(aae.encode(state, images, jax.random.key(0)))
    assert len(np.unique(z.round(6), axis=0)) == 5


@pytest.mark.parametrize("name", ["gaussian", "universal"])
def test_noise_is_fresh_every_step(name):
    state = state_of(name)
    frozen = {phase: jnp.float32(0) for phase in state.learning_rate_scale}
    images = jnp.repeat(make_dataset()["image"][:1], 20, axis=0)
    dataset = {"image": images, "label": jnp.zeros(20, jnp.int32)}
    _, metrics = aae.train_steps(state.replace(learning_rate_scale=frozen), dataset, 5)
    assert len(np.unique(metrics["code/mean"])) == 5


# Labels in the adversarial phase (section 3.1, Fig. 3a).


def test_the_one_hot_has_an_extra_class_for_unlabelled_points():
    state = state_of("label_in_discriminator")
    z = jax.random.normal(jax.random.key(0), (4, 2))
    label = jnp.array([0, 9, -1, -1])
    one_hot = np.zeros((4, 11), np.float32)
    one_hot[[0, 1, 2, 3], [0, 9, 10, 10]] = 1
    expected, _ = forward(
        layers_of(state.params["discriminator"]), np.concatenate([np.asarray(z), one_hot], axis=1)
    )
    found = autoencoder.discriminate(state.spec, state.params, z, label)
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-5)


RECORDED = []


def record(spec, params, inputs):
    """A phase that records its labels and prior samples."""
    values = (inputs.label, inputs.prior_sample.label, inputs.prior_sample.z)
    jax.debug.callback(lambda *v: RECORDED.append([np.array(w) for w in v]), *values)
    return jnp.zeros(len(inputs.x)), {}


RECORDER = aae.Algorithm(
    networks=autoencoder.with_discriminator,
    phases=(aae.Phase("discriminator", ("discriminator",), record),),
    sample=autoencoder.sample,
)


def recorded(model, num_steps):
    """Batch labels i32[N], prior labels i32[N] and prior samples f[N, 2] of several steps."""
    RECORDED.clear()
    state = start(make_spec(**{**MODELS[model], "algorithm": RECORDER}))
    aae.train_steps(state, partly_labelled(), num_steps)
    jax.effects_barrier()
    assert len(RECORDED) == num_steps
    return [np.concatenate(values) for values in zip(*RECORDED)]


def test_positive_and_negative_samples_carry_the_labels_of_the_batch():
    """Labelled rows: prior samples of that component; unlabelled rows: of the full prior."""
    labels, prior_labels, z = recorded("label_in_discriminator", 20)
    np.testing.assert_array_equal(labels, prior_labels)
    assert (labels == -1).any() and (labels >= 0).any()
    angle = np.round(np.arctan2(z[:, 1], z[:, 0]) / (2 * np.pi / 10)).astype(int) % 10
    known = labels >= 0
    assert (angle[known] == labels[known]).mean() > 0.8
    assert len(np.unique(angle[~known])) > 5


def test_without_components_every_label_is_matched_to_the_whole_prior():
    labels, prior_labels, z = recorded("label_in_both", 40)
    np.testing.assert_array_equal(labels, prior_labels)
    assert abs(z.std() - 2.0) < 0.3 and abs(z.mean()) < 0.3


# Labels in the decoder (section 3.2, Fig. 3b).


def test_the_decoder_gets_the_code_and_a_one_hot():
    state = state_of("label_in_decoder")
    z = jax.random.normal(jax.random.key(0), (3, 2))
    label = jnp.array([2, 0, -1])
    one_hot = np.zeros((3, 10), np.float32)
    one_hot[[0, 1], [2, 0]] = 1
    logits, _ = forward(
        layers_of(state.params["decoder"]), np.concatenate([np.asarray(z), one_hot], axis=1)
    )
    expected = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(aae.decode(state, z, label).reshape(3, -1), expected, atol=1e-5)
    np.testing.assert_array_equal(aae.decode(state, z, 2)[0], aae.decode(state, z, label)[0])
    with pytest.raises(aae.UserError, match="decoding needs labels"):
        aae.decode(state, z)


def test_labels_may_be_soft():
    """Classes f[N, K] are used unchanged; one-hot classes are labels."""
    state = state_of("label_in_decoder")
    z = jax.random.normal(jax.random.key(0), (3, 2))
    soft = np.random.default_rng(0).dirichlet(np.ones(10), 3).astype(np.float32)
    logits, _ = forward(
        layers_of(state.params["decoder"]), np.concatenate([np.asarray(z), soft], axis=1)
    )
    expected = 1 / (1 + np.exp(-logits))
    found = aae.decode(state, z, jnp.asarray(soft))
    np.testing.assert_allclose(found.reshape(3, -1), expected, atol=1e-5)
    label = jnp.array([2, 0, 9])
    one_hot = jax.nn.one_hot(label, 10)
    np.testing.assert_array_equal(aae.decode(state, z, one_hot), aae.decode(state, z, label))
    key = jax.random.key(1)
    np.testing.assert_array_equal(
        aae.generate(state, key, 3, one_hot), aae.generate(state, key, 3, label)
    )


def test_generate_takes_a_label_or_draws_one():
    state = state_of("label_in_decoder")
    key = jax.random.key(2)
    z = aae.sample_prior(state.spec, key, 6).z
    np.testing.assert_array_equal(aae.generate(state, key, 6, label=3), aae.decode(state, z, 3))
    every = jnp.stack([aae.decode(state, z, label) for label in range(10)], axis=1)
    drawn = aae.generate(state, key, 6)
    assert ((every == drawn[:, None]).all(axis=(2, 3, 4)).sum(axis=1) >= 1).all()


# VAE (section 2.1).


def test_binary_cross_entropy_against_probabilities():
    logits = np.array([[-2.0, 0.5], [3.0, 0.0]])
    x = np.array([[0.2, 1.0], [0.0, 0.7]])
    p = 1 / (1 + np.exp(-logits))
    expected = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=1)
    np.testing.assert_allclose(losses.binary_cross_entropy(logits, x), expected, rtol=1e-6)
    assert np.isfinite(
        losses.binary_cross_entropy(jnp.array([[1e4, -1e4]]), jnp.ones((1, 2)))
    ).all()


def test_gaussian_terms_are_the_kl_divergence():
    """Cross-entropy − entropy = KL(N(m, s²) ‖ N(0, S²)), by the textbook formula."""
    rng = np.random.default_rng(0)
    mean, std, prior_std = rng.normal(size=(6, 4)), rng.uniform(0.2, 2, (6, 4)), 5.0
    entropy = 0.5 * (np.log(std**2) + math.log(2 * math.pi * math.e)).sum(axis=1)
    kl = (np.log(prior_std / std) + (std**2 + mean**2) / (2 * prior_std**2) - 0.5).sum(axis=1)
    found = losses.gaussian_cross_entropy(mean, std, prior_std) - entropy
    np.testing.assert_allclose(found, kl, rtol=1e-5)


@pytest.mark.parametrize("name", ["vae", "vae_mixture"])
def test_the_bound_is_the_sum_of_its_logged_terms(name):
    _, metrics = aae.train_steps(state_of(name), partly_labelled(), 5)
    expected = (
        metrics["elbo/reconstruction"] - metrics["elbo/entropy"] + metrics["elbo/cross_entropy"]
    )
    np.testing.assert_allclose(metrics["loss/elbo"], expected, rtol=1e-5)
    state = state_of(name)
    assert set(state.params) == {"encoder", "decoder"} and set(state.opt_state) == {"elbo"}


def test_monte_carlo_cross_entropy_agrees_with_the_exact_one():
    """A mixture whose components all lie at the origin is a Gaussian."""
    exact = state_of("vae")
    one = {"name": "gaussian_mixture", "radius": 1e-6, "radial_std": 2.0, "tangential_std": 2.0}
    spec = make_spec(algorithm="vae", model={"posterior": "gaussian"}, prior=one)
    images = jnp.tile(make_dataset()["image"], (200, 1, 1, 1))
    x = to_inputs(exact, images)
    inputs = Inputs(
        x, x, jnp.zeros(len(x), jnp.int32), row_keys(jax.random.key(1), len(x)),
        aae.sample_prior(spec, jax.random.key(2), len(x)),
    )  # fmt: skip
    terms = [variational.elbo(s, exact.params, inputs)[1] for s in (exact.spec, spec)]
    np.testing.assert_allclose(
        terms[0]["elbo/cross_entropy"].mean(), terms[1]["elbo/cross_entropy"].mean(), rtol=0.02
    )


@pytest.mark.parametrize(
    "changes, match",
    [
        (
            {"model": {"posterior": "deterministic"}},
            "model.posterior is 'deterministic'.*'gaussian'",
        ),
        ({"model": {"label_in_discriminator": True}}, "algorithm 'vae' has no discriminator"),
        (
            {"model": {"output": "linear"}},
            "model.output is 'linear': model.reconstruction 'bernoulli' needs 'sigmoid'",
        ),
        (
            {"model": {"posterior": "gaussian"}, "prior": {"name": "swiss_roll"}},
            "prior.name is 'swiss_roll': algorithm 'vae' needs a prior with a known density",
        ),
    ],
)
def test_vae_refuses_what_it_cannot_do(changes, match):
    with pytest.raises(aae.UserError, match=match):
        make_spec(algorithm="vae", **changes)


@pytest.mark.parametrize("algorithm, posterior", [("aae", "universal"), ("vae", "gaussian")])
def test_code_scale_is_a_change_of_units(x64, algorithm, posterior):
    """With the prior's std it trains the parameters that a prior of std 1 would have."""
    model = {"posterior": posterior}
    unit, scaled = (
        start(make_spec("float64", algorithm=algorithm, model=fields, prior={"std": std}))
        for fields, std in ((model, 1.0), ({**model, "code_scale": 5.0}, 5.0))
    )
    (unit, losses), (scaled, same_losses) = (
        aae.train_steps(state, make_dataset(), 10) for state in (unit, scaled)
    )
    chex.assert_trees_all_close(scaled.params, unit.params, rtol=0, atol=1e-9)
    for name in losses:
        if name.startswith("loss/"):
            np.testing.assert_allclose(same_losses[name], losses[name], rtol=1e-9)
    images, key = make_dataset()["image"], jax.random.key(1)
    z = aae.encode(unit, images, key)
    np.testing.assert_allclose(aae.encode(scaled, images, key), 5 * z, rtol=1e-9)
    np.testing.assert_allclose(aae.decode(scaled, 5 * z), aae.decode(unit, z), rtol=1e-9)
