"""Failures are found and located, without false alarms."""

import jax
import jax.numpy as jnp
import numpy as np
from small import make_dataset, make_spec, start

import aae_jax as aae
from aae_jax.data.order import epoch_rows
from aae_jax.workdir import health

ACCURACIES = ("discriminator/accuracy_on_prior", "discriminator/accuracy_on_codes")


def test_parameters_that_an_update_broke_are_found_in_its_step():
    """The losses of that step are those of the parameters before it, and finite."""
    spec = make_spec()
    state = start(spec)
    dataset = make_dataset()

    def advance(state, num_steps):
        """Steps with an infinite learning rate of the generator in the third."""
        broken = {**state.learning_rate_scale, "generator": jnp.float32(jnp.inf)}
        now = state.replace(learning_rate_scale=broken) if int(state.step) == 2 else state
        return aae.train_steps(now, dataset, num_steps)

    failure = health.find_failure(state, 5, dataset, advance)
    assert failure["step"] == 3 and failure["networks"] == ["encoder"]
    assert sorted(failure["losses"]) == ["discriminator", "generator", "reconstruction"]
    assert np.isfinite(list(failure["losses"].values())).all()
    rows = epoch_rows(state.rng, jnp.int32(2), 1, spec.train.batch_size, 20)[0]
    np.testing.assert_array_equal(failure["rows"], rows)
    assert health.find_failure(state, 2, dataset, advance) is None


def test_hidden_infinities_are_found():
    """A bias of −∞ before a ReLU leaves every loss finite."""
    state = start(make_spec())
    params = jax.tree.map(lambda leaf: leaf, state.params)
    bias = params["decoder"]["Dense_0"]["bias"]
    params["decoder"]["Dense_0"]["bias"] = bias.at[0].set(-jnp.inf)
    finite = health.finite_networks(params)
    found = {name: bool(ok) for name, ok in finite.items()}
    assert found == {"encoder": True, "decoder": False, "discriminator": True}


def line(step, **values):
    return {"step": step, **dict.fromkeys(ACCURACIES, 0.6), "code/std": 4, "prior/std": 5, **values}


def warnings(lines):
    return health.Collapse(lines).warnings


def test_collapse_is_reported_once_of_each_kind():
    pinned = dict.fromkeys(ACCURACIES, 0.99)
    lines = [line(1), *(line(step, **pinned) for step in range(2, 6)), line(6)]
    assert warnings(lines) == []  # four in a row
    lines += [line(step, **pinned, **{"code/std": 0.049}) for step in range(7, 20)] + [line(20)]
    lines += [line(step, **pinned) for step in range(21, 30)]
    collapse = health.Collapse()
    said = {entry["step"]: collapse.see(entry) for entry in lines}
    assert {step for step, found in said.items() if found} == {11}
    assert len(collapse.warnings) == 2
    # A run that is taken up reads the same lines.
    assert warnings(lines) == collapse.warnings


def test_what_is_no_collapse():
    # One accuracy of 1 is a discriminator that always says the same.
    assert warnings([line(step, **{ACCURACIES[0]: 1.0}) for step in range(9)]) == []
    # A VAE has none.
    assert warnings([{"step": i, "code/std": 1.0, "prior/std": 1.0} for i in range(9)]) == []
    # null in the file: not finite.
    assert warnings([line(step, **{"code/std": None}) for step in range(9)]) == []


def test_a_collapse_of_one_of_several_seeds_is_seen():
    line = {"code/std": 2.5, "prior/std": 5.0}
    by_seed = {"code/std": [5.0, 0.01], "prior/std": [5.0, 5.0]}
    lines = [{"step": step, **line, "by_seed": by_seed} for step in range(1, health.PATIENCE + 1)]
    (warning,) = health.Collapse(lines).warnings
    assert warning.startswith("seed 2 of 2: the codes have collapsed")


def test_codes_that_are_far_from_the_prior_are_warned_of():
    """The distance is in stds of the prior, after subtracting the floor of a small sample."""

    def found(distance, floor, std=5.0):
        names = ("prior/std", "prior/sliced_wasserstein", "prior/sliced_wasserstein_floor")
        return dict(zip(names, (std, distance, floor)))

    # What the digits end with, with their own rates and with a discriminator that does not learn.
    assert health.far_from_prior([found(1.0, 0.7)]) == []
    (warning,) = health.far_from_prior([found(5.35, 0.7)])
    assert "far from the prior, 1.07 of its std (samples of the prior: 0.14)" in warning
    near, far = found(3.1, 2.0), found(3.3, 2.0)  # √(3.1² − 2²) = 2.37, √(3.3² − 2²) = 2.62
    (warning,) = health.far_from_prior([near, far])
    assert warning.startswith("seed 2 of 2: ")
    # No encoder; a prior that is a point; numbers that could not be had.
    for without in ({}, found(1.0, 0.0, std=0.0), found(float("nan"), 0.1), found(None, 0.1)):
        assert health.far_from_prior([without]) == []


def test_a_discriminator_that_is_a_coin_where_codes_are_off_the_prior_is_warned_of():
    """2 ln 2 = 1.3863. Only the first discriminator is blind to an existing difference."""

    def found(distance, std=5.0):
        names = ("prior/std", "prior/sliced_wasserstein", "prior/sliced_wasserstein_floor")
        return dict(zip(names, (std, distance * std, 0.02 * std)))

    def lines(loss, number=health.PATIENCE):
        return [{"step": step, "loss/discriminator": loss} for step in range(number)]

    (warning,) = health.blind_discriminator([found(0.28)], lines(1.3868))
    assert (
        "gone blind: its loss is that of random guesses, 1.3868, but the codes are 0.28 of the"
        in warning
    )
    for distance, loss in ((0.28, 1.37), (0.28, 1.40), (0.09, 1.3863), (0.96, 1.36), (0.96, 1.6)):
        assert health.blind_discriminator([found(distance)], lines(loss)) == []
    # Lines before the last ones don't count; without a discriminator or a distance there is none.
    assert health.blind_discriminator([found(0.28)], lines(0.1) + lines(1.3868)) == [warning]
    assert health.blind_discriminator([found(0.28)], lines(None)) == []
    assert health.blind_discriminator([found(0.28)], []) == []
    assert health.blind_discriminator([{}], lines(1.3868)) == []
    by_seed = [{**line, "by_seed": {"loss/discriminator": [0.7, 1.3868]}} for line in lines(1.0)]
    (warning,) = health.blind_discriminator([found(0.28), found(0.28)], by_seed)
    assert warning.startswith("seed 2 of 2: the discriminator has gone blind")


def test_chains_that_disagree_are_a_warning():
    agreeing = {"annealed/log_weight_std": health.DISAGREEMENT}
    assert health.weak_bound([agreeing, {}]) == []
    for value in (health.DISAGREEMENT + 1, float("nan")):
        (warning,) = health.weak_bound([agreeing, {"annealed/log_weight_std": value}])
        assert warning.startswith("seed 2 of 2: the annealed likelihood may be nats too low")
