"""The communication between devices in a training step of the MNIST model, counted and compiled.

python -m benchmarks.communication

Compiles the step for 8 virtual CPU devices and adds up the all-reduces in the program. Compares
them with the gradients that data parallelism must sum.
"""

import math
import os
import re

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
from absl import app

import aae_jax as aae
from aae_jax import parallel
from benchmarks.report import Report
from experiments import mnist

_SIZES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2}


def expected_bytes(state) -> dict[str, int]:
    """The bytes of each phase's gradients, which are those of the networks that it trains."""
    sizes = {
        name: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
        for name, params in state.params.items()
    }
    return {
        phase.name: sum(sizes[name] for name in phase.trains)
        for phase in state.spec.algorithm.phases
    }


def compiled_collectives(program: str) -> list[tuple[str, int]]:
    """(operation, bytes of its result) of every collective in a compiled program's text."""
    found = []
    pattern = (
        r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
    )
    for shapes, operation, _ in re.findall(pattern, program):
        found.append((operation, sum(
            _SIZES[dtype] * math.prod(map(int, filter(None, dims.split(","))))
            for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        )))  # fmt: skip
    return found


def main(argv):
    del argv
    report = Report()
    config = mnist.get_config()
    config.train.batch_size = 800
    spec = aae.spec_from_config(config)
    mesh = parallel.make_mesh()
    rows, whole = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    state = jax.eval_shape(lambda key: aae.create_train_state(spec, key), jax.random.key(0))
    batch = {
        "image": jax.ShapeDtypeStruct((800, *spec.image_shape), "uint8"),
        "label": jax.ShapeDtypeStruct((800,), "int32"),
    }
    prior_sample = aae.PriorSample(
        z=jax.ShapeDtypeStruct((800, spec.model.code_dim), "float32"),
        label=jax.ShapeDtypeStruct((800,), "int32"),
    )
    step = jax.jit(aae.train_step, in_shardings=(whole, rows, rows), out_shardings=whole)
    compiled = step.lower(state, batch, prior_sample).compile()
    collectives = compiled_collectives(compiled.as_text())
    gradients = [size for _, size in collectives if size > 1_000]
    expected = expected_bytes(state)
    report.values(
        {
            **{f"gradients of {name}, bytes": size for name, size in expected.items()},
            "together": sum(expected.values()),
            "collectives in the program": len(collectives),
            "of which all-reduces": sum(name == "all-reduce" for name, _ in collectives),
            "of which over 1,000 bytes": len(gradients),
            "bytes of all": sum(size for _, size in collectives),
            "bytes of those over 1,000": sum(gradients),
            "parameters in them, one by one": sum(
                len(jax.tree.leaves(state.params[name]))
                for phase in spec.algorithm.phases
                for name in phase.trains
            ),
            "GFLOP of one device's share (100 images)": compiled.cost_analysis()["flops"] / 1e9,
        }
    )
    report.end()


if __name__ == "__main__":
    app.run(main)
