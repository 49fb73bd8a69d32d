"""Conversion and checks of the arguments of the library's functions.

Values are checked when they are known. Under `jit`, `vmap` and `pmap`, only shapes and types are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax.errors import UserError, in_one_line
from aae_jax.spec import Spec

SLACK = 1e-3  # how far pixels may leave [0, 1]: the rounding of resizing and half precision


def as_array(name: str, value: Any) -> jax.Array:
    """Converts arrays, lists of numbers and tensors of other libraries to a JAX array.

    Args:
        name: the argument's name, for messages.
        value: anything that `np.asarray` takes, or a traced array.

    Raises:
        UserError: the value does not hold numbers.
    """
    if isinstance(value, jax.Array):
        return value
    try:
        host = np.asarray(value)
        if host.dtype == object or host.dtype.kind in "USMmc":
            raise TypeError(f"it holds {host.dtype}")
        return jnp.asarray(host)
    except Exception as error:  # other libraries may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name} is a {type(value).__name__}: it must be an array of numbers ({reason})"
        ) from error


def as_key(key: Any) -> jax.Array:
    """A PRNG key, from `jax.random.key`, from `jax.random.PRNGKey`, or from a seed."""
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return in_one_line(f"key is {key}: jax.random.key", jax.random.key, key)
    if isinstance(key, (jax.Array, np.ndarray)):
        if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0:
            return key  # type: ignore[return-value]  # only JAX arrays have such a dtype
        if key.dtype == np.uint32 and key.ndim == 1:
            return in_one_line("key", jax.random.wrap_key_data, jnp.asarray(key))
    shown = f"of shape {key.shape}" if hasattr(key, "shape") else repr(key)
    raise UserError(f"key is {shown}: it must be a PRNG key, such as jax.random.key(0), or a seed")


def check_count(name: str, value: Any) -> None:
    """Raises unless the value is an integer, at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise UserError(f"{name} is {value!r}: it must be an integer, at least 1")


def is_known(value: Any) -> bool:
    """Whether the values of an array can be read: it is neither traced nor on other machines."""
    return not isinstance(value, jax.core.Tracer) and getattr(value, "is_fully_addressable", True)


def check_shape(name: str, value: jax.Array, shape: tuple[int, ...]) -> None:
    """Raises unless an argument is [B, *shape]."""
    if value.ndim == len(shape) + 1 and value.shape[1:] == shape:
        return
    wanted = f"[B, {', '.join(map(str, shape))}]"
    hint = ""
    if value.shape == shape:
        hint = f"; for a single one, give {name}[None]"
    elif sorted(value.shape[1:]) == sorted(shape):
        hint = ", with the axes in this order"
    raise UserError(f"{name} has shape {value.shape}: it must be {wanted}{hint}")


def check_range(name: str, values: jax.Array, beyond: float | None = None) -> None:
    """Raises if known values are not finite or lie outside [0, 1].

    Args:
        name: the argument's name, for messages.
        values: f[B, …]; uint8 and bools are always in range.
        beyond: how far outside [0, 1] values may lie; None: any distance.
    """
    if values.dtype in (jnp.uint8, jnp.bool_) or values.size == 0 or not is_known(values):
        return
    with jax.ensure_compile_time_eval():  # known values in a jitted function of the user's
        low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{name} contain NaN or inf: they must be finite")
    if beyond is not None and not -beyond <= low <= high <= 1 + beyond:
        raise UserError(
            f"{name} range from {low:.4g} to {high:.4g}: floats must lie in [0, 1], and 0 … 255 "
            "must be uint8"
        )


def as_labels(label: Any, num_rows: int, num_classes: int, least: int = -1) -> jax.Array:
    """Labels i32[N] from a scalar or [N]; soft classes f[N, K] are returned unchanged.

    Args:
        label, num_rows, num_classes: the labels, N and K.
        least: the smallest label; −1: a row may have none.

    Raises:
        UserError: wrong shape or type, or known labels outside `least` … K − 1.
    """
    label = as_array("label", label)
    one_class = num_classes == 1 and jnp.issubdtype(label.dtype, jnp.integer)  # [N, 1] is [N] then
    if label.shape == (num_rows, num_classes) and not one_class:
        if is_known(label):
            with jax.ensure_compile_time_eval():
                are_shares = bool((jnp.isfinite(label) & (label >= 0)).all())
            if not are_shares:
                raise UserError(
                    "label [N, K] has negative values, NaN or inf: soft classes are shares"
                )
        return label if jnp.issubdtype(label.dtype, jnp.floating) else label.astype(jnp.float32)
    if label.shape == (num_rows, 1):
        label = label[:, 0]
    if label.shape not in ((), (num_rows,)):
        raise UserError(
            f"label has shape {label.shape}: it must be a scalar, ({num_rows},), or "
            f"({num_rows}, {num_classes}) for soft classes"
        )
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise UserError(f"label is {label.dtype}: it must be integers, or soft classes [N, K]")
    if is_known(label) and label.size:
        with jax.ensure_compile_time_eval():
            low, high = int(label.min()), int(label.max())
        if low < least or high >= num_classes:
            raise UserError(
                f"label ranges from {low} to {high}: it must be 0 … {num_classes - 1}"
                + (", or −1 for none" if least < 0 else "")
            )
    return jnp.broadcast_to(label, (num_rows,)).astype(jnp.int32)


def as_condition(spec: Spec, condition: Any, num_rows: int) -> jax.Array:
    """Conditions f[N, K] from [N, K], or from [K] for all rows.

    Raises:
        UserError: the conditions are missing, have the wrong shape, or are not finite.
    """
    if condition is None:
        raise UserError(f"condition is None: the model takes conditions [N, {spec.condition_dim}]")
    condition = as_array("condition", condition)
    if condition.shape not in ((spec.condition_dim,), (num_rows, spec.condition_dim)):
        raise UserError(
            f"condition has shape {condition.shape}: it must be ({num_rows}, {spec.condition_dim}), "
            f"or ({spec.condition_dim},) for all rows"
        )
    if is_known(condition):
        with jax.ensure_compile_time_eval():
            is_finite = bool(jnp.isfinite(condition).all())
        if not is_finite:
            raise UserError("condition contains NaN or inf: it must be finite")
    shape = (num_rows, spec.condition_dim)
    return jnp.broadcast_to(condition, shape).astype(spec.model.param_dtype)
