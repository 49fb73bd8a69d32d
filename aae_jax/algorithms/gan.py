"""The generative adversarial network (Goodfellow et al. 2014): no encoder, a game on images.

The decoder is the generator. As in the authors' code, both networks are updated at once from the
same pass. So there is one phase, in which gradients of each network's loss stop at the other.
"""

import jax
import jax.numpy as jnp

from aae_jax import layers, losses, networks
from aae_jax.algorithms import autoencoder
from aae_jax.algorithms.base import Algorithm, Inputs, Metrics, Phase
from aae_jax.keys import fold_rows
from aae_jax.networks import Network, Params
from aae_jax.optimizers import OptimizerSpec
from aae_jax.spec import Spec

_GENERATOR_WEIGHTS = layers.symmetric_uniform(0.05)
_DISCRIMINATOR_WEIGHTS = layers.symmetric_uniform(0.005)


def generator(spec: Spec) -> layers.MLP:
    """`model.decoder` of the authors' MNIST model: ReLU, weights U(±0.05)."""
    return layers.MLP(
        spec.model.decoder_hidden,
        spec.image_shape,
        kernel_init=_GENERATOR_WEIGHTS,
        **networks.dtypes(spec),
    )


def discriminator(spec: Spec) -> layers.MLP:
    """`model.discriminator` of the authors' MNIST model: maxout of 5 pieces, dropout, U(±0.005)."""
    return layers.MLP(
        spec.model.discriminator_hidden,
        (),
        kernel_init=_DISCRIMINATOR_WEIGHTS,
        pieces=5,
        input_dropout=0.2,
        hidden_dropout=0.5,
        **networks.dtypes(spec),
    )


def make_networks(spec: Spec) -> dict[str, Network]:
    """The decoder and the discriminator of `spec.model`; the discriminator takes images.

    The output biases of an MLP decoder start at the mean image.
    """
    decoder = autoencoder.decoder(spec, spec.model.code_dim)
    if isinstance(decoder.module, layers.MLP):

        def start_at_the_mean(params, mean):
            bias = mean.reshape(-1)
            if spec.model.output == "sigmoid":
                bias = jax.scipy.special.logit(jnp.clip(bias, 1e-7, 1 - 1e-7))
            last = f"Dense_{len(decoder.module.hidden)}"
            return {**params, last: {**params[last], "bias": bias}}

        decoder = decoder._replace(init=start_at_the_mean)
    return {
        "decoder": decoder,
        "discriminator": Network(
            networks.make("model.discriminator", spec.model.discriminator, spec),
            inputs=(spec.image_shape, None),
            output=(),
            training_only=True,
        ),
    }


def game(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """Half the discriminator's loss on images and samples, plus −log D of the samples.

    The discriminator's gradient comes from the first term alone, the generator's from the second.
    Both terms use the same samples and the same dropout masks on them.
    """
    keys = inputs.dropout_keys
    image_keys = None if keys is None else fold_rows(keys, 1)
    outputs = autoencoder.decoder_outputs(spec, params, inputs.prior_sample.z, None, keys)
    samples = autoencoder.activate(spec, outputs)

    def discriminate(params, x, keys):
        return networks.apply(spec, params, "discriminator", x, None, dropout_keys=keys)

    image_logits = discriminate(params, inputs.x, image_keys)
    sample_logits = discriminate(params, jax.lax.stop_gradient(samples), keys)
    of_discriminator = 0.5 * losses.discriminator_loss(image_logits, sample_logits)
    of_generator = losses.generator_loss(discriminate(jax.lax.stop_gradient(params), samples, keys))
    metrics = {
        "game/discriminator": of_discriminator,
        "game/generator": of_generator,
        "discriminator/accuracy_on_images": (image_logits > 0).astype(samples.dtype),
        "discriminator/accuracy_on_samples": (sample_logits < 0).astype(samples.dtype),
    }
    return of_discriminator + of_generator, metrics


GAN = Algorithm(
    networks=make_networks,
    phases=(
        Phase(
            "game", ("decoder", "discriminator"), game, OptimizerSpec(learning_rate=2e-4, b1=0.5)
        ),
    ),
    sample=autoencoder.sample,
    decode=autoencoder.decode,
    check=autoencoder.check_generator,
    figures=("samples", "training_curves", "walk"),
)
