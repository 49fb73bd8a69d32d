"""A model and data small enough for every test."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aae_jax as aae
from aae_jax import keys
from aae_jax.algorithms import adversarial, decoder_finetuning, semi_supervised
from aae_jax.data.order import epoch_rows

SHAPE = (3, 4, 1)


def make_spec(
    dtype="float32",
    optimizer=None,
    model=None,
    prior=None,
    algorithm="aae",
    options=None,
    image_shape=SHAPE,
    **train,
):
    """A tiny spec; `model`, `prior` and `train` change fields of these sections."""
    train = {"num_steps": 20, "batch_size": 8, **train}
    model = {
        "code_dim": 2,
        "encoder_hidden": (16,),
        "decoder_hidden": (12,),
        "discriminator_hidden": (16,),
        "noise_dim": 3,
        "param_dtype": dtype,
        "compute_dtype": dtype,
        **(model or {}),
    }
    return aae.Spec(
        image_shape,
        num_classes=10,
        algorithm=algorithm,
        model=aae.ModelSpec(**model),
        prior=aae.PriorSpec(**{"std": 2.0, **(prior or {})}),
        train=aae.TrainSpec(**train),
        optimizer=optimizer,
        options=options,
    )


def make_dataset(num_examples=20, seed=0, image_shape=SHAPE):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (num_examples, *image_shape), dtype=np.uint8)),
        "label": jnp.asarray(rng.integers(0, 10, num_examples, dtype=np.int32)),
    }


@contextlib.contextmanager
def refused(match):
    """Expects a `UserError` of one line. `pytest.raises(match=…)` would see JAX's notes as well."""
    with pytest.raises(aae.UserError) as error:
        yield
    message = str(error.value)
    assert "\n" not in message
    assert re.search(match, message), message


# `aae.train_step`, jitted: op by op it takes seconds.
train_step = jax.jit(aae.train_step)


@functools.cache
def start(spec, seed=0):
    """The state at step 0, shared by tests, since states don't change."""
    return aae.create_train_state(spec, jax.random.key(seed))


def inputs_of_step(state, dataset, step):
    """The batch and the prior sample that `train_steps` feeds at a step."""
    rows, prior_sample = _draw(state.rng, step, state.spec, len(dataset["image"]))
    return {name: values[rows] for name, values in dataset.items()}, prior_sample


@functools.partial(jax.jit, static_argnames=("spec", "num_examples"))
def _draw(rng, step, spec, num_examples):
    batch_size = spec.train.batch_size
    rows = epoch_rows(rng, step, 1, batch_size, num_examples)[0]
    return rows, aae.sample_prior(spec, keys.stream(rng, keys.PRIOR, step), batch_size)


def partly_labelled():
    dataset = make_dataset()
    label = jnp.where(jnp.arange(20) < 12, -1, dataset["label"])
    return {**dataset, "label": label, "labelled_rows": jnp.arange(12, 20)}


MIXTURE = {"name": "gaussian_mixture", "radius": 3.0, "radial_std": 1.0, "tangential_std": 0.3}
LABELS = {
    "no labels": {},
    "labels in the discriminator": {"label_in_discriminator": True},
    "labels in the decoder": {"label_in_decoder": True},
}
# Every algorithm, posterior and way of using labels.
MODELS = {
    f"aae, {posterior}, {how}": {
        "model": {"posterior": posterior, **fields},
        "prior": MIXTURE if "label_in_discriminator" in fields else {},
    }
    for posterior in ("deterministic", "gaussian", "universal")
    for how, fields in LABELS.items()
} | {
    f"vae, {prior.get('name', 'gaussian')} prior, {how}": {
        "algorithm": "vae",
        "model": {"posterior": "gaussian", **LABELS[how]},
        "prior": prior,
    }
    for prior, how in (
        ({}, "no labels"),
        ({}, "labels in the decoder"),
        (MIXTURE, "no labels"),
    )
}

MODELS["aae, noise on the codes"] = {"options": adversarial.Options(code_noise=0.5)}
MODELS["aae, labelled images transformed"] = {
    "model": LABELS["labels in the discriminator"],
    "prior": MIXTURE,
    "options": adversarial.Options(transform_labelled=True),
}
MODELS["decoder_finetuning"] = {
    "algorithm": "decoder_finetuning",
    "options": decoder_finetuning.Options(code_noise=0.5),
}

MODELS["semi_supervised"] = {"algorithm": "semi_supervised"}
MODELS["semi_supervised, clusters on a map"] = {
    "algorithm": "semi_supervised",
    "options": semi_supervised.Options(labels=False, num_clusters=4, as_map=True),
}

# The same program as on a mesh: each algorithm, posterior and way of using labels once.
IN_TWO_PROCESSES = (
    "aae, deterministic, labels in the discriminator",
    "aae, gaussian, labels in the decoder",
    "aae, universal, no labels",
    "vae, gaussian prior, no labels",
)


def start_of(name):
    """The state at step 0 of one of `MODELS`: double precision, mirrored, input noise, averages."""
    spec = make_spec("float64", mirror=True, input_noise=0.1, ema_decay=0.9, **MODELS[name])
    return aae.create_train_state(spec, jax.random.key(0))


@functools.cache
def twenty_steps_of(name):
    """(state, metrics) after 20 steps on one device."""
    return train_compiled_fast(start_of(name), partly_labelled(), 20)


def train_compiled_fast(state, dataset, num_steps, **static):
    """`train_steps`; LLVM's optimiser takes half of the time of tests that run 20 steps."""
    lowered = aae.train_steps.lower(state, dataset, num_steps, **static)
    return lowered.compile({"xla_backend_optimization_level": 0})(state, dataset)


def streamed_settings():
    """The digits in double precision, streamed."""
    from aae_jax.config import parse_config
    from experiments import digits

    config = digits.get_config()
    for network in ("encoder", "decoder", "discriminator"):
        config.model[f"{network}_hidden"] = (16,)
    config.model.param_dtype = config.model.compute_dtype = "float64"
    config.train.num_steps, config.train.batch_size = 20, 20
    config.run.stream = True
    return parse_config(config)
