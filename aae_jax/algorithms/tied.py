"""Shared functions of models with tied weights (`aae_jax.layers.Tied`): up, down, draw, checks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from aae_jax import layers, networks
from aae_jax.algorithms import autoencoder
from aae_jax.checks import check_positive
from aae_jax.errors import UserError
from aae_jax.keys import row_uniform
from aae_jax.networks import Network
from aae_jax.spec import Spec


def make(
    spec: Spec, widths: tuple[int, ...], kernel_init: Callable[..., jax.Array], **fields: Any
) -> Network:
    """A stack of layers with the given numbers of units, from the visible layer up."""
    module = layers.Tied(widths, kernel_init=kernel_init, **networks.dtypes(spec), **fields)
    return Network(module, inputs=((widths[0],),), output=(widths[-1],))


def up(spec: Spec, stack: Any, units: jax.Array, layer: int = 0) -> jax.Array:
    """Inputs f[B, widths[layer + 1]] of the units above layer `layer`, from that layer's units."""
    return product(spec, units, stack[f"kernel_{layer}"]) + stack[f"bias_{layer + 1}"]


def down(spec: Spec, stack: Any, units: jax.Array, layer: int = 0) -> jax.Array:
    """Inputs f[B, widths[layer]] of the units of layer `layer`, from the units above."""
    return product(spec, units, stack[f"kernel_{layer}"].T) + stack[f"bias_{layer}"]


def product(spec: Spec, units: jax.Array, kernel: jax.Array) -> jax.Array:
    """units f[B, N] times kernel f[N, M], computed in `model.compute_dtype`."""
    dtype = jnp.dtype(spec.model.compute_dtype)
    return (units.astype(dtype) @ kernel.astype(dtype)).astype(spec.model.param_dtype)


def draw(row_keys: jax.Array, p: jax.Array) -> jax.Array:
    """Binary units f[B, N] that are 1 with probabilities p, each row from its own key."""
    return (row_uniform(row_keys, p.shape[1], p.dtype) < p).astype(p.dtype)


def check_hidden(hidden: tuple[int, ...], exactly: int | None = None) -> None:
    """Raises unless `options.hidden` has positive widths, `exactly` so many if that is given."""
    if len(hidden) != exactly if exactly else not hidden:
        raise UserError(
            f"options.hidden is {hidden}: it must be the widths of {exactly or 1} layers"
            f"{'' if exactly else ' or more'}"
        )
    for width in hidden:
        check_positive("options.hidden", width, shown=hidden)


def check(spec: Spec) -> None:
    """Raises if a spec has labels, input noise, or outputs other than pixels in [0, 1]."""
    autoencoder.check_no_discriminator(spec)
    if spec.model.label_in_decoder:
        raise UserError(
            f"model.label_in_decoder is True: algorithm {spec.algorithm_name} takes no labels"
        )
    if spec.model.output != "sigmoid":
        raise UserError(
            f"model.output is {spec.model.output!r}: algorithm {spec.algorithm_name} needs "
            "'sigmoid', pixels in [0, 1]"
        )
    if spec.train.input_noise:
        raise UserError(
            f"train.input_noise is {spec.train.input_noise}: algorithm {spec.algorithm_name} takes "
            "none"
        )
    widest = max(spec.options.hidden)
    if max(spec.num_pixels, widest) * widest >= 2**31:
        raise UserError(
            f"options.hidden is {spec.options.hidden} and image_shape {spec.image_shape}: a layer "
            "would have more than 2^31 parameters"
        )


def check_label(spec: Spec, label: jax.Array | None) -> None:
    """Raises if samples are asked for with a label."""
    if label is not None:
        raise UserError(f"a label is given, but algorithm {spec.algorithm_name} takes none")
