"""The log-likelihood of a decoder with Gaussian noise, by annealed importance sampling.

    log p(x) = log ∫ p(z) N(x; decoder(z), σ² I) dz

in nats: the limit of a Parzen window of the decoder's samples as their number grows. Chains of
Hamiltonian Monte Carlo go from a Gaussian q₀, by default the prior, to the posterior of each image
(Neal 2001; Wu, Burda, Salakhutdinov and Grosse 2017), along log q₀ + β (log p(z) + log p(x|z) −
log q₀). Estimates lie below log p(x) on average. `bracket` shows how far below, on data made by the
model. docs/likelihood.md is the guide. The module needs blackjax (the extra `likelihood`).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from aae_jax import parallel, processes
from aae_jax.annealed.checking import (
    as_rows,
    as_start,
    check_decoder,
    check_finite,
    check_prior,
    common,
)
from aae_jax.annealed.running import PILOT_CHAINS, Chains, Images, run_block
from aae_jax.annealed.targets import Prior, density, normal, uniform
from aae_jax.arguments import check_count, is_known
from aae_jax.errors import UserError
from aae_jax.settings import AnnealedSpec

__all__ = [
    "PILOT_CHAINS",
    "Blocks",
    "Bracket",
    "Chains",
    "Estimate",
    "Images",
    "Posterior",
    "Prior",
    "blocks",
    "bracket",
    "density",
    "join",
    "log_likelihood",
    "lower",
    "normal",
    "run_block",
    "sample_posterior",
    "simulate",
    "uniform",
    "upper",
    "upper_bound",
]

Decoder = Callable[[jax.Array], jax.Array]  # z f[N, D] → x f[N, P]


class Estimate(NamedTuple):
    """log p(x) of each image, in nats. For a single chain, spread and log_weight_std are NaN."""

    log_likelihood: jax.Array  # f[T], log of the mean weight
    # f[T], its standard error over chains, by the delta method: std of the weights over their mean
    # and √C. It can't exceed 1, so trust it only if `log_weight_std` is about 1 or less.
    spread: jax.Array
    log_weight_std: jax.Array  # f[T], standard deviation of the log weights over chains
    acceptance: jax.Array  # f[T], mean over chains and temperatures


class Posterior(NamedTuple):
    """Weighted draws from p(z | x): weights are exp(log_weight), normalised for each image."""

    z: jax.Array  # f[T, C, D]
    log_weight: jax.Array  # f[T, C], nats


class Bracket(NamedTuple):
    """Both bounds of log p(x), in nats, on images simulated from the model."""

    x: jax.Array  # f[N, P]
    lower: Estimate  # from chains that start from the prior: below log p(x) in expectation
    upper: Estimate  # from chains that start from the posterior: above log p(x) in expectation

    @property
    def gap(self) -> jax.Array:
        """f[N], upper − lower."""
        return self.upper.log_likelihood - self.lower.log_likelihood


class Blocks(NamedTuple):
    """The images of a call in blocks, which can run in any order and at any time.

    `run(i)` returns the `Chains` of block i, always the same bits. `join` concatenates the chains
    of all blocks, and `lower` turns chains into an `Estimate`.
    """

    num_blocks: int
    block_size: int  # images in each but the last
    run: Callable[[int], Chains]


def log_likelihood(
    decoder: Decoder,
    x: jax.Array,
    key: jax.Array,
    sigma: jax.Array | float,
    *,
    code_dim: int,
    prior: Prior = normal(),  # noqa: B008, a constant
    start: tuple[jax.Array, jax.Array] | None = None,
    spec: AnnealedSpec = AnnealedSpec(),  # noqa: B008
    mesh: Mesh | None = None,
) -> Estimate:
    """Estimates log p(x) of each image: a lower bound in expectation.

    Memory: `num_chains` times the memory of the decoder and its gradient for one block of images.
    All blocks have the same size, so that one program is compiled for them and for later calls with
    the same functions. Under `jit` all blocks are unrolled, and values are not checked.

    Args, here and below:
        decoder: (z f[N, D]) → f[N, P], pure JAX; for a decoder f of single codes, `jax.vmap(f)`. A
            `jax.tree_util.Partial` is an argument of the compiled program with its parameters:
            decoders that differ only in parameters share one program. A lambda that is made anew
            for each call is compiled anew.
        x: f[T, P], images, or any rows of numbers.
        key: a PRNG key, or a seed. Image i uses `fold_in(key, i)`, so that up to rounding results
            don't depend on blocks and devices.
        sigma: f[], the standard deviation of the noise on each number of x, in the units of x.
        code_dim: D.
        prior: `normal(std)`, `uniform(radius)`, `density(log_prob)` or your own `Prior`.
        start: (mean f[T, D], std f[T, D], f[D] or f[]), Gaussians from which the chains of each
            image start, in the units of z, such as Gaussians around an encoder's codes. For a
            uniform prior they pass through its inverse distribution function, with means clipped to
            0.99 of the radius. If the prior can be drawn from, no start is wider than the prior.
            None: chains start from the prior. The start does not change the estimated number; a
            better start needs fewer temperatures.
        spec: numbers of chains and temperatures, and other settings.
        mesh: the devices that share the images of a block, over all of its axes; None: one device.

    Returns:
        An `Estimate` of arrays f[T].

    Raises:
        UserError: an argument does not fit, or a chain met NaN; the message says where.
    """
    work = blocks(
        decoder, x, key, sigma, code_dim=code_dim, prior=prior, start=start, spec=spec, mesh=mesh
    )
    return _concatenate([lower(work.run(index)) for index in range(work.num_blocks)])


def sample_posterior(
    decoder: Decoder,
    x: jax.Array,
    key: jax.Array,
    sigma: jax.Array | float,
    *,
    code_dim: int,
    prior: Prior = normal(),  # noqa: B008
    start: tuple[jax.Array, jax.Array] | None = None,
    spec: AnnealedSpec = AnnealedSpec(),  # noqa: B008
    mesh: Mesh | None = None,
) -> Posterior:
    """Draws codes from the posterior of each image: the ends of the chains of `log_likelihood`.

    Args: as `log_likelihood`.

    Returns:
        `Posterior(z f[T, C, D], log_weight f[T, C])`, one weighted draw for each chain. For image
        i, `jax.random.categorical(key, log_weight[i])` picks one with the posterior's distribution.
    """
    work = blocks(
        decoder, x, key, sigma, code_dim=code_dim, prior=prior, start=start, spec=spec, mesh=mesh
    )
    found = [work.run(index) for index in range(work.num_blocks)]
    return _concatenate([Posterior(part.z, part.log_weight) for part in found])


def simulate(
    decoder: Decoder,
    key: jax.Array,
    sigma: jax.Array | float,
    num_images: int,
    *,
    code_dim: int,
    prior: Prior = normal(),  # noqa: B008
) -> tuple[jax.Array, jax.Array]:
    """Simulates images x f[N, P] with noise from the model; returns x and the codes z f[N, D]."""
    decoder, prior, key, sigma = common(decoder, prior, key, sigma, code_dim)
    v, x = _simulated(decoder, prior, key, sigma, num_images, code_dim)
    return x, jax.vmap(prior.to_code)(v)


def upper_bound(
    decoder: Decoder,
    key: jax.Array,
    sigma: jax.Array | float,
    num_images: int,
    *,
    code_dim: int,
    prior: Prior = normal(),  # noqa: B008
    spec: AnnealedSpec = AnnealedSpec(),  # noqa: B008
    mesh: Mesh | None = None,
) -> Estimate:
    """Estimates log p(x) from above, on images simulated from the model.

    Chains run from an exact draw of the posterior back to the prior (bidirectional Monte Carlo:
    Grosse, Ghahramani and Adams 2015). Only simulated images have such a draw: the code that made
    them. **Images of a data set have no upper bound.** The images are those of
    `simulate(decoder, key, sigma, num_images, …)`.

    Args: as `log_likelihood`; num_images: how many to simulate.

    Returns:
        An `Estimate` whose `log_likelihood` is above log p(x) in expectation.

    Raises:
        UserError: see `log_likelihood`; or the prior can't be drawn from.
    """
    _, _, backward = _both_ways(decoder, key, sigma, num_images, code_dim, prior, spec, mesh)
    return upper(join(backward))


def bracket(
    decoder: Decoder,
    key: jax.Array,
    sigma: jax.Array | float,
    num_images: int,
    *,
    code_dim: int,
    prior: Prior = normal(),  # noqa: B008
    spec: AnnealedSpec = AnnealedSpec(),  # noqa: B008
    mesh: Mesh | None = None,
) -> Bracket:
    """Both bounds on images simulated from the model; `upper_bound` explains why only on those.

    A gap far below 1 nat means that these numbers of temperatures and chains suffice for images
    like the simulated ones. Images that the model makes badly may need more.
    """
    x, *both = _both_ways(decoder, key, sigma, num_images, code_dim, prior, spec, mesh)
    forward, backward = map(join, both)
    return Bracket(x, lower(forward), upper(backward))


def blocks(
    decoder: Decoder,
    x: jax.Array,
    key: jax.Array,
    sigma: jax.Array | float,
    *,
    code_dim: int,
    prior: Prior = normal(),  # noqa: B008
    start: tuple[jax.Array, jax.Array] | None = None,
    spec: AnnealedSpec = AnnealedSpec(),  # noqa: B008
    mesh: Mesh | None = None,
) -> Blocks:
    """The work of `log_likelihood` in blocks, so that the caller can save each block's result.

    Args: as `log_likelihood`. Nothing is computed before `run`.
    """
    decoder, prior, key, sigma = common(decoder, prior, key, sigma, code_dim, spec)
    x = as_rows(x)
    check_decoder(decoder, code_dim, x.dtype, x.shape)
    check_prior(prior, code_dim, x.dtype)
    mean, std = as_start(prior, start, len(x), code_dim, x.dtype)
    images = Images(x, None, mean, std)
    return _blocks(decoder, prior, images, key, sigma, code_dim, spec, mesh)


def join(work: Blocks) -> Chains:
    """Runs all blocks and returns the chains of all images."""
    return _concatenate([work.run(index) for index in range(work.num_blocks)])


def _concatenate(parts):
    return jax.tree.map(lambda *values: jnp.concatenate(values), *parts)


def lower(chains: Chains) -> Estimate:
    """The estimate of a lower bound: log of the mean weight of each image's chains."""
    return _estimate(chains, 1)


def upper(chains: Chains) -> Estimate:
    """The estimate of an upper bound, from backward chains: −log of the mean inverse weight."""
    return _estimate(chains, -1)


def _estimate(chains, sign):
    log_weight = jnp.asarray(chains.log_weight)
    exponent = sign * log_weight
    num_chains = exponent.shape[1]
    weights = jax.nn.softmax(exponent, axis=1) * num_chains  # their mean is 1
    return Estimate(
        sign * (jax.nn.logsumexp(exponent, axis=1) - np.log(num_chains).astype(exponent.dtype)),
        weights.std(axis=1, ddof=1) / np.sqrt(num_chains).astype(exponent.dtype),
        log_weight.std(axis=1, ddof=1),
        jnp.asarray(chains.acceptance).mean(axis=1),
    )


def _blocks(decoder, prior, images, key, sigma, code_dim, spec, mesh):
    num_images = len(images.x)
    size = min(spec.block_size, num_images)
    padded = size if mesh is None else -(-size // mesh.size) * mesh.size
    sigma = sigma.astype(images.x.dtype)
    given = decoder, prior, images, key, sigma
    placed = mesh is not None and all(map(is_known, jax.tree.leaves(given)))
    if placed:
        decoder, prior = jax.tree.map(jnp.asarray, (decoder, prior))
        decoder, prior, sigma = parallel.replicate((decoder, prior, sigma), mesh)

    def run(index):
        first = index * size
        count = min(size, num_images - first)

        def cut(values):
            values = values[first : first + count]
            widths = ((0, padded - count),) + ((0, 0),) * (values.ndim - 1)
            return jnp.pad(values, widths, mode="edge")

        block = jax.tree.map(cut, images)._replace(index=first + jnp.arange(padded))
        if placed:
            block = parallel.replicate(block, mesh)
        found = run_block(
            decoder, prior, block, key, sigma, code_dim=code_dim, spec=spec, mesh=mesh
        )
        known = not isinstance(found.z, jax.core.Tracer)
        found = processes.gather_to_host(found) if known else found
        found = jax.tree.map(lambda values: values[:count], found)
        if known:
            check_finite(found, first, spec)
        return found

    return Blocks(-(-num_images // size), size, run)


def _both_ways(decoder, key, sigma, num_images, code_dim, prior, spec, mesh):
    """Simulated images, with their blocks forward from the prior and backward from their codes."""
    decoder, prior, key, sigma = common(decoder, prior, key, sigma, code_dim, spec)
    v, x = _simulated(decoder, prior, key, sigma, num_images, code_dim)
    forward, backward = (
        _blocks(decoder, prior, Images(x, None, u=u), key, sigma, code_dim, spec, mesh)
        for u in (None, v)
    )
    return x, forward, backward


def _simulated(decoder, prior, key, sigma, num_images, code_dim):
    """`_simulate` with checked arguments."""
    check_count("num_images", num_images)
    if prior.log_prob is not None:
        raise UserError("prior is only a density: images can't be simulated from it")
    check_decoder(decoder, code_dim, sigma.dtype)
    check_prior(prior, code_dim, sigma.dtype)
    return _simulate(decoder, prior, key, sigma, num_images, code_dim)


@functools.partial(jax.jit, static_argnames=("num_images", "code_dim"))
def _simulate(decoder, prior, key, sigma, num_images, code_dim):
    """v f[N, D] and x f[N, P]."""
    code_key, noise_key = jax.random.split(jax.random.fold_in(key, 2**31 - 1))
    v = jax.random.normal(code_key, (num_images, code_dim))
    with jax.default_matmul_precision("highest"):
        x = decoder(jax.vmap(prior.to_code)(v))
    x = x.astype(v.dtype)
    return v, x + sigma * jax.random.normal(noise_key, x.shape, x.dtype)
