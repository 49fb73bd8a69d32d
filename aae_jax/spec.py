"""The static description of a model and its training: frozen, hashable, and checked when made.

A `Spec` is the static part of a `TrainState`. It is made by hand, `Spec(image_shape=(28, 28, 1))`,
or from a config by `spec_from_config`. A field that takes a name also takes an import path
"package.module:name" or the value itself (`aae_jax.registry`). All such fields except `prior.name`
then hold the value, so that a name and its value make equal specs.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax

from aae_jax import registry
from aae_jax.checks import (
    check_choice,
    check_image_shape,
    check_length,
    check_noise,
    check_positive,
    check_share,
    check_types,
)
from aae_jax.errors import UserError, in_one_line
from aae_jax.losses import Reconstruction
from aae_jax.optimizers import OptimizerSpec, own_optimizers

OUTPUTS = ("sigmoid", "linear")
PARAM_DTYPES = ("float32", "float64")
COMPUTE_DTYPES = ("float32", "float64", "bfloat16")


def _resolve(instance, section, field, names, kind, is_kind):
    """Replaces a name or an import path by its value, and checks the value."""
    given = getattr(instance, field)
    value = registry.resolve(f"{section}{field}", given, names)
    if not is_kind(value):
        raise UserError(f"{section}{field} is {given!r}: it must be, or name, {kind}")
    try:
        hash(value)
    except TypeError as error:
        raise UserError(f"{section}{field} is {given!r}, which can't be hashed: {error}") from error
    object.__setattr__(instance, field, value)


def _has(*names):
    return lambda value: all(hasattr(value, name) for name in names)


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """The networks. Defaults: the paper's footnote 1, MNIST."""

    # Factories of Flax modules: "mlp", "conv", "package.module:factory" (`aae_jax.networks`); for
    # the encoder also "mlp_centred", for the discriminator "mlp_spread".
    encoder: Any = "mlp"
    decoder: Any = "mlp"
    discriminator: Any = "mlp"
    # q(z|x): "deterministic", "gaussian", "universal", or an import path (`aae_jax.posteriors`).
    # None: the algorithm's default.
    posterior: Any = None
    noise_dim: int = 100  # of η, the encoder's second input; posterior "universal" only
    # "squared_error", "bernoulli", or the import path of (x_hat, x) → f[B]. None: the algorithm's
    # default.
    reconstruction: Any = None
    code_dim: int = 8
    # Multiplies the encoder's output and divides the input z of decoder and discriminator; None: 1.
    # With the prior's std, the networks start at the prior's scale and need not grow to it.
    code_scale: float | None = None
    # Hidden widths of "mlp".
    encoder_hidden: tuple[int, ...] = (1000, 1000)
    decoder_hidden: tuple[int, ...] = (1000, 1000)
    discriminator_hidden: tuple[int, ...] = (1000, 1000)
    # "conv": the channels after each convolution of stride 2; in reverse for the decoder.
    conv_channels: tuple[int, ...] = (32, 64)
    # Section 3.1, Fig. 3a. If the prior has no components, the codes of every label are matched to
    # the full prior.
    label_in_discriminator: bool = False
    label_in_decoder: bool = False  # section 3.2, Fig. 3b
    # Likewise for conditions, floats [B, condition_dim] beside the examples. All conditions share
    # one prior: a discriminator that sees them matches q(z | condition) to the full p(z).
    condition_in_discriminator: bool = False
    condition_in_decoder: bool = False
    output: str = "sigmoid"  # last layer of the decoder; "linear" for standardised pixels
    param_dtype: str = "float32"
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_types(self, "model")
        for field, names in (
            ("encoder", registry.ENCODERS),
            ("decoder", registry.DECODERS),
            ("discriminator", registry.DISCRIMINATORS),
        ):
            _resolve(self, "model.", field, names, "a function that makes a module", callable)
        if self.posterior is not None:
            kind = "an aae_jax.Posterior", _has("num_outputs", "sample")
            _resolve(self, "model.", "posterior", registry.POSTERIORS, *kind)
        if self.reconstruction is not None:
            names = registry.RECONSTRUCTIONS
            kind = "a function (x_hat, x) → f[B]", lambda v: callable(v) or hasattr(v, "loss")
            _resolve(self, "model.", "reconstruction", names, *kind)
            if callable(self.reconstruction):
                object.__setattr__(self, "reconstruction", Reconstruction(self.reconstruction))
        check_choice("model.output", self.output, OUTPUTS)
        check_choice("model.param_dtype", self.param_dtype, PARAM_DTYPES)
        check_choice("model.compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        check_positive("model.code_dim", self.code_dim)
        if self.code_scale is not None:
            check_length("model.code_scale", self.code_scale)
        check_positive("model.noise_dim", self.noise_dim)
        for name in ("encoder_hidden", "decoder_hidden", "discriminator_hidden", "conv_channels"):
            for width in getattr(self, name):
                check_positive(f"model.{name}", width, shown=getattr(self, name))
        if "float64" in (self.param_dtype, self.compute_dtype) and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
            raise UserError(
                "model.param_dtype or model.compute_dtype is 'float64', which JAX disables by "
                "default: set the environment variable JAX_ENABLE_X64=1"
            )


def takes_label(function: Callable[..., Any]) -> bool:
    """Whether a `prior.function` takes a label after key and batch size.

    A third parameter with a default is an option of its own, unless it is called label.
    """
    positional = [
        one
        for one in inspect.signature(function).parameters.values()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    return any(one.default is one.empty or one.name == "label" for one in positional[2:3])


@dataclasses.dataclass(frozen=True)
class PriorSpec:
    """The distribution imposed on the code: see `aae_jax.priors`. Lengths are in units of z."""

    name: Any = "gaussian"
    # Gaussian: the std of every dimension. Swiss roll: the std around its axis.
    std: float = 5.0
    # Distance from the origin: of the mixture's means, of the swiss roll's outer end, or of the
    # sides of the uniform prior's box.
    radius: float = 1.0
    radial_std: float = 1.0  # mixture: std of a component along its direction from the origin
    tangential_std: float = 1.0  # mixture: std of a component across that direction
    turns: float = 2.0  # swiss roll
    # "user": (key, batch_size) → z f[B, D], or (key, batch_size, label i32[B]) → z, label −1 for
    # the full prior. In a config its import path, "package.module:function".
    function: Any = None

    def __post_init__(self) -> None:
        check_types(self, "prior")
        if not _has("sample", "log_prob", "takes_function")(self.distribution):
            raise UserError(f"prior.name is {self.name!r}: it must be, or name, an aae_jax.Prior")
        for name in ("std", "radius", "radial_std", "tangential_std", "turns"):
            check_length(f"prior.{name}", getattr(self, name))
        if self.function is not None:
            kind = "a function of a key and a batch size", callable
            _resolve(self, "prior.", "function", {}, *kind)
        if self.distribution.takes_function != (self.function is not None):
            raise UserError(
                f"prior.name is {self.name!r} and prior.function is {self.function!r}: 'user' "
                "needs a function, the other priors take none"
            )
        if self.function is not None:
            self._check_function()

    def _check_function(self):
        try:
            inspect.signature(self.function).bind(*range(3 if takes_label(self.function) else 2))
        except (TypeError, ValueError):
            raise UserError(
                f"prior.function is {self.function!r}: it must take (key, batch_size) or "
                "(key, batch_size, label)"
            ) from None

    @functools.cached_property
    def distribution(self) -> Any:
        """The `aae_jax.priors.Prior` that `name` stands for."""
        return registry.resolve("prior.name", self.name, registry.PRIORS)

    @property
    def has_components(self) -> bool:
        """Whether a label selects a part of the prior."""
        return self.distribution.has_components(self)


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """The length of the training and its mini-batches."""

    num_steps: int = 5_000
    batch_size: int = 100
    # Std of the Gaussian noise added to the encoder's input while training, in the input's units;
    # the target of the reconstruction stays clean.
    input_noise: float = 0.0
    # Whether each training image is mirrored, left to right, with probability 1/2 and anew in every
    # step; its label and condition stay. Pixels' means and stds are those of the images as they are.
    mirror: bool = False
    # Decay per step of the exponential moving averages of the parameters, which a trained model is
    # used with; None: no averages.
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        check_types(self, "train")
        check_positive("train.num_steps", self.num_steps)
        check_positive("train.batch_size", self.batch_size)
        check_noise("train.input_noise", self.input_noise)
        if self.ema_decay is not None:
            check_share("train.ema_decay", self.ema_decay)


def default_options(algorithm: Any) -> Any:
    """An algorithm's options with their defaults; raises if the algorithm is malformed."""
    called = registry.name_of(algorithm, registry.ALGORITHMS)
    phases, options = algorithm.phases, algorithm.options
    if not isinstance(phases, tuple) or not all(map(_has("name", "trains", "loss"), phases)):
        raise UserError(
            f"algorithm {called} has the phases {phases!r}: they must be a tuple of Phase"
        )
    names = [phase.name for phase in phases]
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"algorithm {called} has the phases {', '.join(names) or '(none)'}: it needs at least "
            "one, and their names must differ"
        )
    is_class = isinstance(options, type) and dataclasses.is_dataclass(options)
    if not is_class or not options.__dataclass_params__.frozen:
        raise UserError(
            f"algorithm {called} has the options {options!r}: they must be a frozen dataclass"
        )
    return in_one_line(f"the options of algorithm {called}", options)


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything static about a model and its training step.

    Attributes:
        image_shape: (height, width, channels), or the shape of other kinds of examples.
        num_classes: labels are 0 … num_classes − 1; −1 means unlabelled.
        condition_dim: K of the conditions f[B, K] beside the examples; 0: there are none.
        algorithm: an `aae_jax.Algorithm`; give its name ("aae", "vae", …), its import path
            "package.module:VALUE", or the value.
        model, prior, train: see the classes.
        optimizer: one `OptimizerSpec` for each phase of the algorithm. Give a dict with those that
            differ from the phase's own. "<phase>_<network>", such as "reconstruction_encoder", is one
            network's optimiser in that phase. It is stored as a sorted tuple of pairs, which is
            hashable.
        options: the algorithm's own hyper-parameters, an instance of its `options` class; None: the
            class's defaults.
    """

    image_shape: tuple[int, ...]
    num_classes: int = 10
    condition_dim: int = 0
    algorithm: Any = "aae"
    model: ModelSpec = dataclasses.field(default_factory=ModelSpec)
    prior: PriorSpec = dataclasses.field(default_factory=PriorSpec)
    train: TrainSpec = dataclasses.field(default_factory=TrainSpec)
    optimizer: Any = None
    options: Any = None

    def __post_init__(self) -> None:
        check_types(self, "spec")
        kind = "an aae_jax.Algorithm", _has("networks", "phases", "sample", "options")
        _resolve(self, "", "algorithm", registry.ALGORITHMS, *kind)
        check_image_shape("image_shape", self.image_shape)
        check_positive("num_classes", self.num_classes)
        if not 0 <= self.condition_dim < 2**31:
            raise UserError(f"condition_dim is {self.condition_dim}: it must be 0 or more")
        algorithm = self.algorithm
        defaults = {
            field: getattr(algorithm, field)
            for field in ("posterior", "reconstruction")
            if getattr(self.model, field) is None
        }
        object.__setattr__(self, "model", dataclasses.replace(self.model, **defaults))
        options = default_options(algorithm)
        options = options if self.options is None else self.options
        if not isinstance(options, algorithm.options):
            raise UserError(
                f"options is {options!r}: algorithm {self.algorithm_name} takes "
                f"{registry.path_of(algorithm.options)}"
            )
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "optimizer", self._complete_optimizer())
        if self.train.mirror and len(self.image_shape) != 3:
            raise UserError(
                f"train.mirror is True and image_shape {self.image_shape}: it needs images of (height, "
                "width, channels); set train.mirror=False"
            )
        self._check_combination()
        self._check_conditions()
        self._check_size()
        algorithm.check(self)

    @property
    def algorithm_name(self) -> str:
        """The algorithm's name in a config, for messages."""
        return registry.name_of(self.algorithm, registry.ALGORITHMS)

    def _complete_optimizer(self):
        given = {} if self.optimizer is None else self.optimizer
        if not isinstance(given, (dict, tuple)):
            raise UserError(f"optimizer is {given!r}: it must be a dict by phase")
        optimizer = {phase.name: phase.optimizer for phase in self.algorithm.phases}
        own = [key for phase in self.algorithm.phases for key in own_optimizers(phase)]
        for key in set(own) & set(optimizer):
            raise UserError(
                f"algorithm {self.algorithm_name} has a phase {key!r}, the name of one network's "
                "optimiser in another phase: rename the phase"
            )
        for phase, value in dict(given).items():
            if phase not in (*optimizer, *own):
                raise UserError(
                    f"optimizer.{phase} is not a field: the phases of algorithm "
                    f"{self.algorithm_name} are {', '.join(optimizer)}"
                    + (f", with {', '.join(own)} for single networks" if own else "")
                )
            if not isinstance(value, OptimizerSpec):
                raise UserError(f"optimizer.{phase} is {value!r}: it must be an OptimizerSpec")
            optimizer[phase] = value
        return tuple(sorted(optimizer.items()))

    def _check_combination(self):
        model, code_dim = self.model, self.prior.distribution.code_dim
        if code_dim not in (None, model.code_dim):
            raise UserError(
                f"prior.name is {self.prior.name!r}, which is {code_dim}-D, but model.code_dim is "
                f"{model.code_dim}"
            )
        if model.reconstruction.on_logits and model.output != "sigmoid":
            raise UserError(
                f"model.output is {model.output!r}: model.reconstruction "
                f"{registry.name_of(model.reconstruction, registry.RECONSTRUCTIONS)} needs 'sigmoid'"
            )

    def _check_conditions(self):
        model = self.model
        taken = model.condition_in_decoder or model.condition_in_discriminator
        if taken != bool(self.condition_dim):
            raise UserError(
                f"condition_dim is {self.condition_dim}, model.condition_in_decoder "
                f"{model.condition_in_decoder} and model.condition_in_discriminator "
                f"{model.condition_in_discriminator}: conditions need a network that takes them, and "
                "such a network needs conditions"
            )
        for name in ("sample", "decode", "reconstruct"):
            function = getattr(self.algorithm, name)
            if function is None or not model.condition_in_decoder:
                continue
            if "condition" not in inspect.signature(function).parameters:
                raise UserError(
                    f"condition_dim is {self.condition_dim}: {name!r} of algorithm "
                    f"{self.algorithm_name} takes no conditions"
                )

    def _check_size(self):
        """Refuses layers too large for any device, before anything tries to allocate them."""
        model = self.model
        widest = max((*model.encoder_hidden, *model.decoder_hidden, *model.discriminator_hidden, 1))
        beside = self.num_classes + self.condition_dim
        inputs = max(self.num_pixels + model.noise_dim, model.code_dim + beside)
        if inputs * widest >= 2**31 or widest**2 >= 2**31:
            raise UserError(
                f"model.encoder_hidden is {model.encoder_hidden}, model.decoder_hidden "
                f"{model.decoder_hidden}, model.discriminator_hidden {model.discriminator_hidden}, "
                f"model.noise_dim {model.noise_dim}, model.code_dim {model.code_dim}, num_classes "
                f"{self.num_classes}, condition_dim {self.condition_dim} and image_shape "
                f"{self.image_shape}: a layer would have more "
                "than 2^31 parameters"
            )
        if self.train.batch_size * max(inputs, widest) >= 2**31:
            raise UserError(
                f"train.batch_size is {self.train.batch_size}: a layer would have more than 2^31 "
                "numbers for a batch"
            )

    @property
    def phases(self) -> tuple[Any, ...]:
        """The phases of a training step: those of the algorithm that apply."""
        return tuple(phase for phase in self.algorithm.phases if phase.applies(self))

    @property
    def needs_labelled(self) -> bool:
        """Whether a phase learns from rows with labels beside the batch."""
        return any(phase.on_labelled for phase in self.phases)

    @property
    def num_labels(self) -> int:
        """K: `decode` and `generate` take labels 0 … K − 1, where they take any."""
        num_labels = self.algorithm.num_labels
        return self.num_classes if num_labels is None else num_labels(self)

    @property
    def least_label(self) -> int:
        """The smallest label that a code is decoded with; −1: the decoder knows "no label"."""
        return -1 if self.algorithm.num_labels is None else 0

    def decoder_takes(self, name: str) -> bool:
        """Whether decoding a code takes a "label", or a "condition", beside it."""
        own = name == "label" and self.algorithm.num_labels is not None
        return own or getattr(self.model, f"{name}_in_decoder")

    @property
    def num_pixels(self) -> int:
        """The number of values of an example: height × width × channels for images."""
        return math.prod(self.image_shape)

    @property
    def decoder_label_dim(self) -> int:
        """The size of the decoder's second input: classes, then conditions."""
        model = self.model
        classes = self.num_classes if model.label_in_decoder else 0
        return classes + (self.condition_dim if model.condition_in_decoder else 0)
