"""An algorithm is a tuple of phases; a phase is a loss, the networks it trains, an optimiser."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from aae_jax import losses, networks, posteriors, priors
from aae_jax.networks import Params
from aae_jax.priors import PriorSample
from aae_jax.spec import OptimizerSpec, Spec


class Inputs(NamedTuple):
    """What the phases of one training step share."""

    x: jax.Array  # f[B, P], clean images, in the units that the networks see
    x_noisy: jax.Array  # f[B, P], what the encoder sees; equals x without input noise
    label: jax.Array  # i32[B], −1: unlabelled
    row_keys: jax.Array  # key[B], for a stochastic posterior
    prior_sample: PriorSample


Metrics = dict[str, jax.Array]  # each f[B]: the training step takes the means


class Phase(NamedTuple):
    """One update of a training step.

    Attributes:
        name: key of its optimiser in the spec and in `TrainState.opt_state`.
        trains: the networks that it updates; all others stay as they are.
        loss: (spec, params, inputs) → (f[B], metrics).
    """

    name: str
    trains: tuple[str, ...]
    loss: Callable[[Spec, Params, Inputs], tuple[jax.Array, Metrics]]


def reconstruction(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """ "The autoencoder updates the encoder and the decoder to minimize the reconstruction error"."""
    z = networks.encode(spec, params, inputs.x_noisy, inputs.row_keys)
    if spec.train.code_noise is not None:
        # Not the keys of a stochastic posterior's own noise.
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(inputs.row_keys)
        z = z + spec.train.code_noise * posteriors.row_normal(keys, z.shape[1], z.dtype)
    return losses.squared_error(networks.decode(spec, params, z, inputs.label), inputs.x), {}


def discriminator(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """The discriminator tells samples of the prior from the codes of the updated encoder."""
    z = networks.encode(spec, params, inputs.x_noisy, inputs.row_keys)
    prior_logits = networks.discriminate(spec, params, *inputs.prior_sample)
    code_logits = networks.discriminate(spec, params, z, inputs.label)
    metrics = {
        "discriminator/accuracy_on_prior": (prior_logits > 0).astype(z.dtype),
        "discriminator/accuracy_on_codes": (code_logits < 0).astype(z.dtype),
        **_raw_moments("code", z),
        **_raw_moments("prior", inputs.prior_sample.z),
    }
    return losses.discriminator_loss(prior_logits, code_logits), metrics


def generator(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """The encoder, as the generator, confuses the updated discriminator."""
    z = networks.encode(spec, params, inputs.x_noisy, inputs.row_keys)
    return losses.generator_loss(networks.discriminate(spec, params, z, inputs.label)), {}


def elbo(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """Eq. 3: Reconstruction − Entropy + CrossEntropy(q(z), p(z)), a bound on −log p(x) in nats.

    p(x|z) is Bernoulli for every pixel, as for MNIST in Kingma & Welling 2014. Cross-entropy with a
    Gaussian prior is exact; with a mixture it is −log p(z) at the one z that is drawn.
    """
    mean, log_var = posteriors.mean_and_log_var(
        networks.encoder_outputs(spec, params, inputs.x_noisy)
    )
    mean = networks.code_scale(spec) * mean
    log_var = log_var + 2 * math.log(networks.code_scale(spec))
    std = jnp.exp(0.5 * log_var)
    z = mean + std * posteriors.row_normal(inputs.row_keys, mean.shape[1], mean.dtype)
    logits = networks.decoder_outputs(spec, params, z, inputs.label)
    reconstruction = losses.binary_cross_entropy(logits, inputs.x)
    entropy = 0.5 * (log_var + math.log(2 * math.pi * math.e)).sum(axis=1)
    if spec.prior.name == "gaussian":
        cross_entropy = losses.gaussian_cross_entropy(mean, std, spec.prior.std)
    else:
        cross_entropy = -priors.PRIORS[spec.prior.name].log_prob(spec, z)
    metrics = {
        "elbo/reconstruction": reconstruction,
        "elbo/entropy": entropy,
        "elbo/cross_entropy": cross_entropy,
        **_raw_moments("code", z),
        **_raw_moments("prior", inputs.prior_sample.z),
    }
    return reconstruction - entropy + cross_entropy, metrics


ALGORITHMS = {
    "aae": (
        Phase("reconstruction", ("encoder", "decoder"), reconstruction),
        Phase("discriminator", ("discriminator",), discriminator),
        Phase("generator", ("encoder",), generator),
    ),
    "vae": (Phase("elbo", ("encoder", "decoder"), elbo),),
    # After either: the decoder becomes the mean of the images whose codes lie near z.
    "decoder": (Phase("reconstruction", ("decoder",), reconstruction),),
}


def make_optimizer(spec: Spec, phase: str) -> optax.GradientTransformation:
    """The optax chain of a phase; its schedule counts the phase's own updates."""
    optimizer: OptimizerSpec = dict(spec.optimizer)[phase]
    schedule = make_schedule(optimizer, spec.train.num_steps)
    if optimizer.name == "adam":
        transformation = optax.adam(schedule, b1=optimizer.b1, b2=optimizer.b2)
    else:
        transformation = optax.sgd(schedule, momentum=optimizer.momentum)
    if optimizer.clip_norm is None:
        return transformation
    return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), transformation)


def make_schedule(optimizer: OptimizerSpec, num_steps: int) -> optax.Schedule:
    """Learning rate as a function of the step, 0 for the first."""
    if optimizer.schedule == "cosine":
        floor = optimizer.floor or 0.0
        return optax.cosine_decay_schedule(optimizer.learning_rate, num_steps, alpha=floor)
    if optimizer.schedule == "piecewise":
        return optax.piecewise_constant_schedule(
            optimizer.learning_rate, dict(zip(optimizer.boundaries, optimizer.factors))
        )
    return optax.constant_schedule(optimizer.learning_rate)


def _raw_moments(name: str, z: jax.Array) -> Metrics:
    """E[z], E[z²], … E[z⁴] over dimensions, per example: their means may cross devices."""
    return {f"{name}/moment_{k}": jnp.mean(z**k, axis=-1) for k in (1, 2, 3, 4)}


def moments(metrics: Metrics) -> Metrics:
    """Replaces the averaged raw moments of codes and prior by mean, std and kurtosis.

    All dimensions are pooled, so a dimension whose mean has drifted shows in the std. A Gaussian's
    kurtosis is 3.
    """
    metrics = dict(metrics)
    for name in ("code", "prior"):
        if f"{name}/moment_1" not in metrics:
            continue
        m1, m2, m3, m4 = (metrics.pop(f"{name}/moment_{k}") for k in (1, 2, 3, 4))
        variance = m2 - m1**2
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        metrics[f"{name}/mean"] = m1
        metrics[f"{name}/std"] = jnp.sqrt(jnp.maximum(variance, 0.0))
        metrics[f"{name}/kurtosis"] = fourth / variance**2
    return metrics
