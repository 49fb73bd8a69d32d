"""What studies ask of finished runs."""

import os
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

import aae_jax as aae
from aae_jax import data
from aae_jax.config import parse_config
from aae_jax.settings import Settings
from aae_jax.train_state import TrainState
from aae_jax.workdir import records

_ROWS_A_LABEL = 1_000


class FinishedRun(NamedTuple):
    """A trained model, its config and its data."""

    state: TrainState
    settings: Settings
    dataset: data.Dataset


def load(workdir: str) -> FinishedRun:
    """Reads a workdir, and the data that its config names."""
    state = aae.load_state(workdir)
    settings = parse_config(records.read_json(os.path.join(workdir, "config.json")))
    return FinishedRun(state, settings, data.load(settings.data))


def perceptron(width: int) -> MLPClassifier:
    """A classifier of one hidden layer, trained for ten passes."""
    # They are enough, and scikit-learn asks for more.
    warnings.simplefilter("ignore", ConvergenceWarning)
    return MLPClassifier((width,), max_iter=10, random_state=0)


def fit_classifier(dataset: data.Dataset, features: Callable[[np.ndarray], np.ndarray]) -> Pipeline:
    """A classifier of images, trained on real ones.

    Args:
        dataset: the training images and their labels.
        features: images [N, H, W, C], uint8 or floats in [0, 1] → f[N, F].
    """
    classifier = make_pipeline(FunctionTransformer(features), perceptron(500))
    return classifier.fit(np.asarray(dataset.train["image"]), dataset.train["label"])


def cells_read_as_their_label(state: TrainState, classifier: Pipeline) -> float:
    """Share of generated images in which a classifier reads the label that was asked for.

    A thousand styles z, each with every label.
    """
    num_classes = state.spec.num_classes
    z = aae.sample_prior(state.spec, jax.random.key(1), _ROWS_A_LABEL).z
    label = np.tile(np.arange(num_classes), _ROWS_A_LABEL)
    cells = aae.decode(state, jnp.repeat(z, num_classes, axis=0), jnp.asarray(label))
    return classifier.score(np.asarray(cells), label)
