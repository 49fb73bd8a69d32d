"""All that a model is while it trains: arrays, plus the static spec that says what they mean."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from aae_jax import networks, phases
from aae_jax.errors import UserError
from aae_jax.priors import sample_prior
from aae_jax.spec import Spec


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=(
        "step", "rng", "params", "opt_state", "learning_rate_scale", "average", "pixel_mean",
        "pixel_std",
    ),
    meta_fields=("spec",),
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class TrainState:
    """An immutable pytree; `spec` is static, so two equal states share one compiled program."""

    step: jax.Array  # i32[], training steps done
    rng: jax.Array  # key[], never changes: randomness is fold_in(rng, step or epoch)
    params: networks.Params  # by network
    opt_state: dict[str, Any]  # by phase
    learning_rate_scale: dict[str, jax.Array]  # by phase, f[]; multiplies the schedule
    # Encoder and decoder averaged over the training, which encode and decode; None: `params` do.
    average: networks.Params | None
    pixel_mean: jax.Array | None  # f[P] or None: pixels are not standardised
    pixel_std: jax.Array | None  # f[P] or None
    spec: Spec

    def replace(self, **changes) -> "TrainState":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def create_train_state(
    spec: Spec,
    key: jax.Array,
    pixel_mean: jax.Array | None = None,
    pixel_std: jax.Array | None = None,
) -> TrainState:
    """Draws the parameters and starts the optimisers.

    Args:
        spec: what to build.
        key: a PRNG key; the parameters and all later randomness of the training come from it.
        pixel_mean: f[H, W, C], per-pixel mean of the training images scaled to [0, 1], where the
            networks are to see standardised pixels (footnote 1, TFD).
        pixel_std: f[H, W, C], their standard deviation; positive everywhere.

    Returns:
        A `TrainState` at step 0.

    Raises:
        UserError: only one of mean and std is given, or a sigmoid output is to produce
            standardised pixels.
    """
    if (pixel_mean is None) != (pixel_std is None):
        raise UserError("pixel_mean and pixel_std: give both or none")
    if pixel_mean is not None:
        if spec.model.output == "sigmoid":
            raise UserError("model.output is 'sigmoid': standardised pixels need 'linear'")
        pixel_mean, pixel_std = (
            jnp.asarray(v, spec.model.param_dtype).reshape(spec.num_pixels)
            for v in (pixel_mean, pixel_std)
        )
    params_key, rng = jax.random.split(key)
    algorithm = phases.ALGORITHMS[spec.algorithm]
    trained = {name for phase in algorithm for name in phase.trains}
    params = networks.init(spec, params_key, {"encoder", "decoder"} | trained)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        rng=rng,
        params=params,
        opt_state={
            phase.name: phases.make_optimizer(spec, phase.name).init(
                {name: params[name] for name in phase.trains}
            )
            for phase in algorithm
        },
        learning_rate_scale={
            phase.name: jnp.ones((), spec.model.param_dtype) for phase in algorithm
        },
        # Copies: a donated state must not hold a buffer twice.
        average=None
        if spec.train.average_decay is None
        else jax.tree.map(jnp.copy, {name: params[name] for name in ("encoder", "decoder")}),
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        spec=spec,
    )


def to_unit(images: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """Pixels as numbers in [0, 1]: uint8 is divided by 255, floats are taken to be there."""
    if images.dtype == jnp.uint8:
        return images.astype(dtype) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"images are {images.dtype}: give uint8, or floats in [0, 1]")
    return images.astype(dtype)


def to_inputs(state: TrainState, images: jax.Array) -> jax.Array:
    """Images [B, H, W, C] (uint8, or floats in [0, 1]) as the networks see them, f[B, P]."""
    spec = state.spec
    if images.shape[1:] != spec.image_shape:
        raise UserError(f"images are {images.shape[1:]} each: the model takes {spec.image_shape}")
    x = to_unit(images, spec.model.param_dtype).reshape(images.shape[0], spec.num_pixels)
    return x if state.pixel_mean is None else (x - state.pixel_mean) / state.pixel_std


def _to_images(state: TrainState, x: jax.Array) -> jax.Array:
    """The inverse of `to_inputs`: f[B, H, W, C], pixels of [0, 1]."""
    if state.pixel_mean is not None:
        x = x * state.pixel_std + state.pixel_mean
    return x.reshape(x.shape[0], *state.spec.image_shape)


def row_keys(key: jax.Array, num_rows: int, first_row: jax.Array | int = 0) -> jax.Array:
    """key[B], one for each row of the global batch, however that is split over devices."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(first_row + jnp.arange(num_rows))


def used_params(state: TrainState) -> networks.Params:
    """The parameters that a model is used with."""
    return state.params if state.average is None else state.average


def encode(state: TrainState, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """Codes of images.

    Args:
        state: a trained state.
        images: uint8, or floats in [0, 1], [B, H, W, C].
        key: a PRNG key where the posterior is stochastic; without one its mean is returned.

    Returns:
        z: f[B, D].
    """
    keys = None if key is None else row_keys(key, images.shape[0])
    return networks.encode(state.spec, used_params(state), to_inputs(state, images), keys)


def decode(state: TrainState, z: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """Images of codes.

    Args:
        state: a trained state.
        z: f[N, D].
        label: i32[N] or a scalar, for decoders that take one (section 3.2).

    Returns:
        f[N, H, W, C], pixels of [0, 1].

    Raises:
        UserError: the decoder takes labels and none are given, or the other way round.
    """
    if label is not None and not state.spec.model.label_in_decoder:
        raise UserError("a label is given, but model.label_in_decoder is False")
    if label is not None:
        label = jnp.broadcast_to(jnp.asarray(label), z.shape[:1])
    return _to_images(state, networks.decode(state.spec, used_params(state), z, label))


def reconstruct(
    state: TrainState,
    images: jax.Array,
    label: jax.Array | None = None,
    key: jax.Array | None = None,
) -> jax.Array:
    """`decode(encode(images))`: f[B, H, W, C], pixels of [0, 1]."""
    return decode(state, encode(state, images, key), label)


def generate(
    state: TrainState, key: jax.Array, num_samples: int, label: jax.Array | None = None
) -> jax.Array:
    """Samples of the model, prior → decoder: f[num_samples, H, W, C], pixels of [0, 1].

    Args:
        state: a trained state.
        key: a PRNG key.
        num_samples: how many to draw.
        label: i32[num_samples] or a scalar: the component of the prior, and the decoder's label
            where it takes one; None for the full prior, and labels drawn uniformly.
    """
    return decode(state, *sample_codes(state, key, num_samples, label))


def sample_codes(
    state: TrainState, key: jax.Array, num_samples: int, label: jax.Array | None = None
) -> tuple[jax.Array, jax.Array | None]:
    """What `generate` decodes: codes f[N, D], and labels i32[N] for a decoder that takes them."""
    spec = state.spec
    uses = spec.prior.has_components, spec.model.label_in_decoder
    if label is not None and not any(uses):
        raise UserError(
            f"a label is given, but neither prior {spec.prior.name!r} nor decoder has any"
        )
    z = sample_prior(spec, key, num_samples, label if spec.prior.has_components else None).z
    if not spec.model.label_in_decoder:
        return z, None
    if label is None:
        label = jax.random.randint(jax.random.fold_in(key, 1), (num_samples,), 0, spec.num_classes)
    return z, jnp.broadcast_to(jnp.asarray(label), (num_samples,))
