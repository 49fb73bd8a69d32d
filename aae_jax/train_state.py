"""The state of a model in training, arrays with a static spec, and the uses of a trained model."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax import networks
from aae_jax.arguments import (
    SLACK,
    as_array,
    as_condition,
    as_key,
    as_labels,
    check_count,
    check_range,
    check_shape,
    is_known,
)
from aae_jax.errors import UserError
from aae_jax.keys import row_keys
from aae_jax.optimizers import make_phase_optimizer
from aae_jax.spec import Spec

_NUM_STARTS = 10_000  # training images from which Markov chains start: 31 MB of MNIST in float32


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=(
        "step", "rng", "params", "opt_state", "learning_rate_scale", "ema_params", "pixel_mean",
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
    # Moving averages of the networks that a trained model uses; None: it uses `params`.
    ema_params: networks.Params | None
    pixel_mean: jax.Array | None  # f[H, W, C] or None: pixels are not standardised
    pixel_std: jax.Array | None  # f[H, W, C] or None
    spec: Spec

    def replace(self, **changes: Any) -> "TrainState":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def create_train_state(
    spec: Spec,
    key: jax.Array,
    pixel_mean: jax.Array | None = None,
    pixel_std: jax.Array | None = None,
    image_mean: jax.Array | None = None,
) -> TrainState:
    """Draws the parameters and starts the optimisers.

    Args:
        spec: what to build.
        key: a PRNG key, or a seed; the source of the parameters and of all later randomness.
        pixel_mean: f[H, W, C], per-pixel mean of the training images scaled to [0, 1]; the networks
            then see standardised pixels (footnote 1, TFD). None: they see pixels.
        pixel_std: f[H, W, C], their standard deviation; positive everywhere.
        image_mean: f[H, W, C], per-pixel mean of the training images scaled to [0, 1], standardised
            or not, for networks that start from it (`Network.init`). None: they start as drawn.

    Returns:
        A `TrainState` at step 0.

    Raises:
        UserError: only one of mean and std is given, a sigmoid output would have to produce
            standardised pixels, the algorithm can't use them, or a user's network can't be used.
    """
    if not isinstance(spec, Spec):
        raise UserError(f"spec is a {type(spec).__name__}: it must be an aae_jax.Spec")
    if (pixel_mean is None) != (pixel_std is None):
        raise UserError("pixel_mean and pixel_std: give both or none")
    if pixel_mean is not None:
        if spec.model.output == "sigmoid":
            raise UserError("model.output is 'sigmoid': standardised pixels need 'linear'")
        spec.algorithm.check_standardised(spec)
        pixel_mean, pixel_std = (
            jnp.asarray(v, spec.model.param_dtype).reshape(spec.image_shape)
            for v in (pixel_mean, pixel_std)
        )
    params_key, rng = jax.random.split(as_key(key))
    if image_mean is not None:
        image_mean = jnp.asarray(image_mean, spec.model.param_dtype).reshape(spec.image_shape)
        if pixel_mean is not None:
            image_mean = (image_mean - pixel_mean) / pixel_std  # type: ignore[operator]  # given as well
    params = networks.init(spec, params_key, image_mean)
    for phase in spec.phases:
        if not isinstance(phase.trains, tuple) or not set(phase.trains) <= params.keys():
            raise UserError(
                f"phase {phase.name!r} trains {phase.trains!r}: it must be a tuple of names among "
                f"{', '.join(params)}"
            )
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        rng=rng,
        params=params,
        opt_state={
            phase.name: make_phase_optimizer(spec, phase).init(
                {name: params[name] for name in phase.trains}
            )
            for phase in spec.phases
        },
        learning_rate_scale={
            phase.name: jnp.ones((), spec.model.param_dtype) for phase in spec.phases
        },
        ema_params=None,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        spec=spec,
    )
    return state if spec.train.ema_decay is None else with_new_averages(state)


def with_new_averages(state: TrainState) -> TrainState:
    """The state with new averages, of the networks used after training, equal to its parameters."""
    used = {
        name: state.params[name]
        for name, built in networks.build(state.spec).items()
        if not built.network.training_only
    }
    # Copies: a donated state must not hold a buffer twice.
    return state.replace(ema_params=jax.tree.map(jnp.copy, used))


def take_networks(state: TrainState, params: networks.Params) -> TrainState:
    """The state with some networks' parameters replaced, and with new averages."""
    state = state.replace(params={**state.params, **params})
    return state if state.ema_params is None else with_new_averages(state)


def to_unit(images: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """Examples as floats: uint8 is divided by 255, floats and bools keep their values."""
    if images.dtype == jnp.uint8:
        return images.astype(dtype) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating) and images.dtype != bool:
        raise UserError(f"images are {images.dtype}: give uint8, or floats in [0, 1]")
    return images.astype(dtype)


def in_data_units(state: TrainState, images: jax.Array) -> jax.Array:
    """Examples in the units of decoded ones; if pixels are standardised, integers are counts."""
    dtype = state.spec.model.param_dtype
    if state.pixel_mean is not None and jnp.issubdtype(images.dtype, jnp.signedinteger):
        return images.astype(dtype)
    return to_unit(images, dtype)


def to_inputs(state: TrainState, images: jax.Array) -> jax.Array:
    """Images [B, H, W, C] (uint8, or floats in [0, 1]) in the networks' units.

    Raises:
        UserError: wrong shape or type; known values outside [0, 1], if the training images were
            inside.
    """
    _check_state(state)
    images = as_array("images", images)
    check_shape("images", images, state.spec.image_shape)
    x = in_data_units(state, images)
    check_range("images", images, beyond_unit(state))
    return x if state.pixel_mean is None else (x - state.pixel_mean) / state.pixel_std  # type: ignore[operator]


def _check_state(state):
    if not isinstance(state, TrainState):
        raise UserError(f"state is a {type(state).__name__}: it must be an aae_jax.TrainState")


def beyond_unit(state: TrainState) -> float | None:
    """How far examples may lie outside [0, 1]; None: any distance.

    Without standardisation, examples are pixels in [0, 1]. All numbers in [0, 1] have a variance of
    at most mean · (1 − mean) (Bhatia and Davis 2000). If the training examples satisfy this bound,
    they probably were pixels, so that 0 … 255 is refused. Other numbers may satisfy the bound too,
    so that values moderately outside [0, 1] are allowed.
    """
    if state.pixel_mean is None:
        return SLACK
    if not (is_known(state.pixel_mean) and is_known(state.pixel_std)):
        return None
    mean, std = (np.asarray(v, np.float64) for v in (state.pixel_mean, state.pixel_std))
    variance = np.where(std == 1, 0, std**2)  # 1 stands for constant pixels
    return 16.0 if (variance <= mean * (1 - mean) + 1e-5).all() else None


def _to_images(state: TrainState, x: jax.Array) -> jax.Array:
    """The inverse of `to_inputs`: f[B, H, W, C], pixels in [0, 1]."""
    if state.pixel_mean is not None:
        x = x * state.pixel_std + state.pixel_mean  # type: ignore[operator]
    return x


def inference_params(state: TrainState) -> networks.Params:
    """The parameters that a trained model uses: averages if there are any."""
    if state.ema_params is not None:
        return state.ema_params
    return {
        name: state.params[name]
        for name, built in networks.build(state.spec).items()
        if not built.network.training_only
    }


def _function(state, name):
    """A function of the state's algorithm; raises if the algorithm lacks it."""
    _check_state(state)
    function = getattr(state.spec.algorithm, name)
    if function is None:
        raise UserError(f"algorithm {state.spec.algorithm_name} has no {name!r}")
    return function


def _row_keys(key, num_rows):
    return None if key is None else row_keys(as_key(key), num_rows)


def _label_rows(spec, label, num_rows, least=-1):
    return None if label is None else as_labels(label, num_rows, spec.num_labels, least)


def _conditions(spec, condition, num_rows):
    """The argument `condition`, which only the algorithms for data with conditions take."""
    if spec.model.condition_in_decoder:
        return {"condition": as_condition(spec, condition, num_rows)}
    if condition is not None:
        raise UserError("a condition is given, but model.condition_in_decoder is False")
    return {}


def encode(state: TrainState, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """Codes of images.

    Args, of this and the functions below:
        state: a trained state.
        images: [B, H, W, C], uint8 or floats in [0, 1]; or examples of the shape and units that the
            model was trained on. Floats outside [0, 1] are refused. Under `jit` values can't be
            checked, and the codes of such images are meaningless.
        key: a PRNG key, or a seed, for a stochastic posterior; without one its mean is returned.

    Returns:
        z: f[B, D].

    Raises:
        UserError: the algorithm has no encoder; the images have the wrong shape or range.
    """
    encode, x = _function(state, "encode"), to_inputs(state, images)
    return encode(state.spec, inference_params(state), x, _row_keys(key, x.shape[0]))


def decode(
    state: TrainState,
    z: jax.Array,
    label: jax.Array | int | None = None,
    condition: jax.Array | None = None,
) -> jax.Array:
    """Images of codes.

    Args:
        state: a trained state.
        z: f[N, D].
        label: i32[N], a scalar, or f[N, K] for soft classes, for decoders that take one (section
            3.2). A label outside the classes is refused. Under `jit`, where values can't be
            checked, it counts as −1, no label.
        condition: f[N, K], or f[K] for all, for decoders that take one.

    Returns:
        f[N, H, W, C], pixels in [0, 1].

    Raises:
        UserError: the decoder takes labels or conditions and none are given, or they are given and
            it takes none; the codes have the wrong shape.
    """
    decode = _function(state, "decode")
    spec, z = state.spec, as_array("z", z)
    check_shape("z", z, (spec.model.code_dim,))
    check_range("z", z)
    if label is not None and not spec.decoder_takes("label"):
        raise UserError("a label is given, but model.label_in_decoder is False")
    num_rows = z.shape[0]  # not len(z), which a symbolic batch size lacks
    label = _label_rows(spec, label, num_rows, spec.least_label)
    conditions = _conditions(spec, condition, num_rows)
    return _to_images(state, decode(spec, inference_params(state), z, label, **conditions))


def reconstruct(
    state: TrainState,
    images: jax.Array,
    label: jax.Array | None = None,
    key: jax.Array | None = None,
    condition: jax.Array | None = None,
) -> jax.Array:
    """`decode(encode(images))`, or the algorithm's own reconstruction: f[B, H, W, C] in [0, 1]."""
    _check_state(state)
    reconstruct = state.spec.algorithm.reconstruct
    if reconstruct is None:
        return decode(state, encode(state, images, key), label, condition)
    spec, x = state.spec, to_inputs(state, images)
    label = _label_rows(spec, label, len(x), spec.least_label)
    conditions = _conditions(spec, condition, len(x))
    keys = _row_keys(key, len(x))
    x_hat = reconstruct(spec, inference_params(state), x, keys, label, **conditions)
    return _to_images(state, x_hat)


def classify(state: TrainState, images: jax.Array) -> jax.Array:
    """Probabilities f[B, K] of classes or clusters of images [B, H, W, C].

    Args:
        state: a trained state whose algorithm has classes, as "semi_supervised" has.
        images: as in `encode`.

    Raises:
        UserError: the algorithm has no classes.
    """
    classify = _function(state, "classify")
    return classify(state.spec, inference_params(state), to_inputs(state, images))


def embed(state: TrainState, images: jax.Array) -> jax.Array:
    """Places f[B, D] of images [B, H, W, C] on a map of classes and styles.

    Args:
        state: a trained state whose algorithm has a map, as "semi_supervised" with
            `options.as_map` has.
        images: as in `encode`.

    Raises:
        UserError: the algorithm has no map.
    """
    embed = _function(state, "embed")
    if not state.spec.algorithm.has_map(state.spec):
        raise UserError(f"this model of algorithm {state.spec.algorithm_name} has no map")
    return embed(state.spec, inference_params(state), to_inputs(state, images))


def chain_starts(state: TrainState, images: Any) -> Any | None:
    """Training images for `start` below, the first 10,000; None if no chain starts from images."""
    return images[:_NUM_STARTS] if state.spec.algorithm.starts_from_images else None


def generate(
    state: TrainState,
    key: jax.Array,
    num_samples: int,
    label: jax.Array | None = None,
    condition: jax.Array | None = None,
    start: jax.Array | None = None,
) -> jax.Array:
    """Samples of the model: f[num_samples, H, W, C], pixels in [0, 1].

    Args:
        state: a trained state.
        key: a PRNG key, or a seed.
        num_samples: how many to draw.
        label: i32[num_samples], a scalar, or f[num_samples, K] for soft classes: the component of
            the prior, and the decoder's label if it takes one. None: the full prior, and labels
            drawn uniformly.
        condition: f[num_samples, K], or f[K] for all, if the decoder takes one.
        start: images [M, H, W, C] from which Markov chains start, for algorithms that sample by
            them; None: they start from noise.
    """
    _check_state(state)
    check_count("num_samples", num_samples)
    label = _label_rows(state.spec, label, num_samples)
    conditions = _conditions(state.spec, condition, num_samples)
    start = None if start is None else to_inputs(state, start)
    return _generate(state, start, as_key(key), num_samples, label, **conditions)


def _generate(state, start, key, num_samples, label, **conditions):
    sample, spec = state.spec.algorithm.sample, state.spec
    x = sample(spec, inference_params(state), key, num_samples, label, start, **conditions)
    return _to_images(state, x)


def trained_part(state: TrainState) -> TrainState:
    """The state reduced to the parameters and pixel statistics that a trained model uses."""
    _check_state(state)
    return state.replace(
        params=inference_params(state),
        ema_params=None,
        **dict.fromkeys(("step", "rng", "opt_state", "learning_rate_scale")),
    )


def sampler(
    state: TrainState, start: jax.Array | None = None, conditions: jax.Array | None = None
) -> jax.tree_util.Partial:
    """The model as a function (key, n) → samples f[n, P], flat, pixels in [0, 1].

    The function is a pytree: jitted functions may take it as an argument, and samplers of equal
    specs share one compiled program. It holds only the parameters and pixel statistics that a
    trained model uses.

    Args:
        state: a trained state.
        start: as in `generate`; `chain_starts` chooses some.
        conditions: f[M, K], if the decoder takes conditions; each sample takes one of them at
            random. The conditions of the training examples are a good choice.
    """
    model = trained_part(state)
    start = None if start is None else to_inputs(state, start)
    if conditions is not None or state.spec.model.condition_in_decoder:
        if conditions is not None:
            conditions = as_array("conditions", conditions)
            if conditions.ndim != 2 or len(conditions) == 0:
                raise UserError(
                    f"conditions have shape {conditions.shape}: they must be [M, condition_dim]"
                )
        num_rows = 0 if conditions is None else len(conditions)
        conditions = _conditions(state.spec, conditions, num_rows)["condition"]
    return jax.tree_util.Partial(_flat_samples, model, start, conditions)


def _flat_samples(model, start, conditions, key, num_samples):
    drawn, key = {}, as_key(key)
    if conditions is not None:
        rows = jax.random.randint(jax.random.fold_in(key, 3), num_samples, 0, len(conditions))
        # Indexing would ask for a mesh where the conditions lie on several devices.
        drawn = {"condition": jnp.take(conditions, rows, axis=0)}
    return _generate(model, start, key, num_samples, None, **drawn).reshape(num_samples, -1)
