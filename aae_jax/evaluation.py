"""The protocol of Table 1."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax import matching, parzen
from aae_jax.priors import PRIORS, sample_prior
from aae_jax.spec import EvaluationSpec
from aae_jax.train_state import TrainState, decode, encode, generate, to_unit


def evaluate(
    state: TrainState,
    validation: np.ndarray,
    test: dict[str, np.ndarray],
    spec: EvaluationSpec,
    key: jax.Array,
) -> dict[str, Any]:
    """Scores a trained model on hold-out images.

    The Parzen log-likelihood of section 4: `num_samples` samples of the model; σ by the mean
    log-likelihood of the first `num_validation` validation images; every test image scored with
    it; ± is the standard deviation over test images divided by √T.

    Args:
        state: a trained state.
        validation: uint8, or floats in [0, 1], [V, H, W, C].
        test: `{"image": the same, [T, H, W, C], "label": i32[T]}`; labels don't enter the
            likelihood.
        spec: the config's `evaluation` section.
        key: a PRNG key for the samples.

    Returns:
        Numbers and lists for `results.json`; log-likelihoods in nats.
    """
    valid = _flat(validation[: spec.num_validation])
    sigmas = jnp.asarray(spec.sigmas, valid.dtype)
    valid_ll = np.asarray(_streamed(state, valid, key, spec.num_samples, sigmas)).mean(axis=1)
    best = int(valid_ll.argmax())
    test_ll = np.asarray(
        _streamed(state, _flat(test["image"]), key, spec.num_samples, sigmas[best]), np.float64
    )
    return {
        "parzen/log_likelihood": float(test_ll.mean()),
        "parzen/standard_error": float(test_ll.std() / np.sqrt(len(test_ll))),
        "parzen/sigma": float(spec.sigmas[best]),
        "parzen/num_samples": spec.num_samples,
        "parzen/num_test": len(test_ll),
        "parzen/num_validation": len(valid),
        "parzen/validation_log_likelihood": float(valid_ll[best]),
        "parzen/sigma_on_grid_edge": best in (0, len(valid_ll) - 1) and len(valid_ll) > 1,
        **_hold_out(state, test, key),
    }


@functools.partial(jax.jit, static_argnames="num_samples")
def _streamed(state, x, key, num_samples, sigma):
    def sampler(key, n):
        return generate(state, key, n).reshape(n, -1)

    return parzen.log_likelihood_streamed(x, sampler, key, num_samples, sigma)


def _flat(images):
    """Images as rows of [0, 1] pixels."""
    return to_unit(jnp.asarray(images)).reshape(len(images), -1)


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
