"""Splits, their order, and what is said where files are missing."""

import hashlib
import importlib.util

import numpy as np
import pytest

from aae_jax import data
from aae_jax.data import mnist
from aae_jax.errors import UserError
from aae_jax.spec import DataSpec


def spec(name, shape=(28, 28, 1), **fields):
    return DataSpec(name=name, image_shape=shape, num_classes=10, **fields)


def hashes(split):
    return {hashlib.sha256(np.ascontiguousarray(image)).hexdigest() for image in split["image"]}


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    loaded = data.load(spec("digits"))
    assert loaded.image_shape == (8, 8, 1) and loaded.num_classes == 10
    parts = [loaded.train, loaded.validation, loaded.test]
    assert [len(part["image"]) for part in parts] == [1_297, 250, 250]
    found = np.concatenate([part["image"] for part in parts])[..., 0]
    order = np.random.RandomState(0).permutation(1_797)
    np.testing.assert_array_equal(found * 16, load_digits().images[order])
    labels = np.concatenate([part["label"] for part in parts])
    np.testing.assert_array_equal(labels, load_digits().target[order])
    assert found.dtype == np.float32 and found.min() == 0 and found.max() == 1


def test_digits_splits_are_disjoint():
    loaded = data.load(spec("digits"))
    train, validation, test = map(hashes, (loaded.train, loaded.validation, loaded.test))
    assert not train & test and not train & validation and not validation & test


def test_labels_are_kept_balanced_and_by_seed():
    train = data.load(spec("digits")).train
    kept = data.keep_labels(train, 200, 10, seed=3)
    known = kept["label"] >= 0
    np.testing.assert_array_equal(np.bincount(kept["label"][known]), np.full(10, 20))
    np.testing.assert_array_equal(kept["label"][known], train["label"][known])
    assert (kept["label"][~known] == -1).all() and kept["image"] is train["image"]
    again, other = (data.keep_labels(train, 200, 10, seed=s)["label"] for s in (3, 4))
    np.testing.assert_array_equal(kept["label"], again)
    assert (other != again).any()


@pytest.mark.parametrize(
    "number, match", [(205, "multiple of the 10"), (5_000, "class 0 has only")]
)
def test_more_labels_than_there_are(number, match):
    with pytest.raises(UserError, match=f"data.num_labelled is {number}.*{match}"):
        data.keep_labels(data.load(spec("digits")).train, number, 10, seed=0)


def test_pixel_statistics_survive_a_constant_pixel():
    images = np.zeros((4, 1, 2, 1), np.uint8)
    images[:, 0, 1, 0] = [0, 51, 102, 255]
    mean, std = data.pixel_statistics(images)
    np.testing.assert_allclose(mean.ravel(), [0, 0.4], atol=1e-6)
    np.testing.assert_allclose(std.ravel(), [1, np.std([0, 0.2, 0.4, 1.0])], atol=1e-6)


def test_labels_out_of_range_are_refused(monkeypatch):
    from aae_jax.data import digits

    loaded = digits.load()
    bad = {**loaded.train, "label": np.full_like(loaded.train["label"], 10)}
    monkeypatch.setattr(digits, "load", lambda: loaded._replace(train=bad))
    with pytest.raises(UserError, match="labels of data 'digits' go from 10 to 10"):
        data.load(spec("digits"))


def test_unknown_data_set():
    with pytest.raises(UserError, match="data.name is 'cifar'.*'digits', 'mnist'"):
        data.load(spec("cifar"))


needs_tfds = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_datasets") is None,
    reason="needs tensorflow-datasets: pip install 'aae-jax[data]'",
)


@needs_tfds
def test_original_order_undoes_the_hash_of_tensorflow_datasets():
    from tensorflow_datasets.core import hashing

    hasher = hashing.Hasher("train")
    stored = sorted(range(1_000), key=hasher.hash_key)  # what lies where in the prepared files
    np.testing.assert_array_equal(
        np.array(stored)[mnist._original_order("train", 1_000)], np.arange(1_000)
    )


@needs_tfds
def test_missing_mnist_files_are_named(tmp_path):
    (tmp_path / mnist.FILES[0]).touch()
    with pytest.raises(UserError) as error:
        data.load(spec("mnist", data_dir=str(tmp_path / "tfds"), manual_dir=str(tmp_path)))
    message = str(error.value)
    assert all(name in message for name in mnist.FILES[1:]) and mnist.FILES[0] not in message
    assert "\n" not in message


@needs_tfds
def test_mnist_without_files_or_network_says_how_to_get_it(tmp_path, monkeypatch):
    import requests

    def unreachable(*args, **kwargs):
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "head", unreachable)
    with pytest.raises(UserError) as error:
        data.load(spec("mnist", data_dir=str(tmp_path)))
    message = str(error.value)
    assert "--config.data.manual_dir=DIR" in message and str(tmp_path) in message
    assert all(name in message for name in mnist.FILES) and "\n" not in message


@needs_tfds
def test_mnist_from_the_original_files(mnist_files, mnist_images, tmp_path):
    pytest.importorskip("tensorflow")
    where = spec("mnist", data_dir=str(tmp_path), manual_dir=str(mnist_files))
    loaded = data.load(where)
    parts = [loaded.train, loaded.validation, loaded.test]
    assert [len(part["image"]) for part in parts] == [50_000, 10_000, 10_000]
    expected = [
        mnist_images["train"][:50_000],
        mnist_images["train"][50_000:],
        mnist_images["t10k"],
    ]
    for part, images in zip(parts, expected):
        assert part["image"].dtype == np.uint8
        np.testing.assert_array_equal(part["image"].reshape(-1, 784) / np.float32(255), images)
    again = data.load(spec("mnist", data_dir=str(tmp_path)))  # prepared: no files needed
    np.testing.assert_array_equal(again.test["image"], loaded.test["image"])
    np.testing.assert_array_equal(again.test["label"], loaded.test["label"])
    np.testing.assert_array_equal(loaded.train["label"][:10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4])
