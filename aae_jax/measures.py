"""What an autoencoder's codes and reconstructions of hold-out images are like."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from aae_jax import code_metrics
from aae_jax.arguments import as_array, as_key, as_labels
from aae_jax.priors import sample_prior
from aae_jax.train_state import (
    TrainState,
    decode,
    encode,
    in_data_units,
    reconstruct,
    to_inputs,
)


def diagnose(state: TrainState, test: Mapping[str, Any], key: jax.Array) -> dict[str, Any]:
    """How well hold-out images are reconstructed, and how far their codes are from the prior.

    Args:
        state: a trained state, on one device.
        test: `{"image": [N, H, W, C] uint8 or floats in [0, 1], "label": i32[N]}`.
        key: a PRNG key, or a seed, for the posterior and for samples of the prior.

    Returns:
        `reconstruction/*`, `code/*`, `prior/*`, `label/*` where the algorithm has an encoder, and
        what the algorithm's own `diagnose` gives.
    """
    algorithm, key = state.spec.algorithm, as_key(key)
    found = {} if algorithm.encode is None else _diagnose_autoencoder(state, test, key)
    if algorithm.diagnose is not None:
        found.update(_plain(algorithm.diagnose(state, test, key)))
    return found


def _plain(value):
    """Arrays as lists of floats, for JSON, which has no NaN."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(np.asarray(value).tolist())
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _diagnose_autoencoder(state, test, key):
    spec = state.spec
    to_inputs(state, test["image"])  # which refuses what is out of range
    images = as_array("images", test["image"])
    label = as_labels(test.get("label", -1), len(images), spec.num_classes)
    keys = dict(zip(("encode", "prior", "floor", "cells", "directions"), jax.random.split(key, 5)))
    has_decoder = spec.algorithm.decode is not None or spec.algorithm.reconstruct is not None

    given = {"label": label} if spec.model.label_in_decoder else {}
    if spec.model.condition_in_decoder:
        given["condition"] = test.get("condition")

    @jax.jit
    def measure(state, images, given):
        z = encode(state, images, keys["encode"])
        if not has_decoder:
            return z, None
        if spec.algorithm.reconstruct is None:
            x_hat = decode(state, z, **given)
        else:
            x_hat = reconstruct(state, images, key=keys["encode"], **given)
        return z, 0.5 * ((x_hat - in_data_units(state, images)) ** 2).reshape(len(images), -1).sum(
            axis=1
        )

    z, error = measure(state, images, given)
    found = {}
    if error is not None:
        found["reconstruction/half_squared_error"] = float(np.asarray(error, np.float64).mean())
    found |= {
        "code/std_by_dimension": np.asarray(z, np.float64).std(axis=0).tolist(),
        "code/mean_by_dimension": np.asarray(z, np.float64).mean(axis=0).tolist(),
        "code/std": float(np.asarray(z, np.float64).std()),
    }
    if not spec.algorithm.matches_prior:
        return found
    prior_z = sample_prior(spec, keys["prior"], len(z)).z
    floor_z = sample_prior(spec, keys["floor"], len(z)).z
    distance = functools.partial(code_metrics.sliced_wasserstein, key=keys["directions"])
    found |= {
        "prior/std": float(np.asarray(prior_z, np.float64).std()),
        "prior/sliced_wasserstein": float(distance(z, prior_z)),
        "prior/sliced_wasserstein_floor": float(distance(floor_z, prior_z)),
    }
    if spec.model.code_dim == 2:
        cells_z = sample_prior(spec, keys["cells"], 1_000_000).z
        found["prior/empty_cells"] = code_metrics.empty_cells(z, cells_z)
        found["prior/empty_cells_floor"] = code_metrics.empty_cells(floor_z, cells_z)
    component_log_prob = spec.prior.distribution.component_log_prob
    if component_log_prob is not None and bool((label >= 0).any()):
        labelled_z = sample_prior(spec, keys["floor"], len(z), label).z
        for name, value in (("codes", z), ("prior", labelled_z)):
            share = code_metrics.share_in_component(component_log_prob(spec, value), label)
            found[f"label/{name}_in_component"] = float(share)
    return found
