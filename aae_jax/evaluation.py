"""The protocol of Table 1."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax import matching, parallel, parzen, processes
from aae_jax.priors import PRIORS, sample_prior
from aae_jax.spec import EvaluationSpec
from aae_jax.train_state import TrainState, decode, encode, generate, to_unit

Split = dict[str, np.ndarray]  # {"image": [N, H, W, C], "label": i32[N]}


class Pass(NamedTuple):
    """A pass over a stream of samples, to be run in as many calls as one likes."""

    label: str  # what is scored
    identity: str  # a hash of all that the sums depend on
    num_samples: int
    samples_per_round: int
    num_rounds: int
    empty: parzen.Sums
    add: Callable[[parzen.Sums, int, int], parzen.Sums]  # (sums, first, last): rounds first…last−1


def at_once(one_pass: Pass) -> parzen.Sums:
    """All rounds of a pass in one call."""
    return one_pass.add(one_pass.empty, 0, one_pass.num_rounds)


def evaluate(
    state: TrainState,
    folds: Sequence[tuple[Split, Split]],
    spec: EvaluationSpec,
    key: jax.Array,
    mesh: jax.sharding.Mesh | None = None,
    run: Callable[[Pass], parzen.Sums] = at_once,
) -> dict[str, Any]:
    """Scores a trained model on hold-out images.

    The Parzen log-likelihood of section 4: `num_samples` samples of the model; σ by the mean
    log-likelihood of the first `num_validation` validation images; every test image scored with
    it; ± is the standard deviation over test images divided by √T.

    With several folds, as TFD has, the same model is scored on each with a σ of its own, and the
    mean over the folds is given with their standard error (Goodfellow et al. 2014); beside it the
    same with one σ for all folds, the best over their validation images (as Li et al. 2015 do).

    Args:
        state: a trained state.
        folds: pairs of validation and test images, each `{"image": [N, H, W, C] uint8, or floats
            in [0, 1], "label": i32[N]}`; labels don't enter the likelihood.
        spec: the config's `evaluation` section.
        key: a PRNG key for the samples.
        mesh, run: see `log_likelihoods`.

    Returns:
        Numbers and lists for `results.json`; log-likelihoods in nats.
    """

    def score(splits, sigmas, label):
        """f64[S, T] for each split; all are scored in one pass over the samples."""
        images = np.concatenate(splits)
        found = log_likelihoods(state, images, key, spec.num_samples, sigmas, label, mesh, run)
        ends = np.cumsum([len(split) for split in splits])[:-1]
        return np.split(found.astype(np.float64), ends, axis=1)

    valid_ll = score(
        [validation["image"][: spec.num_validation] for validation, _ in folds],
        spec.sigmas,
        "validation",
    )
    own = [int(ll.mean(axis=1).argmax()) for ll in valid_ll]
    shared = int(np.mean([ll.mean(axis=1) for ll in valid_ll], axis=0).argmax())
    used = sorted({*own, shared}) if len(folds) > 1 else own
    test_ll = score(
        [test["image"] for _, test in folds], tuple(spec.sigmas[i] for i in used), "test"
    )
    by_fold = [
        {
            "log_likelihood": float(test[used.index(best)].mean()),
            "standard_error": _standard_error(test[used.index(best)]),
            "sigma": float(spec.sigmas[best]),
            "validation_log_likelihood": float(valid[best].mean()),
            "num_test": test.shape[1],
            "num_validation": valid.shape[1],
        }
        for best, valid, test in zip(own, valid_ll, test_ll)
    ]
    found = {
        **by_fold[0],
        "num_samples": spec.num_samples,
        "sigma_on_grid_edge": len(spec.sigmas) > 1
        and any(best in (0, len(spec.sigmas) - 1) for best in used),
    }
    if len(folds) > 1:
        found.update(_over_folds(by_fold))
        one_sigma = [test[used.index(shared)] for test in test_ll]
        found["shared_sigma"] = {
            **_over_folds([{"log_likelihood": ll.mean()} for ll in one_sigma]),
            "standard_error_over_images": _standard_error(np.concatenate(one_sigma)),
            "sigma": float(spec.sigmas[shared]),
        }
        found["by_fold"] = by_fold
    return {
        **{f"parzen/{name}": value for name, value in found.items()},
        **_hold_out(processes.own_copy(state), folds[0][1], key),
    }


def _standard_error(log_likelihood):
    """Standard deviation over test images divided by √T."""
    return float(log_likelihood.std() / np.sqrt(len(log_likelihood)))


def _over_folds(by_fold):
    """Mean over the folds, and its standard error from their sample standard deviation."""
    means = np.array([fold["log_likelihood"] for fold in by_fold])
    return {
        "log_likelihood": float(means.mean()),
        "standard_error": float(means.std(ddof=1) / np.sqrt(len(means))),
    }


def log_likelihoods(
    state: TrainState,
    images: np.ndarray,
    key: jax.Array,
    num_samples: int,
    sigmas: tuple[float, ...],
    label: str,
    mesh: jax.sharding.Mesh | None = None,
    run: Callable[[Pass], parzen.Sums] = at_once,
) -> np.ndarray:
    """Log-density of images under Parzen windows fitted to samples of the model.

    Args:
        state: a trained state.
        images: uint8, or floats in [0, 1], [T, H, W, C].
        key: a PRNG key for the samples: `parzen.log_likelihood_streamed` says which they are.
        num_samples: N.
        sigmas: S bandwidths.
        label: a word for the images, where the pass is reported.
        mesh: the devices that share the samples between them; None for one.
        run: takes the pass from its empty sums to its last round; where the rounds are cut, and
            whether the sums are saved in between, changes no bit of the result.

    Returns:
        f[S, T], nats.
    """
    x = to_unit(jnp.asarray(images)).reshape(len(images), -1)
    sigma = jnp.asarray(sigmas, x.dtype)
    columns = parzen.varying(x)
    # Processes run one program, whatever each machine is good at.
    split = bool(processes.from_first(parzen.can_split(x)))
    if mesh is not None:
        x, sigma = parallel.replicate((x, sigma), mesh)
    arrays = (state.step, state.params, state.average, state.pixel_mean, state.pixel_std)
    num_devices = 1 if mesh is None else mesh.size
    samples_per_round = parzen.samples_per_round(num_samples, mesh)
    one_pass = Pass(
        label=label,
        identity=_hash(
            *jax.tree.leaves(arrays), x, sigma, jax.random.key_data(key), num_samples,
            num_devices, samples_per_round, split, jax.__version__,
        ),
        num_samples=num_samples,
        samples_per_round=samples_per_round,
        num_rounds=parzen.num_rounds(num_samples, mesh),
        empty=jax.tree.map(np.asarray, parzen.start(x, sigma, mesh)),
        add=lambda sums, first, last: _add(
            sums, state, x, key, num_samples, sigma, first, last, mesh, columns, split
        ),
    )  # fmt: skip
    # Whether a pass has just run or was read whole, the devices' sums are added up in one order.
    sums = processes.whole(run(one_pass))
    return np.asarray(parzen.finish(sums, x, num_samples, sigma))


@functools.partial(jax.jit, static_argnames=("num_samples", "mesh", "split"))
def _add(sums, state, x, key, num_samples, sigma, first, last, mesh, columns, split):
    def sampler(key, n):
        return generate(state, key, n).reshape(n, -1)

    return parzen.add_drawn(
        sums, x, sampler, key, num_samples, sigma, first, last, mesh, columns, split
    )


def _hash(*values):
    """SHA-256 of arrays, numbers and strings with their shapes and types."""
    digest = hashlib.sha256()
    for value in map(np.asarray, values):
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    return digest.hexdigest()


def _hold_out(state, test, key):
    """How well test images are reconstructed, and how far their codes are from the prior."""
    spec = state.spec
    images, label = jnp.asarray(test["image"]), jnp.asarray(test["label"])
    keys = dict(zip(("encode", "prior", "floor", "cells", "directions"), jax.random.split(key, 5)))

    @jax.jit
    def measure(state, images, label):
        z = encode(state, images, keys["encode"])
        labels = label if spec.model.label_in_decoder else None
        error = (decode(state, z, labels) - to_unit(images)) ** 2
        return z, error.sum(axis=(1, 2, 3))

    z, error = measure(state, images, label)
    prior_z = sample_prior(spec, keys["prior"], len(z)).z
    floor_z = sample_prior(spec, keys["floor"], len(z)).z
    distance = functools.partial(matching.sliced_wasserstein, key=keys["directions"])
    found = {
        "reconstruction/squared_error": float(np.asarray(error, np.float64).mean()),
        "code/std_by_dimension": np.asarray(z, np.float64).std(axis=0).tolist(),
        "code/mean_by_dimension": np.asarray(z, np.float64).mean(axis=0).tolist(),
        "code/std": float(np.asarray(z, np.float64).std()),
        "prior/std": float(np.asarray(prior_z, np.float64).std()),
        "prior/sliced_wasserstein": float(distance(z, prior_z)),
        "prior/sliced_wasserstein_floor": float(distance(floor_z, prior_z)),
    }
    if spec.model.code_dim == 2:
        cells_z = sample_prior(spec, keys["cells"], 1_000_000).z
        found["prior/empty_cells"] = matching.empty_cells(z, cells_z)
        found["prior/empty_cells_floor"] = matching.empty_cells(floor_z, cells_z)
    component_log_prob = PRIORS[spec.prior.name].component_log_prob
    if component_log_prob is not None:
        labelled_z = sample_prior(spec, keys["floor"], len(z), label).z
        for name, value in (("codes", z), ("prior", labelled_z)):
            share = matching.share_in_component(component_log_prob(spec, value), label)
            found[f"label/{name}_in_component"] = float(share)
    return found
