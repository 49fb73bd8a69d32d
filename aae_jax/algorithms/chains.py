"""Samples of Markov chains that run in parallel, from training images or from noise.

Each call of an algorithm's `sample` runs its own chains from start to end. So chunk i of a stream
of samples is the same on any number of devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from aae_jax.checks import check_positive, check_types
from aae_jax.spec import Spec

# (key, units of all chains) → (units, x f[C, H, W, C'], which are means, not draws)
Step = Callable[[jax.Array, Any], tuple[Any, jax.Array]]


@dataclasses.dataclass(frozen=True)
class ChainOptions:
    """The fields of the config's section `options` that all Markov chain samplers share."""

    burn_in: int = 100  # steps of a chain up to its first sample
    spacing: int = 10  # steps between two samples of a chain
    num_chains: int = 100  # chains that share the samples of a call, which are 1,000 in scoring

    def __post_init__(self) -> None:
        check_types(self, "options")
        for name in ("burn_in", "spacing", "num_chains"):
            check_positive(f"options.{name}", getattr(self, name))


def start_images(
    spec: Spec, key: jax.Array, num_samples: int, start: jax.Array | None
) -> jax.Array:
    """The starting points of the chains for `num_samples` samples: f[C, P].

    They are rows of `start` f[M, H, W, C], drawn with replacement, or uniform noise on [0, 1) if
    `start` is None.
    """
    num_chains = min(spec.options.num_chains, num_samples)
    if start is None:
        shape = (num_chains, spec.num_pixels)
        return jax.random.uniform(key, shape, spec.model.param_dtype)
    rows = jax.random.randint(key, (num_chains,), 0, len(start))
    # Not start[rows], which JAX refuses where `shard_map` closes over images on every device.
    return jnp.take(start, rows, axis=0).reshape(num_chains, -1)


def run(
    options: ChainOptions, key: jax.Array, num_samples: int, units: Any, step: Step
) -> jax.Array:
    """Samples f[num_samples, …] of chains that start at `units`.

    The first samples of all chains come first, then the second ones, and so on. Step t of all
    chains uses the key `fold_in(key, t)`.
    """
    shown = jax.eval_shape(step, key, units)[1]
    num_rounds = -(-num_samples // len(shown))

    def advance(carry, first, count):
        def body(index, carry):
            return step(jax.random.fold_in(key, index), carry[0])

        return jax.lax.fori_loop(first, first + count, body, carry)

    def sample_round(carry, index):
        first = options.burn_in + index * options.spacing
        carry = advance(carry, first, options.spacing)
        return carry, carry[1]

    carry = advance((units, jnp.zeros(shown.shape, shown.dtype)), 0, options.burn_in)
    _, later = jax.lax.scan(sample_round, carry, jnp.arange(num_rounds - 1))
    samples = jnp.concatenate([carry[1][None], later])
    return samples.reshape(-1, *shown.shape[1:])[:num_samples]
