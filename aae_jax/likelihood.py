"""A trained model as `aae_jax.annealed` takes it: its decoder, and the prior of its codes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from aae_jax import annealed, priors
from aae_jax.errors import UserError
from aae_jax.spec import Spec
from aae_jax.train_state import TrainState, decode, trained_part

_NUM_DRAWS = 10_000


def decoder_of(
    state: TrainState, label: int | None = None, condition: jax.Array | None = None
) -> jax.tree_util.Partial:
    """The decoder as a function (z f[N, D]) → f[N, P], flat, pixels of [0, 1].

    It is a pytree: states of equal specs share one compiled program.

    Args:
        state: a trained state.
        label: the class of all images, where the decoder takes one: the likelihood is then that
            of p(x | label).
        condition: f[K], the condition of all images, where the decoder takes one.

    Raises:
        UserError: the algorithm has no decoder; the decoder takes a label or a condition and none is
            given, or the other way round.
    """
    model = trained_part(state)
    decoder = jax.tree_util.Partial(_flat_images, model, label, condition)
    # Labels and conditions are known here, and checked; in a compiled program they would not be.
    decode(state, jnp.zeros((1, state.spec.model.code_dim)), label, condition)
    return decoder


def _flat_images(model, label, condition, z):
    return decode(model, z, label, condition).reshape(z.shape[0], -1)


def annealed_arguments(
    state: TrainState,
    num_images: int,
    label: int | None = None,
    condition: jax.Array | None = None,
) -> dict[str, Any]:
    """What `annealed.log_likelihood`, `blocks` and `sample_posterior` need of a trained state.

        annealed.log_likelihood(x=x, key=0, sigma=0.1, **aae.annealed_arguments(state, len(x)))

    Chains start from the prior where that is Gaussian or uniform. Where the prior has another
    density (`Prior.log_prob`, as that of the Gaussian mixture), they start from a Gaussian with the
    mean and the standard deviations of 10,000 draws from it.

    Args:
        state: a trained state.
        num_images: T.
        label, condition: as `decoder_of`.

    Returns:
        `decoder`, `code_dim`, `prior` and `start`.

    Raises:
        UserError: as `decoder_of`, or the prior has no density.
    """
    decoder, spec = decoder_of(state, label, condition), state.spec
    found = {"decoder": decoder, "code_dim": spec.model.code_dim, "start": None}
    distribution = spec.prior.distribution
    if distribution is priors.GAUSSIAN:
        return {**found, "prior": annealed.normal(spec.prior.std)}
    if distribution is priors.UNIFORM:
        return {**found, "prior": annealed.uniform(spec.prior.radius)}
    if distribution.log_prob is None:
        raise UserError(
            f"prior.name is {spec.prior.name!r}, which has no density: the annealed likelihood needs "
            "'gaussian', 'uniform', 'gaussian_mixture', or a prior of your own with log_prob"
        )
    z = priors.sample_prior(spec, jax.random.key(0), _NUM_DRAWS).z
    mean = jnp.broadcast_to(z.mean(axis=0), (num_images, spec.model.code_dim))
    return {**found, "prior": annealed.density(_LogProb(spec)), "start": (mean, z.std(axis=0))}


@dataclasses.dataclass(frozen=True)
class _LogProb:
    """log p(z) of one code; equal specs give equal functions, which are compiled once."""

    spec: Spec

    def __call__(self, z: jax.Array) -> jax.Array:
        return self.spec.prior.distribution.log_prob(self.spec, z[None])[0]
