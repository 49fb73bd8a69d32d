"""The contractive autoencoder: its penalty, its step and its layers against Jacobians and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from reference import sigmoid
from small import inputs_of_step, make_dataset, make_spec, start, train_step

import aae_jax as aae
from aae_jax.algorithms import contractive
from aae_jax.config import parse_config
from experiments import table1

OPTIONS = contractive.Options(hidden=(5, 4), contraction=0.3, noise=0.7)


def make_state(name, **fields):
    return start(make_spec("float64", algorithm=name, options=OPTIONS, **fields))


def layer_of(state, name):
    layer = {key: np.asarray(value) for key, value in state.params[name].items()}
    return layer["kernel_0"], layer["bias_1"], layer["bias_0"]


def with_biases(state):
    """The state with biases that are not zero."""
    rng = np.random.default_rng(1)

    def change(path, leaf):
        return leaf + rng.normal(size=leaf.shape) if "bias" in jax.tree_util.keystr(path) else leaf

    return state.replace(params=jax.tree_util.tree_map_with_path(change, state.params))


def test_the_penalty_is_the_squared_norm_of_the_jacobian(x64):
    state = with_biases(make_state("cae"))
    x = np.random.default_rng(0).uniform(size=(6, 12))

    def encode(row):
        return contractive.encode(state.spec, state.params, row[None])[0]

    jacobians = jax.vmap(jax.jacfwd(encode))(x)
    assert jacobians.shape == (6, 5, 12)
    h = jax.vmap(encode)(x)
    np.testing.assert_allclose(
        contractive.penalty(state.params["layer_1"], h), (jacobians**2).sum(axis=(1, 2)), rtol=1e-12
    )


def reference_loss(layer, x):
    """Cross-entropy and λ ‖J‖² of a layer, each row's Jacobian written out."""
    kernel, hidden_bias, visible_bias = layer
    h = sigmoid(x @ kernel + hidden_bias)
    x_hat = sigmoid(h @ kernel.T + visible_bias)
    cross_entropy = -(x * np.log(x_hat) + (1 - x) * np.log(1 - x_hat)).sum(axis=1)
    jacobian = (h * (1 - h))[:, :, None] * kernel.T
    return cross_entropy + OPTIONS.contraction * (jacobian**2).sum(axis=(1, 2)), h


def test_the_losses_of_both_layers_against_numpy(x64):
    for name, phase_of in (("cae", "layer_1"), ("stacked_cae", "layer_2")):
        state = with_biases(make_state(name))
        batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
        after, metrics = train_step(state, batch, prior_sample)
        x = np.asarray(batch["image"], np.float64).reshape(8, -1) / 255
        expected, h = reference_loss(layer_of(state, "layer_1"), x)
        if phase_of == "layer_2":
            expected, _ = reference_loss(layer_of(state, "layer_2"), h)
            jax.tree.map(
                np.testing.assert_array_equal, after.params["layer_1"], state.params["layer_1"]
            )
        np.testing.assert_allclose(metrics["loss/contraction"], expected.mean(), rtol=1e-10)


def test_the_gradient_of_the_penalty_against_differences(x64):
    state = with_biases(make_state("cae"))
    layer = state.params["layer_1"]
    x = np.random.default_rng(0).uniform(size=(6, 12))

    def total(kernel):
        h = jax.nn.sigmoid(x @ kernel + layer["bias_1"])
        return contractive.penalty({**layer, "kernel_0": kernel}, h).sum()

    kernel = layer["kernel_0"]
    direction = np.random.default_rng(2).normal(size=kernel.shape)
    width = 1e-5
    expected = (total(kernel + width * direction) - total(kernel - width * direction)) / (2 * width)
    found = (jax.grad(total)(kernel) * direction).sum()
    # The third derivative times width² / 6: some 10⁻¹⁰ of the value.
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_a_step_of_one_layer_is_that_of_rifai_et_al(x64):
    """h' = h + ((Wᵀ W) ∘ s sᵀ) α, x' = g(h')."""
    state, key = with_biases(make_state("cae")), jax.random.key(3)
    kernel, hidden_bias, visible_bias = layer_of(state, "layer_1")
    x = np.random.default_rng(0).uniform(size=(6, 12))
    h = sigmoid(x @ kernel + hidden_bias)
    s = h * (1 - h)
    alpha = OPTIONS.noise * np.asarray(jax.random.normal(key, (6, 5), jnp.float64))
    product = (kernel.T @ kernel) * s[:, :, None] * s[:, None]
    expected = sigmoid((h + np.einsum("bij,bj->bi", product, alpha)) @ kernel.T + visible_bias)
    found = contractive.step(state.spec, state.params, key, x)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_step_of_two_layers_goes_along_the_jacobian_of_both(x64):
    state, key = with_biases(make_state("stacked_cae")), jax.random.key(3)
    layers = [layer_of(state, name) for name in ("layer_1", "layer_2")]
    x = np.random.default_rng(0).uniform(size=(6, 12))
    h, jacobian = x, np.eye(12)
    for kernel, hidden_bias, _ in layers:
        h = sigmoid(h @ kernel + hidden_bias)
        jacobian = (h * (1 - h))[:, :, None] * (kernel.T @ jacobian)
    alpha = OPTIONS.noise * np.asarray(jax.random.normal(key, (6, 4), jnp.float64))
    h = h + np.einsum("bij,bkj,bk->bi", jacobian, jacobian, alpha)
    for kernel, _, visible_bias in reversed(layers):
        h = sigmoid(h @ kernel.T + visible_bias)
    found = contractive.step(state.spec, state.params, key, x)
    np.testing.assert_allclose(found, h, rtol=1e-12)


def test_layers_start_as_their_authors_have_them():
    """U(±4 √(6 / (n + m))), and biases of zero."""
    spec = parse_config(table1.get_config("cae")).spec
    params = aae.create_train_state(spec, jax.random.key(0)).params
    for name, shape in (("layer_1", (784, 1000)), ("layer_2", (1000, 1000))):
        kernel, *biases = (
            np.asarray(params[name][key]) for key in ("kernel_0", "bias_0", "bias_1")
        )
        limit = 4 * np.sqrt(6 / sum(shape))
        assert kernel.shape == shape and all((bias == 0).all() for bias in biases)
        assert 0.99 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6)  # in float32
        # Standard errors of a mean and of a mean of squares of uniform numbers.
        assert abs(kernel.mean()) < 5 * limit / np.sqrt(3 * kernel.size)
        np.testing.assert_allclose(
            (kernel**2).mean(), limit**2 / 3, rtol=5 * 0.9 / kernel.size**0.5
        )
