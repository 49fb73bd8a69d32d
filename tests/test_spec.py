"""Configs become specs; a mistake raises a one-line error that names the field."""

import dataclasses
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from small import make_spec

import aae_jax as aae
from aae_jax import optimizers, posteriors
from aae_jax.algorithms.semi_supervised import Options
from aae_jax.config import parse_config
from experiments import default, tfd

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


def test_the_decoder_of_faces_goes_on_from_mirrored_images():
    plain, mirrored, nearest = (
        aae.spec_from_config(tfd.get_config(variant)) for variant in ("", "mirrored", "nearest")
    )
    assert not plain.train.mirror and nearest.train.mirror
    assert mirrored == dataclasses.replace(
        plain, train=dataclasses.replace(plain.train, mirror=True)
    )
    assert (nearest.model, nearest.prior) == (mirrored.model, mirrored.prior)
    assert tfd.get_config("nearest").start_from == "experiments/tfd.py:mirrored"
    for wrong in ("mirror", "fold=x", "nearest,fold=3"):
        with pytest.raises(ValueError, match="it must be one of mirrored, nearest, fold=1"):
            tfd.get_config(wrong)


def test_paper_defaults():
    """Footnote 1 and section 4: MNIST, 8-D code, prior std 5, two layers of 1000."""
    made = aae.spec_from_config(default.get_config())
    assert made.model.code_dim == 8 and made.prior.std == 5.0
    assert made.model.encoder_hidden == made.model.decoder_hidden == (1000, 1000)
    assert made.model.discriminator_hidden == (1000, 1000)
    assert made.model.posterior is posteriors.DETERMINISTIC


def test_a_spec_made_by_hand_has_the_same_defaults():
    assert aae.Spec((28, 28, 1)) == aae.spec_from_config(default.get_config())


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"num_classes": 2.5}, "spec.num_classes is 2.5: it must be an integer"),
        ({"model": {"code_dim": 2}}, "spec.model is .*: it must be ModelSpec"),
        ({"optimizer": 3}, "optimizer is 3: it must be a dict"),
        (
            {"optimizer": {"generator": "adam"}},
            "optimizer.generator is 'adam': it must be an OptimizerSpec",
        ),
        ({"image_shape": [28, 28, 1]}, "spec.image_shape is"),
    ],
)
def test_a_spec_made_by_hand_is_checked_too(fields, match):
    with pytest.raises(aae.UserError, match=match):
        aae.Spec(**{"image_shape": (28, 28, 1), **fields})


BAD = {
    "seed": (-1, "a", 1.5),
    "num_seeds": (0, -1, 1.5, True, 10**6),
    "algorithm": ("flow", "nowhere:GAN", "math:pi", 3, None),
    "options": (None, 3),
    "data.image_shape": ((), (0, 28, 1), (28.0, 28, 1)),
    "data.condition_dim": (-1, 1.5),
    "data.num_classes": (0, "ten"),
    "data.name": (3,),
    "model.encoder": ("cnn", "math:pi", "nowhere:encoder", None, 3),
    "model.decoder": ("cnn",),
    "model.discriminator": ("cnn",),
    "model.posterior": ("gausian", "math:pi", 3),
    "model.reconstruction": ("l2", "math:pi", 3),
    "model.conv_channels": ((0,), (8, -1), (1.5,), 8),
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
    "optimizer.reconstruction.momentum_steps": ((10,),),  # of sgd
    "optimizer.reconstruction.momentum_values": ((0.9,), ("no",)),  # as many as steps
    "optimizer.generator.decay": (1.1,),  # with a cosine schedule
    "optimizer.generator.hold": (-0.1, 1.0, float("nan"), "no"),
    "data.num_labelled": (-1, 1.5),
    "data.labelled_repeats": (0, 1.5, 4),  # 4: where all images keep their label
    "data.standardise": (True, 1),  # with a sigmoid output
    "model.noise_dim": (0,),
    "model.label_in_decoder": (1, "yes"),
    "data.path": ("faces.npz",),  # with another data set than files
    "data.fold": (0, 6, 3, "all"),  # 3: with another data set than tfd
    "run.stream": ("yes",),
    "optimizer.discriminator.schedule": ("linear", "piecewise", "exponential"),
    "optimizer.discriminator.boundaries": ((10,),),  # with a cosine schedule
    "train.num_steps": (0, -3),
    "optimizer": (None, 3),
    "train.batch_size": (10**12, 0, 1.5),
    "train.input_noise": (-0.1, float("nan")),
    "options.code_noise": (-0.5, 1e-7, 1e7, float("nan"), "no"),
    "options.code_noise_from": (-1, 1.5, 2**31, 100),  # 100: without noise
    "options.noise": (0.5,),
    "start_from": ("runs/mnist", 3),
    "train.ema_decay": (1.0, -0.1, 0.99999999, "no"),
    "run.max_steps": (0, -1, 1.5, "all"),
    "run.steps_per_dispatch": (0,),
    "run.checkpoint_every": (0,),
    "evaluation.num_samples": (0,),
    "evaluation.num_validation": (0,),
    "evaluation.sigmas": ((), (0.1, 0.0), (-0.1,), (1e-20,)),
}


@pytest.mark.parametrize(
    "field, value", [(field, value) for field, values in BAD.items() for value in values], ids=str
)
def test_bad_values_are_refused_by_name(field, value):
    config = default.get_config()
    section = config
    for name in field.split(".")[:-1]:
        section = section[name]
    with config.unlocked(), config.ignore_type():
        section[field.rpartition(".")[2]] = value
    with pytest.raises(aae.UserError) as error:
        aae.spec_from_config(config)
    message = str(error.value)
    section, _, leaf = field.rpartition(".")
    assert "\n" not in message
    assert section in message and leaf.split("_")[0] in message, message


SECTIONS = ("data", "model", "prior", "train", "parallel", "run", "evaluation")
EVERY = [name for name in default.get_config() if name not in SECTIONS] + [
    f"{section}.{field}" for section in SECTIONS for field in default.get_config()[section]
]


@pytest.mark.parametrize("field", EVERY)
def test_every_field_is_required_but_overrides(field):
    config = default.get_config().to_dict()
    section, _, leaf = field.rpartition(".")
    del (config[section] if section else config)[leaf]
    with pytest.raises(aae.UserError, match=f"^{field} is missing from the config$"):
        aae.spec_from_config(config)


def test_unknown_fields_are_refused():
    for section, there in {"train": "num_steps", "model": "code_dim", "": "algorithm"}.items():
        config = default.get_config().to_dict()
        (config[section] if section else config)["num_stps"] = 3
        prefix = f"{section}." if section else ""
        with pytest.raises(aae.UserError, match=f"^{prefix}num_stps is not a field.*{there}"):
            aae.spec_from_config(config)


# What an algorithm leaves open: overrides of its phases' optimisers, and its own fields.


def test_overrides_are_of_the_phase_and_leave_its_other_fields():
    config = default.get_config()
    default.change_optimizer(config, "generator", learning_rate=0.5, clip_norm=2.0)
    default.change_optimizer(config, "generator", b1=0.25)
    made = dict(aae.spec_from_config(config).optimizer)
    own = {phase.name: phase.optimizer for phase in aae.Spec((28, 28, 1)).algorithm.phases}
    changes = {"learning_rate": 0.5, "clip_norm": 2.0, "b1": 0.25}
    assert made == {
        **own, "generator": dataclasses.replace(own["generator"], **changes)
    }  # fmt: skip
    by_hand = aae.Spec((28, 28, 1), optimizer={"generator": made["generator"]})
    assert by_hand == aae.spec_from_config(config)


def test_a_network_of_a_phase_takes_the_other_fields_from_its_phase():
    config = default.get_config()
    default.change_optimizer(config, "reconstruction_encoder", learning_rate=1e-5)
    default.change_optimizer(config, "reconstruction", floor=0.1, b1=0.25)
    made = dict(aae.spec_from_config(config).optimizer)
    wanted = aae.OptimizerSpec(learning_rate=1e-3, b1=0.25, schedule="cosine", floor=0.1)
    assert made["reconstruction"] == wanted
    assert made["reconstruction_encoder"] == dataclasses.replace(wanted, learning_rate=1e-5)
    config.optimizer.reconstruction_encoder.floor = 2.0
    with pytest.raises(aae.UserError, match="optimizer.reconstruction_encoder.floor is 2.0"):
        aae.spec_from_config(config)


def test_flags_name_fields_that_the_config_leaves_to_the_algorithm(monkeypatch):
    argv = [
        "launch.py",
        f"--config={default.__file__}",
        "--config.algorithm=decoder_finetuning",
        "--config.start_from=runs/mnist",
        "--config.options.code_noise=0.25",
        "--config.optimizer.reconstruction.learning_rate=0.5",
        "--config.optimizer.reconstruction.schedule=constant",
    ]
    monkeypatch.setattr("sys.argv", argv)  # which ml_collections reads as well
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", lock_config=False, accept_new_attributes=True, flag_values=values
    )
    values(argv)
    made = aae.spec_from_config(config.value)
    assert made.options.code_noise == 0.25
    assert dict(made.optimizer)["reconstruction"] == aae.OptimizerSpec(learning_rate=0.5)


def test_optimizers_must_match_the_phases():
    match = "optimizer.elbo is not a field.*'aae' are reconstruction, discriminator, generator"
    with pytest.raises(aae.UserError, match=match):
        aae.Spec((8, 8, 1), optimizer={"elbo": aae.OptimizerSpec()})
    config = default.get_config()
    default.change_optimizer(config, "elbo", learning_rate=1e-3)
    with pytest.raises(aae.UserError, match=match):
        aae.spec_from_config(config)
    # A phase with a single network has no second optimiser for it.
    with pytest.raises(
        aae.UserError, match="generator_encoder is not .*, with reconstruction_enco"
    ):
        aae.Spec((8, 8, 1), optimizer={"generator_encoder": aae.OptimizerSpec()})
    phases = aae.Spec((8, 8, 1)).algorithm.phases
    clash = aae.Spec((8, 8, 1)).algorithm._replace(
        phases=(*phases, phases[1]._replace(name="reconstruction_encoder"))
    )
    with pytest.raises(
        aae.UserError, match="has a phase 'reconstruction_encoder'.*rename the phas"
    ):
        aae.Spec((8, 8, 1), algorithm=clash)
    config.algorithm = "vae"
    assert dict(aae.spec_from_config(config).optimizer)["elbo"].learning_rate == 1e-3
    config.optimizer.elbo.learning_rat = 1e-3
    with pytest.raises(aae.UserError, match="optimizer.elbo.learning_rat is not a field.*momentum"):
        aae.spec_from_config(config)


def finetuning():
    config = default.get_config()
    config.algorithm, config.start_from = "decoder_finetuning", "experiments/mnist.py"
    return config


def test_options_are_the_fields_of_the_algorithms_dataclass():
    config = finetuning()
    options = aae.spec_from_config(config).algorithm.options
    assert aae.spec_from_config(config).options == options()
    config.options.code_noise = 0.25
    made = aae.spec_from_config(config)
    assert made.options == options(code_noise=0.25)
    assert made.options.code_noise == 0.25 != options().code_noise
    for value in (0.0, -1.0, float("nan"), "no"):
        with config.ignore_type():
            config.options.code_noise = value
        with pytest.raises(aae.UserError, match="^options.code_noise is "):
            aae.spec_from_config(config)
    config = finetuning()
    config.options.noise = 0.25
    with pytest.raises(
        aae.UserError, match="options.noise is not a field; the fields are: code_noise"
    ):
        aae.spec_from_config(config)
    config = default.get_config()
    config.algorithm = "vae"
    config.options.code_noise = 0.25
    with pytest.raises(
        aae.UserError, match="options.code_noise is not a field; the fields are: none"
    ):
        aae.spec_from_config(config)
    with pytest.raises(aae.UserError, match="options is Options.*: algorithm 'vae' takes .*NoOpt"):
        aae.Spec((8, 8, 1), algorithm="vae", options=options())
    with pytest.raises(aae.UserError, match="options is Options.*: algorithm .aae. takes "):
        aae.Spec((8, 8, 1), options=options())


def test_a_start_is_for_algorithms_that_go_on_from_one():
    config = finetuning()
    assert parse_config(config).start_from == "experiments/mnist.py"
    config.start_from = None
    with pytest.raises(aae.UserError, match="start_from is None.*encoder and decoder of an"):
        parse_config(config)


@pytest.mark.parametrize("given, expected", [(None, 80), (30, 30), (1_000, 80)])
def test_max_steps_caps_the_training_and_its_schedule(given, expected):
    config = default.get_config()
    config.train.num_steps, config.run.max_steps = 80, given
    made = parse_config(config)
    assert made.spec.train.num_steps == expected and made.run.max_steps == given
    schedule = optimizers.make_schedule(
        dict(made.spec.optimizer)["reconstruction"], made.spec.train.num_steps
    )
    rate = made.spec.algorithm.phases[0].optimizer.learning_rate
    np.testing.assert_allclose(schedule(expected / 2), rate / 2, rtol=1e-6)
    np.testing.assert_allclose(schedule(expected), 0, atol=1e-9)


def test_piecewise_schedule_is_checked():
    for boundaries, factors in (((5, 3), (0.1, 0.1)), ((5,), ()), ((0,), (0.1,)), ((5,), (-1.0,))):
        with pytest.raises(aae.UserError):
            aae.OptimizerSpec(schedule="piecewise", boundaries=boundaries, factors=factors)


def test_only_a_cosine_is_held():
    with pytest.raises(aae.UserError, match="optimizer.hold is 0.5: it is for 'cosine', not 'con"):
        aae.OptimizerSpec(hold=0.5)


def test_only_a_schedule_that_falls_by_itself_has_a_floor():
    with pytest.raises(aae.UserError, match="optimizer.floor is 0.5: it is for 'cosine' and 'exp"):
        aae.OptimizerSpec(floor=0.5)


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"schedule": "exponential"}, "'exponential' with decay None: 'exponential' needs a decay"),
        ({"schedule": "exponential", "decay": 0.9}, "optimizer.decay is 0.9: .*must be above 1"),
        ({"schedule": "exponential", "decay": 1.0}, "optimizer.decay is 1.0: .*must be above 1"),
        ({"momentum_steps": (5, 5), "momentum_values": (0.1, 0.2)}, "steps is .5, 5.: .*ascending"),
        ({"momentum_steps": (-1,), "momentum_values": (0.1,)}, "steps is .-1,.: .*0 or more"),
        ({"momentum_steps": (2**31,), "momentum_values": (0.1,)}, "must be below 2.31"),
        ({"momentum_steps": (5,), "momentum_values": (1.0,)}, "momentum_values is 1.0: .*below 1"),
        (
            {"momentum_steps": (5,)},
            "momentum_steps .5,. and momentum_values .. must have the same",
        ),
        (
            {"momentum": 0.5, "momentum_steps": (5,), "momentum_values": (0.9,)},
            "momentum_steps is .5,. with name 'sgd' and momentum 0.5: .*place of a constant",
        ),
    ],
)
def test_decays_and_momenta_that_make_no_sense_are_one_line(fields, match):
    with pytest.raises(aae.UserError, match=match) as error:
        aae.OptimizerSpec(name="sgd", **fields)
    assert "\n" not in str(error.value)


def test_data_must_have_the_shape_that_the_config_states():
    config = default.get_config()
    assert aae.spec_from_config(config, image_shape=(28, 28, 1), num_classes=10)
    with pytest.raises(aae.UserError, match=r"data.image_shape is \(28, 28, 1\).*\(8, 8, 1\)"):
        aae.spec_from_config(config, image_shape=(8, 8, 1))
    with pytest.raises(aae.UserError, match="data.num_classes is 10.*7"):
        aae.spec_from_config(config, num_classes=7)


def test_schedules_against_hand_computed_rates():
    constant = optimizers.make_schedule(aae.OptimizerSpec(learning_rate=0.5), 100)
    assert constant(0) == constant(99) == 0.5
    cosine = optimizers.make_schedule(aae.OptimizerSpec(learning_rate=0.5, schedule="cosine"), 100)
    for step in (0, 25, 50, 100):
        expected = 0.25 * (1 + np.cos(np.pi * step / 100))
        np.testing.assert_allclose(cosine(step), expected, atol=1e-7)
    floored = aae.OptimizerSpec(learning_rate=0.5, schedule="cosine", floor=0.2)
    found = [optimizers.make_schedule(floored, 100)(step) for step in (0, 50, 100)]
    np.testing.assert_allclose(found, [0.5, 0.3, 0.1], rtol=1e-6)
    held = dataclasses.replace(floored, hold=0.8)
    found = [optimizers.make_schedule(held, 100)(step) for step in (0, 79, 80, 90, 100)]
    np.testing.assert_allclose(found, [0.5, 0.5, 0.5, 0.3, 0.1], rtol=1e-6)
    piecewise = optimizers.make_schedule(
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


def test_only_optimisers_in_use_bind_the_length():
    constant, cosine = aae.OptimizerSpec(), aae.OptimizerSpec(schedule="cosine")
    three = dict.fromkeys(("reconstruction", "discriminator", "generator"), constant)
    unused = {**three, "supervised": cosine, "smoothness": cosine}

    def bound(optimizer, **fields):
        return optimizers.bound_to_length(make_spec(optimizer=optimizer, **fields))

    clusters = {"algorithm": "semi_supervised", "options": Options(labels=False, num_clusters=4)}
    assert bound(unused, **clusters) == []
    assert bound({**unused, "generator": cosine}, **clusters) == ["generator"]
    assert bound(unused, algorithm="semi_supervised") == ["supervised"]
    # Encoder and decoder have their own: that of the phase trains nothing.
    own = {"reconstruction_encoder": constant, "reconstruction_decoder": constant}
    assert bound({**three, **own, "reconstruction": cosine}) == []
    own["reconstruction_decoder"] = cosine
    assert bound({**three, **own, "reconstruction": cosine}) == ["reconstruction_decoder"]
    del own["reconstruction_decoder"]
    assert bound({**three, **own, "reconstruction": cosine}) == ["reconstruction"]


def test_an_exponential_decay_against_hand_computed_rates():
    """The GAN's decay: in float32 the error of 1.000004 is more than a hundredth of 0.000004."""
    spec = aae.OptimizerSpec(learning_rate=0.1, schedule="exponential", decay=1.000004, floor=1e-5)
    rate = optimizers.make_schedule(spec, 100)
    for step in (0, 1, 500, 125_000, 2_000_000):
        np.testing.assert_allclose(rate(step), 0.1 / 1.000004**step, rtol=2e-6)
    np.testing.assert_allclose(rate(10_000_000), 1e-6, rtol=1e-6)


def test_momenta_against_hand_computed_values():
    constant = optimizers.make_momentum(aae.OptimizerSpec(name="sgd", momentum=0.3))
    assert constant(0) == constant(10**6) == 0.3

    def momentum(steps, values):
        spec = aae.OptimizerSpec(name="sgd", momentum_steps=steps, momentum_values=values)
        return jax.jit(optimizers.make_momentum(spec))

    rising = momentum((500, 125_000), (0.5, 0.7))
    found = [rising(step) for step in (0, 500, 62_750, 125_000, 10**6)]
    np.testing.assert_allclose(found, [0.5, 0.5, 0.6, 0.7, 0.7], rtol=1e-6)
    jump = momentum((9_999, 10_000), (0.9, 0.99))
    np.testing.assert_allclose([jump(0), jump(9_999), jump(10_000)], [0.9, 0.9, 0.99], rtol=1e-6)


def test_a_heavy_ball_keeps_the_rate_of_each_push():
    """By hand: v = −1; 0.5 v − 0.1 = −0.6; 0.9 · −0.6 − 0.1 = −0.64."""
    ball = optimizers.heavy_ball(
        lambda step: jnp.where(step < 1, 1.0, 0.1), lambda step: jnp.where(step < 2, 0.5, 0.9)
    )
    state, moves = ball.init(jnp.zeros(())), []
    for _ in range(3):
        move, state = ball.update(jnp.ones(()), state)
        moves.append(move)
    np.testing.assert_allclose(moves, [-1, -0.6, -0.64], rtol=1e-6)


def test_float64_needs_x64(x64):
    assert jax.config.jax_enable_x64
    aae.ModelSpec(param_dtype="float64")
