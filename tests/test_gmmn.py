"""Moment matching: MMD² against NumPy and closed forms, its networks, and its stages."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import as_layers, backward, forward, sigmoid
from small import SHAPE, inputs_of_step, make_dataset, make_spec, refused, start, train_step

import aae_jax as aae
from aae_jax import experiment, losses
from aae_jax.algorithms import gmmn
from aae_jax.config import parse_config
from aae_jax.parallel import DATA_AXIS
from aae_jax.train_state import inference_params
from aae_jax.training import check_algorithm
from experiments import table1

UNIFORM = {"name": "uniform", "radius": 1.0}
BANDWIDTHS = (0.5, 2.0, 7.0)


def reference_mmd(x, y, bandwidths):
    """MMD² and its gradient in x, in float64."""

    def kernel(a, b):
        squares = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
        return [np.exp(-squares / (2 * bandwidth)) for bandwidth in bandwidths]

    value, gradient = 0.0, np.zeros_like(x)
    for bandwidth, xx, yy, xy in zip(bandwidths, kernel(x, x), kernel(y, y), kernel(x, y)):
        value += xx.mean() + yy.mean() - 2 * xy.mean()
        to_x, to_y = x[:, None] - x[None], x[:, None] - y[None]
        gradient -= 2 * (xx[..., None] * to_x).sum(axis=1) / (bandwidth * len(x) ** 2)
        gradient += 2 * (xy[..., None] * to_y).sum(axis=1) / (bandwidth * len(x) * len(y))
    return value, gradient


def test_mmd_and_its_gradient_against_numpy(x64):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 4)), 0.5 + rng.normal(size=(13, 4))
    found, gradient = jax.value_and_grad(losses.mmd_squared)(x, y, BANDWIDTHS)
    expected, expected_gradient = reference_mmd(x, y, BANDWIDTHS)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-14)
    # Examples of any rank are rows; a sample has no distance to itself.
    np.testing.assert_allclose(
        losses.mmd_squared(x.reshape(9, 2, 2), y.reshape(13, 2, 2), BANDWIDTHS), found, rtol=1e-12
    )
    np.testing.assert_allclose(losses.mmd_squared(x, x, BANDWIDTHS), 0, atol=1e-14)


def test_mmd_by_hand(x64):
    """x = {0, 2}, y = {1}: (2 + 2 e⁻²) / 4 + 1 − 2 e^−½ with σ = 1."""
    found = losses.mmd_squared(np.array([[0.0], [2.0]]), np.array([[1.0]]), (1.0,))
    np.testing.assert_allclose(found, 0.5 + 0.5 * np.exp(-2) + 1 - 2 * np.exp(-0.5), rtol=1e-14)


def test_mmd_of_gaussians_against_the_closed_form(x64):
    """x ~ N(0, s²), y ~ N(m, t²): E k(a, b) = Π √(σ / (σ + v)) exp(−d² / 2(σ + v)), v the variance of
    a − b; the biased estimate's expectation also has the diagonals, of k = 1.
    """
    s, t, mean, dim, size, repeats = 0.8, 1.3, 0.7, 3, 100, 400

    def expected_kernel(variance, distance, bandwidth):
        total = bandwidth + variance
        return (bandwidth / total) ** (dim / 2) * np.exp(-dim * distance**2 / (2 * total))

    expected = 0.0
    for bandwidth in BANDWIDTHS:
        within = [expected_kernel(2 * std**2, 0, bandwidth) for std in (s, t)]
        across = expected_kernel(s**2 + t**2, mean, bandwidth)
        expected += sum(1 / size + (1 - 1 / size) * k for k in within) - 2 * across

    def estimate(key):
        x, y = jax.random.normal(key, (2, size, dim))
        return losses.mmd_squared(s * x, mean + t * y, BANDWIDTHS)

    found = np.asarray(jax.lax.map(estimate, jax.random.split(jax.random.key(0), repeats)))
    error = found.std() / np.sqrt(repeats)
    assert error < 0.01 * expected
    np.testing.assert_allclose(found.mean(), expected, atol=4 * error)


# Training steps.


def unit_images(batch):
    return np.asarray(batch["image"], np.float64).reshape(len(batch["image"]), -1) / 255


def test_a_step_on_images(x64):
    """√MMD² and one update of gradient descent, with back-propagation by hand."""
    rate = 0.1
    spec = make_spec(
        "float64",
        {"mmd": aae.OptimizerSpec(name="sgd", learning_rate=rate)},
        {"decoder": "aae_jax.algorithms.gmmn:generator"},
        UNIFORM,
        algorithm="gmmn",
        options=gmmn.Options(BANDWIDTHS),
    )
    state = start(spec)
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    after, metrics = train_step(state, batch, prior_sample)
    layers = as_layers(state.params)["decoder"]
    outputs, passed = forward(layers, np.asarray(prior_sample.z))
    samples = sigmoid(outputs)
    squared, gradient = reference_mmd(samples, unit_images(batch), BANDWIDTHS)
    np.testing.assert_allclose(metrics["mmd/squared"], squared, rtol=1e-10)
    np.testing.assert_allclose(metrics["loss/mmd"], np.sqrt(squared), rtol=1e-10)
    gradient = gradient / (2 * np.sqrt(squared)) * samples * (1 - samples)
    gradients, _ = backward(layers, passed, gradient)
    for found, layer, descent in zip(as_layers(after.params)["decoder"], layers, gradients):
        for value, before, by in zip(found, layer, descent, strict=True):
            np.testing.assert_allclose(value, before - rate * by, rtol=0, atol=1e-12)


def code_spec(dtype="float32", **fields):
    fields = {"batch_size": 8, "options": gmmn.CodeOptions((1.0,), 3, (7, 5)), **fields}
    model = {
        "encoder": "aae_jax.algorithms.gmmn:sigmoid_encoder",
        "decoder": "aae_jax.algorithms.gmmn:sigmoid_decoder",
    }
    return make_spec(dtype, None, model, UNIFORM, algorithm="gmmn_autoencoder", **fields)


def sigmoids(layers, x):
    for kernel, bias in layers:
        x = sigmoid(x @ kernel + bias)
    return x


def test_a_step_on_codes(x64):
    """The encoder is used without its dropout, and only the generator moves."""
    state = start(code_spec("float64"))
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    after, metrics = train_step(state, batch, prior_sample)
    layers = as_layers(state.params)
    assert [kernel.shape for kernel, _ in layers["generator"]] == [(2, 7), (7, 5), (5, 3)]
    codes = sigmoids(layers["encoder"], unit_images(batch))
    generated = sigmoid(forward(layers["generator"], np.asarray(prior_sample.z))[0])
    expected, _ = reference_mmd(generated, codes, (1.0,))
    np.testing.assert_allclose(metrics["mmd/squared"], expected, rtol=1e-10)
    np.testing.assert_allclose(metrics["loss/mmd"], np.sqrt(expected), rtol=1e-10)
    for name in ("encoder", "decoder"):
        jax.tree.map(np.testing.assert_array_equal, after.params[name], state.params[name])
    assert (
        after.params["generator"]["Dense_0"]["kernel"]
        != state.params["generator"]["Dense_0"]["kernel"]
    ).any()
    z = np.array([[0.3, -0.9], [-1.0, 1.0]])
    images = sigmoids(layers["decoder"], sigmoid(forward(layers["generator"], z)[0]))
    np.testing.assert_allclose(aae.decode(state, z), images.reshape(2, *SHAPE), rtol=1e-10)


def test_the_root_has_a_gradient_where_the_samples_are_the_data():
    """All images are equal, and the decoder returns this image."""
    spec = make_spec(algorithm="gmmn", prior=UNIFORM)
    state = start(spec)
    flat = jax.tree.map(jnp.zeros_like, state.params)
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    batch = {**batch, "image": jnp.full((8, *SHAPE), 0.5, jnp.float32)}
    after, _ = train_step(state.replace(params=flat), batch, prior_sample)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


def test_generators_start_with_variance_one_over_fan_in():
    spec = parse_config(table1.get_config("gmmn_pixels")).spec
    layers = as_layers(aae.create_train_state(spec, jax.random.key(0)).params)["decoder"]
    assert [kernel.shape for kernel, _ in layers] == [
        (10, 64), (64, 256), (256, 256), (256, 1024), (1024, 784),
    ]  # fmt: skip
    for kernel, bias in layers:
        # Standard error of a variance of normal numbers.
        allowed = 5 * np.sqrt(2 / kernel.size)
        np.testing.assert_allclose(kernel.var() * len(kernel), 1, atol=allowed)
        assert (bias == 0).all()


# Configs and refusals.


@pytest.mark.parametrize("row", table1.VARIANTS)
def test_every_row_has_a_config_that_can_be_trained(row):
    settings = parse_config(table1.get_config(row))
    check_algorithm(settings.spec)
    assert settings.evaluation.num_samples == 10_000


@pytest.mark.parametrize("cls", [gmmn.Options, gmmn.CodeOptions])
@pytest.mark.parametrize("value", [(), (0.0,), (1.0, -2.0), (float("nan"),), (1e30,), 1.0, ("a",)])
def test_bandwidths_must_be_positive(cls, value):
    with refused("^options.bandwidths is "):
        cls(bandwidths=value)


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"autoencoder_dim": 0}, "^options.autoencoder_dim is 0: "),
        ({"generator_hidden": (4, 0)}, r"^options.generator_hidden is \(4, 0\): "),
    ],
)
def test_widths_must_be_positive(fields, match):
    with refused(match):
        gmmn.CodeOptions(**fields)


@pytest.mark.parametrize("algorithm", ["gmmn", "gmmn_autoencoder"])
def test_a_batch_of_one_is_refused(algorithm):
    with refused("^train.batch_size is 1: MMD compares batches"):
        make_spec(algorithm=algorithm, batch_size=1)


def test_soft_classes_choose_components_of_the_generator_of_codes():
    state = start(make_spec(algorithm="gmmn_autoencoder", prior={"name": "gaussian_mixture"}))
    key, label = jax.random.key(0), np.arange(30) % 10
    found = aae.generate(state, key, 30, np.eye(10, dtype=np.float32)[label])
    np.testing.assert_allclose(found, aae.generate(state, key, 30, label), rtol=1e-6)


@pytest.mark.parametrize("algorithm", ["autoencoder", "rbm"])
def test_what_a_discriminator_would_get_is_refused_without_one(algorithm):
    plain = make_spec(algorithm=algorithm)
    for field, dim in (("label_in_discriminator", 0), ("condition_in_discriminator", 2)):
        with refused(f"^model.{field} is True: algorithm '{algorithm}' has no discriminator"):
            model = dataclasses.replace(plain.model, **{field: True})
            dataclasses.replace(plain, model=model, condition_dim=dim)


def test_a_distance_of_batches_is_refused_under_pmap():
    with refused("^the loss of phase 'mmd' is one number.*: use parallel.runner 'jit'$"):
        check_algorithm(make_spec(algorithm="gmmn"), DATA_AXIS)


# Stages.


def small_row(**changes):
    """The GMMN row on the digits, a few steps of each part."""
    config = table1.get_config("gmmn")
    config.data.name, config.data.image_shape = "digits", (8, 8, 1)
    config.train.batch_size = 100
    config.run.max_steps = 3
    config.parallel.num_devices = 1
    config.evaluation.num_samples = config.evaluation.num_validation = 100
    config.options.generator_hidden = (8,)
    with config.unlocked():
        for name, value in changes.items():
            section, field = name.split(".")
            config[section][field] = value
    return config


@pytest.mark.slow
def test_one_run_trains_the_autoencoder_and_then_the_generator_of_its_codes(tmp_path):
    workdir = str(tmp_path / "table1-gmmn")
    experiment.run(small_row(), workdir, "train")
    assert sorted(os.listdir(tmp_path)) == ["table1-autoencoder", "table1-gmmn"]
    before, after = (aae.load_state(str(tmp_path / name)) for name in sorted(os.listdir(tmp_path)))
    assert before.spec.model.code_dim == 32 and after.spec.model.code_dim == 10
    for name in ("encoder", "decoder"):
        trained = inference_params(before)[name]
        jax.tree.map(np.testing.assert_array_equal, after.params[name], trained)
    experiment.run(small_row(), workdir, "evaluate")
    results = json.loads((tmp_path / "table1-gmmn" / "results.json").read_text())
    assert np.isfinite(results["parzen/log_likelihood"])
    # Another run may start from this one, though its encoder is not used after training.
    again = small_row()
    again.start_from = workdir
    experiment.run(again, str(tmp_path / "again"), "train")
    last = aae.load_state(str(tmp_path / "again"))
    for name in ("encoder", "decoder"):
        jax.tree.map(np.testing.assert_array_equal, last.params[name], after.params[name])


@pytest.mark.parametrize(
    "changes, match",
    [
        (
            {"options.autoencoder_dim": 16},
            r"a run with another encoder: Dense_1/bias is \(32,\) there, \(16,\) here",
        ),
        ({"model.decoder_hidden": (512,)}, r"another decoder: Dense_0/bias is \(1024,\) there"),
    ],
)
def test_stages_that_do_not_fit_are_refused_before_anything_is_trained(tmp_path, changes, match):
    with refused(f"^start_from is 'experiments/table1.py:autoencoder', .*{match}"):
        experiment.run(small_row(**changes), str(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_generator_of_codes_needs_an_autoencoder():
    config = table1.get_config("gmmn")
    config.start_from = None
    with refused("^start_from is None: algorithm 'gmmn_autoencoder' starts from the encoder and"):
        parse_config(config)
