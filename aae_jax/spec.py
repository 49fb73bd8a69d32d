"""What to build and how to train it: frozen, hashable, checked before anything compiles.

A `Spec` is the static part of a `TrainState`. It is made by hand, `Spec(image_shape=(28, 28, 1))`,
or from a config by `spec_from_config`. The remaining sections of a config (data, run, evaluation)
never reach a compiled function; `parse_config` checks them with the same code.
"""

import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

import jax

from aae_jax.errors import UserError

# The phases of an algorithm in the order in which one training step runs them (section 2).
ALGORITHMS = {
    "aae": ("reconstruction", "discriminator", "generator"),
    "vae": ("elbo",),
    "decoder": ("reconstruction",),
}
POSTERIORS = ("deterministic", "gaussian", "universal")
PRIORS = ("gaussian", "gaussian_mixture", "swiss_roll", "user")
OUTPUTS = ("sigmoid", "linear")
OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine", "piecewise")
PARAM_DTYPES = ("float32", "float64")
RUNNERS = ("jit", "pmap")
COMPUTE_DTYPES = ("float32", "float64", "bfloat16")
_MAX_SEEDS = 1_000
# Those of a run, or of a config of the user's, that is older than they are.
LATER_FIELDS = {
    "num_seeds": 1,
    "start_from": None,
    "parallel": {"runner": "jit", "num_devices": None},
}


def _check_types(instance, section):
    """Compares each field of a dataclass with its annotation; whole floats stay floats."""
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if not _has_type(value, field.type):
            raise UserError(
                f"{section}.{field.name} is {value!r}: it must be {_describe(field.type)}"
            )
        if field.type is float:
            object.__setattr__(instance, field.name, float(value))


def _has_type(value, hint) -> bool:
    if hint is Any:
        return True
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(_has_type(v, item) for v in value)
    if isinstance(hint, types.UnionType):
        return any(_has_type(value, option) for option in typing.get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**300)
    return isinstance(value, hint)


def _describe(hint) -> str:
    if typing.get_origin(hint) is tuple:
        return f"a tuple of {'numbers' if typing.get_args(hint)[0] is float else 'integers'}"
    if isinstance(hint, types.UnionType):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    names = {int: "an integer", float: "a number", str: "a string", bool: "True or False"}
    return names.get(hint, hint.__name__)


def _check_choice(name, value, choices):
    if value not in choices:
        raise UserError(f"{name} is {value!r}: it must be one of {', '.join(map(repr, choices))}")


def _check_positive(name, value, shown=None, least=0, most=2**31 - 1):
    shown = value if shown is None else shown
    if not 0 < value < float("inf"):
        raise UserError(f"{name} is {shown}: it must be positive")
    if not least <= value <= most:
        raise UserError(f"{name} is {shown}: it must be from {least or 1:g} to {most:g}")


def _check_length(name, value, shown=None):
    """Of codes or pixels: its square, and one over that, are numbers in float32."""
    _check_positive(name, value, shown, least=1e-6, most=1e6)


def _check_image_shape(name, shape):
    if not (_has_type(shape, tuple[int, ...]) and len(shape) == 3 and min(shape) > 0):
        raise UserError(f"{name} is {shape!r}: it must be (height, width, channels)")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """The three networks. Defaults: the paper's footnote 1, MNIST."""

    posterior: str = "deterministic"
    noise_dim: int = 100  # of η, the encoder's second input; posterior "universal" only
    code_dim: int = 8
    # The encoder's output is multiplied, and what decoder and discriminator see of z is divided, by
    # this; None: 1. With the prior's std the networks start at its scale and need not grow to it.
    code_scale: float | None = None
    encoder_hidden: tuple[int, ...] = (1000, 1000)
    decoder_hidden: tuple[int, ...] = (1000, 1000)
    discriminator_hidden: tuple[int, ...] = (1000, 1000)
    # Section 3.1, Fig. 3a. With a prior that has no components, the codes of every label are matched
    # to all of it.
    label_in_discriminator: bool = False
    label_in_decoder: bool = False  # section 3.2, Fig. 3b
    output: str = "sigmoid"  # last layer of the decoder; "linear" for standardised pixels
    param_dtype: str = "float32"
    compute_dtype: str = "float32"

    def __post_init__(self):
        _check_types(self, "model")
        _check_choice("model.posterior", self.posterior, POSTERIORS)
        _check_choice("model.output", self.output, OUTPUTS)
        _check_choice("model.param_dtype", self.param_dtype, PARAM_DTYPES)
        _check_choice("model.compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        _check_positive("model.code_dim", self.code_dim)
        if self.code_scale is not None:
            _check_length("model.code_scale", self.code_scale)
        _check_positive("model.noise_dim", self.noise_dim)
        for name in ("encoder_hidden", "decoder_hidden", "discriminator_hidden"):
            for width in getattr(self, name):
                _check_positive(f"model.{name}", width, shown=getattr(self, name))
        if "float64" in (self.param_dtype, self.compute_dtype) and not jax.config.jax_enable_x64:
            raise UserError(
                "model.param_dtype or model.compute_dtype is 'float64', which JAX has switched "
                "off: set the environment variable JAX_ENABLE_X64=1"
            )


def _check_prior_function(function):
    try:
        signature = inspect.signature(function)
        signature.bind(*range(3 if len(signature.parameters) > 2 else 2))
    except (TypeError, ValueError):
        raise UserError(
            f"prior.function is {function!r}: it must take (key, batch_size) or "
            "(key, batch_size, label)"
        ) from None


@dataclasses.dataclass(frozen=True)
class PriorSpec:
    """The distribution imposed on the code: see `aae_jax.priors`. Lengths are in units of z."""

    name: str = "gaussian"
    # Of every dimension of the Gaussian; of the Gaussian around the swiss roll.
    std: float = 5.0
    radius: float = 1.0  # from the origin to the mixture's means; to the outer end of the roll
    radial_std: float = 1.0  # mixture: of a component, away from the origin
    tangential_std: float = 1.0  # mixture: of a component, across that
    turns: float = 2.0  # swiss roll
    # "user": (key, batch_size) → z f[B, D], or (key, batch_size, label i32[B]) → z, label −1 for
    # the full prior. In a config its import path, "package.module:function".
    function: Any = None

    def __post_init__(self):
        _check_types(self, "prior")
        _check_choice("prior.name", self.name, PRIORS)
        for name in ("std", "radius", "radial_std", "tangential_std", "turns"):
            _check_length(f"prior.{name}", getattr(self, name))
        if isinstance(self.function, str):
            object.__setattr__(self, "function", import_path("prior.function", self.function))
        if (self.name == "user") != callable(self.function):
            raise UserError(
                f"prior.name is {self.name!r} and prior.function is {self.function!r}: 'user' "
                "needs a function, and the other priors take none"
            )
        if self.name == "user":
            _check_prior_function(self.function)

    @property
    def has_components(self) -> bool:
        """Whether a label selects a part of the prior."""
        if self.name == "user":
            return len(inspect.signature(self.function).parameters) > 2
        return self.name in ("gaussian_mixture", "swiss_roll")


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """One optax chain and its learning-rate schedule; one a phase.

    Schedules: "constant"; "cosine" falls to `floor` times the rate at `train.num_steps`;
    "piecewise" multiplies the rate by `factors[i]` from step `boundaries[i]` on.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    b1: float = 0.9  # adam: decay of the first moment
    b2: float = 0.999  # adam: decay of the second moment
    momentum: float = 0.0  # sgd
    schedule: str = "constant"
    boundaries: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    floor: float | None = None  # cosine: the share of the rate that is left at the end; None: none
    # The global norm that a phase's gradient is scaled down to where it is larger; None: never.
    clip_norm: float | None = None

    def __post_init__(self):
        _check_types(self, "optimizer")
        _check_choice("optimizer.name", self.name, OPTIMIZERS)
        _check_choice("optimizer.schedule", self.schedule, SCHEDULES)
        _check_positive("optimizer.learning_rate", self.learning_rate, least=1e-30, most=1e3)
        if self.clip_norm is not None:
            _check_positive("optimizer.clip_norm", self.clip_norm, least=1e-30, most=1e30)
        for name in ("b1", "b2", "momentum"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1 - 2**-24:  # the largest float32 below 1
                raise UserError(f"optimizer.{name} is {value}: it must be at least 0 and below 1")
        if self.name == "adam" and self.momentum:
            raise UserError(f"optimizer.momentum is {self.momentum}: it is of 'sgd', not of 'adam'")
        if self.floor is not None and not 0 <= self.floor <= 1:
            raise UserError(f"optimizer.floor is {self.floor}: it must be from 0 to 1")
        if self.floor is not None and self.schedule != "cosine":
            raise UserError(
                f"optimizer.floor is {self.floor}: it is of 'cosine', not of {self.schedule!r}"
            )
        if (self.schedule == "piecewise") != bool(self.boundaries):
            raise UserError(
                f"optimizer.schedule is {self.schedule!r} with boundaries {self.boundaries}: "
                "'piecewise' needs boundaries, and the other schedules take none"
            )
        if len(self.boundaries) != len(self.factors):
            raise UserError(
                f"optimizer.boundaries {self.boundaries} and factors {self.factors} must be "
                "of the same length"
            )
        if self.boundaries and self.boundaries[-1] >= 2**31:
            raise UserError(f"optimizer.boundaries is {self.boundaries}: steps must be below 2^31")
        if any(later <= earlier for earlier, later in zip((0,) + self.boundaries, self.boundaries)):
            raise UserError(
                f"optimizer.boundaries is {self.boundaries}: steps must be positive and ascending"
            )
        rate = self.learning_rate
        for factor in self.factors:
            _check_positive("optimizer.factors", factor, self.factors, least=1e-30, most=1e30)
            rate *= factor
            if not 1e-30 <= rate <= 1e3:
                raise UserError(
                    f"optimizer.factors is {self.factors}: with them the learning rate becomes "
                    f"{rate:g}, and it must be from 1e-30 to 1000"
                )


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """Length of the training and what a batch is."""

    num_steps: int = 5_000
    batch_size: int = 100
    # Std of the Gaussian noise added to the images that the encoder sees while training, in the
    # units of its input; the target of the reconstruction stays clean.
    input_noise: float = 0.0
    # Std, in z, of the Gaussian noise added to the codes that algorithm "decoder" learns to decode.
    code_noise: float | None = None
    # Encoder and decoder are used with running averages of their parameters, which forget a step by
    # this factor with every later one; None: with the parameters as they are.
    average_decay: float | None = None

    def __post_init__(self):
        _check_types(self, "train")
        _check_positive("train.num_steps", self.num_steps)
        _check_positive("train.batch_size", self.batch_size)
        if self.input_noise != 0:
            _check_length("train.input_noise", self.input_noise)
        if self.code_noise is not None:
            _check_length("train.code_noise", self.code_noise)
        decay = self.average_decay
        if decay is not None and not 0 <= decay <= 1 - 2**-24:  # the largest float32 below 1
            raise UserError(f"train.average_decay is {decay}: it must be at least 0 and below 1")


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything static about a model and its training step.

    Attributes:
        image_shape: (height, width, channels).
        num_classes: labels are 0 … num_classes − 1; −1 means unlabelled.
        algorithm: a key of `ALGORITHMS`.
        model, prior, train: see the classes.
        optimizer: one `OptimizerSpec` for each phase of the algorithm. Give a dict, or None for
            the rates of `experiments/default.py`; it is kept as a sorted tuple of pairs, which can
            be hashed.
    """

    image_shape: tuple[int, ...]
    num_classes: int = 10
    algorithm: str = "aae"
    model: ModelSpec = ModelSpec()
    prior: PriorSpec = PriorSpec()
    train: TrainSpec = TrainSpec()
    optimizer: Any = None

    def __post_init__(self):
        _check_types(self, "spec")
        _check_choice("algorithm", self.algorithm, tuple(ALGORITHMS))
        _check_image_shape("image_shape", self.image_shape)
        _check_positive("num_classes", self.num_classes)
        self._check_combination()
        self._check_size()
        phases = ALGORITHMS[self.algorithm]
        optimizer = self.optimizer
        if optimizer is None:
            optimizer = {
                phase: OptimizerSpec(schedule="cosine")
                if phase in ("reconstruction", "elbo")
                else OptimizerSpec(learning_rate=2e-4, b1=0.5, schedule="cosine")
                for phase in phases
            }
        if not isinstance(optimizer, (dict, tuple)):
            raise UserError(f"optimizer is {optimizer!r}: it must be a dict by phase")
        optimizer = dict(optimizer)
        for phase, value in optimizer.items():
            if not isinstance(value, OptimizerSpec):
                raise UserError(f"optimizer.{phase} is {value!r}: it must be an OptimizerSpec")
        if set(optimizer) != set(phases):
            raise UserError(
                f"optimizer has {sorted(optimizer)}: algorithm {self.algorithm!r} needs one each "
                f"for {', '.join(phases)}"
            )
        object.__setattr__(self, "optimizer", tuple(sorted(optimizer.items())))

    def _check_combination(self):
        model, prior = self.model, self.prior
        if prior.name in ("gaussian_mixture", "swiss_roll") and model.code_dim != 2:
            raise UserError(
                f"prior.name is {prior.name!r}, which is 2-D: model.code_dim is {model.code_dim}"
            )
        if (self.train.code_noise is not None) != (self.algorithm == "decoder"):
            raise UserError(
                f"train.code_noise is {self.train.code_noise!r}: algorithm 'decoder' needs one, and "
                f"no other takes it; algorithm is {self.algorithm!r}"
            )
        if self.algorithm == "vae":
            for name, value, needed in (
                ("model.posterior", model.posterior, "gaussian"),
                ("model.output", model.output, "sigmoid"),
                ("model.label_in_discriminator", model.label_in_discriminator, False),
            ):
                if value != needed:
                    raise UserError(f"{name} is {value!r}: algorithm 'vae' needs {needed!r}")
            if prior.name not in ("gaussian", "gaussian_mixture"):
                raise UserError(
                    f"prior.name is {prior.name!r}: algorithm 'vae' needs a prior with a known "
                    "density, 'gaussian' or 'gaussian_mixture'"
                )

    def _check_size(self):
        """Before anything tries to allocate them; far above what any device holds."""
        model = self.model
        widest = max(*model.encoder_hidden, *model.decoder_hidden, *model.discriminator_hidden, 1)
        inputs = max(self.num_pixels + model.noise_dim, model.code_dim + self.num_classes)
        if inputs * widest >= 2**31 or widest**2 >= 2**31:
            raise UserError(
                f"model.encoder_hidden is {model.encoder_hidden}, model.decoder_hidden "
                f"{model.decoder_hidden}, model.discriminator_hidden {model.discriminator_hidden}, "
                f"model.noise_dim {model.noise_dim}, model.code_dim {model.code_dim}, num_classes "
                f"{self.num_classes} and image_shape {self.image_shape}: a layer would have more "
                "than 2^31 parameters"
            )
        if self.train.batch_size * max(inputs, widest) >= 2**31:
            raise UserError(
                f"train.batch_size is {self.train.batch_size}: a batch would be more than 2^31 "
                "numbers in a layer"
            )

    @property
    def num_pixels(self) -> int:
        """Height × width × channels."""
        height, width, channels = self.image_shape
        return height * width * channels


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Where the images come from; the shape and the classes are checked against them."""

    name: str  # "digits", "mnist", "tfd", "files", or a builder of tensorflow-datasets
    image_shape: tuple[int, ...]
    num_classes: int
    path: str | None = None  # "files": an .npz, a .mat, or a directory of images
    data_dir: str | None = None  # where tensorflow-datasets keeps prepared data
    manual_dir: str | None = None  # the original files, to prepare them without a network
    # Other builders of tensorflow-datasets: which of their splits, or slices of them.
    train_split: str = "train[:90%]"
    validation_split: str = "train[90%:]"
    test_split: str = "test"
    fold: int | None = None  # "tfd": 1 … 5; None: all five are scored
    drop_black: bool = False  # "tfd": leave out the images that are all black
    # How many training images keep their label, balanced over the classes; None: all of them.
    num_labelled: int | None = None
    # How often an epoch visits an image that keeps its label, the others being visited once; None:
    # once too.
    labelled_visits: int | None = None
    standardise: bool = False  # every pixel to mean 0 and std 1 over the training images

    def __post_init__(self):
        _check_types(self, "data")
        _check_image_shape("data.image_shape", self.image_shape)
        _check_positive("data.num_classes", self.num_classes)
        if (self.name == "files") != bool(self.path):
            raise UserError(
                f"data.name is {self.name!r} and data.path is {self.path!r}: 'files' needs a path, "
                "and the other data sets take none"
            )
        if self.name != "tfd" and (self.fold is not None or self.drop_black):
            raise UserError(
                f"data.fold is {self.fold} and data.drop_black is {self.drop_black}: they are of "
                f"'tfd', not of {self.name!r}"
            )
        if self.fold is not None and not 1 <= self.fold <= 5:
            raise UserError(f"data.fold is {self.fold}: it must be 1 … 5, or None for all five")
        if self.num_labelled is not None and self.num_labelled < 0:
            raise UserError(f"data.num_labelled is {self.num_labelled}: it must be 0 or more")
        if self.labelled_visits is not None:
            _check_positive("data.labelled_visits", self.labelled_visits, most=10**4)
            if not self.num_labelled:
                raise UserError(
                    f"data.labelled_visits is {self.labelled_visits} and data.num_labelled "
                    f"{self.num_labelled}: it is for where some images keep their label"
                )


@dataclasses.dataclass(frozen=True)
class ParallelSpec:
    """Over which devices each batch is split, and how: see `aae_jax.parallel`."""

    runner: str = "jit"  # over a mesh of the devices; or "pmap", in one process
    num_devices: int | None = None  # None: all; to train, as many as the batch divides over

    def __post_init__(self):
        _check_types(self, "parallel")
        _check_choice("parallel.runner", self.runner, RUNNERS)
        if self.num_devices is not None:
            _check_positive("parallel.num_devices", self.num_devices)


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """How often the training loop comes back to the host."""

    steps_per_dispatch: int = 100
    checkpoint_every: int = 1_000
    # Whether images are read from the host while training instead of lying on the device; None:
    # where they would take more than half of its memory.
    stream: bool | None = None

    def __post_init__(self):
        _check_types(self, "run")
        _check_positive("run.steps_per_dispatch", self.steps_per_dispatch, most=10**5)
        _check_positive("run.checkpoint_every", self.checkpoint_every)


@dataclasses.dataclass(frozen=True)
class EvaluationSpec:
    """The Parzen protocol of Table 1: see `aae_jax.evaluation`."""

    num_samples: int = 10_000
    num_validation: int | None = 1_000  # images that choose σ, the first of them; None: all
    sigmas: tuple[float, ...] = ()

    def __post_init__(self):
        _check_types(self, "evaluation")
        _check_positive("evaluation.num_samples", self.num_samples, most=10**12)
        if self.num_validation is not None:
            _check_positive("evaluation.num_validation", self.num_validation)
        if not self.sigmas:
            raise UserError("evaluation.sigmas is empty: give the grid that σ is chosen from")
        for sigma in self.sigmas:
            _check_length("evaluation.sigmas", sigma, shown=self.sigmas)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole config, checked."""

    seed: int
    num_seeds: int  # trainings in one program, of seeds seed, seed + 1, …
    start_from: str | None  # the workdir of the run whose decoder is trained on
    spec: Spec
    data: DataSpec
    parallel: ParallelSpec
    run: RunSpec
    evaluation: EvaluationSpec


def spec_from_config(
    config: Mapping[str, Any],
    image_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
) -> Spec:
    """Checks every field of a config and returns its static part.

    Args:
        config: a ConfigDict (or nested mapping) with the fields of `experiments/default.py`.
        image_shape: what the data have, (height, width, channels); None to take the config's.
        num_classes: what the data have; None to take the config's.

    Returns:
        The `Spec`.

    Raises:
        UserError: naming the field, its value and what would be right.
    """
    settings = parse_config(config)
    for name, found in (("image_shape", image_shape), ("num_classes", num_classes)):
        stated = getattr(settings.data, name)
        if found is not None and (tuple(found) if name == "image_shape" else found) != stated:
            raise UserError(
                f"data.{name} is {stated} in the config, but the data {settings.data.name!r} "
                f"have {found}"
            )
    return settings.spec


def parse_config(config: Mapping[str, Any]) -> Settings:
    """Checks every field of a config: names, types, values. Raises `UserError`."""
    fields = {
        "seed",
        "num_seeds",
        "start_from",
        "algorithm",
        "data",
        "model",
        "prior",
        "optimizer",
        "train",
        "parallel",
        "run",
        "evaluation",
    }
    config = {**LATER_FIELDS, **config}
    _check_names(config, fields, "")
    seed = config["seed"]
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed!r}: it must be an integer from 0 to 2^32 − 1")
    num_seeds = config["num_seeds"]
    if type(num_seeds) is not int or not 1 <= num_seeds <= _MAX_SEEDS:
        raise UserError(f"num_seeds is {num_seeds!r}: it must be an integer from 1 to {_MAX_SEEDS}")
    algorithm = config["algorithm"]
    if not isinstance(algorithm, str):
        raise UserError(f"algorithm is {algorithm!r}: it must be a string")
    _check_choice("algorithm", algorithm, tuple(ALGORITHMS))
    start_from = config["start_from"]
    if start_from is not None and not isinstance(start_from, str):
        raise UserError(f"start_from is {start_from!r}: it must be the --workdir of a run")
    if (start_from is not None) != (algorithm == "decoder"):
        raise UserError(
            f"start_from is {start_from!r}: algorithm 'decoder' needs the --workdir of a run to go "
            f"on from, and no other takes one; algorithm is {algorithm!r}"
        )
    _check_section(config["optimizer"], "optimizer")
    _check_names(config["optimizer"], set(ALGORITHMS[algorithm]), "optimizer.")
    data = _section(config, "data", DataSpec)
    spec = Spec(
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        algorithm=algorithm,
        model=_section(config, "model", ModelSpec),
        prior=_section(config, "prior", PriorSpec),
        train=_section(config, "train", TrainSpec),
        optimizer={
            phase: _section(config["optimizer"], phase, OptimizerSpec, "optimizer.")
            for phase in ALGORITHMS[algorithm]
        },
    )
    if data.standardise and spec.model.output == "sigmoid":
        raise UserError("data.standardise is True: model.output must be 'linear', not 'sigmoid'")
    devices = _section(config, "parallel", ParallelSpec)
    run = _section(config, "run", RunSpec)
    if num_seeds > 1 and start_from is not None:
        raise UserError(f"num_seeds is {num_seeds}: start_from goes on from one trained model")
    if num_seeds > 1 and (devices.runner == "pmap" or run.stream):
        raise UserError(
            f"num_seeds is {num_seeds} with parallel.runner {devices.runner!r} and run.stream "
            f"{run.stream}: several trainings in one program need 'jit', and images on the device"
        )
    return Settings(
        seed=seed,
        num_seeds=num_seeds,
        start_from=start_from,
        spec=spec,
        data=data,
        parallel=devices,
        run=run,
        evaluation=_section(config, "evaluation", EvaluationSpec),
    )


def _section(config, name, cls, prefix=""):
    """One section of the config as its dataclass."""
    section = config[name]
    _check_section(section, f"{prefix}{name}")
    fields = {field.name for field in dataclasses.fields(cls)}
    # Runs that are older than an optional field have none in their config.json.
    optional = {field.name for field in dataclasses.fields(cls) if field.default is None}
    _check_names(section, fields, f"{prefix}{name}.", optional)
    values = {}
    for field in fields & set(section.keys()):
        value = section[field]
        values[field] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**values)
    except UserError as error:
        # Say which phase's optimiser it is.
        raise UserError(str(error).replace(prefix, f"{prefix}{name}.", 1) if prefix else str(error))


def _check_section(section, name):
    if not hasattr(section, "items"):
        raise UserError(f"{name} is {section!r}: it must be a section with fields of its own")


def import_path(field: str, path: str) -> Any:
    """What "package.module:name" names, for a config's `field`."""
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"{field} is {path!r}: write 'package.module:name' ({error})") from error


def _check_names(config, expected, prefix, optional=frozenset()):
    found = set(config.keys())
    for name in sorted(found - expected):
        raise UserError(f"{prefix}{name} is not a field; there are: {', '.join(sorted(expected))}")
    for name in sorted(expected - optional - found):
        raise UserError(f"{prefix}{name} is missing from the config")
