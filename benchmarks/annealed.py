"""The cost of annealed importance sampling, and the distance between its bounds.

    python -m benchmarks.annealed [--images=64] [--chains=16] [--repeats=5] [--simulated=8] \\
        [--paths=16x100x10,16x333x3]

The first table gives the seconds of a temperature, and compares them, in the same rounds, with the
bare decoder: the values and gradients of the leapfrog steps on as many rows, and their matrix
products at the machine's rate. The second table gives seconds per image by chains x temperatures x
leapfrog steps, with the bracket's width on images made by the decoder. The decoder has the layers
of `experiments/mnist.py` (8-1000-1000-784, ReLU, sigmoid) and random weights.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import aae_jax as aae
from aae_jax import annealed
from benchmarks import timing
from benchmarks.report import Report

_IMAGES = flags.DEFINE_integer("images", 64, "Images of a block.", lower_bound=1)
_CHAINS = flags.DEFINE_integer("chains", 16, "Chains of an image, first table.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds of the first table.", lower_bound=1)
_SIMULATED = flags.DEFINE_integer("simulated", 8, "Images of the second table.", lower_bound=1)
_PATHS = flags.DEFINE_list(
    "paths", ["16x100x10", "16x333x3"], "Chains x temperatures x leapfrog steps, second table."
)

LAYERS, SIGMA = (8, 1_000, 1_000, 784), 0.125
NUM_LEAPFROG = 10  # of the first table


def decoder(key):
    """A decoder with weights of He's scale, so that different codes make different pictures."""
    keys = jax.random.split(key, len(LAYERS) - 1)
    weights = [
        jax.random.normal(key, (fan_in, fan_out)) * np.sqrt(2 / fan_in)
        for key, fan_in, fan_out in zip(keys, LAYERS, LAYERS[1:])
    ]
    return jax.tree_util.Partial(_decode, weights)


def _decode(weights, z):
    *hidden, last = weights
    for weight in hidden:
        z = jax.nn.relu(z @ weight)
    return jax.nn.sigmoid(z @ last)


@jax.jit
def bare(decode, x, z):
    """The values and gradients of a transition's leapfrog steps on rows z [R, D]."""

    def energy(z):
        return (((x - decode(z)) / SIGMA) ** 2).sum()

    def step(_, z):
        value, gradient = jax.value_and_grad(energy)(z)
        return z - 1e-9 * gradient + 0 * value

    with jax.default_matmul_precision("highest"):
        return jax.lax.fori_loop(0, NUM_LEAPFROG, step, z)


def cost_of_a_temperature(decode, num_images, num_chains, repeats):
    """Rows of the first table."""
    x, _ = annealed.simulate(decode, jax.random.key(1), SIGMA, num_images, code_dim=LAYERS[0])
    rows = num_images * num_chains
    every_x = jnp.repeat(x, num_chains, axis=0)
    z = jax.random.normal(jax.random.key(2), (rows, LAYERS[0]))
    short, long = 2, 12

    def chains(num_temperatures):
        spec = aae.AnnealedSpec(num_chains, num_temperatures, NUM_LEAPFROG, block_size=num_images)
        return lambda: annealed.log_likelihood(decode, x, 0, SIGMA, code_dim=LAYERS[0], spec=spec)

    times = timing.interleaved(
        {
            "short": chains(short),
            "long": chains(long),
            "bare": lambda: bare(decode, every_x, z),
            "product": timing.matrix_product(*timing.PRODUCT),
        },
        repeats,
    )
    times = {name: np.array(values) for name, values in times.items()}
    added = (times["long"] - times["short"]) / (long - short)
    # A product forward and one backward, to the codes alone, for each layer.
    products = sum(4 * rows * a * b for a, b in zip(LAYERS, LAYERS[1:]))
    operations = NUM_LEAPFROG * products
    products = operations * times["product"] / (2 * np.prod(timing.PRODUCT, dtype=float))
    # The pilot's chains take their part of a temperature too.
    with_pilot = 1 + annealed.PILOT_CHAINS / num_chains
    return [
        ("a temperature, with the pilot's", timing.median_and_spread(added), None),
        (
            "the same less the pilot's part",
            timing.median_and_spread(added / with_pilot),
            timing.median_and_spread(added / with_pilot / times["bare"]),
        ),
        ("bare values and gradients", timing.median_and_spread(times["bare"]), 1.0),
        (
            "their products at the machine's rate",
            timing.median_and_spread(products),
            timing.median_and_spread(products / times["bare"]),
        ),
    ]


def brackets(decode, num_images):
    """Rows of the second table."""
    for path in _PATHS.value:
        num_chains, num_temperatures, num_leapfrog = map(int, path.split("x"))
        spec = aae.AnnealedSpec(num_chains, num_temperatures, num_leapfrog, block_size=num_images)
        given = {"code_dim": LAYERS[0], "spec": spec}
        found = annealed.bracket(decode, 1, SIGMA, num_images, **given)
        start = time.perf_counter()
        annealed.log_likelihood(decode, found.x, 1, SIGMA, **given)  # compiled by the bracket
        seconds = (time.perf_counter() - start) / num_images
        gap = np.asarray(found.gap)
        yield (
            path,
            seconds,
            (float(gap.mean()), float(gap.std() / np.sqrt(num_images))),
            float(np.mean(found.lower.log_weight_std)),
            float(np.mean(found.lower.acceptance)),
        )


def main(argv):
    del argv
    report = Report()
    decode = decoder(jax.random.key(0))
    report.table(
        f"{_IMAGES.value} images, {_CHAINS.value} chains",
        ("what", "s", "to the bare"),
        cost_of_a_temperature(decode, _IMAGES.value, _CHAINS.value, _REPEATS.value),
    )
    report.table(
        f"{_SIMULATED.value} simulated images",
        (
            "chains x temperatures x steps",
            "s an image",
            "gap, nats",
            "log weight std",
            "acceptance",
        ),
        brackets(decode, _SIMULATED.value),
    )
    report.end()


if __name__ == "__main__":
    app.run(main)
