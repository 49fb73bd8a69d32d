"""Checks and timings on one accelerator: steps, the Parzen window, a whole reproduction.

    python -m benchmarks.accelerator [--sections=checks,steps] [--mnist_dir=DIR] [--small]

Each section is a few tables in Markdown, printed as they are measured:

- checks: training steps against float64, runs split into calls, errors of log-likelihoods;
- steps: steps per second by batch size and precision, and their bounds;
- waiting: how long the device waits for the host, and its memory;
- torch: the same step in PyTorch, if it is installed: eager, compiled, and from a CUDA graph;
- parzen: products, tiles and whole evaluations of the Parzen window;
- time_to_340: `experiments/mnist.py`, then `:smooth`, trained and scored.

If a section fails, one line reports it, and the others run. No section begins after `--seconds`. The
command needs JAX, Flax, optax and chex. `--small` shrinks everything, to try the command on a CPU.
"""

import argparse
import importlib.metadata
import os
import subprocess
import time

from benchmarks.accelerator import checks, models, parzen, steps, torch_steps, training, waiting
from benchmarks.report import machine, markdown

SECTIONS = {
    "checks": checks.run,
    "steps": steps.run,
    "waiting": waiting.run,
    "torch": torch_steps.run,
    "parzen": parzen.run,
    "time_to_340": training.run,
}


def driver():
    """The driver of an NVIDIA card, by its own tool; says if there is none."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def parse(arguments=None):
    """The command line: (names of sections, seconds after which none begins, Setup)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", default=",".join(SECTIONS), help="which, in which order")
    parser.add_argument("--mnist_dir", help="MNIST's four original .gz files; without, strokes")
    parser.add_argument("--small", action="store_true", help="shrink everything")
    parser.add_argument(
        "--torch_seconds", type=float, default=120, help="PyTorch's rows end after so long"
    )
    parser.add_argument(
        "--seconds", type=float, default=480, help="no section begins after so long"
    )
    found = parser.parse_args(arguments)
    names = found.sections.split(",")
    for name in names:
        if name not in SECTIONS:
            parser.error(f"--sections names {name!r}: there are {', '.join(SECTIONS)}")
    return names, found.seconds, models.Setup(found.small, found.mnist_dir, found.torch_seconds)


def main():
    """Runs the sections one after the other."""
    # Before the first array: leaves room for PyTorch on the same card.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    start = time.perf_counter()
    names, seconds, setup = parse()
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = "not installed"
    markdown("Machine", ("", ""), {**machine(), "driver": driver(), "torch": torch}.items())
    for name in names:
        begun = time.perf_counter()
        print(f"\n## {name}", flush=True)
        if begun - start >= seconds:
            print(f"\nsection {name} left out: {seconds:g} s are over", flush=True)
            continue
        try:
            SECTIONS[name](setup)
        except Exception as error:
            print(f"\nsection {name} failed: {parzen.first_line(error)}", flush=True)
        print(f"\n{name}: {time.perf_counter() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
