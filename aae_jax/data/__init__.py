"""Data sets as arrays: one file a source.

`load` returns a `Dataset` of NumPy arrays. Images are uint8, or float32 in [0, 1]; labels are
int32, −1 where unlabelled.
"""

from typing import NamedTuple

import numpy as np

from aae_jax.errors import UserError
from aae_jax.spec import DataSpec

Split = dict[str, np.ndarray]  # {"image": [N, H, W, C], "label": i32[N]}


class Dataset(NamedTuple):
    """Three disjoint splits, the same on every machine."""

    train: Split
    validation: Split
    test: Split
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return self.train["image"].shape[1:]


def load(spec: DataSpec) -> Dataset:
    """Loads a data set by name.

    Args:
        spec: the config's `data` section.

    Raises:
        UserError: no such data set, or its files are not there.
    """
    # Imported here so that one source's libraries are no other's requirement.
    if spec.name == "digits":
        from aae_jax.data import digits

        return digits.load()
    if spec.name == "mnist":
        from aae_jax.data import mnist

        return mnist.load(spec.data_dir, spec.manual_dir)
    raise UserError(f"data.name is {spec.name!r}: it must be one of 'digits', 'mnist'")
