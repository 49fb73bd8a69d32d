"""Generative stochastic networks: steps against NumPy, a chain against its stationary distribution."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from reference import sigmoid
from small import inputs_of_step, make_dataset, make_spec, start, train_step

import aae_jax as aae
from aae_jax import keys
from aae_jax.algorithms import gsn
from aae_jax.config import parse_config
from experiments import table1


def make_gsn(dtype="float64", image_shape=(3, 4, 1), **options):
    options = gsn.Options(**{"hidden": (5, 4), **options})
    return make_spec(dtype, algorithm="gsn", options=options, image_shape=image_shape)


def random_stack(seed, widths, scale=1.0):
    rng = np.random.default_rng(seed)
    kernels = {
        f"kernel_{i}": scale * rng.normal(size=shape)
        for i, shape in enumerate(itertools.pairwise(widths))
    }
    return {**kernels, **{f"bias_{i}": rng.normal(size=width) for i, width in enumerate(widths)}}


def test_a_step_without_noise_against_numpy(x64):
    """h₁ from x and h₂, then h₂ and x from the new h₁; three hidden layers, each order once."""
    spec = make_gsn(hidden=(5, 4, 3), hidden_noise=0.0, corruption=0.0)
    stack = random_stack(0, (12, 5, 4, 3))
    rng = np.random.default_rng(1)
    x, h1, h2, h3 = (rng.normal(size=(6, width)) for width in (12, 5, 4, 3))
    row_keys = keys.row_keys(jax.random.key(0), 6)
    units, logits = gsn.step(spec, {"gsn": stack}, row_keys, (x, h1, h2, h3))
    new1 = np.tanh(x @ stack["kernel_0"] + h2 @ stack["kernel_1"].T + stack["bias_1"])
    new3 = np.tanh(h2 @ stack["kernel_2"] + stack["bias_3"])
    new2 = np.tanh(new1 @ stack["kernel_1"] + new3 @ stack["kernel_2"].T + stack["bias_2"])
    expected_logits = new1 @ stack["kernel_0"].T + stack["bias_0"]
    for found, expected in zip((*units[1:], logits), (new1, new2, new3, expected_logits)):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    assert set(np.unique(units[0])) <= {0.0, 1.0}


def test_noise_is_before_and_after_the_activation_of_all_layers_but_the_first(x64):
    """40,000 rows of h₂ = tanh(a + 2ε) + 2ε′: mean and variance by quadrature."""
    num_rows, std = 40_000, 2.0
    spec = make_gsn(hidden=(2, 1), corruption=0.0)
    stack = random_stack(0, (12, 2, 1), scale=0.3)
    units = (jnp.ones((num_rows, 12)), jnp.zeros((num_rows, 2)), jnp.zeros((num_rows, 1)))
    row_keys = keys.row_keys(jax.random.key(0), num_rows)
    (_, h1, h2), _ = jax.jit(gsn.step, static_argnums=0)(spec, {"gsn": stack}, row_keys, units)
    exact = np.tanh(np.ones(12) @ stack["kernel_0"] + stack["bias_1"])
    np.testing.assert_allclose(h1, np.broadcast_to(exact, h1.shape), rtol=1e-12)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    inner = np.tanh(exact @ stack["kernel_1"] + stack["bias_2"] + std * nodes)
    mean = weights @ inner
    variance = weights @ inner**2 - mean**2 + std**2
    np.testing.assert_allclose(h2.mean(), mean, atol=5 * np.sqrt(variance / num_rows))
    # Nearly Gaussian: a variance's relative standard error is √(2 / N).
    np.testing.assert_allclose(h2.var(), variance, rtol=5 * np.sqrt(2 / num_rows))


def test_salt_and_pepper(x64):
    """A share of 0.4 is replaced, by 0 and 1 equally often; the rest stays."""
    spec, num_rows = make_gsn(corruption=0.4), 10_000
    x = jnp.full((num_rows, 12), 0.3)
    found = np.asarray(gsn.corrupt(spec, keys.row_keys(jax.random.key(0), num_rows), x))
    assert set(np.unique(found)) == {0.0, 0.3, 1.0}
    for value, share in ((0.0, 0.2), (1.0, 0.2), (0.3, 0.6)):
        error = np.sqrt(share * (1 - share) / found.size)
        np.testing.assert_allclose((found == value).mean(), share, atol=5 * error)


def test_the_loss_adds_the_cross_entropies_of_the_steps(x64):
    """Without noise the chain's hidden units do not depend on draws for two steps of one layer."""
    spec = make_gsn(hidden=(5,), walkback=1, corruption=0.0)
    state = start(spec)
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    _, metrics = train_step(state, batch, prior_sample)
    x = np.asarray(batch["image"], np.float64).reshape(8, -1) / 255
    stack = {name: np.asarray(value) for name, value in state.params["gsn"].items()}
    mean = sigmoid(np.tanh(x @ stack["kernel_0"]) @ stack["kernel_0"].T)
    expected = -(x * np.log(mean) + (1 - x) * np.log(1 - mean)).mean()
    np.testing.assert_allclose(metrics["loss/walkback"], expected, rtol=1e-10)


def test_later_steps_are_scored_against_the_image_too(x64):
    """A stack of zeros with a visible bias: each of 3 steps has the same cross-entropy."""
    spec = make_gsn(walkback=3)
    state = start(spec)
    stack = jax.tree.map(jnp.zeros_like, state.params["gsn"])
    stack = {**stack, "bias_0": jnp.full(12, 0.7)}
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    _, metrics = train_step(state.replace(params={"gsn": stack}), batch, prior_sample)
    x = np.asarray(batch["image"], np.float64).reshape(8, -1) / 255
    p = sigmoid(0.7)
    each = -(x * np.log(p) + (1 - x) * np.log(1 - p)).mean()
    for name, expected in (("loss/walkback", 3 * each), ("gsn/first", each), ("gsn/last", each)):
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-10)


def test_chains_reach_their_stationary_distribution(x64):
    """One hidden layer: a chain over 2⁴ binary images, whose transitions can be enumerated.

    T(x, x') = Σ_x̃ C(x̃ | x) Π p(x'_i | x̃), with salt and pepper C; means of the visible units then have
    the mean Σ π(x) C(x̃ | x) p(x̃).
    """
    share = 0.3
    spec = make_gsn(
        image_shape=(2, 2, 1),
        hidden=(3,),
        corruption=share,
        burn_in=50,
        spacing=10,
        num_chains=2_000,
    )
    stack = random_stack(0, (4, 3), scale=1.5)
    x = np.array(list(itertools.product((0.0, 1.0), repeat=4)))
    # A unit keeps its value unless it is replaced by the other one.
    same = x[:, None] == x[None]
    corruption = np.where(same, 1 - share / 2, share / 2).prod(axis=2)  # [x, x̃]
    means = sigmoid(
        np.tanh(x @ stack["kernel_0"] + stack["bias_1"]) @ stack["kernel_0"].T + stack["bias_0"]
    )
    draws = np.where(x[None] == 1, means[:, None], 1 - means[:, None]).prod(axis=2)  # [x̃, x']
    transitions = corruption @ draws
    np.testing.assert_allclose(transitions.sum(axis=1), 1, rtol=1e-12)
    values, vectors = np.linalg.eig(transitions.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()
    assert np.sort(np.abs(values))[-2] < 0.9  # after 10 steps little of a state is left
    p = stationary @ corruption  # of x̃
    draw = jax.jit(gsn.sample, static_argnums=(0, 3))
    samples = np.asarray(draw(spec, {"gsn": stack}, jax.random.key(0), 40_000)).reshape(40_000, -1)
    error = 0.5 / np.sqrt(len(samples) / 4)  # of numbers in [0, 1], correlated in time
    np.testing.assert_allclose(samples.mean(axis=0), p @ means, atol=4 * error)
    np.testing.assert_allclose(
        samples.T @ samples / len(samples), means.T @ (p[:, None] * means), atol=4 * error
    )
    assert np.abs(p @ means - 0.5).max() > 10 * error


def test_networks_start_as_their_authors_have_them():
    spec = parse_config(table1.get_config("gsn")).spec
    stack = aae.create_train_state(spec, jax.random.key(0)).params["gsn"]
    for index, shape in enumerate(((784, 1500), (1500, 1500))):
        kernel = np.asarray(stack[f"kernel_{index}"])
        limit = np.sqrt(6 / sum(shape))
        assert kernel.shape == shape
        assert 0.99 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6)  # in float32
    assert all((stack[f"bias_{index}"] == 0).all() for index in range(3))
