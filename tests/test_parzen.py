"""The Parzen window against float64 NumPy, and the anchor on MNIST."""

import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aae_jax import parzen


def reference(x, samples, sigma):
    """The formula as it stands, in float64."""
    x, samples = x.astype(np.float64), samples.astype(np.float64)
    squared = ((x[:, None] - samples[None]) ** 2).sum(axis=-1)
    exponent = -squared / (2 * sigma**2)
    top = exponent.max(axis=1, keepdims=True)
    log_mean = top[:, 0] + np.log(np.exp(exponent - top).mean(axis=1))
    return log_mean - x.shape[1] * np.log(sigma * np.sqrt(2 * np.pi))


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
@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_equals_float64_reference(size, sigma, split):
    x, samples = points(*size)
    expected = reference(x, samples, sigma)
    found = parzen.log_likelihood(x, samples, sigma)
    assert found.shape == (size[0],) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize("num_samples, repeated", [(2_001, 1_000), (4_001, 2_667)])
def test_no_sample_counts_twice(num_samples, repeated, split):
    """Pieces have one size, 1,001 and 1,334, and the last is moved back: it starts with one read."""
    samples, _ = points(num_samples, 1, 7)
    x = samples[[repeated - 1, repeated, repeated + 1, 0, -1]]
    found = parzen.log_likelihood(x, samples, 0.01)
    np.testing.assert_allclose(found, reference(x, samples, 0.01), atol=0.01)


def test_many_sigmas_in_one_pass(split):
    x, samples = points(6, 1_234, 40)
    sigmas = np.array([0.05, 0.2, 1.0])
    found = parzen.log_likelihood(x, samples, sigmas)
    assert found.shape == (3, 6)
    np.testing.assert_allclose(
        found, np.stack([reference(x, samples, sigma) for sigma in sigmas]), atol=0.01
    )


def test_far_samples_do_not_underflow(split):
    # exp(−‖x − s‖²/2σ²) is 0 in float32 for every sample; the log-likelihood is still exact.
    x, samples = points(4, 50, 100)
    found = parzen.log_likelihood(x, samples + 3, 0.02)
    expected = reference(x, samples + 3, 0.02)
    assert (expected < -1e5).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_float64_is_exact(x64):
    x, samples = points(6, 1_234, 40)
    found = parzen.log_likelihood(x.astype(np.float64), samples.astype(np.float64), 0.1)
    np.testing.assert_allclose(found, reference(x, samples, 0.1), rtol=1e-12)


def test_columns_that_do_not_vary_need_no_product(split):
    x, samples = points(40, 1_234, 30)
    x[:, [0, 7, 8, 29]] = [0.0, 1.0, 0.2, 0.0]
    np.testing.assert_array_equal(
        parzen.varying(x), [i for i in range(30) if i not in (0, 7, 8, 29)]
    )
    expected = reference(x, samples, 0.2)

    program = str(jax.make_jaxpr(lambda s: parzen.log_likelihood(x, s, 0.2))(samples))
    if split:  # two halves of 26 columns and a padding to 64
        assert "bf16[1234,64]" in program and "f32[1234,30]" in program
    else:
        assert "f32[1234,26]" in program and "f32[26" not in program
    np.testing.assert_allclose(parzen.log_likelihood(x, samples, 0.2), expected, atol=0.001)
    drawn = parzen.log_likelihood_streamed(
        x, lambda key, n: jnp.asarray(samples[:n]), jax.random.key(0), 1_000, 0.2
    )
    np.testing.assert_allclose(drawn, reference(x, samples[:1_000], 0.2), atol=0.001)
    # Where the values are not known, all columns are taken.
    listed = jax.jit(lambda x, s: parzen.log_likelihood([x[0], x[1]], s, 0.2))(x, samples)
    np.testing.assert_allclose(listed, expected[:2], atol=0.001)
    np.testing.assert_allclose(
        jax.jit(parzen.log_likelihood)(x, samples, 0.2), expected, atol=0.001
    )


def test_split_where_pixels_are_8_bit_and_bfloat16_is_fast(split):
    levels = np.arange(256, dtype=np.float32)[None]
    assert parzen.can_split(levels / np.float32(255)) == split
    assert parzen.can_split(jnp.asarray(levels) * np.float32(1 / 255)) == split
    assert parzen.can_split(np.zeros((200, 3), np.float32)) == split
    late = np.zeros((200, 3), np.float32)
    for value in (0.3, -1 / 255, 256 / 255, np.float32(0.2) * (1 + 2**-21), np.nan, np.inf, 1e38):
        late[150, 1] = value
        assert not parzen.can_split(late)
    assert not parzen.can_split(levels.astype(np.float64) / 255)
    x, samples = points(3, 5, 4)
    for given, expected in ((x, split), (x / 2, False)):
        program = str(jax.make_jaxpr(lambda s: parzen.log_likelihood(given, s, 0.2))(samples))
        assert ("bf16[" in program) == expected


def test_near_samples_are_as_exact_when_split():
    """Rounded samples are rounded in every term; in the product alone, the error is 2.2 times."""
    x, _ = points(200, 1, 784)
    rng = np.random.default_rng(1)
    x *= rng.random(x.shape) < 0.2
    near = np.repeat(x, 2, axis=0) + rng.normal(scale=0.01, size=(400, 784))
    samples, sigma = np.float32(near.clip(0, 1)), np.float32([0.03])
    expected, errors = reference(x, samples, 0.03), []
    for split in (False, True):
        sums = parzen.add_samples(parzen.start(x, sigma), x, samples, sigma, split=split)
        errors.append(np.std(parzen.finish(sums, x, len(samples), sigma)[0] - expected))
    assert errors[1] < 1.7 * errors[0] < 0.01


def test_bright_pixels_are_about_as_exact_when_split():
    """Products are of pixels about a whole number near their mean: about 0, the error is 9 times."""
    rng = np.random.default_rng(2)
    x = rng.integers(200, 250, (100, 3_000)).astype(np.float32) / np.float32(255)
    noise = rng.normal(scale=0.02, size=(400, 3_000))
    samples, sigma = np.float32(x[rng.integers(0, 100, 400)] + noise), np.float32([0.05])
    expected, errors = reference(x, samples, 0.05), []
    for split in (False, True):
        sums = parzen.add_samples(parzen.start(x, sigma), x, samples, sigma, split=split)
        errors.append(np.std(parzen.finish(sums, x, len(samples), sigma)[0] - expected))
    assert errors[1] < 5 * errors[0] < 0.02


def test_a_huge_sample_weighs_nothing(split):
    x, samples = points(5, 30, 7)
    expected = reference(x, samples, 0.2) + np.log(30 / 31)
    for value in (1e20, -1e20, 1e37):
        huge = np.full((1, 7), value, np.float32)
        found = parzen.log_likelihood(x, np.concatenate([samples, huge]), 0.2)
        np.testing.assert_allclose(found, expected, atol=0.001)


def test_vmapped_and_jitted():
    x, samples = points(6, 30, 4)
    batched = jax.jit(jax.vmap(parzen.log_likelihood, in_axes=(0, None, None)))
    found = batched(x.reshape(2, 3, 4), samples, 0.3)
    np.testing.assert_allclose(found.reshape(-1), reference(x, samples, 0.3), atol=0.01)


def test_bandwidths_may_be_a_constant_of_a_jitted_function():
    x, samples = points(6, 30, 4)
    sigmas = jnp.array([0.3, 0.5])
    found = jax.jit(lambda x, samples: parzen.log_likelihood(x, samples, sigmas))(x, samples)
    np.testing.assert_allclose(found[0], reference(x, samples, 0.3), atol=0.01)
    negative = -sigmas
    with pytest.raises(ValueError, match="sigma is .*: it must be positive"):
        jax.jit(lambda x, samples: parzen.log_likelihood(x, samples, negative))(x, samples)


@pytest.mark.parametrize("num_samples", [1, 999, 1_000, 2_000, 2_001, 4_500])
def test_streamed_equals_stored(num_samples, split):
    x, _ = points(5, 1, 8)
    key = jax.random.key(3)

    def sampler(key, n):
        return jax.random.uniform(key, (n, 8))

    stored = stored_stream(sampler, key, num_samples)
    sigmas = jnp.array([0.2, 0.4])
    streamed = parzen.log_likelihood_streamed(x, sampler, key, num_samples, sigmas)
    np.testing.assert_allclose(streamed, parzen.log_likelihood(x, stored, sigmas), atol=1e-4)
    np.testing.assert_allclose(streamed[0], reference(x, stored, 0.2), atol=0.01)


def stored_stream(sampler, key, num_samples):
    """What a stream draws, by its definition."""
    chunks = [sampler(jax.random.fold_in(key, i), 1_000) for i in range(-(-num_samples // 1_000))]
    return np.concatenate(chunks)[:num_samples]


@pytest.mark.parametrize("num_samples", [10, 7_500, 19_500])
def test_any_number_of_devices_gives_the_same_answer(num_samples, split):
    """10 samples leave all devices but one without any."""
    x, _ = points(5, 1, 8)
    key, sigmas = jax.random.key(3), jnp.array([0.1, 0.4])

    def sampler(key, n):
        return jax.random.uniform(key, (n, 8))

    expected = parzen.log_likelihood(x, stored_stream(sampler, key, num_samples), sigmas)
    for count in (1, 4, 8):
        devices = jax.devices()[:count]
        mesh = jax.make_mesh(
            (count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
        )
        for run in (
            parzen.log_likelihood_streamed,
            jax.jit(parzen.log_likelihood_streamed, static_argnums=(1, 3), static_argnames="mesh"),
        ):
            found = run(x, sampler, key, num_samples, sigmas, mesh=mesh)
            np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_decoder_that_is_closed_over_and_a_mesh_of_two_axes():
    x = jax.random.uniform(jax.random.key(0), (30, 20))
    decoder = jax.random.normal(jax.random.key(1), (3, 20)) / 3

    def sampler(key, n):
        return jax.nn.sigmoid(jax.random.normal(key, (n, 3)) @ decoder)

    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    arguments = x, sampler, jax.random.key(2), 19_500, jnp.array([0.1, 0.3])
    one, eight = (parzen.log_likelihood_streamed(*arguments, m) for m in (None, mesh))
    np.testing.assert_allclose(one, eight, atol=1e-3)


def test_sums_in_pieces_are_bit_identical(split):
    """However the rounds are split into calls, and through the host in between."""
    x, _ = points(5, 1, 8)
    key, sigmas, num_samples = jax.random.key(3), jnp.array([0.1, 0.4]), 19_500
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    @jax.jit
    def add(sums, first, last):
        def sampler(key, n):
            return jax.random.uniform(key, (n, 8))

        return parzen.add_drawn(
            sums, x, sampler, key, num_samples, sigmas, first, last, mesh, split=split
        )

    assert parzen.num_rounds(num_samples, mesh) == 5
    empty = parzen.start(x, sigmas, mesh)
    whole = add(empty, 0, 5)
    for cuts in ((0, 1, 5), (0, 2, 3, 5)):
        sums = empty
        for first, last in itertools.pairwise(cuts):
            sums = add(parzen.Sums(*(np.asarray(v) for v in sums)), first, last)
        for found, expected in zip(sums, whole):
            np.testing.assert_array_equal(found, expected)


def test_stored_samples_may_come_in_pieces(split):
    x, samples = points(7, 3_456, 9)
    sigmas = jnp.array([0.1, 0.4])
    sums = parzen.start(x, sigmas)
    for piece in (samples[:1_500], samples[1_500:1_501], samples[1_501:]):
        sums = parzen.add_samples(sums, x, piece, sigmas, split=split)
    found = parzen.finish(sums, x, len(samples), sigmas)
    np.testing.assert_allclose(found, parzen.log_likelihood(x, samples, sigmas), atol=1e-4)


def test_select_sigma_takes_the_best_mean():
    valid, samples = points(20, 300, 6)
    sigmas = np.array([0.05, 0.1, 0.2, 0.4])
    means = [reference(valid, samples, sigma).mean() for sigma in sigmas]
    sigma, found = parzen.select_sigma(valid, samples, sigmas)
    np.testing.assert_allclose(found, means, atol=0.01)
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
    found = parzen.log_likelihood([[0.0, 1.0]], [[0.5, 0.5], [0.0, 0.0]], [0.1, 0.2])
    expected = reference(np.array([[0.0, 1.0]]), np.array([[0.5, 0.5], [0.0, 0.0]]), 0.2)
    np.testing.assert_allclose(found[1], expected, rtol=1e-5)


def test_memory_does_not_grow_with_the_samples():
    def temporary(num_samples):
        x = jax.ShapeDtypeStruct((500, 50), jnp.float32)
        samples = jax.ShapeDtypeStruct((num_samples, 50), jnp.float32)
        compiled = jax.jit(parzen.log_likelihood).lower(x, samples, 0.2).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(200_000) < 1.1 * temporary(20_000) < 20e6


def test_ten_million_samples_fit_in_two_gigabytes(split):
    """Table 1's 10M column, ten σ, compiled and not run: arguments, results and all between."""

    def score(x, sigmas):
        def sampler(key, n):
            return jax.random.uniform(key, (n, 784))

        sums, key, number = parzen.start(x, sigmas), jax.random.key(0), 10_000_000
        rounds = parzen.num_rounds(number)
        sums = parzen.add_drawn(sums, x, sampler, key, number, sigmas, 0, rounds, split=split)
        return parzen.finish(sums, x, number, sigmas)

    x, sigmas = jax.ShapeDtypeStruct((10_000, 784), jnp.float32), jnp.ones(10)
    memory = jax.jit(score).lower(x, sigmas).compile().memory_analysis()
    parts = ("temp_size_in_bytes", "argument_size_in_bytes", "output_size_in_bytes")
    assert sum(getattr(memory, part) for part in parts) < 0.2e9


def test_products_run_at_full_precision(split):
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
        assert ("bf16[" in text) == (split and may_split)


def test_one_product_serves_every_sigma():
    x, samples = points(3, 5, 4)
    text = str(jax.make_jaxpr(lambda x: parzen.log_likelihood(x, samples, np.ones(10) / 5))(x))
    assert text.count("dot_general[") == 1
    assert "f32[3,5]" in text and "f32[3,10,5]" in text  # points × samples, and then × σ


def test_anchor_on_mnist(mnist_images, split):
    """The first 10,000 training images as samples, Goodfellow's grid: 241.193 ± 2.13 nats."""
    train, test = mnist_images["train"], mnist_images["t10k"]
    sigma, _ = parzen.select_sigma(train[50_000:51_000], train[:10_000], np.logspace(-1, 0, 10))
    assert abs(float(sigma) - 0.16681) < 1e-5
    found = np.asarray(parzen.log_likelihood(test, train[:10_000], jnp.array([sigma, 0.18])))
    assert abs(found[0].mean() - 241.193) < 0.01
    assert abs(found[0].std() / 100 - 2.13) < 0.01
    assert abs(found[1].mean() - 242.70) < 0.01
    assert abs(found[1].std() / 100 - 1.83) < 0.01


def test_bfloat16_inputs_miss_the_anchor(mnist_images):
    rounded = [
        jnp.asarray(images).astype(jnp.bfloat16).astype(jnp.float32)
        for images in (mnist_images["t10k"], mnist_images["train"][:10_000])
    ]
    found = float(parzen.log_likelihood(*rounded, 0.16681).mean())
    assert 0.1 < abs(found - 241.193) < 1  # 241.00


def test_imports_nothing_beyond_jax():
    code = (
        "import sys, jax.numpy; before = set(sys.modules); import aae_jax.parzen; "
        "print({m.split('.')[0] for m in set(sys.modules) - before})"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert printed.stdout.strip() == "{'aae_jax'}", printed
