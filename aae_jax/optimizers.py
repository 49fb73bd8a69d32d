"""From an `OptimizerSpec` to optax."""

import optax

from aae_jax.spec import OptimizerSpec, Spec


def make_optimizer(spec: Spec, phase: str) -> optax.GradientTransformation:
    """The optax chain of a phase; its schedule counts the phase's own updates."""
    optimizer: OptimizerSpec = dict(spec.optimizer)[phase]
    schedule = make_schedule(optimizer, spec.train.num_steps)
    if optimizer.name == "adam":
        transformation = optax.adam(schedule, b1=optimizer.b1, b2=optimizer.b2)
    else:
        transformation = optax.sgd(schedule, momentum=optimizer.momentum)
    if optimizer.clip_norm is None:
        return transformation
    return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), transformation)


def make_schedule(optimizer: OptimizerSpec, num_steps: int) -> optax.Schedule:
    """Learning rate as a function of the step, 0 for the first."""
    if optimizer.schedule == "cosine":
        floor = optimizer.floor or 0.0
        return optax.cosine_decay_schedule(optimizer.learning_rate, num_steps, alpha=floor)
    if optimizer.schedule == "piecewise":
        return optax.piecewise_constant_schedule(
            optimizer.learning_rate, dict(zip(optimizer.boundaries, optimizer.factors))
        )
    return optax.constant_schedule(optimizer.learning_rate)


def bound_to_length(spec: Spec) -> list[str]:
    """The phases whose learning rate depends on `train.num_steps`: they can't be trained longer."""
    return [phase for phase, optimizer in spec.optimizer if optimizer.schedule == "cosine"]
