"""The GAN: its game against NumPy, where its generator starts, and maxout, dropout and weights."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import Momentum, as_layers, backward, forward, sigmoid
from small import SHAPE, inputs_of_step, make_dataset, make_spec, refused, start, train_step

import aae_jax as aae
from aae_jax import data, experiment, keys, layers, networks, parallel
from aae_jax.algorithms import gan
from aae_jax.config import parse_config
from aae_jax.training import check_algorithm
from experiments import table1

PIECES = 3
UNIFORM = {"name": "uniform", "radius": 1.0}


def maxout_discriminator(spec):
    return layers.MLP((4, 5), (), pieces=PIECES, **networks.dtypes(spec))


def make_gan(dtype="float32", optimizer=None, model=None, **train):
    return make_spec(
        dtype, optimizer and {"game": optimizer}, model, UNIFORM, algorithm="gan", **train
    )


# A maxout network in NumPy.


def maxout_forward(layers, x):
    """Logits, and what `maxout_backward` needs: of each layer its input, and which piece won."""
    passed = []
    for kernel, bias in layers[:-1]:
        pieces = (x @ kernel + bias).reshape(len(x), -1, PIECES)
        passed.append((x, pieces.argmax(axis=2)))
        x = pieces.max(axis=2)
    kernel, bias = layers[-1]
    return (x @ kernel + bias)[:, 0], [*passed, (x, None)]


def maxout_backward(layers, passed, gradient):
    """Gradients of every layer and of the input, from those of the logits."""
    gradients, gradient = [None] * len(layers), gradient[:, None]
    for index in reversed(range(len(layers))):
        x, winner = passed[index]
        if winner is not None:
            gradient = gradient[:, :, None] * (np.arange(PIECES) == winner[:, :, None])
            gradient = gradient.reshape(len(x), -1)
        gradients[index] = (x.T @ gradient, gradient.sum(axis=0))
        gradient = gradient @ layers[index][0].T
    return gradients, gradient


def reference_game(layers, optimizer, x, z):
    """Both updates from one pass; the two losses."""
    size = len(x)
    outputs, passed_z = forward(layers["decoder"], z)
    samples = sigmoid(outputs)
    image_logits, of_images = maxout_forward(layers["discriminator"], x)
    sample_logits, of_samples = maxout_forward(layers["discriminator"], samples)
    loss_d = -0.5 * np.log(sigmoid(image_logits)) - 0.5 * np.log(1 - sigmoid(sample_logits))
    loss_g = -np.log(sigmoid(sample_logits))
    from_images, _ = maxout_backward(
        layers["discriminator"], of_images, 0.5 * (sigmoid(image_logits) - 1) / size
    )
    from_samples, _ = maxout_backward(
        layers["discriminator"], of_samples, 0.5 * sigmoid(sample_logits) / size
    )
    both = [(a + c, b + d) for (a, b), (c, d) in zip(from_images, from_samples)]
    _, gradient = maxout_backward(
        layers["discriminator"], of_samples, (sigmoid(sample_logits) - 1) / size
    )
    gradient = gradient * samples * (1 - samples)
    decoder, _ = backward(layers["decoder"], passed_z, gradient)
    optimizer(layers, {"decoder": decoder, "discriminator": both})
    return loss_d.mean(), loss_g.mean()


def test_the_game_is_the_numpy_one(x64):
    """Simultaneous updates, half the discriminator's loss, maxout, decay and momentum: 50 steps."""
    optimizer = aae.OptimizerSpec(
        name="sgd",
        learning_rate=0.1,
        schedule="exponential",
        decay=1.01,
        momentum_steps=(10, 40),
        momentum_values=(0.5, 0.7),
    )
    spec = make_gan("float64", optimizer, {"discriminator": maxout_discriminator})
    state, dataset = start(spec), make_dataset()
    layers = as_layers(state.params)
    assert layers.keys() == {"decoder", "discriminator"}
    momentum = Momentum(
        lambda step: 0.1 / 1.01**step, lambda step: 0.5 + 0.2 * min(max(step - 10, 0) / 30, 1)
    )
    for index in range(50):
        batch, prior_sample = inputs_of_step(state, dataset, index)
        state, metrics = train_step(state, batch, prior_sample)
        x = np.asarray(batch["image"], np.float64).reshape(8, -1) / 255
        loss_d, loss_g = reference_game(layers, momentum, x, np.asarray(prior_sample.z))
        np.testing.assert_allclose(metrics["game/discriminator"], loss_d, rtol=1e-10)
        np.testing.assert_allclose(metrics["game/generator"], loss_g, rtol=1e-10)
        np.testing.assert_allclose(metrics["loss/game"], loss_d + loss_g, rtol=1e-10)
    for name, found in as_layers(state.params).items():
        for layer, expected in zip(found, layers[name], strict=True):
            np.testing.assert_allclose(layer[0], expected[0], rtol=0, atol=1e-10)
            np.testing.assert_allclose(layer[1], expected[1], rtol=0, atol=1e-10)


def test_samples_meet_the_same_masks_in_both_losses():
    """The losses −log D and −log(1 − D) determine the logits: equal logits mean equal masks."""
    model = {
        "discriminator": "aae_jax.algorithms.gan:discriminator",
        "discriminator_hidden": (8, 8),
    }
    spec = make_gan(model=model, batch_size=2)
    state = start(spec)
    params = jax.tree.map(lambda v: 30 * v, state.params)  # logits far from zero
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    inputs = aae.Inputs(
        batch["image"] / 255.0,
        batch["image"] / 255.0,
        batch["label"],
        keys.row_keys(jax.random.key(1), 2),
        prior_sample,
        keys.row_keys(jax.random.key(2), 2),
    )

    @jax.jit
    def play(params, inputs):
        # The masks on the images are others, found again by their keys.
        image_keys = keys.fold_rows(inputs.dropout_keys, 1)
        image_logits = networks.apply(
            spec, params, "discriminator", inputs.x, None, dropout_keys=image_keys
        )
        return gan.game(spec, params, inputs)[1], image_logits

    metrics, image_logits = play(params, inputs)
    of_samples = 2 * metrics["game/discriminator"] - jax.nn.softplus(-image_logits)
    logits = -jnp.log(jnp.expm1(metrics["game/generator"]))  # softplus(−l) = g
    assert (jnp.abs(logits) > 1e-3).all()
    np.testing.assert_allclose(of_samples, jax.nn.softplus(logits), rtol=1e-4)


def test_a_game_with_dropout_is_the_same_on_one_device_a_mesh_and_under_pmap(x64):
    model = {"discriminator": "aae_jax.algorithms.gan:discriminator", "discriminator_hidden": (6,)}
    state = start(make_gan("float64", model=model))
    expected, expected_metrics = aae.train_steps(state, make_dataset(), 10)
    mesh = parallel.make_mesh()
    assert mesh.size == 8
    there, dataset = jax.device_put((state, make_dataset()), parallel.replicated(mesh))
    for found, metrics in (
        aae.train_steps(there, dataset, 10, batch_sharding=parallel.batch_sharding(mesh)),
        parallel.pmap_train_steps(state, make_dataset(), 10),
    ):
        chex.assert_trees_all_close(found.params, expected.params, rtol=0, atol=1e-9)
        chex.assert_trees_all_close(metrics, expected_metrics, rtol=0, atol=1e-9)


# Networks.


def test_maxout_by_hand():
    module = layers.MLP((2,), (1,), jnp.float32, jnp.float32, pieces=2)
    params = {
        # Unit 1 is the larger of a and −a, unit 2 of b − 1 and 2.
        "Dense_0": {
            "kernel": jnp.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),
            "bias": jnp.array([0.0, 0.0, -1.0, 2.0]),
        },
        "Dense_1": {"kernel": jnp.array([[1.0], [10.0]]), "bias": jnp.array([0.5])},
    }
    x = jnp.array([[3.0, 5.0], [-4.0, 0.0], [0.0, 3.0]])
    found = module.apply({"params": params}, x)
    np.testing.assert_array_equal(found[:, 0], [3 + 40 + 0.5, 4 + 20 + 0.5, 0 + 20 + 0.5])


def test_dropout_of_inputs_and_of_hidden_units():
    """Kept inputs are multiplied by 1 / 0.8, kept hidden units by 1 / 0.5; nothing without keys."""
    eye = {"kernel": jnp.eye(1_000), "bias": jnp.zeros(1_000)}
    ones = jnp.ones((4, 1_000))
    for fields, hidden, share in (
        ({"input_dropout": 0.2}, (), 0.8),
        ({"hidden_dropout": 0.5}, (1_000,), 0.5),
    ):
        module = layers.MLP(hidden, (1_000,), jnp.float32, jnp.float32, **fields)
        params = {f"Dense_{i}": eye for i in range(len(hidden) + 1)}
        np.testing.assert_array_equal(module.apply({"params": params}, ones), ones)
        found = module.apply({"params": params}, ones, rngs={"dropout": jax.random.key(0)})
        np.testing.assert_allclose(np.unique(found), [0, 1 / share], rtol=1e-6)
        allowed = 6 * np.sqrt(share * (1 - share) / found.size)
        np.testing.assert_allclose((found > 0).mean(), share, atol=allowed)


def test_networks_start_as_their_authors_have_them():
    """Widths, and weights whose largest is just within its bound; biases are zero."""
    spec = parse_config(table1.get_config("gan")).spec
    params = aae.create_train_state(spec, jax.random.key(0)).params
    for name, shapes, limit in (
        ("decoder", [(100, 1200), (1200, 1200), (1200, 784)], 0.05),
        ("discriminator", [(784, 1200), (240, 1200), (240, 1)], 0.005),
    ):
        layers = as_layers(params)[name]
        assert [kernel.shape for kernel, _ in layers] == shapes
        for kernel, bias in layers:
            assert 0.95 * limit < np.abs(kernel).max() <= limit
            # Standard error of a mean of uniform numbers.
            assert abs(kernel.mean()) < 5 * limit / np.sqrt(3 * kernel.size)
            assert (bias == 0).all()


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
def test_the_generator_starts_at_the_mean_image(output):
    """With weights of zero its samples are the mean; a pixel that is never on starts at 1e-7."""
    spec = make_gan(model={"output": output})
    mean = np.linspace(0, 1, 12).reshape(SHAPE)
    state = aae.create_train_state(spec, jax.random.key(0), image_mean=mean)
    drawn = start(spec)
    bias = state.params["decoder"]["Dense_1"]["bias"]
    if output == "sigmoid":
        np.testing.assert_allclose(bias[0], -16.118, atol=1e-3)  # ln 1e-7
        inner = mean.ravel()[1:-1]
        np.testing.assert_allclose(bias[1:-1], np.log(inner / (1 - inner)), rtol=1e-5)
    flat = jax.tree.map(jnp.zeros_like, state.params["decoder"])
    flat["Dense_1"]["bias"] = bias
    samples = aae.generate(state.replace(params={**state.params, "decoder": flat}), drawn.rng, 3)
    np.testing.assert_allclose(samples, np.broadcast_to(mean, (3, *SHAPE)), atol=1e-6)
    # All else is as it was drawn.
    back = {
        **state.params["decoder"]["Dense_1"],
        "bias": drawn.params["decoder"]["Dense_1"]["bias"],
    }
    params = {**state.params, "decoder": {**state.params["decoder"], "Dense_1": back}}
    chex.assert_trees_all_equal(params, drawn.params)


def test_the_mean_is_in_the_networks_units():
    spec = make_gan(model={"output": "linear"})
    mean, std = np.full(SHAPE, 0.4), np.full(SHAPE, 0.5)
    state = aae.create_train_state(spec, jax.random.key(0), mean, std, mean)
    assert (state.params["decoder"]["Dense_1"]["bias"] == 0).all()  # standardised, it is 0


def test_a_run_starts_its_generator_at_the_mean_of_its_training_images(tmp_path):
    config = table1.get_config("gan")
    config.data.name, config.data.image_shape = "digits", (8, 8, 1)
    config.model.decoder_hidden = config.model.discriminator_hidden = (8,)
    config.optimizer.game.learning_rate = 1e-12
    config.run.max_steps = 1
    config.parallel.num_devices = 1
    config.evaluation.num_validation = 100
    experiment.run(config, str(tmp_path / "run"), "train")
    bias = aae.load_state(str(tmp_path / "run")).params["decoder"]["Dense_1"]["bias"]
    images = data.load(parse_config(config).data).train["image"]
    mean = images.astype(np.float64).mean(axis=0).ravel().clip(1e-7, 1 - 1e-7)
    np.testing.assert_allclose(bias, np.log(mean / (1 - mean)), atol=1e-4)


def test_samples_come_from_moving_averages_of_the_generator():
    """A decay of 0.1, which is never above (1 + step) / (10 + step)."""
    spec, dataset = make_gan(ema_decay=0.1), make_dataset()
    state = start(spec)
    average = state.params["decoder"]
    for _ in range(5):
        state, _ = aae.train_steps(state, dataset, 1)
        average = jax.tree.map(lambda v, new: 0.1 * v + 0.9 * new, average, state.params["decoder"])
    alone = state.replace(params={**state.params, "decoder": average}, ema_params=None)
    expected = aae.generate(alone, jax.random.key(3), 4)
    np.testing.assert_allclose(aae.generate(state, jax.random.key(3), 4), expected, rtol=1e-5)
    assert state.ema_params.keys() == {"decoder"}
    assert parse_config(table1.get_config("gan")).spec.train.ema_decay == 0.9998


# Refusals.


@pytest.mark.parametrize("algorithm", ["gan", "gmmn", "gmmn_autoencoder"])
@pytest.mark.parametrize(
    "fields, match",
    [
        ({"model": {"label_in_decoder": True}}, "^model.label_in_decoder is True: .* no labels$"),
        ({"model": {"label_in_discriminator": True}}, "^model.label_in_discriminator is True"),
        ({"input_noise": 0.3}, "^train.input_noise is 0.3: .* trains no encoder$"),
        (
            {"prior": {"name": "swiss_roll"}, "model": {"code_dim": 3}},
            "2-D, but model.code_dim is 3$",
        ),
        ({"prior": {"name": "uniform", "radius": -1.0}}, "^prior.radius is -1.0: "),
    ],
)
def test_what_a_generator_has_no_use_for_is_refused(algorithm, fields, match):
    with refused(match):
        make_spec(algorithm=algorithm, **fields)


@pytest.mark.parametrize("name", ["gan", "gmmn", "gmmn_autoencoder"])
def test_nothing_is_encoded(name):
    state = start(make_spec(algorithm=name))
    with refused(f"^algorithm '{name}' has no 'encode'$"):
        aae.encode(state, make_dataset()["image"])
    assert aae.decode(state, jnp.zeros((3, 2))).shape == (3, *SHAPE)


def test_an_encoder_of_codes_is_no_discriminator_of_images():
    with refused("model.discriminator returns shape .2, 3. for a batch of 2: it must return .2,."):
        check_algorithm(
            make_gan(model={"discriminator": lambda spec: networks.mlp_encoder(spec, 3)})
        )
