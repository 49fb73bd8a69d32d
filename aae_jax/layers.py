"""The Flax modules of the networks: perceptrons, convolutions, tied weights, dropout."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from aae_jax import convolutions
from aae_jax.errors import UserError


class Dropout(nn.Module):
    """Zeroes a share `rate` of its input and scales the rest up; off outside training.

    Training gives the networks one key for each row of the global batch. Without keys nothing is
    dropped.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dropout(self.rate)(x, deterministic=not self.has_rng("dropout"))


he_normal = nn.initializers.he_normal()
# N(0, 1 / fan_in)
unit_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def symmetric_uniform(limit: float) -> nn.initializers.Initializer:
    """Weights U(−limit, limit). A new value at each call: make it once."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


# Number of draws of `Spread.points` from which stds are estimated, within 1 %.
_NUM_POINTS = 10_000


class MLP(nn.Module):
    """Dense layers with ReLU (footnote 1) or another activation between them; the last is linear.

    Both arguments are flattened and joined. The output is [B, *output_shape].

    Attributes:
        hidden: widths of the hidden layers.
        output_shape: without the batch.
        dtype, param_dtype: of products and of parameters.
        kernel_init: a Flax initialiser of the weights, the same object at each call; biases are 0.
        activation: of hidden units.
        pieces: if above 1, a hidden unit is the maximum of this many linear units (maxout,
            Goodfellow et al. 2013) and `activation` is not used.
        output_activation: of the last layer; None: it is linear.
        input_dropout, hidden_dropout: the share of the inputs, and of every hidden layer's units,
            that is dropped while training.
        points: (key, N) → f[N, D], draws from the first argument's distribution; equal functions
            must compare equal. The first layer is a `Spread` around the draws. None: all biases
            start at 0.
        centred: whether the first argument, images [B, H, W, C], enters as `mean_and_differences`.
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
    points: Callable[[jax.Array, int], jax.Array] | None = None
    centred: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array | None = None) -> jax.Array:
        x = mean_and_differences(x) if self.centred else x.reshape(x.shape[0], -1)
        if y is not None:
            x = jnp.concatenate([x, y], axis=1)
        x = self._drop(x, self.input_dropout)
        for index, width in enumerate(self.hidden):
            if index == 0 and self.points is not None:
                layer = Spread(width * self.pieces, self.points, self.dtype, self.param_dtype)
            else:
                layer = self._dense(width * self.pieces)
            x = layer(x)
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


def mean_and_differences(x: jax.Array) -> jax.Array:
    """The mean of an image's pixels, and every pixel's difference from it.

    Args:
        x: images, f[B, H, W, C].

    Returns:
        f[B, C + H * W * C].
    """
    mean = x.mean(axis=(1, 2), keepdims=True)
    return jnp.concatenate([value.reshape(x.shape[0], -1) for value in (mean, x - mean)], axis=1)


class Spread(nn.Module):
    """A dense layer whose units start at hyperplanes through points of its input's distribution.

    A ReLU network with zero biases is homogeneous, f(cz) = c f(z) for c > 0: it separates
    directions, but lengths only through biases that it learns. Here unit i starts with the bias
    −w_i · z_i, where each unit has its own point z_i. Weights are He's, for the input in units of
    the points' stds. Inputs beyond the points' D dimensions, such as labels, have He's weights
    unscaled.

    Attributes:
        width: number of units.
        points: (key, N) → f[N, D], draws from the input's distribution; D is at most the input's.
        dtype, param_dtype: of products and of parameters.
    """

    width: int
    points: Callable[[jax.Array, int], jax.Array]
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def start_kernel(key, shape, dtype):
            weights = he_normal(key, shape, dtype)
            std = self.points(key, _NUM_POINTS).std(axis=0).astype(dtype)
            # A constant dimension keeps its weights.
            scale = jnp.where(std > 0, std, 1)
            return weights.at[: len(std)].divide(scale[:, None])

        def start_bias(key, shape, dtype):
            points = self.points(key, *shape).astype(dtype)
            return -(points * kernel[: points.shape[1]].T).sum(axis=1)

        kernel = self.param("kernel", start_kernel, (x.shape[-1], self.width), self.param_dtype)
        bias = self.param("bias", start_bias, (self.width,), self.param_dtype)
        x, kernel, bias = (value.astype(self.dtype) for value in (x, kernel, bias))
        return x @ kernel + bias


class OnMap(nn.Module):
    """A decoder of one point, y W + z: every class has a head, a row of W, and styles lie around it.

    Called with styles z f[B, D] and classes y f[B, K].

    Attributes:
        decoder: (f[B, D], None) → f[B, H, W, C].
        heads_shape: (K, D).
        heads_init: a Flax initialiser of the heads, the same value at each call.
        param_dtype: of the heads.
    """

    decoder: nn.Module
    heads_shape: tuple[int, int]
    heads_init: Callable[..., jax.Array]
    param_dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array, y: jax.Array) -> jax.Array:
        heads = self.param("heads", self.heads_init, self.heads_shape, self.param_dtype)
        return self.decoder(y @ heads + z, None)


class Tied(nn.Module):
    """A stack of layers whose weights work in both directions, as in a Boltzmann machine.

    The call goes up from x f[B, …], with `activation` between the layers, to the inputs of the top
    units, f[B, widths[-1]]. `aae_jax.algorithms.tied` goes up and down.

    Attributes:
        widths: of the visible units, and of every layer above them.
        dtype, param_dtype: of products and of parameters.
        kernel_init: a Flax initialiser of the weights, the same object at each call; biases are 0.
        activation: of hidden units.
    """

    widths: tuple[int, ...]
    dtype: Any
    param_dtype: Any
    kernel_init: Callable[..., jax.Array]
    activation: Callable[[jax.Array], jax.Array] = nn.sigmoid

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
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
    """Numbers kept beside the layers, such as the units of persistent Markov chains: "value"."""

    shape: tuple[int, ...]
    value_init: Callable[..., jax.Array]
    param_dtype: Any

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("value", self.value_init, self.shape, self.param_dtype)


class Conv(nn.Module):
    """A convolution of `aae_jax.convolutions` with a bias."""

    channels: int
    convolve: Callable[[jax.Array, jax.Array], jax.Array]
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
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
    def __call__(self, x: jax.Array, y: jax.Array | None = None) -> jax.Array:
        if x.ndim != 4:
            raise UserError(
                f"{self.field} is 'conv': an example of its input is {x.shape[1:]}, not (height, "
                "width, channels); use 'mlp'"
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
    """The mirrored encoder: a linear layer, then transposed convolutions to [B, H, W, C]."""

    channels: tuple[int, ...]
    image_shape: tuple[int, ...]
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array, y: jax.Array | None = None) -> jax.Array:
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
            f"by 2 only {most} times; use sides that are multiples of {2 ** len(channels)}{fewer}"
        )
