"""Boltzmann machines against the enumeration of all their states: 4 visible, 3 hidden units."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import sigmoid
from small import inputs_of_step, make_dataset, make_spec, refused, start, train_step

import aae_jax as aae
from aae_jax import keys
from aae_jax.algorithms import dbn
from aae_jax.config import parse_config
from aae_jax.keys import row_keys
from aae_jax.parallel import DATA_AXIS
from aae_jax.training import check_algorithm
from experiments import table1

SHAPE = (2, 2, 1)
VISIBLE, HIDDEN, TOP = 4, 3, 3


def states(size):
    return np.array(list(itertools.product((0.0, 1.0), repeat=size)))


def random_machine(seed, num_visible=VISIBLE, num_hidden=HIDDEN, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        "kernel_0": scale * rng.normal(size=(num_visible, num_hidden)),
        "bias_0": 0.5 * rng.normal(size=num_visible),
        "bias_1": 0.5 * rng.normal(size=num_hidden),
    }


def joint(machine):
    """p(v, h) f64[2^V, 2^H] by enumeration."""
    v, h = states(len(machine["bias_0"])), states(len(machine["bias_1"]))
    energy = -v @ machine["kernel_0"] @ h.T
    energy -= (v @ machine["bias_0"])[:, None] + h @ machine["bias_1"]
    p = np.exp(-energy)
    return p / p.sum()


def make_dbn(name="rbm", **options):
    options = dbn.Options(**{"hidden": (HIDDEN, TOP), **options})
    return make_spec("float64", algorithm=name, options=options, image_shape=SHAPE)


def log_likelihood_gradient(machine, weights):
    """Of Σ_v weights(v) log p(v): E_data − E_model of (v hᵀ, v, h)."""
    p, v, h = joint(machine), states(VISIBLE), states(HIDDEN)
    given_v = p / p.sum(axis=1, keepdims=True)
    difference = weights[:, None] * given_v - p
    return {
        "kernel_0": v.T @ difference @ h,
        "bias_0": v.T @ difference.sum(axis=1),
        "bias_1": difference.sum(axis=0) @ h,
    }


def test_the_free_energy_is_minus_log_p_up_to_a_constant(x64):
    machine = random_machine(0)
    found = dbn.free_energy(make_dbn(), machine, states(VISIBLE))
    expected = -np.log(joint(machine).sum(axis=1))
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-12)


def test_with_chains_in_equilibrium_the_gradient_is_that_of_the_likelihood(x64):
    """Σ_v data(v) ∇F(v) − Σ_v p(v) ∇F(v) = −∇ Σ_v data(v) log p(v), exactly."""
    machine, spec = random_machine(0), make_dbn()
    data = np.random.default_rng(1).dirichlet(np.ones(16))
    model = joint(machine).sum(axis=1)

    def loss(machine):
        return (data - model) @ dbn.free_energy(spec, machine, states(VISIBLE))

    expected = log_likelihood_gradient(machine, data)
    for name, found in jax.grad(loss)(machine).items():
        np.testing.assert_allclose(found, -expected[name], atol=1e-12)


def test_with_draws_of_the_model_as_chains_the_gradient_is_that_of_the_likelihood(x64):
    """20,000 images and draws: the gradient is within Monte Carlo error of the enumerated one."""
    machine, spec, num_rows = random_machine(0), make_dbn(), 20_000
    rng, v = np.random.default_rng(1), states(VISIBLE)
    pixels = rng.uniform(size=VISIBLE)  # of all rows: probabilities of units
    weights = np.prod(np.where(v == 1, pixels, 1 - pixels), axis=1)  # of their binary draws
    x = jnp.broadcast_to(jnp.asarray(pixels).reshape(SHAPE), (num_rows, *SHAPE))
    noise = row_keys(jax.random.key(0), num_rows)
    inputs = aae.Inputs(x, x, jnp.zeros(num_rows, jnp.int32), noise, None)
    chains = {"value": v[rng.choice(len(v), num_rows, p=joint(machine).sum(axis=1))]}

    @jax.jit
    def gradient(machine):
        def loss(machine):
            params = {"rbm_1": machine, "chains_1": chains}
            return dbn.first_loss(spec, params, inputs)[0].mean()

        return jax.grad(loss)(machine)

    found, expected = gradient(machine), log_likelihood_gradient(machine, weights)
    # The difference of two means of numbers in [0, 1], each of a std of at most ½.
    error = np.sqrt(2 * 0.25 / num_rows)
    for name, value in found.items():
        np.testing.assert_allclose(value, -expected[name], atol=4.5 * error)
        assert np.abs(expected[name]).max() > 10 * error


@pytest.mark.parametrize("name, index", [("rbm", 1), ("dbn", 2)])
def test_a_step_moves_the_chains_and_then_learns_from_where_they_are(x64, name, index):
    state, dataset = start(make_dbn(name, gibbs_steps=3)), make_dataset(image_shape=SHAPE)
    batch, prior_sample = inputs_of_step(state, dataset, 0)
    after, metrics = train_step(state, batch, prior_sample)
    before, chains = (s.params[f"chains_{index}"]["value"] for s in (state, after))
    assert set(np.unique(before)) == set(np.unique(chains)) == {0.0, 1.0}
    noise = keys.row_keys(keys.stream(state.rng, keys.POSTERIOR, state.step), 8)
    expected = before
    for step in range(3):
        own = keys.row_keys(jax.random.fold_in(noise[0], step), 8)
        expected, _ = dbn.gibbs_step(state.spec, state.params[f"rbm_{index}"], own, expected)
    np.testing.assert_array_equal(chains, expected)
    energy = dbn.free_energy(state.spec, state.params[f"rbm_{index}"], chains).mean()
    np.testing.assert_allclose(metrics["free_energy/chains"], energy, rtol=1e-12)


def test_gibbs_steps_draw_hidden_units_and_then_visible_ones(x64):
    """From one state, 50,000 rows: the frequencies of all 16 next states against Σ_h p(v'|h) p(h|v)."""
    machine, num_rows = random_machine(0), 50_000
    v, h = states(VISIBLE), states(HIDDEN)
    p = joint(machine)
    given_v, given_h = p / p.sum(axis=1, keepdims=True), p / p.sum(axis=0)
    expected = given_h @ given_v[5]
    rows = jnp.broadcast_to(v[5], (num_rows, VISIBLE))
    noise = row_keys(jax.random.key(0), num_rows)
    moved, mean = jax.jit(dbn.gibbs_step, static_argnums=0)(make_dbn(), machine, noise, rows)
    found = np.bincount((np.asarray(moved) @ [8, 4, 2, 1]).astype(int), minlength=16) / num_rows
    np.testing.assert_allclose(found, expected, atol=5 * 0.5 / np.sqrt(num_rows))
    means = sigmoid(h @ machine["kernel_0"].T + machine["bias_0"])
    assert np.abs(np.asarray(mean)[:100, None] - means).max(axis=2).min(axis=1).max() < 1e-12


def samples_of(spec, params, num_samples=40_000):
    draw = jax.jit(dbn.sample, static_argnums=(0, 3))
    return np.asarray(draw(spec, params, jax.random.key(0), num_samples)).reshape(num_samples, -1)


CHAINS = {"burn_in": 100, "spacing": 20, "num_chains": 2_000}


def test_gibbs_chains_reach_the_model(x64):
    """Means given the hidden units: their mean is E[v], and E[m_i m_j] = E[v_i v_j] for i ≠ j."""
    machine = random_machine(0)
    samples = samples_of(make_dbn(**CHAINS), {"rbm_1": machine})
    v, p = states(VISIBLE), joint(machine).sum(axis=1)
    # Chains are independent, and states of one chain 20 steps apart nearly; numbers in [0, 1] have a
    # std of at most ½.
    error = 0.5 / np.sqrt(len(samples))
    np.testing.assert_allclose(samples.mean(axis=0), p @ v, atol=5 * error)
    off = ~np.eye(VISIBLE, dtype=bool)
    found, expected = samples.T @ samples / len(samples), v.T @ (p[:, None] * v)
    np.testing.assert_allclose(found[off], expected[off], atol=5 * error)
    assert (samples > 0).all() and (samples < 1).all()


def test_a_deep_network_is_its_top_machine_and_means_down(x64):
    """x = σ(m W₁ᵀ + b₁), m = σ(h₂ W₂ᵀ + b₂), and h₂ from the enumerated top machine."""
    params = {"rbm_1": random_machine(0, scale=2.0), "rbm_2": random_machine(1, HIDDEN, TOP)}
    samples = samples_of(make_dbn("dbn", **CHAINS), params)
    first, second = params["rbm_1"], params["rbm_2"]
    p, h = joint(second).sum(axis=0), states(TOP)
    means = sigmoid(h @ second["kernel_0"].T + second["bias_0"])
    images = sigmoid(means @ first["kernel_0"].T + first["bias_0"])
    error = 0.5 / np.sqrt(len(samples))
    np.testing.assert_allclose(samples.mean(axis=0), p @ images, atol=5 * error)
    np.testing.assert_allclose(
        samples.T @ samples / len(samples), images.T @ (p[:, None] * images), atol=5 * error
    )
    # Only those images are there.
    distances = np.abs(samples[:100, None] - images).max(axis=2).min(axis=1)
    assert distances.max() < 1e-10


@pytest.mark.parametrize("name, network", [("rbm", "rbm_1"), ("dbn", "rbm_2")])
def test_training_raises_the_exact_likelihood(x64, name, network):
    """Of 20 binary images, with log Z by enumeration, over 300 steps."""
    spec = make_dbn(name, gibbs_steps=2)
    optimizer = {"divergence": aae.OptimizerSpec(name="sgd", learning_rate=0.2)}
    spec = dataclasses.replace(spec, optimizer=optimizer)
    state, dataset = (
        aae.create_train_state(spec, jax.random.key(0)),
        make_dataset(image_shape=SHAPE),
    )
    pattern = np.array([[1, 1, 0, 0], [0, 0, 1, 1]])[np.arange(20) % 2].reshape(20, *SHAPE)
    dataset = {**dataset, "image": jnp.asarray(255 * pattern, jnp.uint8)}
    if name == "dbn":  # hidden units that copy the pixels
        machine = {
            "kernel_0": 40 * jnp.eye(VISIBLE, HIDDEN),
            "bias_0": jnp.zeros(VISIBLE),
            "bias_1": jnp.full(HIDDEN, -20.0),
        }
        state = state.replace(params={**state.params, "rbm_1": machine})
    v = pattern.reshape(20, -1)[:, : VISIBLE if name == "rbm" else HIDDEN].astype(float)

    def log_p(state):
        machine = {key: np.asarray(value) for key, value in state.params[network].items()}
        p = joint(machine).sum(axis=1)
        rows = [int("".join(str(int(unit)) for unit in row), 2) for row in v]
        return np.log(p[rows]).mean()

    before = log_p(state)
    state, _ = aae.train_steps(state, dataset, 300)
    # Independent units have −4 ln 2 (−3 ln 2); the best is ln ½, each of the two images half of the time.
    assert before < -2 and -1.3 < log_p(state) <= np.log(0.5)


def test_visible_biases_start_at_the_log_odds_of_the_mean_image(x64):
    mean = np.array([0.0, 0.25, 0.5, 1.0]).reshape(SHAPE)
    state = aae.create_train_state(make_dbn("rbm"), jax.random.key(0), image_mean=mean)
    bias = state.params["rbm_1"]["bias_0"]
    np.testing.assert_allclose(bias, [-6.907, -1.0986, 0, 6.907], atol=1e-3)


def test_the_recipe_is_the_published_one():
    settings = parse_config(table1.get_config("dbn"))
    params = aae.create_train_state(settings.spec, jax.random.key(0)).params
    for name, shape in (("rbm_1", (784, 1000)), ("rbm_2", (1000, 1000))):
        kernel = np.asarray(params[name]["kernel_0"])
        assert kernel.shape == shape
        # Standard error of a standard deviation.
        np.testing.assert_allclose(kernel.std(), 0.01, rtol=5 / np.sqrt(2 * kernel.size))


def test_chains_move_at_rate_one_and_nothing_else():
    slower = {"chains": aae.OptimizerSpec(name="sgd", learning_rate=0.5)}
    with refused("^optimizer.chains differs from the algorithm's: "):
        make_spec(algorithm="rbm", optimizer=slower)


def test_chains_belong_to_the_whole_batch():
    with refused("^the loss of phase 'chains' is one number.*: use parallel.runner 'jit'$"):
        check_algorithm(make_spec(algorithm="dbn"), DATA_AXIS)
