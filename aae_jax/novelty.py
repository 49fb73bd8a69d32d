"""Scores of how unusual examples are to a trained model: by their pixels, and by their codes.

docs/novelty.md derives a threshold from scores and tests them on MNIST.
"""

from typing import NamedTuple

import jax

from aae_jax import networks
from aae_jax.algorithms import autoencoder
from aae_jax.arguments import as_array, as_condition, as_labels
from aae_jax.errors import UserError
from aae_jax.losses import half_squared_error
from aae_jax.spec import Spec
from aae_jax.train_state import TrainState, decode, encode, in_data_units, reconstruct


class Scores(NamedTuple):
    """Two scores of each example, in different units; higher is more unusual."""

    reconstruction: jax.Array  # f[N], half the squared error: half the sum of `by_pixel`
    by_pixel: jax.Array  # f[N, H, W, C], squared errors
    code: jax.Array | None  # f[N]; None: neither prior nor discriminator judges a code


def score(
    state: TrainState,
    images: jax.Array,
    label: jax.Array | None = None,
    key: jax.Array | None = None,
    condition: jax.Array | None = None,
) -> Scores:
    """Scores how far images are from the training images.

    `reconstruction` is half the squared error in the units of the data, whatever loss
    `model.reconstruction` is. So models can be compared by it, and its mean is
    `reconstruction/half_squared_error` of results.json. `code` is −log p(z) in nats under the full
    prior, if the prior has a density that is above zero everywhere (`Prior.log_prob`, not
    `Prior.is_bounded`). Otherwise `code` is minus the logit of the discriminator,
    log (1 − D(z)) / D(z), with its last parameters, since it has no moving average.
    `code` is None if there is no discriminator of codes either, or if the algorithm does not match
    codes to the prior.

    Args:
        state: a trained state.
        images: [N, H, W, C] as `aae.encode` takes them.
        label: i32[N], a scalar, or f[N, K] for soft classes, if the decoder takes one; i32 if the
            discriminator is used and takes one, where −1 or None mean none.
        key: a PRNG key, or a seed, for a stochastic posterior; without one its mean is used.
        condition: f[N, K], or f[K] for all, if the model takes one.

    Returns:
        `Scores(reconstruction f[N], by_pixel f[N, H, W, C], code f[N] or None)`.

    Raises:
        UserError: the algorithm has no encoder or no decoder, or an argument does not fit.
    """
    judge = _judge(state.spec)
    of_decoder = _of_decoder(state.spec, label=label, condition=condition)
    z = encode(state, images, key)
    if state.spec.algorithm.reconstruct is None:
        x_hat = decode(state, z, **of_decoder)
    else:
        x_hat = reconstruct(state, images, key=key, **of_decoder)
    x = in_data_units(state, as_array("images", images))
    return Scores(
        half_squared_error(x_hat, x),
        (x_hat - x) ** 2,
        None if judge is None else judge(state, z, label, condition),
    )


def takes(spec: Spec, name: str) -> bool:
    """Whether a network used for scoring takes `name`, "label" or "condition"."""
    in_discriminator = getattr(spec.model, f"{name}_in_discriminator")
    judged = in_discriminator and _judge(spec) is _minus_logit
    return judged or getattr(spec.model, f"{name}_in_decoder")


def _of_decoder(spec, **given):
    """The arguments that the decoder takes; raises if no network takes one."""
    for name, value in given.items():
        if value is not None and not takes(spec, name):
            raise UserError(f"a {name} is given, but no network used for scoring takes one")
    return {n: v for n, v in given.items() if getattr(spec.model, f"{n}_in_decoder")}


def _judge(spec):
    """The function that scores codes against the prior, or None."""
    if not spec.algorithm.matches_prior:
        return None
    prior = spec.prior.distribution
    # A bounded density may be one constant inside and zero outside, which ranks nothing.
    if prior.log_prob is not None and not prior.is_bounded:
        return _minus_log_prob
    discriminator = networks.build(spec).get("discriminator")
    # Some algorithms have a discriminator of images.
    if discriminator is None or discriminator.network.inputs[0] != (spec.model.code_dim,):
        return None
    return _minus_logit


def _minus_log_prob(state, z, label, condition):
    del label, condition
    return -state.spec.prior.distribution.log_prob(state.spec, z)


def _minus_logit(state, z, label, condition):
    spec = state.spec
    label = as_labels(-1 if label is None else label, len(z), spec.num_classes)
    if label.ndim > 1 and spec.model.label_in_discriminator:
        raise UserError("label is [N, K]: the discriminator takes integers, not soft classes")
    if spec.model.condition_in_discriminator:
        condition = as_condition(spec, condition, len(z))
    return -autoencoder.discriminate(spec, state.params, z, label, condition=condition)
