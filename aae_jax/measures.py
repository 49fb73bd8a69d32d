"""Measures of a model on hold-out images: codes, reconstructions, classes."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from aae_jax import code_metrics
from aae_jax.arguments import as_array, as_key, as_labels
from aae_jax.errors import UserError
from aae_jax.priors import sample_prior
from aae_jax.train_state import (
    TrainState,
    classify,
    decode,
    encode,
    in_data_units,
    reconstruct,
    to_inputs,
)


def diagnose(
    state: TrainState,
    test: Mapping[str, Any],
    key: jax.Array,
    validation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures reconstructions and classes of hold-out images, and how far codes are from the prior.

    Args:
        state: a trained state, on one device.
        test: `{"image": [N, H, W, C] uint8 or floats in [0, 1], "label": i32[N]}`.
        key: a PRNG key, or a seed, for the posterior and for samples of the prior.
        validation: other images with labels, in the same form, which name clusters. Without them,
            a model with clusters gets no error.

    Returns:
        `reconstruction/*`, `code/*`, `prior/*` and `label/*` if the algorithm has an encoder,
        `classification/*` if it has classes or clusters, and the results of the algorithm's own
        `diagnose`.
    """
    algorithm, key = state.spec.algorithm, as_key(key)
    found = {} if algorithm.encode is None else _diagnose_autoencoder(state, test, key)
    if algorithm.classify is not None:
        found |= classification(state, test, validation)
    if algorithm.diagnose is not None:
        found.update(_plain(algorithm.diagnose(state, test, key)))
    return found


def classification(
    state: TrainState, test: Mapping[str, Any], validation: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The share of labelled test images that get a wrong class, as `diagnose` gives it.

    Args:
        state, test, validation: as in `diagnose`.

    Returns:
        `classification/error` and its standard error over images. For clusters also
        `classification/cluster_names`, the class of each, and `classification/majority_error`, the
        error if each cluster has the commonest class of its validation images. Empty if no image has a
        label.
    """
    spec, program = state.spec, jax.jit(classify)

    def labelled(split):
        label = as_labels(split.get("label", -1), len(split["image"]), spec.num_classes)
        rows = np.flatnonzero(np.asarray(label) >= 0)
        if not len(rows):
            return None, None
        p = np.asarray(program(state, as_array("images", split["image"])))
        return p[rows], np.asarray(label)[rows]

    p, label = labelled(test)
    if p is None:
        return {}
    chosen, found = p.argmax(axis=1), {}
    if not spec.algorithm.names_classes(spec):
        p_validation, named = (None, None) if validation is None else labelled(validation)
        if p_validation is None or named is None:
            return {}
        names = name_clusters(p_validation, named)
        commonest = names.copy()  # a cluster without validation images keeps its name
        of_validation = p_validation.argmax(axis=1)
        for cluster in np.unique(of_validation):
            commonest[cluster] = np.bincount(named[of_validation == cluster]).argmax()
        found = {
            "classification/cluster_names": names.tolist(),
            "classification/majority_error": float((commonest[chosen] != label).mean()),
        }
        chosen = names[chosen]
    error = float((chosen != label).mean())
    return found | {
        "classification/error": error,
        "classification/standard_error": float(np.sqrt(error * (1 - error) / len(label))),
    }


def name_clusters(p: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The class i[K] of each cluster: that of the image which is in it with the highest probability.

    The protocol of the paper's later version (2016). The images must not be those that are scored.
    Images with probability 1 in float32 are ranked by the sum of their other probabilities,
    which keeps its precision until it underflows.

    Args:
        p: f[N, K], probabilities of the clusters.
        label: i[N], classes of the same images.
    """
    p = np.asarray(p, np.float64)
    others = p @ (1 - np.eye(p.shape[1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.where(p > 0, p / others, 0)
    return np.asarray(label)[odds.argmax(axis=0)]


def _plain(value):
    """Values for JSON: arrays become lists, and numbers that are not finite become None."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(np.asarray(value).tolist())
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _diagnose_autoencoder(state, test, key):
    spec = state.spec
    to_inputs(state, test["image"])  # refuses values that are out of range
    images = as_array("images", test["image"])
    if len(images) == 0:
        raise UserError(f"images have shape {images.shape}: to diagnose a model takes at least one")
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
