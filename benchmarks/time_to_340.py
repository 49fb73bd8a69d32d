"""Seconds from the start of training to each round number of nats, up to the paper's 340.

    python -m benchmarks.time_to_340 [--data_dir=DIR] [--every=1000] [--seed=0]

`experiments/mnist.py`, then `mnist.py:smooth`, scored by the protocol of Table 1 (10,000 samples, σ
from validation images, all test images) after every so many steps. The clock runs from before the compilation and stands
still while it scores, which no training needs. It is a record to be beaten: change the config, not
the protocol.
"""

import json
import time

import jax
import jax.numpy as jnp
from absl import app, flags, logging

import aae_jax as aae
from aae_jax import data, evaluation, experiment
from aae_jax.spec import parse_config
from benchmarks import machine
from experiments import mnist

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Of tensorflow-datasets; None: its default.")
_EVERY = flags.DEFINE_integer("every", 1_000, "Steps between two scores.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the training.")

TARGETS = (200, 250, 300, 310, 320, 330, 340)


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)
    key = jax.random.key(_SEED.value)
    report = machine.describe()
    for name, value in report.items():
        print(f"{name:12} {value}")
    print(f"\n{'step':>6} {'seconds':>8} {'nats':>16}")
    start, scoring, curve, state, dataset = time.perf_counter(), 0.0, [], None, None
    for variant in ("deterministic", "smooth"):
        config = mnist.get_config(variant)
        config.data.data_dir = _DATA_DIR.value
        settings = parse_config(config)
        if dataset is None:
            dataset = data.load(settings.data)
            train = {name: jnp.asarray(value) for name, value in dataset.train.items()}
            start = time.perf_counter()
        earlier, state = state, aae.create_train_state(settings.spec, jax.random.fold_in(key, 0))
        if earlier is not None:
            state = experiment.with_networks_of(earlier, state)
        for step in range(0, settings.spec.train.num_steps, _EVERY.value):
            steps = min(_EVERY.value, settings.spec.train.num_steps - step)
            state, _ = jax.block_until_ready(aae.train_steps(state, train, steps))
            reached = time.perf_counter()
            found = evaluation.evaluate(state, dataset.folds, settings.evaluation, key)
            nats, error = found["parzen/log_likelihood"], found["parzen/standard_error"]
            curve.append((variant, step + steps, reached - start - scoring, nats))
            scoring += time.perf_counter() - reached
            print(f"{step + steps:6} {curve[-1][2]:8.1f} {nats:9.1f} ± {error:.1f}", flush=True)
    report["curve"] = curve
    for target in TARGETS:
        report[f"seconds to {target}"] = first = next(
            (s for *_, s, n in curve if n >= target), None
        )
        print(f"to {target} nats: {'not reached' if first is None else f'{first:.0f} s'}")
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main)
