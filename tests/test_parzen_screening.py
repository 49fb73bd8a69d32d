"""The kernel that leaves samples out: as exact as the plain one, whatever the samples are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parzen import log_mean_exp

from aae_jax import evaluation, parallel, parzen
from aae_jax.parzen import __main__ as command, bound, screening

DIM = 300


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    """Of 2,000 samples a device, so that few samples take several."""
    monkeypatch.setattr(screening, "NUM_CHUNKS", 2)


def cloud(rng, num_points, num_samples):
    """Points and samples near a curved surface, in [0, 1], as images are."""
    weights = [rng.normal(size=shape) / np.sqrt(shape[0]) for shape in ((6, 40), (40, DIM))]

    def draw(number):
        hidden = np.tanh(2 * rng.normal(size=(number, 6)) @ weights[0])
        return 1 / (1 + np.exp(-3 * hidden @ weights[1]))

    points = draw(num_points)
    return np.clip(points + 0.02 * rng.normal(size=points.shape), 0, 1), draw(num_samples)


def squared_distances(x, samples):
    """f64[T, N]; a product of float64 numbers about their mean is exact enough, and fast."""
    x, samples = x - x.mean(axis=0), samples - x.mean(axis=0)
    return (x**2).sum(axis=1)[:, None] + (samples**2).sum(axis=1) - 2 * x @ samples.T


def exact(x, samples, sigma):
    """Log-likelihoods f64[T]."""
    log_volume = x.shape[1] * np.log(sigma * np.sqrt(2 * np.pi))
    return log_mean_exp(-squared_distances(x, samples) / (2 * sigma**2)) - log_volume


def case(name):
    """Points f64[T, D] and samples f64[N, D], of float32 numbers."""
    rng = np.random.default_rng(0)
    x, samples = cloud(rng, 150, 7_000)
    if name == "one sample":
        samples = samples[:1]
    elif name == "fewer than a chunk":
        samples = samples[:700]
    elif name == "not whole chunks":
        samples = samples[:6_501]
    elif name == "all equal":
        samples = np.repeat(samples[:1], 5_000, axis=0)
    elif name == "a far point":
        x[7] = 50
    elif name == "a far sample":
        samples[3_003] = -30
    elif name == "on the points":
        samples[4_000:4_150] = x
    elif name == "duplicates":
        samples[2_000:4_000] = samples[:2_000]
    elif name == "equal points":
        x[:] = x[0]
    elif name == "equal columns":
        x[:, 40:] = x[0, 40:]
    elif name == "uniform":
        x, samples = rng.uniform(size=x.shape), rng.uniform(size=(5_000, DIM))
    elif name == "the nearest come last":
        samples[:6_000] += 0.3
    elif name == "in a plane":  # nothing is left beside the projection
        plane = rng.normal(size=(5, DIM))
        x, samples = (rng.normal(size=(n, 5)) @ plane / 20 for n in (150, 7_000))
    return tuple(value.astype(np.float32).astype(np.float64) for value in (x, samples))


CASES = [
    "a cloud", "one sample", "fewer than a chunk", "not whole chunks", "all equal", "a far point",
    "a far sample", "on the points", "duplicates", "equal points", "equal columns",
    "uniform", "the nearest come last", "in a plane",
]  # fmt: skip


def screened(x, samples, sigmas, pieces=1):
    """Log-likelihoods f[S, T] and the share that was multiplied out."""
    x, sigmas = jnp.asarray(x), jnp.asarray(sigmas, x.dtype)
    limits = bound.make_bound(x, sigmas, len(samples))
    sums = screening.start_screened(limits)
    for piece in np.array_split(samples, pieces):
        sums = screening.add_screened_samples(sums, jnp.asarray(piece), limits)
    found = parzen.finish(screening.in_order(sums, limits), x, len(samples), sigmas)
    return np.asarray(found), screening.multiplied_share(sums)


@pytest.mark.parametrize("sigmas", [[0.1], [0.02], [3.0], [0.05, 0.2]], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_float64_numpy(name, sigmas):
    """In float64 nothing but what is left out can differ: 1e-6 nats."""
    x, samples = case(name)
    with jax.enable_x64(True):
        found, share = screened(x, samples, sigmas, pieces=1 + (len(samples) == 7_000))
    for sigma, scores in zip(sigmas, found):
        np.testing.assert_allclose(scores, exact(x, samples, sigma), atol=2e-6, rtol=1e-12)
    assert 0 < share <= 1
    if name == "uniform":
        assert share == 1
    if name in ("a cloud", "not whole chunks") and max(sigmas) <= 0.1:
        assert share < 0.7  # of four or five rounds, the first is a plain product


def assert_as_exact_as_products(found, x, samples, sigmas):
    """Log-likelihoods f[S, T] of float32 numbers, beside float64 and the rounding of products."""
    x, samples = x.astype(np.float64), samples.astype(np.float64)
    # As in `test_parzen.tolerance`, for the nearest samples; 1,000 are added to each other at a time.
    rounding = (np.sqrt(DIM) + 8) * np.finfo(np.float32).eps / 2
    length = np.sqrt(((x - x.mean(axis=0)) ** 2).sum(axis=1))
    nearest = squared_distances(x, samples).min(axis=1)
    for sigma, scores in zip(sigmas, found):
        farthest = np.sqrt(np.maximum(nearest, 0) + 2 * sigma**2 * 20)
        error = rounding * (2 * length + farthest) ** 2 / (2 * sigma**2)
        expected = exact(x, samples, sigma)
        allowed = error + 1e-4 + 1e-6 * abs(expected)
        assert (abs(scores - expected) <= allowed).all()


@pytest.mark.parametrize("sigmas", [[0.1], [0.05, 0.2]], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_float32_is_as_exact_as_the_plain_kernel(name, sigmas):
    x, samples = (value.astype(np.float32) for value in case(name))
    if not parzen.products_hold(x, sigmas):
        pytest.skip("float32 products are not used for this σ")
    found, _ = screened(x, samples, sigmas)
    assert_as_exact_as_products(found, x, samples, sigmas)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_no_needed_sample_is_left_out(name, dtype):
    """Of samples within the margin by float64 distances; the bound is of the worst rounding."""
    x, samples = case(name)
    samples, sigma = samples[-2_000:], 0.1
    samples = np.resize(samples, (2_000, DIM))
    with jax.enable_x64(dtype == np.float64):
        limits = bound.make_bound(jnp.asarray(x, dtype), jnp.asarray([sigma], dtype), 2_000)
        columns = np.asarray(limits.columns)
        points = np.asarray(limits.points, np.float64).reshape(-1, len(columns))
        about = (samples.astype(dtype) - np.asarray(limits.centre)).astype(np.float64)
        offsets = (about**2).sum(axis=1) - 2 * points @ about[:, columns].T
        nearest = jnp.asarray(offsets.min(axis=1), dtype)
        found = screening._needed(
            nearest.reshape(limits.allowance.shape),
            jnp.asarray(about[:, columns], dtype),
            jnp.asarray((about**2).sum(axis=1), dtype),
            limits,
        )
    margin = 2 * sigma**2 * np.log(2_000 * 1e6)
    real = np.zeros(len(points), bool)
    real[np.asarray(limits.place)] = True
    close = (offsets <= offsets.min(axis=1, keepdims=True) + margin) & real[:, None]
    expected = close.reshape(-1, bound.BLOCK, 2_000).any(axis=1)
    found = np.asarray(found).reshape(expected.shape)
    assert not (expected & ~found).any()


def test_points_side_by_side_are_a_permutation():
    rng = np.random.default_rng(1)
    for num_points in (1, 63, 64, 65, 1_000):
        x = rng.normal(size=(num_points, DIM)).astype(np.float32)
        limits = bound.make_bound(jnp.asarray(x), jnp.array([0.1]), 1_000)
        points = np.asarray(limits.points).reshape(-1, len(limits.columns))[limits.place]
        expected = (x - x.mean(axis=0))[:, limits.columns]
        np.testing.assert_allclose(points, expected, atol=1e-6)
        assert len(set(np.asarray(limits.place).tolist())) == num_points


def test_drawn_samples_in_pieces_are_bit_identical():
    """However the rounds are split into calls, and through the host in between."""
    x, stored = (value.astype(np.float32) for value in case("a cloud"))
    stored, sigmas = jnp.asarray(stored), jnp.array([0.1, 0.05])
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    limits = bound.make_bound(jnp.asarray(x), sigmas, 19_500)

    def sampler(key, n):
        return stored[jax.random.randint(key, (n,), 0, len(stored))]

    @jax.jit
    def add(sums, first, last):
        stream = parzen.Stream(sampler, jax.random.key(0), 19_500, mesh)
        return screening.add_screened_drawn(sums, stream, first, last, limits)

    assert parzen.samples_per_round(19_500, mesh, screening.NUM_CHUNKS) == 4_000
    empty = screening.start_screened(limits, mesh)
    whole = add(empty, 0, 5)
    assert screening.multiplied_share(whole) < 0.5
    for cuts in ((0, 1, 5), (0, 2, 3, 5)):
        sums = empty
        for first, last in itertools.pairwise(cuts):
            sums = add(screening.ScreenedSums(*(np.asarray(v) for v in sums)), first, last)
        for found, expected in zip(sums, whole):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("devices", [1, 4, 8])
def test_drawn_samples_on_any_number_of_devices(devices):
    x, stored = case("a cloud")
    num_samples, sigmas = 20_500, [0.1]
    mesh = None
    if devices > 1:
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def rows(key, n):
        return jax.random.randint(key, (n,), 0, len(stored))

    with jax.enable_x64(True):
        table, sigma = jnp.asarray(stored), jnp.asarray(sigmas)
        limits = bound.make_bound(jnp.asarray(x), sigma, num_samples)
        stream = parzen.Stream(lambda k, n: table[rows(k, n)], jax.random.key(0), num_samples, mesh)
        per_round = parzen.samples_per_round(num_samples, mesh, screening.NUM_CHUNKS)
        sums = screening.start_screened(limits, mesh)
        sums = jax.jit(
            lambda sums: screening.add_screened_drawn(
                sums, stream, 0, -(-num_samples // per_round), limits
            )
        )(sums)
        found = parzen.finish(screening.in_order(sums, limits), jnp.asarray(x), num_samples, sigma)
        drawn = np.concatenate(
            [stored[rows(jax.random.fold_in(stream.key, i), 1_000)] for i in range(21)]
        )[:num_samples]
    np.testing.assert_allclose(found[0], exact(x, drawn, 0.1), atol=2e-6, rtol=1e-12)


def test_is_worth_it_for_many_points_and_samples_only():
    x = np.random.default_rng(0).uniform(size=(500, DIM))
    assert bound.is_worth_it(x, 1.0, 1_000_000)
    assert not bound.is_worth_it(x, 1.0, 1_000)
    assert not bound.is_worth_it(x[:400], 1.0, 1_000_000)
    assert not bound.is_worth_it(x[:, :8], 1.0, 1_000_000)


def test_is_worth_it_beside_split_products_for_a_small_margin_only():
    """For 10 million samples the margin is 2 σ² ln 10¹³ = 59.87 σ²: 7.76 for σ 0.36, 21.6 for 0.6."""
    points = np.zeros((1_000, 400), np.float32)
    points[::2] = 0.7269  # variance 400 (0.7269 / 2)² = 52.84, as of MNIST's test images
    for sigma, expected in ((0.125, True), (0.36, True), (0.6, False), ([0.125, 0.6], False)):
        assert bound.is_worth_it(points, sigma, 10_000_000, bf16_split=True) == expected
        assert bound.is_worth_it(points, sigma, 10_000_000)
    # A quarter of 52.84 is 13.21 = 59.87 · 0.4697².
    assert bound.is_worth_it(points, 0.469, 10_000_000, bf16_split=True)
    assert not bound.is_worth_it(points, 0.471, 10_000_000, bf16_split=True)
    # For 200,000 samples the margin is 2 σ² ln (2 · 10¹¹) = 52.04 σ²: σ below 0.5038.
    assert bound.is_worth_it(points, 0.503, 200_000, bf16_split=True)
    assert not bound.is_worth_it(points, 0.505, 200_000, bf16_split=True)


def test_few_points_are_padding():
    """Padding is multiplied like points: blocks of 64 filled up, and at most one block in eleven."""
    for num_points in [*range(500, 2_000, 7), 10_000, 11_000]:
        group = bound._points_of_a_group(num_points)
        blocks, padded = -(-num_points // 64), -(-num_points // group) * (group // 64)
        assert group % 64 == 0 and 5 <= group // 64 <= 10
        assert blocks <= padded <= blocks * (1 + 1 / 11) + 1e-9, num_points


@pytest.fixture
def for_few_samples(monkeypatch):
    monkeypatch.setattr(bound, "_FEWEST_POINTS", 100)
    monkeypatch.setattr(bound, "_FEWEST_SAMPLES", 5_000)
    monkeypatch.setattr(parzen, "NUM_CHUNKS", 2)


def a_round_at_a_time(one_pass):
    """Through the host after each, as a pass that is cut and goes on."""
    sums = one_pass.empty
    for index in range(one_pass.num_rounds):
        sums = one_pass.add(tuple(np.asarray(v) for v in sums), index, index + 1)
    return sums


@pytest.mark.parametrize("devices", [None, 1, 4, "stored"])
def test_evaluation_leaves_samples_out(for_few_samples, monkeypatch, devices):
    """As `launch.py` scores: the bound is an argument of the compiled function, on every device."""
    monkeypatch.setattr(evaluation, "_PIECE", 4_000)
    x, samples = (value.astype(np.float32) for value in case("a cloud"))
    table, key, number, mesh = jnp.asarray(samples), jax.random.key(0), 20_500, None

    def rows(key, n):
        return jax.random.randint(key, (n,), 0, len(table))

    def sampler(key, n):
        return table[rows(key, n)]

    if devices == "stored":
        model, number, counted = samples, len(samples), samples
    else:
        model, chunks = sampler, [jax.random.fold_in(key, i) for i in range(21)]
        counted = np.concatenate([samples[rows(k, 1_000)] for k in chunks])[:number]
        mesh = None if devices is None else parallel.make_mesh(jax.devices()[:devices])
    arguments = model, x.reshape(-1, 10, 30, 1), key, number, (0.1,), "test", mesh
    whole = evaluation.scored(*arguments)
    cut = evaluation.scored(*arguments, a_round_at_a_time)
    np.testing.assert_array_equal(whole.log_likelihoods, cut.log_likelihoods)
    assert whole.multiplied_share == cut.multiplied_share < 0.7
    assert_as_exact_as_products(whole.log_likelihoods, x, counted, [0.1])
    monkeypatch.setattr(bound, "_FEWEST_SAMPLES", 1_000_000)
    plain = evaluation.scored(*arguments)
    assert plain.multiplied_share == 1
    assert_as_exact_as_products(plain.log_likelihoods, x, counted, [0.1])


def test_the_command_leaves_samples_out(for_few_samples):
    x, samples = case("a cloud")
    scores, share = command._score(x.astype(np.float32), samples.astype(np.float32), [0.1])
    np.testing.assert_allclose(scores[0], exact(x, samples, 0.1), atol=0.02)
    assert share < 0.7
    # In float64, for a σ that is too small for float32.
    scores, share = command._score(x, samples, [0.01])
    np.testing.assert_allclose(scores[0], exact(x, samples, 0.01), atol=1e-5, rtol=1e-9)
    assert share < 0.7


def test_the_evaluation_and_the_command_choose_between_the_bound_and_split_products(
    for_few_samples, monkeypatch, bf16_split
):
    """8-bit images: with split products, samples are left out only if σ is small."""
    monkeypatch.setattr(evaluation, "_PIECE", 4_000)
    x, samples = case("a cloud")
    levels = np.rint(255 * x).astype(np.uint8)
    x, samples = levels / np.float32(255), samples.astype(np.float32)
    identities = []

    def run(one_pass):
        identities.append(one_pass.identity)
        return evaluation.at_once(one_pass)

    for sigma, screens in ((0.1, True), (0.5, not bf16_split)):
        method = parzen.choose_method(x, [sigma], len(samples))
        assert method[1:] == (not screens, False, screens)
        assert parzen.choose_method(x, [sigma])[1:] == (bf16_split, False, False)
        images = levels.reshape(-1, 10, 30, 1)
        arguments = samples, images, None, len(samples), (sigma,), "test", None, run
        found, share = evaluation.scored(*arguments)
        of_command, share_of_command = command._score(x, samples, [sigma])
        assert (share < 0.7) == (share_of_command < 0.7) == (sigma == 0.1)
        for scores in (found, of_command):
            if screens:
                assert_as_exact_as_products(scores, x, samples, [sigma])
            else:
                np.testing.assert_allclose(scores[0], exact(x, samples, sigma), atol=1e-3)
    # The sums of the bound are those of any machine: a saved pass goes on with them.
    monkeypatch.setattr(parzen.running, "_has_fast_bfloat16", lambda: not bf16_split)
    for sigma in (0.1, 0.5):
        evaluation.scored(*arguments[:4], (sigma,), *arguments[5:])
    assert identities[0] == identities[2] and identities[1] != identities[3]
