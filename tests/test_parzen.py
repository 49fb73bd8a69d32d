"""The Parzen window against float64 NumPy, and the anchor on MNIST."""

import itertools
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import parzen_window as reference

from aae_jax import parzen


def log_mean_exp(exponent):
    top = exponent.max(axis=1, keepdims=True)
    return top[:, 0] + np.log(np.exp(exponent - top).mean(axis=1))


def tolerance(x, samples, sigma, bf16_split=False):
    """How far from `reference` the rounding of float32 may take each score: f64[T] nats.

    Each operation has an error of half an eps of its result. In a sum of n terms such errors add up
    like a random walk, to √n of them (Higham and Mary 2019), in any order of summation. At most
    eight more operations are on the way.
    """

    def rounding(num_terms):
        return (np.sqrt(num_terms) + 8) * np.finfo(np.float32).eps / 2

    x, samples = x.astype(np.float64), samples.astype(np.float64)
    (num_points, dim), num_samples = x.shape, len(samples)
    centre = x.mean(axis=0)
    difference = x[:, None] - samples[None]
    size = abs(x - centre)[:, None] + abs(samples - centre)
    # Of ‖s‖² − 2 s·x + ‖x‖² about the centre, and of the centre, itself a mean of T points.
    error = rounding(dim) * (size**2).sum(axis=-1)
    error += rounding(num_points) * 2 * np.sqrt(((size * centre) ** 2).sum(axis=-1))
    if bf16_split:  # moves each sample by up to 2⁻¹⁷ of itself
        moved = 2**-17 * (samples - centre)
        error += 2 * np.sqrt(((difference * moved) ** 2).sum(axis=-1))
    exponent = -(difference**2).sum(axis=-1) / (2 * sigma**2)
    distances = log_mean_exp(exponent + error / (2 * sigma**2)) - log_mean_exp(exponent)
    parts = -exponent.max(axis=1) + dim * (1 + abs(np.log(sigma * np.sqrt(2 * np.pi))))
    return distances + rounding(num_samples) + rounding(0) * (parts + np.log(num_samples))


def assert_exact(found, x, samples, sigmas, bf16_split=False):
    """Scores [S, T], or [T] for one σ, are those of `reference` within float32's rounding."""
    for scores, sigma in zip(np.atleast_2d(found), np.atleast_1d(sigmas), strict=True):
        error = abs(scores - reference(x, samples, sigma))
        allowed = tolerance(x, samples, sigma, bf16_split)
        assert (error <= allowed).all(), (sigma, error.max(), allowed[error.argmax()])


def points(num_points, num_samples, dim, seed=0):
    """8-bit pixels, and samples of any values."""
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (num_points, dim)).astype(np.float32) / np.float32(255),
        rng.uniform(size=(num_samples, dim)).astype(np.float32),
    )


# Sizes below, at and across one and two chunks of 1,000 samples and the block of 500 test points.
SIZES = [(1, 1, 1), (3, 999, 5), (7, 1_000, 64), (5, 1_001, 17), (1_001, 37, 3), (2, 2_345, 784)]
SIZES += [(500, 20, 3), (501, 20, 3), (4, 2_000, 7), (4, 2_001, 7), (2, 4_001, 7)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_float64_reference(size, bf16_split):
    (x, samples), sigmas = points(*size), np.array([0.1, 0.5])
    found = parzen.log_likelihood(x, samples, sigmas)
    assert found.shape == (2, size[0]) and found.dtype == jnp.float32
    assert_exact(found, x, samples, sigmas, bf16_split)


@pytest.mark.parametrize("num_samples, repeated", [(2_001, 1_000), (4_001, 2_667)])
def test_no_sample_counts_twice(num_samples, repeated, bf16_split):
    """Pieces have one size, 1,001 and 1,334, and the last is moved back: it starts with one read."""
    samples, _ = points(num_samples, 1, 7)
    x = samples[[repeated - 1, repeated, repeated + 1, 0, -1]]
    found = parzen.log_likelihood(x, samples, 0.01)
    assert found.shape == (5,)
    assert_exact(found, x, samples, 0.01, bf16_split)


def test_many_sigmas_in_one_pass(bf16_split):
    x, samples = points(6, 1_234, 40)
    sigmas = np.array([0.05, 0.2, 1.0])
    found = parzen.log_likelihood(x, samples, sigmas)
    assert found.shape == (3, 6)
    assert_exact(found, x, samples, sigmas, bf16_split)


def test_far_samples_do_not_underflow(bf16_split):
    # exp(−‖x − s‖²/2σ²) is 0 in float32 for every sample; the log-likelihood is still exact.
    x, samples = points(4, 50, 100)
    found = parzen.log_likelihood(x, samples + 3, 0.02)
    assert (found < -1e5).all()
    assert_exact(found, x, samples + 3, 0.02, bf16_split)


def test_float64_is_exact(x64):
    x, samples = points(6, 1_234, 40)
    found = parzen.log_likelihood(x.astype(np.float64), samples.astype(np.float64), 0.1)
    finer = np.finfo(np.float64).eps / np.finfo(np.float32).eps
    allowed = 2 * finer * tolerance(x, samples, 0.1)  # twice: the reference is float64 too
    assert (abs(found - reference(x, samples, 0.1)) <= allowed).all()


def test_columns_that_do_not_vary_need_no_product(bf16_split):
    x, samples = points(40, 1_234, 30)
    x[:, [0, 7, 8, 29]] = [0.0, 1.0, 0.2, 0.0]
    np.testing.assert_array_equal(
        parzen.varying(x), [i for i in range(30) if i not in (0, 7, 8, 29)]
    )
    program = str(jax.make_jaxpr(lambda s: parzen.log_likelihood(x, s, 0.2))(samples))
    if bf16_split:  # two halves of 26 columns and a padding to 64
        assert "bf16[1234,64]" in program and "f32[1234,30]" in program
    else:
        assert "f32[1234,26]" in program and "f32[26" not in program
    assert_exact(parzen.log_likelihood(x, samples, 0.2), x, samples, 0.2, bf16_split)
    drawn = parzen.log_likelihood_streamed(
        x, lambda key, n: jnp.asarray(samples[:n]), jax.random.key(0), 1_000, 0.2
    )
    assert_exact(drawn, x, samples[:1_000], 0.2, bf16_split)
    # Where the values are not known, all columns are taken.
    listed = jax.jit(lambda x, s: parzen.log_likelihood([x[0], x[1]], s, 0.2))(x, samples)
    assert_exact(listed, x[:2], samples, 0.2)
    assert_exact(jax.jit(parzen.log_likelihood)(x, samples, 0.2), x, samples, 0.2)


def test_bf16_split_where_pixels_are_8_bit_and_bfloat16_is_fast(bf16_split):
    levels = np.arange(256, dtype=np.float32)[None]
    assert parzen.can_bf16_split(levels / np.float32(255)) == bf16_split
    assert parzen.can_bf16_split(jnp.asarray(levels) * np.float32(1 / 255)) == bf16_split
    assert parzen.can_bf16_split(np.zeros((200, 3), np.float32)) == bf16_split
    late = np.zeros((200, 3), np.float32)
    for value in (0.3, -1 / 255, 256 / 255, np.float32(0.2) * (1 + 2**-21), np.nan, np.inf, 1e38):
        late[150, 1] = value
        assert not parzen.can_bf16_split(late)
    assert not parzen.can_bf16_split(levels.astype(np.float64) / 255)
    x, samples = points(3, 5, 4)
    for given, expected in ((x, bf16_split), (x / 2, False)):
        program = str(jax.make_jaxpr(lambda s: parzen.log_likelihood(given, s, 0.2))(samples))
        assert ("bf16[" in program) == expected


def plain(x, samples, sigma):
    """The kernel's formula in float32 NumPy, every sum one term after the other."""

    def add_up(terms):
        return np.cumsum(terms, axis=-1, dtype=np.float32)[..., -1]

    centre = add_up(x.T) / np.float32(len(x))
    x, samples = x - centre, samples - centre
    offset = add_up(samples**2) - add_up(2 * samples * x[:, None])
    squared = (offset + add_up(x**2)[:, None]).astype(np.float64)
    log_mean = log_mean_exp(-squared / (2 * sigma**2))
    return log_mean - x.shape[1] * np.log(sigma * np.sqrt(2 * np.pi))


def assert_as_exact_as_plain(x, samples, sigma):
    """Errors beside those of `plain`, root mean squares over points, on the machine at hand.

    Four times: processors sum in another order, and split samples have 17 bits.
    """
    expected = reference(x, samples, sigma)
    found, allowed = (
        np.sqrt(np.mean((scores - expected) ** 2))
        for scores in (parzen.log_likelihood(x, samples, sigma), plain(x, samples, sigma))
    )
    assert found < 4 * allowed


def test_near_samples_are_as_exact_when_split(bf16_split):
    """Rounded samples are rounded in every term; in the product alone, the error is 46 times.

    With few columns, sums in float32 cost less than rounding to 17 bits, whatever their order.
    """
    x, _ = points(200, 1, 2)
    noise = np.random.default_rng(1).normal(scale=5e-4, size=x.shape)
    assert_as_exact_as_plain(x, np.float32((x + noise).clip(0, 1)), 0.01)


def test_bright_pixels_are_as_exact_when_split(bf16_split):
    """Products are of pixels about a whole number near their mean: about 0, the error is 19 times.

    Images differ in brightness, so that the sum of a sample's pixels about their mean is large.
    """
    rng = np.random.default_rng(2)
    levels = rng.integers(200, 235, (1, 300)) + rng.integers(-5, 6, (50, 1))
    levels += rng.integers(-3, 4, levels.shape)
    x = levels.astype(np.float32) / np.float32(255)
    assert_as_exact_as_plain(x, np.float32(x + rng.normal(scale=0.001, size=x.shape)), 0.004)


def test_a_huge_sample_weighs_nothing(bf16_split):
    x, samples = points(5, 30, 7)
    for value in (1e20, -1e20, 1e37):
        with_huge = np.concatenate([samples, np.full((1, 7), value, np.float32)])
        assert_exact(parzen.log_likelihood(x, with_huge, 0.2), x, with_huge, 0.2, bf16_split)


def test_vmapped_and_jitted():
    x, samples = points(6, 30, 4)
    batches = x.reshape(2, 3, 4)
    batched = jax.jit(jax.vmap(parzen.log_likelihood, in_axes=(0, None, None)))
    for found, batch in zip(batched(batches, samples, 0.3), batches, strict=True):
        assert_exact(found, batch, samples, 0.3)


def test_bandwidths_may_be_a_constant_of_a_jitted_function():
    x, samples = points(6, 30, 4)
    sigmas = jnp.array([0.3, 0.5])
    found = jax.jit(lambda x, samples: parzen.log_likelihood(x, samples, sigmas))(x, samples)
    assert_exact(found, x, samples, [0.3, 0.5])
    negative = -sigmas
    with pytest.raises(ValueError, match="sigma is .*: it must be positive"):
        jax.jit(lambda x, samples: parzen.log_likelihood(x, samples, negative))(x, samples)


def draw(key, n):
    return jax.random.uniform(key, (n, 8))


@pytest.mark.parametrize("num_samples", [1, 999, 1_000, 2_000, 2_001, 4_500])
def test_streamed_equals_stored(num_samples, bf16_split):
    x, _ = points(5, 1, 8)
    key, sigmas = jax.random.key(3), np.array([0.2, 0.4])
    streamed = parzen.log_likelihood_streamed(x, draw, key, num_samples, sigmas)
    assert_exact(streamed, x, stored_stream(draw, key, num_samples), sigmas, bf16_split)


def test_a_key_of_a_stream_may_be_a_seed():
    x, _ = points(5, 1, 8)
    expected = parzen.log_likelihood_streamed(x, draw, jax.random.key(3), 50, 0.3)
    for seed in (3, np.int64(3), np.uint8(3)):
        found = parzen.log_likelihood_streamed(x, draw, seed, 50, 0.3)
        np.testing.assert_array_equal(found, expected)


def stored_stream(sampler, key, num_samples):
    """What a stream draws, by its definition."""
    chunks = [sampler(jax.random.fold_in(key, i), 1_000) for i in range(-(-num_samples // 1_000))]
    return np.concatenate(chunks)[:num_samples]


# 8 × 10: all devices but one have no samples. 8 × 7,500: a chunk each. 1 and 4 × 2 chunks: several
# rounds, the last of which leaves devices without any.
@pytest.mark.parametrize("count, num_samples", [(1, 7_500), (4, 19_500), (8, 10), (8, 7_500)])
def test_any_number_of_devices_gives_the_same_answer(count, num_samples, bf16_split):
    x, _ = points(5, 1, 8)
    key, sigmas = jax.random.key(3), np.array([0.1, 0.4])
    mesh = jax.make_mesh(
        (count,),
        ("data",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:count],
    )
    run = parzen.log_likelihood_streamed
    if not bf16_split and count > 1:  # jitted, the values of x are not known, and nothing is split
        run = jax.jit(run, static_argnums=(1, 3), static_argnames="mesh")
    found = run(x, draw, key, num_samples, sigmas, mesh=mesh)
    assert_exact(found, x, stored_stream(draw, key, num_samples), sigmas, bf16_split)


@pytest.mark.parametrize(
    "num_samples",
    [999, *(pytest.param(number, marks=pytest.mark.slow) for number in (3_500, 12_001))],
)
def test_the_tile_of_a_gpu_gives_the_same_answer(num_samples, bf16_split, monkeypatch):
    x, _ = points(600, 1, 20)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))

    def score(mesh=None):
        key = jax.random.key(1)
        return parzen.log_likelihood_streamed(x, sampler_of(20), key, num_samples, 0.3, mesh)

    def sampler_of(dim):
        return lambda key, n: jax.random.uniform(key, (n, dim))

    chunks = [sampler_of(20)(jax.random.fold_in(jax.random.key(1), i), 1_000) for i in range(13)]
    samples = np.concatenate(chunks)[:num_samples]
    monkeypatch.setattr(parzen.running, "tile", lambda: (10_000, 10))
    assert parzen.samples_per_round(12_001) == 10_000 and parzen.num_rounds(12_001) == 2
    assert parzen.samples_per_round(3_500, mesh) == 4_000 and parzen.num_rounds(3_500, mesh) == 1
    for found in (score(), score(mesh), parzen.log_likelihood(x, samples, 0.3)):
        assert_exact(found, x, samples, 0.3, bf16_split)


@pytest.mark.parametrize(
    "backend, capability, splits, tile",
    [
        ("gpu", "9.0", True, (10_000, 10)),
        ("gpu", "10.0", True, (10_000, 10)),
        ("gpu", "7.5", False, (10_000, 10)),
        ("gpu", "gfx942", False, (10_000, 10)),
        ("tpu", "", False, (500, 2)),
    ],
)
def test_what_an_accelerator_is_given(backend, capability, splits, tile, monkeypatch):
    """Products are split on GPUs that multiply bfloat16 several times as fast as float32."""
    device = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert parzen.running._has_fast_bfloat16.__wrapped__() is splits
    assert parzen.running.tile() == tile


def test_a_decoder_that_is_closed_over_and_a_mesh_of_two_axes():
    _, x = points(1, 5, 20)
    decoder = jax.random.normal(jax.random.key(1), (3, 20)) / 3

    def sampler(key, n):
        return jax.nn.sigmoid(jax.random.normal(key, (n, 3)) @ decoder)

    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    sigmas, key = np.array([0.1, 0.3]), jax.random.key(2)
    one, eight = (
        parzen.log_likelihood_streamed(x, sampler, key, 19_500, sigmas, m) for m in (None, mesh)
    )
    samples = stored_stream(sampler, key, 19_500)
    for i, sigma in enumerate(sigmas):
        assert (abs(one[i] - eight[i]) <= 2 * tolerance(x, samples, sigma)).all()


def test_sums_in_pieces_are_bit_identical(bf16_split):
    """However the rounds are split into calls, and through the host in between."""
    x, _ = points(5, 1, 8)
    key, sigmas, num_samples = jax.random.key(3), jnp.array([0.1, 0.4]), 19_500
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    @jax.jit
    def add(sums, first, last):
        stream = parzen.Stream(draw, key, num_samples, mesh)
        return parzen.add_drawn(sums, x, stream, sigmas, first, last, bf16_split=bf16_split)

    assert parzen.num_rounds(num_samples, mesh) == 5
    empty = parzen.start(x, sigmas, mesh)
    whole = add(empty, 0, 5)
    for cuts in ((0, 1, 5), (0, 2, 3, 5)):
        sums = empty
        for first, last in itertools.pairwise(cuts):
            sums = add(parzen.Sums(*(np.asarray(v) for v in sums)), first, last)
        for found, expected in zip(sums, whole):
            np.testing.assert_array_equal(found, expected)


def test_stored_samples_may_come_in_pieces(bf16_split):
    x, samples = points(7, 3_001, 9)
    sigmas = np.float32([0.1, 0.4])
    sums = parzen.start(x, sigmas)
    for piece in (samples[:1_500], samples[1_500:1_501], samples[1_501:]):
        sums = parzen.add_samples(sums, x, piece, sigmas, bf16_split=bf16_split)
    found = parzen.finish(sums, x, len(samples), sigmas)
    assert_exact(found, x, samples, [0.1, 0.4], bf16_split)


def test_select_sigma_takes_the_best_mean():
    valid, samples = points(20, 300, 6)
    sigmas = np.array([0.05, 0.1, 0.2, 0.4])
    sigma, found = parzen.select_sigma(valid, samples, sigmas)
    means = [reference(valid, samples, sigma).mean() for sigma in sigmas]
    allowed = [tolerance(valid, samples, sigma, bf16_split=True).mean() for sigma in sigmas]
    assert (abs(np.subtract(found, means)) <= allowed).all()
    assert sigma == np.float32(sigmas[np.argmax(means)])


@pytest.mark.parametrize(
    "x, samples, sigma, match",
    [
        (np.zeros((2, 3)), np.zeros((5, 4)), 0.1, r"samples has shape \(5, 4\).*\[N, 3\]"),
        (np.zeros((2, 3)), np.zeros((0, 3)), 0.1, "samples has shape"),
        (np.zeros((0, 3)), np.zeros((5, 3)), 0.1, "x has shape"),
        (np.zeros(3), np.zeros((5, 3)), 0.1, "x has shape"),
        (np.zeros((2, 3)), np.zeros((5, 3)), np.ones((2, 2)), "sigma has shape"),
        (np.zeros((2, 3)), np.zeros((5, 3)), 0.0, "sigma is 0.0: it must be positive"),
        (np.zeros((2, 3)), np.zeros((5, 3)), [0.1, -1.0], "must be positive"),
        (np.zeros((2, 3)), np.zeros((5, 3)), [0.1, np.nan], "must be positive"),
        (np.zeros((2, 3), np.uint8), np.zeros((5, 3)), 0.1, "x is uint8: it must be floating"),
        (np.zeros((2, 3)), np.zeros((5, 3), int), 0.1, "samples is int.*divided by 255"),
        (np.zeros((2, 3)), np.zeros((5, 3), object), 0.1, "samples is an array of Python objects"),
    ],
)
def test_refuses_shapes_that_do_not_fit(x, samples, sigma, match):
    with pytest.raises(ValueError, match=match):
        parzen.log_likelihood(x, samples, sigma)


def test_streamed_refuses_what_does_not_fit():
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="sampler"):
        parzen.log_likelihood_streamed(
            x, lambda key, n: jnp.zeros((n, 4)), jax.random.key(0), 10, 0.1
        )
    with pytest.raises(ValueError, match="sampler.*uint8"):
        parzen.log_likelihood_streamed(
            x, lambda key, n: jnp.zeros((n, 3), jnp.uint8), jax.random.key(0), 10, 0.1
        )
    with pytest.raises(ValueError, match="num_samples"):
        parzen.log_likelihood_streamed(
            x, lambda key, n: jnp.zeros((n, 3)), jax.random.key(0), 0, 0.1
        )


def test_lists_are_arrays():
    x, samples, sigmas = [[0.0, 1.0]], [[0.5, 0.5], [0.0, 0.0]], [0.1, 0.2]
    found = parzen.log_likelihood(x, samples, sigmas)
    assert_exact(found, np.array(x), np.array(samples), sigmas, bf16_split=True)


def test_memory_does_not_grow_with_the_samples():
    def temporary(num_samples):
        x = jax.ShapeDtypeStruct((500, 50), jnp.float32)
        samples = jax.ShapeDtypeStruct((num_samples, 50), jnp.float32)
        compiled = jax.jit(parzen.log_likelihood).lower(x, samples, 0.2).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(200_000) < 1.1 * temporary(20_000) < 20e6


def test_ten_million_samples_fit_in_two_gigabytes(bf16_split):
    """Table 1's 10M column, ten σ, compiled and not run: arguments, results and all between."""

    def score(x, sigmas):
        def sampler(key, n):
            return jax.random.uniform(key, (n, 784))

        sums, key, number = parzen.start(x, sigmas), jax.random.key(0), 10_000_000
        rounds = parzen.num_rounds(number)
        stream = parzen.Stream(sampler, key, number)
        sums = parzen.add_drawn(sums, x, stream, sigmas, 0, rounds, bf16_split=bf16_split)
        return parzen.finish(sums, x, number, sigmas)

    x, sigmas = jax.ShapeDtypeStruct((10_000, 784), jnp.float32), jnp.ones(10)
    memory = jax.jit(score).lower(x, sigmas).compile().memory_analysis()
    parts = ("temp_size_in_bytes", "argument_size_in_bytes", "output_size_in_bytes")
    assert sum(getattr(memory, part) for part in parts) < 0.2e9


def test_products_run_at_full_precision(bf16_split):
    """Where a matrix product would be TF32 or bfloat16 by default, it costs nats."""
    (x, samples), key = points(3, 5, 4), jax.random.key(0)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def sampler(key, n):
        return jax.random.uniform(key, (n, 4))

    for scored, argument, may_split in (
        (lambda x: parzen.log_likelihood(x, samples, 0.2), x, False),  # of values not known
        (lambda samples: parzen.log_likelihood(x, samples, 0.2), samples, True),
        (lambda key: parzen.log_likelihood_streamed(x, sampler, key, 5, 0.2), key, True),
        (lambda key: parzen.log_likelihood_streamed(x, sampler, key, 5, 0.2, mesh), key, True),
    ):
        text = str(jax.make_jaxpr(scored)(argument))
        products = text.count("dot_general[")
        full = text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
        assert products >= 1 and full == products
        assert text.count("preferred_element_type=float32") == products
        assert ("bf16[" in text) == (bf16_split and may_split)


def test_one_product_serves_every_sigma():
    x, samples = points(3, 5, 4)
    text = str(jax.make_jaxpr(lambda x: parzen.log_likelihood(x, samples, np.ones(10) / 5))(x))
    assert text.count("dot_general[") == 1
    assert "f32[3,5]" in text and "f32[3,10,5]" in text  # points × samples, and then × σ


# Of the 10,000 test images under the first 10,000 training images, in float64: σ of Goodfellow's
# grid, the mean and the standard deviation.
ANCHOR = (float(np.logspace(-1, 0, 10)[2]), 241.1929, 213.030)


def anchor_tolerance(mnist_images):
    """How far float32 may take the mean, judged by a few images."""
    x, samples = mnist_images["t10k"][:20], mnist_images["train"][:200]
    return tolerance(x, samples, ANCHOR[0], bf16_split=True).mean()


def test_anchor_on_mnist(mnist_images, bf16_split):
    train, test = mnist_images["train"], mnist_images["t10k"]
    sigma, _ = parzen.select_sigma(train[50_000:51_000], train[:10_000], np.logspace(-1, 0, 10))
    found = np.asarray(parzen.log_likelihood(test, train[:10_000], jnp.array([sigma, 0.18])))
    allowed = anchor_tolerance(mnist_images)
    for scores, (_, mean, std) in zip(found, (ANCHOR, (0.18, 242.6982, 182.955))):
        assert abs(scores.mean(dtype=np.float64) - mean) < allowed
        assert abs(scores.std(dtype=np.float64) - std) < allowed
    assert sigma == np.float32(ANCHOR[0])


def test_bfloat16_inputs_miss_the_anchor(mnist_images):
    rounded = [
        jnp.asarray(images).astype(jnp.bfloat16).astype(jnp.float32)
        for images in (mnist_images["t10k"], mnist_images["train"][:10_000])
    ]
    found = float(parzen.log_likelihood(*rounded, ANCHOR[0]).mean())
    assert anchor_tolerance(mnist_images) < abs(found - ANCHOR[1]) < 1  # 241.00


def test_imports_nothing_beyond_jax():
    code = (
        "import sys, jax.numpy; before = set(sys.modules); import aae_jax.parzen; "
        "print({m.split('.')[0] for m in set(sys.modules) - before})"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert printed.stdout.strip() == "{'aae_jax'}", printed
