"""The chains of annealed importance sampling for one block of images: one compiled program.

Chains move in a space where they start from a standard normal u. The target at β is

    log N(u; 0, I) + β ℓ(u),

where ℓ(u) is the log of likelihood × prior / start. A transition returns ℓ and its gradient with
the state, and the next β reuses them. So only leapfrog steps evaluate the decoder.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from aae_jax.annealed.targets import Prior
from aae_jax.errors import UserError
from aae_jax.settings import AnnealedSpec

try:
    from blackjax.mcmc import hmc
except ImportError as error:
    raise UserError(
        "aae_jax.annealed needs blackjax: install the extra, pip install 'aae-jax[likelihood]'"
    ) from error

# The pilot's β: linear up to about exp(−12), then logarithmic. If a posterior is n times as narrow
# as the start in each direction, the path changes from β = 1 / n² on, equally in each e-fold.
_E_FOLDS = 12
# The pilot run: its chains, the transitions at the first temperature that find the scale of the
# step, and how strongly the log of the step follows the acceptance.
PILOT_CHAINS, _SEARCH, _GAIN = 4, 20, 1.0
_OWN = 0.2  # the share of the temperatures that are spaced like the pilot's
# Each transition draws its own step: for a Gaussian, steps of a fixed length can return a chain to
# its starting point (Neal 2011, section 3.2).
_LOW, _HIGH = 0.4, 1.2


class Chains(NamedTuple):
    """The ends of the chains of T images, and their weights.

    The mean of exp(log_weight) over an image's chains is an unbiased estimate of p(x). With these
    weights, z are draws from p(z | x).
    """

    z: jax.Array  # f[T, C, D]
    log_weight: jax.Array  # f[T, C], nats
    acceptance: jax.Array  # f[T, K], mean over the chains at each temperature
    beta: jax.Array  # f[T, K], the temperatures; the last is 1
    step_size: jax.Array  # f[T, K], of u
    failed: jax.Array  # i32[T, C], the first temperature with NaN, 0 … K; −1: none


class Images(NamedTuple):
    """The arrays of a block, one row for each image; all but x and index may be None."""

    x: jax.Array  # f[B, P]
    index: jax.Array | None  # type: ignore[assignment]  # i32[B], among all images: an image's randomness depends on it alone
    mean: jax.Array | None = None  # f[B, D], where chains start, in the space of the prior's v
    std: jax.Array | None = None  # f[B, D]
    u: jax.Array | None = None  # f[B, D], exact draws given x, from which chains are run backward


class _Chain(NamedTuple):
    """One chain: u, ℓ(u) and ∇ℓ(u)."""

    u: jax.Array
    ell: jax.Array
    grad: jax.Array


@functools.partial(jax.jit, static_argnames=("code_dim", "spec", "mesh"))
def run_block(
    decoder: Callable[[jax.Array], jax.Array],
    prior: Prior,
    images: Images,
    key: jax.Array,
    sigma: jax.Array,
    *,
    code_dim: int,
    spec: AnnealedSpec,
    mesh: Mesh | None = None,
) -> Chains:
    """Runs all chains of a block of images, forward, or backward if `images.u` is given.

    For backward chains, `log_weight` is the log weight of the same path run forward. The mean of
    exp(−log_weight) is then an unbiased estimate of 1 / p(x), and z are not draws of the posterior.

    Args:
        decoder, prior: pytrees of functions, such as `jax.tree_util.Partial`.
        images: a block; with a mesh, its images must divide over the devices.
        key: a PRNG key.
        sigma: f[].
    """

    def run(images):
        one = functools.partial(_one_image, decoder, prior, key, sigma, code_dim, spec)
        return jax.vmap(one)(images)

    # Energies are divided by σ²: errors of TF32 or bfloat16 products would be nats.
    with jax.default_matmul_precision("highest"):
        if mesh is None:
            return run(images)
        rows = PartitionSpec(mesh.axis_names)
        return jax.shard_map(run, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)(images)


def _one_image(decoder, prior, key, sigma, code_dim, spec, image):
    dtype = image.x.dtype
    density = functools.partial(_ell, decoder, prior, sigma, image)
    pilot_key, start_key, key = jax.random.split(jax.random.fold_in(key, image.index), 3)
    log_volume = image.x.size * (jnp.log(sigma) + 0.5 * math.log(2 * math.pi))

    def begin(key, num_chains):
        u = jax.random.normal(key, (num_chains, code_dim), dtype)
        return _Chain(u, *_evaluate(density, u))

    betas, step_sizes = _pilot(density, begin(pilot_key, PILOT_CHAINS), pilot_key, spec)
    if image.u is None:
        chains = begin(start_key, spec.num_chains)
    else:
        u = jnp.broadcast_to(image.u, (spec.num_chains, code_dim))
        chains = _Chain(u, *_evaluate(density, u))
    failed = jnp.where(_is_nan(chains), 0 if image.u is None else spec.num_temperatures, -1)
    log_weight = jnp.zeros(spec.num_chains, dtype)

    def one_temperature(carry, inputs):
        chains, log_weight, failed = carry
        number, before, beta, step_size, key = inputs
        if image.u is None:
            log_weight += (beta - before) * chains.ell
        chains, acceptance, is_nan = _transitions(density, chains, beta, step_size, key, spec)
        if image.u is not None:
            log_weight += (beta - before) * chains.ell
        failed = jnp.where((failed < 0) & is_nan, number, failed)
        return (chains, log_weight, failed), acceptance.mean()

    numbers = jnp.arange(1, spec.num_temperatures + 1)
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
    (chains, log_weight, failed), acceptance = jax.lax.scan(
        one_temperature,
        (chains, log_weight, failed.astype(jnp.int32)),
        (numbers.astype(jnp.int32), betas[:-1], betas[1:], step_sizes, keys),
        reverse=image.u is not None,
    )
    z = jax.vmap(lambda u: prior.to_code(_place(image, u)))(chains.u)
    return Chains(z, log_weight - log_volume, acceptance, betas[1:], step_sizes, failed)


def _place(image, u):
    """v of u."""
    return u if image.mean is None else image.mean + image.std * u


def _ell(decoder, prior, sigma, image, u):
    """ℓ(u) without the likelihood's constant."""
    v = _place(image, u)
    # One row: `vmap` over chains and images makes one product per layer of all rows.
    x_hat = decoder(prior.to_code(v)[None])[0].astype(image.x.dtype)
    ell = -0.5 * (((image.x - x_hat) / sigma) ** 2).sum()
    if image.mean is None:  # prior and start are both standard normal in v
        return ell
    if prior.log_prob is None:
        log_prob = -0.5 * (v**2).sum()
    else:
        log_prob = prior.log_prob(v) + 0.5 * math.log(2 * math.pi) * v.size
    return ell + log_prob + jnp.log(image.std).sum() + 0.5 * (u**2).sum()


def _evaluate(density, u):
    return jax.vmap(jax.value_and_grad(density))(u)


def _pilot(density, chains, key, spec):
    """Temperatures β f[K + 1] and step sizes f[K] for an image, from a few pilot chains.

    Step sizes give the pilot chains the desired acceptance. Temperatures make the standard
    deviation of ℓ over chains, times the distance to the next β, constant: the log weights then
    vary least (Gelman and Meng 1998, section 4.1). The chains that are scored use both unchanged,
    since adapting to themselves would bias them.
    """
    num = spec.num_temperatures
    betas = np.expm1(_E_FOLDS * np.linspace(0, 1, num + 1)) / np.expm1(_E_FOLDS)
    betas = jnp.asarray(betas, chains.u.dtype)

    def one_temperature(carry, inputs):
        chains, log_step = carry
        beta, key = inputs
        chains, acceptance, _ = _transitions(density, chains, beta, jnp.exp(log_step), key, spec)
        log_step += _GAIN * (acceptance.mean() - spec.acceptance)
        return (chains, log_step), (log_step, chains.ell.var(ddof=1))

    visited = jnp.concatenate([jnp.repeat(betas[1], _SEARCH), betas[1:]])
    keys = jax.random.split(jax.random.fold_in(key, 1), len(visited))
    at_start = chains, jnp.zeros((), betas.dtype)
    _, found = jax.lax.scan(one_temperature, at_start, (visited, keys))
    log_steps, variance = (_smooth(values[_SEARCH:]) for values in found)
    # ℓ may be −∞, or vary without bounds: some temperatures are always spaced like the pilot's.
    lengths = jnp.nan_to_num(jnp.sqrt(variance) * jnp.diff(betas), nan=0.0, posinf=0.0)
    own = jnp.linspace(0, 1, num + 1, dtype=betas.dtype)[1:]
    travelled = jnp.cumsum(lengths) / jnp.maximum(lengths.sum(), jnp.finfo(betas.dtype).tiny)
    travelled = _OWN * own + (1 - _OWN) * travelled
    travelled = jnp.concatenate([jnp.zeros(1, betas.dtype), travelled / travelled[-1]])
    chosen = jnp.interp(own, travelled, betas).at[-1].set(1)
    log_steps = jnp.interp(jnp.log(chosen), jnp.log(betas[1:]), log_steps)
    return jnp.concatenate([betas[:1], chosen]), jnp.exp(log_steps)


def _smooth(values):
    """Running means over about 4 % of the values f[K]."""
    window = jnp.ones(len(values) // 50 * 2 + 1, values.dtype)
    counts = jnp.convolve(jnp.ones_like(values), window, mode="same")
    return jnp.convolve(values, window, mode="same") / counts


def _transitions(density, chains, beta, step_size, key, spec):
    """One transition of each chain: the chains, their acceptance f[C], and NaN flags bool[C]."""
    kernel = hmc.build_kernel()

    def log_density(u):
        return beta * density(u) - 0.5 * (u**2).sum()

    def one(chain, key):
        u, ell, grad = chain
        key, jitter_key = jax.random.split(key)
        own = step_size * jax.random.uniform(jitter_key, (), u.dtype, _LOW, _HIGH)
        before = hmc.HMCState(u, beta * ell - 0.5 * (u**2).sum(), beta * grad - u)
        mass = jnp.ones_like(u)
        after, info = kernel(key, before, log_density, own, mass, spec.num_leapfrog)
        u = after.position
        moved = _Chain(
            u,
            (after.logdensity + 0.5 * (u**2).sum()) / beta,
            (after.logdensity_grad + u) / beta,
        )
        # Division by β rounds: a chain that rejects keeps its numbers.
        chain = jax.tree.map(lambda new, old: jnp.where(info.is_accepted, new, old), moved, chain)
        return chain, info.acceptance_rate, jnp.isnan(info.proposal.logdensity)

    return jax.vmap(one)(chains, jax.random.split(key, len(chains.ell)))


def _is_nan(chains):
    """bool[C]: ℓ is NaN, or ℓ is finite but its gradient is not. ℓ = −∞ is a density of 0."""
    no_slope = ~jnp.isfinite(chains.grad).all(axis=-1)
    return jnp.isnan(chains.ell) | (jnp.isfinite(chains.ell) & no_slope)
