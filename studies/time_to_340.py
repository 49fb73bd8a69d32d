"""Seconds of training to each round number of nats, up to the paper's 340.

    python -m studies.time_to_340 [--data_dir=DIR] [--every=1000] [--seed=0]

`experiments/mnist.py`, then `mnist.py:smooth`, scored by the protocol of Table 1 (10,000 samples, σ
from validation images, all test images) after every `--every` steps. The clock starts before the
compilation and stops while the model is scored.
"""

import time

import jax
import jax.numpy as jnp
from absl import app, flags

import aae_jax as aae
from aae_jax import data
from aae_jax.config import parse_config
from aae_jax.train_state import inference_params, take_networks
from benchmarks import inputs
from benchmarks.report import Report
from experiments import mnist

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Data of tensorflow-datasets; None: its default.")
_EVERY = flags.DEFINE_integer("every", 1_000, "Steps between two scores.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the training.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", None, "Steps of each part, for trials.")

TARGETS = (200, 250, 300, 310, 320, 330, 340)


def curve(dataset, key, every):
    """Rows (part, step, seconds, nats) as the training reaches them."""
    train = {name: jnp.asarray(value) for name, value in dataset.train.items()}
    start, scoring, state = time.perf_counter(), 0.0, None
    for variant in ("deterministic", "smooth"):
        config = mnist.get_config(variant)
        config.run.max_steps = _MAX_STEPS.value
        settings = parse_config(config)
        earlier, state = state, aae.create_train_state(settings.spec, jax.random.fold_in(key, 0))
        if earlier is not None:
            params = inference_params(earlier)
            taken = {name: params[name] for name in settings.spec.algorithm.starts_from}
            state = take_networks(state, taken)
        num_steps = settings.spec.train.num_steps
        for step in range(0, num_steps, every):
            size = min(every, num_steps - step)
            state, _ = jax.block_until_ready(aae.train_steps(state, train, size))
            reached = time.perf_counter()
            found = aae.evaluate(aae.sampler(state), dataset.folds, settings.evaluation, key)
            nats = found["parzen/log_likelihood"], found["parzen/standard_error"]
            yield variant, step + size, reached - start - scoring, nats
            scoring += time.perf_counter() - reached


def main(argv):
    del argv
    report = Report()
    dataset = data.load(inputs.mnist_spec(_DATA_DIR.value))
    rows = curve(dataset, jax.random.key(_SEED.value), _EVERY.value)
    report.table("curve", ("part", "step", "s", "nats ± s.e."), rows)
    reached = {
        target: next(
            (row["s"] for row in report.found["curve"] if row["nats ± s.e."][0] >= target), None
        )
        for target in TARGETS
    }
    report.values(
        {
            f"seconds to {target} nats": "not reached" if seconds is None else seconds
            for target, seconds in reached.items()
        }
    )
    report.end()


if __name__ == "__main__":
    app.run(main)
