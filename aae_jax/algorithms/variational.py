"""The variational autoencoder (section 2.1, Eq. 3; Kingma & Welling 2014)."""

import math

import jax
import jax.numpy as jnp

from aae_jax import networks, posteriors
from aae_jax.algorithms import autoencoder
from aae_jax.algorithms.base import Algorithm, Inputs, Metrics, Phase, raw_moments
from aae_jax.errors import UserError
from aae_jax.keys import row_normal
from aae_jax.networks import Params
from aae_jax.optimizers import OptimizerSpec
from aae_jax.registry import POSTERIORS, name_of
from aae_jax.spec import Spec


def elbo(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """Eq. 3: Reconstruction − Entropy + CrossEntropy(q(z), p(z)), a bound on −log p(x) in nats.

    With `model.reconstruction` "bernoulli", p(x|z) is Bernoulli for every pixel, as for MNIST in
    Kingma & Welling 2014. With "squared_error", p(x|z) is N(x_hat, I), and the bound omits its
    constant. The cross-entropy is exact if the prior has a formula for it. Otherwise it is
    −log p(z) at the drawn z.
    """
    keys = inputs.dropout_keys
    outputs = networks.apply(spec, params, "encoder", inputs.x_noisy, None, dropout_keys=keys)
    mean, log_var = posteriors.mean_and_log_var(outputs)
    mean = autoencoder.code_scale(spec) * mean
    log_var = log_var + 2 * math.log(autoencoder.code_scale(spec))
    std = jnp.exp(0.5 * log_var)
    z = mean + std * row_normal(inputs.row_keys, mean.shape[1], mean.dtype)
    outputs = autoencoder.decoder_outputs(spec, params, z, inputs.label, keys, inputs.condition)
    reconstruction = autoencoder.reconstruction_loss(spec, outputs, inputs.x)
    entropy = 0.5 * (log_var + math.log(2 * math.pi * math.e)).sum(axis=1)
    prior = spec.prior.distribution
    if prior.cross_entropy is not None:
        cross_entropy = prior.cross_entropy(spec, mean, std)
    else:
        cross_entropy = -prior.log_prob(spec, z)
    metrics = {
        "elbo/reconstruction": reconstruction,
        "elbo/entropy": entropy,
        "elbo/cross_entropy": cross_entropy,
        **raw_moments("code", z),
        **raw_moments("prior", inputs.prior_sample.z),
    }
    return reconstruction - entropy + cross_entropy, metrics


def check(spec: Spec) -> None:
    """Raises unless the posterior is Gaussian and the prior has a density that is never zero."""
    if spec.model.posterior is not posteriors.GAUSSIAN:
        raise UserError(
            f"model.posterior is {name_of(spec.model.posterior, POSTERIORS)}: algorithm "
            f"{spec.algorithm_name} needs 'gaussian'"
        )
    autoencoder.check_no_discriminator(spec)
    if spec.prior.distribution.log_prob is None:
        raise UserError(
            f"prior.name is {spec.prior.name!r}: algorithm {spec.algorithm_name} needs a prior with "
            "a known density, such as 'gaussian' or 'gaussian_mixture'"
        )
    if spec.prior.distribution.is_bounded:
        raise UserError(
            f"prior.name is {spec.prior.name!r}: the codes of a Gaussian posterior lie anywhere, "
            f"so algorithm {spec.algorithm_name} needs a prior whose density is zero nowhere"
        )


VARIATIONAL_AUTOENCODER = Algorithm(
    networks=autoencoder.encoder_and_decoder,
    phases=(Phase("elbo", ("encoder", "decoder"), elbo, OptimizerSpec(schedule="cosine")),),
    sample=autoencoder.sample,
    encode=autoencoder.encode,
    decode=autoencoder.decode,
    posterior="gaussian",
    reconstruction="bernoulli",
    check=check,
    figures=autoencoder.FIGURES,
)
