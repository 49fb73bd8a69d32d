"""Stacked contractive autoencoders and their samples (Rifai et al. 2011; Rifai et al. 2012).

`CONTRACTIVE_AUTOENCODER` trains the first layer. `STACKED_CONTRACTIVE_AUTOENCODER` trains the
second on the codes of the first. A layer is h = sigmoid(x W + b), x_hat = sigmoid(h Wᵀ + c).
"""

import dataclasses

import jax

from aae_jax import losses
from aae_jax.algorithms import chains, tied
from aae_jax.algorithms.base import Algorithm, Inputs, Metrics, Phase
from aae_jax.checks import check_length
from aae_jax.errors import UserError
from aae_jax.networks import Network, Params
from aae_jax.spec import Spec


@dataclasses.dataclass(frozen=True)
class Options(chains.ChainOptions):
    """The config's section `options`."""

    hidden: tuple[int, ...] = (1_000, 1_000)  # widths of the two layers
    contraction: float = 0.5  # λ, the weight of ‖J‖²
    noise: float = 1.5  # std of α, which sets the length of a chain's step J Jᵀ α

    def __post_init__(self) -> None:
        super().__post_init__()
        tied.check_hidden(self.hidden, exactly=2)
        if not 0 <= self.contraction <= 1e6:
            raise UserError(
                f"options.contraction is {self.contraction}: it must be from 0 to 1e+06"
            )
        check_length("options.noise", self.noise)


# U(±4 √(6 / (n + m))): variance 2 · 16 / (n + m).
_weights = jax.nn.initializers.variance_scaling(16.0, "fan_avg", "uniform")


def first_layer(spec: Spec) -> dict[str, Network]:
    """The layer of images."""
    return {"layer_1": tied.make(spec, (spec.num_pixels, spec.options.hidden[0]), _weights)}


def two_layers(spec: Spec) -> dict[str, Network]:
    """The layer of images and the layer of its codes."""
    return {**first_layer(spec), "layer_2": tied.make(spec, spec.options.hidden, _weights)}


def _stack(params):
    return [params[name] for name in ("layer_1", "layer_2") if name in params]


def encode(spec: Spec, params: Params, x: jax.Array) -> jax.Array:
    """Codes f[B, H] of the topmost layer for images f[B, P]."""
    for layer in _stack(params):
        x = jax.nn.sigmoid(tied.up(spec, layer, x))
    return x


def decode(spec: Spec, params: Params, h: jax.Array) -> jax.Array:
    """Images f[B, P] of codes of the topmost layer."""
    for layer in reversed(_stack(params)):
        h = jax.nn.sigmoid(tied.down(spec, layer, h))
    return h


def penalty(layer: Params, h: jax.Array) -> jax.Array:
    """‖J‖² f[B], the squared Frobenius norm of the Jacobian of a layer's codes h f[B, H].

    ∂h_j / ∂x_i = h_j (1 − h_j) W_ij (Rifai et al. 2011, Eq. 7).
    """
    slopes = h * (1 - h)
    return (slopes**2 * (layer["kernel_0"] ** 2).sum(axis=0)).sum(axis=1)


def _layer_loss(spec, layer, x):
    h = jax.nn.sigmoid(tied.up(spec, layer, x))
    reconstruction = losses.binary_cross_entropy(tied.down(spec, layer, h), x)
    squared_norm = penalty(layer, h)
    metrics = {"cae/reconstruction": reconstruction, "cae/jacobian": squared_norm}
    return reconstruction + spec.options.contraction * squared_norm, metrics


def first_loss(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """Cross-entropy plus λ ‖J‖² of images."""
    return _layer_loss(spec, params["layer_1"], inputs.x.reshape(len(inputs.x), -1))


def second_loss(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """Cross-entropy plus λ ‖J‖² of the first layer's codes; the first layer is not trained."""
    x = inputs.x.reshape(len(inputs.x), -1)
    codes = jax.nn.sigmoid(tied.up(spec, params["layer_1"], x))
    return _layer_loss(spec, params["layer_2"], codes)


def step(spec: Spec, params: Params, key: jax.Array, x: jax.Array) -> jax.Array:
    """One step of a chain: images f[C, P] → f[C, P] (Rifai et al. 2012, section 3).

    h = f(x), α ~ N(0, noise² I), h' = h + J Jᵀ α, x' = g(h'). J is the Jacobian of f, from the
    images to the topmost codes. For one layer J Jᵀ = (Wᵀ W) ∘ s sᵀ with s = h (1 − h).
    """
    h, pull_back = jax.vjp(lambda x: encode(spec, params, x), x)
    alpha = spec.options.noise * jax.random.normal(key, h.shape, h.dtype)
    (direction,) = pull_back(alpha)  # Jᵀ α
    _, moved = jax.jvp(lambda x: encode(spec, params, x), (x,), (direction,))
    return decode(spec, params, h + moved)


def sample(
    spec: Spec,
    params: Params,
    key: jax.Array,
    num_samples: int,
    label: jax.Array | None = None,
    start: jax.Array | None = None,
) -> jax.Array:
    """Decoded states of chains: f[num_samples, H, W, C]."""
    tied.check_label(spec, label)
    start_key, key = jax.random.split(key)
    x = chains.start_images(spec, start_key, num_samples, start)

    def one_step(key, x):
        x = step(spec, params, key, x)
        return x, x

    samples = chains.run(spec.options, key, num_samples, x, one_step)
    return samples.reshape(num_samples, *spec.image_shape)


CONTRACTIVE_AUTOENCODER = Algorithm(
    networks=first_layer,
    phases=(Phase("contraction", ("layer_1",), first_loss),),
    sample=sample,
    options=Options,
    starts_from_images=True,
    check=tied.check,
)
STACKED_CONTRACTIVE_AUTOENCODER = CONTRACTIVE_AUTOENCODER._replace(
    networks=two_layers,
    phases=(Phase("contraction", ("layer_2",), second_loss),),
    starts_from=("layer_1",),
)
