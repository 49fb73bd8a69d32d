"""The cost of each seed: several seeds in one program, compared with one alone.

python -m benchmarks.multi_seed [--repeats=7]
"""

import jax
import jax.numpy as jnp
from absl import app, flags

import aae_jax as aae
from aae_jax import multi_seed
from benchmarks import inputs, timing
from benchmarks.report import Report
from experiments import digits, mnist

_REPEATS = flags.DEFINE_integer(
    "repeats", 7, "Rounds, in which everything is timed in turn.", lower_bound=1
)

STEPS, SEEDS = 20, (1, 2, 5)


def costs(config, repeats):
    """Rows (name, ms per step and seed): one state alone, then by the number of seeds."""
    spec = aae.spec_from_config(config)
    dataset = inputs.random_dataset(10_000, spec.image_shape)
    alone = aae.create_train_state(spec, jax.random.key(0))
    functions = {"alone": lambda: aae.train_steps(alone, dataset, STEPS)}
    seeds = {"alone": 1}
    for number in SEEDS:
        state = multi_seed.create(spec, jax.random.split(jax.random.key(0), number))
        own = {**dataset, "label": jnp.stack([dataset["label"]] * number)}
        name = f"{number} in one program"
        functions[name] = lambda state=state, own=own: multi_seed.train(state, own, STEPS)
        seeds[name] = number
    times = timing.interleaved(functions, repeats)
    return [
        (name, timing.median_and_spread([1e3 * value / STEPS / seeds[name] for value in values]))
        for name, values in times.items()
    ]


def main(argv):
    del argv
    report = Report()
    for name, config in {"MNIST": mnist.get_config(), "digits": digits.get_config()}.items():
        rows = costs(config, _REPEATS.value)
        report.table(f"{name}, batch 100", ("seeds", "ms a step and seed"), rows)
    report.end()


if __name__ == "__main__":
    app.run(main)
