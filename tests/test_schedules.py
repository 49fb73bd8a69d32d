"""The study of learning-rate schedules with separate rates for encoder and decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import make_dataset, make_spec

from aae_jax import multi_seed
from aae_jax.algorithms import adversarial
from benchmarks import inputs
from studies import schedules as study


def by_phase(rates):
    """Rates of encoder, decoder, discriminator and generator, as `Candidate.rates` gives them."""
    encoder, decoder, discriminator, generator = rates
    return {
        "reconstruction": {"encoder": encoder, "decoder": decoder},
        "discriminator": {"discriminator": discriminator},
        "generator": {"encoder": generator},
    }


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("slow_encoder", 0, (1e-3, 1e-3, 1e-3, 2e-4)),
        ("slow_encoder", 6_000, (5.25e-4, 5.25e-4, 6.5e-4, 1.3e-4)),
        ("slow_encoder", 12_000, (1e-4, 1e-3, 3e-4, 6e-5)),
        ("slower_encoder", 14_000, (3.25e-5, 5e-4, 1.5e-4, 2.25e-5)),
        ("fast_start", 0, (2e-3, 2e-3, 4e-4, 3e-4)),
        ("fast_start", 8_000, (1e-4, 1e-3, 3e-4, 6e-5)),
        ("fast_start", 15_000, (3e-5, 0.0, 3e-4, 3e-5)),
        ("one_rate", 12_999, (3e-4, 3e-4, 3e-4, 6e-5)),
        ("one_rate", 13_000, (9e-5, 9e-5, 3e-4, 6e-5)),
        ("one_rate", 13_500, (2.7e-5, 2.7e-5, 3e-4, 6e-5)),
    ],
)
def test_rates(name, step, expected):
    found = study.CANDIDATES[name].rates(step)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-12),
        found,
        by_phase(expected),
    )


def spec(**options):
    options = adversarial.Options(**options)
    return make_spec(optimizer=study.OPTIMIZER, options=options, ema_decay=0.9, input_noise=0.1)


def trained(spec, rates):
    """Parameters before and after two steps with these rates."""
    state = multi_seed.create(spec, jax.random.key(0)[None])
    rates = jax.tree.map(jnp.float32, by_phase(rates))
    after = study.train_steps(state, rates, make_dataset()["image"], 2)
    return state.params, after.params


def moved(before, after):
    return {
        name
        for name in before
        if any(
            (a != b).any()
            for a, b in zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]))
        )
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((1e-3, 0, 0, 0), {"encoder"}),
        ((0, 1e-3, 0, 0), {"decoder"}),
        ((0, 0, 1e-3, 0), {"discriminator"}),
        ((0, 0, 0, 1e-3), {"encoder"}),
    ],
)
def test_each_rate_moves_its_network(rates, expected):
    assert moved(*trained(spec(), rates)) == expected


@pytest.mark.slow
def test_only_the_decoder_sees_noise_on_the_codes():
    for rates, same in (((1e-3, 0, 0, 0), True), ((0, 1e-3, 0, 0), False)):
        plain, noisy = (trained(spec(code_noise=std), rates)[1] for std in (0.0, 1.0))
        assert (not moved(plain, noisy)) == same


@pytest.mark.slow
def test_rows(monkeypatch):
    """Two seeds, five steps, noise from the fourth."""
    monkeypatch.setattr(study, "SHOWN", (300, 500))
    early = study.CANDIDATES["one_rate"]._replace(noise_from=300)
    monkeypatch.setitem(study.CANDIDATES, "early", early)
    rows = list(study.rows("early", inputs.strokes(300, 60), 2, small=True))
    assert [row[:2] for row in rows] == [("early", 300), ("early", 500)]
    for row in rows:
        assert len(row) == len(study.COLUMNS)
        seeds = [float(nats) for nats in row[-1].split()]
        assert len(seeds) == 2
        assert row[2][0] == pytest.approx(np.mean(seeds), abs=0.1)
        assert np.isfinite([mean for mean, _ in row[2:-1]]).all()
    assert rows[0][-1] != rows[1][-1]
