"""Compares a model's samples with its reconstructions, and its codes with the prior.

    python -m studies.gap --workdir=runs/mnist

The codes are those of training images, clean and with the training's input noise; the adversary has
only seen the noisy ones. For both: the distance to the prior, the least and greatest std over
directions, the mean, and a new discriminator's gain on hold-out codes (`studies.matching`, *left*).
The validation scores, with the best σ, are those of images decoded from the codes. If q(z) equals
p(z), they equal the scores of samples.

A deeper new discriminator then estimates q/p at samples of the prior. Ten thousand of 100,000, drawn with
these weights and without replacement, are scored too. Their score estimates what a better match would
be worth to this decoder. Here *left* is on codes of training images that were kept from the
discriminator. For a stochastic posterior, all codes are its means.

For each hidden layer of the game's discriminator: the share of units that are on (above 0), mean over
samples of the prior and codes, and the share that are dead (on for none of them). Discriminators that
see labels are left out, and so is a run without a game.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import aae_jax as aae
from aae_jax import code_metrics, evaluation, networks, parzen
from aae_jax.algorithms import autoencoder
from aae_jax.priors import sample_prior
from benchmarks import inputs
from benchmarks.report import Report
from studies import games, runs
from studies.fresh import DEEPER, fresh_discriminator, left

_WORKDIR = flags.DEFINE_string("workdir", None, "A finished run.", required=True)
_DEEPER_STEPS = flags.DEFINE_integer(
    "deeper_steps", 2_500, "Of the deeper new discriminator, 1,000 codes each.", lower_bound=1
)
_FRESH_STEPS = flags.DEFINE_integer(
    "fresh_steps", 1_000, "Of the new discriminator, 1,000 codes each.", lower_bound=1
)

NUM_IMAGES = 10_000  # that are scored as samples
NUM_VALIDATION = 2_000
COLUMNS = (
    "codes of",
    "distance, of the prior's std",
    "std by direction, of the prior's",
    "norm of the mean, of the prior's std",
    "left, thousandths of a nat",
    "decoded as samples, validation nats",
)


def codes(state, images, noise, key):
    """Codes of uint8 images with Gaussian noise of this std on their pixels."""

    @jax.jit
    def encode(part, key):
        x = part.astype(jnp.float32) / 255
        return aae.encode(state, x + noise * jax.random.normal(key, x.shape))

    parts = range(0, len(images), NUM_IMAGES)
    return jnp.concatenate(
        [encode(images[i : i + NUM_IMAGES], jax.random.fold_in(key, i)) for i in parts]
    )


def scorer(run):
    """The function of codes f[N, D] that gives the validation nats of their images."""
    state, settings, dataset = run
    valid = jnp.asarray(inputs.flat(dataset.validation["image"][:NUM_VALIDATION]))
    sigmas = settings.evaluation.sigmas
    sigmas = jnp.asarray(
        evaluation.fitting_sigmas([np.asarray(valid)]) if sigmas is None else sigmas
    )

    def scored(z):
        samples = aae.decode(state, z).reshape(len(z), -1)
        return float(parzen.select_sigma(valid, samples, sigmas)[1].max())

    return scored


def rows(run):
    """One row of `COLUMNS` for the prior and for each kind of codes."""
    state, _, dataset = run
    spec, key, std = state.spec, jax.random.key(0), games.prior_std(state.spec)
    train, hold_out = (jnp.asarray(s["image"]) for s in (dataset.train, dataset.validation))
    scored = scorer(run)
    many = sample_prior(spec, jax.random.fold_in(key, 1), 3 * NUM_IMAGES).z
    prior_z, others, told = jnp.split(many, 3)

    def described(name, z, logit):
        values = np.asarray(z, np.float64)
        stds = np.sqrt(np.linalg.eigvalsh(np.cov(values.T))) / std
        distance = code_metrics.sliced_wasserstein(z, prior_z, key=jax.random.fold_in(key, 2))
        return (
            name,
            float(distance) / std,
            f"{stds[0]:.2f} to {stds[-1]:.2f}",
            float(np.linalg.norm(values.mean(axis=0))) / std,
            None if logit is None else float(left(logit, z, told)[0]),
        )

    yield *described("the prior", others, None), scored(prior_z)
    noises = {"clean images": 0.0}
    if spec.train.input_noise:
        noises[f"images with noise of std {spec.train.input_noise:g}"] = spec.train.input_noise
    for index, (name, noise) in enumerate(noises.items()):
        own = jax.random.fold_in(key, 3 + index)
        train_z = codes(state, train, noise, own)
        z = codes(state, hold_out[:NUM_IMAGES], noise, jax.random.fold_in(own, 1))
        fresh = fresh_discriminator(spec, train_z, jax.random.fold_in(own, 2), _FRESH_STEPS.value)
        yield *described(name, z, fresh), scored(train_z[:NUM_IMAGES])


def resampled(run):
    """The gain of a deeper new discriminator, and validation nats of samples before and after."""
    state, _, dataset = run
    spec, key, scored = state.spec, jax.random.key(1), scorer(run)
    images = jnp.asarray(dataset.train["image"])
    num_kept = min(NUM_IMAGES, len(images) // 5)
    # With several draws of the noise the discriminator does not learn single codes.
    draws = 8 if spec.train.input_noise else 1
    train_z, hold_out = (
        jnp.concatenate(
            [
                codes(state, part, spec.train.input_noise, jax.random.fold_in(key, draw))
                for draw in range(first, first + draws)
            ]
        )
        for part, first in ((images[num_kept:], 0), (images[:num_kept], draws))
    )
    keys = jax.random.split(jax.random.fold_in(key, 2 * draws), 3)
    deeper = fresh_discriminator(spec, train_z, keys[0], _DEEPER_STEPS.value, network=DEEPER)
    prior_z = sample_prior(spec, keys[1], 10 * NUM_IMAGES).z
    log_ratio = -deeper(prior_z)
    chosen = jnp.argsort(log_ratio + jax.random.gumbel(keys[2], log_ratio.shape))[-NUM_IMAGES:]
    before, after = scored(prior_z[:NUM_IMAGES]), scored(prior_z[chosen])
    yield float(left(deeper, hold_out, prior_z[: len(hold_out)])[0]), before, after


def hidden_layers(run):
    """Rows (layer, share of its units that are on, dead units' share) of the discriminator."""
    state, _, dataset = run
    spec = state.spec
    module = networks.build(spec)["discriminator"].network.module
    z = aae.encode(state, jnp.asarray(dataset.train["image"][:NUM_IMAGES]))
    prior_z = sample_prior(spec, jax.random.key(0), NUM_IMAGES).z
    v = jnp.concatenate([z, prior_z]) / autoencoder.code_scale(spec)
    _, kept = module.apply(
        {"params": state.params["discriminator"]}, v, capture_intermediates=True, mutable=True
    )
    for name, value in kept["intermediates"].items():
        if isinstance(value, dict) and (x := value["__call__"][0]).shape[1] > 1:
            yield name, float((x > 0).mean()), float(1 - (x > 0).any(axis=0).mean())


def main(argv):
    del argv
    report = Report()
    run = runs.load(_WORKDIR.value)
    report.table("codes", COLUMNS, rows(run))
    columns = ("left, thousandths of a nat", "samples, nats", "drawn again by q/p, nats")
    report.table("resampled", columns, resampled(run))
    spec = run.state.spec
    if "discriminator" in networks.build(spec) and not spec.model.label_in_discriminator:
        report.table("discriminator", ("hidden layer", "units on", "dead"), hidden_layers(run))
    report.end()


if __name__ == "__main__":
    app.run(main)
