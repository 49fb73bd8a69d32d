"""The training step of experiments/mnist.py in PyTorch, and its check against `train_step`."""

import jax
import jax.numpy as jnp
import numpy as np

import aae_jax as aae
from aae_jax import keys, train_state

CHECKED = 3  # steps that must agree
# Of a network's change in these steps, some 1e-4 of its weights, in absolute values summed. Adam's
# first steps are nearly signs of gradients: where one is zero but for rounding, or for the side of
# its kink on which rounding puts a ReLU, weights may go either way. Small batches have many.
TOLERANCE = 2e-3


def default_dense(x, weight, bias, activation):
    """A dense layer by the library that PyTorch was built with."""
    import torch

    y = torch.nn.functional.linear(x, weight, bias)
    return torch.relu(y) if activation == "relu" else y


def _adam(parameters, optimizer, compiled):
    """Kingma & Ba 2015, algorithm 1, at the first rate of the schedule: gradients → None."""
    import torch

    rate, b1, b2 = optimizer.learning_rate, optimizer.b1, optimizer.b2
    device = parameters[0].device
    if not compiled:
        # A CUDA graph can hold it only if it is capturable.
        capturable = device.type == "cuda"
        adam = torch.optim.Adam(
            parameters, lr=rate, betas=(b1, b2), fused=True, capturable=capturable
        )

        def update(gradients):
            for parameter, gradient in zip(parameters, gradients):
                parameter.grad = gradient
            adam.step()

        return update

    count = torch.zeros((), device=device)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in map(torch.detach, parameters)]

    @torch.no_grad()
    def update(gradients):
        count.add_(1)
        step_size, scale = rate / (1 - b1**count), (1 - b2**count).rsqrt()
        for parameter, gradient, (first, second) in zip(parameters, gradients, moments):
            first.lerp_(gradient, 1 - b1)
            second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
            parameter.sub_(step_size * first / (second.sqrt() * scale + 1e-8))

    return update


def layers_of(network, device="cpu"):
    """The parameters of one of our networks, copied: [weight, bias, weight, …]."""
    import torch

    layers = [network[f"Dense_{index}"] for index in range(len(network))]
    arrays = [array for layer in layers for array in (layer["kernel"].T, layer["bias"])]
    return [torch.from_numpy(np.array(array, order="C")).to(device) for array in arrays]


def make(state, dense, compiled, device="cpu"):
    """The training step in PyTorch, which starts from `state`.

    Args:
        state: of an adversarial autoencoder with averages.
        dense: (x, weight, bias, "relu" or "none") → a layer's output.
        compiled: whether `torch.compile` makes one graph of the step.
        device: where its tensors are.

    Returns:
        `step(x, x_noisy, prior_z)`, of f[B, P], f[B, P], f[B, D], which updates in place; and the
        tensors that it updates, {"params": …, "ema_params": …}, lists by network.
    """
    import torch
    from torch.nn import functional

    spec, optimizers = state.spec, dict(state.spec.optimizer)
    params, ema_params = (
        {name: layers_of(network, device) for name, network in networks.items()}
        for networks in (state.params, state.ema_params)
    )
    for layers in params.values():
        for tensor in layers:
            tensor.requires_grad_()
    encoder, decoder, discriminator = (
        params[name] for name in ("encoder", "decoder", "discriminator")
    )
    trains = {
        "reconstruction": encoder + decoder,
        "discriminator": discriminator,
        "generator": encoder,
    }
    updates = {name: _adam(trained, optimizers[name], compiled) for name, trained in trains.items()}
    averages = ema_params["encoder"] + ema_params["decoder"]
    steps_done = torch.zeros((), device=device)

    def network(layers, x):
        for weight, bias in zip(layers[:-2:2], layers[1:-2:2]):
            x = dense(x, weight, bias, "relu")
        return dense(x, *layers[-2:], "none")

    def descend(phase, loss):
        updates[phase](torch.autograd.grad(loss, trains[phase]))

    def step(x, x_noisy, prior_z):
        x_hat = torch.sigmoid(network(decoder, network(encoder, x_noisy)))
        descend("reconstruction", 0.5 * ((x_hat - x) ** 2).sum(dim=1).mean())

        z = network(encoder, x_noisy)
        logits = network(discriminator, torch.cat([prior_z, z.detach()]))[:, 0]
        prior_logits, code_logits = logits.split(len(x))
        descend(
            "discriminator",
            (functional.softplus(-prior_logits) + functional.softplus(code_logits)).mean(),
        )
        updated = [tensor.detach() for tensor in discriminator]
        descend("generator", functional.softplus(-network(updated, z)[:, 0]).mean())

        with torch.no_grad():
            decay = ((1 + steps_done) / (10 + steps_done)).clamp(max=spec.train.ema_decay)
            for average, parameter in zip(averages, encoder + decoder):
                average.lerp_(parameter, 1 - decay)  # torch._foreach_lerp_ takes no weight on a GPU
            steps_done.add_(1)

    if compiled:
        torch._dynamo.config.trace_autograd_ops = True  # gradients within a compiled function
        step = torch.compile(step, fullgraph=True, dynamic=False)
    return step, {"params": params, "ema_params": ema_params}


def drawing(state, images, step):
    """A function that draws a batch of `images`, a tensor [N, P], and takes a step with it."""
    import torch

    spec, size, device = state.spec, state.spec.train.batch_size, images.device

    def draw_and_step():
        x = images[torch.randint(len(images), (size,), device=device)].float().div_(255)
        x_noisy = torch.randn_like(x).mul_(spec.train.input_noise).add_(x)
        prior_z = torch.randn(size, spec.model.code_dim, device=device).mul_(spec.prior.std)
        step(x, x_noisy, prior_z)

    return draw_and_step


def check(state, images, steps, device="cpu"):
    """Takes `CHECKED` steps with every version.

    Returns:
        Name → the difference from `aae_jax.train_step` of a network's parameters or averages, as a
        share of their change; the largest over networks.

    Raises:
        AssertionError: a share is above `TOLERANCE`.
    """
    import torch

    spec, start, size = state.spec, state, state.spec.train.batch_size
    train_step = jax.jit(aae.train_step)
    for index in range(CHECKED):
        batch = {
            "image": jnp.asarray(
                images.take(range(index * size, (index + 1) * size), axis=0, mode="wrap")
            ),
            "label": jnp.zeros(size, jnp.int32),
        }
        prior_sample = aae.sample_prior(spec, jax.random.key(index), size)
        key = keys.stream(state.rng, keys.INPUT_NOISE, state.step)
        x = train_state.to_inputs(state, batch["image"]).reshape(size, -1)
        noise = keys.row_normal(keys.row_keys(key, size), spec.num_pixels, x.dtype)
        inputs = x, x + spec.train.input_noise * noise, prior_sample.z
        for step, _ in steps.values():
            step(*(torch.from_numpy(np.array(value)).to(device) for value in inputs))
        state, _ = train_step(state, batch, prior_sample)

    def flat(layers):
        return torch.cat([tensor.detach().flatten() for tensor in layers])

    errors = {}
    for name, (_, found) in steps.items():
        errors[name] = 0.0
        for kind, networks in found.items():
            for network, layers in networks.items():
                before, expected = (
                    flat(layers_of(getattr(s, kind)[network], device)) for s in (start, state)
                )
                error = (flat(layers) - expected).abs().sum() / (expected - before).abs().sum()
                errors[name] = max(errors[name], error.item())
        assert errors[name] < TOLERANCE, (
            f"batch size {size}, PyTorch, {name}: after {CHECKED} steps {errors[name]:.1e} of the "
            f"change away from aae_jax.train_step; {TOLERANCE} is allowed"
        )
    return errors
