"""Reference implementations in float64 NumPy, without JAX.

The adversarial autoencoder's training step with back-propagation by hand, a convolution, and the
Parzen window.
"""

import numpy as np


def layers_of(network):
    """The parameters of a Flax MLP as a list of (kernel, bias)."""
    return [(np.array(v["kernel"]), np.array(v["bias"])) for _, v in sorted(network.items())]


def as_layers(params):
    """`layers_of` every network."""
    return {name: layers_of(network) for name, network in params.items()}


def convolve(x, kernel, bias, stride):
    """A convolution, padded so that sides are divided by the stride: x [B, H, W, C] → [B, …, O]."""
    height, width = (-(-side // stride) for side in x.shape[1:3])
    size = kernel.shape[0]
    pads = [(out - 1) * stride + size - side for out, side in zip((height, width), x.shape[1:3])]
    x = np.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))
    output = np.zeros((len(x), height, width, kernel.shape[3]))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            patch = x[:, top : top + size, left : left + size]
            output[:, row, column] = np.einsum("bijc,ijco->bo", patch, kernel) + bias
    return output


def convolve_transposed(x, kernel, bias):
    """Stride 2 and kernels of 4×4: every input pixel adds a stamp to an output of twice the sides.

    The stamp is the kernel turned by 180 degrees, as `jax.lax.conv_transpose` has it.
    """
    batch, height, width, _ = x.shape
    output = np.zeros((batch, 2 * height + 2, 2 * width + 2, kernel.shape[3]))
    for row in range(height):
        for column in range(width):
            stamp = np.einsum("bc,ijco->bijo", x[:, row, column], kernel[::-1, ::-1])
            output[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += stamp
    return output[:, 1:-1, 1:-1] + bias


def group_norm(x, num_groups, scale, bias, epsilon=1e-6):
    """Wu & He 2018: scales each group of channels of an example to mean 0 and variance 1."""
    groups = x.reshape(len(x), -1, num_groups, x.shape[-1] // num_groups)
    mean, variance = (f(groups, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    return ((groups - mean) / np.sqrt(variance + epsilon)).reshape(x.shape) * scale + bias


def parzen_window(x, samples, sigma):
    """The mean of Gaussians at the samples [N, D]: log-likelihoods f64[T] of x [T, D], in nats."""
    x, samples = x.astype(np.float64), samples.astype(np.float64)
    exponent = -((x[:, None] - samples[None]) ** 2).sum(axis=-1) / (2 * sigma**2)
    top = exponent.max(axis=1, keepdims=True)
    log_mean = top[:, 0] + np.log(np.exp(exponent - top).mean(axis=1))
    return log_mean - x.shape[1] * np.log(sigma * np.sqrt(2 * np.pi))


def forward(layers, x):
    """An MLP with ReLU between layers: the output, and the input of every layer."""
    inputs = []
    for index, (kernel, bias) in enumerate(layers):
        inputs.append(x)
        x = x @ kernel + bias
        if index < len(layers) - 1:
            x = np.maximum(x, 0)
    return x, inputs


def backward(layers, inputs, gradient):
    """Gradients of every layer, and of the MLP's input."""
    gradients = [None] * len(layers)
    for index in reversed(range(len(layers))):
        kernel, _ = layers[index]
        gradients[index] = (inputs[index].T @ gradient, gradient.sum(axis=0))
        gradient = gradient @ kernel.T
        if index > 0:
            gradient = gradient * (inputs[index] > 0)
    return gradients, gradient


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Adam:
    """Kingma & Ba 2015, algorithm 1."""

    def __init__(self, rate, b1, b2, epsilon=1e-8):
        self.rate, self.b1, self.b2, self.epsilon = rate, b1, b2, epsilon
        self.count, self.first, self.second = 0, {}, {}

    def __call__(self, networks, gradients):
        rate = self.rate(self.count)
        self.count += 1
        for name, layers in gradients.items():
            for index, pair in enumerate(layers):
                new = []
                for which, gradient in enumerate(pair):
                    key = (name, index, which)
                    m = self.b1 * self.first.get(key, 0) + (1 - self.b1) * gradient
                    v = self.b2 * self.second.get(key, 0) + (1 - self.b2) * gradient**2
                    self.first[key], self.second[key] = m, v
                    m_hat = m / (1 - self.b1**self.count)
                    v_hat = v / (1 - self.b2**self.count)
                    step = rate * m_hat / (np.sqrt(v_hat) + self.epsilon)
                    new.append(networks[name][index][which] - step)
                networks[name][index] = tuple(new)


class Momentum:
    """Gradient descent with a heavy ball (Sutskever et al. 2013); both are functions of the step."""

    def __init__(self, rate, momentum):
        self.rate, self.momentum, self.count, self.velocity = rate, momentum, 0, {}

    def __call__(self, networks, gradients):
        rate, momentum = self.rate(self.count), self.momentum(self.count)
        self.count += 1
        for name, layers in gradients.items():
            for index, pair in enumerate(layers):
                new = []
                for which, gradient in enumerate(pair):
                    key = (name, index, which)
                    self.velocity[key] = momentum * self.velocity.get(key, 0) - rate * gradient
                    new.append(networks[name][index][which] + self.velocity[key])
                networks[name][index] = tuple(new)


def train_step(networks, optimizers, x, x_noisy, prior_z):
    """Reconstruction, discriminator, generator: section 2. Returns the three losses.

    `networks`: {"encoder", "decoder", "discriminator"} → list of (kernel, bias), changed in place.
    """
    size = len(x)

    # "The autoencoder updates the encoder and the decoder to minimize the reconstruction error."
    z, encoder_inputs = forward(networks["encoder"], x_noisy)
    output, decoder_inputs = forward(networks["decoder"], z)
    x_hat = sigmoid(output)
    reconstruction = 0.5 * ((x_hat - x) ** 2).sum(axis=1).mean()
    gradient = (x_hat - x) * x_hat * (1 - x_hat) / size
    decoder_gradients, gradient = backward(networks["decoder"], decoder_inputs, gradient)
    encoder_gradients, _ = backward(networks["encoder"], encoder_inputs, gradient)
    optimizers["reconstruction"](
        networks, {"encoder": encoder_gradients, "decoder": decoder_gradients}
    )

    # "The adversarial network first updates its discriminative network."
    z, encoder_inputs = forward(networks["encoder"], x_noisy)
    prior_logits, prior_inputs = forward(networks["discriminator"], prior_z)
    code_logits, code_inputs = forward(networks["discriminator"], z)
    discriminator = -np.log(sigmoid(prior_logits)).mean() - np.log(1 - sigmoid(code_logits)).mean()
    on_prior, _ = backward(
        networks["discriminator"], prior_inputs, (sigmoid(prior_logits) - 1) / size
    )
    on_codes, _ = backward(networks["discriminator"], code_inputs, sigmoid(code_logits) / size)
    both = [(a + c, b + d) for (a, b), (c, d) in zip(on_prior, on_codes)]
    optimizers["discriminator"](networks, {"discriminator": both})

    # "The adversarial network then updates its generator (which is also the encoder)."
    code_logits, code_inputs = forward(networks["discriminator"], z)
    generator = -np.log(sigmoid(code_logits)).mean()
    _, gradient = backward(
        networks["discriminator"], code_inputs, (sigmoid(code_logits) - 1) / size
    )
    encoder_gradients, _ = backward(networks["encoder"], encoder_inputs, gradient)
    optimizers["generator"](networks, {"encoder": encoder_gradients})
    return reconstruction, discriminator, generator
