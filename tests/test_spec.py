"""Configs become specs, and mistakes one line that names the field."""

import importlib
import pathlib

import jax
import numpy as np
import pytest

import aae_jax as aae
from aae_jax import phases, posteriors, priors, spec
from experiments import default

MODULES = sorted(path.stem for path in pathlib.Path(default.__file__).parent.glob("*.py"))
EXPERIMENTS = [
    (name, variant)
    for name in MODULES
    for variant in getattr(importlib.import_module(f"experiments.{name}"), "VARIANTS", (None,))
]


@pytest.mark.parametrize("name, variant", EXPERIMENTS, ids=str)
def test_every_config_is_valid(name, variant):
    get_config = importlib.import_module(f"experiments.{name}").get_config
    config = get_config() if variant is None else get_config(variant)
    if config.data.name == "files":
        config.data.path = "images.npz"  # which only the user knows
    made = aae.spec_from_config(config)
    assert hash(made) == hash(aae.spec_from_config(config))


def test_paper_defaults():
    """Footnote 1 and section 4: MNIST, 8-D code, prior std 5, two layers of 1000."""
    made = aae.spec_from_config(default.get_config())
    assert made.model.code_dim == 8 and made.prior.std == 5.0
    assert made.model.encoder_hidden == made.model.decoder_hidden == (1000, 1000)
    assert made.model.discriminator_hidden == (1000, 1000)
    assert made.model.posterior == "deterministic"


def test_a_spec_made_by_hand_has_the_same_defaults():
    assert aae.Spec((28, 28, 1)) == aae.spec_from_config(default.get_config())


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"num_classes": 2.5}, "spec.num_classes is 2.5: it must be an integer"),
        ({"model": {"code_dim": 2}}, "spec.model is .*: it must be ModelSpec"),
        ({"optimizer": 3}, "optimizer is 3: it must be a dict"),
        (
            {"optimizer": dict.fromkeys(spec.ALGORITHMS["aae"], "adam")},
            "optimizer.reconstruction is 'adam': it must be an OptimizerSpec",
        ),
        ({"image_shape": [28, 28, 1]}, "spec.image_shape is"),
    ],
)
def test_a_spec_made_by_hand_is_checked_too(fields, match):
    with pytest.raises(aae.UserError, match=match):
        aae.Spec(**{"image_shape": (28, 28, 1), **fields})


def test_names_in_spec_have_an_implementation():
    assert set(spec.PRIORS) == set(priors.PRIORS)
    assert set(spec.POSTERIORS) == set(posteriors.POSTERIORS)
    assert {
        name: tuple(phase.name for phase in value) for name, value in phases.ALGORITHMS.items()
    } == (spec.ALGORITHMS)


BAD = {
    "seed": (-1, "a", 1.5),
    "num_seeds": (0, -1, 1.5, True, 10**6),
    "algorithm": ("gan",),
    "data.image_shape": ((28, 28), (0, 28, 1), (28.0, 28, 1)),
    "data.num_classes": (0, "ten"),
    "data.name": (3,),
    "model.posterior": ("gausian",),
    "model.code_dim": (0, -1, 2.5, True),
    "model.code_scale": (0, -5.0, 1e-20, "std"),
    "model.decoder_hidden": ((10**6, 10**6), (10**12,)),
    "model.encoder_hidden": ((0,), (10, -1), (1.5,)),
    "model.output": ("tanh",),
    "model.param_dtype": ("float16", "float64"),  # x64 is off
    "model.compute_dtype": ("int8",),
    "prior.name": ("cauchy",),
    "prior.radius": (1e-20, 1e30),
    "prior.std": (0, -5.0, float("nan"), float("inf")),
    "optimizer.generator.name": ("adamw",),
    "optimizer.generator.learning_rate": (0, -1e-3, float("nan")),
    "optimizer.reconstruction.b1": (1.0, -0.1),
    "optimizer.reconstruction.b2": (0.99999999,),  # 1 in float32
    "optimizer.generator.clip_norm": (0, -1.0, float("nan"), "no"),
    "optimizer.generator.floor": (-0.1, 1.5, float("nan"), "no"),
    "optimizer.reconstruction.momentum": (0.9,),  # of sgd
    "data.num_labelled": (-1, 1.5),
    "data.labelled_visits": (0, 1.5, 4),  # 4: where all images keep their label
    "data.standardise": (True, 1),  # with a sigmoid output
    "model.noise_dim": (0,),
    "model.label_in_decoder": (1, "yes"),
    "data.path": ("faces.npz",),  # with another data set than files
    "data.fold": (0, 6, 3, "all"),  # 3: with another data set than tfd
    "run.stream": ("yes",),
    "optimizer.discriminator.schedule": ("linear", "piecewise"),
    "optimizer.discriminator.boundaries": ((10,),),  # with a cosine schedule
    "train.num_steps": (0, -3),
    "optimizer": (None, 3),
    "train.batch_size": (10**12, 0, 1.5),
    "train.input_noise": (-0.1, float("nan")),
    "train.code_noise": (0.0, -1.0, float("nan"), 0.5, "no"),  # 0.5: of algorithm "decoder"
    "start_from": ("runs/mnist", 3),
    "train.average_decay": (1.0, -0.1, 0.99999999, "no"),
    "run.steps_per_dispatch": (0,),
    "run.checkpoint_every": (0,),
    "evaluation.num_samples": (0,),
    "evaluation.num_validation": (0,),
    "evaluation.sigmas": ((), (0.1, 0.0), (-0.1,)),
}


@pytest.mark.parametrize(
    "field, value", [(field, value) for field, values in BAD.items() for value in values], ids=str
)
def test_bad_values_are_refused_by_name(field, value):
    config = default.get_config()
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(aae.UserError) as error:
        aae.spec_from_config(config)
    message = str(error.value)
    section, _, leaf = field.rpartition(".")
    assert "\n" not in message
    assert section in message and leaf.split("_")[0] in message, message


def test_missing_and_unknown_fields_are_refused():
    config = default.get_config().unlock()
    config.train.num_stps = 3
    with pytest.raises(aae.UserError, match="train.num_stps is not a field.*num_steps"):
        aae.spec_from_config(config)
    config = default.get_config().unlock()
    del config.prior.std
    with pytest.raises(aae.UserError, match="prior.std is missing"):
        aae.spec_from_config(config)


def test_optimizers_must_match_the_phases():
    with pytest.raises(aae.UserError, match="reconstruction, discriminator, generator"):
        aae.Spec((8, 8, 1), optimizer={"elbo": aae.OptimizerSpec()})


def test_piecewise_schedule_is_checked():
    for boundaries, factors in (((5, 3), (0.1, 0.1)), ((5,), ()), ((0,), (0.1,)), ((5,), (-1.0,))):
        with pytest.raises(aae.UserError):
            aae.OptimizerSpec(schedule="piecewise", boundaries=boundaries, factors=factors)


def test_only_a_cosine_has_a_floor():
    with pytest.raises(aae.UserError, match="optimizer.floor is 0.5: it is of 'cosine'"):
        aae.OptimizerSpec(floor=0.5)


def test_data_must_have_the_shape_that_the_config_states():
    config = default.get_config()
    assert aae.spec_from_config(config, image_shape=(28, 28, 1), num_classes=10)
    with pytest.raises(aae.UserError, match=r"data.image_shape is \(28, 28, 1\).*\(8, 8, 1\)"):
        aae.spec_from_config(config, image_shape=(8, 8, 1))
    with pytest.raises(aae.UserError, match="data.num_classes is 10.*7"):
        aae.spec_from_config(config, num_classes=7)


def test_schedules_against_hand_computed_rates():
    constant = phases.make_schedule(aae.OptimizerSpec(learning_rate=0.5), 100)
    assert constant(0) == constant(99) == 0.5
    cosine = phases.make_schedule(aae.OptimizerSpec(learning_rate=0.5, schedule="cosine"), 100)
    for step in (0, 25, 50, 100):
        expected = 0.25 * (1 + np.cos(np.pi * step / 100))
        np.testing.assert_allclose(cosine(step), expected, atol=1e-7)
    floored = aae.OptimizerSpec(learning_rate=0.5, schedule="cosine", floor=0.2)
    found = [phases.make_schedule(floored, 100)(step) for step in (0, 50, 100)]
    np.testing.assert_allclose(found, [0.5, 0.3, 0.1], rtol=1e-6)
    piecewise = phases.make_schedule(
        aae.OptimizerSpec(
            learning_rate=0.5, schedule="piecewise", boundaries=(10, 20), factors=(0.1, 0.5)
        ),
        100,
    )
    np.testing.assert_allclose(
        [piecewise(step) for step in (0, 9, 10, 19, 20, 99)],
        [0.5, 0.5, 0.05, 0.05, 0.025, 0.025],
        rtol=1e-6,
    )


def test_float64_needs_x64(x64):
    assert jax.config.jax_enable_x64
    aae.ModelSpec(param_dtype="float64")


def test_configs_of_older_runs_are_read():
    """Their config.json has no field that came later; it is None."""
    config = default.get_config().to_dict()
    del config["optimizer"]["generator"]["clip_norm"], config["optimizer"]["generator"]["floor"]
    del config["train"]["average_decay"], config["model"]["code_scale"]
    del config["data"]["labelled_visits"]
    assert aae.spec_from_config(config) == aae.spec_from_config(default.get_config())
