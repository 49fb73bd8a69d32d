"""A user's own data: a file of arrays, a table, or a directory of images."""

import os
from typing import Any

from aae_jax import data
from aae_jax.checks import expand_home
from aae_jax.data import arrays, folders
from aae_jax.data.division import divide
from aae_jax.errors import UserError
from aae_jax.settings import DataSpec

_KINDS = "an .npz, .npy, .mat, .h5, .hdf5 or .csv, or a directory of images"


def load(spec: DataSpec) -> "data.Dataset":
    """Reads what `data.path` names.

    - arrays (`.npz`, `.mat`, `.h5`): `images` [N, …] and, if there are any, `labels` and
      `conditions`; or those of each split; or under the names of Keras, SVHN or `np.savez`.
    - a bare `.npy`; a `.csv` whose rows are examples.
    - a directory of image files, with or without a sub-directory for each class; the whole may be
      divided into `train`, `val` and `test`.

    docs/data.md lists the names and how each is read.

    Raises:
        UserError: the data are wrong; the message names the file, the fault and the remedy.
    """
    path = os.path.abspath(expand_home("data.path", spec.path))
    if os.path.isdir(path):
        if spec.label_column is not None or spec.condition_dim:
            raise UserError(
                f"data.label_column is {spec.label_column!r} and data.condition_dim "
                f"{spec.condition_dim}: {path!r} is a directory, which has neither"
            )
        found: Any = folders.read(path, spec)
    elif os.path.isfile(path):
        found = arrays.read(path, spec)
    else:
        raise UserError(
            f"data.path is {path!r}: there is no such file or directory; it must be {_KINDS}"
        )
    if found is None:
        raise UserError(f"data.path is {path!r}: it must be {_KINDS}")
    parts, class_names = found
    return divide(path, parts, spec.num_classes, class_names)
