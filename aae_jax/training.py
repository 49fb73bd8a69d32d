"""The training step, and many training steps in one dispatch."""

import functools

import jax
import jax.numpy as jnp
import optax

from aae_jax import keys, networks
from aae_jax.algorithms.base import Inputs, Labelled, moments
from aae_jax.arguments import as_condition, as_labels
from aae_jax.data.order import EXAMPLE, LABELLED, batch_rows, labelled_batch_rows
from aae_jax.errors import UserError
from aae_jax.keys import fold_rows, row_keys, row_normal, row_uniform
from aae_jax.optimizers import make_phase_optimizer
from aae_jax.priors import PriorSample, sample_prior
from aae_jax.spec import Spec
from aae_jax.train_state import TrainState, create_train_state, encode, generate, to_inputs


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    prior_sample: PriorSample,
    *,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One training step on a mini-batch: all phases in turn, each on the parameters updated so far.

    Each phase updates its own networks with its own optimiser (`aae_jax.algorithms`).

    The function is pure: `jit`, `vmap` or `pmap` it, or shard its arguments.

    Args:
        state: the state before the step.
        batch: `{"image": [B, H, W, C] uint8 or f32 in [0, 1], "label": i32[B], −1 unlabelled}`;
            without "label" all are unlabelled. With `spec.condition_dim` also "condition": f[B, K].
            For algorithms that learn from few labels also "labelled_image": [L, H, W, C] and
            "labelled_label": i32[L], rows that have one.
            Known values that are out of range are refused. Under `jit` values can't be checked, and
            such a batch trains a model of wrong images.
        prior_sample: `PriorSample(z f[B, D], label i32[B])`, the positive samples: of `sample_prior`,
            with the labels of the batch if the discriminator takes labels.
        axis_name: the mapped axis over which the batch is split under `pmap`; gradients and
            metrics are averaged over it.

    Returns:
        The state after the step (with `train.ema_decay` also the averages), and scalar metrics over
        the whole batch: `loss/<phase>`, and the phases' further metrics.

    Raises:
        UserError: shapes don't fit; or, under `pmap`, a loss is not a mean over rows.
    """
    spec = state.spec
    inputs = _inputs(state, batch, prior_sample, axis_name)
    x = inputs.x
    has_dropout = any(built.has_dropout for built in networks.build(spec).values())
    params, opt_state, metrics = dict(state.params), dict(state.opt_state), {}
    for index, phase in enumerate(spec.phases):
        own = inputs
        if has_dropout:
            own = inputs._replace(dropout_keys=fold_rows(inputs.dropout_keys, index))
        labelled = inputs.labelled if phase.on_labelled else None
        num_rows = x.shape[0] if labelled is None else labelled.label.shape[0]
        trained = {name: params[name] for name in phase.trains}

        def mean_loss(trained):
            found = phase.loss(spec, {**params, **trained}, own)
            _check_loss(phase, found, num_rows, axis_name)
            loss, phase_metrics = found
            means = jax.tree.map(jnp.mean, phase_metrics)
            return loss.mean(), {f"loss/{phase.name}": loss.mean(), **means}

        grads, phase_metrics = jax.grad(mean_loss, has_aux=True)(trained)
        if axis_name is not None:
            grads, phase_metrics = jax.lax.pmean((grads, phase_metrics), axis_name)
        optimizer = make_phase_optimizer(spec, phase)
        updates, opt_state[phase.name] = optimizer.update(grads, opt_state[phase.name], trained)
        scale = state.learning_rate_scale[phase.name]
        updates = jax.tree.map(lambda update: scale * update, updates)
        params.update(optax.apply_updates(trained, updates))
        metrics.update(phase_metrics)

    ema_params = state.ema_params
    if ema_params is not None:
        # Shorter averages at the start: the first parameters would otherwise weigh too much.
        step = state.step.astype(x.dtype)
        decay = jnp.minimum(spec.train.ema_decay, (1 + step) / (10 + step))  # type: ignore[arg-type]
        newest = {name: params[name] for name in ema_params}
        ema_params = optax.incremental_update(newest, ema_params, 1 - decay)
    state = state.replace(
        step=state.step + 1, params=params, opt_state=opt_state, ema_params=ema_params
    )
    return state, moments(metrics)


def check_algorithm(spec: Spec, axis_name: str | None = None) -> None:
    """Traces a training step, a sample and a code without computing anything.

    Args:
        spec: the model and its training.
        axis_name: as in `train_step`, for training under `pmap`.

    Raises:
        UserError: a user's network or loss does not fit, or can't run under `pmap`.
    """
    batch_size, dtype = 2, spec.model.param_dtype

    def step(key, image, label, z):
        state = create_train_state(spec, key)
        batch, prior_sample = {"image": image, "label": label}, PriorSample(z, label)
        if spec.condition_dim:
            batch["condition"] = jnp.zeros((len(image), spec.condition_dim))
        if spec.needs_labelled:
            batch |= {"labelled_image": image, "labelled_label": label}
        return train_step(state, batch, prior_sample, axis_name=axis_name)[0]

    def use(state, key, image):
        codes = None if spec.algorithm.encode is None else encode(state, image, key)
        condition = None
        if spec.model.condition_in_decoder:
            condition = jnp.zeros(spec.condition_dim)
        return generate(state, key, batch_size, condition=condition), codes

    if axis_name is not None:
        step = jax.vmap(
            step, in_axes=(None, 0, 0, 0), out_axes=None, axis_name=axis_name, axis_size=1
        )
    key = jax.eval_shape(lambda: jax.random.key(0))
    lead = () if axis_name is None else (1,)
    image = jax.ShapeDtypeStruct((*lead, batch_size, *spec.image_shape), dtype)
    label = jax.ShapeDtypeStruct((*lead, batch_size), jnp.int32)
    z = jax.ShapeDtypeStruct((*lead, batch_size, spec.model.code_dim), dtype)
    state = jax.eval_shape(step, key, image, label, z)
    image = jax.ShapeDtypeStruct((batch_size, *spec.image_shape), dtype)
    samples, codes = jax.eval_shape(use, state, key, image)
    for what, found, wanted in (
        ("samples", samples, image.shape),
        ("encodes", codes, (batch_size, spec.model.code_dim)),
    ):
        shape = getattr(found, "shape", None)
        if shape != wanted and not (what == "encodes" and spec.algorithm.encode is None):
            raise UserError(
                f"algorithm {spec.algorithm_name} {what} shape {shape} when {batch_size} are "
                f"asked for: it must be {wanted}"
            )


def _inputs(state, batch, prior_sample, axis_name):
    """The inputs that all phases of this step share."""
    _check_examples("batch", batch)
    spec, x = state.spec, to_inputs(state, batch["image"])
    label = as_labels(batch.get("label", -1), len(x), spec.num_classes)
    condition = None
    if spec.condition_dim:
        condition = as_condition(spec, batch.get("condition"), len(x))
    if not isinstance(prior_sample, PriorSample):
        raise UserError(
            f"prior_sample is a {type(prior_sample).__name__}: it must be a PriorSample, as "
            "sample_prior returns it"
        )
    if prior_sample.z.shape != (len(x), spec.model.code_dim):
        raise UserError(
            f"prior_sample.z has shape {prior_sample.z.shape}: it must be [batch, model.code_dim], "
            f"{(len(x), spec.model.code_dim)}"
        )
    if spec.model.label_in_discriminator:
        _check_discriminator_labels(prior_sample.label, label, len(x))
    first_row = 0 if axis_name is None else jax.lax.axis_index(axis_name) * x.shape[0]
    noise_keys, posterior_keys, dropout_keys = (
        row_keys(keys.stream(state.rng, which, state.step), x.shape[0], first_row)
        for which in (keys.INPUT_NOISE, keys.POSTERIOR, keys.DROPOUT)
    )
    if spec.train.mirror:
        x = _mirrored(state, batch["image"], x, fold_rows(noise_keys, 0))  # 0: no other draw
    x_noisy = x
    if spec.train.input_noise:
        noise = row_normal(noise_keys, spec.num_pixels, x.dtype)
        x_noisy = x + spec.train.input_noise * noise.reshape(x.shape)
    labelled = _labelled(state, batch, axis_name) if spec.needs_labelled else None
    return Inputs(
        x,
        x_noisy,
        label,
        posterior_keys,
        prior_sample,
        dropout_keys,
        condition,
        labelled,
        state.step,
    )


def _mirrored(state, images, x, mirror_keys):
    """The inputs x of images, each mirrored left to right with probability 1/2.

    Mean and std belong to a pixel's place, so images are mirrored before they are standardised.
    """
    chosen = row_uniform(mirror_keys, 1, x.dtype) < 0.5
    mirrored = to_inputs(state, jnp.flip(jnp.asarray(images), axis=2))
    return jnp.where(chosen[:, :, None, None], mirrored, x)


def _labelled(state, batch, axis_name):
    """The labelled rows of a batch, with noise and dropout of their own."""
    spec = state.spec
    for name in LABELLED:
        if name not in batch:
            raise UserError(
                f"batch has no {name!r}: algorithm {spec.algorithm_name} also needs rows with labels; "
                "train_steps takes them from a data set's 'labelled_rows'"
            )
    x = to_inputs(state, batch["labelled_image"])
    label = as_labels(batch["labelled_label"], len(x), spec.num_classes, least=0)
    first_row = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(x)
    own_keys = row_keys(keys.stream(state.rng, keys.LABELLED_NOISE, state.step), len(x), first_row)
    if spec.train.mirror:
        x = _mirrored(state, batch["labelled_image"], x, fold_rows(own_keys, 2))
    x_noisy = x
    if spec.train.input_noise:
        noise = row_normal(fold_rows(own_keys, 0), spec.num_pixels, x.dtype)
        x_noisy = x + spec.train.input_noise * noise.reshape(x.shape)
    return Labelled(x_noisy, label, fold_rows(own_keys, 1))


def _check_examples(name, examples):
    """Raises unless a batch or a data set is a dict with images."""
    if isinstance(examples, dict) and "image" in examples:
        return
    found = f"a {type(examples).__name__}"
    if isinstance(examples, dict):
        found = f"a dict with {', '.join(map(repr, examples)) or 'nothing'}"
    raise UserError(
        f"{name} is {found}: it must be a dict with 'image' [B, H, W, C] and 'label' [B]"
    )


def _check_discriminator_labels(of_prior, of_batch, num_rows):
    """Raises unless samples of the prior and examples have one integer each."""
    shape = getattr(of_prior, "shape", None)
    if shape != (num_rows,) or not jnp.issubdtype(of_prior.dtype, jnp.integer):
        raise UserError(
            f"prior_sample.label has shape {shape}: with model.label_in_discriminator it must be "
            f"integers [batch], ({num_rows},), −1 for none"
        )
    if of_batch.ndim == 2:
        raise UserError(
            f"label has shape {of_batch.shape}: the discriminator takes integers, not soft classes"
        )


def _check_loss(phase, found, num_rows, axis_name):
    """Raises unless a loss is one number per row, or one for the batch without `pmap`."""
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], dict):
        raise UserError(f"the loss of phase {phase.name!r} must return (loss, metrics by name)")
    loss = jnp.asarray(found[0])
    if loss.shape not in ((num_rows,), ()):
        raise UserError(
            f"the loss of phase {phase.name!r} has shape {loss.shape}: it must be ({num_rows},), one "
            "number per row, or () for the whole batch"
        )
    if loss.shape == () and axis_name is not None:
        raise UserError(
            f"the loss of phase {phase.name!r} is one number for the whole batch, but pmap "
            "averages the losses of the devices' shares: use parallel.runner 'jit'"
        )


@functools.partial(jax.jit, static_argnames=("num_steps", "batch_sharding", "axis_name"))
def train_steps(
    state: TrainState,
    dataset: dict[str, jax.Array],
    num_steps: int,
    *,
    batch_sharding: jax.sharding.Sharding | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs many training steps in one dispatch, shuffling and drawing the prior on the device.

    All randomness follows from `state.rng` and the step, so a run may be split into calls of any
    length. Every example is visited once per epoch, or as often as `example_order` lists it.
    Batches may straddle epochs.

    Args:
        state: the state before the first step.
        dataset: `{"image": [N, H, W, C] uint8 or f32 in [0, 1], "label": i32[N]}`, on the device;
            without "label" all are unlabelled. Optionally "example_order": i32[M], the example at
            each of an epoch's M positions; "condition": f[N, K], if the model takes conditions; and
            "labelled_rows": i32[M], the examples with a label, if the algorithm learns from few of
            them. Values are not checked.
        num_steps: K; static.
        batch_sharding: how to split each batch over devices (`aae_jax.parallel`); static.
        axis_name: the mapped axis whose members each take their share of every batch (`pmap`).

    Returns:
        The state after the last step, and metrics f[K].

    Raises:
        UserError: the data set is empty, its arrays have different lengths, or its size times the
            batch size is out of range.
    """
    _check_examples("dataset", dataset)
    for name in EXAMPLE:
        if name in dataset and len(dataset[name]) != len(dataset["image"]):
            raise UserError(
                f"dataset has {len(dataset['image'])} images, but its {name!r} has "
                f"{len(dataset[name])} rows"
            )
    if num_steps < 1:
        raise UserError(f"num_steps is {num_steps}: it must be positive")

    rows = [batch_rows(state, dataset, num_steps)]
    if state.spec.needs_labelled:
        if "labelled_rows" not in dataset or "label" not in dataset:
            raise UserError(
                f"dataset has no 'labelled_rows' or no 'label': algorithm "
                f"{state.spec.algorithm_name} needs both; np.flatnonzero(label >= 0) are the rows"
            )
        rows.append(labelled_batch_rows(state, dataset, num_steps))

    def body(state, rows):
        own, *labelled = _own_rows(rows, axis_name)
        batch = {name: dataset[name][own] for name in EXAMPLE if name in dataset}
        for chosen in labelled:
            batch |= {name: dataset[where][chosen] for name, where in LABELLED.items()}
        return _draw_and_step(state, batch, batch_sharding, axis_name)

    return jax.lax.scan(body, state, rows)


@functools.partial(jax.jit, static_argnames=("batch_sharding", "axis_name"))
def train_batches(
    state: TrainState,
    batches: dict[str, jax.Array],
    *,
    batch_sharding: jax.sharding.Sharding | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`train_steps` for streamed data: the caller provides the batches.

    Args:
        state: the state before the first step.
        batches: `{"image": [K, B, H, W, C] uint8 or f32 in [0, 1], "label": i32[K, B]}`; further
            arrays as in `train_step`, with a leading axis of steps.
        batch_sharding: how each batch is split over devices (`aae_jax.parallel`); static.
        axis_name: the mapped axis whose members hold a share of every batch (`pmap`).

    Returns:
        The state after the last step, and metrics f[K].
    """
    return jax.lax.scan(
        lambda state, batch: _draw_and_step(state, batch, batch_sharding, axis_name), state, batches
    )


def _own_rows(values, axis_name):
    """The rows of [B, …] that belong to this member of the mapped axis; without an axis, all."""
    if axis_name is None:
        return values

    def own(value):
        share = value.shape[0] // jax.lax.axis_size(axis_name)
        return jax.lax.dynamic_slice_in_dim(value, jax.lax.axis_index(axis_name) * share, share)

    return jax.tree.map(own, values)


def _draw_and_step(state, batch, batch_sharding, axis_name):
    spec = state.spec
    _check_examples("batch", batch)
    label = batch.get("label")
    if label is None:
        label = jnp.full(len(batch["image"]), -1)
    if axis_name is not None:  # the prior is sampled for the whole batch, as on one device
        label = jax.lax.all_gather(label, axis_name, tiled=True)
    # "The positive samples fed for unlabeled examples come from the full mixture."
    selects = spec.model.label_in_discriminator and (
        spec.prior.has_components or spec.algorithm.num_labels is None
    )
    key = keys.stream(state.rng, keys.PRIOR, state.step)
    prior_sample = sample_prior(spec, key, label.shape[0], label if selects else None)
    prior_sample = _own_rows(prior_sample, axis_name)
    if batch_sharding is not None:
        batch, prior_sample = jax.lax.with_sharding_constraint(
            (batch, prior_sample), batch_sharding
        )
    return train_step(state, batch, prior_sample, axis_name=axis_name)
