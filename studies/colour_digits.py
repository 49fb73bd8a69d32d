"""Street numbers made of MNIST: 32×32 colour images in the layout of SVHN's files.

    python -m studies.colour_digits --output=colour.mat [--data_dir=DIR]
    python launch.py --config=experiments/fig5.py:b --config.data.name=files \\
        --config.data.path=colour.mat

A substitute when SVHN is not available. As in SVHN, the labelled digit is in the middle, parts of
other digits are at its sides, and colours, contrast and noise differ from image to image. The
digits are MNIST's, so results are not comparable with SVHN's.
"""

import cv2
import numpy as np
import scipy.io
from absl import app, flags, logging

from aae_jax import data
from benchmarks import inputs

_OUTPUT = flags.DEFINE_string("output", None, "The .mat file to write.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Data of tensorflow-datasets; None: its default.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 70_000, "The first of MNIST's.", lower_bound=1)


def street_number(random, digits, index):
    """Image `index` between two others, u8[32, 32, 3]."""

    def digit(i):
        return cv2.resize(digits[i], (24, 24)).astype(np.float32) / 255

    mask = np.zeros((32, 64), np.float32)
    mask[4:28, 20:44] = digit(index)
    for left in (2, 38):
        if random.rand() < 0.6:
            side = mask[4:28, left : left + 24]
            np.maximum(side, digit(random.randint(len(digits))), out=side)
    background, ink = random.rand(3), random.rand(3)
    if abs(background.mean() - ink.mean()) < 0.3:
        ink = 1 - background
    image = background + (ink - background) * mask[:, 16:48, None]
    image += 0.03 * random.randn(32, 32, 3)
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)
    mnist = data.load(inputs.mnist_spec(_DATA_DIR.value))
    splits = mnist.train, mnist.folds[0].validation, mnist.folds[0].test
    digits, label = (
        np.concatenate([np.asarray(split[name]) for split in splits]) for name in ("image", "label")
    )
    digits, label = digits[..., 0], label[: _NUM_IMAGES.value]
    random = np.random.RandomState(0)
    images = np.stack([street_number(random, digits, i) for i in range(len(label))])
    # SVHN's files hold [H, W, C, N], and 10 for the digit 0.
    labels = np.where(label == 0, 10, label)[:, None]
    scipy.io.savemat(_OUTPUT.value, {"X": np.moveaxis(images, 0, -1), "y": labels})
    print(f"{_OUTPUT.value}: {len(images)} images")


if __name__ == "__main__":
    app.run(main)
