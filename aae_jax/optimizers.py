"""The specification of an optimiser, and the optax transformation that it describes."""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from aae_jax.checks import check_choice, check_positive, check_share, check_types
from aae_jax.errors import UserError

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine", "exponential", "piecewise")


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """One optax chain and its schedules, of a phase or of one network in a phase.

    In a phase that trains several networks, a network may have its own: "reconstruction_encoder" in
    `Spec.optimizer`, beside "reconstruction" for the others.

    Schedules of the learning rate: "constant"; "cosine" falls to `floor` times the rate at
    `train.num_steps`, after the share `hold` of these steps at the full rate; "exponential" divides
    the rate by `decay` every step, down to `floor` times the rate; "piecewise" multiplies the rate by
    `factors[i]` from step `boundaries[i]` on.

    "sgd" is the heavy ball (Polyak 1964; Sutskever et al. 2013, Eqs 1 and 2). The velocity is
    multiplied by the momentum, −rate × gradient is added, and the parameters move by the velocity.
    A later change of the rate does not rescale the velocity.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    b1: float = 0.9  # adam: decay of the first moment
    b2: float = 0.999  # adam: decay of the second moment
    momentum: float = 0.0  # sgd
    # sgd: the momentum is `momentum_values[i]` at step `momentum_steps[i]`, on straight lines
    # between these steps, and constant before and after them; (): it is `momentum` throughout.
    momentum_steps: tuple[int, ...] = ()
    momentum_values: tuple[float, ...] = ()
    schedule: str = "constant"
    decay: float | None = None  # exponential
    boundaries: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    floor: float | None = None  # cosine, exponential: the least share of the rate; None: none
    hold: float | None = None  # cosine: the share of the training before the rate falls; None: none
    # The maximal global norm of the gradient of all networks that share this optimiser, which is
    # scaled down to it; None: no maximum.
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        check_types(self, "optimizer")
        check_choice("optimizer.name", self.name, OPTIMIZERS)
        check_choice("optimizer.schedule", self.schedule, SCHEDULES)
        check_positive("optimizer.learning_rate", self.learning_rate, least=1e-30, most=1e3)
        if self.clip_norm is not None:
            check_positive("optimizer.clip_norm", self.clip_norm, least=1e-30, most=1e30)
        for name in ("b1", "b2", "momentum"):
            check_share(f"optimizer.{name}", getattr(self, name))
        if self.name == "adam" and self.momentum:
            raise UserError(f"optimizer.momentum is {self.momentum}: it is for 'sgd', not 'adam'")
        if self.floor is not None and not 0 <= self.floor <= 1:
            raise UserError(f"optimizer.floor is {self.floor}: it must be from 0 to 1")
        if self.floor is not None and self.schedule not in ("cosine", "exponential"):
            raise UserError(
                f"optimizer.floor is {self.floor}: it is for 'cosine' and 'exponential', not "
                f"{self.schedule!r}"
            )
        if self.hold is not None:
            check_share("optimizer.hold", self.hold)
            if self.schedule != "cosine":
                raise UserError(
                    f"optimizer.hold is {self.hold}: it is for 'cosine', not {self.schedule!r}; set "
                    "hold=None"
                )
        if (self.schedule == "exponential") != (self.decay is not None):
            raise UserError(
                f"optimizer.schedule is {self.schedule!r} with decay {self.decay}: 'exponential' "
                "needs a decay, and the other schedules take none"
            )
        if self.decay is not None and not 1 < self.decay <= 10:
            raise UserError(
                f"optimizer.decay is {self.decay}: the rate is divided by it every step, so it must "
                "be above 1, and at most 10"
            )
        self._check_momentum()
        self._check_boundaries()

    def _check_momentum(self):
        steps, values = self.momentum_steps, self.momentum_values
        if steps and (self.name != "sgd" or self.momentum):
            raise UserError(
                f"optimizer.momentum_steps is {steps} with name {self.name!r} and momentum "
                f"{self.momentum}: they are for 'sgd', in place of a constant momentum"
            )
        if len(steps) != len(values):
            raise UserError(
                f"optimizer.momentum_steps {steps} and momentum_values {values} must have the same "
                "length"
            )
        if any(later <= earlier for earlier, later in zip((-1, *steps), steps)):
            raise UserError(
                f"optimizer.momentum_steps is {steps}: steps must be 0 or more, and ascending"
            )
        if steps and steps[-1] >= 2**31:
            raise UserError(f"optimizer.momentum_steps is {steps}: steps must be below 2^31")
        for value in values:
            check_share("optimizer.momentum_values", value)

    def _check_boundaries(self):
        if (self.schedule == "piecewise") != bool(self.boundaries):
            raise UserError(
                f"optimizer.schedule is {self.schedule!r} with boundaries {self.boundaries}: "
                "'piecewise' needs boundaries, and the other schedules take none"
            )
        if len(self.boundaries) != len(self.factors):
            raise UserError(
                f"optimizer.boundaries {self.boundaries} and factors {self.factors} must have "
                "the same length"
            )
        if self.boundaries and self.boundaries[-1] >= 2**31:
            raise UserError(f"optimizer.boundaries is {self.boundaries}: steps must be below 2^31")
        if any(later <= earlier for earlier, later in itertools.pairwise((0, *self.boundaries))):
            raise UserError(
                f"optimizer.boundaries is {self.boundaries}: steps must be positive and ascending"
            )
        rate = self.learning_rate
        for factor in self.factors:
            check_positive("optimizer.factors", factor, self.factors, least=1e-30, most=1e30)
            rate *= factor
            if not 1e-30 <= rate <= 1e3:
                raise UserError(
                    f"optimizer.factors is {self.factors}: with them the learning rate becomes "
                    f"{rate:g}, but it must be from 1e-30 to 1000"
                )


def make_optimizer(optimizer: OptimizerSpec, num_steps: int) -> optax.GradientTransformation:
    """The optax chain; its schedules count its updates, `num_steps` in all."""
    schedule = make_schedule(optimizer, num_steps)
    if optimizer.name == "adam":
        transformation = optax.adam(schedule, b1=optimizer.b1, b2=optimizer.b2)
    else:
        transformation = heavy_ball(schedule, make_momentum(optimizer))
    if optimizer.clip_norm is None:
        return transformation
    return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), transformation)


def make_phase_optimizer(spec: Any, phase: Any) -> optax.GradientTransformation:
    """The optax transformation of a phase: one chain, or several where a network has its own.

    Args:
        spec: the `Spec`; its `optimizer` may have "reconstruction_encoder" beside "reconstruction".
        phase: one of `spec.phases`.
    """
    optimizers, num_steps = dict(spec.optimizer), spec.train.num_steps
    used = _used_optimizers(spec, phase)
    made = {key: make_optimizer(optimizers[key], num_steps) for key in used.values()}
    return made[phase.name] if set(made) == {phase.name} else optax.partition(made, used)


def _used_optimizers(spec, phase) -> dict[str, str]:
    """The networks that a phase trains, with the keys of their optimisers in `Spec.optimizer`."""
    given, used = dict(spec.optimizer), dict.fromkeys(phase.trains, phase.name)
    return used | {name: key for key, name in own_optimizers(phase).items() if key in given}


def own_optimizers(phase: Any) -> dict[str, str]:
    """The keys in `Spec.optimizer` for single networks of a phase, with the networks' names."""
    if not isinstance(phase.trains, tuple) or len(phase.trains) < 2:
        return {}
    return {f"{phase.name}_{network}": network for network in phase.trains}


def make_schedule(optimizer: OptimizerSpec, num_steps: int) -> optax.Schedule:
    """Learning rate as a function of the step, 0 for the first."""
    rate, floor = optimizer.learning_rate, optimizer.floor or 0.0
    if optimizer.schedule == "cosine":
        held = int((optimizer.hold or 0.0) * num_steps)
        falling = optax.cosine_decay_schedule(rate, num_steps - held, alpha=floor)
        return (lambda step: falling(jnp.maximum(step - held, 0))) if held else falling
    if optimizer.schedule == "exponential":
        # decay ** step is inexact in float32: 1.000004 is rounded to 1.00000405.
        speed = math.log(optimizer.decay)  # type: ignore[arg-type]  # OptimizerSpec demands it
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
    """The state of the heavy ball between updates."""

    count: jax.Array  # type: ignore[assignment]  # i32[], updates done; hides tuple.count
    velocity: Any  # as the parameters


def heavy_ball(rate: optax.Schedule, momentum: optax.Schedule) -> optax.GradientTransformation:
    """v ← momentum v − rate ∇; the update is v (Sutskever et al. 2013, Eqs 1 and 2).

    Unlike here, `optax.sgd` multiplies the whole velocity by the newest rate and has a constant
    momentum.

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


def bound_to_length(spec: Any) -> list[str]:
    """The phases and networks whose rate depends on `train.num_steps`; they can't be trained longer.

    Optimisers that the training of this `Spec` does not use are left out.
    """
    used = {key for phase in spec.phases for key in _used_optimizers(spec, phase).values()}
    return [key for key, own in spec.optimizer if key in used and own.schedule == "cosine"]
