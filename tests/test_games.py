"""The games that `studies.matching` compares."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import inputs_of_step, make_dataset, make_spec, start

import aae_jax as aae
from aae_jax import keys
from aae_jax.algorithms import autoencoder
from aae_jax.algorithms.base import Inputs
from aae_jax.train_state import to_inputs
from aae_jax.training import check_algorithm
from studies import fresh, games


def game(algorithm=games.GAME, options=None, **fields):
    return make_spec(algorithm=algorithm, options=games.GameOptions(**(options or {})), **fields)


def test_the_game_without_options_is_the_adversarial_autoencoder():
    dataset = make_dataset()
    expected, found = (
        aae.train_steps(start(spec), dataset, 5)[0].params for spec in (make_spec(), game())
    )
    chex.assert_trees_all_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"rows": 3},
        {"loss": "hinge"},
        {"loss": "squares"},
        {"penalty": 1.0},
        {"noise": 0.1},
        {"unit": 2.0, "kinks": 1.0},
        {"decoder_unit": 2.0, "decoder_kinks": 1.0, "unit_at_start": 2.0},
    ],
    ids=str,
)
def test_every_option_changes_the_game(options):
    spec = game(options=options)
    check_algorithm(spec)
    dataset = make_dataset()
    plain, changed = (aae.train_steps(start(s), dataset, 3)[0].params for s in (game(), spec))
    leaves = jax.tree.leaves(changed)
    assert all(jnp.isfinite(leaf).all() for leaf in leaves)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(plain), leaves, strict=True))


def test_more_updates_of_the_discriminator_are_more_phases():
    names = [phase.name for phase in games.GAME_FOUR_TIMES.phases]
    assert names[1:5] == ["discriminator"] + [f"discriminator_{i}" for i in (2, 3, 4)]
    check_algorithm(game(games.GAME_FOUR_TIMES))


def test_the_penalty_is_half_the_squared_slope_in_stds_of_the_prior(x64):
    """Against differences of the logits along both axes, where no kink lies between."""
    spec = game(options={"penalty": 3.0}, dtype="float64")
    plain = game(dtype="float64")
    state, dataset = start(spec), make_dataset()
    batch, prior_sample = inputs_of_step(state, dataset, 0)
    x = to_inputs(state, batch["image"])
    inputs = Inputs(x, x, batch["label"], keys.row_keys(jax.random.key(0), len(x)), prior_sample)
    added = (
        games.discriminator(spec, state.params, inputs)[0]
        - games.discriminator(plain, state.params, inputs)[0]
    )

    def logits(z):
        return autoencoder.discriminate(spec, state.params, z, None)

    expected, step = 0.0, 1e-6
    z = autoencoder.encode(spec, state.params, inputs.x_noisy, inputs.row_keys)
    for place in (inputs.prior_sample.z, z):
        for axis in np.eye(2):
            slope = (logits(place + step * axis) - logits(place - step * axis)) / (2 * step)
            expected += 0.5 * 3.0 * (2.0 * slope) ** 2  # the prior's std is 2
    chex.assert_trees_all_close(added, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("network", [fresh.FRESH, fresh.DEEPER])
def test_a_new_discriminator_finds_the_divergence_of_two_gaussians(network):
    # Codes are samples of the prior, shifted by its std in one direction. No logit gains more than
    # twice the Jensen-Shannon divergence, here by quadrature.
    std, number = 2.0, 50_000
    t = np.linspace(-10, 11, 100_001)
    p, q = (np.exp(-0.5 * (t - mean) ** 2) / np.sqrt(2 * np.pi) for mean in (0, 1))
    mix, step = (p + q) / 2, t[1] - t[0]
    exact = 1_000 * step * (p * np.log(p / mix) + q * np.log(q / mix)).sum()
    draws = std * jax.random.normal(jax.random.key(1), (3, number, 2))
    shift = jnp.array([std, 0.0])
    spec, key = make_spec(prior={"std": std}), jax.random.key(2)
    logit = fresh.fresh_discriminator(spec, draws[0] + shift, key, 300, 500, network=network)
    found, _ = fresh.left(logit, draws[1] + shift, draws[2])
    # The losses of a row have stds below 1 nat.
    error = 1_000 * np.sqrt(2 / number)
    assert 0.9 * exact - 3 * error < found < exact + 3 * error, (found, exact, error)
