"""The same training step in PyTorch, in a separate process.

In that process JAX runs on the CPU, so that neither library takes memory or CUDA libraries from the
other.
"""

import argparse
import functools
import importlib.util
import os
import subprocess
import sys
import time

import numpy as np

from benchmarks import timing, torch_step, work
from benchmarks.accelerator import models
from benchmarks.accelerator.parzen import first_line
from benchmarks.report import markdown

COLUMNS = "batch", "products", "how", "preparing, s", "steps/s", "ms a step", "TFLOP/s"
STEPS = {100: 300, 1_000: 200, 10_000: 40}  # images a step → steps a call


def run(setup: models.Setup) -> None:
    """Prints the table of the other process, or one line if PyTorch is missing."""
    if importlib.util.find_spec("torch") is None:
        markdown("A training step in PyTorch", COLUMNS[:1], [("PyTorch is not installed",)])
        return
    command = [sys.executable, "-m", __name__, f"--torch_seconds={setup.torch_seconds}"]
    subprocess.run(
        command + ["--small"] * setup.small,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        timeout=setup.torch_seconds + 120,
        check=True,
    )


def bfloat16_dense(x, weight, bias, activation):
    """A dense layer for `model.compute_dtype` "bfloat16"; the last one returns float32."""
    import torch

    y = torch.nn.functional.linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    return torch.relu(y) if activation == "relu" else y.float()


def graphed(function):
    """Captures a function as a CUDA graph; returns a function that replays it."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def variants(setup, on_gpu):
    """(batch, products, compiled or not), the most useful first: compiling takes minutes."""
    if not on_gpu:
        return [(setup.size(100, 20), "float32", False)]
    order = [("TF32", False), ("float32", False), ("TF32", True), ("bfloat16", False)]
    order += [("float32", True), ("bfloat16", True)]
    return [(batch, products, compiled) for products, compiled in order for batch in STEPS]


@functools.cache
def start(setup, batch_size):
    """The state before its first step."""
    return models.create(models.aae_spec(setup.hidden, batch_size))


def make(setup, images, variant):
    """A function that draws a batch and takes a step, warmed up."""
    import torch

    batch_size, products, compiled = variant
    torch.compiler.reset()  # of other variants, of which it keeps a few only
    torch.set_float32_matmul_precision("highest" if products == "float32" else "high")
    dense = bfloat16_dense if products == "bfloat16" else torch_step.default_dense
    state = start(setup, batch_size)
    step, _ = torch_step.make(state, dense, compiled, images.device)
    function = torch_step.drawing(state, images, step)
    function()
    return function


def rows(setup, images, deadline):
    """Rows of each variant, plain and as a CUDA graph; variants that start too late are left out."""
    on_gpu = images.device.type == "cuda"
    for variant in variants(setup, on_gpu):
        batch_size, products, compiled = variant
        how, function = "compiled" if compiled else "eager", None
        for name in (how, f"{how}, CUDA graph") if on_gpu else (how,):
            begun = time.perf_counter()
            if function is None and begun > deadline:
                yield batch_size, products, name, "no time left", None, None, None
                break
            try:
                made = make(setup, images, variant) if function is None else graphed(function)
                function, preparing = made, time.perf_counter() - begun
                times = measure(setup, function, STEPS[batch_size] if on_gpu else 2, on_gpu)
            except Exception as error:  # what this version can't compile or capture
                yield (
                    batch_size,
                    products,
                    name,
                    f"not possible: {first_line(error)}",
                    None,
                    None,
                    None,
                )
                break
            work_done = work.operations(start(setup, batch_size).spec, batch_size)
            step = np.median(times)
            spread = timing.median_and_spread(1e3 * times)
            yield batch_size, products, name, preparing, 1 / step, spread, work_done / step / 1e12


def measure(setup, function, num_steps, on_gpu):
    """Seconds per step, over several calls."""
    import torch

    def steps():
        timing.repeat(function, num_steps)
        if on_gpu:
            torch.cuda.synchronize()

    return np.array(timing.interleaved({"": steps}, setup.size(5, 2))[""]) / num_steps


def main():
    """Checks the step against `train_step`, then times it."""
    import torch

    from benchmarks import inputs

    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--torch_seconds", type=float, required=True)
    arguments = parser.parse_args()
    setup = models.Setup(small=arguments.small)
    deadline = time.perf_counter() + arguments.torch_seconds
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = np.array(inputs.random_dataset(setup.size(50_000, 1_000))["image"])
    torch.set_float32_matmul_precision("highest")
    state = start(setup, 100)
    steps = {"eager": torch_step.make(state, torch_step.default_dense, False, device)}
    errors = torch_step.check(state, images, steps, device)
    markdown(
        f"PyTorch {torch.__version__} on {device}, {torch_step.CHECKED} steps against train_step's",
        ("step", "of the change"),
        errors.items(),
    )
    pixels = torch.from_numpy(images).reshape(len(images), -1).to(device)
    markdown("A training step in PyTorch", COLUMNS, rows(setup, pixels, deadline))


if __name__ == "__main__":
    main()
