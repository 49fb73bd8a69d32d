"""Seconds from the command to the first training steps, and seconds of compilation and imports.

    python -m benchmarks.startup [--repeats=3]

The launcher trains the digits for one dispatch (100 steps), with an empty and with a filled
compilation cache. Compilation times are for `train_steps`, by width and by model, without a cache.
"""

import os
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
from absl import app, flags

import aae_jax as aae
from benchmarks import inputs, timing
from benchmarks.report import Report
from experiments import fig2, fig4, fig5, mnist

_REPEATS = flags.DEFINE_integer("repeats", 3, "How often each is started.", lower_bound=1)

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WIDTHS = (100, 1_000, 4_000)
MODELS = {
    "mnist.py": mnist.get_config,
    "mnist.py:gaussian": lambda: mnist.get_config("gaussian"),
    "mnist.py:universal": lambda: mnist.get_config("universal"),
    "mnist.py:vae": lambda: mnist.get_config("vae"),
    "fig2.py:b": lambda: fig2.get_config("b"),
    "fig4.py:a": fig4.get_config,
    "fig4.py:c": lambda: fig4.get_config("c"),
    "fig5.py:a": fig5.get_config,
}
COLD, WARM = (f"first 100 steps of launch.py, {name} cache" for name in ("cold", "warm"))
IMPORTS = (
    "import jax",
    "import aae_jax.parzen",
    "import aae_jax",
    "from aae_jax import experiment",
)


def first_steps(cache):
    """Seconds until the launcher reports the first dispatch."""
    environment = {name: v for name, v in os.environ.items() if "CACHE" not in name}
    with tempfile.TemporaryDirectory() as workdir:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "launch.py", f"--workdir={workdir}/run", "--mode=train"],
            cwd=_ROOT, env={**environment, "XDG_CACHE_HOME": cache},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        for line in process.stdout:
            if line.startswith("step"):
                break
        seconds = time.perf_counter() - start
        process.kill()
        process.wait()
    return seconds


def imported(statement):
    """Seconds of a Python process that runs only this import."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], cwd=_ROOT, check=True)
    return time.perf_counter() - start


def started(repeats):
    """Rows (what, seconds)."""
    times = {name: [] for name in (COLD, WARM, *IMPORTS)}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            times[COLD].append(first_steps(cache))
            times[WARM].append(first_steps(cache))
        for statement in IMPORTS:
            times[statement].append(imported(statement))
    return [(name, timing.median_and_spread(values)) for name, values in times.items()]


def compiled(config):
    """Seconds to trace and to compile `train_steps`, 100 steps in a dispatch."""
    spec = aae.spec_from_config(config)
    state = jax.eval_shape(lambda: aae.create_train_state(spec, jax.random.key(0)))
    dataset = {
        "image": jax.ShapeDtypeStruct((50_000, *spec.image_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((50_000,), jnp.int32),
    }
    jax.clear_caches()
    start = time.perf_counter()
    lowered = aae.train_steps.lower(state, dataset, 100)
    traced = time.perf_counter()
    lowered.compile()
    return traced - start, time.perf_counter() - traced


def main(argv):
    del argv
    report = Report()
    report.table("from start to end", ("command", "s"), started(_REPEATS.value))
    configs = {f"width {width}": inputs.set_widths(mnist.get_config(), width) for width in WIDTHS}
    configs.update({name: get() for name, get in MODELS.items()})
    rows = ((name, *compiled(config)) for name, config in configs.items())
    report.table("train_steps", ("model", "trace, s", "compile, s"), rows)
    report.end()


if __name__ == "__main__":
    app.run(main)
