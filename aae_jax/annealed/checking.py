"""Checks and conversion of the arguments of `aae_jax.annealed`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from aae_jax.annealed.targets import Prior
from aae_jax.arguments import as_array, as_key, check_count, check_range, is_known
from aae_jax.checks import check_positive
from aae_jax.errors import UserError
from aae_jax.settings import AnnealedSpec


def common(
    decoder: Callable[..., jax.Array],
    prior: Prior,
    key: Any,
    sigma: Any,
    code_dim: int,
    spec: AnnealedSpec | None = None,
) -> tuple[Partial, Prior, jax.Array, jax.Array]:
    """The common arguments, checked and in the form that the compiled functions take."""
    check_count("code_dim", code_dim)
    if not callable(decoder):
        raise UserError(
            f"decoder is a {type(decoder).__name__}: it must be a function (z f[N, D]) → f[N, P]"
        )
    if not isinstance(prior, Prior):
        raise UserError(
            f"prior is a {type(prior).__name__}: it must be annealed.normal(std), uniform(radius), "
            "density(log_prob) or a Prior"
        )
    if not isinstance(spec, AnnealedSpec | None):
        raise UserError(f"spec is a {type(spec).__name__}: it must be an aae_jax.AnnealedSpec")
    parts: Any = (None if part is None else _as_partial(part) for part in prior)
    prior = Prior(*parts)
    shown, sigma = sigma, as_array("sigma", sigma)
    if sigma.ndim:
        raise UserError(f"sigma has shape {sigma.shape}: it must be one number")
    if is_known(sigma):
        check_positive("sigma", float(sigma), shown, least=1e-15, most=1e15)
    return _as_partial(decoder), prior, as_key(key), sigma


def _as_partial(function):
    """A function as a pytree; a plain function becomes one without leaves."""
    return function if isinstance(function, Partial) else Partial(function)


def as_rows(x: Any) -> jax.Array:
    """x f[T, P] as floats of at least 32 bits."""
    x = as_array("x", x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"x is {x.dtype}: it must be floats; divide images by 255 first")
    if x.ndim != 2 or 0 in x.shape:
        raise UserError(f"x has shape {x.shape}: it must be [T, P] with T and P above 0")
    check_range("x", x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def check_decoder(
    decoder: Callable[..., jax.Array],
    code_dim: int,
    dtype: Any,
    shape: tuple[int, ...] | None = None,
) -> None:
    """Raises unless the decoder returns floats [N, P]; `shape` is the shape [T, P] of x."""
    z = jax.ShapeDtypeStruct((1, code_dim), jnp.promote_types(dtype, jnp.float32))
    found = _outputs("decoder", decoder, z, f"z of shape [N, {code_dim}]")
    given = getattr(found, "shape", type(found).__name__)
    if not hasattr(found, "shape") or len(given) != 2 or given[0] != 1:
        raise UserError(
            f"decoder returns {given} for z of shape (1, {code_dim}): it must return [N, P] for "
            f"[N, {code_dim}]; if it takes a single code, give jax.vmap(decoder)"
        )
    if shape is not None and given[1] != shape[1]:
        raise UserError(
            f"decoder returns {given} for z of shape (1, {code_dim}), but x has shape {shape}: it "
            f"must return (1, {shape[1]})"
        )
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise UserError(f"decoder returns {found.dtype}: it must return floats")


def check_prior(prior: Prior, code_dim: int, dtype: Any) -> None:
    """Raises unless the prior's functions return f[D] and f[] for one code f[D]."""
    v = jax.ShapeDtypeStruct((code_dim,), jnp.promote_types(dtype, jnp.float32))
    for name, shape in (("to_code", v.shape), ("from_code", v.shape), ("log_prob", ())):
        function = getattr(prior, name)
        if function is None:
            continue
        found = _outputs(f"the prior's {name}", function, v, f"one code of shape {v.shape}")
        given = getattr(found, "shape", type(found).__name__)
        if given != shape or not jnp.issubdtype(found.dtype, jnp.floating):
            raise UserError(
                f"the prior's {name} returns {given} for one code of shape {v.shape}: it must "
                f"return floats of shape {shape}"
            )


def _outputs(
    name: str, function: Callable[..., Any], argument: jax.ShapeDtypeStruct, shown: str
) -> Any:
    """The shapes and types of a user's function's outputs."""
    try:
        return jax.eval_shape(function, argument)
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name} fails on {shown} with {type(error).__name__}: {reason}") from error


def as_start(
    prior: Prior, start: Any, num_images: int, code_dim: int, dtype: Any
) -> tuple[jax.Array | None, jax.Array | None]:
    """Means and standard deviations f[T, D] of v; None if chains start from the prior."""
    if start is None:
        if prior.log_prob is not None:
            raise UserError(
                "prior is only a density, which can't be drawn from: give start=(mean, std)"
            )
        return None, None
    if not isinstance(start, tuple) or len(start) != 2:
        raise UserError("start must be a tuple (mean f[T, D], std f[T, D] or f[D])")
    mean, std = (as_array(f"start's {n}", v) for n, v in zip(("mean", "std"), start))
    shape = (num_images, code_dim)
    if mean.shape != shape or std.shape not in ((), shape[1:], shape):
        raise UserError(
            f"start has shapes {mean.shape} and {std.shape}: they must be {shape} and {shape} or "
            f"{shape[1:]}"
        )
    mean, std = mean.astype(dtype), jnp.broadcast_to(std, shape).astype(dtype)
    check_range("start", mean)
    check_range("start", std)
    if is_known(std) and not bool((std > 0).all()):
        raise UserError(f"start's std is {float(std.min()):.4g} somewhere: it must be positive")
    mean, std = jax.vmap(lambda m, s: jax.jvp(prior.from_code, (m,), (s,)))(mean, std)
    std = jnp.abs(std)
    return mean, std if prior.log_prob is not None else jnp.minimum(std, 1)


def check_finite(found: Any, first: int, spec: AnnealedSpec) -> None:
    """Raises if a chain of a block has met NaN; `first` is the index of the block's first image."""
    failed = np.asarray(found.failed)
    if (failed < 0).all():
        return
    image, chain = np.argwhere(failed >= 0)[0]
    raise UserError(
        f"decoder or prior returns NaN: image {first + image}, chain {chain}, temperature "
        f"{failed[image, chain]} of {spec.num_temperatures}; {(failed >= 0).sum()} of "
        f"{failed.size} chains of its block met it"
    )
