"""A training step of the MNIST model, compared with the same step in PyTorch, and with pythae's.

    python -m benchmarks.peers [--batch_sizes=100,1000,10000] [--repeats=7]

PyTorch's and pythae's rows need both packages (`pip install torch==2.13.0 pythae==0.1.2`), and the
compiled rows a C++ compiler. The benchmark takes about five minutes on 2 cores. Other work on them
spoils the comparison: PyTorch's threads wait for each other far more than XLA's.

The PyTorch step is the algorithm of experiments/mnist.py: every step draws a batch, input noise and
a prior sample, and runs the three phases, each with its own Adam, and the averages. Before timing,
three steps of every version, from the parameters, batches, noise and prior samples of aae_jax, must
give the parameters and averages of `aae_jax.train_step`. The PyTorch step has these advantages:

- It computes the codes of the updated encoder once for discriminator and generator. Its
  discriminator sees prior sample and codes as one batch. It computes no unused gradients.
- Learning rates are constant, and no metrics are computed. Batches are drawn with replacement,
  while `train_steps` computes the order of each epoch.
- Numbers below the normal range are flushed to zero, as in XLA. Otherwise a confident discriminator
  makes a step several times slower.

Eager rows use `torch.optim.Adam(fused=True)`. Compiled rows are the whole step as one graph, with
Adam written out, since `torch.optim`'s breaks the graph. The draws stay eager, which is faster. The
oneDNN rows multiply by oneDNN, forwards and backwards, with ReLU fused. The others multiply by the
library that PyTorch was built with.

pythae's row is a step of its `AdversarialTrainer`, without its loader, history of losses and
callbacks, on an `Adversarial_AE` with a deterministic posterior, networks of the same widths and
fused Adam. That step differs and does less: there is one forward pass, in which encoder and decoder
descend half the adversarial loss plus the reconstruction loss in one update, while the
discriminator learns from the codes of the encoder before the update. It has no input noise, a prior
of std 1, and no averages. It also wastes work: the discriminator sees the codes twice, and its
gradient of the adversarial loss is computed and dropped.
"""

import functools
import itertools
import logging as python_logging
import sys

import jax
import numpy as np
from absl import app, flags

import aae_jax as aae
from benchmarks import inputs, pytorch, timing, torch_step
from benchmarks.report import Report
from experiments import mnist

_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", ["100", "1000", "10000"], "Images a step, 100 or more."
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 7, "Rounds, in which everything is timed in turn.", lower_bound=1
)

IMAGES = 50_000
SEEN = 4_000  # images in a timed call: 40 steps of 100, one of more than 2,000
WORK = 20e9  # operations of a timed call of products


def make_state(batch_size):
    """The state of experiments/mnist.py before its first step."""
    config = mnist.get_config()
    config.train.batch_size = batch_size
    return aae.create_train_state(aae.spec_from_config(config), jax.random.key(0))


@functools.cache
def onednn_dense(compiled):
    """A dense layer by oneDNN, with its gradients."""
    import torch

    onednn = torch.ops.mkldnn._linear_pointwise
    linear = functools.partial(onednn, scalars=[], algorithm="")
    if compiled:  # to the compiler a black box: its own version copies transposed operands

        @torch.library.custom_op("benchmark::linear", mutates_args=())
        def linear(
            X: torch.Tensor, W: torch.Tensor, B: torch.Tensor | None, attr: str
        ) -> torch.Tensor:
            return onednn(X, W, B, attr, [], "")

        @linear.register_fake
        def _(X, W, B, attr):
            return X.new_empty(X.shape[0], W.shape[0])

    class Dense(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias, activation):
            y = linear(x, weight, bias, activation)
            ctx.activation = activation
            ctx.save_for_backward(x, weight, y)
            return y

        @staticmethod
        def backward(ctx, gradient):
            x, weight, y = ctx.saved_tensors
            if ctx.activation == "relu":
                gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
            needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
            return (
                linear(gradient, weight.T, None, "none") if needs_x else None,
                linear(gradient.T, x.T, None, "none") if needs_weight else None,
                gradient.sum(dim=0) if needs_bias else None,
                None,
            )

    return Dense.apply


def torch_steps(state):
    """Name → (step, the tensors that it updates), for every PyTorch version."""
    import torch

    torch.compiler.reset()  # of another batch size
    return {
        f"{how}, {library}": torch_step.make(state, dense, compiled)
        for library, eager_dense, compiled_dense in (
            ("default", torch_step.default_dense, torch_step.default_dense),
            ("oneDNN", onednn_dense(False), onednn_dense(True)),
        )
        for how, dense, compiled in (
            ("eager", eager_dense, False),
            ("compiled", compiled_dense, True),
        )
    }


def torch_rows(state, images, steps, num_steps):
    """Name → function that takes `num_steps` steps."""
    import torch

    pixels = torch.from_numpy(images).reshape(len(images), -1)
    return {
        f"PyTorch, {name}": functools.partial(
            timing.repeat, torch_step.drawing(state, pixels, step), num_steps
        )
        for name, (step, _) in steps.items()
    }


def pythae_rows(state, images, num_steps):
    """As `torch_rows`, for pythae."""
    python_logging.disable(python_logging.WARNING)  # pythae narrates
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import Adversarial_AE, Adversarial_AE_Config
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseDiscriminator, BaseEncoder
    from pythae.trainers import AdversarialTrainer, AdversarialTrainerConfig

    spec, size = state.spec, state.spec.train.batch_size
    model, optimizers = spec.model, dict(spec.optimizer)

    def mlp(*widths):
        layers = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layers = mlp(spec.num_pixels, *model.encoder_hidden, model.code_dim)

        def forward(self, x):
            z = self.layers(x)
            return ModelOutput(embedding=z, log_covariance=torch.zeros_like(z))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.layers = mlp(model.code_dim, *model.decoder_hidden, spec.num_pixels)

        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)))

    class Discriminator(BaseDiscriminator):
        def __init__(self):
            super().__init__()
            self.layers = mlp(model.code_dim, *model.discriminator_hidden, 1)

        def forward(self, z):
            return ModelOutput(embedding=torch.sigmoid(self.layers(z)))

    images = torch.from_numpy(images).reshape(len(images), -1)
    config = Adversarial_AE_Config(
        input_dim=(spec.num_pixels,), latent_dim=model.code_dim, deterministic_posterior=True
    )
    # Its constructor takes a step on the data that it is given.
    trainer = AdversarialTrainer(
        Adversarial_AE(config, Encoder(), Decoder(), Discriminator()),
        BaseDataset(images[:2].float() / 255, torch.zeros(2)),
        training_config=AdversarialTrainerConfig(
            no_cuda=True,
            autoencoder_learning_rate=optimizers["reconstruction"].learning_rate,
            autoencoder_optimizer_params={"fused": True},
            discriminator_learning_rate=optimizers["discriminator"].learning_rate,
            discriminator_optimizer_params={"fused": True},
        ),
    )
    trainer.set_autoencoder_optimizer()
    trainer.set_discriminator_optimizer()

    def run():
        for _ in range(num_steps):
            x = images[torch.randint(len(images), (size,))].float().div_(255)
            trainer._optimizers_step(trainer.model({"data": x}))

    return {"pythae, Adversarial_AE": run}


def product_rows(shape, with_torch):
    """Name → (operations, function), of a float32 product rows × inner × columns."""
    rows, inner, columns = shape
    operations = 2 * rows * inner * columns
    times = max(1, round(WORK / operations))
    functions = {"aae_jax, product": timing.matrix_product(*shape)}
    if with_torch:
        import torch

        onednn = torch.ops.mkldnn._linear_pointwise
        a, b = torch.randn(rows, inner), torch.randn(columns, inner)
        functions["PyTorch, product, default"] = lambda: a @ b.T
        functions["PyTorch, product, oneDNN"] = lambda: onednn(a, b, None, "none", [], "")
    return {
        f"{name} {rows}×{inner}×{columns}": (
            times * operations,
            functools.partial(timing.repeat, function, times),
        )
        for name, function in functions.items()
    }


def measure(batch_size, repeats, with_torch):
    """The rows of one batch size.

    Returns:
        errors: rows (name, see `check`).
        steps: rows (name, ms a step, ratio to aae_jax).
        products: rows (name, GFLOP/s).
    """
    state = make_state(batch_size)
    dataset = inputs.random_dataset(IMAGES, state.spec.image_shape)
    images = np.array(dataset["image"])
    num_steps = max(1, SEEN // batch_size)
    ours, errors = "aae_jax, train_steps", {}
    rows = {ours: lambda: aae.train_steps(state, dataset, num_steps)}
    if with_torch:
        steps = torch_steps(state)
        errors = torch_step.check(state, images, steps)
        rows.update(torch_rows(state, images, steps, num_steps))
        try:
            rows.update(pythae_rows(state, images, num_steps))
        except ImportError as error:
            print(f"pythae is not installed ({error}): its row is left out", file=sys.stderr)
    products = {
        **product_rows((batch_size, *state.spec.model.encoder_hidden), with_torch),
        **product_rows(timing.PRODUCT, with_torch),
    }
    functions = {**rows, **{name: function for name, (_, function) in products.items()}}
    times = {name: np.array(v) for name, v in timing.interleaved(functions, repeats).items()}
    spread = timing.median_and_spread
    return (
        [(f"PyTorch, {name}", error) for name, error in errors.items()],
        [
            (name, spread(1e3 * times[name] / num_steps), spread(times[name] / times[ours]))
            for name in rows
        ],
        [
            (name, spread(operations / times[name] / 1e9))
            for name, (operations, _) in products.items()
        ],
    )


def main(argv):
    del argv
    torch = pytorch.load()
    report = Report(**pytorch.versions(torch))
    for batch_size in map(int, _BATCH_SIZES.value):
        errors, steps, products = measure(batch_size, _REPEATS.value, torch is not None)
        title = f"batch {batch_size}"
        if errors:
            columns = f"{torch_step.CHECKED} steps beside train_step's", "of the change"
            report.table(f"{title}, differences", columns, errors)
        report.table(f"{title}, steps", ("step", "ms a step", "ratio to aae_jax"), steps)
        report.table(f"{title}, products", ("product", "GFLOP/s"), products)
    report.end()


if __name__ == "__main__":
    app.run(main)
