"""The training step against the NumPy reference, and every runner against plain jit."""

import copy
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import (
    Adam,
    Momentum,
    as_layers,
    backward,
    forward,
    layers_of,
    sigmoid,
    train_step as reference_step,
)
from small import (
    MIXTURE,
    SHAPE,
    inputs_of_step,
    make_dataset,
    make_spec,
    partly_labelled,
    refused,
    start,
    train_step,
)

import aae_jax as aae
from aae_jax import keys, parallel, transformations
from aae_jax.algorithms import adversarial, decoder_finetuning
from aae_jax.algorithms.autoencoder import discriminate
from aae_jax.algorithms.base import NoOptions
from aae_jax.data import order
from aae_jax.keys import row_keys
from aae_jax.train_state import to_inputs
from aae_jax.training import check_algorithm

PHASES = ("reconstruction", "discriminator", "generator")
NOISY = make_spec(input_noise=5.0)


@jax.jit
def noise_of_rows(key):
    """Standard normal noise f64[8, 12], drawn for each row by itself."""
    return jax.vmap(lambda key: jax.random.normal(key, (12,), jnp.float64))(row_keys(key, 8))


def cosine(rate, num_steps, floor=0.0):
    return lambda step: rate * (floor + (1 - floor) * 0.5 * (1 + np.cos(np.pi * step / num_steps)))


@pytest.mark.parametrize("kind", ["adam", "sgd", "noise"])
def test_equals_the_numpy_reference(x64, kind):
    """Order of the phases, losses, gradients, optimisers, schedules and averages: 100 steps."""
    floor = 0.3 if kind == "noise" else None
    if kind != "sgd":
        rates = {"reconstruction": 1e-2, "discriminator": 3e-3, "generator": 2e-3}
        optimizer = {
            phase: aae.OptimizerSpec(
                learning_rate=rate, b1=0.5, b2=0.99, schedule="cosine", floor=floor
            )
            for phase, rate in rates.items()
        }
        reference = {
            phase: Adam(cosine(rate, 100, floor or 0), 0.5, 0.99) for phase, rate in rates.items()
        }
    else:
        # Rates at which rounding does not grow a millionfold in 100 steps.
        rates = {"reconstruction": 2e-2, "discriminator": 4e-2, "generator": 1e-2}
        optimizer = {
            phase: aae.OptimizerSpec(
                name="sgd",
                learning_rate=rate,
                schedule="exponential",
                decay=1.02,
                floor=0.3,
                momentum_steps=(20, 60),
                momentum_values=(0.5, 0.9),
            )
            for phase, rate in rates.items()
        }
        reference = {
            phase: Momentum(
                lambda step, rate=rate: rate * max(1.02**-step, 0.3),
                lambda step: 0.5 + 0.4 * min(max(step - 20, 0) / 40, 1),
            )
            for phase, rate in rates.items()
        }
    noise = 0.7 if kind == "noise" else 0.0
    widths = {"encoder_hidden": (16, 12), "decoder_hidden": (12, 16)}
    spec = make_spec(
        "float64",
        optimizer,
        {**widths, "discriminator_hidden": (9, 8)},
        num_steps=100,
        input_noise=noise,
        ema_decay=None if kind == "sgd" else 0.4,
    )
    state, dataset = start(spec), make_dataset()
    networks = as_layers(state.params)
    average = {name: copy.deepcopy(networks[name]) for name in ("encoder", "decoder")}
    for index in range(100):
        batch, prior_sample = inputs_of_step(state, dataset, index)
        state, metrics = train_step(state, batch, prior_sample)
        x = np.asarray(batch["image"], np.float64).reshape(8, -1) / 255
        key = keys.stream(state.rng, keys.INPUT_NOISE, index)
        x_noisy = x + noise * np.asarray(noise_of_rows(key))
        losses = reference_step(networks, reference, x, x_noisy, np.asarray(prior_sample.z))
        np.testing.assert_allclose(
            [metrics[f"loss/{phase}"] for phase in PHASES], losses, rtol=1e-10
        )
        decay = min(0.4, (1 + index) / (10 + index))  # 0.1, 0.18, … 0.4
        for name, layers in average.items():
            average[name] = [
                tuple(decay * old + (1 - decay) * new for old, new in zip(*layer))
                for layer in zip(layers, networks[name])
            ]
    assert (state.ema_params is None) == (kind == "sgd")
    for found, wanted in (
        (as_layers(state.params), networks),
        (as_layers(state.ema_params or {}), average if state.ema_params else {}),
    ):
        assert found.keys() == wanted.keys()
        for name, layers in found.items():
            for layer, expected in zip(layers, wanted[name], strict=True):
                np.testing.assert_allclose(layer[0], expected[0], rtol=0, atol=1e-9)
                np.testing.assert_allclose(layer[1], expected[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "phase, trained",
    [
        ("reconstruction", {"encoder", "decoder"}),
        ("discriminator", {"discriminator"}),
        ("generator", {"encoder"}),
    ],
)
def test_each_phase_moves_only_its_own_networks(phase, trained):
    state = start(make_spec())
    scale = {name: jnp.float32(name == phase) for name in PHASES}
    before = state.replace(learning_rate_scale=scale)
    after, _ = train_step(before, *inputs_of_step(state, make_dataset(), 0))
    moved = {
        name
        for name in before.params
        if not jax.tree.all(
            jax.tree.map(lambda a, b: (a == b).all(), before.params[name], after.params[name])
        )
    }
    assert moved == trained


def test_learning_rate_scale_halves_the_update():
    optimizer = {phase: aae.OptimizerSpec(name="sgd", learning_rate=0.1) for phase in PHASES}
    state = start(make_spec(optimizer=optimizer))
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)

    def decoder_move(scale):
        scales = dict(state.learning_rate_scale, reconstruction=jnp.float32(scale))
        after, _ = train_step(state.replace(learning_rate_scale=scales), batch, prior_sample)
        kernel = "Dense_0"
        return after.params["decoder"][kernel]["kernel"] - state.params["decoder"][kernel]["kernel"]

    np.testing.assert_allclose(decoder_move(0.5), 0.5 * decoder_move(1.0), atol=1e-7)


def test_a_network_of_a_phase_has_its_own_optimizer():
    """By gradient descent, a fifth of the rate is a fifth of the way; other phases don't move."""
    plain = {"reconstruction": aae.OptimizerSpec(name="sgd", learning_rate=0.1)}
    slower = {"reconstruction_encoder": aae.OptimizerSpec(name="sgd", learning_rate=0.02)}
    before, moved = None, []
    for optimizer in (plain, plain | slower):
        state = start(make_spec(optimizer=optimizer))
        scale = {name: jnp.float32(name == "reconstruction") for name in PHASES}
        state = state.replace(learning_rate_scale=scale)
        before = state.params if before is None else before
        chex.assert_trees_all_equal(before, state.params)
        after, _ = train_step(state, *inputs_of_step(state, make_dataset(), 0))
        moved.append(jax.tree.map(jnp.subtract, after.params, before))
    chex.assert_trees_all_close(moved[1]["decoder"], moved[0]["decoder"], atol=1e-7)
    fifth = jax.tree.map(lambda move: 0.2 * move, moved[0]["encoder"])
    chex.assert_trees_all_close(moved[1]["encoder"], fifth, atol=1e-7)
    assert max(abs(move).max() for move in jax.tree.leaves(fifth)) > 1e-4
    chex.assert_trees_all_equal(moved[1]["discriminator"], moved[0]["discriminator"])


def test_noise_is_for_the_encoder_only_and_the_target_is_clean():
    state = start(NOISY)
    # An encoder that ignores its input: the noise can reach the loss through the target only.
    params = {**state.params, "encoder": jax.tree.map(jnp.zeros_like, state.params["encoder"])}
    state = state.replace(params=params)
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    _, metrics = train_step(state, batch, prior_sample)
    x = np.asarray(to_inputs(state, batch["image"]))
    x_hat = np.asarray(aae.decode(state, jnp.zeros((8, 2))))
    expected = 0.5 * ((x_hat - x) ** 2).sum(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(metrics["loss/reconstruction"], expected, rtol=1e-5)


def test_streams_of_randomness_differ():
    streams = (keys.INPUT_NOISE, keys.PRIOR, keys.SHUFFLE, keys.POSTERIOR, keys.DROPOUT)
    found = {
        tuple(jax.random.key_data(keys.stream(jax.random.key(0), stream, index)).tolist())
        for stream in streams
        for index in (3, 4)
    }
    assert len(found) == 10


def noise_of_codes(state):
    """What is added to the codes f64[8, 2] of step 0, in stds."""
    rows = row_keys(keys.stream(state.rng, keys.POSTERIOR, 0), 8)
    rows = [jax.random.fold_in(row, 1) for row in rows]
    return np.stack([jax.random.normal(row, (2,), jnp.float64) for row in rows])


def reconstruct(decoder, z, x):
    """Half the squared error of 8 rows, its gradients of the decoder's layers, and of z."""
    logits, inputs = forward(decoder, z)
    x_hat = sigmoid(logits)
    gradients, of_z = backward(decoder, inputs, (x_hat - x) * x_hat * (1 - x_hat) / 8)
    return 0.5 * ((x_hat - x) ** 2).sum(axis=1).mean(), gradients, of_z


def check_descent(layers, gradients, rate, found):
    """The parameters found are one step of gradient descent below the layers."""
    for (kernel, bias), (d_kernel, d_bias), new in zip(
        layers, gradients, layers_of(found), strict=True
    ):
        np.testing.assert_allclose(new[0], kernel - rate * d_kernel, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(new[1], bias - rate * d_bias, rtol=1e-12, atol=1e-14)


def test_a_decoder_alone_learns_the_codes_with_noise_on_them(x64):
    """Loss and update against NumPy; the encoder stays, although gradients could reach it."""
    rate, noise = 0.05, 0.7
    spec = make_spec(
        "float64",
        {"reconstruction": aae.OptimizerSpec(name="sgd", learning_rate=rate)},
        algorithm="decoder_finetuning",
        options=decoder_finetuning.Options(code_noise=noise),
    )
    state = start(spec)
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    new_state, metrics = train_step(state, batch, prior_sample)
    layers = as_layers(state.params)
    x = np.asarray(batch["image"], np.float64).reshape(8, -1) / 255
    z = forward(layers["encoder"], x)[0] + noise * noise_of_codes(state)
    expected, gradients, _ = reconstruct(layers["decoder"], z, x)
    np.testing.assert_allclose(metrics["loss/reconstruction"], expected, rtol=1e-12)
    check_descent(layers["decoder"], gradients, rate, new_state.params["decoder"])
    jax.tree.map(
        np.testing.assert_array_equal, new_state.params["encoder"], state.params["encoder"]
    )


def test_a_decoder_alone_learns_from_the_nearest_of_many_samples(x64):
    """Loss and update against NumPy, which measures all distances."""
    rate = 0.05
    spec = make_spec(
        "float64",
        {"reconstruction": aae.OptimizerSpec(name="sgd", learning_rate=rate)},
        algorithm="decoder_finetuning",
        options=decoder_finetuning.Options(nearest_of=40),
    )
    state = start(spec)
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    new_state, metrics = train_step(state, batch, prior_sample)
    key = jax.random.fold_in(row_keys(keys.stream(state.rng, keys.POSTERIOR, 0), 8)[0], 4)
    samples, decoder = (
        np.asarray(aae.sample_prior(spec, key, 40).z),
        as_layers(state.params)["decoder"],
    )
    x = np.asarray(batch["image"], np.float64).reshape(8, -1) / 255
    decoded = sigmoid(forward(decoder, samples)[0])
    chosen = np.square(x[:, None] - decoded).sum(axis=2).argmin(axis=1)
    assert 1 < len(set(chosen)) and (chosen != np.arange(8)).any()
    expected, gradients, _ = reconstruct(decoder, samples[chosen], x)
    np.testing.assert_allclose(metrics["loss/reconstruction"], expected, rtol=1e-12)
    check_descent(decoder, gradients, rate, new_state.params["decoder"])
    chex.assert_trees_all_equal(new_state.params["encoder"], state.params["encoder"])


def test_nearest_samples_are_refused_where_they_do_not_fit():
    model = {
        "algorithm": "decoder_finetuning",
        "options": decoder_finetuning.Options(nearest_of=40),
    }
    with pytest.raises(aae.UserError, match="^options.nearest_of is 0: it must be positive"):
        decoder_finetuning.Options(nearest_of=0)
    for field in ("label_in_decoder", "condition_in_decoder"):
        given = aae.ModelSpec(**{field: True})
        number = 3 if field.startswith("condition") else 0
        with pytest.raises(
            aae.UserError, match=f"^options.nearest_of is 40 and model.{field} True"
        ):
            aae.Spec((8, 8, 1), condition_dim=number, model=given, **model)
    with pytest.raises(aae.UserError, match="one number for the whole batch"):
        check_algorithm(aae.Spec((8, 8, 1), **model), "batch")


def test_of_the_three_phases_the_decoder_alone_sees_noise_on_the_codes(x64):
    """Loss and both updates of the reconstruction against NumPy."""
    rate, noise = 0.05, 0.7
    spec = make_spec(
        "float64",
        {"reconstruction": aae.OptimizerSpec(name="sgd", learning_rate=rate)},
        options=adversarial.Options(code_noise=noise),
        input_noise=0.3,
    )
    state = start(spec)
    scale = {**state.learning_rate_scale, "generator": jnp.float64(0)}
    state = state.replace(learning_rate_scale=scale)
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    new_state, metrics = train_step(state, batch, prior_sample)
    layers = as_layers(state.params)
    x = np.asarray(batch["image"], np.float64).reshape(8, -1) / 255
    x_noisy = x + 0.3 * np.asarray(noise_of_rows(keys.stream(state.rng, keys.INPUT_NOISE, 0)))
    z, inputs = forward(layers["encoder"], x_noisy)
    expected, _, of_z = reconstruct(layers["decoder"], z, x)
    np.testing.assert_allclose(metrics["loss/reconstruction"], expected, rtol=1e-12)
    check_descent(
        layers["encoder"],
        backward(layers["encoder"], inputs, of_z)[0],
        rate,
        new_state.params["encoder"],
    )
    with_noise, gradients, _ = reconstruct(layers["decoder"], z + noise * noise_of_codes(state), x)
    check_descent(layers["decoder"], gradients, rate, new_state.params["decoder"])
    assert abs(with_noise - expected) > 1e-3


def test_noise_on_the_codes_starts_at_its_step(x64):
    """Before it, a step is that without noise; from it on, that with noise throughout."""

    def parameters(step, **options):
        state = start(make_spec("float64", options=adversarial.Options(**options)))
        batch, prior_sample = inputs_of_step(state, make_dataset(), step)
        state = state.replace(step=jnp.int32(step))
        return train_step(state, batch, prior_sample)[0].params

    def check_equal(found, expected):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, expected
        )

    late, noise = {"code_noise": 0.7, "code_noise_from": 3}, {"code_noise": 0.7}
    check_equal(parameters(2, **late), parameters(2))
    check_equal(parameters(3, **late), parameters(3, **noise))
    with pytest.raises(AssertionError):
        check_equal(parameters(3, **late), parameters(3))


def test_input_noise_changes_every_step():
    state = start(NOISY)
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    losses = []
    for step in range(2):
        _, metrics = train_step(state.replace(step=jnp.int32(step)), batch, prior_sample)
        losses.append(float(metrics["loss/reconstruction"]))
    assert losses[0] != losses[1]


def test_metrics_are_what_they_say():
    state = start(make_spec())
    frozen = state.replace(learning_rate_scale={phase: jnp.float32(0) for phase in PHASES})
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    _, metrics = train_step(frozen, batch, prior_sample)
    z = np.asarray(aae.encode(state, batch["image"]), np.float64)
    for name, values in (("code", z), ("prior", np.asarray(prior_sample.z, np.float64))):
        np.testing.assert_allclose(metrics[f"{name}/mean"], values.mean(), atol=1e-6)
        np.testing.assert_allclose(metrics[f"{name}/std"], values.std(), rtol=1e-5)
        kurtosis = ((values - values.mean()) ** 4).mean() / values.var() ** 2
        np.testing.assert_allclose(metrics[f"{name}/kurtosis"], kurtosis, rtol=1e-4)
    logits = {
        name: np.asarray(discriminate(state.spec, state.params, jnp.asarray(values), None))
        for name, values in (("prior", prior_sample.z), ("code", z.astype(np.float32)))
    }
    assert metrics["discriminator/accuracy_on_prior"] == (sigmoid(logits["prior"]) > 0.5).mean()
    assert metrics["discriminator/accuracy_on_codes"] == (sigmoid(logits["code"]) < 0.5).mean()


# The stream of examples and of prior samples.


@pytest.mark.parametrize("num_examples, batch_size", [(20, 8), (20, 20), (7, 3), (5, 12), (1, 2)])
def test_an_epoch_visits_every_example_once(num_examples, batch_size):
    num_steps = -(-3 * num_examples // batch_size) + 1
    rows = np.asarray(
        order.epoch_rows(jax.random.key(1), jnp.int32(0), num_steps, batch_size, num_examples)
    ).reshape(-1)
    epochs = rows[: 3 * num_examples].reshape(3, num_examples)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(num_examples), (3, 1)))
    if num_examples > 5:
        assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()


@pytest.mark.parametrize("num_examples, batch_size", [(20, 8), (50_000, 100), (7, 12)])
def test_rows_do_not_depend_on_where_the_run_is_cut(num_examples, batch_size):
    key = jax.random.key(2)
    whole = order.epoch_rows(key, jnp.int32(0), 12, batch_size, num_examples)
    for cut in (1, 5, 11):
        parts = [
            order.epoch_rows(key, jnp.int32(0), cut, batch_size, num_examples),
            order.epoch_rows(key, jnp.int32(cut), 12 - cut, batch_size, num_examples),
        ]
        np.testing.assert_array_equal(jnp.concatenate(parts), whole)


def test_rows_far_into_a_run_where_step_times_batch_overflows():
    step, batch_size, num_examples = 2_000_000_011, 100, 50_000
    rows = order.epoch_rows(jax.random.key(2), jnp.int32(step), 2, batch_size, num_examples)
    epoch, offset = divmod(step * batch_size, num_examples)
    key = keys.stream(jax.random.key(2), keys.SHUFFLE, epoch)
    expected = jax.random.permutation(key, num_examples)[offset : offset + 2 * batch_size]
    np.testing.assert_array_equal(rows.reshape(-1), expected)


def test_train_steps_is_train_step_many_times():
    state = start(NOISY)
    dataset = make_dataset()
    many, metrics = aae.train_steps(state, dataset, 6)
    one = state
    step = jax.jit(aae.train_step)
    for index in range(6):
        one, expected = step(one, *inputs_of_step(state, dataset, index))
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name][index], value, rtol=1e-4, atol=1e-5)
    assert many.step == one.step == 6
    chex.assert_trees_all_close(many.params, one.params, atol=1e-5)


def test_splitting_a_run_into_calls_changes_no_bit():
    """Within an epoch and across its end: 20 examples in batches of 8."""
    dataset = make_dataset()
    state = start(NOISY)
    whole, whole_metrics = aae.train_steps(state, dataset, 18)
    metrics = []
    for num_steps in (6, 1, 11):
        state, part = aae.train_steps(state, dataset, num_steps)
        metrics.append(part)
    chex.assert_trees_all_equal(state.params, whole.params)
    chex.assert_trees_all_equal(state.opt_state, whole.opt_state)
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *metrics)
    chex.assert_trees_all_equal(joined, whole_metrics)


def test_prior_samples_are_fresh_every_step():
    state = start(make_spec())
    _, metrics = aae.train_steps(state, make_dataset(), 20)
    assert len(np.unique(metrics["prior/mean"])) == 20


def test_one_trace_for_equal_states():
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(aae.train_step, n=1))
    for seed in range(3):
        state = aae.create_train_state(make_spec(), jax.random.key(seed))  # a new, equal spec
        state, _ = step(state, *inputs_of_step(state, make_dataset(), 0))
        step(state, *inputs_of_step(state, make_dataset(), 1))


def test_bfloat16_compute_keeps_float32_parameters():
    state = start(make_spec(model={"compute_dtype": "bfloat16"}))
    state, metrics = aae.train_steps(state, make_dataset(), 5)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert np.isfinite(metrics["loss/reconstruction"]).all()


def test_mistakes_are_one_line():
    state = start(make_spec())
    batch, prior_sample = inputs_of_step(state, make_dataset(), 0)
    with pytest.raises(aae.UserError, match=r"images has shape \(8, 5, 5, 1\).*\[B, 3, 4, 1\]"):
        train_step(state, {**batch, "image": jnp.zeros((8, 5, 5, 1))}, prior_sample)
    with pytest.raises(aae.UserError, match=r"prior_sample.z has shape \(8, 3\).*\(8, 2\)"):
        train_step(state, batch, prior_sample._replace(z=jnp.zeros((8, 3))))
    short = {**make_dataset(), "label": jnp.zeros(5, jnp.int32)}
    with pytest.raises(aae.UserError, match="dataset has 20 images, but its 'label' has 5 rows"):
        aae.train_steps(state, short, 1)
    for label in (None, prior_sample.label[:5], prior_sample.label.astype(float)):
        labels = start(make_spec(model={"label_in_discriminator": True}))
        with pytest.raises(aae.UserError, match=r"prior_sample.label has .* it must be integers"):
            train_step(labels, batch, prior_sample._replace(label=label))
    soft = {**batch, "label": jnp.ones((8, 10)) / 10}
    with pytest.raises(aae.UserError, match=r"label has shape \(8, 10\): the discriminator takes"):
        train_step(labels, soft, prior_sample)
    with pytest.raises(aae.UserError, match="batch is a dict with 'images': it must be"):
        aae.train_batches(state, {"images": batch["image"][None]})
    with pytest.raises(aae.UserError, match="num_steps is -1: it must be positive"):
        aae.train_steps(state, make_dataset(), -1)
    with pytest.raises(aae.UserError, match="no examples"):
        aae.train_steps(state, make_dataset(0), 1)


# One step, several runners, one answer: float64, because Adam amplifies rounding.


@functools.cache
def twenty_steps():
    """The plain jitted run: start, batches and prior samples, end."""
    start = aae.create_train_state(
        make_spec("float64", batch_size=8, input_noise=0.2), jax.random.key(5)
    )
    dataset = make_dataset()
    inputs = [inputs_of_step(start, dataset, index) for index in range(20)]
    state, step = start, jax.jit(aae.train_step)
    for batch, prior_sample in inputs:
        state, metrics = step(state, batch, prior_sample)
    return start, inputs, state, metrics


def run(step):
    state, inputs, _, _ = twenty_steps()
    for batch, prior_sample in inputs:
        state, metrics = step(state, batch, prior_sample)
    return state, metrics


def assert_same(state, metrics):
    _, _, expected, expected_metrics = twenty_steps()
    assert expected.params["encoder"]["Dense_0"]["kernel"].dtype == jnp.float64
    chex.assert_trees_all_close(state.params, expected.params, rtol=0, atol=1e-9)
    chex.assert_trees_all_close(metrics, expected_metrics, rtol=0, atol=1e-9)


def test_sharded_over_a_mesh(x64):
    mesh = parallel.make_mesh()
    whole, rows = parallel.replicated(mesh), parallel.batch_sharding(mesh)
    step = jax.jit(aae.train_step, in_shardings=(whole, rows, rows), out_shardings=whole)
    state, metrics = run(step)
    assert len(state.params["encoder"]["Dense_0"]["kernel"].sharding.device_set) == 8
    assert_same(state, metrics)


def test_pmap(x64):
    devices = jax.devices()[:4]
    assert_same(*run(functools.partial(aae.pmap_train_step, devices=devices)))


def test_vmap_over_seeds(x64):
    first, inputs, expected, _ = twenty_steps()
    others = [start(first.spec, seed) for seed in (6, 7)]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, *others)
    step = jax.jit(jax.vmap(aae.train_step, in_axes=(0, None, None)))
    for batch, prior_sample in inputs:
        state, _ = step(state, batch, prior_sample)
    for index, single in enumerate([expected, *others]):
        if index:
            for batch, prior_sample in inputs:
                single, _ = train_step(single, batch, prior_sample)
        member = jax.tree.map(lambda leaf: leaf[index], state)
        chex.assert_trees_all_close(member.params, single.params, rtol=0, atol=1e-9)


def test_pmap_refuses_a_batch_that_does_not_divide():
    state = start(make_spec(batch_size=6))
    with pytest.raises(aae.UserError, match="train.batch_size is 6.*8 devices"):
        aae.pmap_train_step(state, *inputs_of_step(state, make_dataset(), 0))


def test_noise_is_keyed_by_global_row():
    keys = row_keys(jax.random.key(0), 8)
    np.testing.assert_array_equal(
        jax.random.key_data(keys[4:]), jax.random.key_data(row_keys(jax.random.key(0), 4, 4))
    )


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_images_with_a_label_are_transformed_in_every_phase(x64, noise):
    """Such a step is a plain one on a batch whose labelled images were transformed before."""
    rates = {phase: aae.OptimizerSpec(name="sgd", learning_rate=0.05) for phase in PHASES}
    fields = {"optimizer": rates, "model": {"label_in_discriminator": True}, "prior": MIXTURE}
    fields["input_noise"] = noise
    plain = start(make_spec("float64", **fields))
    options = adversarial.Options(transform_labelled=True)
    state = start(make_spec("float64", options=options, **fields))
    batch, prior_sample = inputs_of_step(state, partly_labelled(), 0)
    x = batch["image"].astype(jnp.float64) / 255
    own_keys = keys.fold_rows(row_keys(keys.stream(state.rng, keys.POSTERIOR, 0), 8), 5)
    is_labelled = np.asarray(batch["label"]) >= 0
    assert 0 < is_labelled.sum() < 8
    moved = jnp.where(
        is_labelled[:, None, None, None], transformations.random_affine(own_keys, x), x
    )
    found, _ = train_step(state, batch, prior_sample)
    expected, _ = train_step(plain, {**batch, "image": moved}, prior_sample)
    without, _ = train_step(plain, batch, prior_sample)
    chex.assert_trees_all_close(found.params, expected.params, rtol=0, atol=1e-10)
    for network in found.params:
        with pytest.raises(AssertionError):
            chex.assert_trees_all_close(
                found.params[network], without.params[network], rtol=0, atol=1e-5
            )
    options = adversarial.Options(transform_labelled=True, transform_labelled_until=1)
    ends = start(make_spec("float64", options=options, **fields))
    for plainly in (expected, train_step(expected, batch, prior_sample)[0]):
        ends, _ = train_step(ends, batch, prior_sample)
        chex.assert_trees_all_close(ends.params, plainly.params, rtol=0, atol=1e-10)


@pytest.mark.parametrize("standardise", [False, True])
def test_images_are_mirrored_before_all_else(x64, standardise):
    """Three such steps are plain ones on batches of which some images were mirrored before."""
    rates = {phase: aae.OptimizerSpec(name="sgd", learning_rate=0.05) for phase in PHASES}
    fields = {"optimizer": rates, "input_noise": 0.3, "model": {"output": "linear"}}
    rng, statistics = np.random.default_rng(0), ()
    if standardise:  # not symmetric
        statistics = rng.random(SHAPE), 0.1 + rng.random(SHAPE)
    found, expected, without = (
        aae.create_train_state(make_spec("float64", mirror=mirror, **fields), 5, *statistics)
        for mirror in (True, False, False)
    )
    batch, prior_sample = inputs_of_step(found, make_dataset(), 0)
    all_chosen = []
    for step in range(3):
        row_key = row_keys(keys.stream(found.rng, keys.INPUT_NOISE, step), 8)
        chosen = [jax.random.uniform(jax.random.fold_in(key, 0), (1,)) < 0.5 for key in row_key]
        chosen = np.asarray(chosen).reshape(8, 1, 1, 1)
        mirrored = jnp.where(chosen, batch["image"][:, :, ::-1], batch["image"])
        found, _ = train_step(found, batch, prior_sample)
        expected, _ = train_step(expected, {**batch, "image": mirrored}, prior_sample)
        without, _ = train_step(without, batch, prior_sample)
        chex.assert_trees_all_close(found.params, expected.params, rtol=0, atol=1e-10)
        all_chosen.append(chosen.ravel())
    assert 0 < np.sum(all_chosen) < 24 and any((all_chosen[0] != c).any() for c in all_chosen)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(found.params, without.params, rtol=0, atol=1e-5)


def test_only_images_can_be_mirrored():
    for image_shape in ((6,), (3, 2)):
        with refused(
            r"^train.mirror is True and image_shape \(.*\): it needs images of \(height, "
        ):
            make_spec(image_shape=image_shape, mirror=True)
    with refused("^train.mirror is 1: it must be "):
        make_spec(mirror=1)


def test_phases_run_with_the_options_of_another_algorithm():
    whole = adversarial.ADVERSARIAL_AUTOENCODER
    first = whole.phases[0]._replace(loss=adversarial.reconstruction)
    own = whole._replace(
        phases=(first, *whole.phases[1:]), options=NoOptions, check=lambda spec: None
    )
    expected, found = (
        train_step(start(spec), *inputs_of_step(start(spec), make_dataset(), 0))[0].params
        for spec in (make_spec(), make_spec(algorithm=own))
    )
    chex.assert_trees_all_close(found, expected, rtol=0, atol=1e-6)


def test_transformations_of_labelled_images_need_labels_and_images():
    given = {"options": adversarial.Options(transform_labelled=True)}
    labels = {"model": {"label_in_discriminator": True}}
    with refused("^options.transform_labelled is True and model.label_in_discriminator False"):
        make_spec(**given)
    with refused(r"^options.transform_labelled is True and image_shape \(6,\): it needs images"):
        make_spec(image_shape=(6,), **given, **labels)
    with refused("^options.transform_labelled is True and data.standardise True: pixels that"):
        spec = make_spec(**given, model={**labels["model"], "output": "linear"})
        aae.create_train_state(spec, jax.random.key(0), jnp.zeros(SHAPE), jnp.ones(SHAPE))
    with refused("^options.transform_labelled is 1: it must be "):
        adversarial.Options(transform_labelled=1)
    with refused("^options.transform_labelled_until is 5, but options.transform_labelled is False"):
        adversarial.Options(transform_labelled_until=5)
    options = adversarial.Options(transform_labelled=True, transform_labelled_until=20)
    with refused("^options.transform_labelled_until is 20: it must be below train.num_steps"):
        make_spec(options=options, **labels)
