"""The annealed log-likelihood of trained models: decoder and prior for `aae_jax.annealed`."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax import annealed, priors
from aae_jax.arguments import as_array
from aae_jax.errors import UserError
from aae_jax.evaluation import Run, ScoringPass, Split, at_once, fingerprint
from aae_jax.registry import path_of
from aae_jax.settings import AnnealedScoring, AnnealedSpec
from aae_jax.spec import Spec
from aae_jax.train_state import TrainState, decode, in_data_units, trained_part

_NUM_DRAWS = 10_000
_MOST_ROUNDS = 8  # of the search for σ
_NEAR = 0.01  # the search ends at this relative change of σ: 0.01 nats for 784 pixels


def decoder_of(
    state: TrainState, label: int | None = None, condition: jax.Array | None = None
) -> jax.tree_util.Partial:
    """The decoder as a function (z f[N, D]) → f[N, P], flat, pixels in [0, 1].

    The function is a pytree: states of equal specs share one compiled program.

    Args:
        state: a trained state.
        label: the class of all images, if the decoder takes one: the likelihood is p(x | label).
        condition: f[K], the condition of all images, if the decoder takes one.

    Raises:
        UserError: the algorithm has no decoder; the decoder takes a label or a condition and none is
            given, or one is given and it takes none.
    """
    model = trained_part(state)
    condition = None if condition is None else as_array("condition", condition)
    decoder = jax.tree_util.Partial(_flat_images, model, label, condition)
    # Labels and conditions are checked here, where their values are known.
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
    """The arguments of `annealed.log_likelihood`, `blocks` and `sample_posterior` for a state.

        annealed.log_likelihood(x=x, key=0, sigma=0.1, **aae.annealed_arguments(state, len(x)))

    Chains start from the prior if it is Gaussian or uniform. For any other density
    (`Prior.log_prob`, such as the Gaussian mixture's), they start from a Gaussian with the mean and
    the standard deviations of 10,000 draws from the prior.

    Args:
        state: a trained state.
        num_images: T.
        label, condition: as `decoder_of`.

    Returns:
        `decoder`, `code_dim`, `prior` and `start`.

    Raises:
        UserError: see `decoder_of`; or the prior has no density.
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


def check_annealed(spec: Spec, scoring: AnnealedScoring) -> None:
    """Raises, before anything is trained, if `score_annealed` could not score the model.

    Raises:
        UserError: the model has no decoder, its prior has no density, or its decoder takes a label
            or a condition.
    """
    if scoring.num_images is None:
        return
    asked = f"evaluation.annealed.num_images is {scoring.num_images}"
    if spec.algorithm.decode is None:
        raise UserError(f"{asked}: algorithm {spec.algorithm_name} has no decoder")
    if spec.prior.distribution.log_prob is None:
        raise UserError(f"{asked}: prior {spec.prior.name!r} has no density")
    for name in ("label", "condition"):
        if spec.decoder_takes(name):
            raise UserError(
                f"{asked}, and the decoder takes a {name}: score p(x | {name}) with "
                f"annealed.log_likelihood, with aae.annealed_arguments(state, num_images, {name}=…)"
            )


def score_annealed(
    state: TrainState,
    folds: Sequence[tuple[Split, Split]],
    spec: AnnealedScoring,
    key: jax.Array,
    sigma: float,
    mesh: jax.sharding.Mesh | None = None,
    run: Run = at_once,
) -> dict[str, Any]:
    """The mean log-likelihood of test images under the decoder with Gaussian noise.

    The Parzen estimate with the same σ tends to this number as the samples grow in number. Only the
    first fold is scored.

    Args:
        state: a trained state.
        folds: pairs of validation and test images, as `evaluate` takes them.
        spec: the config's section `evaluation.annealed`; its `num_images` is a number.
        key: a PRNG key.
        sigma: the start of the search for σ, such as the Parzen window's; unused if `spec` has a σ.
        mesh: the devices over which the images are split; None for one.
        run: runs a pass from its empty sums to its last round, as in `evaluate`.

    Returns:
        `annealed/*`, numbers for `results.json`: `log_likelihood` in nats, a lower bound in
        expectation; `standard_error` over images; `spread`, the mean over images of the estimates'
        standard error over chains; `log_weight_std`, the median over images; `acceptance`; `sigma`;
        `num_images`.
    """
    check_annealed(state.spec, spec)
    fit_key, key = jax.random.split(key)
    validation, test = (split["image"] for split in folds[0])
    if spec.sigma is not None:
        sigma = spec.sigma
    else:
        x = as_rows(state, validation[: spec.num_validation])
        sigma = fit_sigma(state, x, fit_key, sigma, spec, mesh, run)
    x = as_rows(state, test[: spec.num_images])
    found = estimate(state, x, key, sigma, spec, mesh, run)
    values = found.log_likelihood.astype(np.float64)
    return {
        "annealed/log_likelihood": float(values.mean()),
        "annealed/standard_error": float(values.std() / math.sqrt(len(x))),
        "annealed/spread": float(found.spread.mean()),
        "annealed/log_weight_std": float(np.median(found.log_weight_std)),
        "annealed/acceptance": float(found.acceptance.mean()),
        "annealed/sigma": float(sigma),
        "annealed/num_images": len(x),
    }


def estimate(
    state: TrainState,
    x: jax.Array,
    key: jax.Array,
    sigma: float,
    spec: AnnealedSpec,
    mesh: jax.sharding.Mesh | None = None,
    run: Run = at_once,
) -> annealed.Estimate:
    """`annealed.log_likelihood` of a trained state's decoder, in a pass that can be resumed.

    Args:
        state: a trained state.
        x: f[T, P], images in the data's units, flat.
        key, sigma, spec, mesh: as in `annealed.log_likelihood`.
        run: as in `score_annealed`.
    """
    return _pass(state, x, key, sigma, spec, mesh, run, annealed.lower, "annealed")


def fit_sigma(
    state: TrainState,
    x: jax.Array,
    key: jax.Array,
    sigma: float,
    spec: AnnealedSpec,
    mesh: jax.sharding.Mesh | None = None,
    run: Run = at_once,
) -> float:
    """The σ that maximises the likelihood of images, by expectation maximisation.

    Each round sets σ² to the mean squared difference between the images and their decoded posterior
    draws, until σ changes by less than 1 %. Two or three rounds suffice, since an image has many
    more numbers than a code. A quarter of the temperatures suffices, since only the draws are used,
    not the likelihood.

    Args: as `estimate`; sigma: the start of the search.
    """
    spec = dataclasses.replace(spec, num_temperatures=-(-spec.num_temperatures // 4))
    arguments = annealed_arguments(state, len(x))

    @jax.jit
    def squared(decoder, draws, x):
        def of_image(inputs):  # one at a time: there may be thousands of them
            z, log_weight, x = inputs
            errors = ((decoder(z) - x) ** 2).mean(axis=-1)
            return (errors * jax.nn.softmax(log_weight)).sum()

        return jax.lax.map(of_image, (draws.z, draws.log_weight, x)).mean()

    for index in range(_MOST_ROUNDS):
        round_key = jax.random.fold_in(key, index)
        draws = _pass(
            state, x, round_key, sigma, spec, mesh, run, _draws, f"fitting σ, round {index + 1}"
        )
        before, sigma = sigma, float(jnp.sqrt(squared(arguments["decoder"], draws, x)))
        if not 1e-15 <= sigma <= 1e15:
            raise UserError(
                f"annealed: the best σ for the validation images is {sigma:.3g}: it must be from "
                "1e-15 to 1e15; set evaluation.annealed.sigma"
            )
        if abs(math.log(sigma / before)) < _NEAR:
            break
    return sigma


def as_rows(state: TrainState, images: np.ndarray) -> jax.Array:
    """Images [T, H, W, C] of a data set in the form of the decoder's outputs: f[T, P]."""
    return in_data_units(state, jnp.asarray(images)).reshape(len(images), -1)


def _draws(chains):
    return annealed.Posterior(chains.z, chains.log_weight)


def _pass(state, x, key, sigma, spec, mesh, run, summary: Callable, name):
    """A summary of the chains of all images, computed block by block."""
    arguments = annealed_arguments(state, len(x))
    blocks = annealed.blocks(x=x, key=key, sigma=sigma, spec=spec, mesh=mesh, **arguments)
    shape = len(x), spec.num_chains
    empty = jax.eval_shape(
        summary,
        annealed.Chains(
            z=jnp.zeros((*shape, arguments["code_dim"]), x.dtype),
            log_weight=jnp.zeros(shape, x.dtype),
            **dict.fromkeys(
                ("acceptance", "beta", "step_size"), jnp.zeros((len(x), 1), x.dtype)
            ),
            failed=jnp.zeros(shape, jnp.int32),
        ),
    )  # fmt: skip

    def add(found, first, last):
        found = jax.tree.map(np.array, found)
        for index in range(first, last):
            rows = slice(index * blocks.block_size, (index + 1) * blocks.block_size)
            for whole, part in zip(found, summary(blocks.run(index))):
                whole[rows] = part
        return found

    return run(
        ScoringPass(
            name=name,
            identity=fingerprint(
                trained_part(state), x, key, sigma, spec, 1 if mesh is None else mesh.size,
                path_of(summary), jax.__version__,
            ),
            num_samples=len(x),
            samples_per_round=blocks.block_size,
            num_rounds=blocks.num_blocks,
            empty=jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), empty),
            add=add,
            unit="image",
        )
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _LogProb:
    """log p(z) of one code; equal specs make equal functions, which are compiled once."""

    spec: Spec

    def __call__(self, z: jax.Array) -> jax.Array:
        return self.spec.prior.distribution.log_prob(self.spec, z[None])[0]
