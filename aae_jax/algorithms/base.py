"""An algorithm is one value: networks, phases that train them, and functions that use them.

A user's own is another such value: docs/extending.md has an example.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aae_jax.networks import Network, Params
from aae_jax.optimizers import OptimizerSpec
from aae_jax.priors import PriorSample
from aae_jax.spec import Spec

# f[B], or f[] for the whole batch: the training step takes the means.
Metrics = dict[str, jax.Array]


class Inputs(NamedTuple):
    """What the phases of one training step share; x is in the units that the networks see."""

    x: jax.Array  # f[B, H, W, C], clean images
    x_noisy: jax.Array  # f[B, H, W, C], what the encoder sees; equals x without input noise
    label: jax.Array  # i32[B], −1: unlabelled
    row_keys: jax.Array  # key[B], for a stochastic posterior
    prior_sample: PriorSample
    dropout_keys: jax.Array | None = None  # key[B], for `networks.apply`; each phase has its own
    condition: jax.Array | None = None  # f[B, K] beside the examples, where `spec.condition_dim`
    step: jax.Array | None = None  # i32[], of the training, 0 for the first


class Phase(NamedTuple):
    """One update of a training step.

    Attributes:
        name: key of its optimiser in the spec and in `TrainState.opt_state`.
        trains: the networks that it updates; all others stay as they are.
        loss: (spec, params, inputs) → (f[B], metrics), averaged over the global batch; or f[] where
            the loss is no mean over rows, as MMD is not. Such a loss does not run under `pmap`.
        optimizer: what `spec.optimizer` does not change.
    """

    name: str
    trains: tuple[str, ...]
    loss: Callable[[Spec, Params, Inputs], tuple[jax.Array, Metrics]]
    optimizer: OptimizerSpec = OptimizerSpec()


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of an algorithm without any."""


class Algorithm(NamedTuple):
    """A way to train a model, and to use it.

    Attributes:
        networks: (spec) → networks by name.
        phases: the updates of one training step, one after the other.
        sample: (spec, params, key, n, label i32[n] | f[n, K] | None, start f[M, H, W, C] | None) →
            x f[n, H, W, C]; `start` is where Markov chains begin, None for most.
        encode: (spec, params, x, row_keys key[B] | None) → z f[B, D]; None: nothing is encoded.
        decode: (spec, params, z, label) → x.
        reconstruct: (spec, params, x, row_keys, label) → x, where that is not decode(encode(x)).
            `sample`, `decode` and `reconstruct` of an algorithm for data with conditions take one
            more argument, `condition` f[B, K].
        classify: (spec, params, x) → f[B, K], where there are classes.
        diagnose: (state, test, key) → numbers for results.json, beside the common ones.
        options: the frozen dataclass of its own hyper-parameters: `spec.options` is an instance,
            the config's section `options` has its fields.
        starts_from: networks taken from an earlier run (`start_from`).
        posterior, reconstruction: what `model.posterior` and `model.reconstruction` stand for where
            they are None.
        matches_prior: whether the codes of a trained model are to be distributed as the prior: then
            runs say how near they came.
        starts_from_images: whether `sample` begins its Markov chains at `start`: runs and figures
            then give it training images (`aae_jax.train_state.chain_starts`).
        check: (spec) → None; raises `UserError` for combinations that make no sense.
        figures: names of `aae_jax.figures.FIGURES`, or import paths of functions like those. Where
            a figure can't show a model, it is left out.
    """

    networks: Callable[[Spec], dict[str, Network]]
    phases: tuple[Phase, ...]
    sample: Callable[..., jax.Array]
    encode: Callable[..., jax.Array] | None = None
    decode: Callable[..., jax.Array] | None = None
    reconstruct: Callable[..., jax.Array] | None = None
    classify: Callable[..., jax.Array] | None = None
    diagnose: Callable[..., dict[str, Any]] | None = None
    options: type = NoOptions
    starts_from: tuple[str, ...] = ()
    posterior: Any = "deterministic"
    reconstruction: Any = "squared_error"
    matches_prior: bool = True
    starts_from_images: bool = False
    check: Callable[[Spec], None] = lambda spec: None
    figures: tuple[str, ...] = ("samples", "training_curves")


def raw_moments(name: str, z: jax.Array) -> Metrics:
    """E[z], E[z²], … E[z⁴] over dimensions, per example: their means may cross devices."""
    return {f"{name}/moment_{k}": jnp.mean(z**k, axis=-1) for k in (1, 2, 3, 4)}


def moments(metrics: Metrics) -> Metrics:
    """Replaces the averaged raw moments of codes and prior by mean, std and kurtosis.

    All dimensions are pooled, so a dimension whose mean has drifted shows in the std. A Gaussian's
    kurtosis is 3.
    """
    metrics = dict(metrics)
    for name in ("code", "prior"):
        if f"{name}/moment_1" not in metrics:
            continue
        m1, m2, m3, m4 = (metrics.pop(f"{name}/moment_{k}") for k in (1, 2, 3, 4))
        variance = m2 - m1**2
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        metrics[f"{name}/mean"] = m1
        metrics[f"{name}/std"] = jnp.sqrt(jnp.maximum(variance, 0.0))
        metrics[f"{name}/kurtosis"] = fourth / variance**2
    return metrics
