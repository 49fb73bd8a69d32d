"""The operations and the memory traffic of a training step, counted, not timed."""

import collections

import jax

from aae_jax import networks

# Adam reads parameters, gradients and two moments, and writes all but the gradients.
UPDATE_PASSES = 7
AVERAGE_PASSES = 3  # reads averages and parameters, writes averages


def layers(spec, name):
    """[(inputs, outputs)] of a network's layers."""
    shape = jax.eval_shape(lambda: networks.init(spec, jax.random.key(0)))[name]
    return [shape[f"Dense_{i}"]["kernel"].shape for i in range(len(shape))]


def products(spec, batch_size):
    """Counter of (m, k, n), the products of one step."""
    found = collections.Counter()

    def forward(name, rows):
        for fan_in, fan_out in layers(spec, name):
            found[rows, fan_in, fan_out] += 1

    def backward(name, rows, to_weights, to_inputs):
        for index, (fan_in, fan_out) in enumerate(layers(spec, name)):
            if to_weights:
                found[fan_in, rows, fan_out] += 1
            if index > 0 or to_inputs:
                found[rows, fan_out, fan_in] += 1

    forward("encoder", batch_size)
    forward("decoder", batch_size)
    backward("decoder", batch_size, to_weights=True, to_inputs=True)
    backward("encoder", batch_size, to_weights=True, to_inputs=False)
    forward("encoder", batch_size)  # updated
    forward("discriminator", 2 * batch_size)
    backward("discriminator", 2 * batch_size, to_weights=True, to_inputs=False)
    forward("discriminator", batch_size)  # updated
    backward("discriminator", batch_size, to_weights=False, to_inputs=True)
    backward("encoder", batch_size, to_weights=True, to_inputs=False)
    return found


def operations(spec, batch_size):
    """The operations of all products of one step."""
    return sum(2 * m * k * n * count for (m, k, n), count in products(spec, batch_size).items())


def traffic(state):
    """The bytes that the updates and averages of one step read and write."""
    size = {name: sum(v.nbytes for v in jax.tree.leaves(p)) for name, p in state.params.items()}
    updated = sum(size[name] for phase in state.spec.algorithm.phases for name in phase.trains)
    averaged = sum(size[name] for name in state.ema_params or ())
    return UPDATE_PASSES * updated + AVERAGE_PASSES * averaged
