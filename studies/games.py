"""Variants of the adversarial autoencoder's game, which `studies.matching` compares.

`GAME` has the three phases of `aae_jax.algorithms.adversarial`. Its options change the
discriminator, its loss, and the number of codes that it sees. `GAME_TWICE` and `GAME_FOUR_TIMES`
update the discriminator more often. With default options, the losses equal those of "aae".
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from aae_jax import layers, losses, networks
from aae_jax.algorithms import adversarial, autoencoder
from aae_jax.algorithms.base import Algorithm
from aae_jax.keys import fold_rows, row_normal


@dataclasses.dataclass(frozen=True)
class GameOptions:
    """The options of the game; lengths are in units of the prior's std unless stated otherwise."""

    rows: int | None = None  # of a batch, that reconstruction and generator see; None: all
    loss: str = "logistic"  # or "hinge", "squares"
    penalty: float = 0.0  # times half the squared slope of the logits, at the prior and at codes
    noise: float = 0.0  # std of noise on what the discriminator sees, of the prior and of codes
    unit: float | None = None  # length in z of a unit of the discriminator's input; None: 1
    kinks: float = 0.0  # std of the distance from the origin at which its first units turn on
    # The same at the start only: its first weights are He's divided by this, its input is z.
    unit_at_start: float | None = None
    decoder_unit: float | None = None
    decoder_kinks: float = 0.0


class SpreadMLP(nn.Module):
    """An MLP whose first units do not all turn on at the origin.

    Biases of 0 make a ReLU network homogeneous: it separates directions, but distances only through
    biases that it learns.
    """

    hidden: tuple[int, ...]
    output_shape: tuple[int, ...]
    unit: float
    kinks: float
    dtype: Any
    param_dtype: Any
    unit_at_start: float = 1.0

    @nn.compact
    def __call__(self, x, y=None):
        x = x.reshape(x.shape[0], -1) / self.unit
        x = x if y is None else jnp.concatenate([x, y], axis=1)
        for index, width in enumerate((*self.hidden, math.prod(self.output_shape))):
            x = nn.relu(x) if index else x
            # He's weights make rows of norm √2.
            spread = 0.0 if index else math.sqrt(2) * self.kinks
            x = nn.Dense(
                width,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                kernel_init=layers.he_normal if index else _first_init(self.unit_at_start),
                bias_init=nn.initializers.normal(spread) if spread else nn.initializers.zeros,
            )(x)
        return x.astype(self.param_dtype).reshape(x.shape[0], *self.output_shape)


@functools.lru_cache
def _first_init(unit):
    """He's weights for an input of this std."""
    return nn.initializers.variance_scaling(2.0 / unit**2, "fan_in", "normal")


def make_networks(spec):
    """The adversarial autoencoder's networks; decoder and discriminator with units and kinks."""
    made, options = autoencoder.with_discriminator(spec), spec.options
    for name, unit, kinks in (
        ("decoder", options.decoder_unit, options.decoder_kinks),
        ("discriminator", options.unit, options.kinks),
    ):
        hidden = getattr(spec.model, f"{name}_hidden")
        if not (unit or kinks or (options.unit_at_start and name == "discriminator")):
            continue
        module = SpreadMLP(hidden, made[name].output, unit or 1.0, kinks, **networks.dtypes(spec))
        if name == "discriminator" and options.unit_at_start is not None:
            module = module.clone(unit_at_start=options.unit_at_start)
        made[name] = made[name]._replace(module=module)
    return made


def _own_rows(spec, inputs):
    rows = spec.options.rows
    if rows is None:
        return inputs
    # The step, a scalar, has no rows.
    return jax.tree.map(lambda value: value[:rows] if value.ndim else value, inputs)


def _see(spec, z, keys):
    noise = spec.options.noise
    if not noise:
        return z
    return z + noise * prior_std(spec) * row_normal(keys, z.shape[1], z.dtype)


def prior_std(spec):
    """The prior's std; for a mixture, about the root mean square of a dimension."""
    if spec.prior.name == "gaussian":
        return spec.prior.std
    return math.sqrt((spec.prior.radius**2 + spec.prior.radial_std**2) / 2)


def reconstruction(spec, params, inputs):
    """The reconstruction phase of "aae", on its rows."""
    loss, metrics = adversarial.reconstruction(spec, params, _own_rows(spec, inputs))
    return loss.mean(), metrics


def discriminator(spec, params, inputs):
    """The discriminator phase: samples of the prior against the codes of the whole batch."""
    options = spec.options
    z = autoencoder.encode(spec, params, inputs.x_noisy, inputs.row_keys)
    prior_z = _see(spec, inputs.prior_sample.z, fold_rows(inputs.row_keys, 1))
    z = _see(spec, z, fold_rows(inputs.row_keys, 2))

    def logit(z):
        return autoencoder.discriminate(spec, params, z, None)

    prior_logits, code_logits = logit(prior_z), logit(z)
    if options.loss == "hinge":
        loss = nn.relu(1 - prior_logits) + nn.relu(1 + code_logits)
    elif options.loss == "squares":
        loss = 0.5 * (prior_logits - 1) ** 2 + 0.5 * (code_logits + 1) ** 2
    else:
        loss = losses.discriminator_loss(prior_logits, code_logits)
    metrics = {
        "discriminator/accuracy_on_prior": (prior_logits > 0).astype(z.dtype),
        "discriminator/accuracy_on_codes": (code_logits < 0).astype(z.dtype),
    }
    if options.penalty:
        for place in (prior_z, z):
            slope = prior_std(spec) * jax.grad(lambda z: logit(z).sum())(place)
            loss += 0.5 * options.penalty * (slope**2).sum(axis=1)
    return loss, metrics


def generator(spec, params, inputs):
    """The generator phase, on its rows."""
    inputs = _own_rows(spec, inputs)
    z = autoencoder.encode(spec, params, inputs.x_noisy, inputs.row_keys)
    z = _see(spec, z, fold_rows(inputs.row_keys, 3))
    logits = autoencoder.discriminate(spec, params, z, None)
    if spec.options.loss == "hinge":
        return -logits.mean(), {}
    if spec.options.loss == "squares":
        return (0.5 * (logits - 1) ** 2).mean(), {}
    return losses.generator_loss(logits).mean(), {}


def _game(updates):
    own = {phase.name: phase for phase in adversarial.ADVERSARIAL_AUTOENCODER.phases}
    more = [
        own["discriminator"]._replace(name=f"discriminator_{index}", loss=discriminator)
        for index in range(2, updates + 1)
    ]
    return Algorithm(
        networks=make_networks,
        phases=(
            own["reconstruction"]._replace(loss=reconstruction),
            own["discriminator"]._replace(loss=discriminator),
            *more,
            own["generator"]._replace(loss=generator),
        ),
        sample=autoencoder.sample,
        encode=autoencoder.encode,
        decode=autoencoder.decode,
        options=GameOptions,
    )


GAME = _game(1)
GAME_TWICE = _game(2)
GAME_FOUR_TIMES = _game(4)
