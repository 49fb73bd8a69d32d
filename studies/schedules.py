"""The adversarial autoencoder of MNIST with noise on the codes, in one training: four schedules.

    python -m studies.schedules [--mnist_dir=DIR | --data_dir=DIR] [--seeds=5] \\
        [--candidates=slow_encoder,slower_encoder,fast_start,one_rate] [--small]

The phases are those of `aae_jax.algorithms.adversarial`. In the reconstruction phase, encoder and
decoder have separate rates. A candidate is these rates and the game's, as functions of the step,
and the first step with noise. Its seeds are trained in one program. Rates change every 100 steps.

Both networks of the reconstruction phase are updated at once, by gradients at the same parameters.
If the encoder is updated first and the decoder after it, training is unstable with these rates.

After 12,000, 14,000 and 16,000 steps, with averaged parameters:

- *test*: nats by the protocol of Table 1, mean ± std over seeds, and those of each seed; then with
  Goodfellow's grid for σ.
- *reconstructions*: those of 10,000 training images, scored as samples by the first 2,000 validation
  images with the best σ.
- *std*: the least and greatest of clean codes of training images, by direction (the prior: 5).

`--small` trains narrow networks on blurred strokes, one step for every 100, to try the program.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

import aae_jax as aae
from aae_jax import multi_seed, parzen
from aae_jax.algorithms import adversarial
from aae_jax.algorithms.base import Inputs
from aae_jax.config import parse_config
from aae_jax.keys import row_keys
from aae_jax.optimizers import OptimizerSpec, make_optimizer
from aae_jax.priors import sample_prior
from aae_jax.train_state import to_inputs
from benchmarks import inputs
from benchmarks.report import Report
from experiments import mnist
from studies import runs

_MNIST_DIR = flags.DEFINE_string("mnist_dir", None, "With the four original gz files.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Data of tensorflow-datasets; None: its default.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Trained in one program.", lower_bound=1)
_CANDIDATES = flags.DEFINE_list("candidates", None, "Names among CANDIDATES; None: all.")
_SMALL = flags.DEFINE_bool("small", False, "Narrow networks, little data, one step for every 100.")

SHOWN = (12_000, 14_000, 16_000)  # steps
UNIT = 100  # steps with the same rates
NUM_IMAGES = 10_000  # training images that are encoded
NUM_VALIDATION = 2_000  # validation images that score reconstructions

# The candidates give the rates.
OPTIMIZER = {
    "reconstruction": OptimizerSpec(learning_rate=1.0),
    "discriminator": OptimizerSpec(learning_rate=1.0, b1=0.5),
    "generator": OptimizerSpec(learning_rate=1.0, b1=0.5),
}


class Candidate(NamedTuple):
    """Schedules of the rates, and the first step with noise of std 1 on the decoder's codes."""

    encoder: optax.Schedule
    decoder: optax.Schedule
    discriminator: optax.Schedule
    generator: optax.Schedule
    noise_from: int

    def rates(self, step):
        """The learning rate of each network that a phase trains, by phase, at this step."""
        return {
            "reconstruction": {"encoder": self.encoder(step), "decoder": self.decoder(step)},
            "discriminator": {"discriminator": self.discriminator(step)},
            "generator": {"encoder": self.generator(step)},
        }


def cosine(rate, floor, num_steps=12_000):
    """Half a cosine from the rate to floor times the rate."""
    return optax.cosine_decay_schedule(rate, num_steps, alpha=floor)


def with_noise(start, noise_from, encoder, decoder, discriminator, generator):
    """A candidate that starts with the first rates and goes on with the others."""
    noisy = encoder, decoder, discriminator, generator
    pairs = zip(start, noisy, strict=True)
    return Candidate(*(optax.join_schedules(pair, [noise_from]) for pair in pairs), noise_from)


def slow_encoder(start, noise_from, scale=1.0):
    """The decoder alone learns fast in the last 4,000 steps; all others by `scale` times a rate."""
    return with_noise(
        start,
        noise_from,
        encoder=cosine(scale * 1e-4, 0.3, 4_000),
        decoder=cosine(1e-3, 0.0, 4_000),
        discriminator=optax.constant_schedule(scale * 3e-4),
        generator=cosine(scale * 6e-5, 0.5, 4_000),
    )


def one_rate(start, noise_from):
    """Encoder and decoder with the same rate, by the steps of RESULTS.md, *noise on the codes*."""
    both = optax.piecewise_constant_schedule(3e-4, {1_000: 0.3, 1_500: 0.3})
    game = optax.constant_schedule(3e-4), optax.constant_schedule(6e-5)
    return with_noise(start, noise_from, both, both, *game)


# Encoder, decoder, discriminator, generator.
_START = cosine(1e-3, 0.05), cosine(1e-3, 0.05), cosine(1e-3, 0.3), cosine(2e-4, 0.3)  # mnist.py
_FAST = cosine(2e-3, 0.025), cosine(2e-3, 0.025), cosine(4e-4, 0.5), cosine(3e-4, 0.5)
CANDIDATES = {
    "slow_encoder": slow_encoder(_START, 12_000),
    "slower_encoder": slow_encoder(_START, 12_000, scale=0.5),
    "fast_start": slow_encoder(_FAST, 8_000),
    "one_rate": one_rate(_START, 12_000),
}


def settings_of(candidate, unit, small):
    """`mnist.py` with "mlp_spread" and the candidate's noise: (spec, evaluation)."""
    config = mnist.get_config()
    config.model.discriminator = "mlp_spread"
    if small:
        inputs.set_widths(config, 16)
        config.evaluation.num_samples = 1_000
    config.train.num_steps = max(SHOWN) * unit // UNIT
    settings = parse_config(config)
    noise = adversarial.Options(code_noise=1.0, code_noise_from=candidate.noise_from * unit // UNIT)
    spec = dataclasses.replace(settings.spec, optimizer=OPTIMIZER, options=noise)
    return spec, settings.evaluation


def train_step(state, rates, images):
    """`aae.train_step` with a rate for each network of a phase, on a batch drawn with replacement.

    Args:
        state: whose optimisers have rate 1.
        rates: f[] by phase and network.
        images: uint8[N, H, W, C].
    """
    spec, batch_size = state.spec, state.spec.train.batch_size
    keys = jax.random.split(jax.random.fold_in(state.rng, state.step), 4)
    x = to_inputs(state, images[jax.random.randint(keys[0], (batch_size,), 0, len(images))])
    given = Inputs(
        x,
        x + spec.train.input_noise * jax.random.normal(keys[1], x.shape),
        jnp.full(batch_size, -1),
        row_keys(keys[2], batch_size),
        sample_prior(spec, keys[3], batch_size),
        step=state.step,
    )
    params, opt_state = dict(state.params), dict(state.opt_state)
    for phase in spec.phases:
        trained = {name: params[name] for name in phase.trains}

        def loss(trained, phase=phase):
            return phase.loss(spec, {**params, **trained}, given)[0].mean()

        optimizer = make_optimizer(OPTIMIZER[phase.name], spec.train.num_steps)
        updates, opt_state[phase.name] = optimizer.update(
            jax.grad(loss)(trained), opt_state[phase.name], trained
        )
        for name, rate in rates[phase.name].items():
            own = jax.tree.map(lambda update, rate=rate: rate * update, updates[name])
            params[name] = optax.apply_updates(params[name], own)
    decay = jnp.minimum(spec.train.ema_decay, (1 + state.step) / (10 + state.step))
    newest = {name: params[name] for name in state.ema_params}
    ema_params = optax.incremental_update(newest, state.ema_params, 1 - decay)
    return state.replace(
        step=state.step + 1, params=params, opt_state=opt_state, ema_params=ema_params
    )


@functools.partial(jax.jit, static_argnames="num_steps")
def train_steps(state, rates, images, num_steps):
    """Steps of all members with the same rates."""
    axes = multi_seed.axes(state)

    def member(state):
        step = functools.partial(train_step, rates=rates, images=images)
        return jax.lax.scan(lambda state, _: (step(state), None), state, length=num_steps)[0]

    return jax.vmap(member, in_axes=(axes,), out_axes=axes)(state)


def train(candidate, spec, images, num_seeds, unit):
    """Trains all seeds; yields (step, state) at the steps `SHOWN`.

    Args:
        candidate, spec: the rates, and the model.
        images: uint8[N, H, W, C].
        num_seeds: seeds 0, 1, …
        unit: training steps for every `UNIT` steps of the schedules.
    """
    keys = jnp.stack([jax.random.key(seed) for seed in range(num_seeds)])
    state = jax.jit(multi_seed.create, static_argnums=0)(spec, keys)
    for step in range(0, max(SHOWN), UNIT):
        rates = jax.tree.map(jnp.float32, candidate.rates(step))
        state = train_steps(state, rates, images, unit)
        if step + UNIT in SHOWN:
            yield step + UNIT, state


def score(state, dataset, evaluation):
    """Test nats, with Goodfellow's grid, of reconstructions (validation); codes' least and most std."""
    images = jnp.asarray(dataset.train["image"][:NUM_IMAGES])
    valid = jnp.asarray(inputs.flat(dataset.validation["image"][:NUM_VALIDATION]))
    grids = evaluation, dataclasses.replace(evaluation, sigmas=None)
    own, goodfellow = (
        aae.evaluate(aae.sampler(state), dataset.folds, grid, jax.random.key(1))[
            "parzen/log_likelihood"
        ]
        for grid in grids
    )
    decoded = aae.reconstruct(state, images).reshape(len(images), -1)
    _, by_sigma = parzen.select_sigma(valid, decoded, jnp.asarray(evaluation.sigmas))
    codes = np.asarray(aae.encode(state, images), np.float64)
    variances = np.linalg.eigvalsh(np.cov(codes.T))
    return own, goodfellow, float(by_sigma.max()), *np.sqrt(variances[[0, -1]])


def rows(name, dataset, num_seeds, small):
    """One row for each step of `SHOWN`."""
    candidate, unit = CANDIDATES[name], 1 if small else UNIT
    spec, evaluation = settings_of(candidate, unit, small)
    scored = functools.partial(score, dataset=dataset, evaluation=evaluation)
    for step, state in train(candidate, spec, jnp.asarray(dataset.train["image"]), num_seeds, unit):
        by_seed = np.array([scored(member) for member in multi_seed.members(state)])
        mean, spread = by_seed.mean(axis=0), [None] * by_seed.shape[1]
        if num_seeds > 1:
            spread = by_seed.std(axis=0, ddof=1)
        seeds = " ".join(f"{nats:.1f}" for nats in by_seed[:, 0])
        yield name, step, *zip(mean, spread, strict=True), seeds


COLUMNS = (
    "candidate",
    "step",
    "test",
    "Goodfellow's",
    "reconstructions",
    "least std",
    "greatest std",
    "test by seed",
)


def main(argv):
    del argv
    names = _CANDIDATES.value or list(CANDIDATES)
    for name in names:
        if name not in CANDIDATES:
            raise app.UsageError(f"--candidates: {name!r} is none of {', '.join(CANDIDATES)}")
    report, small = Report(), _SMALL.value
    dataset = (
        inputs.strokes(2_000, 500) if small else runs.load_mnist(_MNIST_DIR.value, _DATA_DIR.value)
    )
    for name in names:
        report.table(name, COLUMNS, rows(name, dataset, _SEEDS.value, small))
    report.end()


if __name__ == "__main__":
    app.run(main)
