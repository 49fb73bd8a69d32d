"""Arrays of a file → splits: finds images, labels and conditions, and the order of axes."""

import numpy as np

from aae_jax.data import readers
from aae_jax.data.division import ALL, Part, hash_of
from aae_jax.data.labels import read_labels, tell_classes
from aae_jax.data.pixels import convert, refuse_zero_one
from aae_jax.errors import UserError
from aae_jax.settings import DataSpec

# Names, in small letters, of images, labels and conditions.
_WHOLE = (("images", "x", "arr_0"), ("labels", "y", "arr_1"), ("conditions",))
_OF_SPLIT = (("{}_images", "x_{}"), ("{}_labels", "y_{}"), ("{}_conditions", "conditions_{}"))
_SPLITS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
_ROUNDING = 1e-5  # a float32 pixel that was computed leaves [0, 1] by no more
_LINEAR = "data.standardise=True with model.output='linear'"


def read(path: str, spec: DataSpec) -> tuple[dict[str, Part], tuple[str, ...] | None] | None:
    """The splits of a file, and the names of its classes if labels are words.

    None if the kind of the file is unknown.

    Raises:
        UserError: the file is wrong; the message names the file, the fault and the remedy.
    """
    if path.lower().endswith(".csv"):
        stored = _as_examples(path, readers.read_csv(path, spec.label_column), spec)
    elif spec.label_column is not None:
        raise UserError(f"data.label_column is {spec.label_column!r}: only a .csv has columns")
    else:
        stored = readers.read(path, spec.image_shape)
    if stored is None:
        return None
    is_svhn = path.lower().endswith(".mat") and "X" in stored and "images" not in stored
    is_svhn = is_svhn and stored["X"].ndim > 2
    if is_svhn:  # [H, W, C, N]
        stored["X"] = np.moveaxis(stored["X"], -1, 0)
    names = _names(path, stored)
    splits = {role: _split(path, stored, chosen, spec) for role, chosen in names.items()}
    if ALL not in splits:
        _check_alike(path, splits, spec)
    class_names = _add_labels(path, stored, names, splits, spec)
    if is_svhn and spec.num_classes == 10:  # which writes the digit 0 as 10
        for split in splits.values():
            split["label"] = np.where(split["label"] == 10, 0, split["label"])
    return {role: _part(split) for role, split in splits.items()}, class_names


def _names(path, stored):
    """For each split the names of its images, labels and conditions; None if there are none."""
    lower = {name.lower(): name for name in stored}

    def first(patterns, *splits):
        names = [pattern.format(split) for pattern in patterns for split in splits or ("",)]
        return next((lower[name] for name in names if name in lower), None)

    found = {
        role: [first(patterns, *splits) for patterns in _OF_SPLIT]
        for role, splits in _SPLITS.items()
    }
    found = {role: chosen for role, chosen in found.items() if chosen[0]}
    if "train" not in found:
        found = {ALL: [first(patterns) for patterns in _WHOLE]}
    if found.get(ALL, [True])[0] is None:
        raise UserError(
            f"{path!r} has {', '.join(sorted(stored)) or 'nothing'}: it must have 'images' (and "
            "'labels'), or 'train_images', 'val_images' and 'test_images', or 'x_train' and "
            "'x_test' as Keras has them"
        )
    if any(name.startswith("arr_") and name not in ("arr_0", "arr_1") for name in stored):
        raise UserError(
            f"{path!r} has {', '.join(sorted(stored))}: more than images and labels need names, "
            "as in np.savez(path, x_train=…, y_train=…, x_test=…, y_test=…)"
        )
    unread = sorted(set(stored) - {name for chosen in found.values() for name in chosen})
    if unread:
        print(f"{path!r}: not read: {', '.join(unread)[:300]}", flush=True)
    return found


def _split(path, stored, chosen, spec):
    """Images, and conditions if they are read."""
    images, _, conditions = chosen
    split = {"image": _examples(f"{path!r}: {images}", stored[images], spec)}
    if spec.condition_dim:
        if conditions is None:
            raise UserError(
                f"data.condition_dim is {spec.condition_dim}, and {path!r} has no conditions for "
                f"{images}: docs/data.md says how they are called"
            )
        split["condition"] = _conditions(
            f"{path!r}: {conditions}", stored[conditions], len(split["image"]), spec
        )
    elif conditions is not None:
        dim = stored[conditions].shape[-1] if stored[conditions].ndim > 1 else 1
        print(f"{path!r}: {conditions} is not read; data.condition_dim={dim} reads it", flush=True)
    return split


def _conditions(name, values, num_examples, spec):
    """f32[N, K]."""
    if values.ndim == 1:
        values = values[:, None]
    if values.shape != (num_examples, spec.condition_dim):
        raise UserError(
            f"{name} is {values.shape}: with {num_examples} images and data.condition_dim = "
            f"{spec.condition_dim} it must be {(num_examples, spec.condition_dim)}"
        )
    return _finite(name, values)


def _finite(name, values):
    """float32 of numbers of any range."""
    if values.dtype.kind not in "biuf":
        raise UserError(f"{name} is {values.dtype}: it must be numbers")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite((values.min(), values.max())).all():
        raise UserError(f"{name} contains NaN or infinity, or exceeds float32's range")
    return values


def _examples(name, values, spec):
    """uint8 pixels, or float32, in the shape of `data.image_shape`."""
    wanted = spec.image_shape
    if values.dtype == object:
        raise UserError(f"{name} holds objects: arrays of numbers are needed")
    if 0 in values.shape or values.ndim == 0:
        raise UserError(f"{name} is {values.shape}: there are no examples in it")
    _check_order(name, values.shape, wanted)
    fits = values.shape[1:] == wanted or (*values.shape[1:], 1) == wanted
    if not fits:
        _check_convertible(name, values.shape, spec)
    values = _numbers(name, values, spec)
    if not fits or values.dtype == np.uint16:
        return np.stack([convert(image, wanted, name) for image in values])
    return values.reshape(len(values), *wanted)


def _numbers(name, values, spec):
    """uint8, float32, or uint16 if `data.resize` will convert it to 8 bits."""
    kind = values.dtype.kind
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind not in "iuf":
        raise UserError(f"{name} is {values.dtype}: it must be uint8, or floats in [0, 1]")
    if values.dtype == np.uint8:
        return values
    if spec.standardise:
        return _finite(name, values)
    low, high = values.min(), values.max()
    if kind == "f":
        if not (np.isfinite(low) and np.isfinite(high)):
            raise UserError(f"{name}: pixels must be finite, but they contain NaN or infinity")
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise UserError(
                f"{name}: pixels range from {low:.4g} to {high:.4g}; floats must lie in [0, 1], "
                f"and 0 … 255 must be stored as uint8; numbers of another range need {_LINEAR}"
            )
        return np.clip(values, 0, 1).astype(np.float32)
    if low >= 0 and high <= 255:
        return values.astype(np.uint8)
    if values.dtype == np.uint16 and spec.resize:
        return values
    raise UserError(
        f"{name} is {values.dtype} and ranges from {low} to {high}: integers must be pixels of 0 … "
        f"255; scale them to floats in [0, 1], or set {_LINEAR}"
    )


def _check_convertible(name, shape, spec):
    """Raises unless `data.resize` is set for examples of another shape."""
    wanted, found = spec.image_shape, shape[1:]
    shown = (*found, 1) if len(found) == 2 and len(wanted) == 3 else found
    if not (len(wanted) == len(shown) == 3 and shown[2] in (1, 3, 4) and wanted[2] in (1, 3)):
        one_less = f" or (N, {', '.join(map(str, wanted[:-1]))})" if wanted[-1] == 1 else ""
        stated = f", or data.image_shape={found}" if found else ""
        raise UserError(
            f"{name} is {shape}: with data.image_shape = {wanted} it must be "
            f"(N, {', '.join(map(str, wanted))}){one_less}{stated}"
        )
    if not spec.resize:
        raise UserError(
            f"data.image_shape is {wanted} in the config, but {name} are {shown}, (height, width, "
            "channels); data.resize=True converts images"
        )


def _check_order(name, shape, wanted):
    """Raises for (N, channels, height, width), and if N is the last axis."""
    found = shape[1:]
    if len(found) == 3:
        channels, height, width = found
        right = (height, width, channels)
        small = channels in (1, 3, 4) and min(height, width) > 4
        if small or (right == wanted != found):
            raise UserError(
                f"{name} is {shape}, which looks like (N, channels, height, width): it must be "
                "(N, height, width, channels), as images.transpose(0, 2, 3, 1) is, with "
                f"data.image_shape={right}"
            )
    fits = found == wanted or (*found, 1) == wanted
    if not fits and (shape[:-1] == wanted or (*shape[:-1], 1) == wanted):
        raise UserError(
            f"{name} is {shape}, which looks like (…, N): the examples must be the first axis, as "
            "np.moveaxis(images, -1, 0) has them"
        )


def _as_examples(path, stored, spec):
    """A table's rows as examples; their type is inferred from their values."""
    rows = stored["images"]
    size = int(np.prod(spec.image_shape))
    if rows.shape[1] != size:
        beside = " beside the labels" if "labels" in stored else ""
        raise UserError(
            f"{path!r} has {rows.shape[1]} columns{beside}: with data.image_shape = "
            f"{spec.image_shape} there must be {size} (data.label_column names the labels')"
        )
    low, high = rows.min(initial=0), rows.max(initial=0)
    if not spec.standardise and low >= 0 and 1 < high <= 255 and (rows == np.floor(rows)).all():
        rows = rows.astype(np.uint8)
    return {**stored, "images": rows.reshape(len(rows), *spec.image_shape)}


def _check_alike(path, splits, spec):
    kinds = {role: str(split["image"].dtype) for role, split in splits.items()}
    if spec.standardise and len(set(kinds.values())) > 1:
        raise UserError(
            f"{path!r}: images are {kinds}: with data.standardise all must be of one type"
        )


def _add_labels(path, stored, names, splits, spec):
    """Adds `label` to each split; returns the names of the classes."""
    labelled = {
        role: (name, stored[name], len(splits[role]["image"]))
        for role, (_, name, _) in names.items()
        if name
    }
    labels, class_names = read_labels(path, labelled, spec.num_classes)
    for role, split in splits.items():
        split["label"] = labels.get(role, np.full(len(split["image"]), -1, np.int32))
    if class_names:
        tell_classes(path, class_names)
    largest = max(
        (split["image"].max() if split["image"].dtype == np.uint8 else 256)
        for split in splits.values()
    )
    refuse_zero_one(f"{path!r}: images", largest, "store them as bool, as floats, or as 0 and 255")
    return class_names


def _part(split):
    hashes = [hash_of(image) for image in split["image"]]
    return Part(hashes, lambda rows: {name: values[rows] for name, values in split.items()})
