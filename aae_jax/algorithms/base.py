"""An algorithm is one value: networks, phases that train them, and functions that use them.

A user's own algorithm is another such value: docs/extending.md has an example.
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

# f[B], or f[] for the whole batch; the training step takes means.
Metrics = dict[str, jax.Array]


class Labelled(NamedTuple):
    """Rows with labels beside a batch, for algorithms that have few of them."""

    x_noisy: jax.Array  # f[L, H, W, C], with input noise as the batch has
    label: jax.Array  # i32[L], classes of the data
    dropout_keys: jax.Array | None = None  # key[L], as in `Inputs`


class Inputs(NamedTuple):
    """The inputs that the phases of one training step share; images are in the networks' units."""

    x: jax.Array  # f[B, H, W, C], clean images
    x_noisy: jax.Array  # f[B, H, W, C], the encoder's input; equals x without input noise
    label: jax.Array  # i32[B], −1: unlabelled
    row_keys: jax.Array  # key[B], for a stochastic posterior
    prior_sample: PriorSample
    dropout_keys: jax.Array | None = None  # key[B], for `networks.apply`; each phase has its own
    condition: jax.Array | None = None  # f[B, K] beside the examples, if `spec.condition_dim`
    labelled: Labelled | None = None  # if a phase learns from labelled rows
    step: jax.Array | None = None  # i32[], of the training, 0 for the first


class Phase(NamedTuple):
    """One update of a training step.

    Attributes:
        name: key of its optimiser in the spec and in `TrainState.opt_state`.
        trains: the networks that it updates; all others stay unchanged.
        loss: (spec, params, inputs) → (f[B], metrics), averaged over the global batch; or f[] if
            the loss is not a mean over rows, such as MMD. Such a loss does not run under `pmap`.
        optimizer: the default optimiser, which `spec.optimizer` may override.
        on_labelled: whether the loss is one of `inputs.labelled`; it then gives f[L].
        applies: (spec) → whether models of such a spec have this phase.
    """

    name: str
    trains: tuple[str, ...]
    loss: Callable[[Spec, Params, Inputs], tuple[jax.Array, Metrics]]
    optimizer: OptimizerSpec = OptimizerSpec()
    on_labelled: bool = False
    applies: Callable[[Spec], bool] = lambda spec: True


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of an algorithm that has none."""


class Algorithm(NamedTuple):
    """A way to train and use a model.

    Attributes:
        networks: (spec) → networks by name.
        phases: the updates of one training step, in order.
        sample: (spec, params, key, n, label i32[n] | f[n, K] | None, start f[M, H, W, C] | None) →
            x f[n, H, W, C]; Markov chains begin at `start`, which most algorithms ignore.
        encode: (spec, params, x, row_keys key[B] | None) → z f[B, D]; None: there is no encoder.
        decode: (spec, params, z, label) → x.
        reconstruct: (spec, params, x, row_keys, label) → x, if it differs from decode(encode(x)).
            For data with conditions, `sample`, `decode` and `reconstruct` take one more argument,
            `condition` f[B, K].
        classify: (spec, params, x) → f[B, K], the probabilities of K classes or clusters.
        num_labels: (spec) → K, if the model itself infers one of K classes or clusters. `decode` and
            `sample` then take labels 0 … K − 1. None: labels are those of the data.
        names_classes: (spec) → whether these K are the classes of the data. Otherwise they are
            clusters, which validation images name.
        embed: (spec, params, x) → f[B, D], places on a map that shows class and style at once.
        has_map: (spec) → whether models of such a spec have that map.
        diagnose: (state, test, key) → further numbers for results.json.
        options: the frozen dataclass of the algorithm's hyper-parameters. `spec.options` is an
            instance, and the config's section `options` has its fields.
        starts_from: networks taken from an earlier run (`start_from`).
        posterior, reconstruction: the defaults of `model.posterior` and `model.reconstruction`.
        matches_prior: whether training matches the codes to the prior; runs then report how well.
        starts_from_images: whether `sample` starts its Markov chains at `start`; runs and figures
            then pass training images (`aae_jax.train_state.chain_starts`).
        check: (spec) → None; raises `UserError` for invalid combinations.
        check_standardised: the same, for models whose pixels are standardised one by one.
        figures: names of `aae_jax.figures.FIGURES`, or import paths of such functions. A figure
            that can't show a model is left out.
    """

    networks: Callable[[Spec], dict[str, Network]]
    phases: tuple[Phase, ...]
    sample: Callable[..., jax.Array]
    encode: Callable[..., jax.Array] | None = None
    decode: Callable[..., jax.Array] | None = None
    reconstruct: Callable[..., jax.Array] | None = None
    classify: Callable[..., jax.Array] | None = None
    num_labels: Callable[[Spec], int] | None = None
    names_classes: Callable[[Spec], bool] = lambda spec: True
    embed: Callable[..., jax.Array] | None = None
    has_map: Callable[[Spec], bool] = lambda spec: False
    diagnose: Callable[..., dict[str, Any]] | None = None
    options: type = NoOptions
    starts_from: tuple[str, ...] = ()
    posterior: Any = "deterministic"
    reconstruction: Any = "squared_error"
    matches_prior: bool = True
    starts_from_images: bool = False
    check: Callable[[Spec], None] = lambda spec: None
    check_standardised: Callable[[Spec], None] = lambda spec: None
    figures: tuple[str, ...] = ("samples", "training_curves")


def raw_moments(name: str, z: jax.Array) -> Metrics:
    """E[z], E[z²], … E[z⁴] over dimensions, per example, so that devices can average them."""
    return {f"{name}/moment_{k}": jnp.mean(z**k, axis=-1) for k in (1, 2, 3, 4)}


def moments(metrics: Metrics) -> Metrics:
    """Replaces the averaged raw moments of codes and prior by mean, std and kurtosis.

    All dimensions are pooled, so that the std also shows a drifted mean of one dimension. A
    Gaussian's kurtosis is 3.
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
