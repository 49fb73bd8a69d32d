"""Deep generative stochastic networks (Bengio, Thibodeau-Laufer, Alain, Yosinski 2014).

A Markov chain over visible and hidden units is trained so that its visible units reconstruct the
image that it starts from, at each of a few steps (walkback).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from aae_jax import losses
from aae_jax.algorithms import chains, tied
from aae_jax.algorithms.base import Algorithm, Inputs, Metrics, Phase
from aae_jax.checks import check_positive, check_share
from aae_jax.errors import UserError
from aae_jax.keys import fold_rows, row_keys, row_normal, row_uniform
from aae_jax.networks import Network, Params
from aae_jax.optimizers import OptimizerSpec
from aae_jax.spec import Spec

Units = tuple[jax.Array, ...]  # units f[B, N] of each layer, the corrupted visible ones first


@dataclasses.dataclass(frozen=True)
class Options(chains.ChainOptions):
    """The config's section `options`."""

    hidden: tuple[int, ...] = (1_500, 1_500)  # units of each hidden layer
    walkback: int = 4  # steps of the chain while training
    corruption: float = 0.4  # share of visible units that salt and pepper replaces by 0 or 1
    # Std of the noise before and after the activation of every hidden layer but the first.
    hidden_noise: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        tied.check_hidden(self.hidden)
        check_positive("options.walkback", self.walkback)
        check_share("options.corruption", self.corruption)
        if not 0 <= self.hidden_noise <= 1e6:
            raise UserError(
                f"options.hidden_noise is {self.hidden_noise}: it must be from 0 to 1e+06"
            )


_weights = jax.nn.initializers.glorot_uniform()


def make_networks(spec: Spec) -> dict[str, Network]:
    """One stack of tanh layers with tied weights."""
    widths = (spec.num_pixels, *spec.options.hidden)
    return {"gsn": tied.make(spec, widths, _weights, activation=jnp.tanh)}


def corrupt(spec: Spec, keys: jax.Array, x: jax.Array) -> jax.Array:
    """Salt and pepper noise: a share of the units f[B, P] becomes 0 or 1 with equal probability."""
    share, u = spec.options.corruption, row_uniform(keys, x.shape[1], x.dtype)
    return jnp.where(u < share, (u < share / 2).astype(x.dtype), x)


def begin(spec: Spec, keys: jax.Array, x: jax.Array) -> Units:
    """The initial units: corrupted images f[B, P], and hidden units of 0."""
    hidden = [jnp.zeros((len(x), width), x.dtype) for width in spec.options.hidden]
    return (corrupt(spec, keys, x), *hidden)


def step(spec: Spec, params: Params, keys: jax.Array, units: Units) -> tuple[Units, jax.Array]:
    """One step of the chain: the odd layers given the even ones, then the even ones.

    The visible units are drawn from their means, then corrupted.

    Args:
        spec, params: the spec, and the parameters of all networks.
        keys: key[B], one per row.
        units: before the step.

    Returns:
        The units after the step, and the logits f[B, P] of the visible units' means.
    """
    stack, after, top = params["gsn"], list(units), len(units) - 1

    def update(layer):
        inputs = tied.up(spec, stack, after[layer - 1], layer - 1)
        if layer < top:
            inputs = inputs + tied.product(spec, after[layer + 1], stack[f"kernel_{layer}"].T)
        std = spec.options.hidden_noise if layer > 1 else 0.0
        return _noisy(std, layer, 1, jnp.tanh(_noisy(std, layer, 0, inputs)))

    def _noisy(std, layer, which, values):
        if not std:
            return values
        own = fold_rows(keys, 2 * layer + which)
        return values + std * row_normal(own, values.shape[1], values.dtype)

    for layer in range(1, top + 1, 2):
        after[layer] = update(layer)
    for layer in range(2, top + 1, 2):
        after[layer] = update(layer)
    logits = tied.down(spec, stack, after[1])
    drawn = tied.draw(fold_rows(keys, 0), jax.nn.sigmoid(logits))
    after[0] = corrupt(spec, fold_rows(keys, 1), drawn)
    return tuple(after), logits


def loss(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """The cross-entropy of the chain's visible means and the image, summed over steps.

    Each step's cross-entropy is a mean over pixels, as in the authors' code.
    """
    x = inputs.x.reshape(len(inputs.x), -1)
    units, parts = begin(spec, fold_rows(inputs.row_keys, 0), x), []
    for index in range(spec.options.walkback):
        units, logits = step(spec, params, fold_rows(inputs.row_keys, index + 1), units)
        parts.append(losses.binary_cross_entropy(logits, x) / spec.num_pixels)
    total: Any = sum(parts)
    return total, {"gsn/first": parts[0], "gsn/last": parts[-1]}


def sample(
    spec: Spec,
    params: Params,
    key: jax.Array,
    num_samples: int,
    label: jax.Array | None = None,
    start: jax.Array | None = None,
) -> jax.Array:
    """Means of the visible units of chains: f[num_samples, H, W, C]."""
    tied.check_label(spec, label)
    start_key, units_key, key = jax.random.split(key, 3)
    x = chains.start_images(spec, start_key, num_samples, start)
    units = begin(spec, row_keys(units_key, len(x)), x)

    def one_step(key, units):
        units, logits = step(spec, params, row_keys(key, len(units[0])), units)
        return units, jax.nn.sigmoid(logits)

    samples = chains.run(spec.options, key, num_samples, units, one_step)
    return samples.reshape(num_samples, *spec.image_shape)


GENERATIVE_STOCHASTIC_NETWORK = Algorithm(
    networks=make_networks,
    phases=(
        Phase("walkback", ("gsn",), loss, OptimizerSpec(learning_rate=3e-4, schedule="cosine")),
    ),
    sample=sample,
    options=Options,
    starts_from_images=True,
    check=tied.check,
)
