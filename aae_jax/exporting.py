"""Exports the functions of a trained model as StableHLO programs that run without this package.

docs/using.md shows how to load them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import export as jax_export

from aae_jax.errors import UserError
from aae_jax.train_state import TrainState, classify, decode, embed, encode

PLATFORMS = ("cpu", "cuda", "tpu")


def export(state: TrainState) -> dict[str, jax_export.Exported]:
    """Exports a trained model as programs for any batch size, on CPUs, CUDA GPUs and TPUs.

    The parameters and the pixel statistics are constants of the programs. As under `jit`, values
    are not checked: images must be in [0, 1] if the training images were, and a label outside the
    classes counts as no label.

    Args:
        state: a trained state of one seed.

    Returns:
        Programs by name, those that the algorithm has:
        "encode": images f[b, H, W, C], floats in [0, 1] → z f[b, D], the mean of the posterior.
        "decode": z f[b, D] → images f[b, H, W, C]; label i32[b] and condition f[b, K] are further
            arguments, in this order, if the decoder takes them.
        "classify": images → f[b, K], the probabilities of classes or clusters.
        "embed": images → f[b, D], points on a map.
        `Exported.serialize()` turns a program into bytes; `jax.export.deserialize(…).call(…)` runs
        them.

    Raises:
        UserError: the state has several seeds, the algorithm has none of these, the posterior
            has no mean, or a user's network can't be traced with an unknown batch size.
    """
    if state.rng.ndim:
        raise UserError(
            "the state has several seeds: export the state of one, aae.load_state(workdir, seed)"
        )
    spec, algorithm = state.spec, state.spec.algorithm
    model, dtype = spec.model, spec.model.param_dtype
    (b,) = jax_export.symbolic_shape("b")

    def rows(shape, dtype=dtype):
        return jax.ShapeDtypeStruct((b, *shape), dtype)

    wanted: dict[str, tuple[Callable[..., jax.Array], list[Any]]] = {}
    of_images = {
        "encode": (encode, algorithm.encode is not None),
        "classify": (classify, algorithm.classify is not None),
        "embed": (embed, algorithm.has_map(spec)),
    }
    for name, (function, exists) in of_images.items():
        if exists:
            wanted[name] = functools.partial(function, state), [rows(spec.image_shape)]
    if algorithm.decode is not None:
        names, arguments = ["z"], [rows((model.code_dim,))]
        if spec.decoder_takes("label"):
            names.append("label")
            arguments.append(rows((), "int32"))
        if model.condition_in_decoder:
            names.append("condition")
            arguments.append(rows((spec.condition_dim,)))

        def decode_by_place(*values):
            return decode(state, **dict(zip(names, values)))

        wanted["decode"] = decode_by_place, arguments
    if not wanted:
        raise UserError(f"algorithm {spec.algorithm_name} has no function to export")
    return {name: _export(name, *program) for name, program in wanted.items()}


def _export(name, function, arguments):
    try:
        return jax_export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    except Exception as error:  # a user's network may need to know the batch size
        reason = " ".join(str(error).split())[:300]
        if "_DimExpr" in reason:
            raise UserError(
                f"{name!r} can't be exported for any batch size: {reason}; a network or a posterior "
                "must take x.shape[0], not len(x)"
            ) from error
        raise
