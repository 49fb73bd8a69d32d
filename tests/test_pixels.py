"""`data.resize`: images of other sizes, colours and depths, against pixels computed by hand."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from small import refused

from aae_jax import data
from aae_jax.data import pixels
from aae_jax.settings import DataSpec

RAMP = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)  # 0 10 … 50 / 60 …


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decode(content, shape):
    return pixels.decode(content, shape, "x", resize=True)


def test_shrinking_takes_the_mean_over_areas_of_the_centre():
    # 4×6 → 2×2: the middle 4×4, then means of 2×2: (10 + 20 + 70 + 80) / 4 = 45.
    found = decode(encoded(Image.fromarray(RAMP)), (2, 2, 1))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[..., 0], [[45, 65], [165, 185]])
    # 4×6 → 2×3 has the proportions: nothing is cut off.
    found = decode(encoded(Image.fromarray(RAMP)), (2, 3, 1))
    np.testing.assert_array_equal(found[..., 0], [[35, 55, 75], [155, 175, 195]])
    # A standing picture is cut above and below.
    found = decode(encoded(Image.fromarray(RAMP.T.copy())), (2, 2, 1))
    np.testing.assert_array_equal(found[..., 0], np.array([[45, 65], [165, 185]]).T)


def test_enlarging_is_linear_between_pixel_centres():
    # Two pixels, 0 and 100, to four: centres at −0.25, 0.25, 0.75, 1.25, clamped at the border.
    step = Image.fromarray(np.array([[0, 100], [0, 100]], np.uint8))
    found = decode(encoded(step), (4, 4, 1))
    np.testing.assert_array_equal(found[..., 0], np.tile([0, 25, 75, 100], (4, 1)))


def test_an_image_of_the_right_size_and_kind_stays_as_it_is():
    content = encoded(Image.fromarray(RAMP))
    plain = pixels.decode(content, (4, 6, 1), "x")
    np.testing.assert_array_equal(decode(content, (4, 6, 1)), plain)
    np.testing.assert_array_equal(plain[..., 0], RAMP)


def test_a_strip_does_not_become_a_sheet():
    strip = Image.fromarray(np.full((1, 5_000), 77, np.uint8))
    np.testing.assert_array_equal(decode(encoded(strip), (8, 8, 1)), 77)


COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]]], np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_colour_and_grey(kind):
    content = encoded(Image.fromarray(COLOURS), kind)
    np.testing.assert_array_equal(decode(content, (1, 4, 3)), COLOURS)
    grey = decode(content, (1, 4, 1))[0, :, 0]
    expected = COLOURS[0] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey, expected, atol=0.51)
    content = encoded(Image.fromarray(RAMP), kind)
    np.testing.assert_array_equal(decode(content, (4, 6, 3)), np.stack([RAMP] * 3, axis=-1))


def test_what_is_transparent_lies_over_white():
    rgba = np.dstack([COLOURS, np.array([[255, 0, 128, 51]], np.uint8)])
    alpha = rgba[..., 3:] / 255
    expected = COLOURS * alpha + 255 * (1 - alpha)
    found = decode(encoded(Image.fromarray(rgba)), (1, 4, 3))
    np.testing.assert_allclose(found, expected, atol=0.51)
    np.testing.assert_array_equal(found[0, :2], [[255, 0, 0], [255, 255, 255]])
    grey_alpha = np.dstack([RAMP, np.zeros_like(RAMP)])
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey_alpha)), (4, 6, 1)), 255)


def test_palettes_and_single_bits():
    palette = Image.fromarray(COLOURS).quantize(4)
    content = encoded(palette)
    np.testing.assert_array_equal(decode(content, (1, 4, 3)), np.array(palette.convert("RGB")))
    transparent = encoded(palette, transparency=palette.getpixel((0, 0)))
    np.testing.assert_array_equal(decode(transparent, (1, 4, 3))[0, 0], [255, 255, 255])
    bits = encoded(Image.fromarray(RAMP > 100))
    for resize in (False, True):  # a decoder makes 0 and 255 of them
        found = pixels.decode(bits, (4, 6, 1), "x", resize)
        np.testing.assert_array_equal(found[..., 0], np.where(RAMP > 100, 255, 0))


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_sixteen_bits_are_scaled_to_eight(suffix):
    deep = np.array([[0, 128, 129, 257, 32_768, 65_535]], np.uint16)
    content = cv2.imencode(suffix, deep)[1].tobytes()
    np.testing.assert_array_equal(decode(content, (1, 6, 1))[0, :, 0], [0, 0, 1, 1, 128, 255])


@pytest.mark.parametrize("kind, mode", [("JPEG", "L"), ("PNG", "L"), ("PNG", "RGBA")])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_held_otherwise(kind, mode, orientation):
    """The quadrants of the upright picture, stored as each orientation of the EXIF standard."""
    upright = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 24), np.uint8))
    to_stored = {  # what "0th row, 0th column" of the standard says
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright[::-1, ::-1].T,
        8: upright.T[:, ::-1],
    }
    stored = Image.fromarray(np.ascontiguousarray(to_stored[orientation])).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    found = decode(content, (32, 48, 1))[..., 0].astype(int)
    np.testing.assert_allclose(found, upright, atol=2)
    if kind == "JPEG":  # without resize the orientation is not looked at
        shape = (*stored.size[::-1], 1)
        plain = pixels.decode(content, shape, "x")
        np.testing.assert_allclose(plain[..., 0].astype(int), np.array(stored), atol=2)


def test_floats_stay_in_their_range():
    image = np.random.default_rng(0).random((9, 7, 3)).astype(np.float32)
    image[0] = 1
    for shape in ((4, 3, 1), (12, 12, 3)):
        found = pixels.convert(image, shape, "x")
        assert found.shape == shape and found.dtype == np.float32
        assert image.min() <= found.min() and found.max() <= 1
    half = np.full((2, 2, 4), 0.5, np.float32)  # 0.5 · 0.5 + 0.5
    np.testing.assert_array_equal(pixels.convert(half, (2, 2, 3), "x"), 0.75)


@pytest.mark.parametrize(
    "image, match",
    [
        (np.zeros((4, 4), np.float64), "x is .4, 4, 1. of float64"),
        (np.zeros((4, 4, 2), np.uint8), "x is .4, 4, 2. of uint8.*grey, RGB and RGBA"),
    ],
)
def test_what_is_not_converted(image, match):
    with refused(match):
        pixels.convert(image, (4, 4, 1), "x")


def test_floats_in_image_files_are_refused(tmp_path):
    Image.fromarray(np.full((4, 6), 0.5, np.float32)).save(tmp_path / "a.tif")
    for resize in (False, True):
        with refused(
            r"a.tif' holds float32: image files must have 8 or 16 bits; save floats in an"
        ):
            data.load(DataSpec("files", (4, 6, 1), 2, path=str(tmp_path), resize=resize))


def test_lazy_images_are_uint8_however_they_are_read():
    images = data.LazyImages(lambda rows: np.zeros((len(rows), 2, 2, 1), np.float32), 3, (2, 2, 1))
    with pytest.raises(TypeError, match="decoded to float32, not to uint8"):
        np.asarray(images)


def test_a_directory_of_all_kinds(tmp_path):
    """Without `data.resize`, each is refused, and the error names the field."""
    images = [
        Image.fromarray(np.full((20 + i, 30, 3), 8 * i, np.uint8)).convert(mode)
        for i, mode in enumerate(["L", "RGB", "RGBA", "P", "1", "CMYK"] * 5)
    ]
    for i, image in enumerate(images):
        kind = "tiff" if image.mode == "CMYK" else "png"
        image.save(tmp_path / f"{i}.{kind}")
    spec = {"name": "files", "num_classes": 2, "path": str(tmp_path)}
    with refused(r"is \(20, 30, 1\) of uint8.*data.resize=True converts images"):
        data.load(DataSpec(**spec, image_shape=(16, 16, 3)))
    loaded = data.load(DataSpec(**spec, image_shape=(16, 16, 3), resize=True))
    parts = [loaded.train, loaded.validation, loaded.test]
    assert sum(len(part["label"]) for part in parts) == 30
    assert all(np.asarray(part["image"]).shape[1:] == (16, 16, 3) for part in parts)


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_arrays_are_converted_too(channels, tmp_path):
    shape = (30, 10, 14) if channels is None else (30, 10, 14, channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(30))
    spec = {"name": "files", "num_classes": 30, "path": str(tmp_path / "a.npz")}
    for wanted in ((5, 5, 1), (5, 5, 3)):
        with refused(r"data.image_shape is .*are \(10, 14, \d\).*data.resize=True"):
            data.load(DataSpec(**spec, image_shape=wanted))
        loaded = data.load(DataSpec(**spec, image_shape=wanted, resize=True))
        for part in (loaded.train, loaded.validation, loaded.test):
            for image, label in zip(np.asarray(part["image"]), part["label"]):
                expected = pixels.convert(images[label], wanted, "x")
                np.testing.assert_array_equal(image, expected)
