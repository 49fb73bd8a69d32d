"""Seconds from MNIST's files to the log-likelihood of Table 1."""

import time

import jax

import aae_jax as aae
from aae_jax.train_state import inference_params, take_networks
from benchmarks.accelerator import models
from benchmarks.report import markdown

SEED = 0


def run(setup: models.Setup) -> None:
    """Prints the time of each part, and the scores."""
    markdown(
        f"`experiments/mnist.py`, then `:smooth`, seed {SEED}, {models.name_of_data(setup)}",
        ("part", "seconds", "nats"),
        rows(setup),
    )


def rows(setup):
    """Both trainings with JAX's default products, as `launch.py` runs them."""
    begun = time.perf_counter()
    data = models.dataset(setup)
    models.on_device(setup)
    yield "reading the images, to the device", time.perf_counter() - begun, None
    key = jax.random.fold_in(jax.random.key(SEED), 0)  # as experiment.run has it
    first, seconds = train(setup, models.create(models.aae_spec(setup.hidden), key), "first part")
    yield from seconds
    yield from scores(setup, first, data, "first part")

    spec = models.smooth_spec(setup.hidden)
    networks = inference_params(first)
    taken = {name: networks[name] for name in spec.algorithm.starts_from}
    start = take_networks(models.create(spec, key), taken)
    second, seconds = train(setup, start, "decoder alone")
    yield from seconds
    yield from scores(setup, second, data, "decoder alone")
    yield "all but what other sections had compiled", time.perf_counter() - begun, None


def train(setup, state, name):
    """The trained state, and rows."""
    size, _ = setup.call
    total = setup.size(state.spec.train.num_steps, 2 * size)
    function = models.steps(setup, state.spec, size, setup.usual)
    start = time.perf_counter()
    for _ in range(total // size):
        state, _ = function(state)
    jax.block_until_ready(state.params)
    return state, [
        (f"{name}: compiling", function.seconds, None),
        (f"{name}: {total:,} steps", time.perf_counter() - start, None),
    ]


def scores(setup, state, data, name):
    """Rows: once with compilation, once without."""
    spec = aae.EvaluationSpec(setup.size(10_000, 500), setup.size(1_000, 50), models.SIGMAS)
    key = jax.random.fold_in(jax.random.key(SEED), 1)
    for how in ("scoring, compiling", "scoring again"):
        start = time.perf_counter()
        found = aae.evaluate(aae.sampler(state), data.folds, spec, key)
        nats = (
            f"{found['parzen/log_likelihood']:.1f} ± {found['parzen/standard_error']:.1f}, "
            f"σ {found['parzen/sigma']}"
        )
        yield f"{name}: {how}", time.perf_counter() - start, nats
