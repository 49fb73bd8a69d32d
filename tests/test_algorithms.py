"""A user's algorithms: trained and used, or refused if they are invalid."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import as_layers, forward, sigmoid
from small import SHAPE, inputs_of_step, make_dataset, make_spec, refused, start, train_step

import aae_jax as aae
from aae_jax import keys, networks, parallel, posteriors
from aae_jax.algorithms import autoencoder
from aae_jax.config import parse_config
from aae_jax.parallel import DATA_AXIS, pmap_train_step, pmap_train_steps
from aae_jax.training import check_algorithm
from experiments import default

# A Wasserstein autoencoder with an MMD penalty (Tolstikhin et al. 2018): its loss is one number for
# the whole batch.


@dataclasses.dataclass(frozen=True)
class Options:
    weight: float = 10.0


def mmd(z, prior_z):
    """The biased estimate of MMD² under the kernel 1 / (1 + ‖a − b‖²)."""

    def kernel(a, b):
        return 1 / (1 + ((a[:, None] - b[None]) ** 2).sum(axis=-1))

    return kernel(z, z).mean() + kernel(prior_z, prior_z).mean() - 2 * kernel(z, prior_z).mean()


def wasserstein(spec, params, inputs):
    z = autoencoder.encode(spec, params, inputs.x_noisy, inputs.row_keys)
    outputs = autoencoder.decoder_outputs(spec, params, z, inputs.label)
    reconstruction = autoencoder.reconstruction_loss(spec, outputs, inputs.x).mean()
    distance = mmd(z, inputs.prior_sample.z)
    return reconstruction + spec.options.weight * distance, {"wae/mmd": distance}


WAE = aae.Algorithm(
    networks=autoencoder.encoder_and_decoder,
    phases=(aae.Phase("wae", ("encoder", "decoder"), wasserstein),),
    sample=autoencoder.sample,
    encode=autoencoder.encode,
    decode=autoencoder.decode,
    options=Options,
    figures=autoencoder.FIGURES,
)


def test_a_loss_of_the_whole_batch_is_what_it_says(x64):
    state = start(make_spec("float64", algorithm=WAE, options=Options(3.0)))
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    after, metrics = train_step(state, batch, prior_sample)
    layers = as_layers(state.params)
    x = np.asarray(batch["image"], np.float64).reshape(8, -1) / 255
    z, _ = forward(layers["encoder"], x)
    x_hat = sigmoid(forward(layers["decoder"], z)[0])
    both = np.concatenate([z, prior_sample.z])
    kernel = 1 / (1 + ((both[:, None] - both) ** 2).sum(axis=-1))
    sign = np.repeat([1, -1], 8) / 8
    distance = sign @ kernel @ sign
    loss = 0.5 * ((x_hat - x) ** 2).sum(axis=1).mean() + 3 * distance
    np.testing.assert_allclose(metrics["wae/mmd"], distance, rtol=1e-10)
    np.testing.assert_allclose(metrics["loss/wae"], loss, rtol=1e-10)
    # The penalty reaches the encoder.
    free = start(make_spec("float64", algorithm=WAE, options=Options(0.0)))
    without, _ = train_step(free, batch, prior_sample)
    kernels = [s.params["encoder"]["Dense_0"]["kernel"] for s in (after, without)]
    assert (kernels[0] != kernels[1]).any()


def test_a_loss_of_the_whole_batch_is_the_same_on_eight_devices(x64):
    state, dataset = start(make_spec("float64", algorithm=WAE)), make_dataset()
    expected, expected_metrics = aae.train_steps(state, dataset, 20)
    mesh = parallel.make_mesh()
    assert mesh.size == 8
    state, dataset = jax.device_put((state, dataset), parallel.replicated(mesh))
    found, metrics = aae.train_steps(
        state, dataset, 20, batch_sharding=parallel.batch_sharding(mesh)
    )
    chex.assert_trees_all_close(found.params, expected.params, rtol=0, atol=1e-9)
    chex.assert_trees_all_close(metrics, expected_metrics, rtol=0, atol=1e-9)


def test_a_loss_of_the_whole_batch_is_refused_under_pmap():
    spec = make_spec(algorithm=WAE)
    state, dataset = start(spec), make_dataset()
    inputs = inputs_of_step(state, dataset, 0)
    check_algorithm(spec)
    for use in (
        lambda: check_algorithm(spec, DATA_AXIS),
        lambda: pmap_train_step(state, *inputs),
        lambda: pmap_train_steps(state, dataset, 2),
        lambda: jax.vmap(
            lambda *rows: aae.train_step(state, *rows, axis_name="own"), axis_name="own"
        )(*jax.tree.map(lambda v: v[None], inputs)),
    ):
        with refused("^the loss of phase 'wae' is one number.*: use parallel.runner 'jit'$"):
            use()
    # A mean over rows is not.
    check_algorithm(make_spec(), DATA_AXIS)


def test_an_algorithm_of_the_users_is_named_in_a_config():
    config = default.get_config()
    config.algorithm = "test_algorithms:WAE"
    config.options.weight = 3.0
    default.change_optimizer(config, "wae", learning_rate=0.5)
    made = parse_config(config).spec
    assert made.algorithm is WAE and made.options == Options(3.0)
    assert dict(made.optimizer)["wae"] == aae.OptimizerSpec(learning_rate=0.5)
    config.options.width = 3.0
    with refused("options.width is not a field; the fields are: weight"):
        parse_config(config)


def make_algorithm(**changes):
    """The adversarial autoencoder with some of its parts replaced."""
    return make_spec().algorithm._replace(**changes)


def phase_of(loss):
    return (aae.Phase("own", ("encoder", "decoder"), loss),)


@pytest.mark.parametrize(
    "loss, match",
    [
        (
            lambda spec, params, inputs: (inputs.x.reshape(len(inputs.x), -1), {}),
            r"the loss of phase 'own' has shape \(2, 12\): it must be \(2,\), one .* or \(\)",
        ),
        (
            lambda spec, params, inputs: (inputs.prior_sample.z[:1, 0], {}),
            r"the loss of phase 'own' has shape \(1,\)",
        ),
    ],
    ids=["pixels", "one row"],
)
def test_losses_of_another_shape_are_refused(loss, match):
    with refused(match):
        check_algorithm(make_spec(algorithm=make_algorithm(phases=phase_of(loss))))


PHASE = aae.Phase("own", ("encoder",), lambda spec, params, inputs: (0.0, {}))


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"phases": ()}, "has the phases .none.: it needs at least one"),
        ({"phases": (PHASE, PHASE)}, "has the phases own, own: .*and their names must differ$"),
        (
            {"phases": (PHASE._replace(trains=("encoder", "critic")),)},
            "^phase 'own' trains .*'critic'.*: .* among encoder, decoder, discriminator$",
        ),
        ({"phases": (PHASE._replace(trains="encoder"),)}, "^phase 'own' trains 'encoder': .*tuple"),
        (
            {"phases": (PHASE._replace(loss=lambda spec, params, inputs: 0.0),)},
            r"^the loss of phase 'own' must return \(loss, metrics by name\)$",
        ),
        ({"networks": lambda spec: ["encoder"]}, "^the networks of algorithm .* must be a dict"),
        ({"options": dict}, "has the options <class 'dict'>: they must be a frozen dataclass$"),
    ],
    ids=[
        "none",
        "twice",
        "of another network",
        "no tuple",
        "no metrics",
        "no dict",
        "no dataclass",
    ],
)
def test_algorithms_that_do_not_fit_are_one_line(changes, match):
    with refused(match):
        check_algorithm(make_spec(algorithm=make_algorithm(**changes)))


def test_phases_see_images_and_may_give_metrics_of_rows_or_of_the_batch():
    def loss(spec, params, inputs):
        assert inputs.x.shape == inputs.x_noisy.shape == (8, *SHAPE)
        rows = jnp.arange(8.0)
        return rows, {"own/rows": rows, "own/batch": jnp.float32(7)}

    state = start(make_spec(algorithm=make_algorithm(phases=phase_of(loss))))
    _, metrics = train_step(state, *inputs_of_step(state, make_dataset(), 0))
    assert metrics == {"loss/own": 3.5, "own/rows": 3.5, "own/batch": 7.0}


def test_phases_run_in_their_order_each_on_what_the_last_one_left():
    """Two phases of one network: the second loss uses the parameters that the first updated."""

    def bias(spec, params, inputs):
        value = params["decoder"]["Dense_1"]["bias"].sum()
        return value * jnp.ones(8), {}

    def negative(spec, params, inputs):
        return -bias(spec, params, inputs)[0], {}

    descent = aae.OptimizerSpec(name="sgd", learning_rate=0.5)
    phases = (
        aae.Phase("down", ("decoder",), bias, descent),
        aae.Phase("up", ("decoder",), negative, descent),
    )
    state = start(make_spec(algorithm=make_algorithm(phases=phases)))
    after, metrics = train_step(state, *inputs_of_step(state, make_dataset(), 0))
    assert metrics == {"loss/down": 0.0, "loss/up": 6.0}  # 12 pixels, down by 0.5 each
    chex.assert_trees_all_close(after.params, state.params, atol=1e-6)


@pytest.mark.parametrize(
    "sample, match",
    [
        (
            lambda spec, params, key, n, label, start: jnp.zeros((n, 12)),
            r"samples shape \(2, 12\) when 2 are asked for: it must be \(2, 3, 4, 1\)",
        ),
        (
            lambda spec, params, key, n, label, start: jnp.zeros((1, *SHAPE)),
            r"samples shape \(1, 3, 4, 1\)",
        ),
    ],
    ids=["flat", "one"],
)
def test_samples_of_another_shape_are_refused(sample, match):
    with refused(match):
        check_algorithm(make_spec(algorithm=make_algorithm(sample=sample)))


# Without an encoder, and with functions of its own.


def generator_networks(spec):
    module = networks.make("model.decoder", spec.model.decoder, spec)
    return {"generator": networks.Network(module, ((spec.model.code_dim,), None))}


def generator_sample(spec, params, key, n, label, start):
    z = aae.sample_prior(spec, key, n).z
    return jax.nn.sigmoid(networks.apply(spec, params, "generator", z, None))


def match_the_mean(spec, params, inputs):
    outputs = networks.apply(spec, params, "generator", inputs.prior_sample.z, None)
    return jnp.sum((jax.nn.sigmoid(outputs).mean(axis=0) - inputs.x.mean(axis=0)) ** 2), {}


GENERATOR = aae.Algorithm(
    networks=generator_networks,
    phases=(
        aae.Phase("mean", ("generator",), match_the_mean, aae.OptimizerSpec(learning_rate=1e-2)),
    ),
    sample=generator_sample,
)


def test_an_algorithm_without_an_encoder():
    spec = make_spec(algorithm=GENERATOR, batch_size=20)
    check_algorithm(spec)
    state, metrics = aae.train_steps(start(spec), make_dataset(), 20)
    loss = np.asarray(metrics["loss/mean"])
    assert loss[-5:].mean() < 0.8 * loss[:5].mean()
    images = make_dataset()["image"]
    for use, name in (
        (lambda: aae.encode(state, images), "encode"),
        (lambda: aae.reconstruct(state, images), "encode"),
        (lambda: aae.decode(state, jnp.zeros((3, 2))), "decode"),
        (lambda: aae.classify(state, images), "classify"),
    ):
        with refused(f"^algorithm .* has no '{name}'$"):
            use()
    test = {name: np.asarray(values) for name, values in make_dataset().items()}
    assert aae.diagnose(state, test, jax.random.key(0)) == {}
    samples = aae.sampler(state)(jax.random.key(1), 7)
    expected = aae.generate(state, jax.random.key(1), 7)
    np.testing.assert_allclose(samples, expected.reshape(7, 12), atol=1e-6)
    evaluation = aae.EvaluationSpec(100, num_validation=None, sigmas=(0.3,))
    found = aae.evaluate(aae.sampler(state), [(test, test)], evaluation, jax.random.key(0))
    assert np.isfinite(found["parzen/log_likelihood"])


def half_grey(spec, params, x, row_keys, label):
    return jnp.full_like(x, 0.5)


def by_brightness(spec, params, x):
    dark = x.reshape(len(x), -1).mean(axis=1)
    return jnp.stack([dark, 1 - dark], axis=1)


def test_functions_of_the_algorithms_own_are_used():
    algorithm = make_algorithm(
        reconstruct=half_grey,
        classify=by_brightness,
        diagnose=lambda state, test, key: {"own/number": len(test["image"])},
    )
    state = start(make_spec(algorithm=algorithm))
    test = {name: np.asarray(values) for name, values in make_dataset().items()}
    np.testing.assert_array_equal(aae.reconstruct(state, test["image"]), np.full((20, *SHAPE), 0.5))
    found = aae.diagnose(state, test, jax.random.key(0))
    error = 0.5 * ((test["image"] / 255 - 0.5) ** 2).sum(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(found["reconstruction/half_squared_error"], error, rtol=1e-5)
    assert found["own/number"] == 20 and "code/std" in found
    mean = test["image"].reshape(20, -1).mean(axis=1) / 255
    expected = np.stack([mean, 1 - mean], axis=1)
    np.testing.assert_allclose(aae.classify(state, test["image"]), expected, atol=1e-6)


def test_a_check_of_the_algorithms_own_refuses_its_specs():
    def check(spec):
        if spec.model.code_dim != 3:
            raise aae.UserError("model.code_dim must be 3")

    with refused("^model.code_dim must be 3$"):
        make_spec(algorithm=make_algorithm(check=check))
    make_spec(algorithm=make_algorithm(check=check), model={"code_dim": 3})


# Posteriors of the user's own.


def blurred(spec, encoder, x, row_keys):
    """N(f(x), 0.1²)."""
    mean = encoder(x, None)
    if row_keys is None:
        return mean
    return mean + 0.1 * keys.row_normal(row_keys, spec.model.code_dim, mean.dtype)


BLURRED = aae.Posterior(num_outputs=lambda spec: spec.model.code_dim, sample=blurred)


def test_a_posterior_by_import_path():
    spec = make_spec(model={"posterior": "test_algorithms:BLURRED"})
    assert spec.model.posterior is BLURRED
    check_algorithm(spec)
    state, metrics = aae.train_steps(start(spec), make_dataset(), 5)
    assert np.isfinite(metrics["loss/generator"]).all()
    # It trains on draws, not on means.
    plain, _ = aae.train_steps(start(make_spec()), make_dataset(), 5)
    kernels = [s.params["encoder"]["Dense_0"]["kernel"] for s in (plain, state)]
    assert (kernels[0] != kernels[1]).any()
    images = jnp.tile(make_dataset()["image"], (100, 1, 1, 1))
    mean = np.asarray(aae.encode(state, images))
    layers = as_layers(state.params)["encoder"]
    x = np.asarray(images).reshape(2_000, -1) / 255
    np.testing.assert_allclose(mean, forward(layers, x)[0], atol=1e-5)
    noise = np.asarray(aae.encode(state, images, jax.random.key(0))) - mean
    np.testing.assert_allclose(noise.std(axis=0), 0.1, rtol=0.1)
    assert len(np.unique(noise.round(6), axis=0)) > 1_990


@pytest.mark.parametrize(
    "posterior, match",
    [
        (
            BLURRED._replace(num_outputs=lambda spec: 5, sample=posteriors.deterministic),
            r"^model.posterior returns codes of shape \(2, 5\): they must be .*, \(2, 2\)$",
        ),
        (
            BLURRED._replace(sample=lambda spec, encoder, x, row_keys: 1 // 0),
            "^model.posterior fails with ZeroDivisionError",
        ),
        (BLURRED._replace(sample=lambda x: x), "^model.posterior fails with TypeError"),
    ],
    ids=["shape", "raises", "arguments"],
)
def test_posteriors_that_do_not_fit_are_one_line(posterior, match):
    with refused(match):
        check_algorithm(make_spec(model={"posterior": posterior}))


# Reconstruction losses.


def absolute_error(x_hat, x):
    return jnp.abs(x_hat - x).reshape(len(x), -1).sum(axis=1)


def bernoulli(x_hat, x):
    return -(x * np.log(x_hat) + (1 - x) * np.log(1 - x_hat)).sum(axis=1)


LOSSES = {
    "squared_error": lambda x_hat, x: 0.5 * ((x_hat - x) ** 2).sum(axis=1),
    "bernoulli": bernoulli,
    "test_algorithms:absolute_error": lambda x_hat, x: np.abs(x_hat - x).sum(axis=1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_reconstruction_losses_against_numpy(x64, name):
    state = start(make_spec("float64", model={"reconstruction": name}))
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    _, metrics = train_step(state, batch, prior_sample)
    layers = as_layers(state.params)
    x = np.asarray(batch["image"], np.float64).reshape(8, -1) / 255
    x_hat = sigmoid(forward(layers["decoder"], forward(layers["encoder"], x)[0])[0])
    np.testing.assert_allclose(
        metrics["loss/reconstruction"], LOSSES[name](x_hat, x).mean(), rtol=1e-10
    )


def test_a_loss_sees_pixels_as_the_networks_do():
    """With a linear output x_hat is the decoder's output as it is."""
    spec = make_spec(model={"reconstruction": absolute_error, "output": "linear"})
    state = start(spec)
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    _, metrics = train_step(state, batch, prior_sample)
    layers = as_layers(state.params)
    x = np.asarray(batch["image"], np.float64).reshape(8, -1) / 255
    x_hat, _ = forward(layers["decoder"], forward(layers["encoder"], x)[0])
    expected = np.abs(x_hat - x).sum(axis=1).mean()
    np.testing.assert_allclose(metrics["loss/reconstruction"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "function, match",
    [
        (lambda x_hat, x: jnp.abs(x_hat - x).sum(), r"^model.reconstruction returns .* for a"),
        (lambda x_hat, x: x_hat - x, r"^model.reconstruction returns shape \(2, 3, 4, 1\) "),
        (lambda x_hat: x_hat, "^model.reconstruction fails with TypeError"),
        (lambda x_hat, x: 1 // 0, "^model.reconstruction fails with ZeroDivisionError"),
    ],
    ids=["batch", "pixels", "arguments", "raises"],
)
def test_reconstruction_losses_that_do_not_fit_are_one_line(function, match):
    with refused(match):
        check_algorithm(make_spec(model={"reconstruction": function}))


def test_bernoulli_needs_probabilities():
    with refused("model.output is 'linear'.*'bernoulli' needs 'sigmoid'"):
        make_spec(model={"reconstruction": "bernoulli", "output": "linear"})


def test_a_variational_autoencoder_with_a_gaussian_decoder_by_hand(x64):
    spec = make_spec("float64", algorithm="vae", model={"reconstruction": "squared_error"})
    state = start(spec)
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    _, metrics = train_step(state, batch, prior_sample)
    layers = as_layers(state.params)
    x = np.asarray(batch["image"], np.float64).reshape(8, -1) / 255
    outputs, _ = forward(layers["encoder"], x)
    mean, std = outputs[:, :2], np.exp(outputs[:, 2:] / 2)
    rows = keys.row_keys(keys.stream(state.rng, keys.POSTERIOR, 0), 8)
    z = mean + std * np.stack([jax.random.normal(row, (2,), jnp.float64) for row in rows])
    x_hat = sigmoid(forward(layers["decoder"], z)[0])
    # KL(N(m, s²) ‖ N(0, S²)), and −log N(x; x_hat, I) without its constant.
    kl = (np.log(2.0 / std) + (std**2 + mean**2) / (2 * 2.0**2) - 0.5).sum(axis=1)
    expected = 0.5 * ((x_hat - x) ** 2).sum(axis=1) + kl
    np.testing.assert_allclose(metrics["loss/elbo"], expected.mean(), rtol=1e-10)


def test_the_name_alone_makes_a_variational_autoencoder():
    config = default.get_config()
    config.algorithm = "vae"
    made = aae.spec_from_config(config)
    assert made == aae.Spec((28, 28, 1), algorithm="vae")
    assert made.model.posterior is posteriors.GAUSSIAN and made.model.reconstruction.on_logits
    check_algorithm(made)
