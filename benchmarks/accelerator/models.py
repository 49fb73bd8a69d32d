"""The models that are trained and scored here, at the paper's size or small."""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax

import aae_jax as aae
from aae_jax.algorithms.adversarial import ADVERSARIAL_AUTOENCODER
from aae_jax.algorithms.decoder_finetuning import Options
from aae_jax.data import Dataset
from benchmarks import inputs

SIGMA = 0.165  # what validation images choose for experiments/mnist.py
SIGMAS = tuple(round(0.1 + 0.005 * i, 3) for i in range(31))
# Name → (jax.default_matmul_precision, model.compute_dtype). On a GPU float32 products are rounded
# to TF32 unless they are asked to be exact: the first is not what `launch.py` runs.
PRODUCTS = {
    "float32": ("float32", "float32"),
    "TF32": ("default", "float32"),
    "bfloat16": ("default", "bfloat16"),
}


class Setup(NamedTuple):
    """The command's arguments."""

    small: bool = False  # every size shrunk, to try the command out
    mnist_dir: str | None = None  # MNIST's four original files; None: strokes
    torch_seconds: float = 120.0  # PyTorch's rows that begin later are left out

    def size(self, full, small):
        """One of two."""
        return small if self.small else full

    @property
    def hidden(self):
        """Widths of hidden layers."""
        return self.size((1_000, 1_000), (16,))

    @property
    def products(self):
        """Names of `PRODUCTS`."""
        return self.size(tuple(PRODUCTS), ("float32",))

    @property
    def usual(self):
        """The one of `PRODUCTS` that `launch.py` uses."""
        return self.size("TF32", "float32")

    @property
    def call(self):
        """Steps in a long call and in a short one."""
        return self.size((1_000, 100), (4, 2))


def precision(products):
    """A context in which programs are traced with these products."""
    return jax.default_matmul_precision(PRODUCTS[products][0])


def aae_spec(hidden=(1_000, 1_000), batch_size=100, products="float32", **train) -> aae.Spec:
    """`experiments/mnist.py`; `train` changes fields of its section."""
    changes = {
        "reconstruction": {"floor": 0.05},
        "discriminator": {"learning_rate": 1e-3, "floor": 0.3},
        "generator": {"floor": 0.3},
    }
    fields = {"num_steps": 12_000, "input_noise": 0.3, "ema_decay": 0.999, **train}
    return aae.Spec(
        image_shape=(28, 28, 1),
        algorithm=ADVERSARIAL_AUTOENCODER,
        model=_model(hidden, products),
        train=aae.TrainSpec(batch_size=batch_size, **fields),
        optimizer={
            phase.name: dataclasses.replace(phase.optimizer, **changes[phase.name])
            for phase in ADVERSARIAL_AUTOENCODER.phases
        },
    )


def smooth_spec(hidden=(1_000, 1_000), num_steps=8_000, batch_size=200) -> aae.Spec:
    """`experiments/mnist.py:smooth`: the decoder's second training."""
    return aae.Spec(
        image_shape=(28, 28, 1),
        algorithm="decoder_finetuning",
        options=Options(code_noise=1.0),
        model=_model(hidden, "float32"),
        train=aae.TrainSpec(num_steps=num_steps, batch_size=batch_size, input_noise=0.3),
    )


def _model(hidden, products):
    names = "encoder_hidden", "decoder_hidden", "discriminator_hidden"
    return aae.ModelSpec(**dict.fromkeys(names, hidden), compute_dtype=PRODUCTS[products][1])


def create(spec: aae.Spec, key=None) -> aae.TrainState:
    """The state before its first step."""
    return _create(spec, jax.random.key(0) if key is None else key)


_create = jax.jit(aae.create_train_state, static_argnums=0)


@functools.cache
def dataset(setup: Setup) -> Dataset:
    """MNIST, or strokes."""
    if setup.mnist_dir is None:
        return inputs.strokes(*setup.size((50_000, 10_000), (1_000, 100)))
    return inputs.original_mnist(setup.mnist_dir)


class Steps(NamedTuple):
    """Compiled steps."""

    compiled: Any
    data: dict[str, jax.Array]
    seconds: float  # of tracing and compiling

    def __call__(self, state):
        """The state after them, and metrics."""
        return self.compiled(state, self.data)


@functools.cache
def on_device(setup: Setup) -> dict[str, jax.Array]:
    """Training images and labels as arrays of the accelerator."""
    train = dataset(setup).train
    return jax.block_until_ready(jax.device_put({n: train[n] for n in ("image", "label")}))


@functools.cache
def steps(setup: Setup, spec: aae.Spec, num_steps: int, products: str) -> Steps:
    """`train_steps` on the training images, compiled once for all sections."""
    data, state = on_device(setup), create(spec)
    start = time.perf_counter()
    with precision(products):
        compiled = aae.train_steps.lower(state, data, num_steps).compile()
    return Steps(compiled, data, time.perf_counter() - start)


def name_of_data(setup: Setup) -> str:
    """For titles."""
    return "strokes" if setup.mnist_dir is None else "MNIST"
