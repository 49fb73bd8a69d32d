"""Shared functions of the studies for finished runs."""

import gzip
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

import aae_jax as aae
from aae_jax import data
from aae_jax.config import parse_config
from aae_jax.settings import Settings
from aae_jax.train_state import TrainState, inference_params
from aae_jax.workdir import records
from benchmarks import inputs
from experiments import table1

_ROWS_A_LABEL = 1_000


class FinishedRun(NamedTuple):
    """A trained model, its config and its data."""

    state: TrainState
    settings: Settings
    dataset: data.Dataset


def load(workdir: str) -> FinishedRun:
    """Reads a workdir, and the data that its config names."""
    state = aae.load_state(workdir)
    settings = parse_config(records.read_config(workdir))
    return FinishedRun(state, settings, data.load(settings.data))


def load_mnist(mnist_dir: str | None, data_dir: str | None = None) -> data.Dataset:
    """The first 50,000 training images, the other 10,000 for validation, and the test images.

    Args:
        mnist_dir: with the four original gz files; None: through tensorflow-datasets.
        data_dir: of tensorflow-datasets; None: its default.
    """
    if mnist_dir is None:
        return data.load(inputs.mnist_spec(data_dir))

    def read(name, header):
        with gzip.open(os.path.join(mnist_dir, f"{name}-ubyte.gz")) as file:
            return np.frombuffer(file.read(), np.uint8)[header:]

    def split(name):
        return {
            "image": read(f"{name}-images-idx3", 16).reshape(-1, 28, 28, 1),
            "label": read(f"{name}-labels-idx1", 8).astype(np.int32),
        }

    train, test = split("train"), split("t10k")
    parts = [
        {name: values[rows] for name, values in train.items()}
        for rows in (slice(50_000), slice(50_000, None))
    ]
    return data.Dataset(parts[0], (data.Fold(parts[1], test),), num_classes=10)


def by_path(params: Any) -> dict[str, np.ndarray]:
    """Parameters by path, "decoder/Dense_0/kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(params)
    }


def load_row(row: str, path: str) -> tuple[TrainState, Settings]:
    """A model of `experiments/table1.py` with parameters saved by `studies.table1`.

    Raises:
        UserError: the file does not have the row's parameters, or the row standardises pixels with
            statistics that the file lacks.
    """
    settings = parse_config(table1.get_config(row))
    if settings.data.standardise:
        raise aae.UserError(f"row {row!r} standardises pixels: {path!r} does not say by what")
    state = aae.create_train_state(settings.spec, 0)
    with np.load(path) as saved:

        def stored(where, leaf):
            name = jax.tree_util.keystr(where, simple=True, separator="/")
            if name not in saved or saved[name].shape != leaf.shape:
                raise aae.UserError(f"{path!r} has no {name} {leaf.shape}, as row {row!r} has")
            return jnp.asarray(saved[name], leaf.dtype)

        params = jax.tree.map_with_path(stored, inference_params(state))
    return state.replace(params={**state.params, **params}, ema_params=None), settings


def perceptron(width: int) -> MLPClassifier:
    """A classifier of one hidden layer, trained for ten passes."""
    # They are enough, and scikit-learn asks for more.
    warnings.simplefilter("ignore", ConvergenceWarning)
    return MLPClassifier((width,), max_iter=10, random_state=0)


def contrast(images: np.ndarray) -> np.ndarray:
    """Images as f32[N, H·W] without their colours, which the labels do not depend on.

    Pixels along the colour axis in which an image differs most from its background, the median
    colour; the ink is positive.
    """
    num_images, channels = len(images), images.shape[-1]
    x = inputs.flat(images).reshape(num_images, -1, channels)
    x = x - np.median(x, axis=1, keepdims=True)
    _, axes = np.linalg.eigh(np.einsum("npc,npd->ncd", x, x))
    x = np.einsum("npc,nc->np", x, axes[:, :, -1])
    x *= np.sign(x.sum(axis=1, keepdims=True))
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True))


def fit_classifier(dataset: data.Dataset, features: Callable[[np.ndarray], np.ndarray]) -> Pipeline:
    """A classifier of images, trained on real ones.

    Args:
        dataset: the training images and their labels.
        features: images [N, H, W, C], uint8 or floats in [0, 1] → f[N, F].
    """
    classifier = make_pipeline(FunctionTransformer(features), perceptron(500))
    return classifier.fit(np.asarray(dataset.train["image"]), dataset.train["label"])


def cells_read_as_their_label(state: TrainState, classifier: Pipeline) -> float:
    """The share of generated images that a classifier assigns to the requested label.

    A thousand styles z, each with every label.
    """
    num_classes = state.spec.num_classes
    z = aae.sample_prior(state.spec, jax.random.key(1), _ROWS_A_LABEL).z
    label = np.tile(np.arange(num_classes), _ROWS_A_LABEL)
    cells = aae.decode(state, jnp.repeat(z, num_classes, axis=0), jnp.asarray(label))
    return classifier.score(np.asarray(cells), label)


def save_strips(path: str, strips: list[tuple[str, np.ndarray]]) -> None:
    """Saves pictures f[H, W] of [0, 1], one above the other, with their names on the left."""
    gap = 4
    margin = int(max(ImageDraw.Draw(Image.new("L", (1, 1))).textlength(n) for n, _ in strips)) + 8
    width = margin + max(values.shape[1] for _, values in strips)
    height = sum(values.shape[0] + gap for _, values in strips) - gap
    whole = Image.new("L", (width, height), 255)
    draw, top = ImageDraw.Draw(whole), 0
    for name, values in strips:
        whole.paste(Image.fromarray(np.clip(255 * values, 0, 255).astype(np.uint8)), (margin, top))
        draw.text((2, top + values.shape[0] / 2), name, fill=0, anchor="lm")
        top += values.shape[0] + gap
    whole.save(path)
