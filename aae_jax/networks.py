"""Networks as pure functions of their parameters: the only module that knows Flax.

A factory makes a Flax (Linen) module; `model.encoder`, `model.decoder` and `model.discriminator`
name one each, "mlp", "conv", or a user's own "package.module:factory":

    encoder(spec, num_outputs)  -> module: (x f[B, H, W, C], eta f[B, E] | None) → f[B, num_outputs]
    decoder(spec)               -> module: (z f[B, D], y f[B, K] | None) → f[B, H, W, C]
    discriminator(spec)         -> module: (v f[B, …], y f[B, K] | None) → f[B]

`eta` is the noise of the universal posterior. `y` is a label as one-hot (or soft) classes, a
condition, or both side by side. Examples that are no images have another shape than [H, W, C]. The
decoder gives its outputs before the sigmoid of `model.output`. A module may have dropout (`Dropout` below);
it keeps nothing beside its parameters. Parameters are one plain dict by network.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from aae_jax import convolutions
from aae_jax.errors import UserError, in_one_line
from aae_jax.spec import Spec

Params = dict[str, Any]


class Network(NamedTuple):
    """One network of an algorithm.

    Attributes:
        module: a Flax module, hashable.
        inputs: shapes of its arguments without the batch; None for an argument that is not given.
        output: the shape that it must give, without the batch; None: any.
        training_only: whether a trained model is used without it, as without a discriminator.
        init: (parameters as the module draws them, mean f[H, W, C] of the training images in the
            units that the networks see) → parameters to start from: biases from the pixels'
            marginals. Where no images are given, the module's own stay.
    """

    module: nn.Module
    inputs: tuple[tuple[int, ...] | None, ...]
    output: tuple[int, ...] | None = None
    training_only: bool = False
    init: Callable[[Any, jax.Array], Any] | None = None


class Dropout(nn.Module):
    """Zeroes a share `rate` of its input and scales the rest up; off outside training.

    Training hands keys to the networks, one for each row of the global batch; without them nothing
    is dropped.
    """

    rate: float

    @nn.compact
    def __call__(self, x):
        return nn.Dropout(self.rate)(x, deterministic=not self.has_rng("dropout"))


he_normal = nn.initializers.he_normal()
# N(0, 1 / fan_in)
unit_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def symmetric_uniform(limit: float) -> nn.initializers.Initializer:
    """Weights U(−limit, limit). A new value at each call: make it once."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


class MLP(nn.Module):
    """Dense layers with an activation between them, ReLU (footnote 1), and a linear last layer.

    Both arguments are flattened and joined; the output is [B, *output_shape].

    Attributes:
        hidden: widths.
        output_shape: without the batch.
        dtype, param_dtype: of products and of parameters.
        kernel_init: a Flax initialiser of the weights, the same value at each call; biases are 0.
        activation: of hidden units.
        pieces: where more than 1, a hidden unit is instead the largest of so many linear ones
            (maxout, Goodfellow et al. 2013).
        output_activation: of the last layer; None: it is linear.
        input_dropout, hidden_dropout: the share of the inputs, and of every hidden layer's units,
            that is dropped while training.
    """

    hidden: tuple[int, ...]
    output_shape: tuple[int, ...]
    dtype: Any
    param_dtype: Any
    kernel_init: Callable[..., jax.Array] = he_normal
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    pieces: int = 1
    output_activation: Callable[[jax.Array], jax.Array] | None = None
    input_dropout: float = 0.0
    hidden_dropout: float = 0.0

    @nn.compact
    def __call__(self, x, y=None):
        x = x.reshape(x.shape[0], -1)
        if y is not None:
            x = jnp.concatenate([x, y], axis=1)
        x = self._drop(x, self.input_dropout)
        for width in self.hidden:
            x = self._dense(width * self.pieces)(x)
            if self.pieces > 1:
                x = x.reshape(x.shape[0], width, self.pieces).max(axis=2)
            else:
                x = self.activation(x)
            x = self._drop(x, self.hidden_dropout)
        x = self._dense(math.prod(self.output_shape))(x).astype(self.param_dtype)
        if self.output_activation is not None:
            x = self.output_activation(x)
        return x.reshape(x.shape[0], *self.output_shape)

    def _dense(self, width):
        return _dense(width, self.dtype, self.param_dtype, self.kernel_init)

    @staticmethod
    def _drop(x, rate):
        return Dropout(rate)(x) if rate else x


class Tied(nn.Module):
    """A stack of layers whose weights serve both ways, as those of a Boltzmann machine do.

    `aae_jax.algorithms.tied` goes up and down. Called, it goes up from x f[B, …], with `activation`
    between the layers, to the inputs of the top units, f[B, widths[-1]].

    Attributes:
        widths: of the visible units, and of every layer above them.
        dtype, param_dtype: of products and of parameters.
        kernel_init: a Flax initialiser of the weights, the same value at each call; biases are 0.
        activation: of hidden units.
    """

    widths: tuple[int, ...]
    dtype: Any
    param_dtype: Any
    kernel_init: Callable[..., jax.Array]
    activation: Callable[[jax.Array], jax.Array] = nn.sigmoid

    @nn.compact
    def __call__(self, x):
        shapes = list(zip(self.widths, self.widths[1:]))
        kernels = [
            self.param(f"kernel_{i}", self.kernel_init, shape, self.param_dtype)
            for i, shape in enumerate(shapes)
        ]
        biases = [
            self.param(f"bias_{i}", nn.initializers.zeros, (width,), self.param_dtype)
            for i, width in enumerate(self.widths)
        ]
        x = x.reshape(x.shape[0], -1)
        for i, (kernel, bias) in enumerate(zip(kernels, biases[1:])):
            x = self.activation(x) if i else x
            x = (x.astype(self.dtype) @ kernel.astype(self.dtype)).astype(self.param_dtype) + bias
        return x


class Stored(nn.Module):
    """Numbers that are kept beside the layers, as the units of persistent Markov chains: "value"."""

    shape: tuple[int, ...]
    value_init: Callable[..., jax.Array]
    param_dtype: Any

    @nn.compact
    def __call__(self):
        return self.param("value", self.value_init, self.shape, self.param_dtype)


class Conv(nn.Module):
    """One of `aae_jax.convolutions`, with a bias."""

    channels: int
    convolve: Callable[[jax.Array, jax.Array], jax.Array]
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x):
        shape = (4, 4, x.shape[-1], self.channels)
        kernel = self.param("kernel", he_normal, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), self.param_dtype)
        x, kernel, bias = (value.astype(self.dtype) for value in (x, kernel, bias))
        return self.convolve(x, kernel) + bias


class ConvEncoder(nn.Module):
    """Convolutions of stride 2 with GroupNorm and ReLU, then one linear layer to [B, *output_shape].

    The second argument joins at the linear layer.
    """

    channels: tuple[int, ...]
    output_shape: tuple[int, ...]
    dtype: Any
    param_dtype: Any
    field: str = "model.encoder"

    @nn.compact
    def __call__(self, x, y=None):
        if x.ndim != 4:
            raise UserError(
                f"{self.field} is 'conv': its input is {x.shape[1:]} an example, not (height, width, "
                "channels); use 'mlp'"
            )
        _check_strides(self.channels, x.shape[1:])
        for channels in self.channels:
            x = Conv(channels, convolutions.halve, self.dtype, self.param_dtype)(x)
            x = nn.relu(_group_norm(channels, self.dtype, self.param_dtype)(x))
        x = x.reshape(x.shape[0], -1)
        if y is not None:
            x = jnp.concatenate([x, y.astype(x.dtype)], axis=1)
        x = _dense(math.prod(self.output_shape), self.dtype, self.param_dtype)(x)
        return x.astype(self.param_dtype).reshape(x.shape[0], *self.output_shape)


class ConvDecoder(nn.Module):
    """The mirror image: a linear layer, then transposed convolutions of stride 2 to [B, H, W, C]."""

    channels: tuple[int, ...]
    image_shape: tuple[int, ...]
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, z, y=None):
        _check_strides(self.channels, self.image_shape)
        height, width, image_channels = self.image_shape
        stride = 2 ** len(self.channels)
        first = (height // stride, width // stride, self.channels[-1])
        if y is not None:
            z = jnp.concatenate([z, y], axis=1)
        x = _dense(math.prod(first), self.dtype, self.param_dtype)(z).reshape(-1, *first)
        x = nn.relu(_group_norm(first[2], self.dtype, self.param_dtype)(x))
        outputs = (*self.channels[-2::-1], image_channels)
        for index, channels in enumerate(outputs):
            name = f"ConvTranspose_{index}"
            x = Conv(channels, convolutions.double, self.dtype, self.param_dtype, name=name)(x)
            if index < len(outputs) - 1:
                x = nn.relu(_group_norm(channels, self.dtype, self.param_dtype)(x))
        return x.astype(self.param_dtype)


def _dense(width, dtype, param_dtype, kernel_init=he_normal):
    return nn.Dense(width, dtype=dtype, param_dtype=param_dtype, kernel_init=kernel_init)


def _group_norm(channels, dtype, param_dtype):
    return nn.GroupNorm(math.gcd(8, channels), dtype=dtype, param_dtype=param_dtype)


def dtypes(spec: Spec) -> dict[str, Any]:
    """`dtype` and `param_dtype` of the modules above, as `spec.model` says."""
    model = spec.model
    return {"dtype": jnp.dtype(model.compute_dtype), "param_dtype": jnp.dtype(model.param_dtype)}


def mlp_encoder(spec: Spec, num_outputs: int) -> nn.Module:
    """ "mlp": `model.encoder_hidden`."""
    return MLP(spec.model.encoder_hidden, (num_outputs,), **dtypes(spec))


def mlp_decoder(spec: Spec) -> nn.Module:
    """ "mlp": `model.decoder_hidden`."""
    return MLP(spec.model.decoder_hidden, spec.image_shape, **dtypes(spec))


def mlp_discriminator(spec: Spec) -> nn.Module:
    """ "mlp": `model.discriminator_hidden`."""
    return MLP(spec.model.discriminator_hidden, (), **dtypes(spec))


def conv_encoder(spec: Spec, num_outputs: int) -> nn.Module:
    """ "conv": `model.conv_channels`."""
    return ConvEncoder(spec.model.conv_channels, (num_outputs,), **dtypes(spec))


def conv_decoder(spec: Spec) -> nn.Module:
    """ "conv": `model.conv_channels` in reverse."""
    return ConvDecoder(spec.model.conv_channels, spec.image_shape, **dtypes(spec))


def conv_discriminator(spec: Spec) -> nn.Module:
    """ "conv": `model.conv_channels`, for a discriminator of images."""
    return ConvEncoder(spec.model.conv_channels, (), field="model.discriminator", **dtypes(spec))


def _check_strides(channels, image_shape):
    if len(image_shape) != 3:
        raise UserError(
            f"image_shape is {image_shape}: 'conv' takes images, (height, width, channels); use 'mlp'"
        )
    height, width, _ = image_shape
    if not channels:
        raise UserError("model.conv_channels is (): 'conv' needs at least one number of channels")
    if height % 2 ** len(channels) or width % 2 ** len(channels):
        most = (math.gcd(height, width) & -math.gcd(height, width)).bit_length() - 1
        fewer = f", or {most} numbers of channels" if most else ""
        raise UserError(
            f"model.conv_channels is {channels}, {len(channels)} strides of 2: {image_shape} divides "
            f"by 2 only {most} times; give sides that are multiples of {2 ** len(channels)}{fewer}"
        )


class _Built(NamedTuple):
    network: Network
    index: int  # of its key
    has_dropout: bool


@functools.lru_cache(maxsize=64)
def build(spec: Spec) -> dict[str, _Built]:
    """The networks of an algorithm, made once a spec and checked without computing anything.

    Raises:
        UserError: a factory raises, a module keeps collections beside its parameters, takes other
            arguments, or gives another shape than it must.
    """
    # Positions, so that a seed means the same parameters whichever networks there are.
    index = {"encoder": 0, "decoder": 1, "discriminator": 2}
    built, made = {}, spec.algorithm.networks(spec)
    if not isinstance(made, dict) or not all(isinstance(v, Network) for v in made.values()):
        raise UserError(
            f"the networks of algorithm {spec.algorithm_name} are {made!r}: they must be a dict of "
            "aae_jax.Network by name"
        )
    for name, network in made.items():
        index.setdefault(name, len(index))
        built[name] = _Built(network, index[name], _check(spec, name, network))
    return built


def make(field: str, factory: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    """Calls a factory; what it raises, or a value that is no module, is one line.

    Args:
        field: the config's, for the message.
        factory: of the user, or one of those above.
        arguments: of the factory.
    """
    module = in_one_line(field, factory, *arguments)
    if not isinstance(module, nn.Module):
        raise UserError(f"{field} makes {module!r}: it must make a Flax (Linen) module")
    return module


def _check(spec, name, network):
    """Whether a network has dropout; refuses one that can't be used."""
    field = f"model.{name}" if hasattr(spec.model, name) else f"network {name!r}"
    rows, dtype = 2, spec.model.param_dtype
    inputs = [
        None if s is None else jax.ShapeDtypeStruct((rows, *s), dtype) for s in network.inputs
    ]
    key = jax.eval_shape(lambda: jax.random.key(0))

    def start(key, *inputs):
        return network.module.init(key, *inputs)

    variables = _abstract(field, start, key, *inputs)
    beside = sorted(variables.keys() - {"params"})
    if beside:
        raise UserError(
            f"{field} keeps {', '.join(beside)} beside its parameters, and a training step updates "
            "parameters alone: use GroupNorm or LayerNorm in place of BatchNorm"
        )

    def use(key, variables, *inputs):
        rngs = {} if key is None else {"dropout": key}
        return network.module.apply(variables, *inputs, rngs=rngs)

    output = _abstract(field, use, None, variables, *inputs)
    wanted = None if network.output is None else (rows, *network.output)
    found = getattr(output, "shape", None)
    if found is None or (wanted is not None and found != wanted):
        shown = f"shape {found}" if found else type(output).__name__
        raise UserError(
            f"{field} gives {shown} for a batch of {rows}: it must give "
            f"{'one array' if wanted is None else wanted}"
        )
    program = jax.make_jaxpr(use)(key, variables, *inputs).jaxpr
    return any(program.invars[0] in equation.invars for equation in program.eqns)


def _abstract(field, function, *arguments):
    """Shapes of what a function of the user's module gives, or one line that says what is wrong."""
    try:
        return in_one_line(field, jax.eval_shape, function, *arguments)
    except UserError as error:
        if not isinstance(error.__cause__, flax.errors.InvalidRngError):
            raise
        raise UserError(
            f"{field} asks for random numbers outside training: use aae_jax.networks.Dropout, which "
            "is off there"
        ) from error


def init(spec: Spec, key: jax.Array, mean: jax.Array | None = None) -> Params:
    """Draws the parameters of all networks of an algorithm.

    `mean` f[H, W, C] of the training images, in the units that the networks see, is for
    `Network.init`.
    """
    params = {}
    for name, (network, index, _) in build(spec).items():
        zeros = [
            None if shape is None else jnp.zeros((1, *shape), spec.model.param_dtype)
            for shape in network.inputs
        ]
        variables = network.module.init(jax.random.fold_in(key, index), *zeros)
        params[name] = variables.get("params", {})
        if network.init is not None and mean is not None:
            params[name] = network.init(params[name], mean)
    return params


def apply(
    spec: Spec,
    params: Params,
    name: str,
    *inputs: jax.Array | None,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """One network's output.

    Args:
        spec, params: what to build, and the parameters of all networks.
        name: which network.
        inputs: arrays f[B, …], None where the network takes none.
        dropout_keys: key[B], one a row (`Inputs.dropout_keys`), while training; None: no dropout.
    """
    network, index, has_dropout = build(spec)[name]
    variables = {"params": params[name]}
    if dropout_keys is None or not has_dropout:
        return network.module.apply(variables, *inputs)

    def one_row(key, *row):
        rngs = {"dropout": jax.random.fold_in(key, index)}
        row = [None if value is None else value[None] for value in row]
        return network.module.apply(variables, *row, rngs=rngs)[0]

    # Row by row, so that a mask belongs to a row of the global batch, not to a device.
    return jax.vmap(one_row)(dropout_keys, *inputs)
