"""Gaussian Parzen-window log-likelihood, the metric of Table 1: exact, in bounded memory.

    log p(x) = logmeanexp_i(−‖x − s_i‖² / 2σ²) − D log(σ √(2π))

in nats, natural logarithm (Breuleux et al. 2011, Bengio et al. 2013, Goodfellow et al. 2014). The
distances are one matrix product at full float32 precision: they are divided by 2σ² ≈ 0.05, so a
TF32 or bfloat16 product costs nats. Only JAX is needed.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Sampler = Callable[[jax.Array, int], jax.Array]

_CHUNK = 1_000  # samples at a time
_BLOCK = 1_000  # test points at a time


def log_likelihood(x: jax.Array, samples: jax.Array, sigma: jax.Array | float) -> jax.Array:
    """Log-density of test points under a Gaussian Parzen window fitted to samples.

    Memory beyond the arguments: a copy of x, T · (S + 1) numbers and about 5 MB, whatever N. May
    be jitted and vmapped.

    Args:
        x: f[T, D], test points; for Table 1 pixels in [0, 1].
        samples: f[N, D], the centres of the window, in the same units.
        sigma: f[] or f[S], bandwidths; all S are read off the same distances.

    Returns:
        f[T], or f[S, T] for S bandwidths: nats.

    Raises:
        ValueError: the shapes don't fit, something is empty, or σ is not positive.
    """
    x, samples, sigma = jnp.asarray(x), jnp.asarray(samples), jnp.asarray(sigma)
    _check(x, sigma)
    if samples.ndim != 2 or samples.shape[1] != x.shape[1] or samples.shape[0] == 0:
        raise ValueError(
            f"samples has shape {samples.shape}: it must be [N, {x.shape[1]}] with N at least 1"
        )
    return _stored(x, samples, sigma)


@jax.jit
def _stored(x, samples, sigma):
    num_samples = samples.shape[0]
    chunk = min(_CHUNK, num_samples)
    num_chunks = -(-num_samples // chunk)

    def read(index):
        # The last chunk is moved back to end with the samples; what it repeats is masked.
        start = jnp.minimum(index * chunk, num_samples - chunk)
        rows = start + jnp.arange(chunk)
        return jax.lax.dynamic_slice_in_dim(samples, start, chunk), rows >= index * chunk

    return _log_likelihood(x, read, num_chunks, num_samples, sigma)


def log_likelihood_streamed(
    x: jax.Array, sampler: Sampler, key: jax.Array, num_samples: int, sigma: jax.Array | float
) -> jax.Array:
    """The same for samples that are drawn on the device in chunks and never stored.

    Chunk i holds `sampler(fold_in(key, i), 1000)`; of the last one only the rows that are needed
    count. Every call traces the sampler anew: jit what calls this more than once.

    Args:
        x: f[T, D], test points.
        sampler: (key, n) → f[n, D].
        key: a PRNG key.
        num_samples: N.
        sigma: f[] or f[S], bandwidths.

    Returns:
        f[T], or f[S, T] for S bandwidths: nats.

    Raises:
        ValueError: the shapes don't fit, something is empty, or σ is not positive.
    """
    x, sigma = jnp.asarray(x), jnp.asarray(sigma)
    _check(x, sigma)
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}: it must be at least 1")
    drawn = jax.eval_shape(lambda key: sampler(key, _CHUNK), key)
    if drawn.shape != (_CHUNK, x.shape[1]):
        raise ValueError(f"sampler(key, {_CHUNK}) gives {drawn.shape}: not {(_CHUNK, x.shape[1])}")

    def draw(index):
        samples = sampler(jax.random.fold_in(key, index), _CHUNK)
        return samples, index * _CHUNK + jnp.arange(_CHUNK) < num_samples

    return _log_likelihood(x, draw, -(-num_samples // _CHUNK), num_samples, sigma)


def select_sigma(
    valid: jax.Array, samples: jax.Array, sigmas: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Chooses the bandwidth that gives validation points the highest mean log-likelihood.

    Args:
        valid: f[V, D], validation points: never test points.
        samples: f[N, D].
        sigmas: f[S], candidates; Goodfellow et al. 2014 take `logspace(-1, 0, 10)`.

    Returns:
        The chosen σ, f[], and the mean validation log-likelihood of every candidate, f[S] nats.
    """
    sigmas = jnp.atleast_1d(jnp.asarray(sigmas))
    mean = log_likelihood(valid, samples, sigmas).mean(axis=-1)
    return sigmas[jnp.argmax(mean)], mean


def _check(x, sigma):
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"x has shape {x.shape}: it must be [T, D], neither of them 0")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x is {x.dtype}: it must be floating; images are divided by 255 first")
    if sigma.ndim > 1 or sigma.size == 0:
        raise ValueError(f"sigma has shape {sigma.shape}: it must be [] or [S]")
    if not isinstance(sigma, jax.core.Tracer) and not (sigma > 0).all():
        raise ValueError(f"sigma is {sigma}: it must be positive")


def _log_likelihood(x, read, num_chunks, num_samples, sigma):
    """Running log-sum-exp over chunks; `read(i)` gives chunk i and which of its rows count."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x = x.astype(dtype)
    sigma = jnp.asarray(sigma, dtype)
    scale = 1 / (2 * jnp.atleast_1d(sigma) ** 2)  # [S]
    # Distances don't change when both sides move; near the origin they round less.
    centre = x.mean(axis=0)
    num_points, dim = x.shape
    block = min(_BLOCK, num_points)
    num_blocks = -(-num_points // block)
    padded = jnp.pad(x - centre, ((0, num_blocks * block - num_points), (0, 0)))
    blocks = padded.reshape(num_blocks, block, dim)

    def one_chunk(carry, index):
        samples, counts = read(index)
        samples = samples.astype(dtype) - centre
        squared_norm = jnp.where(counts, (samples**2).sum(axis=1), jnp.inf)

        def one_point(point, nearest, total):
            """Folds the chunk into one test point: [D], [], [S] → [], [S]."""
            product = jnp.matmul(samples, point, precision=jax.lax.Precision.HIGHEST)
            distance = jnp.maximum(squared_norm - 2 * product + (point**2).sum(), 0.0)
            # The nearest sample is the largest term for every σ, so one minimum serves them all.
            closer = jnp.minimum(nearest, distance.min())
            terms = jnp.exp(-scale[:, None] * (distance - closer))
            shrink = jnp.exp(-scale * (nearest - closer))
            return closer, total * shrink + terms.sum(axis=1)

        def one_block(arguments):
            return jax.vmap(one_point)(*arguments)

        return jax.lax.map(one_block, (blocks, *carry)), None

    start = (
        jnp.full((num_blocks, block), jnp.inf, dtype),
        jnp.zeros((num_blocks, block, scale.shape[0]), dtype),
    )
    # The first chunk has at least one row that counts, so `nearest` is finite from there on.
    carry, _ = jax.lax.scan(one_chunk, start, jnp.arange(num_chunks))
    nearest = carry[0].reshape(-1)[:num_points]
    total = carry[1].reshape(-1, scale.shape[0])[:num_points]
    log_sum = jnp.log(total).T - scale[:, None] * nearest
    normaliser = math.log(num_samples) + dim * jnp.log(
        sigma.reshape(-1, 1) * math.sqrt(2 * math.pi)
    )
    result = log_sum - normaliser
    return result[0] if sigma.ndim == 0 else result
