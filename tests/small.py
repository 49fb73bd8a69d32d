"""A model and data small enough for every test."""

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
