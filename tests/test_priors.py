"""Each prior against its definition: moments, densities by quadrature, labels, a user's priors."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import make_dataset, make_spec, refused, start

import aae_jax as aae
from aae_jax import priors
from experiments import default

MIXTURE = {"name": "gaussian_mixture", "radius": 7.0, "radial_std": 2.5, "tangential_std": 0.5}
ROLL = {"name": "swiss_roll", "radius": 15.0, "turns": 2.0, "std": 0.5}


def draw(spec, num=50_000, label=None, seed=0):
    return np.asarray(aae.sample_prior(spec, jax.random.key(seed), num, label).z, np.float64)


def test_mixture_components_have_their_means_and_covariances():
    spec = make_spec(prior=MIXTURE)
    for component in (0, 3, 9):
        z = draw(spec, label=component)
        angle = 2 * np.pi * component / 10
        outwards = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-np.sin(angle), np.cos(angle)])
        np.testing.assert_allclose(z.mean(axis=0), 7.0 * outwards, atol=0.05)
        covariance = 2.5**2 * np.outer(outwards, outwards) + 0.5**2 * np.outer(across, across)
        np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.12)


@pytest.mark.parametrize("prior", [MIXTURE, ROLL], ids=lambda prior: prior["name"])
def test_unlabelled_rows_come_from_the_full_prior(prior):
    spec = make_spec(prior=prior)
    label = np.where(np.arange(20_000) % 2, 4, -1)
    z = draw(spec, 20_000, label)
    part = spec.prior.distribution.component_log_prob(spec, jnp.asarray(z, jnp.float32))
    found = np.asarray(part.argmax(axis=1))
    assert (found[label == 4] == 4).mean() > 0.9
    shares = np.bincount(found[label == -1], minlength=10) / 10_000
    np.testing.assert_allclose(shares, 0.1, atol=0.015)


def integral(log_density, limit, size=241):
    axis = np.linspace(-limit, limit, size)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    values = np.exp(np.asarray(log_density(jnp.asarray(grid, jnp.float32)), np.float64))
    return (values * (axis[1] - axis[0]) ** 2).sum(axis=0)


@pytest.mark.parametrize(
    "prior", [{"std": 5.0}, MIXTURE, ROLL], ids=lambda p: p.get("name", "gaussian")
)
def test_densities_integrate_to_one(prior):
    spec = make_spec(prior=prior)
    entry = spec.prior.distribution
    if entry.log_prob is not None:
        np.testing.assert_allclose(integral(lambda z: entry.log_prob(spec, z), 30), 1, atol=1e-3)
    if entry.component_log_prob is not None:
        total = integral(lambda z: entry.component_log_prob(spec, z), 22)
        np.testing.assert_allclose(total, np.ones(10), atol=2e-3)


def test_mixture_density_against_numpy():
    spec = make_spec(prior=MIXTURE)
    z = draw(spec, 50)
    expected = np.zeros(50)
    for component in range(10):
        angle = 2 * np.pi * component / 10
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        covariance = rotation @ np.diag([2.5**2, 0.5**2]) @ rotation.T
        offset = z - rotation @ [7.0, 0.0]
        exponent = -0.5 * np.einsum("ni,ij,nj->n", offset, np.linalg.inv(covariance), offset)
        expected += np.exp(exponent) / (20 * np.pi * np.sqrt(np.linalg.det(covariance)))
    found = priors.gaussian_mixture_log_prob(spec, jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(found, np.log(expected), atol=1e-4)


def test_samples_have_the_density_that_is_stated():
    """The mean of −log p over samples is the entropy, here by quadrature."""
    spec = make_spec(prior=MIXTURE)
    z = jnp.asarray(draw(spec, 50_000), jnp.float32)
    axis = np.linspace(-25, 25, 1_001)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), jnp.float32)
    log_p = np.asarray(priors.gaussian_mixture_log_prob(spec, grid), np.float64)
    entropy = -(np.exp(log_p) * log_p).sum() * (axis[1] - axis[0]) ** 2
    np.testing.assert_allclose(
        -priors.gaussian_mixture_log_prob(spec, z).mean(), entropy, atol=0.02
    )


def test_uniform_prior_fills_its_box_evenly():
    """Moments of U(−r, r): variance r² / 3, kurtosis 9 / 5; dimensions are independent."""
    spec = make_spec(prior={"name": "uniform", "radius": 3.0}, model={"code_dim": 3})
    z = draw(spec, 100_000)
    assert z.shape == (100_000, 3) and np.abs(z).max() <= 3.0
    np.testing.assert_allclose(z.min(axis=0), -3, atol=1e-3)  # six in a million of all lie nearer
    np.testing.assert_allclose(z.max(axis=0), 3, atol=1e-3)
    # Five standard errors: of a mean √(3 / n), of a covariance at most 3 / √n.
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=5 * np.sqrt(3 / 100_000))
    np.testing.assert_allclose(np.cov(z.T), 3 * np.eye(3), atol=5 * 3 / np.sqrt(100_000))
    np.testing.assert_allclose((z**4).mean(axis=0) / 9, 9 / 5, rtol=0.02)


def test_uniform_density_is_constant_inside_and_zero_outside():
    spec = make_spec(prior={"name": "uniform", "radius": 3.0}, model={"code_dim": 3})
    z = jnp.asarray([[0.0, 1.0, -2.9], [3.0, 3.0, -3.0], [0.0, 0.0, 3.01], [-9.0, 0.0, 0.0]])
    found = spec.prior.distribution.log_prob(spec, z)
    np.testing.assert_allclose(found, [-3 * np.log(6)] * 2 + [-np.inf] * 2, rtol=1e-6)
    assert np.isfinite(spec.prior.distribution.log_prob(spec, jnp.asarray(draw(spec)))).all()


def test_swiss_roll_is_a_gaussian_around_its_axis():
    spec = make_spec(prior=ROLL)
    u = jnp.asarray([0.0, 0.25, 1.0])
    # Radius 15 √u at angle 4π √u.
    np.testing.assert_allclose(
        priors.swiss_roll_axis(spec, u), [[0, 0], [7.5, 0], [15, 0]], atol=1e-4
    )
    z = draw(spec, 2_000, label=5)
    fine = np.asarray(priors.swiss_roll_axis(spec, jnp.linspace(0.4, 0.7, 2_001)))
    nearest = np.sqrt(((z[:, None] - fine[None]) ** 2).sum(axis=-1)).min(axis=1)
    # Away from the ends the distance to the axis is half-normal with std 0.5.
    np.testing.assert_allclose(np.sqrt((nearest**2).mean()), 0.5, rtol=0.05)


def test_swiss_roll_is_uniform_along_its_length():
    spec = make_spec(prior=ROLL)
    axis = np.asarray(priors.swiss_roll_axis(spec, jnp.linspace(0, 1, 10_001)), np.float64)
    lengths = np.linalg.norm(np.diff(axis, axis=0), axis=1).reshape(10, -1).sum(axis=1)
    np.testing.assert_allclose(lengths[1:] / lengths[1:].mean(), 1, atol=0.02)


def test_swiss_roll_labels_are_tenths_in_numeric_order():
    spec = make_spec(prior={**ROLL, "std": 1e-3})
    for label in range(10):
        z = draw(spec, 200, label)
        root = np.linalg.norm(z, axis=1) / 15
        assert (root**2 > label / 10 - 1e-3).all() and (root**2 < (label + 1) / 10 + 1e-3).all()


# The user's own prior.


def ring(key, batch_size):
    angle = jax.random.uniform(key, (batch_size,), maxval=2 * jnp.pi)
    return 3 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


def arcs(key, batch_size, label):
    part = jax.random.uniform(key, (batch_size,))
    turn = jnp.where(label < 0, part, (label + part) / 10)
    return 3 * jnp.stack([jnp.cos(2 * jnp.pi * turn), jnp.sin(2 * jnp.pi * turn)], axis=1)


def three_dimensional(key, batch_size):
    return jax.random.normal(key, (batch_size, 3))


def not_a_number(key, batch_size):
    return ring(key, batch_size).at[3, 1].set(jnp.nan)


def test_user_prior_without_labels_trains():
    spec = make_spec(prior={"name": "user", "function": ring})
    np.testing.assert_allclose(np.linalg.norm(draw(spec, 100), axis=1), 3, rtol=1e-5)
    _, metrics = aae.train_steps(start(spec), make_dataset(), 3)
    assert np.isfinite(metrics["loss/generator"]).all()


def test_user_prior_with_labels_gets_them():
    spec = make_spec(
        prior={"name": "user", "function": arcs}, model={"label_in_discriminator": True}
    )
    z = draw(spec, 100, label=2)
    turn = np.arctan2(z[:, 1], z[:, 0]) / (2 * np.pi)
    assert (turn > 0.2 - 1e-6).all() and (turn < 0.3 + 1e-6).all()
    _, metrics = aae.train_steps(start(spec), make_dataset(), 3)
    assert np.isfinite(metrics["loss/generator"]).all()


def petals(key, batch_size):
    """One of ten directions, drawn with the second of two keys."""
    _, which = jax.random.split(key)
    turn = jax.random.randint(which, (batch_size,), 0, 10) / 10
    return 3 * jnp.stack([jnp.cos(2 * jnp.pi * turn), jnp.sin(2 * jnp.pi * turn)], axis=1)


def test_the_class_is_drawn_apart_from_a_prior_that_splits_its_key():
    spec = make_spec(algorithm="semi_supervised", prior={"name": "user", "function": petals})
    z, label = aae.sample_prior(spec, jax.random.key(0), 10_000)
    petal = np.round(np.arctan2(z[:, 1], z[:, 0]) / (2 * np.pi / 10)).astype(int) % 10
    # A share of a tenth has a std of 0.003.
    assert abs((petal == label).mean() - 0.1) < 0.015


def test_a_prior_without_components_is_the_component_of_every_label():
    spec, key, label = make_spec(), jax.random.key(0), np.arange(50) % 10
    with refused("^a label is given, but prior 'gaussian' has no components"):
        aae.sample_prior(spec, key, 50, label)
    found = aae.sample_prior(make_spec(model={"label_in_discriminator": True}), key, 50, label)
    np.testing.assert_array_equal(found.label, label)
    np.testing.assert_array_equal(found.z, aae.sample_prior(spec, key, 50).z)


def test_soft_classes_draw_the_component_by_their_shares():
    shares = np.zeros((5_000, 10), np.float32)
    shares[:, [2, 7]] = 0.3, 0.7
    label = aae.sample_prior(make_spec(prior=MIXTURE), jax.random.key(0), 5_000, shares).label
    assert set(np.unique(label)) == {2, 7}
    assert abs((label == 2).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 5_000)


class Given(nn.Module):
    """A decoder that shows what it is given."""

    @nn.compact
    def __call__(self, z, y):
        bias = self.param("bias", nn.initializers.zeros, (1,))
        return jnp.concatenate([z, y], axis=1) + bias


def given(spec):
    return Given()


@pytest.mark.parametrize("in_discriminator", [True, False])
def test_samples_have_the_label_of_their_component_if_they_were_trained_together(in_discriminator):
    model = {"decoder": given, "output": "linear", "label_in_decoder": True}
    model["label_in_discriminator"] = in_discriminator
    prior = {**MIXTURE, "radius": 10.0, "radial_std": 0.5}
    state = start(make_spec(image_shape=(12,), model=model, prior=prior))
    found = np.asarray(aae.generate(state, jax.random.key(0), 5_000))
    component = np.round(np.arctan2(found[:, 1], found[:, 0]) / (2 * np.pi / 10)).astype(int) % 10
    share = (component == found[:, 2:].argmax(axis=1)).mean()
    # Across a petal, the neighbour begins at 10 tan(18°) = 3.2: six stds.
    assert share == 1 if in_discriminator else abs(share - 0.1) < 0.021


def scaled(key, batch_size, scale=2.0):
    return scale * ring(key, batch_size)


def scaled_by_name(key, batch_size, *, scale=2.0):
    return scale * ring(key, batch_size)


def scaled_always(key, batch_size, scale):
    return scale * ring(key, batch_size)


def scaled_arcs(key, batch_size, label, scale=2.0):
    return scale * arcs(key, batch_size, label)


def optional_arcs(key, batch_size, label=None):
    return 2 * arcs(key, batch_size, label)


@pytest.mark.parametrize(
    "function, takes_label",
    [
        (scaled, False),
        (scaled_by_name, False),
        (functools.partial(scaled, scale=2.0), False),
        (functools.partial(scaled_always, scale=2.0), False),
        (lambda *arguments: 2 * ring(*arguments), False),
        (scaled_arcs, True),
        (functools.partial(scaled_arcs, scale=2.0), True),
        (optional_arcs, True),
        (lambda key, batch_size, scale=2.0, label=None: scale * ring(key, batch_size), False),
    ],
)
def test_optional_arguments_of_a_user_prior_are_no_labels(function, takes_label):
    spec = make_spec(prior={"name": "user", "function": function})
    assert spec.prior.has_components == takes_label
    np.testing.assert_allclose(np.linalg.norm(draw(spec, 100), axis=1), 6, rtol=1e-5)
    priors.check_prior(spec)


def test_user_prior_by_import_path():
    config = default.get_config()
    config.model.code_dim = 2
    config.prior.name = "user"
    config.prior.function = "test_priors:ring"
    spec = aae.spec_from_config(config)
    assert spec.prior.function is ring
    assert draw(spec, 5).shape == (5, 2)


def disc(spec, key, label):
    """Uniform within a circle of radius `prior.radius`."""
    angle_key, radius_key = jax.random.split(key)
    angle = jax.random.uniform(angle_key, label.shape, maxval=2 * jnp.pi)
    radius = spec.prior.radius * jnp.sqrt(jax.random.uniform(radius_key, label.shape))
    return radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


DISC = priors.Prior(disc, code_dim=2)


@pytest.mark.parametrize("name", ["test_priors:DISC", DISC], ids=["path", "value"])
def test_a_prior_of_the_users_own_with_fields(name):
    spec = make_spec(prior={"name": name, "radius": 4.0})
    radius = np.linalg.norm(draw(spec), axis=1)
    # Of a uniform disc of radius R: E[r²] = R² / 2.
    assert radius.max() <= 4 + 1e-5
    np.testing.assert_allclose((radius**2).mean(), 8, rtol=0.02)
    priors.check_prior(spec)
    with pytest.raises(aae.UserError, match="which is 2-D, but model.code_dim is 3"):
        make_spec(prior={"name": name}, model={"code_dim": 3})
    wrong = DISC._replace(sample=lambda spec, key, label: jnp.zeros((len(label), 3)))
    with pytest.raises(aae.UserError, match=r"^prior.name returns shape \(1000, 3\)"):
        priors.check_prior(make_spec(prior={"name": wrong}))


@pytest.mark.parametrize(
    "prior, model, match",
    [
        (MIXTURE, {"code_dim": 8}, "'gaussian_mixture', which is 2-D, but model.code_dim is 8"),
        (ROLL, {"code_dim": 3}, "'swiss_roll', which is 2-D, but model.code_dim is 3"),
        ({"name": "user"}, {}, "prior.function is None: 'user' needs a function"),
        ({"function": ring}, {}, "prior.name is 'gaussian'"),
        ({"name": "user", "function": "nowhere:ring"}, {}, "'nowhere:ring', which can't be"),
        ({"name": "user", "function": "test_priors:none"}, {}, "test_priors:none"),
        ({**MIXTURE, "radius": -1.0}, {}, "prior.radius is -1.0"),
        ({**ROLL, "turns": 0}, {}, "prior.turns is 0"),
        ({"name": "uniform", "radius": 0.0}, {}, "prior.radius is 0.0"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_at_once(prior, model, match):
    with pytest.raises(aae.UserError, match=match):
        make_spec(prior=prior, model=model)


def test_a_bound_with_a_bounded_prior_is_refused():
    match = (
        "^prior.name is 'uniform': .*algorithm 'vae' needs a prior whose density is zero nowhere"
    )
    with refused(match):
        make_spec(algorithm="vae", prior={"name": "uniform"})


@pytest.mark.parametrize(
    "function, match",
    [
        (three_dimensional, r"prior.function returns shape \(1000, 3\).*\(1000, 2\)"),
        (not_a_number, "prior.function returns nan"),
        (lambda key, batch_size: 3.0, "prior.function returns shape float"),
    ],
)
def test_wrong_draws_are_refused_before_training(function, match):
    spec = make_spec(prior={"name": "user", "function": function})
    with pytest.raises(aae.UserError, match=match):
        priors.check_prior(spec)
