"""The protocol of Table 1."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax import parzen
from aae_jax.spec import EvaluationSpec
from aae_jax.train_state import TrainState, encode, generate, reconstruct, to_unit


def evaluate(
    state: TrainState,
    validation: np.ndarray,
    test: np.ndarray,
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
        test: the same, [T, H, W, C].
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
        _streamed(state, _flat(test), key, spec.num_samples, sigmas[best]), np.float64
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
        **_hold_out(state, test),
    }


@functools.partial(jax.jit, static_argnames="num_samples")
def _streamed(state, x, key, num_samples, sigma):
    def sampler(key, n):
        return generate(state, key, n).reshape(n, -1)

    return parzen.log_likelihood_streamed(x, sampler, key, num_samples, sigma)


def _flat(images):
    """Images as rows of [0, 1] pixels."""
    return to_unit(jnp.asarray(images)).reshape(len(images), -1)


def _hold_out(state, test):
    """How well test images are reconstructed, and how far their codes are from the prior."""

    @jax.jit
    def measure(state, images):
        z = encode(state, images)
        error = (reconstruct(state, images) - to_unit(images)) ** 2
        return z, error.sum(axis=(1, 2, 3))

    z, error = measure(state, jnp.asarray(test))
    z = np.asarray(z, np.float64)
    return {
        "reconstruction/squared_error": float(np.asarray(error, np.float64).mean()),
        "code/std": float(z.std()),
        "code/std_by_dimension": [float(value) for value in z.std(axis=0)],
        "code/mean_by_dimension": [float(value) for value in z.mean(axis=0)],
        "prior/std": float(state.spec.prior.std),
    }
