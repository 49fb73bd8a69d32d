"""What is saved is what comes back, bit for bit."""

import chex
import jax
import jax.numpy as jnp
import pytest
from small import make_dataset, make_spec

import aae_jax as aae
from aae_jax import parallel
from aae_jax.checkpoint import Checkpoints


def trained(seed=0, num_steps=3):
    state = aae.create_train_state(make_spec(), jax.random.key(seed))
    # Not the default scale: whatever is not saved comes back with the value of a new state.
    scale = {phase: jnp.float32(0.5) for phase in state.learning_rate_scale}
    return aae.train_steps(state.replace(learning_rate_scale=scale), make_dataset(), num_steps)[0]


def words(state):
    """The state without typed keys, which chex can't compare."""
    return state.replace(rng=jax.random.key_data(state.rng))


def test_round_trip_is_exact(tmp_path):
    state = trained()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 3
        restored = checkpoints.restore(aae.create_train_state(make_spec(), jax.random.key(9)))
    chex.assert_trees_all_equal(words(restored), words(state))
    # The restored state trains on exactly as the original does.
    chex.assert_trees_all_equal(
        words(aae.train_steps(restored, make_dataset(), 5)[0]),
        words(aae.train_steps(state, make_dataset(), 5)[0]),
    )


def test_newest_of_several(tmp_path):
    with Checkpoints(tmp_path, max_to_keep=2) as checkpoints:
        for num_steps in (1, 2, 3):
            checkpoints.save(trained(num_steps=num_steps))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["2", "3"]
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(aae.create_train_state(make_spec(), jax.random.key(9)))
    chex.assert_trees_all_equal(words(restored), words(trained(num_steps=3)))


def test_restored_where_the_given_state_lies(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(trained())
        mesh = parallel.make_mesh()
        create = jax.jit(
            aae.create_train_state, static_argnums=0, out_shardings=parallel.replicated(mesh)
        )
        restored = checkpoints.restore(create(make_spec(), jax.random.key(9)))
    kernel = restored.params["encoder"]["Dense_0"]["kernel"]
    assert len(kernel.sharding.device_set) == 8
    chex.assert_trees_all_equal(jax.device_get(words(restored)), jax.device_get(words(trained())))


def test_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        with pytest.raises(aae.UserError, match="no checkpoint in"):
            checkpoints.restore(trained())
