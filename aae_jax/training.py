"""The training step, and many of them in one dispatch."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from aae_jax import phases
from aae_jax.errors import UserError
from aae_jax.posteriors import row_normal
from aae_jax.priors import PriorSample, sample_prior
from aae_jax.train_state import TrainState, row_keys, to_inputs

# Separate streams of randomness under one key.
_NOISE, _PRIOR, _SHUFFLE, _POSTERIOR = range(4)


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    prior_sample: PriorSample,
    *,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One mini-batch: every phase of the algorithm in turn, each seeing what the last one updated.

    For the adversarial autoencoder (section 2): the reconstruction phase updates encoder and
    decoder; the discriminator learns to tell the prior from the codes of the updated encoder; the
    generator (the encoder again) learns to fool the updated discriminator.

    Pure: `jit`, `vmap` or `pmap` it, or shard its arguments, as you like.

    Args:
        state: the state before.
        batch: `{"image": [B, H, W, C] uint8 or f32 in [0, 1], "label": i32[B], −1 unlabelled}`.
        prior_sample: `PriorSample(z f[B, D], label i32[B])`, the positive samples.
        axis_name: the mapped axis over which the batch is split under `pmap`; gradients and
            metrics are averaged over it.

    Returns:
        The state after (with `train.average_decay` also the averages of encoder and decoder), and
        scalar metrics over the whole batch: `loss/<phase>`, moments of the
        codes and of the prior sample, the discriminator's accuracies or the terms of the bound.
    """
    spec = state.spec
    x = to_inputs(state, batch["image"])
    if prior_sample.z.shape != (x.shape[0], spec.model.code_dim):
        raise UserError(
            f"prior_sample.z is {prior_sample.z.shape}: batch and code need "
            f"{(x.shape[0], spec.model.code_dim)}"
        )
    first_row = 0 if axis_name is None else jax.lax.axis_index(axis_name) * x.shape[0]
    noise_keys, posterior_keys = (
        row_keys(_stream(state.rng, stream, state.step), x.shape[0], first_row)
        for stream in (_NOISE, _POSTERIOR)
    )
    x_noisy = x
    if spec.train.input_noise:
        x_noisy = x + spec.train.input_noise * row_normal(noise_keys, x.shape[1], x.dtype)
    inputs = phases.Inputs(x, x_noisy, batch["label"], posterior_keys, prior_sample)

    params, opt_state, metrics = dict(state.params), dict(state.opt_state), {}
    for phase in phases.ALGORITHMS[spec.algorithm]:
        trained = {name: params[name] for name in phase.trains}

        def mean_loss(trained):
            loss, phase_metrics = phase.loss(spec, {**params, **trained}, inputs)
            means = jax.tree.map(jnp.mean, phase_metrics)
            return loss.mean(), {f"loss/{phase.name}": loss.mean(), **means}

        grads, phase_metrics = jax.grad(mean_loss, has_aux=True)(trained)
        if axis_name is not None:
            grads, phase_metrics = jax.lax.pmean((grads, phase_metrics), axis_name)
        optimizer = phases.make_optimizer(spec, phase.name)
        updates, opt_state[phase.name] = optimizer.update(grads, opt_state[phase.name], trained)
        scale = state.learning_rate_scale[phase.name]
        updates = jax.tree.map(lambda update: scale * update, updates)
        params.update(optax.apply_updates(trained, updates))
        metrics.update(phase_metrics)

    average = state.average
    if average is not None:
        # A shorter memory at the start, which would otherwise weigh as much as all that follows.
        step = state.step.astype(x.dtype)
        decay = jnp.minimum(spec.train.average_decay, (1 + step) / (10 + step))
        newest = {name: params[name] for name in average}
        average = optax.incremental_update(newest, average, 1 - decay)
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state, average=average)
    return state, phases.moments(metrics)


@functools.partial(jax.jit, static_argnames=("num_steps", "batch_sharding", "axis_name"))
def train_steps(
    state: TrainState,
    dataset: dict[str, jax.Array],
    num_steps: int,
    *,
    batch_sharding: jax.sharding.Sharding | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs many training steps in one dispatch, shuffling and drawing the prior on the device.

    All randomness follows from `state.rng` and the step, so splitting a run into calls of any
    length changes nothing. Every example is visited once an epoch, or as often as `place` names it;
    batches may straddle epochs.

    Args:
        state: the state before.
        dataset: `{"image": [N, H, W, C] uint8 or f32 in [0, 1], "label": i32[N]}`, on the device;
            with "place": i32[M] too, which example is at each of an epoch's M places.
        num_steps: K; static.
        batch_sharding: how to split each batch over devices (`aae_jax.parallel`); static.
        axis_name: the mapped axis whose members each take their share of every batch (`pmap`).

    Returns:
        The state after, and metrics f[K].

    Raises:
        UserError: the data set is empty or its size times the batch size is out of range.
    """
    if num_steps < 1:
        raise UserError(f"num_steps is {num_steps}: it must be positive")

    def body(state, rows):
        rows = _own_rows(rows, axis_name)
        batch = {name: dataset[name][rows] for name in ("image", "label")}
        return _draw_and_step(state, batch, batch_sharding, axis_name)

    return jax.lax.scan(body, state, batch_rows(state, dataset, num_steps))


@functools.partial(jax.jit, static_argnames=("batch_sharding", "axis_name"))
def train_batches(
    state: TrainState,
    batches: dict[str, jax.Array],
    *,
    batch_sharding: jax.sharding.Sharding | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`train_steps` for data that are streamed: the batches come from outside.

    Args:
        state: the state before.
        batches: `{"image": [K, B, H, W, C] uint8 or f32 in [0, 1], "label": i32[K, B]}`.
        batch_sharding: how each batch is split over devices (`aae_jax.parallel`); static.
        axis_name: the mapped axis whose members hold a share of every batch (`pmap`).

    Returns:
        The state after, and metrics f[K].
    """
    return jax.lax.scan(
        lambda state, batch: _draw_and_step(state, batch, batch_sharding, axis_name), state, batches
    )


def _own_rows(values, axis_name):
    """Those of [B, …] that belong to this member of the mapped axis; all where there is none."""
    if axis_name is None:
        return values

    def own(value):
        share = value.shape[0] // jax.lax.axis_size(axis_name)
        return jax.lax.dynamic_slice_in_dim(value, jax.lax.axis_index(axis_name) * share, share)

    return jax.tree.map(own, values)


def _draw_and_step(state, batch, batch_sharding, axis_name):
    spec = state.spec
    label = batch["label"]
    if axis_name is not None:  # the prior sample is drawn for the whole batch, as on one device
        label = jax.lax.all_gather(label, axis_name, tiled=True)
    # "The positive samples fed for unlabeled examples come from the full mixture."
    selects = spec.model.label_in_discriminator and spec.prior.has_components
    key = _stream(state.rng, _PRIOR, state.step)
    prior_sample = sample_prior(spec, key, label.shape[0], label if selects else None)
    if spec.model.label_in_discriminator and not selects:
        # Every label's component is the whole prior.
        prior_sample = prior_sample._replace(label=label)
    prior_sample = _own_rows(prior_sample, axis_name)
    if batch_sharding is not None:
        batch, prior_sample = jax.lax.with_sharding_constraint(
            (batch, prior_sample), batch_sharding
        )
    return train_step(state, batch, prior_sample, axis_name=axis_name)


def batch_rows(state: TrainState, dataset: dict[str, Any], num_steps: int) -> jax.Array:
    """Which examples of a data set (see `train_steps`) the next steps see: i32[K, B]."""
    place = dataset.get("place")
    num_places = len(dataset["image"] if place is None else place)
    rows = epoch_rows(state.rng, state.step, num_steps, state.spec.train.batch_size, num_places)
    return rows if place is None else jnp.asarray(place)[rows]


def epoch_rows(
    rng: jax.Array, step: jax.Array, num_steps: int, batch_size: int, num_examples: int
) -> jax.Array:
    """Which examples the next steps see: i32[num_steps, batch_size].

    Position p of the stream of examples holds `permutation(epoch p // N)[p % N]`, and step t takes
    positions tB … tB + B − 1.

    Args:
        rng: the training's PRNG key.
        step: i32[], the first step.
        num_steps, batch_size, num_examples: K, B, N; static.
    """
    if num_examples < 1:
        raise UserError("the data set has no examples")
    # step · B overflows int32 in long runs; whole cycles of N / gcd steps are B / gcd epochs.
    common = math.gcd(num_examples, batch_size)
    cycle, epochs_a_cycle = num_examples // common, batch_size // common
    if cycle * epochs_a_cycle >= 2**31:
        raise UserError(
            f"{num_examples} examples in batches of {batch_size}: choose a batch size that "
            "shares a larger factor with the number of examples"
        )
    position = (step % cycle) * epochs_a_cycle  # in units of `common` examples
    first_epoch = (step // cycle) * epochs_a_cycle + position // cycle
    start = (position % cycle) * common
    # The last position can lie at most num_examples − common into the first epoch when it starts.
    num_epochs = -(-(num_examples - common + num_steps * batch_size) // num_examples)

    epochs = first_epoch + jnp.arange(num_epochs)
    stream = jax.vmap(lambda epoch: epoch_permutation(rng, epoch, num_examples))(epochs).reshape(-1)
    rows = jax.lax.dynamic_slice(stream, (start,), (num_steps * batch_size,))
    return rows.reshape(num_steps, batch_size)


@functools.partial(jax.jit, static_argnames="num_examples")
def epoch_permutation(rng: jax.Array, epoch: jax.Array | int, num_examples: int) -> jax.Array:
    """The order i32[N] in which an epoch visits the examples."""
    return jax.random.permutation(_stream(rng, _SHUFFLE, epoch), num_examples)


def _stream(rng: jax.Array, stream: int, index: Any) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(rng, stream), index)
