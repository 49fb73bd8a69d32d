"""Steps per second of the paper's model, and their bounds."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing, work
from benchmarks.accelerator import models
from benchmarks.report import markdown

BATCHES = {1_000: 400, 10_000: 60}  # images a step → steps a call, beside batch 100
UNROLLED = 10  # products in a round of a loop, which costs time itself


def run(setup: models.Setup) -> None:
    """Prints the card's rates, then the steps."""
    rates, bandwidth = card(setup)
    rows = [(f"product {name}, TFLOP/s", rate) for name, rate in rates.items()]
    rows += [("adding 1 in place, TB/s", bandwidth / 1e12)]
    latency = launches(setup)
    rows += [("a step of width 16 and batch 16, which only launches, ms", 1e3 * latency)]
    markdown("What the card does", ("", "measured"), rows)
    markdown(
        "A training step by `train_steps`. *Of a product*: share of the rate of batch × width × width "
        "and of the square one, at the same precision. *Products*: the step's operations at the first "
        "of these rates. *Updates*: the bytes of Adam and averages at the rate of adding 1 in place. "
        "*Launches*: a step of width 16.",
        (
            "batch",
            "products",
            "compiling, s",
            "steps/s",
            "ms a step",
            "TFLOP/s",
            "of a product",
            "of the square",
            "products, ms",
            "updates, ms",
            "launches, ms",
            "largest, of the step",
        ),
        step_rows(setup, rates, bandwidth, latency),
    )


def product_rate(rows, width, products, operations):
    """TFLOP/s of x ← x W, [rows, width] and [width, width], many times in one call."""
    dtype = jnp.dtype(models.PRODUCTS[products][1])
    x = jax.random.normal(jax.random.key(0), (rows, width)).astype(dtype)
    w = (jax.random.normal(jax.random.key(1), (width, width)) / np.sqrt(width)).astype(dtype)
    one = 2 * rows * width**2
    rounds = max(1, round(operations / one / UNROLLED))

    def body(_, x):
        for _ in range(UNROLLED):
            x = x @ w
        return x

    with models.precision(products):
        function = jax.jit(lambda x: jax.lax.fori_loop(0, rounds, body, x)).lower(x).compile()
    times = timing.interleaved({"": lambda: function(x)}, 3)[""]
    return one * rounds * UNROLLED / np.median(times) / 1e12


def card(setup):
    """Name → TFLOP/s of products, and bytes/s of a large array that is read and written."""
    operations, big = setup.size((4e12, 8_192), (1e7, 64))
    shapes = [(big, big), *((batch_size, setup.hidden[0]) for batch_size in batches(setup))]
    rates = {
        f"{rows} × {width} × {width}, {products}": product_rate(rows, width, products, operations)
        for products in setup.products
        for rows, width in shapes
    }
    added = [jnp.zeros(setup.size(2**28, 2**16), jnp.float32)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def in_place():
        added[:] = [add(*added)]
        return added

    times = timing.interleaved({"": in_place}, 10)[""]
    return rates, 2 * added[0].nbytes / np.median(times)


def batches(setup):
    """Images a step → steps a call."""
    return {100: setup.call[0], **setup.size(BATCHES, {})}


def launches(setup):
    """Seconds of a step with as many kernels and next to nothing to compute."""
    num_steps, spec = setup.call[0], models.aae_spec(tuple(16 for _ in setup.hidden), 16)
    function, state = models.steps(setup, spec, num_steps, setup.usual), models.create(spec)
    return np.median(timing.interleaved({"": lambda: function(state)}, 3)[""]) / num_steps


def step_rows(setup, rates, bandwidth, latency):
    """One row for each batch size and precision."""
    width, big = setup.hidden[0], setup.size(8_192, 64)
    for batch_size, num_steps in batches(setup).items():
        for products in setup.products:
            spec = models.aae_spec(setup.hidden, batch_size, products)
            state, function = models.create(spec), models.steps(setup, spec, num_steps, products)
            calls = timing.interleaved({"": lambda: function(state)}, setup.size(5, 2))[""]
            times = np.array(calls) / num_steps
            step, operations = np.median(times), work.operations(spec, batch_size)
            alone = rates[f"{batch_size} × {width} × {width}, {products}"]
            square = rates[f"{big} × {big} × {big}, {products}"]
            floors = {
                "products": operations / alone / 1e12,
                "updates": work.traffic(state) / bandwidth,
                "launches": latency,
            }
            largest = max(floors, key=floors.get)
            rate = operations / step / 1e12
            yield (
                batch_size,
                products,
                function.seconds,
                1 / step,
                timing.median_and_spread(1e3 * times),
                rate,
                rate / alone,
                rate / square,
                *(1e3 * floor for floor in floors.values()),
                f"{largest}, {floors[largest] / step:.2f}",
            )
