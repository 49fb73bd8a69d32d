"""Creation, pixels in and out, and the functions that use a trained model."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import forward, layers_of, sigmoid
from small import SHAPE, make_dataset, make_spec, start

import aae_jax as aae
from aae_jax.train_state import take_networks


def test_networks_against_numpy():
    state = start(make_spec())
    images = make_dataset()["image"]
    x = np.asarray(images, np.float64).reshape(20, -1) / 255
    z, _ = forward(layers_of(state.params["encoder"]), x)
    np.testing.assert_allclose(aae.encode(state, images), z, atol=1e-5)
    x_hat, _ = forward(layers_of(state.params["decoder"]), z)
    expected = sigmoid(x_hat).reshape(20, *SHAPE)
    np.testing.assert_allclose(aae.decode(state, jnp.asarray(z)), expected, atol=1e-5)
    np.testing.assert_allclose(aae.reconstruct(state, images), expected, atol=1e-5)


def test_a_model_with_averages_is_used_with_them():
    averaged = start(make_spec(ema_decay=0.5))
    averaged, _ = aae.train_steps(averaged, make_dataset(), 3)
    plain = start(make_spec(), 1)
    plain = plain.replace(params={**plain.params, **averaged.ema_params})
    images, key = make_dataset()["image"], jax.random.key(2)
    for use in (
        lambda state: aae.encode(state, images),
        lambda state: aae.reconstruct(state, images),
        lambda state: aae.generate(state, key, 5),
    ):
        np.testing.assert_array_equal(use(averaged), use(plain))
        assert np.abs(use(averaged) - use(averaged.replace(ema_params=None))).max() > 1e-4


def test_paper_sizes():
    """784-1000-1000-8 and 8-1000-1000-1: footnote 1. Checkpoints hold the layers by name."""
    state = jax.eval_shape(lambda: aae.create_train_state(aae.Spec((28, 28, 1)), jax.random.key(0)))
    shapes = {
        name: {layer: network[layer]["kernel"].shape for layer in network}
        for name, network in state.params.items()
    }
    layers = ("Dense_0", "Dense_1", "Dense_2")
    assert shapes == {
        "encoder": dict(zip(layers, [(784, 1000), (1000, 1000), (1000, 8)])),
        "decoder": dict(zip(layers, [(8, 1000), (1000, 1000), (1000, 784)])),
        "discriminator": dict(zip(layers, [(8, 1000), (1000, 1000), (1000, 1)])),
    }


def test_he_initialisation():
    wide = {f"{name}_hidden": (300, 300) for name in ("encoder", "decoder", "discriminator")}
    state = start(make_spec(model={"code_dim": 40, **wide}))
    for network in state.params.values():
        for layer in network.values():
            if layer["kernel"].size > 10_000:
                expected = np.sqrt(2 / layer["kernel"].shape[0])
                np.testing.assert_allclose(np.std(layer["kernel"]), expected, rtol=0.05)
            assert (layer["bias"] == 0).all()


def test_uint8_and_unit_floats_are_the_same_image():
    state = start(make_spec())
    images = make_dataset()["image"]
    chex.assert_trees_all_close(
        aae.encode(state, images), aae.encode(state, images.astype(jnp.float32) / 255), atol=1e-6
    )


def test_seeds_differ_and_repeat():
    states = [aae.create_train_state(make_spec(), jax.random.key(seed)) for seed in (0, 0, 1)]
    chex.assert_trees_all_equal(states[0].params, states[1].params)
    kernels = [state.params["encoder"]["Dense_0"]["kernel"] for state in states]
    assert (kernels[0] != kernels[2]).all()


def linear_spec():
    return make_spec(model={"output": "linear"})


def test_standardised_pixels_go_in_and_come_back():
    mean = np.linspace(0.2, 0.6, 12).reshape(SHAPE)
    std = np.linspace(0.1, 0.3, 12).reshape(SHAPE)
    state = aae.create_train_state(linear_spec(), jax.random.key(0), mean, std)
    images = make_dataset()["image"]
    x = ((np.asarray(images, np.float64) / 255 - mean) / std).reshape(20, -1)
    z, _ = forward(layers_of(state.params["encoder"]), x)
    np.testing.assert_allclose(aae.encode(state, images), z, atol=1e-4)
    x_hat, _ = forward(layers_of(state.params["decoder"]), z)
    expected = x_hat.reshape(20, *SHAPE) * std + mean
    np.testing.assert_allclose(aae.reconstruct(state, images), expected, atol=1e-4)


def test_standardisation_refuses_half_of_it_and_a_sigmoid():
    mean = np.zeros(SHAPE)
    with pytest.raises(aae.UserError, match="give both or none"):
        aae.create_train_state(linear_spec(), jax.random.key(0), pixel_mean=mean)
    with pytest.raises(aae.UserError, match="'linear'"):
        aae.create_train_state(make_spec(), jax.random.key(0), mean, mean + 1)


def test_gaussian_prior():
    sample = aae.sample_prior(make_spec(), jax.random.key(0), 50_000)
    assert sample.z.shape == (50_000, 2) and sample.label.dtype == jnp.int32
    assert (sample.label == -1).all()
    np.testing.assert_allclose(sample.z.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(sample.z.T), 4 * np.eye(2), atol=0.1)
    with pytest.raises(aae.UserError, match="prior 'gaussian' has no components"):
        aae.sample_prior(make_spec(), jax.random.key(0), 3, label=7)


def test_generate_is_the_decoder_over_the_prior():
    state = start(make_spec())
    key = jax.random.key(9)
    samples = aae.generate(state, key, 5)
    assert samples.shape == (5, *SHAPE)
    expected = aae.decode(state, aae.sample_prior(state.spec, key, 5).z)
    np.testing.assert_array_equal(samples, expected)


def test_labels_and_images_that_would_be_ignored_or_misread_are_refused():
    state = start(make_spec())
    with pytest.raises(aae.UserError, match="neither prior 'gaussian' nor the decoder"):
        aae.generate(state, jax.random.key(0), 3, label=1)
    with pytest.raises(aae.UserError, match="model.label_in_decoder is False"):
        aae.decode(state, jnp.zeros((3, 2)), label=1)
    with pytest.raises(aae.UserError, match="images are int32: give uint8, or floats"):
        aae.encode(state, make_dataset()["image"].astype(jnp.int32))


def test_networks_are_drawn_independently():
    model = {"encoder_hidden": (12,), "decoder_hidden": (12,), "discriminator_hidden": (12,)}
    state = start(make_spec(model={"code_dim": 12, **model}))
    kernels = [state.params[name]["Dense_0"]["kernel"][:12, :12] for name in state.params]
    assert (kernels[0] != kernels[1]).all() and (kernels[1] != kernels[2]).all()


def test_networks_are_taken_from_another_training():
    """As in a run that starts from another one: averages start from the taken parameters."""
    state = start(make_spec(ema_decay=0.5))
    other = {name: start(make_spec(), 1).params[name] for name in ("encoder",)}
    for found in (take_networks(state, other), take_networks(start(make_spec()), other)):
        chex.assert_trees_all_equal(found.params["encoder"], other["encoder"])
        for name in ("decoder", "discriminator"):
            chex.assert_trees_all_equal(found.params[name], state.params[name])
        if found.ema_params is not None:
            chex.assert_trees_all_equal(
                found.ema_params, {name: found.params[name] for name in ("encoder", "decoder")}
            )


def test_state_is_a_pytree_with_a_static_spec():
    state = start(make_spec())
    assert jax.tree.structure(state) == jax.tree.structure(start(make_spec(), 1))
    assert state.spec not in jax.tree.leaves(state)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.step = 3
