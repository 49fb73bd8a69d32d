"""What a member of an ensemble costs: several seeds in one program, against one alone.

python -m benchmarks.ensemble
"""

import json

import jax
import jax.numpy as jnp
import numpy as np

import aae_jax as aae
from aae_jax import ensemble
from benchmarks import machine
from experiments import digits, mnist

STEPS, REPEATS, MEMBERS = 20, 7, (1, 2, 5)


def costs(config):
    """Milliseconds a step and member: alone, and by the number of members."""
    spec = aae.spec_from_config(config)
    random = np.random.default_rng(0)
    images = jnp.asarray(random.integers(0, 256, (10_000, *spec.image_shape), dtype=np.uint8))
    label = jnp.zeros(10_000, jnp.int32)
    alone = aae.create_train_state(spec, jax.random.key(0))
    dataset = {"image": images, "label": label}
    functions = {"alone": lambda: aae.train_steps(alone, dataset, STEPS)}
    for number in MEMBERS:
        state = ensemble.create(spec, jax.random.split(jax.random.key(0), number))
        data = {"image": images, "label": jnp.stack([label] * number)}
        functions[number] = lambda state=state, data=data: ensemble.train(state, data, STEPS)
    times = machine.interleaved(functions, REPEATS)
    report = {}
    for name, values in times.items():
        members = 1 if name == "alone" else name
        middle, spread = machine.median_and_spread([1e3 * v / STEPS / members for v in values])
        report[f"{name}" if name == "alone" else f"of {name}"] = [middle, spread]
    return report


def main():
    report = {
        "MNIST, batch 100": costs(mnist.get_config()),
        "digits, batch 100": costs(digits.get_config()),
    }
    for title, rows in report.items():
        print(f"{title}: ms a step and member")
        for name, (middle, spread) in rows.items():
            print(f"  {name:8} {middle:8.3f} ± {spread:.3f}")
    print(json.dumps({**machine.describe(), **report}))


if __name__ == "__main__":
    main()
