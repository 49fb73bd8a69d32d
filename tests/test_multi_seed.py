"""Several seeds in one program against the same trainings one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

import aae_jax as aae
from aae_jax import multi_seed, parallel

SEEDS = (3, 4, 9)


def one_by_one(spec, datasets, num_steps, scales=None):
    states, metrics = [], []
    for index, seed in enumerate(SEEDS):
        state = small.start(spec, seed)
        if scales is not None:
            state = state.replace(
                learning_rate_scale=jax.tree.map(
                    lambda v: v * scales[index], state.learning_rate_scale
                )
            )
        state, found = aae.train_steps(state, datasets[index], num_steps)
        states.append(state)
        metrics.append(found)
    return states, metrics


def keys():
    return jnp.stack([jax.random.key(seed) for seed in SEEDS])


def together(datasets):
    return {
        "image": datasets[0]["image"],
        "label": jnp.stack([dataset["label"] for dataset in datasets]),
    }


def assert_same(state, expected, atol):
    both = (jax.tree.leaves((s.params, s.ema_params)) for s in (state, expected))
    for found, wanted in zip(*both, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "changes, split",
    [
        ({"model": {"posterior": "universal", "label_in_decoder": True}}, False),
        ({"algorithm": "vae"}, True),
        (
            {
                "model": {"label_in_discriminator": True},
                "prior": {"name": "gaussian_mixture"},
                "mirror": True,
                "input_noise": 0.1,
                "ema_decay": 0.5,
            },
            True,
        ),
    ],
)
def test_each_member_is_its_own_training(x64, changes, split):
    spec = small.make_spec("float64", **changes)
    # Each member's labels are its own, as where the seed chooses which are known.
    datasets = [
        {**small.make_dataset(), "label": small.make_dataset(seed=s)["label"]} for s in SEEDS
    ]
    expected, metrics = one_by_one(spec, datasets, 20)
    mesh = parallel.make_mesh(jax.devices()[:4])
    sharding = parallel.batch_sharding(mesh) if split else None
    state = multi_seed.create(spec, keys())
    data = together(datasets)
    if split:
        state, data = jax.device_put((state, data), parallel.replicated(mesh))
    for _ in range(2):
        state, found = multi_seed.train(state, data, 10, batch_sharding=sharding)
    assert int(state.step) == 20 and multi_seed.size(state) == len(SEEDS)
    for index, alone in enumerate(expected):
        assert_same(multi_seed.member(state, index), alone, 1e-9)
        for name, values in found.items():
            np.testing.assert_allclose(values[index], metrics[index][name][10:], atol=1e-9)


def test_rates_may_differ_between_members(x64):
    spec = small.make_spec("float64")
    scales = (0.5, 1.0, 2.0)
    datasets = [small.make_dataset()] * 3
    expected, _ = one_by_one(spec, datasets, 10, scales)
    state = multi_seed.create(spec, keys())
    state = state.replace(
        learning_rate_scale=jax.tree.map(lambda v: v * jnp.array(scales), state.learning_rate_scale)
    )
    state, _ = multi_seed.train(state, together(datasets), 10)
    for index, alone in enumerate(expected):
        assert_same(multi_seed.member(state, index), alone, 1e-9)


def test_a_member_is_a_state_of_its_own():
    spec = small.make_spec()
    state = multi_seed.member(multi_seed.create(spec, keys()), 1)
    alone = small.start(spec, SEEDS[1])
    assert jax.tree.structure(state) == jax.tree.structure(alone)
    assert_same(state, alone, 0)
    assert aae.generate(state, jax.random.key(0), 5).shape == (5, *small.SHAPE)
