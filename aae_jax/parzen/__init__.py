"""Gaussian Parzen-window log-likelihood, the metric of Table 1: exact, in bounded memory.

    log p(x) = logmeanexp_i(−‖x − s_i‖² / 2σ²) − D log(σ √(2π))

in nats, natural logarithm (Breuleux et al. 2011, Bengio et al. 2013, Goodfellow et al. 2014). The
distances are one matrix product at full float32 precision: they are divided by 2σ² ≈ 0.05, so a
TF32 or bfloat16 product costs nats. For 8-bit pixels, two bfloat16 products of split numbers replace
it where they are faster (`add_samples`). If σ is so small that the rounding of a product would cost
0.01 nats, stored samples are scored in float64, and drawn samples by differences; `precision` has the
bound. Only JAX is needed.

With many samples, most lie too far from a point to count. On a CPU, the command below and
`aae_jax.evaluate` leave these out by a bound on distances (`bound`, `screening`), exact to 1e-6 nats;
where products would be split, only for a small σ (`choose_method`).
`python -m aae_jax.parzen --help` scores arrays in files.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from aae_jax.parzen.bound import Bound, is_worth_it, make_bound
from aae_jax.parzen.precision import Method, are_in_range, choose_method, products_hold
from aae_jax.parzen.running import (
    CHUNK,
    DifferenceSums,
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
from aae_jax.parzen.screening import (
    NUM_CHUNKS,
    ScreenedSums,
    add_screened_drawn,
    add_screened_samples,
    in_order,
    multiplied_share,
    start_screened,
)

__all__ = [
    "CHUNK",
    "NUM_CHUNKS",
    "Bound",
    "DifferenceSums",
    "Method",
    "Sampler",
    "ScreenedSums",
    "Stream",
    "Sums",
    "add_drawn",
    "add_samples",
    "add_screened_drawn",
    "add_screened_samples",
    "are_in_range",
    "can_bf16_split",
    "choose_method",
    "finish",
    "in_order",
    "is_worth_it",
    "log_likelihood",
    "log_likelihood_streamed",
    "make_bound",
    "multiplied_share",
    "num_rounds",
    "products_hold",
    "samples_per_round",
    "select_sigma",
    "start",
    "start_screened",
    "varying",
]


def log_likelihood(x: jax.Array, samples: jax.Array, sigma: jax.Array | float) -> jax.Array:
    """Log-density of test points under a Gaussian Parzen window fitted to samples.

    Memory beyond the arguments: a copy of x, T · (S + 1) numbers and a few thousand samples,
    whatever N. May be jitted and vmapped. Where products are split (`can_bf16_split`), derivatives
    with respect to samples are those of bfloat16 products.

    Where σ is too small for float32 products (`products_hold`), arrays that are all known are
    scored in float64 as they were given, and the scores rounded to float32. Under jit with x and σ
    known and samples traced, distances are float32 differences. If x or σ is traced, distances are
    float32 products, and scores for such a σ are off by more than 0.01 nats.

    Args:
        x: f[T, D], test points; for Table 1 pixels in [0, 1].
        samples: f[N, D], the centres of the window, in the same units.
        sigma: f[] or f[S], bandwidths from 1e-15 to 1e15; all S use the same distances.

    Returns:
        f[T], or f[S, T] for S bandwidths: nats.

    Raises:
        ValueError: the shapes don't fit, something is empty or not floating, or σ is not positive
            or out of range.
    """
    given = x, samples, sigma
    x, samples, sigma = _array("x", x), _array("samples", samples), jnp.asarray(sigma)
    _check(x, sigma, given[-1])
    if samples.ndim != 2 or samples.shape[1] != x.shape[1] or samples.shape[0] == 0:
        raise ValueError(
            f"samples has shape {samples.shape}: it must be [N, {x.shape[1]}] with N at least 1"
        )
    method = _method(given[0], x, given[2])
    if method.differences and _is_known(given) and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        with jax.enable_x64(True):
            wide: list[Any] = [np.asarray(value, np.float64) for value in (given[0], given[2])]
            return log_likelihood(wide[0], given[1], wide[1]).astype(jnp.float32)
    sigmas = jnp.atleast_1d(sigma)
    sums = start(x, sigmas, differences=method.differences)
    sums = add_samples(sums, x, samples, sigmas, method.columns, method.bf16_split)
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

    Chunk i holds `sampler(fold_in(key, i), 1000)`; superfluous rows of the last chunk do not count.
    The devices of a mesh take turns, so the samples are the same for any number of devices, and
    log-likelihoods differ by rounding only. Every call traces the sampler anew: jit the caller if it
    calls this more than once. If σ is too small for float32 products (`products_hold`), distances are
    float32 differences; under jit only where x and σ are known.

    Args:
        x: f[T, D], test points.
        sampler: (key, n) → f[n, D]; pure JAX.
        key: a PRNG key, or a seed.
        num_samples: N.
        sigma: f[] or f[S], bandwidths from 1e-15 to 1e15.
        mesh: the devices to use, all of its axes; None for one device.

    Returns:
        f[T], or f[S, T] for S bandwidths: nats.

    Raises:
        ValueError: the shapes don't fit, something is empty or not floating, or σ is not positive
            or out of range.
    """
    given, x, sigma = (x, sigma), _array("x", x), jnp.asarray(sigma)
    _check(x, sigma, given[-1])
    if isinstance(key, (int, np.integer)):
        key = jax.random.key(key)
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}: it must be at least 1")
    drawn = jax.eval_shape(lambda key: sampler(key, CHUNK), key)
    if drawn.shape != (CHUNK, x.shape[1]) or not jnp.issubdtype(drawn.dtype, jnp.floating):
        raise ValueError(
            f"sampler(key, {CHUNK}) gives {drawn.dtype}{drawn.shape}: it must give floats "
            f"{(CHUNK, x.shape[1])}"
        )
    sigmas, method = jnp.atleast_1d(sigma), _method(given[0], x, given[1])

    @jax.jit
    def total(x, key, sigmas):
        rounds = num_rounds(num_samples, mesh)
        sums = start(x, sigmas, mesh, method.differences)
        stream = Stream(sampler, key, num_samples, mesh)
        sums = add_drawn(sums, x, stream, sigmas, 0, rounds, method.columns, method.bf16_split)
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


def _is_known(values):
    """Whether all arrays have values here: none is traced, or on another process's devices."""
    return not any(
        isinstance(leaf, jax.core.Tracer) or not getattr(leaf, "is_fully_addressable", True)
        for leaf in jax.tree.leaves(values)
    )


def _method(given, x, sigma):
    """The best method for x and σ; one float32 product where their values are not known here."""
    if not _is_known(given):
        return Method()
    values = np.asarray(given, x.dtype)
    if not _is_known(sigma):
        return Method(varying(values), can_bf16_split(values))
    return choose_method(values, sigma)


def _check(x, sigma, given):
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"x has shape {x.shape}: it must be [T, D], neither of them 0")
    if sigma.ndim > 1 or sigma.size == 0:
        raise ValueError(f"sigma has shape {sigma.shape}: it must be [] or [S]")
    if not _is_known(given):
        return
    values = np.asarray(given, np.float64)  # with jnp a constant σ would be traced under jit
    if not (values > 0).all():
        raise ValueError(f"sigma is {given}: it must be positive")
    if not are_in_range(values):
        raise ValueError(f"sigma is {given}: it must be from 1e-15 to 1e15")
