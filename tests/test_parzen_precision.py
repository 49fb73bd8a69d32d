"""The Parzen window at every σ from 1e-6 to 10, against float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import parzen_window as reference
from small import SHAPE, make_spec, refused, start
from test_parzen import stored_stream

import aae_jax as aae
from aae_jax import evaluation, parzen

SIGMAS = np.logspace(-6, 1, 8)
DIMS = (1, 3, 64, 784, 3072)
EPS = np.finfo(np.float32).eps


def assert_right(found, x, samples, sigmas, nats=0.01):
    """Within 0.01 nats, or where float32 can't hold them, within its rounding of the largest term.

    That is (√D + 8) half ulps, as in `test_parzen.tolerance`: errors of a sum of D terms add up
    like a random walk.
    """
    x, samples = x.astype(np.float64), samples.astype(np.float64)
    nearest = ((x[:, None] - samples) ** 2).sum(axis=-1).min(axis=1)
    dim = x.shape[1]
    for scores, sigma in zip(np.atleast_2d(found), np.atleast_1d(sigmas), strict=True):
        largest = nearest / (2 * sigma**2) + dim * abs(np.log(sigma * np.sqrt(2 * np.pi)))
        allowed = np.maximum(nats, (np.sqrt(dim) + 8) * EPS / 2 * largest)
        error = abs(np.asarray(scores, np.float64) - reference(x, samples, sigma))
        assert np.isfinite(scores).all()
        assert (error <= allowed).all(), (sigma, error.max(), allowed[error.argmax()])


def test_points(kind, dim, rng):
    """Test points f32[12, D]."""
    levels = rng.integers(0, 256, (12, dim))
    x = {
        "pixels": levels / 255,
        "brightness": np.repeat(levels[:, :1], dim, axis=1) / 255,  # differ along one direction
        "about 100": 100 + rng.uniform(-1, 1, (12, dim)),
        "of scale 1e-3": 1e-3 * rng.normal(size=(12, dim)),
    }[kind]
    return np.float32(x)


test_points.__test__ = False
KINDS = ("pixels", "brightness", "about 100", "of scale 1e-3")


def samples_at(place, x, sigma, rng):
    """Samples f32[24, D] on the test points, about σ√D away from them, or far away."""
    twice = np.concatenate([x, x])
    if place == "on":
        return twice
    if place == "near":
        return np.float32(twice + sigma * rng.normal(size=twice.shape))
    return np.float32(twice + 3 * np.std(x) * rng.normal(size=twice.shape))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_sigma_is_right(kind, dim):
    """Stored samples, the same drawn, and differences in float32 alone."""
    rng = np.random.default_rng(dim)
    x = test_points(kind, dim, rng)
    used = set()
    score = jax.jit(by_differences)
    for sigma, place in itertools.product(SIGMAS, ("on", "near", "far")):
        samples = samples_at(place, x, sigma, rng)
        used.add(parzen.products_hold(x, sigma))
        nats = 0.01
        if kind == "brightness":
            nats = max(nats, bound_of_products(x, samples, sigma))
        assert_right(parzen.log_likelihood(x, samples, sigma), x, samples, sigma, nats)
        assert_right(score(x, samples, jnp.float32([sigma])), x, samples, sigma)
    assert used == {False, True}  # the bound is in the range


def bound_of_products(x, samples, sigma):
    """What coordinates that vary, and so round, together can cost a score by products, in nats.

    γ_D bounds the relative error of a sum of D terms in any order (Higham 2002, section 3.1). The terms of
    ‖x‖² + ‖s‖² − 2 s·x about the mean add up to (‖x‖ + ‖s‖)² at the most.
    """
    dim, centre = x.shape[1], x.mean(axis=0, dtype=np.float64)
    unit = (EPS if parzen.products_hold(x, sigma) else np.finfo(np.float64).eps) / 2
    largest = max(np.linalg.norm(v - centre, axis=1).max() for v in (x, samples))
    return dim * unit / (1 - dim * unit) * (2 * largest) ** 2 / (2 * sigma**2)


def by_differences(x, samples, sigmas):
    sums = parzen.start(x, sigmas, differences=True)
    return parzen.finish(parzen.add_samples(sums, x, samples, sigmas), x, len(samples), sigmas)


def by_products(x, samples, sigma, bf16_split=False):
    sigmas = jnp.float32([sigma])
    sums = parzen.start(x, sigmas)
    sums = parzen.add_samples(sums, x, samples, sigmas, parzen.varying(x), bf16_split)
    return np.asarray(parzen.finish(sums, x, len(samples), sigmas)[0], np.float64)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", ["pixels", "about 100", "of scale 1e-3"])
def test_the_bound_is_where_products_cost_a_hundredth_of_a_nat(kind, dim, bf16_split):
    """Just above it errors are 0.01 nats rms or less; at a fiftieth, 2,500 times as large, not.

    The root mean square of 48 errors is itself uncertain, by a share of 1 / √(2 · 48): three of these.
    """
    rng = np.random.default_rng(1)
    x = np.concatenate([test_points(kind, dim, rng) for _ in range(4)])
    split = bf16_split and kind == "pixels"
    assert parzen.can_bf16_split(x) == split
    sigma = next(s for s in np.geomspace(1e-6, 10, 500) if parzen.products_hold(x, s, split))
    errors = []
    for used in (sigma, sigma / 50):
        samples = samples_at("near", x, used, rng)
        error = by_products(x, samples, used, split) - reference(x, samples, used)
        errors.append(np.sqrt(np.mean(error**2)))
    assert errors[0] < 0.01 * (1 + 3 / np.sqrt(2 * len(x)))
    assert errors[1] > 0.01


def test_images_keep_their_products(bf16_split):
    """For σ ≥ 0.05, 8-bit images of 784 pixels as varied as MNIST's are scored as ever."""
    rng = np.random.default_rng(0)
    x = np.float32(rng.integers(0, 256, (30, 784)) / 255) * np.float32(0.9)
    assert not parzen.choose_method(x, [0.05, 1.0]).differences
    x = np.float32(np.round(255 * x) / 255)
    method = parzen.choose_method(x, [0.05, 1.0])
    assert (method.bf16_split, method.differences) == (bf16_split, False)
    assert parzen.choose_method(x, [1.0, 0.01]).differences  # the smallest σ counts


def test_mnist_keeps_its_products(mnist_images, bf16_split):
    method = parzen.choose_method(mnist_images["t10k"], 0.05)
    assert (method.bf16_split, method.differences) == (bf16_split, False)


def test_products_are_split_only_where_17_bits_are_enough(bf16_split):
    x = np.float32(np.arange(256)[:, None] / 255)
    assert parzen.choose_method(x, 0.05).bf16_split == bf16_split
    rounded = parzen.choose_method(x, 0.002)
    assert not rounded.bf16_split and not rounded.differences
    assert parzen.choose_method(x, 1e-4).differences


def test_a_point_far_from_the_others_counts():
    x = np.zeros((1_000, 2), np.float32)
    x[:, 0] = np.linspace(0, 1, 1_000)
    assert parzen.products_hold(x, 0.01)
    x[7] = 1_000
    assert not parzen.products_hold(x, 0.01)


def test_float64_arrays_are_scored_as_they_are():
    """Rounded to float32 first, such points move by a part of σ."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 1))
    for sigma in (1e-6, 1e-5):
        samples = np.concatenate(
            [x + 20 * sigma * rng.normal(size=x.shape), rng.normal(size=(20, 1))]
        )
        found = parzen.log_likelihood(x, samples, sigma)
        expected = reference(x, samples, sigma)
        assert found.dtype == jnp.float32
        assert (abs(found - expected) <= 0.01).all()
        rounded = reference(np.float32(x), np.float32(samples), sigma)
        assert abs(rounded - expected).max() > 0.01
    assert jnp.zeros(3).dtype == jnp.float32  # double precision is off again


def test_within_jit_and_vmap():
    rng = np.random.default_rng(4)
    x = np.float32(rng.uniform(size=(5, 4)))
    samples = np.stack([samples_at("near", x, 1e-4, rng) for _ in range(3)])
    sigmas = np.array([1e-4, 3e-3])

    def score(samples):
        return parzen.log_likelihood(x, samples, sigmas)

    for found, each in zip(jax.jit(jax.vmap(score))(samples), samples, strict=True):
        assert_right(found, x, each, sigmas)
    assert "dot_general" not in str(jax.make_jaxpr(score)(samples[0]))
    # Everything known, and traced by the caller.
    assert_right(jax.jit(lambda: score(samples[0]))(), x, samples[0], sigmas)
    # What is traced can't choose: float32 products, as the docstring says.
    for traced in (
        jax.make_jaxpr(lambda sigma: parzen.log_likelihood(x, samples[0], sigma))(1e-4),
        jax.make_jaxpr(lambda x: parzen.log_likelihood(x, samples[0], 1e-4))(x),
    ):
        assert "dot_general" in str(traced)


def test_derivatives():
    """d/ds log p of one sample s is (x − s) / σ²."""
    rng = np.random.default_rng(5)
    x, sigma = np.float32(rng.uniform(size=(1, 6))), 1e-3
    sample = np.float32(x + sigma * rng.normal(size=x.shape))
    found = jax.grad(lambda s: parzen.log_likelihood(x, s, sigma).sum())(sample)
    np.testing.assert_allclose(found, (x - sample.astype(np.float64)) / sigma**2, rtol=1e-4)

    def total(samples):
        return parzen.log_likelihood(points, samples, 1e-3).sum()

    points = np.float32(rng.uniform(size=(500, 200)))
    samples = jax.ShapeDtypeStruct((2_000, 200), jnp.float32)
    memory = jax.jit(jax.grad(total)).lower(samples).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 100e6  # all differences would be 800 MB


def near_a_grid(key, n):
    """Samples within 1e-4 of a few points."""
    which, noise = jax.random.split(key)
    rows = jax.random.randint(which, (n, 1), 0, 8)
    return rows / 8 + 1e-4 * jax.random.normal(noise, (n, 5))


GRID = np.float32(np.arange(8)[:, None] / 8 + np.zeros(5))


@pytest.mark.parametrize("count", [None, 4])
def test_drawn_samples(count):
    mesh = None if count is None else aae.make_mesh(jax.devices()[:count])
    key, sigmas = jax.random.key(3), np.array([1e-5, 1e-4, 0.2])
    found = parzen.log_likelihood_streamed(GRID, near_a_grid, key, 9_500, sigmas, mesh)
    assert_right(found, GRID, stored_stream(near_a_grid, key, 9_500), sigmas)


def test_memory_of_differences_is_that_of_products():
    def score(x, sigmas):
        sums, key, number = parzen.start(x, sigmas, None, True), jax.random.key(0), 10_000_000
        stream = parzen.Stream(lambda key, n: jax.random.uniform(key, (n, 784)), key, number)
        sums = parzen.add_drawn(sums, x, stream, sigmas, 0, parzen.num_rounds(number))
        return parzen.finish(sums, x, number, sigmas)

    x, sigmas = jax.ShapeDtypeStruct((10_000, 784), jnp.float32), jnp.ones(10)
    memory = jax.jit(score).lower(x, sigmas).compile().memory_analysis()
    parts = ("temp_size_in_bytes", "argument_size_in_bytes", "output_size_in_bytes")
    assert sum(getattr(memory, part) for part in parts) < 0.2e9


def test_select_sigma():
    rng = np.random.default_rng(6)
    valid = np.float32(rng.uniform(size=(20, 6)))
    samples = np.float32(np.repeat(valid, 5, axis=0) + 1e-4 * rng.normal(size=(100, 6)))
    sigmas = np.array([1e-6, 1e-5, 1e-4, 1e-3, 0.1])
    sigma, found = parzen.select_sigma(valid, samples, sigmas)
    means = [reference(valid, samples, sigma).mean() for sigma in sigmas]
    np.testing.assert_allclose(found, means, rtol=20 * EPS, atol=0.01)
    assert sigma == np.float32(sigmas[np.argmax(means)]) == np.float32(1e-4)


@pytest.mark.parametrize("sigma", [9e-16, 1e-20, 1e-30, 2e15, np.inf])
def test_sigma_out_of_range_is_refused(sigma):
    x = np.zeros((2, 3), np.float32)
    for score in (
        lambda: parzen.log_likelihood(x, x, sigma),
        lambda: parzen.select_sigma(x, x, [0.1, sigma]),
        lambda: parzen.log_likelihood_streamed(
            x, lambda key, n: jnp.zeros((n, 3)), jax.random.key(0), 10, sigma
        ),
    ):
        with pytest.raises(ValueError, match="sigma is .*: it must be from 1e-15 to 1e15"):
            score()


def test_the_ends_of_the_range_are_finite():
    x = np.float32([[0, 1], [1, 0], [1_000, 3]])
    for sigma in (1e-15, 1e-6, np.float32(1e-6), 1e6, 1e15):
        assert_right(parzen.log_likelihood(x, x[:1], sigma), x, x[:1], sigma)
        assert_right(by_differences(x, x[:1], jnp.float32([sigma])), x, x[:1], sigma)


# Through `evaluation`.


def images_near_a_grid(key, n):
    return (jax.random.randint(key, (n, 12), 0, 2) + 1e-4 * jax.random.uniform(key, (n, 12))) / 2


def log_likelihoods(sampler, images, sigmas, mesh=None, run=evaluation.at_once):
    num_samples = 9_500 if callable(sampler) else len(sampler)
    key = jax.random.key(7)
    return evaluation.log_likelihoods(sampler, images, key, num_samples, sigmas, "test", mesh, run)


def test_evaluations_are_right_however_they_are_cut(monkeypatch):
    """A file of sums gives them back as plain arrays."""
    monkeypatch.setattr(evaluation, "_PIECE", 4_000)
    images = np.float32(np.random.default_rng(0).integers(0, 2, (6, *SHAPE)) / 2)
    samples = stored_stream(images_near_a_grid, jax.random.key(7), 9_500)
    rows = images.reshape(6, -1)
    seen = []

    def plain(sums):
        return parzen.Sums(*(np.asarray(value) for value in sums))

    def cut(one_pass):
        seen.append(one_pass.identity)
        sums = plain(one_pass.add(one_pass.empty, 0, 1))
        return plain(one_pass.add(sums, 1, one_pass.num_rounds))

    for mesh, sampler in (
        (None, images_near_a_grid),
        (aae.make_mesh(jax.devices()[:2]), images_near_a_grid),
        (None, samples.reshape(-1, *SHAPE)),
    ):
        whole = log_likelihoods(sampler, images, (1e-5, 1e-4), mesh)
        assert_right(whole, rows, samples, [1e-5, 1e-4])
        again = log_likelihoods(sampler, images, (1e-5, 1e-4), mesh, cut)
        np.testing.assert_array_equal(again, whole)
    log_likelihoods(images_near_a_grid, images, (0.1, 0.2), None, cut)
    assert len(set(seen)) == len(seen)


def test_an_evaluation_chooses_a_tiny_sigma():
    images = np.float32(np.random.default_rng(1).integers(0, 2, (6, *SHAPE)) / 2)
    test, sigmas = {"image": images}, (1e-5, 1e-4, 1e-3, 0.1)
    spec = aae.EvaluationSpec(9_500, num_validation=None, sigmas=sigmas)
    key = jax.random.key(7)
    found = evaluation.evaluate(images_near_a_grid, [(test, test)], spec, key)
    samples = stored_stream(images_near_a_grid, key, 9_500)
    means = [reference(images.reshape(6, -1), samples, sigma).mean() for sigma in sigmas]
    assert found["parzen/sigma"] == sigmas[np.argmax(means)]
    assert abs(found["parzen/log_likelihood"] - max(means)) < 0.01


# Axes.


def split(shape, dtype=np.uint8):
    return {"image": np.random.default_rng(0).integers(0, 2, shape).astype(dtype)}


def score(samples, validation, test):
    spec = aae.EvaluationSpec(10, num_validation=None, sigmas=(0.3,))
    return evaluation.evaluate(samples, [(validation, test)], spec)


def test_samples_in_another_order_of_axes_are_refused():
    images = split((5, 4, 4, 3))
    for shape in ("9, 3, 4, 4", "9, 4, 3, 4", "9, 16, 3", "9, 12, 4", "9, 2, 8, 3"):
        samples = split(tuple(map(int, shape.split(", "))))["image"]
        with refused(rf"^samples have shape \({shape}\).*\[N, 48\].* images \(5, 4, 4, 3\)$"):
            score(samples, images, images)
    for shape in ((9, 48), (9, 4, 4, 3)):
        score(split(shape)["image"], images, images)
    grey = split((5, 4, 3, 1))
    found = [
        score(split((9, 12))["image"].reshape(shape), grey, grey)
        for shape in ((9, 12), (9, 4, 3), (9, 4, 3, 1))
    ]
    assert found[0] == found[1] == found[2]
    for shape in ((9, 3, 4), (9, 3, 4, 1), (9, 4, 1, 3)):
        with refused("^samples have shape"):
            score(split(shape)["image"], grey, grey)


def test_folds_in_two_orders_of_axes_are_refused():
    samples, test = split((9, 48))["image"], split((5, 4, 4, 3))
    other = split((6, 3, 4, 4))
    with refused(r"^validation images have shape \(6, 3, 4, 4\), test images \(5, 4, 4, 3\)"):
        score(samples, other, test)
    spec = aae.EvaluationSpec(10, num_validation=None, sigmas=(0.3,))
    for folds in ([(test, test), (test, other)], [(test, test), (other, test)]):
        with refused(r"images have shape \(6, 3, 4, 4\), test images \(5, 4, 4, 3\)"):
            evaluation.evaluate(samples, folds, spec)


def test_a_model_of_images_in_another_order_of_axes_is_refused():
    state = start(make_spec())
    assert SHAPE == (3, 4, 1)
    score = evaluation.log_likelihoods
    images = split((5, 4, 3, 1))["image"]
    with refused(r"^images have shape \(5, 4, 3, 1\): the model makes images \(3, 4, 1\)"):
        score(aae.sampler(state), images, jax.random.key(0), 10, (0.3,), "test")
    score(aae.sampler(state), images.reshape(5, *SHAPE), jax.random.key(0), 10, (0.3,), "test")
