"""scikit-learn's handwritten digits: 1,797 grey images of 8×8, shipped with scikit-learn.

They are the UCI Optical Recognition test set. Intensities of 0 … 16 are divided by 16. In a fixed
shuffle, the first 1,297 images are for training, the next 250 for validation, the last 250 for the
test.
"""

import numpy as np

from aae_jax import data
from aae_jax.errors import UserError
from aae_jax.settings import DataSpec

_TRAIN, _VALIDATION = 1_297, 250


def load(spec: DataSpec) -> "data.Dataset":
    """The three splits; images f32[N, 8, 8, 1] in [0, 1]. The spec is not used."""
    del spec
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "data.name is 'digits', which comes with scikit-learn: pip install scikit-learn"
        ) from None
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[..., None]
    labels = digits.target.astype(np.int32)
    # RandomState is frozen, so every version of NumPy gives the same splits.
    order = np.random.RandomState(0).permutation(len(images))
    train, validation, test = (
        {"image": images[rows], "label": labels[rows]}
        for rows in np.split(order, [_TRAIN, _TRAIN + _VALIDATION])
    )
    return data.Dataset(train, (data.Fold(validation, test),), num_classes=10)
