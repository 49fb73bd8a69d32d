"""Splits, labels, statistics, and the checks of every source."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from runs import ROOT

from aae_jax import data
from aae_jax.data import LazyImages
from aae_jax.errors import UserError
from aae_jax.settings import DataSpec


def spec(name, shape=(28, 28, 1), **fields):
    return DataSpec(name=name, image_shape=shape, num_classes=10, **fields)


def hashes(split):
    return {hashlib.sha256(np.ascontiguousarray(image)).hexdigest() for image in split["image"]}


@pytest.mark.parametrize("has_file", [True, False])
def test_digits_are_scikit_learns(monkeypatch, has_file):
    """Read from its file, or by its own function where a version keeps the file elsewhere."""
    from sklearn.datasets import load_digits

    if not has_file:
        monkeypatch.setattr("pathlib.Path.exists", lambda path: False)
    loaded = data.load(spec("digits", (8, 8, 1)))
    assert loaded.image_shape == (8, 8, 1) and loaded.num_classes == 10
    parts = [loaded.train, loaded.validation, loaded.test]
    assert [len(part["image"]) for part in parts] == [1_297, 250, 250]
    found = np.concatenate([part["image"] for part in parts])[..., 0]
    order = np.random.RandomState(0).permutation(1_797)
    np.testing.assert_array_equal(found * 16, load_digits().images[order])
    labels = np.concatenate([part["label"] for part in parts])
    np.testing.assert_array_equal(labels, load_digits().target[order])
    assert found.dtype == np.float32 and found.min() == 0 and found.max() == 1


def test_digits_do_without_importing_scikit_learn():
    code = (
        "import sys; from aae_jax import data; from aae_jax.settings import DataSpec; "
        "data.load(DataSpec('digits', (8, 8, 1), 10)); print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n", done


def test_digits_splits_are_disjoint():
    loaded = data.load(spec("digits", (8, 8, 1)))
    train, validation, test = map(hashes, (loaded.train, loaded.validation, loaded.test))
    assert not train & test and not train & validation and not validation & test


def test_labels_are_kept_balanced_and_by_seed():
    train = data.load(spec("digits", (8, 8, 1))).train
    kept = data.keep_labels(train, 200, 10, seed=3)
    known = kept["label"] >= 0
    np.testing.assert_array_equal(np.bincount(kept["label"][known]), np.full(10, 20))
    np.testing.assert_array_equal(kept["label"][known], train["label"][known])
    assert (kept["label"][~known] == -1).all() and kept["image"] is train["image"]
    # The same on every machine: the first that were chosen when this was written.
    assert np.flatnonzero(known)[:5].tolist() == [1, 10, 14, 16, 21]
    again, other = (data.keep_labels(train, 200, 10, seed=s)["label"] for s in (3, 4))
    np.testing.assert_array_equal(kept["label"], again)
    assert (other != again).any()


@pytest.mark.parametrize(
    "number, match", [(205, "multiple of the 10"), (5_000, "class 0 has only")]
)
def test_more_labels_than_there_are(number, match):
    with pytest.raises(UserError, match=f"data.num_labelled is {number}.*{match}"):
        data.keep_labels(data.load(spec("digits", (8, 8, 1))).train, number, 10, seed=0)


def test_as_many_labels_as_there_are_keep_all():
    train = data.load(spec("digits", (8, 8, 1))).train
    kept = data.keep_labels(train, len(train["label"]), 10, seed=0)
    np.testing.assert_array_equal(kept["label"], train["label"])


def test_an_epoch_visits_labelled_images_more_often():
    label = np.array([-1, 3, -1, 0], np.int32)
    np.testing.assert_array_equal(data.example_order(label, 3), [0, 1, 2, 3, 1, 3, 1, 3])
    np.testing.assert_array_equal(data.example_order(label, 1), [0, 1, 2, 3])


def test_pixel_statistics_survive_a_constant_pixel():
    images = np.zeros((4, 1, 2, 1), np.uint8)
    images[:, 0, 1, 0] = [0, 51, 102, 255]
    mean, std = data.pixel_statistics(images)
    np.testing.assert_allclose(mean.ravel(), [0, 0.4], atol=1e-6)
    np.testing.assert_allclose(std.ravel(), [1, np.std([0, 0.2, 0.4, 1.0])], atol=1e-6)


def test_labels_out_of_range_are_refused(monkeypatch):
    from aae_jax.data import digits

    loaded = digits.load(None)
    bad = {**loaded.train, "label": np.full_like(loaded.train["label"], 10)}
    monkeypatch.setattr(digits, "load", lambda _: loaded._replace(train=bad))
    with pytest.raises(UserError, match="training images of 'digits': labels range from 10 to 10"):
        data.load(spec("digits", (8, 8, 1)))


def test_statistics_of_lazy_images_and_of_a_constant_float():
    images = np.random.default_rng(0).integers(0, 256, (2_500, 2, 2, 1), dtype=np.uint8)
    lazy = LazyImages(lambda rows: images[rows], len(images), images.shape[1:])
    mean, std = data.pixel_statistics(lazy)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std(axis=0), rtol=1e-6)
    constant = np.full((3_000, 1, 1, 1), 0.1, np.float32)
    assert data.pixel_statistics(constant)[1] == 1


def test_lazy_images_are_an_array_that_is_decoded_when_asked():
    images = np.arange(2_345, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(2, axis=1)
    asked = []

    def read(rows):
        asked.append(len(rows))
        return images[rows]

    lazy = LazyImages(read, len(images), (2, 1, 1))
    assert lazy.shape == images.shape and lazy.dtype == np.uint8 and not asked
    np.testing.assert_array_equal(lazy[np.array([7, 3])], images[[7, 3]])
    np.testing.assert_array_equal(lazy[2_340:9_999], images[2_340:])
    np.testing.assert_array_equal(lazy[np.arange(2_345) % 1_000 == 7], images[7::1_000])
    np.testing.assert_array_equal(lazy[-1], images[-1])
    np.testing.assert_array_equal(np.asarray(lazy), images)
    assert max(asked) <= 1_000


@pytest.mark.parametrize(
    "image, match",
    [
        (np.full((4, 8, 8, 1), np.nan, np.float32), "NaN or infinity"),
        (np.full((4, 8, 8, 1), 1.5, np.float32), "range from 1.5 to 1.5; floats must lie in"),
        (np.zeros((0, 8, 8, 1), np.float32), "there are none"),
        (np.zeros((5, 8, 8, 1), np.float32), "5 images but 4 labels"),
        (np.zeros((4, 8, 9, 1), np.float32), r"data.image_shape is \(8, 8, 1\) in the config"),
    ],
)
def test_what_every_source_promises(image, match, monkeypatch):
    from aae_jax.data import digits

    split = {"image": image, "label": np.zeros(4, np.int32)}
    bad = data.Dataset(split, (data.Fold(split, split),), 10)
    monkeypatch.setattr(digits, "load", lambda _: bad)
    with pytest.raises(UserError, match=match):
        data.load(spec("digits", (8, 8, 1)))


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"name": "files"}, "'files' needs a path"),
        ({"name": "mnist", "path": "a.npz"}, "the other data sets take none"),
        ({"name": "tfd", "fold": 0}, "data.fold is 0: it must be 1 … 5"),
        ({"name": "tfd", "fold": 6}, "data.fold is 6"),
        ({"name": "mnist", "fold": 1}, "data.fold is 1: it is for 'tfd', not 'mnist'"),
        ({"name": "mnist", "drop_black": True}, "data.drop_black is True: it is for 'tfd'"),
        (
            {"name": "mnist", "resize": True},
            "data.resize is True: it is for 'files' and other builders of tensorflow-datasets, not 'mni",
        ),
        (
            {"name": "mnist", "train_split": "train[:10%]"},
            r"data.train_split is 'train\[:10%\]': it is for other builders of tensorflow-datasets, not",
        ),
        (
            {"name": "files", "path": "a.npz", "test_split": "a"},
            "data.test_split is 'a': it is for",
        ),
        ({"name": "tfd", "label_column": "y"}, "data.label_column is 'y': it is for 'files'"),
        ({"name": "cifar10", "condition_dim": 2}, "data.condition_dim is 2: it is for 'files'"),
        (
            {"name": "cifar10", "condition_dim": -1},
            "data.condition_dim is -1: it must be 0 or more",
        ),
        ({"name": "cifar10", "shape": (8, 0)}, r"data.image_shape is \(8, 0\): it must be"),
        ({"name": "cifar10", "shape": ()}, r"data.image_shape is \(\): it must be .*\(20,\)"),
        ({"name": "cifar10", "shape": (8, 8), "resize": True}, r"data.image_shape \(8, 8\)"),
    ],
)
def test_fields_of_other_sources_are_refused(fields, match):
    with pytest.raises(UserError, match=match):
        spec(**fields)
