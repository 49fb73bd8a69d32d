"""A model and data small enough for every test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import aae_jax as aae

SHAPE = (3, 4, 1)


def make_spec(dtype="float32", optimizer=None, model=None, prior=None, algorithm="aae", **train):
    """A tiny spec; `model`, `prior` and `train` change fields of theirs."""
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
        SHAPE,
        num_classes=10,
        algorithm=algorithm,
        model=aae.ModelSpec(**model),
        prior=aae.PriorSpec(**{"std": 2.0, **(prior or {})}),
        train=aae.TrainSpec(**train),
        optimizer=optimizer,
    )


def make_dataset(num_examples=20, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (num_examples, *SHAPE), dtype=np.uint8)),
        "label": jnp.asarray(rng.integers(0, 10, num_examples, dtype=np.int32)),
    }


def partly_labelled():
    dataset = make_dataset()
    return {**dataset, "label": jnp.where(jnp.arange(20) < 12, -1, dataset["label"])}


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

MODELS["decoder"] = {"algorithm": "decoder", "code_noise": 0.5}

# The same program as on a mesh: each algorithm, posterior and way of using labels once.
IN_TWO_PROCESSES = (
    "aae, deterministic, labels in the discriminator",
    "aae, gaussian, labels in the decoder",
    "aae, universal, no labels",
    "vae, gaussian prior, no labels",
)


def start_of(name):
    """The state at step 0 of one of `MODELS`: double precision, input noise, averages."""
    spec = make_spec("float64", input_noise=0.1, average_decay=0.9, **MODELS[name])
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
    from aae_jax.spec import parse_config
    from experiments import digits

    config = digits.get_config()
    for network in ("encoder", "decoder", "discriminator"):
        config.model[f"{network}_hidden"] = (16,)
    config.model.param_dtype = config.model.compute_dtype = "float64"
    config.train.num_steps, config.train.batch_size = 20, 20
    config.run.stream = True
    return parse_config(config)
