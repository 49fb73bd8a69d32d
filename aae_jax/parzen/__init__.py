"""Gaussian Parzen-window log-likelihood, the metric of Table 1: exact, in bounded memory.

    log p(x) = logmeanexp_i(−‖x − s_i‖² / 2σ²) − D log(σ √(2π))

in nats, natural logarithm (Breuleux et al. 2011, Bengio et al. 2013, Goodfellow et al. 2014). The
distances are one matrix product at full float32 precision: they are divided by 2σ² ≈ 0.05, so a
TF32 or bfloat16 product costs nats. Of 8-bit pixels it is made of two bfloat16 products of split
numbers where that is faster: `add_samples` says how. Only JAX is needed.
`python -m aae_jax.parzen --help` scores arrays in files.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from aae_jax.parzen.running import (
    CHUNK,
    Sampler,
    Stream,
    Sums,
    add_drawn,
    add_samples,
    can_bf16_split,
    finish,
    num_rounds,
    samples_per_round,
    start,
    varying,
)

__all__ = [
    "CHUNK",
    "Sampler",
    "Stream",
    "Sums",
    "add_drawn",
    "add_samples",
    "can_bf16_split",
    "finish",
    "log_likelihood",
    "log_likelihood_streamed",
    "num_rounds",
    "samples_per_round",
    "select_sigma",
    "start",
    "varying",
]


def log_likelihood(x: jax.Array, samples: jax.Array, sigma: jax.Array | float) -> jax.Array:
    """Log-density of test points under a Gaussian Parzen window fitted to samples.

    Memory beyond the arguments: a copy of x, T · (S + 1) numbers and a few thousand samples,
    whatever N. May be jitted and vmapped. Where products are split (`can_bf16_split`), derivatives
    with respect to samples are those of bfloat16 products.

    Args:
        x: f[T, D], test points; for Table 1 pixels in [0, 1].
        samples: f[N, D], the centres of the window, in the same units.
        sigma: f[] or f[S], bandwidths; all S are read off the same distances.

    Returns:
        f[T], or f[S, T] for S bandwidths: nats.

    Raises:
        ValueError: the shapes don't fit, something is empty or not floating, or σ is not positive.
    """
    given, x, samples = x, _array("x", x), _array("samples", samples)
    sigma = jnp.asarray(sigma)
    _check(x, sigma)
    if samples.ndim != 2 or samples.shape[1] != x.shape[1] or samples.shape[0] == 0:
        raise ValueError(
            f"samples has shape {samples.shape}: it must be [N, {x.shape[1]}] with N at least 1"
        )
    sigmas = jnp.atleast_1d(sigma)
    sums = add_samples(start(x, sigmas), x, samples, sigmas, **_seen(given, x))
    return finish(sums, x, len(samples), sigmas).reshape(*sigma.shape, len(x))


def log_likelihood_streamed(
    x: jax.Array,
    sampler: Sampler,
    key: jax.Array,
    num_samples: int,
    sigma: jax.Array | float,
    mesh: Mesh | None = None,
) -> jax.Array:
    """The same for samples that are drawn on the device in chunks and never stored.

    Chunk i holds `sampler(fold_in(key, i), 1000)`; of the last one only the rows that are needed
    count. The devices of a mesh take turns: the samples are the same for any number of devices, and
    log-likelihoods differ by rounding only. Every call traces the sampler anew: jit what calls this
    more than once.

    Args:
        x: f[T, D], test points.
        sampler: (key, n) → f[n, D]; pure JAX.
        key: a PRNG key.
        num_samples: N.
        sigma: f[] or f[S], bandwidths.
        mesh: the devices to use, all of its axes; None for one device.

    Returns:
        f[T], or f[S, T] for S bandwidths: nats.

    Raises:
        ValueError: the shapes don't fit, something is empty or not floating, or σ is not positive.
    """
    given, x, sigma = x, _array("x", x), jnp.asarray(sigma)
    _check(x, sigma)
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}: it must be at least 1")
    drawn = jax.eval_shape(lambda key: sampler(key, CHUNK), key)
    if drawn.shape != (CHUNK, x.shape[1]) or not jnp.issubdtype(drawn.dtype, jnp.floating):
        raise ValueError(
            f"sampler(key, {CHUNK}) gives {drawn.dtype}{drawn.shape}: it must give floats "
            f"{(CHUNK, x.shape[1])}"
        )
    sigmas, seen = jnp.atleast_1d(sigma), _seen(given, x)

    @jax.jit
    def total(x, key, sigmas):
        rounds = num_rounds(num_samples, mesh)
        sums = start(x, sigmas, mesh)
        stream = Stream(sampler, key, num_samples, mesh)
        sums = add_drawn(sums, x, stream, sigmas, 0, rounds, **seen)
        return finish(sums, x, num_samples, sigmas)

    return total(x, key, sigmas).reshape(*sigma.shape, len(x))


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

    Raises:
        ValueError: as `log_likelihood`.
    """
    sigmas = jnp.atleast_1d(jnp.asarray(sigmas))
    mean = log_likelihood(valid, samples, sigmas).mean(axis=-1)
    return sigmas[jnp.argmax(mean)], mean


def _array(name, value):
    """As an array of floats: object arrays would be pickles, integers images on another scale."""
    if getattr(value, "dtype", None) == object:
        raise ValueError(f"{name} is an array of Python objects: it must be an array of floats")
    value = jnp.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"{name} is {value.dtype}: it must be floating; images are divided by 255 first"
        )
    return value


def _seen(given, x):
    """What `add_samples` may know of the values of x; nothing where they are not known here."""
    unknown = any(
        isinstance(leaf, jax.core.Tracer) or not getattr(leaf, "is_fully_addressable", True)
        for leaf in jax.tree.leaves(given)
    )
    if unknown:
        return {}
    values = np.asarray(given, x.dtype)
    return {"columns": varying(values), "bf16_split": can_bf16_split(values)}


def _check(x, sigma):
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"x has shape {x.shape}: it must be [T, D], neither of them 0")
    if sigma.ndim > 1 or sigma.size == 0:
        raise ValueError(f"sigma has shape {sigma.shape}: it must be [] or [S]")
    if isinstance(sigma, jax.core.Tracer):
        return
    values = np.asarray(sigma, np.float64)  # with jnp a constant σ would be traced under jit
    if not ((values > 0) & np.isfinite(values)).all():
        raise ValueError(f"sigma is {sigma}: it must be positive")
