"""Annealed importance sampling against closed forms and integrals in float64 NumPy."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.tree_util import Partial
from small import MIXTURE, SHAPE, make_spec, refused, start

import aae_jax as aae
from aae_jax import annealed, parzen

SHORT = aae.AnnealedSpec(num_chains=4, num_temperatures=6, num_leapfrog=2, block_size=3)


def affine(weight, bias, z):
    return z @ weight + bias


def mlp(layers, z):
    """tanh layers, and a sigmoid."""
    *hidden, last = layers
    for weight in hidden:
        z = jnp.tanh(z @ weight)
    return jax.nn.sigmoid(z @ last)


def make_mlp(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    layers = [rng.normal(size=size) * np.sqrt(3 / size[0]) for size in zip(sizes, sizes[1:])]
    return Partial(mlp, [jnp.asarray(layer, jnp.float32) for layer in layers])


def log_normal(x, mean, std):
    """Σ log N over the last axis, float64."""
    return scipy.stats.norm.logpdf(x, mean, std).sum(axis=-1)


def log_mean_exp(values, axis):
    top = values.max(axis=axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(values - top).mean(axis=axis))


class Linear:
    """Probabilistic PCA (Tipping and Bishop 1999): x = z W + b + σ noise, z ~ N(0, std² I)."""

    def __init__(self, dim, std=1.0, pixels=20, sigma=0.7, num_images=5):
        rng = np.random.default_rng(dim)
        self.dim, self.std, self.sigma = dim, std, sigma
        self.weight = rng.normal(size=(dim, pixels)) / np.sqrt(dim)
        self.bias = rng.normal(size=pixels)
        z = std * rng.normal(size=(num_images, dim))
        noise = sigma * rng.normal(size=(num_images, pixels))
        self.x = np.float32(z @ self.weight + self.bias + noise)
        self.decoder = Partial(affine, np.float32(self.weight), np.float32(self.bias))
        precision = self.weight @ self.weight.T / sigma**2 + np.eye(dim) / std**2
        self.covariance = np.linalg.inv(precision)  # of z given x
        self.mean = (self.x - self.bias) @ self.weight.T @ self.covariance / sigma**2

    def log_likelihood(self):
        pixels = len(self.bias)
        covariance = self.std**2 * self.weight.T @ self.weight + self.sigma**2 * np.eye(pixels)
        return scipy.stats.multivariate_normal(self.bias, covariance).logpdf(self.x)

    def arguments(self, from_code=False):
        found = {"code_dim": self.dim, "prior": annealed.normal(self.std)}
        if from_code:  # an encoder's code: near the mean, and wider than the posterior
            std = np.sqrt(np.diag(self.covariance))
            found["start"] = np.float32(self.mean + 0.3 * std), np.float32(1.2 * std)
        return found


def assert_near(found, truth, tolerance):
    """Asserts closeness within the tolerance, which exceeds four standard errors over chains."""
    spread = np.asarray(found.spread)
    assert (4 * spread <= tolerance).all(), spread
    error = np.asarray(found.log_likelihood, np.float64) - truth
    assert (abs(error) <= tolerance).all(), (error, spread)


@pytest.mark.parametrize(
    "dim, std, from_code",
    [
        (2, 1.0, False),
        (8, 5.0, False),
        pytest.param(50, 1.0, True, marks=pytest.mark.slow),
        pytest.param(8, 1.0, False, marks=pytest.mark.slow),
        pytest.param(50, 1.0, False, marks=pytest.mark.slow),
        pytest.param(2, 5.0, False, marks=pytest.mark.slow),
        pytest.param(2, 1.0, True, marks=pytest.mark.slow),
        pytest.param(8, 1.0, True, marks=pytest.mark.slow),
        pytest.param(2, 5.0, True, marks=pytest.mark.slow),
        pytest.param(8, 5.0, True, marks=pytest.mark.slow),
    ],
)
def test_equals_the_closed_form_of_a_linear_decoder(dim, std, from_code):
    model = Linear(dim, std, sigma=0.7 * std, num_images=5 if dim < 50 else 2)
    spec = aae.AnnealedSpec(num_chains=600, num_temperatures=400, num_leapfrog=3)
    found = annealed.log_likelihood(
        model.decoder, model.x, 0, model.sigma, **model.arguments(from_code), spec=spec
    )
    assert_near(found, model.log_likelihood(), 0.1)


def test_steps_are_accepted_as_often_as_asked_for_at_all_temperatures():
    model = Linear(8, 5.0, sigma=0.05)
    for target in (0.65, 0.85):
        spec = aae.AnnealedSpec(num_chains=50, num_temperatures=60, acceptance=target)
        found = annealed.join(
            annealed.blocks(model.decoder, model.x, 0, 0.05, **model.arguments(), spec=spec)
        )
        assert found.step_size.max() > 30 * found.step_size.min()  # no one step would do
        mean = np.asarray(found.acceptance).mean(axis=0)  # f[K]
        assert abs(mean.mean() - target) < 0.05
        # Of five images with steps from four chains each, and a step that varies by 20 %.
        assert abs(mean - target).max() < 0.2
        beta = np.asarray(found.beta)
        assert (np.diff(beta, axis=1) > 0).all() and (beta > 0).all() and (beta[:, -1] == 1).all()


def test_draws_have_the_moments_of_the_posterior():
    model = Linear(3, pixels=6)
    spec = aae.AnnealedSpec(num_chains=2_000, num_temperatures=50)
    z, log_weight = annealed.sample_posterior(
        model.decoder, model.x, 1, model.sigma, **model.arguments(), spec=spec
    )
    assert z.shape == (5, 2_000, 3) and log_weight.shape == (5, 2_000)
    weight = np.asarray(jax.nn.softmax(log_weight, axis=1), np.float64)
    root = np.linalg.cholesky(model.covariance)
    # As standard normal numbers.
    v = np.linalg.solve(root, (np.asarray(z, np.float64) - model.mean[:, None]).swapaxes(1, 2))
    mean = (v * weight[:, None]).sum(axis=2)
    covariance = np.einsum("tic,tjc,tc->tij", v, v, weight)
    effective = 1 / (weight**2).sum(axis=1)
    assert (effective > 500).all()
    error = 4.5 / np.sqrt(effective.min())  # 4.5 standard errors of 5 × 9 numbers
    assert abs(mean).max() < error
    assert abs(covariance - np.eye(3)).max() < np.sqrt(2) * error


@pytest.mark.slow
def test_uniform_prior():
    """One dimension: the integral of a Gaussian over the box."""
    rng = np.random.default_rng(3)
    weight, bias, sigma, radius = rng.normal(size=4), rng.normal(size=4), 0.5, 2.0
    z = np.array([[-1.9], [-0.5], [1.0], [2.3]])
    x = np.float32(z * weight + bias + sigma * rng.normal(size=(4, 4)))
    precision = weight @ weight / sigma**2
    mean = (x - bias) @ weight / (weight @ weight)
    inside = np.diff(
        scipy.stats.norm.cdf((np.array([[-radius], [radius]]) - mean) * np.sqrt(precision)), axis=0
    )[0]
    truth = (
        log_normal(x, mean[:, None] * weight + bias, sigma)
        + 0.5 * np.log(2 * np.pi / precision)
        + np.log(inside / (2 * radius))
    )
    decoder = Partial(affine, np.float32(weight[None]), np.float32(bias))
    spec = aae.AnnealedSpec(num_chains=500, num_temperatures=200, num_leapfrog=3)
    code = np.float32(mean[:, None]), np.float32(0.4)  # two means may lie outside of the box
    for given in (None, code):
        arguments = {"code_dim": 1, "prior": annealed.uniform(radius), "start": given}
        found = annealed.log_likelihood(decoder, x, 0, sigma, **arguments, spec=spec)
        assert_near(found, truth, 0.1)
    z, _ = annealed.sample_posterior(decoder, x, 0, sigma, **arguments, spec=spec)
    assert abs(z).max() <= radius


SIDE = np.linspace(-6, 6, 401)
GRID = np.stack(np.meshgrid(SIDE, SIDE), axis=-1).reshape(-1, 2)


def integrate(decoder, x, sigma, log_prior):
    """log ∫ p(z) N(x; decoder(z), σ²) dz on a grid of 2-D codes: f64[T]."""
    z = GRID
    for weight in map(np.float64, decoder.args[0][:-1]):
        z = np.tanh(z @ weight)
    x_hat = 1 / (1 + np.exp(-z @ np.float64(decoder.args[0][-1])))
    cell = np.log((SIDE[1] - SIDE[0]) ** 2 * len(GRID))
    return np.array(
        [log_mean_exp(log_prior(GRID) + log_normal(row, x_hat, sigma), 0) + cell for row in x]
    )


def test_nonlinear_decoder():
    decoder, sigma = make_mlp(2, 16, 12), 0.1
    x, z = annealed.simulate(decoder, jax.random.key(5), sigma, 8, code_dim=2)
    np.testing.assert_allclose(np.std(x - decoder(z)), sigma, rtol=0.25)
    x = jnp.concatenate([x, x[2:4, ::-1]])  # and two that it makes badly
    truth = integrate(decoder, np.asarray(x), sigma, lambda z: log_normal(z, 0, 1))
    spec = aae.AnnealedSpec(num_chains=400, num_temperatures=300, num_leapfrog=3)
    found = annealed.log_likelihood(decoder, x, 0, sigma, code_dim=2, spec=spec)
    assert_near(found, truth, 0.2)


@pytest.mark.slow
def test_any_log_density():
    """A mixture, normalised or not."""
    decoder, sigma = make_mlp(2, 16, 12), 0.3
    x, _ = annealed.simulate(decoder, 5, sigma, 4, code_dim=2)
    means = np.array([[1.5, 0.0], [-1.0, 1.0]])

    def log_prior(z):
        return log_mean_exp(log_normal(z[:, None], means, 0.5), 1)

    def log_prob(z):
        return jax.nn.logsumexp(-2 * ((z - np.float32(means)) ** 2).sum(axis=1)) + 3

    truth = integrate(decoder, np.asarray(x), sigma, log_prior)
    constant = 3 + np.log(2 * 2 * np.pi * 0.5**2)
    found = annealed.log_likelihood(
        decoder, x, 0, sigma, code_dim=2, prior=annealed.density(log_prob),
        start=(jnp.zeros((4, 2)), jnp.array([2.0, 1.5])),
        spec=aae.AnnealedSpec(num_chains=700, num_temperatures=200, num_leapfrog=3),
    )  # fmt: skip
    assert_near(found._replace(log_likelihood=found.log_likelihood - constant), truth, 0.1)


@pytest.mark.slow
def test_bounds_of_an_8d_decoder_meet_and_parzen_windows_rise_to_them():
    decoder, sigma = make_mlp(8, 32, 100), 0.125
    spec = aae.AnnealedSpec(num_chains=32, num_temperatures=300)
    given = {"code_dim": 8, "spec": spec}
    found = annealed.bracket(decoder, jax.random.key(0), sigma, 6, **given)
    x, _ = annealed.simulate(decoder, jax.random.key(0), sigma, 6, code_dim=8)
    np.testing.assert_array_equal(found.x, x)
    error = np.hypot(found.lower.spread, found.upper.spread)
    assert (found.gap > -4 * error).all() and (found.gap < 1).all(), (found.gap, error)

    def sample(key, n):
        return decoder(jax.random.normal(key, (n, 8)))

    windows = [
        float(parzen.log_likelihood_streamed(x, sample, 0, num_samples, sigma).mean())
        for num_samples in (1_000, 10_000, 100_000)
    ]
    assert windows[0] < windows[1] < windows[2] < float(found.lower.log_likelihood.mean())

    alone = annealed.upper_bound(decoder, jax.random.key(0), sigma, 6, **given)
    np.testing.assert_array_equal(alone.log_likelihood, found.upper.log_likelihood)


def test_one_temperature_is_importance_sampling():
    """From the exact posterior all weights are p(x); a single chain has no spread."""
    model = Linear(1)
    start = np.float32(model.mean), np.float32(np.sqrt(model.covariance[0]))
    for num_chains in (1, 3):
        found = annealed.log_likelihood(
            model.decoder, model.x, 0, model.sigma, code_dim=1, start=start,
            spec=aae.AnnealedSpec(num_chains, num_temperatures=1, num_leapfrog=1),
        )  # fmt: skip
        np.testing.assert_allclose(found.log_likelihood, model.log_likelihood(), atol=1e-3)
        assert np.isnan(found.spread).all() if num_chains == 1 else (found.spread < 1e-3).all()


@pytest.mark.slow
def test_too_few_temperatures_show_in_the_bracket():
    """Both bounds of a linear decoder: below and above the exact value."""
    model = Linear(8, 5.0, sigma=0.2)
    spec = aae.AnnealedSpec(num_chains=8, num_temperatures=10)
    found = annealed.bracket(model.decoder, 0, model.sigma, 40, **model.arguments(), spec=spec)
    model.x = np.asarray(found.x)
    truth = model.log_likelihood()
    assert np.mean(found.lower.log_likelihood - truth) < -0.5
    assert np.mean(found.upper.log_likelihood - truth) > 0.1
    assert np.mean(found.lower.log_weight_std) > 2


# In float64, since chains amplify rounding: by less than 1e8 in so few transitions.
@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_blocks_devices_and_jit_change_nothing_but_rounding():
    decoder = Partial(mlp, jax.tree.map(np.float64, make_mlp(2, 8, 12).args[0]))
    x = np.random.default_rng(0).uniform(size=(7, 12))
    spec = aae.AnnealedSpec(num_chains=3, num_temperatures=8, num_leapfrog=3)

    def score(key=3, x=x, mesh=None, **changes):
        changed = dataclasses.replace(spec, **changes)
        return annealed.log_likelihood(decoder, x, key, 0.2, code_dim=2, spec=changed, mesh=mesh)

    expected = score()
    assert expected.log_likelihood.dtype == np.float64
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    found = {
        "blocks of 3": score(block_size=3),
        "4 devices, blocks of 3": score(mesh=mesh, block_size=3),
        "a key": score(jax.random.key(3)),
        "jit": jax.jit(score)(jax.random.key(3), x),
    }
    for name, values in found.items():
        for value, wanted in zip(values, expected):
            np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-6, err_msg=name)
    first = score(x=x[:2])
    np.testing.assert_allclose(first.log_likelihood, expected.log_likelihood[:2], atol=1e-6)
    other = score(jax.random.key(4)).log_likelihood
    assert (abs(other - expected.log_likelihood) > 1e-3).all()


def test_blocks_are_the_same_bits_whenever_they_are_run():
    decoder, x = make_mlp(2, 8, 12), np.random.default_rng(0).uniform(size=(7, 12))
    work = annealed.blocks(decoder, np.float32(x), 0, 0.2, code_dim=2, spec=SHORT)
    assert work.num_blocks == 3 and work.block_size == 3
    parts = {index: work.run(index) for index in (2, 0, 1)}
    together = annealed.join(work)
    for name, values in together._asdict().items():
        again = np.concatenate([getattr(parts[index], name) for index in range(3)])
        np.testing.assert_array_equal(values, again)
    assert together.z.shape == (7, 4, 2) and together.beta.shape == (7, 6)


def products(jaxpr):
    """All matrix products of a program; the body of each loop counts once."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def test_a_layer_is_one_product_of_all_chains_at_full_precision():
    prior = annealed.Prior(*map(Partial, annealed.normal()[:2]))
    images = annealed.Images(X, jnp.arange(4))
    traced = annealed.run_block.trace(
        DECODER, prior, images, jax.random.key(0), jnp.float32(0.1), code_dim=2, spec=SHORT
    )
    of_layers = [e for e in products(traced.jaxpr.jaxpr) if e.invars[1].aval.ndim == 2]
    # Forward and backward through two layers: where the pilot and the chains start, and in the loop
    # over the leapfrog steps of each. A transition evaluates the decoder nowhere else.
    assert len(of_layers) == 4 * 4
    for equation in of_layers:
        _, batch_axes = equation.params["dimension_numbers"]
        assert batch_axes == ((), ())  # with batch axes, many small products
        assert equation.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
        assert equation.outvars[0].aval.shape[:2] == (4, 4)  # images, chains


def test_decoders_that_differ_in_parameters_share_one_program():
    traces = []

    def counted(weight, z):
        traces.append(None)
        return jax.nn.sigmoid(z @ weight)

    x = jnp.zeros((5, 12))
    for seed in range(3):
        decoder = Partial(counted, jax.random.normal(jax.random.key(seed), (2, 12)))
        prior = annealed.normal(1.0 + seed)
        annealed.log_likelihood(decoder, x, seed, 0.2 + seed, code_dim=2, prior=prior, spec=SHORT)
        if seed == 0:
            after_first = len(traces)
    assert len(traces) == after_first + 2  # the check of its shape


DECODER, X = make_mlp(2, 8, 12), jnp.full((4, 12), 0.5)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"sigma": 0.0}, r"sigma is 0.0: it must be positive"),
        ({"sigma": -0.1}, r"sigma is -0.1: it must be positive"),
        ({"sigma": float("nan")}, r"sigma is nan: it must be positive"),
        ({"sigma": [0.1, 0.2]}, r"sigma has shape \(2,\): it must be one number"),
        ({"x": jnp.zeros((4, 11))}, r"decoder returns \(1, 12\) .* x has shape \(4, 11\)"),
        ({"x": jnp.zeros((4, 3, 4))}, r"x has shape \(4, 3, 4\): it must be \[T, P\]"),
        ({"x": jnp.zeros((0, 12))}, r"x has shape \(0, 12\)"),
        ({"x": np.zeros((4, 12), np.uint8)}, "x is uint8: it must be floats"),
        ({"x": X.at[1, 2].set(jnp.nan)}, "x contain NaN or inf"),
        ({"code_dim": 0}, "code_dim is 0: it must be an integer, at least 1"),
        ({"code_dim": 3}, r"decoder fails on z of shape \[N, 3\] with TypeError"),
        ({"decoder": 3}, "decoder is a int"),
        ({"decoder": lambda z: None}, "decoder returns NoneType"),
        ({"decoder": lambda z: jnp.zeros((len(z), 12), int)}, "decoder returns int32"),
        ({"decoder": lambda z: z.reshape(-1)[:1]}, r"returns \(1,\) .* jax.vmap\(decoder\)"),
        ({"key": "0"}, "key is '0'"),
        ({"prior": "normal"}, "prior is a str"),
        ({"spec": 3}, "spec is a int"),
        ({"prior": annealed.density(jnp.sum)}, r"only a density.*give start=\(mean, std\)"),
        ({"prior": annealed.density(lambda z: -(z**2))}, r"log_prob returns \(2,\) .* of shape \(\)"),
        ({"prior": annealed.density(lambda z: z[5, 5])}, "log_prob fails on one code .*Error"),
        ({"prior": annealed.Prior(to_code=jnp.sum)}, r"to_code returns \(\) .* of shape \(2,\)"),
        ({"start": jnp.zeros((4, 2))}, "start must be a tuple"),
        ({"start": (jnp.zeros((3, 2)), 1.0)}, r"start has shapes \(3, 2\) and \(\): .*\(4, 2\)"),
        ({"start": (jnp.zeros((4, 2)), 0.0)}, "start's std is 0 somewhere: it must be positive"),
        ({"start": (jnp.full((4, 2), jnp.inf), 1.0)}, "start contain NaN or inf"),
    ],
)  # fmt: skip
def test_bad_arguments_are_one_line(given, message):
    arguments = {"decoder": DECODER, "x": X, "key": 0, "sigma": 0.1, "code_dim": 2, "spec": SHORT}
    with refused(message):
        annealed.log_likelihood(**(arguments | given))


@pytest.mark.parametrize(
    "field, value",
    [("num_temperatures", 0), ("num_chains", 0), ("num_leapfrog", 0), ("block_size", -1)]
    + [("acceptance", 1.0), ("acceptance", 0.0), ("num_chains", 2.5)],
)  # fmt: skip
def test_bad_fields_are_one_line(field, value):
    with refused(rf"annealed.{field} is {value}: it must be"):
        aae.AnnealedSpec(**{field: value})


def test_only_priors_that_can_be_drawn_from_have_an_upper_bound():
    for function in (annealed.bracket, annealed.upper_bound, annealed.simulate):
        with refused("only a density: images can't be simulated"):
            function(DECODER, 0, 0.1, 3, code_dim=2, prior=annealed.density(jnp.sum))
        with refused("num_images is 0"):
            function(DECODER, 0, 0.1, 0, code_dim=2)
    for make in (annealed.normal, annealed.uniform):
        with refused("(std|radius) is -1.0: it must be positive"):
            make(-1.0)
        with refused("(std|radius) is 'wide': it must be one number"):
            make("wide")
    with refused("log_prob is a float"):
        annealed.density(1.0)


def test_nan_of_the_decoder_is_named():
    def everywhere(z):
        return jnp.full((len(z), 12), jnp.nan)

    def in_a_slab(z):  # where one image draws its chains
        return jnp.where(abs(z[:, :1] - 7) < 1, jnp.nan, z[:, :1] * jnp.ones(12))

    spec = dataclasses.replace(SHORT, num_temperatures=30, acceptance=0.9)
    with refused(r"NaN: image 0, chain 0, temperature 0 of 30"):
        annealed.log_likelihood(everywhere, X, 0, 0.1, code_dim=2, spec=spec)
    x = jnp.stack([jnp.full(12, value) for value in (0.0, 0.1, 0.2, 0.3, 7.0)])
    with refused(r"NaN: image 4, chain \d, temperature [1-9]\d? of 30"):
        annealed.log_likelihood(in_a_slab, x, 0, 0.3, code_dim=2, spec=spec)


def test_without_blackjax_the_extra_is_named():
    code = (
        "import sys; sys.modules['blackjax'] = None\n"
        "import aae_jax as aae\n"
        "aae.AnnealedSpec()\n"
        "try: aae.annealed\n"
        "except aae.UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs blackjax" in done.stdout and "[likelihood]" in done.stdout


def test_only_annealed_imports_blackjax():
    code = (
        "import sys, aae_jax as aae\n"
        "from aae_jax import config, experiment, evaluation, parzen, settings\n"
        "assert not [name for name in sys.modules if name.startswith('blackjax')]\n"
        "aae.annealed.log_likelihood\n"
        "assert 'blackjax' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Trained models


def of_state(state, num_images=3, **given):
    arguments = aae.annealed_arguments(state, num_images, **given)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(num_images, 12)), jnp.float32)
    return annealed.log_likelihood(x=x, key=0, sigma=0.3, **arguments, spec=SHORT)


def test_a_model_is_scored_by_its_decoder_and_prior():
    state = start(make_spec())
    decoder, z = aae.decoder_of(state), jax.random.normal(jax.random.key(1), (5, 2))
    np.testing.assert_allclose(decoder(z), aae.decode(state, z).reshape(5, -1))
    given = aae.annealed_arguments(state, 3)
    assert given["code_dim"] == 2 and given["start"] is None
    np.testing.assert_allclose(given["prior"].to_code(jnp.ones(2)), [2.0, 2.0])  # std
    assert np.isfinite(of_state(state).log_likelihood).all()
    box = aae.annealed_arguments(start(make_spec(prior={"name": "uniform", "radius": 4.0})), 3)
    np.testing.assert_allclose(box["prior"].to_code(jnp.full(2, 9.0)), [4.0, 4.0])


def test_a_model_with_a_mixture_as_prior():
    state = start(make_spec(prior=MIXTURE))
    given = aae.annealed_arguments(state, 3)
    z = jax.random.normal(jax.random.key(1), (2,))
    expected = state.spec.prior.distribution.log_prob(state.spec, z[None])[0]
    np.testing.assert_allclose(given["prior"].log_prob(z), expected)
    mean, std = given["start"]
    draws = aae.sample_prior(state.spec, 1, 10_000).z
    assert mean.shape == (3, 2)
    np.testing.assert_allclose(mean[0], draws.mean(axis=0), atol=0.15)
    np.testing.assert_allclose(std, draws.std(axis=0), rtol=0.05)
    assert np.isfinite(of_state(state).log_likelihood).all()


def test_a_model_whose_decoder_takes_labels():
    state = start(make_spec(model={"label_in_decoder": True}))
    with refused("label_in_decoder is True"):
        of_state(state)
    with refused("label ranges from 10 to 10"):
        of_state(state, label=10)
    z = jax.random.normal(jax.random.key(1), (5, 2))
    np.testing.assert_allclose(aae.decoder_of(state, 3)(z), aae.decode(state, z, 3).reshape(5, -1))
    assert not np.allclose(of_state(state, label=3)[0], of_state(state, label=4)[0])
    with refused("label_in_decoder is False"):
        of_state(start(make_spec()), label=3)


def test_models_without_decoder_or_density_are_one_line():
    with refused("algorithm .*gsn.* has no 'decode'"):
        of_state(start(make_spec(algorithm="gsn")))
    with refused("prior.name is 'swiss_roll', which has no density"):
        of_state(start(make_spec(prior={"name": "swiss_roll"})))
    assert SHAPE == (3, 4, 1)


def test_bounds_of_two_weights_by_hand():
    """Weights 1 and 3: log of their mean forward, minus log of the mean of 1 and 1/3 backward."""
    parts = dict.fromkeys(annealed.Chains._fields, jnp.zeros((1, 2)))
    chains = annealed.Chains(**{**parts, "log_weight": jnp.log(jnp.array([[1.0, 3.0]]))})
    np.testing.assert_allclose(annealed.lower(chains).log_likelihood, [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(annealed.upper(chains).log_likelihood, [-np.log(2 / 3)], rtol=1e-6)
    # The standard errors of the means over the means: std √2 of mean 2, and √2 / 3 of mean 2 / 3.
    for found in (annealed.lower(chains), annealed.upper(chains)):
        np.testing.assert_allclose(found.spread, [0.5], rtol=1e-6)
