"""The adversarial autoencoder's training step written again, in float64 NumPy.

Back-propagation by hand, no JAX: what `aae_jax.train_step` is compared with.
"""

import numpy as np


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
    """Stochastic gradient descent with classical momentum."""

    def __init__(self, rate, momentum):
        self.rate, self.momentum, self.count, self.velocity = rate, momentum, 0, {}

    def __call__(self, networks, gradients):
        rate = self.rate(self.count)
        self.count += 1
        for name, layers in gradients.items():
            for index, pair in enumerate(layers):
                new = []
                for which, gradient in enumerate(pair):
                    key = (name, index, which)
                    self.velocity[key] = self.momentum * self.velocity.get(key, 0) + gradient
                    new.append(networks[name][index][which] - rate * self.velocity[key])
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
