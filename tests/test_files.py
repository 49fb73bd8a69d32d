"""A user's own images: every layout, and every fault of a file."""

import os
from collections import Counter

import cv2
import numpy as np
import pytest
from runs import ROOT, launch, results
from scipy.io import savemat
from sklearn.datasets import load_digits

from aae_jax import data
from aae_jax.errors import UserError
from aae_jax.settings import DataSpec

DIGITS = load_digits()
IMAGES = (DIGITS.images[:300] * 15).astype(np.uint8)  # [300, 8, 8]
LABELS = DIGITS.target[:300]


def load(path, shape=(8, 8, 1), num_classes=10):
    spec = DataSpec(name="files", image_shape=shape, num_classes=num_classes, path=str(path))
    return data.load(spec)


def parts(loaded):
    return [loaded.train, loaded.validation, loaded.test]


def contents(split):
    return {np.asarray(split["image"])[i].tobytes() for i in range(len(split["label"]))}


def as_pairs(loaded):
    """Every image with its label, whichever split it is in."""
    return {
        (image.tobytes(), int(label))
        for split in parts(loaded)
        for image, label in zip(np.asarray(split["image"]), split["label"])
    }


def save_directory(directory, images, labels=None):
    for i, image in enumerate(images):
        where = directory if labels is None else directory / f"class_{labels[i]}"
        where.mkdir(parents=True, exist_ok=True)
        pixels = image[..., ::-1] if image.ndim == 3 else image  # OpenCV writes blue first
        assert cv2.imwrite(str(where / f"{i:04d}.png"), pixels)
    return directory


EXPECTED = {(image.tobytes(), int(label)) for image, label in zip(IMAGES, LABELS)}


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS[:, None])
    loaded = load(tmp_path / "a.npz")
    assert as_pairs(loaded) == EXPECTED and loaded.train["image"].dtype == np.uint8


def test_mat(tmp_path):
    savemat(tmp_path / "a.mat", {"images": IMAGES, "labels": LABELS.astype(float)})
    assert as_pairs(load(tmp_path / "a.mat")) == EXPECTED


def test_mat_of_svhn_has_its_own_names_and_a_ten_for_zero(tmp_path):
    colour = np.stack([IMAGES, IMAGES // 2, IMAGES // 3], axis=-1)
    label = np.where(LABELS == 0, 10, LABELS)
    savemat(tmp_path / "a.mat", {"X": np.moveaxis(colour, 0, -1), "y": label[:, None]})
    expected = {(image.tobytes(), int(label)) for image, label in zip(colour, LABELS)}
    assert as_pairs(load(tmp_path / "a.mat", (8, 8, 3))) == expected


def test_twenty_classes_under_the_names_of_svhn_stay_twenty(tmp_path):
    images = np.moveaxis(IMAGES[..., None], 0, -1)
    savemat(tmp_path / "a.mat", {"X": images, "y": np.arange(300)[:, None] % 21 - 1})
    labels = np.concatenate(
        [split["label"] for split in parts(load(tmp_path / "a.mat", num_classes=20))]
    )
    assert set(labels) == set(range(-1, 20))


def test_floats_are_kept(tmp_path):
    np.savez(tmp_path / "a.npz", images=DIGITS.images[:300] / 16)
    loaded = load(tmp_path / "a.npz")
    assert loaded.train["image"].dtype == np.float32 and loaded.train["image"].max() == 1
    assert all((split["label"] == -1).all() for split in parts(loaded))


def test_medmnist_names_its_splits(tmp_path):
    rows = {"train": slice(0, 200), "val": slice(200, 250), "test": slice(250, 300)}
    arrays = {f"{name}_images": IMAGES[r] for name, r in rows.items()}
    arrays |= {f"{name}_labels": LABELS[r, None] for name, r in rows.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    for split, r in zip(parts(load(tmp_path / "a.npz")), rows.values()):
        np.testing.assert_array_equal(split["image"][..., 0], IMAGES[r])
        np.testing.assert_array_equal(split["label"], LABELS[r])


def test_directory_with_and_without_classes(tmp_path):
    loaded = load(save_directory(tmp_path / "classes", IMAGES, LABELS))
    assert as_pairs(loaded) == EXPECTED
    flat = load(save_directory(tmp_path / "flat", IMAGES))
    assert as_pairs(flat) == {(image, -1) for image, _ in EXPECTED}


@pytest.mark.parametrize("name", ["unlabelled", "Unlabeled"])
def test_a_directory_of_unlabelled_images_beside_those_of_the_classes(name, tmp_path):
    path = save_directory(tmp_path / "classes", IMAGES, LABELS)
    os.rename(path / "class_3", path / name)
    with pytest.raises(UserError, match="holds 9 classes"):
        load(path)
    found = Counter(label for split in parts(load(path, num_classes=9)) for label in split["label"])
    # 0, 1, 2, 4, … are numbered in their order.
    given = Counter((LABELS - (LABELS > 3))[LABELS != 3].tolist()) + Counter(
        {-1: (LABELS == 3).sum()}
    )
    assert found == given


def test_directory_in_colour(tmp_path):
    colour = np.stack([IMAGES, IMAGES // 2, IMAGES // 3], axis=-1)
    loaded = load(save_directory(tmp_path / "a", colour), (8, 8, 3))
    assert set().union(*map(contents, parts(loaded))) == {image.tobytes() for image in colour}


@pytest.mark.parametrize("kind", ["npz", "directory"])
def test_splits_are_disjoint_and_do_not_move(kind, tmp_path):
    """Equal images stay together, in any order and beside any others."""

    def save(name, images):
        if kind == "directory":
            return save_directory(tmp_path / name, images)
        np.savez(tmp_path / f"{name}.npz", images=images)
        return tmp_path / f"{name}.npz"

    doubled = np.concatenate([IMAGES[:200], IMAGES[:100]])
    train, validation, test = map(contents, parts(load(save("a", doubled))))
    assert not train & validation and not train & test and not validation & test
    assert 10 <= len(validation) <= 35 and 10 <= len(test) <= 35
    more = np.random.default_rng(0).permutation(IMAGES)
    for before, after in zip(
        (train, validation, test), map(contents, parts(load(save("b", more))))
    ):
        assert before <= after


def test_equal_pictures_in_other_files_stay_together(tmp_path):
    save_directory(tmp_path, IMAGES)
    for i, image in enumerate(IMAGES):
        cv2.imwrite(str(tmp_path / f"{i:04d}.bmp"), image)
    train, validation, test = map(contents, parts(load(tmp_path)))
    assert not train & validation and not train & test and not validation & test


def test_named_splits_that_share_images_are_told(tmp_path, capsys):
    arrays = {
        "train_images": IMAGES[:200],
        "val_images": IMAGES[190:250],
        "test_images": IMAGES[250:],
    }
    np.savez(tmp_path / "a.npz", **arrays)
    load(tmp_path / "a.npz")
    assert "10 validation and 0 test images are training images" in capsys.readouterr().out


def test_hidden_directories_are_no_classes(tmp_path):
    save_directory(tmp_path, IMAGES, LABELS)
    (tmp_path / ".checkpoints").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    assert as_pairs(load(tmp_path)) == EXPECTED


def test_split_is_the_same_on_every_machine(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES)
    sizes = [len(split["label"]) for split in parts(load(tmp_path / "a.npz"))]
    assert sizes == [239, 42, 19]


def test_files_in_a_directory_are_decoded_only_when_asked_for(tmp_path):
    save_directory(tmp_path, IMAGES)
    loaded = load(tmp_path)
    assert isinstance(loaded.train["image"], data.LazyImages)
    rows = np.array([5, 0])
    np.testing.assert_array_equal(
        loaded.train["image"][rows], np.asarray(loaded.train["image"])[rows]
    )


@pytest.fixture(scope="module")
def broken_files(tmp_path_factory):
    """A directory with a file or a directory for every fault."""
    tmp_path = tmp_path_factory.mktemp("broken")
    np.savez(tmp_path / "good.npz", images=IMAGES)
    savemat(tmp_path / "good.mat", {"images": IMAGES})
    good = {kind: (tmp_path / f"good.{kind}").read_bytes() for kind in ("npz", "mat")}
    for kind, content in good.items():
        (tmp_path / f"cut.{kind}").write_bytes(content[: len(content) // 2])
        (tmp_path / f"magic.{kind}").write_bytes(b"\x00\x01\x02\x03" * 100)
    (tmp_path / "seven.mat").write_bytes(
        b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b" " * 50
    )
    arrays = {
        "pickled": {"images": np.array([{}], object)},
        "names": {"pictures": IMAGES},
        "lengths": {"images": IMAGES, "labels": LABELS[:-1]},
        "classes": {"images": IMAGES, "labels": LABELS + 1},
        "fractions": {"images": IMAGES, "labels": LABELS + 0.5},
        "words": {"images": IMAGES, "labels": np.array(["a"] * 300)},
        "nan": {"images": np.full((300, 8, 8), np.nan)},
        "range": {"images": IMAGES.astype(np.float32)},
        "int": {"images": IMAGES.astype(np.int64) - 15 * (IMAGES == 0)},
        "rank": {"images": IMAGES.reshape(300, 64)},
        "size": {"images": IMAGES[:, :7]},
        "few": {"images": IMAGES[:1]},
        "large": {"images": IMAGES, "labels": LABELS + 2**32},
        "small": {"images": IMAGES, "labels": LABELS.astype(np.int64) - 3 * 10**9},
        "complex": {"images": IMAGES, "labels": LABELS * 1j},
        "shapes": {
            "train_images": IMAGES,
            "val_images": np.zeros((9, 9, 9), np.uint8),
            "test_images": IMAGES,
        },
    }
    for name, values in arrays.items():
        np.savez(tmp_path / f"{name}.npz", **values)
    grey = np.moveaxis(IMAGES[..., None], 0, -1)
    savemat(tmp_path / "twenty.mat", {"X": grey, "y": np.arange(300)[:, None] % 20 + 1})
    savemat(tmp_path / "cell.mat", {"images": np.array([IMAGES[0], "a"], object)})
    (tmp_path / "text.txt").touch()
    for name in ("empty", "both", "cut_png", "wide", "alpha", "deep", "grey", "one_cut", "hole"):
        (tmp_path / name).mkdir()
    save_directory(tmp_path / "both", IMAGES[:5])
    save_directory(tmp_path / "both" / "class_0", IMAGES[:5])
    save_directory(tmp_path / "cut_png", IMAGES)
    for path in (tmp_path / "cut_png").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    save_directory(tmp_path / "one_cut", IMAGES)
    path = tmp_path / "one_cut" / "0000.png"
    path.write_bytes(path.read_bytes()[:60])
    save_directory(tmp_path / "hole", IMAGES, LABELS)
    for path in (tmp_path / "hole" / "class_3").iterdir():
        path.unlink()
    save_directory(tmp_path / "three", IMAGES, LABELS % 3)
    save_directory(tmp_path / "wide", IMAGES[:, :, :7])
    for i, image in enumerate(IMAGES):
        cv2.imwrite(str(tmp_path / "alpha" / f"{i}.png"), np.stack([image] * 4, axis=-1))
        cv2.imwrite(str(tmp_path / "deep" / f"{i}.png"), image.astype(np.uint16))
    save_directory(tmp_path / "grey", np.stack([IMAGES] * 3, axis=-1))
    return tmp_path


@pytest.mark.parametrize(
    "name, match",
    [
        ("missing.npz", "there is no such file or directory"),
        ("text.txt", "must be an .npz, .npy, .mat, .h5, .hdf5 or .csv, or a directory"),
        ("cut.npz", "damaged, truncated or of another kind"),
        ("magic.npz", "damaged, truncated or of another kind"),
        ("cut.mat", "damaged, truncated or of another kind"),
        ("magic.mat", "damaged, truncated or of another kind"),
        ("seven.mat", "damaged: it begins as MATLAB 7.3"),
        ("pickled.npz", "pickled objects"),
        ("twenty.mat", "labels range from 0 to 20; with data.num_classes = 10"),
        ("cell.mat", "images holds objects"),
        ("names.npz", "has pictures: it must have 'images'"),
        ("lengths.npz", "300 images but 299 labels"),
        ("classes.npz", "labels range from 1 to 10; with data.num_classes = 10"),
        ("fractions.npz", "labels is float64: it must be integers"),
        ("words.npz", r"has 1 classes \(a\), but data.num_classes is 10"),
        ("nan.npz", "NaN or infinity"),
        ("range.npz", "floats must lie in"),
        ("int.npz", "images is int64 and ranges from -15 to 240: integers must be pixels of 0"),
        ("rank.npz", r"images is \(300, 64\): with data.image_shape = \(8, 8, 1\) it must be"),
        ("size.npz", r"data.image_shape is \(8, 8, 1\).*are \(7, 8, 1\)"),
        ("large.npz", "labels contains 42949"),
        ("small.npz", "labels contains -3000000000, which is not a class"),
        ("complex.npz", "labels is complex128"),
        ("shapes.npz", r"data.image_shape is \(8, 8, 1\).*val_images are \(9, 9, 1\)"),
        ("one_cut", r"one_cut.0000.png' is not an image, or it is damaged"),
        ("hole", "no images in '.*class_3'"),
        ("three", "holds 3 classes: with data.num_classes = 10"),
        ("few.npz", "images of 'files': there are none"),
        ("empty", "there are no images in"),
        ("both", "images alone, or one directory for each class"),
        ("cut_png", r"cut_png.*png. is not an image, or it is damaged or truncated"),
        ("wide", r"wide.*png. is \(8, 7, 1\).*must be \(8, 8, 1\), data.image_shape"),
        ("alpha", r"png. is \(8, 8, 4\)"),
        ("deep", r"png. is \(8, 8, 1\) of uint16"),
        ("grey", r"png. is \(8, 8, 3\)"),
    ],
)
def test_bad_files_each_say_what_is_wrong(name, match, broken_files):
    with pytest.raises(UserError, match=match) as error:
        load(broken_files / name)
    assert name.split(".")[0] in str(error.value) or "'files'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    """Tests may run as root, who may read everything, so the refusal is simulated."""
    save_directory(tmp_path / "a", IMAGES[:20])
    np.savez(tmp_path / "a.npz", images=IMAGES)

    def refuse(file, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("builtins.open", refuse)
    for name, match in (
        ("a", "can't be read: Permission denied"),
        ("a.npz", "permission to read .* is denied"),
    ):
        with pytest.raises(UserError, match=match):
            load(tmp_path / name)
    monkeypatch.undo()
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="permission to read .* is denied"):
        load(tmp_path / "a")


@pytest.mark.slow
def test_own_images_by_flags_alone_and_a_mistake_in_one_line(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    flags = [
        f"--config={ROOT}/experiments/files.py",
        "--config.data.image_shape=(8,8,1)",
        f"--config.data.path={tmp_path / 'a.npz'}",
        "--config.model.encoder_hidden=(8,)",
        "--config.model.decoder_hidden=(8,)",
        "--config.model.discriminator_hidden=(8,)",
        "--config.train.num_steps=20",
        "--config.evaluation.num_samples=100",
    ]
    for mode in ("train", "evaluate"):
        done = launch(tmp_path, *flags, f"--mode={mode}", f"--workdir={tmp_path / 'run'}")
        assert (done.returncode, done.stderr) == (0, "")
    assert np.isfinite(results(tmp_path / "run")["parzen/log_likelihood"])
    flags[1] = "--config.data.image_shape=(9,9,1)"
    done = launch(tmp_path, *flags, f"--workdir={tmp_path / 'other'}")
    assert done.returncode == 2 and not (tmp_path / "other").exists()
    assert done.stderr.count("\n") == 1 and "data.image_shape is (9, 9, 1)" in done.stderr
