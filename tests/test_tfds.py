"""Data through tensorflow-datasets: MNIST, SVHN, TFD, and a user's builder."""

import errno
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from runs import ROOT, results
from scipy.io import loadmat, savemat
from sklearn.datasets import load_digits

tfds = pytest.importorskip("tensorflow_datasets")

import aae_jax as aae
from aae_jax import data, experiment
from aae_jax.data import mnist, pixels, repacked, tfds_images
from aae_jax.errors import UserError
from aae_jax.settings import DataSpec
from experiments import tfd as config_file

DIGITS = load_digits()
IMAGES = (DIGITS.images * 15).astype(np.uint8)
FACES = ROOT.parent / "shared" / "data" / "faces" / "FER2013_in_TFD_layout_48x48.mat"
MNIST_NAMES = [
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
]


def spec(name, shape=(28, 28, 1), num_classes=10, **fields):
    return DataSpec(name=name, image_shape=shape, num_classes=num_classes, **fields)


def hashes(split):
    images = np.asarray(split["image"])
    return {hashlib.sha256(np.ascontiguousarray(image)).hexdigest() for image in images}


def block_network(monkeypatch):
    import requests

    def unreachable(*args, **kwargs):
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "head", unreachable)


# MNIST


def test_original_order_undoes_the_hash_of_tensorflow_datasets():
    from tensorflow_datasets.core import hashing

    hasher = hashing.Hasher("train")
    stored = sorted(range(1_000), key=hasher.hash_key)  # what lies where in the prepared files
    np.testing.assert_array_equal(
        np.array(stored)[mnist._original_order("train", 1_000)], np.arange(1_000)
    )


def test_missing_mnist_files_are_named(tmp_path):
    (tmp_path / MNIST_NAMES[0]).touch()
    with pytest.raises(UserError) as error:
        data.load(spec("mnist", data_dir=str(tmp_path / "tfds"), manual_dir=str(tmp_path)))
    message = str(error.value)
    assert all(name in message for name in MNIST_NAMES[1:]) and MNIST_NAMES[0] not in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["mnist", "svhn_cropped"])
def test_without_files_or_network_it_says_how_to_get_them(name, tmp_path, monkeypatch):
    block_network(monkeypatch)
    with pytest.raises(UserError) as error:
        data.load(spec(name, data_dir=str(tmp_path)))
    message = str(error.value)
    assert "--config.data.manual_dir=DIR" in message and str(tmp_path) in message
    files = MNIST_NAMES if name == "mnist" else ["extra_32x32.mat", "test_32x32.mat"]
    assert all(name in message for name in files) and "\n" not in message


@pytest.mark.slow
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
    train, validation, test = map(hashes, parts)
    assert not train & validation and not train & test and not validation & test


@pytest.mark.parametrize("damage", ["cut", "magic"])
def test_damaged_mnist_files_are_refused(damage, mnist_files, tmp_path):
    pytest.importorskip("tensorflow")
    for name in MNIST_NAMES:
        shutil.copy(mnist_files / name, tmp_path / name)
    path = tmp_path / MNIST_NAMES[1]
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content[:1_000] if damage == "cut" else b"\x00" + content[1:])
    with pytest.raises(UserError, match="mnist could not be prepared.*hecksum") as error:
        data.load(spec("mnist", data_dir=str(tmp_path / "tfds"), manual_dir=str(tmp_path)))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="could not be prepared"):  # nothing is half there
        data.load(spec("mnist", data_dir=str(tmp_path / "tfds"), manual_dir=str(tmp_path)))


@pytest.mark.slow
def test_mnist_unpacked_and_packed_again(mnist_files, tmp_path):
    pytest.importorskip("tensorflow")
    (tmp_path / "files").mkdir()
    for name in MNIST_NAMES:
        content = gzip.decompress((mnist_files / name).read_bytes())
        if name.startswith("train"):
            (tmp_path / "files" / name).write_bytes(gzip.compress(content, 1))
        else:
            (tmp_path / "files" / name.removesuffix(".gz")).write_bytes(content)
    where = {"data_dir": str(tmp_path), "manual_dir": str(tmp_path / "files")}
    loaded = data.load(spec("mnist", **where))
    np.testing.assert_array_equal(loaded.train["label"][:10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4])
    assert len(loaded.train["label"]) == 50_000 and len(loaded.test["label"]) == 10_000


class Published(tfds.core.GeneratorBasedBuilder):
    """Two files "a-idx1.gz" and "b-idx3.gz", whose checksums are those of level 9."""

    VERSION = tfds.core.Version("1.0.0")
    CONTENT = {"a-idx1.gz": b"labels" * 99, "b-idx3.gz": b"images" * 999}
    url_infos = {
        f"http://published/{name}": tfds.core.download.checksums.UrlInfo(
            size=len(gzip.compress(content, 9, mtime=0)),
            checksum=hashlib.sha256(gzip.compress(content, 9, mtime=0)).hexdigest(),
            filename=name,
        )
        for name, content in CONTENT.items()
    }

    def _info(self):
        raise NotImplementedError

    _split_generators = _generate_examples = _info


@pytest.mark.parametrize(
    "files, outcome",
    [
        ({"a-idx1.gz": 9, "b-idx3.gz": 9}, "as it is"),
        ({"a-idx1.gz": 1, "b-idx3.gz": 9}, "repacked"),
        ({"a-idx1": None, "b.idx3": None}, "repacked"),
        ({"a-idx1": None, "b-idx3.gz": None}, "repacked"),  # unpacked by a browser
        ({"a-idx1.gz": 1}, "as it is"),  # of which the builder says what is missing
        ({"a-idx1": "cut", "b-idx3": None}, "refused"),
        ({"a-idx1.gz": "cut", "b-idx3": None}, "as it is"),  # of which it says the checksum
    ],
)
def test_files_are_right_by_what_they_hold(files, outcome, tmp_path):
    for name, how in files.items():
        content = Published.CONTENT[name.replace(".idx", "-idx").removesuffix(".gz") + ".gz"]
        if how == "cut":
            content = gzip.compress(content)[:-9] if name.endswith(".gz") else content[:-9]
        elif how is not None:
            content = gzip.compress(content, how, mtime=0)
        (tmp_path / name).write_bytes(content)
    digests = {
        name: hashlib.sha256(content).hexdigest() for name, content in Published.CONTENT.items()
    }
    builder, before = object.__new__(Published), dict(Published.url_infos)
    if outcome == "refused":
        with pytest.raises(UserError, match="a-idx1' differs from the published a-idx1.gz"):
            with repacked.as_published(tfds, builder, str(tmp_path), digests):
                pass
        return
    with repacked.as_published(tfds, builder, str(tmp_path), digests) as directory:
        assert (directory == str(tmp_path)) == (outcome == "as it is")
        for info in builder.url_infos.values() if outcome == "repacked" else ():
            with open(os.path.join(directory, info.filename), "rb") as file:
                packed = file.read()
            assert gzip.decompress(packed) == Published.CONTENT[info.filename]
            assert hashlib.sha256(packed).hexdigest() == info.checksum
    assert Published.url_infos == before


def test_mnist_in_another_order_is_refused(monkeypatch, tmp_path):
    class Prepared:
        data_path = tmp_path

    stored = {"image": np.zeros((60_000, 28, 28, 1), np.uint8), "label": np.zeros(60_000, np.int32)}
    monkeypatch.setattr(tfds_images, "prepared_builder", lambda spec, **_: Prepared)
    monkeypatch.setattr(tfds_images, "read_split", lambda *_: stored)
    with pytest.raises(UserError, match="not in the order"):
        mnist.load(spec("mnist"))


# SVHN, through tensorflow-datasets' own builder


@pytest.fixture
def svhn_files(tmp_path, monkeypatch):
    """The three files in SVHN's format, small; their checksums take the place of the real ones."""
    pytest.importorskip("tensorflow")
    directory = tmp_path / "svhn"
    directory.mkdir()
    infos = {}
    builder_class = tfds.builder_cls("svhn_cropped")
    for i, name in enumerate(("train", "test", "extra")):
        grey = np.kron(IMAGES[i * 60 : i * 60 + 60], np.ones((1, 4, 4), np.uint8))
        images = np.stack([grey, grey // 2, grey // 3], axis=-1)
        labels = DIGITS.target[i * 60 : i * 60 + 60]
        path = directory / f"{name}_32x32.mat"
        savemat(
            path,
            {"X": np.moveaxis(images, 0, -1), "y": np.where(labels == 0, 10, labels)[:, None]},
            do_compression=True,
        )
        url = next(url for url in builder_class.url_infos if path.name in url)
        infos[url] = tfds.core.download.checksums.UrlInfo(
            size=path.stat().st_size,
            checksum=hashlib.sha256(path.read_bytes()).hexdigest(),
            filename=path.name,
        )
    monkeypatch.setattr(builder_class, "url_infos", infos)
    return directory


def test_svhn_from_its_files(svhn_files, tmp_path):
    where = {
        "data_dir": str(tmp_path / "tfds"),
        "train_split": "train[:50]+extra",
        "validation_split": "train[50:]",
    }
    loaded = data.load(spec("svhn_cropped", (32, 32, 3), manual_dir=str(svhn_files), **where))
    parts = [loaded.train, loaded.validation, loaded.test]
    assert [len(part["image"]) for part in parts] == [110, 10, 60]
    assert isinstance(loaded.train["image"], data.LazyImages)
    known = {IMAGES[i].tobytes(): DIGITS.target[i] for i in range(180)}
    for part in parts:
        for image, label in zip(np.asarray(part["image"]), part["label"]):
            assert known[image[::4, ::4, 0].tobytes()] == label
            np.testing.assert_array_equal(image[..., 1], image[..., 0] // 2)
            np.testing.assert_array_equal(image[..., 2], image[..., 0] // 3)
    train, validation, test = map(hashes, parts)
    assert not train & validation and not train & test and not validation & test
    again = data.load(spec("svhn_cropped", (32, 32, 3), **where))
    np.testing.assert_array_equal(
        np.asarray(again.train["image"]), np.asarray(loaded.train["image"])
    )
    with pytest.raises(UserError, match="data.test_split is 'testing'.*'extra' .60."):
        data.load(spec("svhn_cropped", (32, 32, 3), **where, test_split="testing"))
    with pytest.raises(
        UserError, match="train_split.*test_split.*share images 40 to 49 of 'train'"
    ):
        data.load(spec("svhn_cropped", (32, 32, 3), **where, test_split="train[40:50]"))
    with pytest.raises(UserError, match=r"data.image_shape is \(32, 32, 1\)"):
        data.load(spec("svhn_cropped", (32, 32, 1), **where))


# A builder of one's own: the example of docs/data.md


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The documented builder as a module (tfds registers a name once), and its images."""
    code = re.search(
        r"```python\n(# my_data.py\n.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL
    )
    assert code[1].count("\n") <= 26
    directory = tmp_path_factory.mktemp("shapes")
    (directory / "my_data.py").write_text(code[1])
    sys.path.insert(0, str(directory))
    for i in range(100):
        cv2.imwrite(str(directory / f"{('circle', 'square')[i % 2]}_{i}.png"), IMAGES[i])
    yield directory
    sys.path.remove(str(directory))


SPLITS = {
    "train_split": "train[:80%]",
    "validation_split": "train[80%:90%]",
    "test_split": "train[90%:]",
}


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_documented_builder(file_format, shapes, tmp_path):
    where = {"data_dir": str(tmp_path / "tfds"), "manual_dir": str(shapes), **SPLITS}
    if file_format == "tfrecord":  # as others prepare their data
        pytest.importorskip("tensorflow")
        import my_data

        my_data.Shapes(data_dir=where["data_dir"]).download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=str(shapes)),
            file_format="tfrecord",
        )
    loaded = data.load(spec("my_data:Shapes", (8, 8, 1), 2, **where))
    parts = [loaded.train, loaded.validation, loaded.test]
    assert [len(part["label"]) for part in parts] == [80, 10, 10]
    known = {IMAGES[i].tobytes(): i % 2 for i in range(100)}
    for part in parts:
        for image, label in zip(np.asarray(part["image"]), part["label"]):
            assert known.pop(image.tobytes()) == label
    assert not known


def test_preparing_and_reading_need_no_tensorflow(shapes, tmp_path):
    code = f"""
import importlib.util, sys
class Without:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "tensorflow":
            raise ImportError("No module named 'tensorflow'", name="tensorflow")
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "tensorflow" else found(name, *a)
sys.meta_path.insert(0, Without()); sys.path.insert(0, {str(shapes)!r})
from aae_jax import data; from aae_jax.settings import DataSpec
loaded = data.load(DataSpec("my_data:Shapes", (8, 8, 1), 2, data_dir={str(tmp_path)!r},
    manual_dir={str(shapes)!r}, train_split="train[:50%]", validation_split="train[50%:75%]",
    test_split="train[75%:]"))
assert len(loaded.train["image"]) == 50
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "name, match",
    [
        (
            "no_such_data",
            "data.name is 'no_such_data': it must be 'digits', 'mnist', 'tfd', 'files'",
        ),
        ("my_data:Circles", "data.name is 'my_data:Circles', which can't be imported: .*Circles"),
        ("not_there:Shapes", "No module named 'not_there'"),
        ("os:path", "data.name is 'os:path': it must be"),
        ("MNIST", "data.name is 'MNIST': write 'mnist'"),
    ],
)
def test_unknown_builders(name, match, shapes, tmp_path):
    with pytest.raises(UserError, match=match) as error:
        data.load(spec(name, data_dir=str(tmp_path)))
    assert "\n" not in str(error.value)


def test_damaged_prepared_data(shapes, tmp_path, capsys):
    where = {"data_dir": str(tmp_path), "manual_dir": str(shapes), **SPLITS}
    data.load(spec("my_data:Shapes", (8, 8, 1), 2, **where))
    data.load(spec("my_data:Shapes", (8, 8, 1), 2, **where))
    assert "data.manual_dir is not used" in capsys.readouterr().out
    (path,) = tmp_path.rglob("*.array_record*")
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged: remove that directory") as error:
            data.load(spec("my_data:Shapes", (8, 8, 1), 2, **where))
        assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(UserError, match="is damaged: remove that directory"):
        data.load(spec("my_data:Shapes", (8, 8, 1), 2, **where))
    (path.parent / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="is damaged: remove its directory"):
        data.load(spec("my_data:Shapes", (8, 8, 1), 2, **where))


def test_tfrecord_is_read_in_the_order_of_array_record(shapes, tmp_path):
    """Several files per split, as for large data."""
    pytest.importorskip("tensorflow")
    import my_data

    loaded = []
    for file_format in ("array_record", "tfrecord"):
        where = str(tmp_path / file_format)
        my_data.Shapes(data_dir=where).download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=str(shapes), num_shards=5),
            file_format=file_format,
        )
        assert len(list((tmp_path / file_format).rglob(f"*.{file_format}*"))) == 5
        loaded.append(data.load(spec("my_data:Shapes", (8, 8, 1), 2, data_dir=where, **SPLITS)))
    for name in ("image", "label"):
        np.testing.assert_array_equal(*(np.asarray(d.train[name]) for d in loaded))


def test_manual_directory_is_asked_for_by_name(shapes, tmp_path):
    where = {"data_dir": str(tmp_path / "tfds"), **SPLITS}
    with pytest.raises(UserError, match="can't be downloaded: Put circle.*manual_dir=DIR"):
        data.load(spec("my_data:Shapes", (8, 8, 1), 2, **where))
    with pytest.raises(UserError, match="there is no such directory"):
        data.load(spec("my_data:Shapes", (8, 8, 1), 2, manual_dir=str(tmp_path / "no"), **where))


def test_a_disk_that_fills_leaves_nothing_half_prepared(shapes, tmp_path, monkeypatch):
    from tensorflow_datasets.core import writer

    where = {"data_dir": str(tmp_path / "tfds"), "manual_dir": str(shapes), **SPLITS}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(writer.Writer, "finalize", full)
        with pytest.raises(UserError, match="could not be prepared.*No space left on device"):
            data.load(spec("my_data:Shapes", (8, 8, 1), 2, **where))
    assert not list((tmp_path / "tfds").rglob("*.array_record*"))
    assert len(data.load(spec("my_data:Shapes", (8, 8, 1), 2, **where)).train["label"]) == 80


class Pictures(tfds.core.GeneratorBasedBuilder):
    """Pictures of any size and kind, which `data.resize` converts."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE = (None, None, 3)
    PICTURES = [np.full((20 + i, 30, 3), (8 * i, i, 255 - i), np.uint8) for i in range(20)]

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.SHAPE),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )  # fmt: skip

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, picture in enumerate(self.PICTURES):
            yield i, {"image": picture, "label": i % 2}


class Bits(Pictures):
    """Pixels 0 and 1 in 8 bits, as in binarized_mnist."""

    SHAPE = (8, 8, 3)
    PICTURES = [np.full((8, 8, 3), i % 2, np.uint8) for i in range(20)]


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_pictures_of_any_size(file_format, tmp_path):
    if file_format == "tfrecord":
        pytest.importorskip("tensorflow")
    Pictures(data_dir=tmp_path).download_and_prepare(file_format=file_format)
    fields = {"name": "test_tfds:Pictures", "data_dir": str(tmp_path), **SPLITS}
    with pytest.raises(UserError, match=r"images of .*None, None, 3.*data.resize=True converts"):
        data.load(spec(shape=(16, 16, 1), num_classes=2, **fields))
    loaded = data.load(spec(shape=(16, 16, 1), num_classes=2, resize=True, **fields))
    assert loaded.class_names == ("even", "odd")
    expected = {
        pixels.convert(picture, (16, 16, 1), "").tobytes(): i % 2
        for i, picture in enumerate(Pictures.PICTURES)
    }
    for part, count in zip((loaded.train, loaded.validation, loaded.test), (16, 2, 2)):
        assert len(part["label"]) == count
        for image, label in zip(np.asarray(part["image"]), part["label"]):
            assert expected[image.tobytes()] == label


def test_zero_and_one_in_eight_bits(tmp_path):
    Bits(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    where = {"data_dir": str(tmp_path), **SPLITS, "validation_split": "train[80%:]"}
    where["test_split"] = "train[:0]"
    with pytest.raises(UserError, match="(?i)bits.*largest pixel is 1.*builder store 0 and 255"):
        data.load(spec("test_tfds:Bits", (8, 8, 3), 2, **where))


def test_home_is_meant_by_a_tilde(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "manual").symlink_to(shapes)
    where = {"data_dir": "~/tfds", "manual_dir": "~/manual", **SPLITS}
    assert len(data.load(spec("my_data:Shapes", (8, 8, 1), 2, **where)).train["label"]) == 80
    assert (tmp_path / "tfds").is_dir()


# The Toronto Face Dataset's layout, with digits for faces


def tfd_file(size=48):
    rng = np.random.default_rng(0)
    images = np.kron(IMAGES[:200], np.ones((1, size // 8, size // 8), np.uint8))
    images[[3, 150]] = 0
    folds = np.zeros((200, 5), np.uint8)
    for k in range(5):
        folds[100:, k] = rng.permutation(np.repeat([1, 2, 3], [60, 20, 20]))
    expression = np.where(np.arange(200) < 100, -1, 1 + np.arange(200) % 7)
    return {
        "images": images,
        "labs_ex": expression[:, None].astype(np.int16),
        "labs_id": np.full((200, 1), -1, np.int16),
        "folds": folds,
    }


def save_tfd(tmp_path, file, name="TFD_48x48.mat"):
    directory = tmp_path / "manual"
    directory.mkdir(exist_ok=True)
    savemat(directory / name, file)
    return {"data_dir": str(tmp_path / "tfds"), "manual_dir": str(directory)}


@pytest.mark.parametrize(
    "name, size", [("TFD_48x48.mat", 48), ("TFD_ranzato_48x48.mat", 48), ("TFD_96x96.mat", 96)]
)
def test_tfd(name, size, tmp_path):
    file = tfd_file(size)
    where = save_tfd(tmp_path, file, name)
    loaded = data.load(spec("tfd", (size, size, 1), 7, **where))
    np.testing.assert_array_equal(loaded.train["image"][..., 0], file["images"][:100])
    assert (loaded.train["label"] == -1).all() and len(loaded.folds) == 5
    for k, fold in enumerate(loaded.folds):
        for split, part in ((fold.validation, 2), (fold.test, 3)):
            rows = file["folds"][:, k] == part
            np.testing.assert_array_equal(split["image"][..., 0], file["images"][rows])
            np.testing.assert_array_equal(split["label"], file["labs_ex"][rows, 0] - 1)
    third = data.load(spec("tfd", (size, size, 1), 7, **where, fold=3))
    np.testing.assert_array_equal(third.test["image"], loaded.folds[2].test["image"])
    assert len(third.folds) == 1
    bright = data.load(spec("tfd", (size, size, 1), 7, **where, drop_black=True))
    assert len(bright.train["image"]) == 99
    dropped = 0
    for fold, bright_fold in zip(loaded.folds, bright.folds):
        for split, bright_split in zip(fold, bright_fold):
            keep = split["image"].any(axis=(1, 2, 3))
            dropped += (~keep).sum()
            for name in ("image", "label"):
                np.testing.assert_array_equal(bright_split[name], split[name][keep])
    assert dropped > 0


def test_tfd_without_its_file_says_where_it_looked(tmp_path):
    with pytest.raises(UserError, match="Ask the authors.*TFD_48x48.mat.*--config.data.manual_dir"):
        data.load(spec("tfd", (48, 48, 1), 7, data_dir=str(tmp_path)))
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / "other.mat").touch()
    where = {"data_dir": str(tmp_path), "manual_dir": str(tmp_path / "manual")}
    with pytest.raises(UserError, match="manual', which has neither of TFD_48x48.mat and TFD_ranz"):
        data.load(spec("tfd", (48, 48, 1), 7, **where))
    for shape in ((32, 32, 1), (48, 48)):
        with pytest.raises(UserError, match=rf"image_shape is \({shape[0]}, .*48x48"):
            data.load(spec("tfd", shape, 7, **where))


def test_tfd_from_its_file_to_its_scores(tmp_path, capsys):
    """Scores all folds, then one, with one model; the checkpoint has the training statistics."""
    file = tfd_file()
    where = save_tfd(tmp_path, file)

    def run(argument, mode):
        config = config_file.get_config(argument)
        for network in ("encoder", "decoder", "discriminator"):
            config.model[f"{network}_hidden"] = (16,)
        config.train.num_steps, config.evaluation.num_samples = 8, 200
        config.train.batch_size, config.parallel.num_devices = 24, 2
        config.data.update(where)
        experiment.run(config, str(tmp_path / "run"), mode)
        return results(tmp_path / "run") if mode == "evaluate" else None

    run("", "train")
    found = run("", "evaluate")
    assert len(found["parzen/by_fold"]) == 5 and found["parzen/num_samples"] == 200
    assert "5 folds" in capsys.readouterr().out
    third = run("fold=3", "evaluate")
    assert third["parzen/log_likelihood"] == pytest.approx(
        found["parzen/by_fold"][2]["log_likelihood"], abs=0.01
    )
    assert "parzen/by_fold" not in third
    state = aae.load_state(str(tmp_path / "run"))
    train = file["images"][:100, ..., None] / 255
    np.testing.assert_allclose(state.pixel_mean, train.mean(axis=0), atol=1e-6)
    for wrong in ("fold=6", "fold=x", "3"):
        with pytest.raises((UserError, ValueError), match="1 … 5|fold=1 … fold=5"):
            run(wrong, "evaluate")


@pytest.mark.parametrize(
    "change, match",
    [
        ({"folds": None}, "TFD_48x48.mat' lacks folds: it must hold images, labs_ex"),
        ({"images": np.zeros((200, 40, 40))}, r"images is \(200, 40, 40\)"),
        ({"labs_ex": np.ones((199, 1))}, r"labs_ex is \(199, 1\): with 200 images"),
        ({"folds": np.zeros((200, 4))}, r"folds is \(200, 4\)"),
        ({"images": np.full((200, 48, 48), np.nan)}, "images ranges from nan"),
        ({"images": np.full((200, 48, 48), 300.0)}, "images ranges from 300.0 to 300.0.*0 … 255"),
        ({"images": np.full((200, 48, 48), 0.5)}, "images has fractions"),
        ({"labs_ex": np.full((200, 1), 8)}, "labs_ex ranges from 8 to 8"),
        ({"labs_ex": np.zeros((200, 1))}, "labs_ex has a 0"),
        ({"folds": np.full((200, 5), 4)}, "folds ranges from 4 to 4"),
        ({"images": np.full((200, 48, 48), "a")}, "images"),
        ("cut", "damaged, truncated or of another kind"),
        ("magic", "damaged, truncated or of another kind"),
    ],
)
def test_damaged_tfd_files(change, match, tmp_path):
    file = tfd_file()
    if isinstance(change, dict):
        file = {name: value for name, value in (file | change).items() if value is not None}
    where = save_tfd(tmp_path, file)
    path = tmp_path / "manual" / "TFD_48x48.mat"
    if change == "cut":
        path.write_bytes(path.read_bytes()[:100_000])
    if change == "magic":
        path.write_bytes(b"\x00\x01\x02\x03" * 1_000)
    for _ in range(2):  # what failed once is not there the second time
        with pytest.raises(UserError, match=match) as error:
            data.load(spec("tfd", (48, 48, 1), 7, **where))
        assert "\n" not in str(error.value)


@pytest.mark.skipif(not FACES.exists(), reason="needs the FER2013 faces in ../shared/data/faces")
@pytest.mark.slow
def test_real_faces_in_the_layout_of_tfd(tmp_path):
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / "TFD_48x48.mat").symlink_to(FACES)
    where = {"data_dir": str(tmp_path / "tfds"), "manual_dir": str(tmp_path / "manual")}
    loaded = data.load(spec("tfd", (48, 48, 1), 7, **where))
    file = loadmat(FACES)
    unlabelled = (file["folds"] == 0).all(axis=1)
    np.testing.assert_array_equal(loaded.train["image"][..., 0], file["images"][unlabelled])
    for k, fold in enumerate(loaded.folds):
        rows = file["folds"][:, k] == 3
        np.testing.assert_array_equal(fold.test["image"][..., 0], file["images"][rows])
        np.testing.assert_array_equal(fold.test["label"], file["labs_ex"][rows, 0] - 1)
    train = hashes(loaded.train)
    assert not train & hashes(loaded.validation) and not train & hashes(loaded.test)
    assert not hashes(loaded.validation) & hashes(loaded.test)
