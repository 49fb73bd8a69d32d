"""Seconds from the command to the first training steps, of compilation, and of imports.

    python -m benchmarks.startup [--repeats=3]

The launcher trains the digits for one dispatch (100 steps) with an empty and with a filled
compilation cache. Compilation is that of `train_steps`, by width and by model, with no cache.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
from absl import app, flags

import aae_jax as aae
from benchmarks import machine
from experiments import fig2, fig4, fig5, mnist

_REPEATS = flags.DEFINE_integer("repeats", 3, "How often each is started.")

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
IMPORTS = (
    "import jax",
    "import aae_jax.parzen",
    "import aae_jax",
    "from aae_jax import experiment",
)


def first_steps(cache):
    """Seconds until the launcher says that a first dispatch is done."""
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
    """Seconds of a Python that only does that."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], cwd=_ROOT, check=True)
    return time.perf_counter() - start


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


def wide(width):
    config = mnist.get_config()
    for network in ("encoder", "decoder", "discriminator"):
        config.model[f"{network}_hidden"] = (width, width)
    return config


def main(argv):
    del argv
    report = machine.describe()
    for name, value in report.items():
        print(f"{name:12} {value}")
    rows = {"cold": [], "warm": [], **{statement: [] for statement in IMPORTS}}
    for _ in range(_REPEATS.value):
        with tempfile.TemporaryDirectory() as cache:
            rows["cold"].append(first_steps(cache))
            rows["warm"].append(first_steps(cache))
        for statement in IMPORTS:
            rows[statement].append(imported(statement))
    for name, values in rows.items():
        report[name] = middle, spread = machine.median_and_spread(values)
        what = f"first 100 steps of launch.py, {name} cache" if name in ("cold", "warm") else name
        print(f"{what:45} {middle:6.2f} ± {spread:.2f} s")
    print(f"\n{'train_steps':45} {'trace, s':>9} {'compile, s':>11}")
    configs = {f"width {width}": wide(width) for width in WIDTHS}
    configs.update({name: get() for name, get in MODELS.items()})
    for name, config in configs.items():
        report[name] = trace, compilation = compiled(config)
        print(f"{name:45} {trace:9.2f} {compilation:11.2f}")
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main)
