"""scikit-learn's handwritten digits: 1,797 grey images of 8×8, shipped with scikit-learn.

They are the UCI Optical Recognition test set. Intensities of 0 … 16 are divided by 16. In a fixed
shuffle, the first 1,297 images are for training, the next 250 for validation, the last 250 for the
test.
"""

import importlib.util
import pathlib

import numpy as np

from aae_jax import data
from aae_jax.errors import UserError
from aae_jax.settings import DataSpec

_TRAIN, _VALIDATION = 1_297, 250


def load(spec: DataSpec) -> "data.Dataset":
    """The three splits; images f32[N, 8, 8, 1] in [0, 1]. The spec is not used."""
    del spec
    numbers = _read()
    images = (numbers[:, :64] / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    labels = numbers[:, 64].astype(np.int32)
    # RandomState is frozen, so every version of NumPy gives the same splits.
    order = np.random.RandomState(0).permutation(len(images))
    train, validation, test = (
        {"image": images[rows], "label": labels[rows]}
        for rows in np.split(order, [_TRAIN, _TRAIN + _VALIDATION])
    )
    return data.Dataset(train, (data.Fold(validation, test),), num_classes=10)


def _read():
    """f64[1797, 65]: 64 intensities and the label, as `sklearn.datasets.load_digits` reads them.

    The file alone: importing scikit-learn takes a quarter of a short run's start.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError(
            "data.name is 'digits', which comes with scikit-learn: pip install scikit-learn"
        )
    path = pathlib.Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.exists():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits  # of a version that keeps it elsewhere

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
