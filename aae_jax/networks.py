"""Networks as pure functions of their parameters. Only this module and `layers` use Flax.

A factory makes a Flax (Linen) module. `model.encoder`, `model.decoder` and `model.discriminator`
each name a factory: "mlp", "conv", or a user's own "package.module:factory" ("mlp_centred" is an
encoder, "mlp_spread" a discriminator):

    encoder(spec, num_outputs)  -> module: (x f[B, H, W, C], eta f[B, E] | None) → f[B, num_outputs]
    decoder(spec)               -> module: (z f[B, D], y f[B, K] | None) → f[B, H, W, C]
    discriminator(spec)         -> module: (v f[B, …], y f[B, K] | None) → f[B]

`eta` is the noise of the universal posterior. `y` is a label as one-hot (or soft) classes, a
condition, or both side by side. Examples other than images may have any shape. The decoder returns
its outputs before the sigmoid of `model.output`. A module may have dropout (`layers.Dropout`), but
no collections beside its parameters. Parameters are one plain dict by network.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from aae_jax import layers
from aae_jax.errors import UserError, in_one_line
from aae_jax.priors import sample_prior
from aae_jax.spec import Spec

Params = dict[str, Any]


class Network(NamedTuple):
    """One network of an algorithm.

    Attributes:
        module: a Flax module, hashable.
        inputs: shapes of its arguments without the batch; None for an argument that is not given.
        output: the required shape of its output, without the batch; None: any.
        training_only: whether only training needs the network, as with a discriminator.
        init: (the module's own initial parameters, mean f[H, W, C] of the training images in the
            networks' units) → initial parameters, such as biases from the pixels' marginals.
            Without images the module's own parameters are used.
    """

    module: nn.Module
    inputs: tuple[tuple[int, ...] | None, ...]
    output: tuple[int, ...] | None = None
    training_only: bool = False
    init: Callable[[Any, jax.Array], Any] | None = None


def dtypes(spec: Spec) -> dict[str, Any]:
    """`dtype` and `param_dtype` of the modules above, as `spec.model` says."""
    model = spec.model
    return {"dtype": jnp.dtype(model.compute_dtype), "param_dtype": jnp.dtype(model.param_dtype)}


def mlp_encoder(spec: Spec, num_outputs: int) -> nn.Module:
    """ "mlp": `model.encoder_hidden`."""
    return layers.MLP(spec.model.encoder_hidden, (num_outputs,), **dtypes(spec))


def mlp_centred_encoder(spec: Spec, num_outputs: int) -> nn.Module:
    """ "mlp_centred": an "mlp" of an image's mean colour and its differences from the mean.

    For images whose background or brightness differs. All inputs then change together, and a step of
    Adam can move a unit by the learning rate times the number of inputs.

    Raises:
        UserError: the examples are not images.
    """
    if len(spec.image_shape) != 3:
        raise UserError(
            f"model.encoder is 'mlp_centred': an example is {spec.image_shape}, not (height, width, "
            "channels); use 'mlp'"
        )
    return layers.MLP(spec.model.encoder_hidden, (num_outputs,), centred=True, **dtypes(spec))


def mlp_decoder(spec: Spec) -> nn.Module:
    """ "mlp": `model.decoder_hidden`."""
    return layers.MLP(spec.model.decoder_hidden, spec.image_shape, **dtypes(spec))


def mlp_discriminator(spec: Spec) -> nn.Module:
    """ "mlp": `model.discriminator_hidden`."""
    return layers.MLP(spec.model.discriminator_hidden, (), **dtypes(spec))


@dataclasses.dataclass(frozen=True)
class _PriorPoints:
    """(key, N) → N draws from the prior, in the units of a discriminator's input.

    Equal specs make equal functions.
    """

    spec: Spec

    def __call__(self, key, num_points):
        z = sample_prior(self.spec, key, num_points).z
        return z if self.spec.model.code_scale is None else z / self.spec.model.code_scale


def mlp_spread_discriminator(spec: Spec) -> nn.Module:
    """ "mlp_spread": an "mlp" whose first units start at samples of the prior (`layers.Spread`).

    For discriminators of codes. An "mlp" starts as a homogeneous function and sees only directions.

    Raises:
        UserError: the algorithm has no codes, or discriminators of other things too.
    """
    if spec.algorithm.encode is None or spec.algorithm.num_labels is not None:
        raise UserError(
            f"model.discriminator is 'mlp_spread', which starts around samples of the prior: "
            f"not all that algorithm {spec.algorithm_name} discriminates are codes; use 'mlp'"
        )
    points = _PriorPoints(spec)
    return layers.MLP(spec.model.discriminator_hidden, (), points=points, **dtypes(spec))


def conv_encoder(spec: Spec, num_outputs: int) -> nn.Module:
    """ "conv": `model.conv_channels`."""
    return layers.ConvEncoder(spec.model.conv_channels, (num_outputs,), **dtypes(spec))


def conv_decoder(spec: Spec) -> nn.Module:
    """ "conv": `model.conv_channels` in reverse."""
    return layers.ConvDecoder(spec.model.conv_channels, spec.image_shape, **dtypes(spec))


def conv_discriminator(spec: Spec) -> nn.Module:
    """ "conv": `model.conv_channels`, for a discriminator of images."""
    return layers.ConvEncoder(
        spec.model.conv_channels, (), field="model.discriminator", **dtypes(spec)
    )


class _Built(NamedTuple):
    network: Network
    index: int  # type: ignore[assignment]  # of its key; hides tuple.index
    has_dropout: bool


@functools.lru_cache(maxsize=64)
def build(spec: Spec) -> dict[str, _Built]:
    """The networks of an algorithm, made once per spec and checked without computing anything.

    Raises:
        UserError: a factory raises; or a module keeps collections beside its parameters, takes
            other arguments, or returns the wrong shape.
    """
    # Fixed positions: a seed gives a network the same parameters whatever other networks there are.
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
    """Calls a factory; an exception, or a value that is no module, becomes a one-line `UserError`.

    Args:
        field: the config's field, for the message.
        factory: a user's, or one of those above.
        arguments: the factory's arguments.
    """
    module = in_one_line(field, factory, *arguments)
    if not isinstance(module, nn.Module):
        raise UserError(f"{field} returns {module!r}: it must return a Flax (Linen) module")
    return module


def _check(spec, name, network):
    """Whether a network has dropout; raises if the network can't be used."""
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
            f"{field} keeps {', '.join(beside)} beside its parameters, but a training step updates "
            "only parameters: use GroupNorm or LayerNorm in place of BatchNorm"
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
            f"{field} returns {shown} for a batch of {rows}: it must return "
            f"{'one array' if wanted is None else wanted}"
        )
    program = jax.make_jaxpr(use)(key, variables, *inputs).jaxpr
    return any(program.invars[0] in equation.invars for equation in program.eqns)


def _abstract(field, function, *arguments):
    """The shapes of the output of a user's module; an exception becomes one line."""
    try:
        return in_one_line(field, jax.eval_shape, function, *arguments)
    except UserError as error:
        if not isinstance(error.__cause__, flax.errors.InvalidRngError):
            raise
        raise UserError(
            f"{field} asks for random numbers outside training: use aae_jax.layers.Dropout, which "
            "is off outside training"
        ) from error


def init(spec: Spec, key: jax.Array, mean: jax.Array | None = None) -> Params:
    """Draws the parameters of all networks of an algorithm.

    `mean` f[H, W, C] of the training images, in the networks' units, is for `Network.init`.
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
        spec, params: the spec, and the parameters of all networks.
        name: the network's name.
        inputs: arrays f[B, …], or None for an argument that is not given.
        dropout_keys: key[B], one per row, while training (`Inputs.dropout_keys`); None: no dropout.
    """
    network, index, has_dropout = build(spec)[name]
    variables = {"params": params[name]}
    if dropout_keys is None or not has_dropout:
        return network.module.apply(variables, *inputs)  # type: ignore[return-value]  # no state

    def one_row(key, *row):
        rngs = {"dropout": jax.random.fold_in(key, index)}
        one = [None if value is None else value[None] for value in row]
        return network.module.apply(variables, *one, rngs=rngs)[0]

    # Row by row: a mask belongs to a row of the global batch, not to a device.
    return jax.vmap(one_row)(dropout_keys, *inputs)
