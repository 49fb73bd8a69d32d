"""From an `OptimizerSpec` to optax."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from aae_jax.spec import OptimizerSpec, Spec


def make_optimizer(spec: Spec, phase: str) -> optax.GradientTransformation:
    """The optax chain of a phase; its schedules count the phase's own updates."""
    optimizer: OptimizerSpec = dict(spec.optimizer)[phase]
    schedule = make_schedule(optimizer, spec.train.num_steps)
    if optimizer.name == "adam":
        transformation = optax.adam(schedule, b1=optimizer.b1, b2=optimizer.b2)
    else:
        transformation = heavy_ball(schedule, make_momentum(optimizer))
    if optimizer.clip_norm is None:
        return transformation
    return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), transformation)


def make_schedule(optimizer: OptimizerSpec, num_steps: int) -> optax.Schedule:
    """Learning rate as a function of the step, 0 for the first."""
    rate, floor = optimizer.learning_rate, optimizer.floor or 0.0
    if optimizer.schedule == "cosine":
        return optax.cosine_decay_schedule(rate, num_steps, alpha=floor)
    if optimizer.schedule == "exponential":
        # decay ** step is inexact in float32: 1.000004 is rounded to 1.00000405.
        speed = math.log(optimizer.decay)
        return lambda step: rate * jnp.maximum(jnp.exp(-speed * step), floor)
    if optimizer.schedule == "piecewise":
        return optax.piecewise_constant_schedule(
            rate, dict(zip(optimizer.boundaries, optimizer.factors))
        )
    return optax.constant_schedule(rate)


def make_momentum(optimizer: OptimizerSpec) -> optax.Schedule:
    """Momentum of "sgd" as a function of the step, 0 for the first."""
    if not optimizer.momentum_steps:
        return optax.constant_schedule(optimizer.momentum)
    steps, values = jnp.array(optimizer.momentum_steps), jnp.array(optimizer.momentum_values)
    return lambda step: jnp.interp(step, steps, values)


class HeavyBallState(NamedTuple):
    """What the heavy ball keeps between updates."""

    count: jax.Array  # i32[], updates done
    velocity: Any  # as the parameters


def heavy_ball(rate: optax.Schedule, momentum: optax.Schedule) -> optax.GradientTransformation:
    """v ← momentum v − rate ∇; the update is v (Sutskever et al. 2013, Eqs 1 and 2).

    `optax.sgd` multiplies the whole velocity by the newest rate, and its momentum is constant.

    Args:
        rate, momentum: functions of the step, 0 for the first.
    """

    def init(params):
        velocity = jax.tree.map(jnp.zeros_like, params)
        return HeavyBallState(jnp.zeros((), jnp.int32), velocity)

    def update(gradients, state, params=None):
        del params
        kept, step_size = momentum(state.count), rate(state.count)
        velocity = jax.tree.map(
            lambda v, gradient: (kept * v - step_size * gradient).astype(v.dtype),
            state.velocity,
            gradients,
        )
        return velocity, HeavyBallState(state.count + 1, velocity)

    return optax.GradientTransformation(init, update)


def bound_to_length(spec: Spec) -> list[str]:
    """The phases whose learning rate depends on `train.num_steps`: they can't be trained longer."""
    return [phase for phase, optimizer in spec.optimizer if optimizer.schedule == "cosine"]
