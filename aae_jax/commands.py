"""The commands of `python -m aae_jax`: a trained model applied to files and data sets in blocks."""

import contextlib
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax import arrays, data, exporting, novelty, train_state
from aae_jax.arguments import as_condition, as_key, as_labels, check_range, check_shape
from aae_jax.config import parse_config
from aae_jax.errors import UserError
from aae_jax.train_state import TrainState
from aae_jax.workdir import records, terminal

_BLOCK = 1_000  # rows at a time


class Rows(NamedTuple):
    """The rows that a command processes, with their labels and conditions."""

    values: Any  # images [N, H, W, C] or codes [N, D]: sliced, never whole in memory
    origin: str  # where they come from, for messages
    label: np.ndarray | None = None  # i32[N] or f[N, K]
    condition: np.ndarray | None = None  # f[N, K]
    asked: tuple[str, ...] = ()  # "label", "condition": given by the user for all rows


def rows_of_file(value: str, kind: str) -> Rows:
    """The rows of `--input`.

    Args:
        value: "file.npy", "file.npz" or "file.npz:name"; an npz file may also hold `labels` and
            `conditions` of the rows.
        kind: "images" or "codes", the array to read if there are several and `value` names none.
    """
    found = arrays.read("input", value, kind, ("labels", "conditions"))
    label = found.get("labels")
    if label is not None and label.dtype.kind in "iu":
        label = label.astype(np.int32)
    return Rows(found[kind], f"--input is {value!r}", label, found.get("conditions"))


def rows_of_run(workdir: str, split: str) -> Rows:
    """The images of a run's own data, of the first fold: "train", "validation" or "test"."""
    settings = parse_config(records.read_config(workdir))
    found = getattr(data.load(settings.data), split)
    origin = f"the {split} images of {settings.data.name!r}"
    return Rows(found["image"], origin, found["label"], found.get("condition"))


def for_all(rows: Rows, label: int | None, condition: list[float] | None) -> Rows:
    """The rows with one label or one condition for all; None keeps each row's own."""
    given: dict[str, Any] = {}
    if label is not None:
        given["label"] = np.full(len(rows.values), label, np.int32)
    if condition is not None:
        given["condition"] = np.tile(np.asarray(condition, np.float32), (len(rows.values), 1))
    return rows._replace(**given, asked=tuple(given))


def encode(state: TrainState, rows: Rows, output: str, seed: int | None = None) -> None:
    """Writes `codes` f[N, D] of images, and `labels` and `conditions` if they are known.

    Labels that name classes are left out if the model has clusters: `decode` would take them for
    clusters.

    Args of this and the functions below:
        state: a trained state.
        rows: images; codes for `decode`; `rows_of_samples` for `sample`.
        output: an npz file, or an npy file for the first array alone. The file appears, or is
            replaced, once it is complete.
        seed: the seed of a stochastic posterior's noise; None: its mean.

    Raises:
        UserError: the rows do not fit the model, or the output can't be written.
    """
    _check_images(state, rows)
    if not state.spec.algorithm.names_classes(state.spec):
        rows = rows._replace(label=None)
    program = jax.jit(train_state.encode)

    def block(index, part):
        _check_values(state, rows, index, part)
        return {"codes": program(state, part.values, _key(seed, index))}

    _write(output, rows, block, "image")


def decode(state: TrainState, rows: Rows, output: str) -> None:
    """Writes `images` f[N, H, W, C] of codes, and `labels` and `conditions` if they are known."""
    spec = state.spec
    with _said_of(rows.origin):
        check_shape("codes", _abstract(rows.values), (spec.model.code_dim,))
    names = [name for name in _BESIDE if spec.decoder_takes(name)]
    rows = _checked(spec, rows, names)
    program = jax.jit(train_state.decode)

    def block(index, part):
        z = jnp.asarray(part.values, spec.model.param_dtype)
        with _said_of(_place(rows, index)):
            check_range("codes", z)
        return {"images": program(state, z, **_given(part, names))}

    _write(output, rows, block, "code")


def classify(state: TrainState, rows: Rows, output: str) -> None:
    """Writes `classes` f[N, K], the probabilities of images' classes or clusters, and what is known."""
    _check_images(state, rows)
    program = jax.jit(train_state.classify)

    def block(index, part):
        _check_values(state, rows, index, part)
        return {"classes": program(state, part.values)}

    _write(output, rows, block, "image")


def score(state: TrainState, rows: Rows, output: str, seed: int | None = None) -> None:
    """Writes `aae.score` of images: `by_pixel`, `reconstruction` and, if there is one, `code`.

    `by_pixel` takes as much space as the images as floats. The output must be an npz file.
    """
    _check_images(state, rows)
    names = [name for name in _BESIDE if novelty.takes(state.spec, name)]
    rows = _checked(state.spec, rows, names)
    program = jax.jit(novelty.score)

    def block(index, part):
        _check_values(state, rows, index, part)
        found = program(state, part.values, **_given(part, names), key=_key(seed, index))._asdict()
        found = {"by_pixel": found.pop("by_pixel"), **found}  # the first array is streamed
        return {name: value for name, value in found.items() if value is not None}

    _write(output, rows, block, "image")


def sample(state: TrainState, rows: Rows, output: str, seed: int = 0) -> None:
    """Writes samples as `images` f[N, H, W, C], and `labels` and `conditions` if they are given."""
    size = min(_BLOCK, len(rows.values))
    # One row for all: the last block is drawn in full and cut afterwards.
    first = {name: getattr(rows, name)[0] for name in rows.asked}
    spec = state.spec
    if "label" in first:
        as_labels(first["label"], size, spec.num_labels)
    if "condition" in first and spec.model.condition_in_decoder:
        as_condition(spec, first["condition"], size)
    elif spec.model.condition_in_decoder:
        raise UserError("model.condition_in_decoder is True: give --condition")
    program = jax.jit(train_state.generate, static_argnums=2)

    def block(index, part):
        images = program(state, _key(seed, index), size, **first)
        return {"images": images[: len(part.values)]}

    _write(output, rows, block, "sample")


def rows_of_samples(num_samples: int) -> Rows:
    """Empty rows, one for each sample to draw."""
    if num_samples < 1:
        raise UserError(f"--num_samples is {num_samples}: it must be at least 1")
    return Rows(np.broadcast_to(np.zeros((1, 0)), (num_samples, 0)), "--num_samples")


def export(state: TrainState, directory: str) -> None:
    """Writes the programs of `aae.export` into a directory, as `encode.stablehlo` and so on."""
    for name, program in exporting.export(state).items():
        path = os.path.join(directory, f"{name}.stablehlo")
        arrays.write_bytes(path, program.serialize())
        terminal.say(f"{path}: {', '.join(a.str_short() for a in program.in_avals)}")


_BESIDE = ("label", "condition")


@contextlib.contextmanager
def _said_of(origin):
    """Adds to an error where the refused numbers come from."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{origin}: {error}") from error


def _place(rows, index):
    stop = min(len(rows.values), (index + 1) * _BLOCK)
    return f"{rows.origin}, rows {index * _BLOCK} to {stop - 1}"


def _key(seed, index):
    """The key of a block."""
    return None if seed is None else jax.random.fold_in(as_key(seed), index)


def _abstract(values):
    """A stand-in for an array that has its shape alone."""
    return jax.ShapeDtypeStruct(values.shape, np.float32)


def _check_images(state, rows):
    with _said_of(rows.origin):
        check_shape("images", _abstract(rows.values), state.spec.image_shape)


def _check_values(state, rows, index, part):
    """Checks the range of a block, which compiled programs can't see."""
    with _said_of(_place(rows, index)):
        train_state.to_inputs(state, part.values)


def _checked(spec, rows, names):
    """The rows, with their labels and conditions checked and converted.

    Raises:
        UserError: labels or conditions are missing or don't fit, or the model takes none.
    """
    for name in rows.asked:
        if name not in names:
            raise UserError(f"--{name} is given, but the model takes no {name}")
    for name in names:
        if getattr(rows, name) is None and spec.decoder_takes(name):
            raise UserError(
                f"the decoder takes a {name}: give --{name}, or an array '{name}s' in the npz file of "
                "--input"
            )
    num_rows, checked = len(rows.values), {}
    with _said_of(rows.origin):
        if "label" in names and rows.label is not None:
            label = as_labels(rows.label, num_rows, spec.num_labels, spec.least_label)
            checked["label"] = np.asarray(label)
        if "condition" in names and rows.condition is not None:
            checked["condition"] = np.asarray(as_condition(spec, rows.condition, num_rows))
    return rows._replace(**checked)


def _given(part, names):
    return {name: getattr(part, name) for name in names}


def _write(output, rows, program, unit):
    """Streams a program's output for each block into a file, with labels and conditions."""
    num_rows = len(rows.values)

    def blocks():
        with terminal.Progress(num_rows, unit) as progress:
            for index, start in enumerate(range(0, num_rows, _BLOCK)):
                chosen = slice(start, start + _BLOCK)
                known = {n: getattr(rows, n) for n in _BESIDE if getattr(rows, n) is not None}
                known = {name: value[chosen] for name, value in known.items()}
                part = Rows(np.asarray(rows.values[chosen]), rows.origin, **known)
                made = jax.device_get(program(index, part))
                yield made | {f"{name}s": value for name, value in known.items()}
                progress.show(min(num_rows, start + _BLOCK))

    written = arrays.write(output, num_rows, blocks())
    shown = (
        f"{name} {value.dtype}{[num_rows, *value.shape[1:]]}" for name, value in written.items()
    )
    terminal.say(f"{output}: {', '.join(shown)}")
