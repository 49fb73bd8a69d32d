"""Numerical checks: a training step, the split of a run into calls, the Parzen window."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import aae_jax as aae
from benchmarks import torch_step
from benchmarks.accelerator import models, parzen
from benchmarks.report import markdown

STEPS = 3  # that must agree with float64


def run(setup: models.Setup) -> None:
    """Prints three tables."""
    markdown(
        f"{STEPS} training steps against the same in float64 on the CPU, batch 100",
        ("products", "losses, relative", "parameters, of the change", "bound of it", "within"),
        step_rows(setup),
    )
    markdown(
        "{} steps in one call, in one call again, and in calls of {}".format(*setup.call),
        ("products", "arrays", "differ when repeated", "differ when split"),
        split_rows(setup),
    )
    parzen.print_errors(setup)


def in_float64(state):
    """The state in double precision; within `jax.enable_x64`."""
    model = dataclasses.replace(state.spec.model, param_dtype="float64", compute_dtype="float64")
    spec = dataclasses.replace(state.spec, model=model)
    fresh = models.create(spec)
    params, ema_params = jax.tree.map(
        lambda value: jnp.asarray(np.asarray(value), jnp.float64), (state.params, state.ema_params)
    )
    return fresh.replace(params=params, ema_params=ema_params)


def take_steps(state, images, prior_z):
    """[losses f64[3] of each step], and the parameters as NumPy arrays."""
    step, losses = jax.jit(aae.train_step), []
    for image, z in zip(images, prior_z):
        label = jnp.full(len(z), -1, jnp.int32)
        prior_sample = aae.PriorSample(jnp.asarray(z, state.spec.model.param_dtype), label)
        state, metrics = step(state, {"image": jnp.asarray(image), "label": label}, prior_sample)
        names = [f"loss/{phase.name}" for phase in state.spec.algorithm.phases]
        losses.append([float(metrics[name]) for name in names])
    return np.array(losses), jax.tree.map(lambda v: np.asarray(v, np.float64), state.params)


def step_rows(setup):
    """Rows of steps without input noise, which float32 and float64 draw differently."""
    batch_size, rng = 100, np.random.default_rng(0)
    images = models.dataset(setup).train["image"][: STEPS * batch_size]
    images = images.reshape(STEPS, batch_size, 28, 28, 1)
    prior_z = 5 * rng.standard_normal((STEPS, batch_size, 8)).astype(np.float32)

    def start(products):
        return models.create(models.aae_spec(setup.hidden, batch_size, products, input_noise=0.0))

    state = jax.tree.map(np.asarray, start("float32").replace(rng=None))
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        losses, expected = take_steps(in_float64(state), images, prior_z)
    for products in setup.products:
        with models.precision(products):
            found_losses, found = take_steps(start(products), images, prior_z)
        shares = []
        for name in expected:
            before, after, wanted = (
                np.concatenate([v.ravel() for v in jax.tree.leaves(tree[name])])
                for tree in (state.params, found, expected)
            )
            shares.append(abs(after - wanted).sum() / abs(wanted - before).sum())
        bound = torch_step.TOLERANCE if products == "float32" else None
        yield (
            products,
            abs(found_losses / losses - 1).max(),
            max(shares),
            bound,
            None if bound is None else "yes" if max(shares) < bound else "NO",
        )


def split_rows(setup):
    """Rows of the comparison of split calls, bit by bit, over all arrays of the state."""
    many, few = setup.call
    for products in setup.products[:2]:
        spec = models.aae_spec(setup.hidden, 100, products)
        state = models.create(spec)
        whole, part = (models.steps(setup, spec, number, products) for number in (many, few))
        once, again = (leaves(whole(state)[0]) for _ in range(2))
        for _ in range(many // few):
            state, _ = part(state)
        yield products, len(once), differ(once, again), differ(once, leaves(state))


def leaves(state):
    """All arrays of a state except its key."""
    return [np.asarray(value) for value in jax.tree.leaves(state.replace(rng=None))]


def differ(some, others):
    """The number of arrays with different bits."""
    return sum(a.tobytes() != b.tobytes() for a, b in zip(some, others, strict=True))
