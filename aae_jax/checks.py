"""Checks of the fields of frozen dataclasses; each failure is a one-line error."""

import dataclasses
import math
import os
import types
import typing
from typing import Any

from aae_jax.errors import UserError


def check_types(instance: Any, section: str) -> None:
    """Compares each field of a dataclass with its annotation; makes float fields floats."""
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if not has_type(value, field.type):
            raise UserError(
                f"{section}.{field.name} is {value!r}: it must be {_describe(field.type)}"
            )
        if field.type is float:
            object.__setattr__(instance, field.name, float(value))


def has_type(value: Any, hint: Any) -> bool:
    """Whether a value has the type that an annotation gives."""
    if hint is Any:
        return True
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(has_type(v, item) for v in value)
    if isinstance(hint, types.UnionType):
        return any(has_type(value, option) for option in typing.get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**300)
    return isinstance(value, hint)


def _describe(hint) -> str:
    if typing.get_origin(hint) is tuple:
        return f"a tuple of {'numbers' if typing.get_args(hint)[0] is float else 'integers'}"
    if isinstance(hint, types.UnionType):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    names = {
        int: "an integer",
        float: "a number",
        str: "a string",
        bool: "True or False",
        type(None): "None",
    }
    return names.get(hint, hint.__name__)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises unless the value is one of the choices."""
    if value not in choices:
        raise UserError(f"{name} is {value!r}: it must be one of {', '.join(map(repr, choices))}")


def check_positive(
    name: str, value: float, shown: Any = None, least: float = 0, most: float = 2**31 - 1
) -> None:
    """Raises unless the value is positive and within bounds; the message shows `shown` instead."""
    shown = value if shown is None else shown
    if not 0 < value < float("inf"):
        raise UserError(f"{name} is {shown}: it must be positive")
    if not least <= value <= most:
        raise UserError(f"{name} is {shown}: it must be from {least or 1:g} to {most:g}")


def check_length(name: str, value: float, shown: Any = None) -> None:
    """Raises unless a length's square, and one over its square, are in float32's range."""
    check_positive(name, value, shown, least=1e-6, most=1e6)


def check_noise(name: str, std: float) -> None:
    """Raises unless the std of noise is 0, for none, or a length."""
    if not 0 <= std < float("inf"):
        raise UserError(f"{name} is {std}: it must be 0 or more")
    if std:
        check_length(name, std)


def check_first_step(options: Any, name: str, what: str) -> None:
    """Raises unless the option `name` is a step, from which on the option `what` is used, or not."""
    first, used = getattr(options, name), getattr(options, what)
    if not 0 <= first < 2**31:
        raise UserError(f"options.{name} is {first}: it is a step, and must be 0 or more")
    if first and not used:
        raise UserError(f"options.{name} is {first}, but options.{what} is {used}: set both")


def check_begins(spec: Any, name: str) -> None:
    """Raises unless the training reaches the step that the option `name` gives, if it is given."""
    first = getattr(spec.options, name)
    if first and first >= spec.train.num_steps:
        raise UserError(
            f"options.{name} is {first}: it must be below train.num_steps and run.max_steps, here "
            f"{spec.train.num_steps}"
        )


def check_share(name: str, value: float) -> None:
    """Raises unless the value is at least 0 and below 1, in float32 too."""
    if not 0.0 <= value <= 1 - 2**-24:  # the largest float32 below 1
        raise UserError(f"{name} is {value}: it must be at least 0 and below 1")


def check_image_shape(name: str, shape: Any) -> None:
    """Raises unless the shape is an image's, or another array's with at least one axis."""
    if not (has_type(shape, tuple[int, ...]) and shape and min(shape) > 0):
        raise UserError(
            f"{name} is {shape!r}: it must be (height, width, channels), or another shape of "
            "examples, such as (20,)"
        )


def have_same_order(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether arrays of these shapes, flattened to rows, have their numbers in the same order.

    Rows [N, P] match any images of P numbers. Images must have the same axes, except that a single
    channel may be left out: [N, H, W] matches [N, H, W, 1].
    """

    def axes(shape):
        return shape[1:-1] if len(shape) > 3 and shape[-1] == 1 else shape[1:]

    if min(len(shape), len(other)) <= 2:
        return math.prod(shape[1:]) == math.prod(other[1:])
    return axes(shape) == axes(other)


def expand_home(name: str, path: Any) -> str:
    """A path with its leading "~" or "~user" replaced; an empty path is refused."""
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"{name} is {path!r}: it must be a path")
    path = os.fspath(path)
    expanded = os.path.expanduser(path)
    if not path or (path.startswith("~") and not os.path.isabs(expanded)):
        why = "it is empty" if not path else "there is no such home directory"
        raise UserError(f"{name} is {path!r}: {why}; name a path")
    return expanded
