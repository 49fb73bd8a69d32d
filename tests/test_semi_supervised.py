"""Classes and styles: the step against NumPy, the labelled rows, scores, pictures, and a run."""

import dataclasses
import json
import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import Adam, as_layers, backward, forward, sigmoid
from runs import STEPS, Killed, interrupt, metrics, results, small_config
from small import SHAPE, make_dataset, make_spec, refused, start, train_step

import aae_jax as aae
from aae_jax import (
    commands,
    data,
    experiment,
    figures,
    keys,
    measures,
    multi_seed,
    networks,
    parallel,
    transformations,
)
from aae_jax.algorithms import semi_supervised
from aae_jax.algorithms.base import Inputs
from aae_jax.algorithms.semi_supervised import Options
from aae_jax.config import parse_config
from aae_jax.data import streaming
from aae_jax.data.order import epoch_permutation
from aae_jax.optimizers import make_schedule
from aae_jax.workdir import health
from experiments import clustering, reduction, semi_supervised as configs

NUM_LABELLED = 5


def make_model(dtype="float32", model=None, **fields):
    fields = {"input_noise": 0.1, **fields}
    return make_spec(dtype, model=model, algorithm="semi_supervised", **fields)


def few_labels(num_classes=10):
    """Twenty images of which rows 2, 5, 8, 11 and 14 have a label."""
    label = np.full(20, -1, np.int32)
    rows = np.arange(2, 17, 3)
    label[rows] = np.arange(NUM_LABELLED) * 2 % num_classes
    return {**make_dataset(), "label": jnp.asarray(label), "labelled_rows": jnp.asarray(rows)}


def labelled_of(state, dataset, step, batch_size=8):
    """Which labelled rows a step sees: epoch after epoch of permutations of these alone."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    rows = np.asarray(dataset["labelled_rows"])
    order = {
        epoch: np.asarray(epoch_permutation(state.rng, epoch, len(rows), keys.LABELLED))
        for epoch in np.unique(places // len(rows))
    }
    return np.array([rows[order[p // len(rows)][p % len(rows)]] for p in places])


def batch_of(state, dataset, step):
    """The batch and the prior sample that `train_steps` feeds, made anew from the streams' keys."""
    places = np.arange(step * 8, (step + 1) * 8)
    order = [np.asarray(epoch_permutation(state.rng, epoch, 20)) for epoch in range(10)]
    own = np.array([order[p // 20][p % 20] for p in places])
    labelled = labelled_of(state, dataset, step)
    batch = {
        "image": dataset["image"][own],
        "label": dataset["label"][own],
        "labelled_image": dataset["image"][labelled],
        "labelled_label": dataset["label"][labelled],
    }
    key = keys.stream(state.rng, keys.PRIOR, step)
    return batch, aae.sample_prior(state.spec, key, 8)


# One step in NumPy.


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_backward(y, gradient):
    """The gradient of the logits from that of the probabilities."""
    return y * (gradient - (gradient * y).sum(axis=1, keepdims=True))


def reference_step(nets, optimizers, x, x_noisy, prior, labelled, joint):
    """Reconstruction, both discriminators, both generators, cross-entropy; their losses."""
    size, num_classes = len(x), 10
    prior_z, prior_y = prior

    output, inputs = forward(nets["encoder"], x_noisy)
    y, z = softmax(output[:, :num_classes]), output[:, num_classes:]
    decoded, decoder_inputs = forward(nets["decoder"], np.hstack([z, y]))
    x_hat = sigmoid(decoded)
    reconstruction = 0.5 * ((x_hat - x) ** 2).sum(axis=1).mean()
    gradient = (x_hat - x) * x_hat * (1 - x_hat) / size
    of_decoder, gradient = backward(nets["decoder"], decoder_inputs, gradient)
    dim = z.shape[1]
    gradient = np.hstack([softmax_backward(y, gradient[:, dim:]), gradient[:, :dim]])
    of_encoder, _ = backward(nets["encoder"], inputs, gradient)
    optimizers["reconstruction"](nets, {"encoder": of_encoder, "decoder": of_decoder})

    output, inputs = forward(nets["encoder"], x_noisy)
    y, z = softmax(output[:, :num_classes]), output[:, num_classes:]
    seen = {"class_discriminator": (prior_y, y), "style_discriminator": (prior_z, z)}
    if joint:
        likeliest = np.eye(num_classes)[y.argmax(axis=1)]
        seen["style_discriminator"] = (np.hstack([prior_z, prior_y]), np.hstack([z, likeliest]))
    discriminator, found = 0.0, {}
    for name, (on_prior, on_codes) in seen.items():
        prior_logits, prior_inputs = forward(nets[name], on_prior)
        code_logits, code_inputs = forward(nets[name], on_codes)
        discriminator -= np.log(sigmoid(prior_logits)).mean()
        discriminator -= np.log(1 - sigmoid(code_logits)).mean()
        a, _ = backward(nets[name], prior_inputs, (sigmoid(prior_logits) - 1) / size)
        b, _ = backward(nets[name], code_inputs, sigmoid(code_logits) / size)
        found[name] = [(p + q, r + s) for (p, r), (q, s) in zip(a, b)]
    optimizers["discriminator"](nets, found)

    generator, of_y, of_z = 0.0, 0.0, 0.0
    for name, (_, on_codes) in seen.items():
        logits, name_inputs = forward(nets[name], on_codes)
        generator -= np.log(sigmoid(logits)).mean()
        _, gradient = backward(nets[name], name_inputs, (sigmoid(logits) - 1) / size)
        if name == "class_discriminator":
            of_y = gradient
        else:
            of_z = gradient[:, :dim]
    gradient = np.hstack([softmax_backward(y, of_y), of_z])
    of_encoder, _ = backward(nets["encoder"], inputs, gradient)
    optimizers["generator"](nets, {"encoder": of_encoder})

    labelled_x, label = labelled
    output, inputs = forward(nets["encoder"], labelled_x)
    y = softmax(output[:, :num_classes])
    supervised = -np.log(y[np.arange(len(label)), label]).mean()
    gradient = np.zeros_like(output)
    gradient[:, :num_classes] = (y - np.eye(num_classes)[label]) / len(label)
    of_encoder, _ = backward(nets["encoder"], inputs, gradient)
    optimizers["supervised"](nets, {"encoder": of_encoder})
    return reconstruction, discriminator, generator, supervised


def noisy(state, step, x, which):
    """Images with the noise of a stream; that of labelled rows is the first of two draws."""
    row_keys = keys.row_keys(keys.stream(state.rng, which, step), len(x))
    if which == keys.LABELLED_NOISE:
        row_keys = keys.fold_rows(row_keys, 0)
    return x + 0.1 * np.asarray(keys.row_normal(row_keys, x.shape[1], jnp.float64))


def test_images_with_and_without_label_are_mirrored(x64):
    """Such a step is a plain one on a batch of which some images were mirrored before."""
    state, plain = (start(make_model("float64", mirror=mirror)) for mirror in (True, False))
    batch, prior_sample = batch_of(state, few_labels(), 0)
    mirrored = dict(batch)
    for name, which, number in (
        ("image", keys.INPUT_NOISE, 0),
        ("labelled_image", keys.LABELLED_NOISE, 2),
    ):
        row_keys = keys.fold_rows(keys.row_keys(keys.stream(state.rng, which, 0), 8), number)
        chosen = np.array([jax.random.uniform(key, (1,), jnp.float64) < 0.5 for key in row_keys])
        assert 0 < chosen.sum() < 8
        mirrored[name] = jnp.where(chosen.reshape(8, 1, 1, 1), batch[name][:, :, ::-1], batch[name])
    found, _ = train_step(state, batch, prior_sample)
    expected, _ = train_step(plain, mirrored, prior_sample)
    chex.assert_trees_all_close(found.params, expected.params, rtol=0, atol=1e-6)


@pytest.mark.parametrize("joint", [False, True])
def test_a_step_is_the_numpy_one(x64, joint):
    """Four phases in the paper's order; noise on images and on labelled rows; 6 steps."""
    rates = {"reconstruction": 1e-2, "discriminator": 2e-2, "generator": 5e-3, "supervised": 3e-2}
    optimizer = {name: aae.OptimizerSpec(learning_rate=rate) for name, rate in rates.items()}
    model = {"label_in_discriminator": joint}
    spec = make_model("float64", model=model, optimizer=optimizer)
    state, dataset = start(spec), few_labels()
    nets = as_layers(state.params)
    assert list(nets) == ["encoder", "decoder", "class_discriminator", "style_discriminator"]
    adams = {name: Adam(lambda step, rate=rate: rate, 0.9, 0.999) for name, rate in rates.items()}
    for step in range(6):
        batch, prior_sample = batch_of(state, dataset, step)
        x, labelled = (
            np.asarray(batch[name], np.float64).reshape(8, -1) / 255
            for name in ("image", "labelled_image")
        )
        expected = reference_step(
            nets,
            adams,
            x,
            noisy(state, step, x, keys.INPUT_NOISE),
            (np.asarray(prior_sample.z), np.eye(10)[np.asarray(prior_sample.label)]),
            (
                noisy(state, step, labelled, keys.LABELLED_NOISE),
                np.asarray(batch["labelled_label"]),
            ),
            joint,
        )
        state, metrics = train_step(state, batch, prior_sample)
        for name, loss in zip(rates, expected, strict=True):
            np.testing.assert_allclose(metrics[f"loss/{name}"], loss, rtol=1e-9, err_msg=name)
    for name, layers in as_layers(state.params).items():
        for found, wanted in zip(layers, nets[name], strict=True):
            np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=1e-9, err_msg=name)
            np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=1e-9, err_msg=name)


# The labelled rows.


@pytest.mark.parametrize("joint", [pytest.param(False, marks=pytest.mark.slow), True])
def test_labelled_rows_come_in_epochs_of_their_own_on_the_device_and_streamed(x64, joint):
    """Every one once in each 5 places, however a run is cut, streamed or in several seeds.

    The classes of the prior are draws, not the labels of the batch.
    """
    model = {"label_in_discriminator": joint}
    state, dataset = start(make_model("float64", model=model)), few_labels()
    seen = np.concatenate([labelled_of(state, dataset, step) for step in range(5)])
    for epoch in seen.reshape(-1, NUM_LABELLED):
        assert sorted(epoch) == np.asarray(dataset["labelled_rows"]).tolist()
    expected, metrics = aae.train_steps(state, dataset, 5)
    alone, half = state, aae.train_steps(aae.train_steps(state, dataset, 2)[0], dataset, 3)[0]
    for step in range(5):
        alone, _ = train_step(alone, *batch_of(state, dataset, step))
    host = {name: np.asarray(values) for name, values in dataset.items()}
    batches = list(streaming.batches(host, state.rng, 0, 5, 8))
    streamed, _ = aae.train_batches(state, jax.tree.map(lambda *v: np.stack(v), *batches))
    members = multi_seed.create(state.spec, jax.random.key(0)[None])
    own = {k: v if k == "image" else v[None] for k, v in dataset.items()}
    member = multi_seed.member(multi_seed.train(members, own, 5)[0], 0)
    for found in (alone, half, streamed, member):
        chex.assert_trees_all_close(found.params, expected.params, rtol=0, atol=1e-9)
    assert metrics["loss/supervised"].shape == (5,)


def test_only_labelled_rows_teach_the_class():
    """Labels of the batch's own rows change nothing; those of the labelled rows do."""
    state, dataset = start(make_model()), few_labels()
    batch, prior_sample = batch_of(state, dataset, 0)
    expected, _ = train_step(state, batch, prior_sample)
    other, _ = train_step(state, {**batch, "label": (batch["label"] + 1) % 10}, prior_sample)
    chex.assert_trees_all_equal(other.params, expected.params)
    labels = (batch["labelled_label"] + 1) % 10
    other, _ = train_step(state, {**batch, "labelled_label": labels}, prior_sample)
    assert not np.array_equal(
        other.params["encoder"]["Dense_1"]["bias"], expected.params["encoder"]["Dense_1"]["bias"]
    )


def test_a_row_without_a_label_teaches_no_class():
    """Among labelled rows a known −1 is refused; in a compiled program its loss is 0."""
    state, dataset = start(make_model()), few_labels()
    batch, prior_sample = batch_of(state, dataset, 0)
    hidden = {**batch, "labelled_label": batch["labelled_label"].at[3:].set(-1)}
    with refused("label ranges from -1 to .: it must be 0 … 9$"):
        aae.train_step(state, hidden, prior_sample)
    few = {name: batch[name][:3] for name in ("labelled_image", "labelled_label")}
    _, expected = train_step(state, {**batch, **few}, prior_sample)
    _, found = train_step(state, hidden, prior_sample)
    # All other phases come first and have the same rows. A sum of 8 losses: 8 float32 roundings.
    np.testing.assert_allclose(
        8 * found["loss/supervised"], 3 * expected["loss/supervised"], rtol=1e-6
    )


def test_few_labelled_rows_do_not_displace_the_order_of_images(monkeypatch):
    """Streaming computes the permutation of each epoch of images once."""
    state, dataset, computed = start(make_model()), few_labels(), []

    def counted(rng, epoch, num_examples, which):
        computed.append((which, int(epoch)))
        return epoch_permutation(rng, epoch, num_examples, which)

    monkeypatch.setattr(streaming, "epoch_permutation", counted)
    host = {name: np.asarray(values) for name, values in dataset.items()}
    host["labelled_rows"] = host["labelled_rows"][:1]  # 8 epochs in a batch of 8
    list(streaming.batches(host, state.rng, 0, 10, 8))
    assert sorted(epoch for which, epoch in computed if which == keys.SHUFFLE) == [0, 1, 2, 3]


def test_a_failure_names_the_labelled_rows_too():
    state, dataset = start(make_model()), few_labels()

    def advance(state, num_steps):
        """Steps with an infinite learning rate of the supervised phase in the second."""
        broken = {**state.learning_rate_scale, "supervised": jnp.float32(jnp.inf)}
        now = state.replace(learning_rate_scale=broken) if int(state.step) == 1 else state
        return aae.train_steps(now, dataset, num_steps)

    failure = health.find_failure(state, 3, dataset, advance)
    assert failure["step"] == 2 and len(failure["rows"]) == 8
    assert failure["labelled_rows"] == labelled_of(state, dataset, 1).tolist()


def test_a_batch_may_have_any_number_of_labelled_rows():
    state, dataset = start(make_model()), few_labels()
    batch, prior_sample = batch_of(state, dataset, 0)
    few = {name: batch[name][:3] for name in ("labelled_image", "labelled_label")}
    _, metrics = train_step(state, {**batch, **few}, prior_sample)
    assert np.isfinite(metrics["loss/supervised"])
    for name in few:
        with refused(f"batch has no '{name}'"):
            aae.train_step(state, {k: v for k, v in batch.items() if k != name}, prior_sample)
    with refused("dataset has no 'labelled_rows'"):
        aae.train_steps(state, make_dataset(), 1)


def test_labels_that_are_kept_are_balanced_and_of_the_training_images():
    label = np.arange(100) % 10
    train = {"image": np.zeros((100, 2, 2, 1), np.uint8), "label": label.astype(np.int32)}
    kept = data.keep_labels(train, 30, 10, 0)["label"]
    rows = data.labelled_rows(kept, 10)
    assert rows.dtype == np.int32 and len(set(rows.tolist())) == 30
    np.testing.assert_array_equal(np.bincount(kept[rows]), np.full(10, 3))
    np.testing.assert_array_equal(kept[rows], label[rows])
    other = data.labelled_rows(data.keep_labels(train, 30, 10, 1)["label"], 10)
    assert set(other.tolist()) != set(rows.tolist())


@pytest.mark.parametrize(
    "label, message",
    [
        ([-1, -1, -1], "^no training image has a label"),
        ([0, -1, 2], "^class 1 of 3 has no labelled training image"),
        ([-1, 1, 1], "^classes 0, 2 of 3 have no labelled training image"),
    ],
)
def test_a_class_without_a_labelled_image_is_refused(label, message):
    with refused(message):
        data.labelled_rows(np.array(label, np.int32), 3)


# A trained model.


@pytest.fixture(scope="module")
def trained():
    return aae.train_steps(start(make_model()), few_labels(), 20)[0]


def test_what_a_model_gives(trained):
    images = make_dataset()["image"]
    layers = as_layers(trained.params)
    x = np.asarray(images, np.float64).reshape(20, -1) / 255
    output, _ = forward(layers["encoder"], x)
    y, z = softmax(output[:, :10]), output[:, 10:]
    np.testing.assert_allclose(aae.classify(trained, images), y, atol=1e-5)
    np.testing.assert_allclose(aae.encode(trained, images), z, atol=1e-4)

    def decode(z, y):
        return sigmoid(forward(layers["decoder"], np.hstack([z, y]))[0]).reshape(-1, *SHAPE)

    label = np.arange(20) % 10
    np.testing.assert_allclose(aae.reconstruct(trained, images), decode(z, y), atol=1e-4)
    of_label = decode(z, np.eye(10)[label])
    np.testing.assert_allclose(aae.decode(trained, z, label), of_label, atol=1e-4)
    np.testing.assert_allclose(aae.decode(trained, z, np.eye(10)[label]), of_label, atol=1e-4)
    np.testing.assert_allclose(aae.reconstruct(trained, images, label), of_label, atol=1e-4)
    key = jax.random.key(3)
    prior = aae.sample_prior(trained.spec, key, 6)
    found = aae.generate(trained, key, 6)
    np.testing.assert_allclose(found, decode(prior.z, np.eye(10)[prior.label]), atol=1e-4)
    found = aae.generate(trained, key, 6, label=4)
    np.testing.assert_allclose(found, decode(prior.z, np.eye(10)[[4] * 6]), atol=1e-4)
    with refused("decodes a style and a class: give label, 0 … 9"):
        aae.decode(trained, z)
    np.testing.assert_array_equal(
        aae.generate(trained, key, 6, label=-1), aae.generate(trained, key, 6)
    )
    for label in (-1, 10):
        with refused(f"label ranges from {label} to {label}: it must be 0 … 9$"):
            aae.decode(trained, z, label=label)
    with refused("has no map"):
        aae.embed(trained, images)
    with refused("algorithm 'aae' has no 'classify'"):
        aae.classify(start(make_spec()), images)


def test_classes_of_the_prior_are_uniform():
    label = np.asarray(aae.sample_prior(make_model(), 0, 20_000).label)
    np.testing.assert_array_equal(aae.sample_prior(make_model(), 0, 20_000, label=-1).label, label)
    counts = np.bincount(label, minlength=10)
    # χ² with 9 degrees of freedom exceeds 27.9 in 0.1 % of draws; the seed is fixed.
    assert ((counts - 2_000) ** 2 / 2_000).sum() < 27.9


def test_heads_of_a_map():
    options = Options(as_map=True, head_distance=3.0)
    state = start(make_model(options=options))
    images = make_dataset()["image"]
    heads = np.asarray(state.params["decoder"]["heads"])
    assert heads.shape == (10, 2)
    wanted = np.asarray(aae.classify(state, images)) @ heads + np.asarray(aae.encode(state, images))
    np.testing.assert_allclose(aae.embed(state, images), wanted, atol=1e-5)
    # The decoder sees the place alone.
    z = np.asarray(aae.encode(state, images))
    moved = z + heads[np.full(20, 1)] - heads[np.full(20, 7)]
    np.testing.assert_allclose(
        aae.decode(state, z, label=1), aae.decode(state, moved, label=7), atol=1e-5
    )


def test_heads_that_are_close_are_pushed_apart():
    places = jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])  # distances 5, 1, √18
    found = semi_supervised.head_closeness(places, 4.5)
    np.testing.assert_allclose(found, 3.5 + 4.5 - np.sqrt(18), rtol=1e-6)
    assert semi_supervised.head_closeness(places, 0.5) == 0
    state = start(make_model(options=Options(as_map=True, head_distance=50.0)))
    after, metrics = aae.train_steps(state, few_labels(), 20)

    def closeness(state):
        return semi_supervised.head_closeness(state.params["decoder"]["heads"], 50.0)

    assert closeness(after) < closeness(state)
    np.testing.assert_allclose(metrics["heads/closeness"][0], closeness(state), rtol=1e-6)


# Clusters: noise, smoothness, information.

CLUSTERS = Options(
    labels=False,
    num_clusters=4,
    style_noise=0.5,
    smoothness=0.3,
    transformations=2.0,
    information=0.5,
)


def test_information_of_a_batch_of_clusters(x64):
    """4 min(H(y), 0.92 ln K) − H(y|x) by hand, and its part in the loss."""
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    mean = [0.4, 0.15, 0.45]
    of_mean = -sum(q * np.log(q) for q in mean)
    assert of_mean < 0.92 * np.log(3)
    of_rows = -sum(q * np.log(q) for row in p for q in row) / 2
    found = semi_supervised.information(jnp.asarray(np.log(p) + [[3.0], [-2.0]]))
    np.testing.assert_allclose(found, 4 * of_mean - of_rows, rtol=1e-12)
    # Two equally large clusters, each sure of its image: more entropy than counts.
    even = semi_supervised.information(jnp.array([[0.0, -2e3], [-2e3, 0.0]]))
    np.testing.assert_allclose(even, 4 * 0.92 * np.log(2), rtol=1e-12)
    # A cluster without an image has log 0, and no part in it.
    sure = semi_supervised.information(jnp.array([[0.0, -2e3], [-2e3, -4e3]]))
    np.testing.assert_allclose(sure, 0.0, atol=1e-12)
    for dtype in (jnp.float32, jnp.float64):  # a probability of 0 has a gradient too
        unused = jnp.array([[0.0, 1.0, -2e3], [1.0, 0.0, -2e3]], dtype)
        assert jnp.isfinite(jax.grad(semi_supervised.information)(unused)).all()

    losses = []
    for weight in (None, 0.5):
        options = dataclasses.replace(CLUSTERS, information=weight)
        state = start(make_model("float64", options=options))
        x = jnp.asarray(few_labels()["image"][:8], jnp.float64) / 255
        prior_sample = aae.sample_prior(state.spec, 0, 8)
        row_keys = keys.row_keys(jax.random.key(1), 8)
        inputs = Inputs(x, x, jnp.full(8, -1), row_keys, prior_sample, step=0)
        losses.append(semi_supervised.smoothness(state.spec, state.params, inputs)[0])
    logits, _ = semi_supervised.infer(state.spec, state.params, x)
    wanted = losses[0].mean() - 0.5 * semi_supervised.information(logits)
    np.testing.assert_allclose(losses[1], wanted, rtol=1e-12)


def test_smoothness_is_the_divergence_in_its_worst_direction(x64):
    options = dataclasses.replace(CLUSTERS, smoothness=1e-2, transformations=None, information=None)
    state, dataset = start(make_model("float64", options=options)), few_labels()
    batch, prior_sample = batch_of(state, dataset, 0)
    x = jnp.asarray(batch["image"], jnp.float64) / 255
    row_keys = keys.row_keys(jax.random.key(1), 8)
    inputs = Inputs(x, x, batch["label"], row_keys, prior_sample, step=0)
    loss, _ = semi_supervised.smoothness(state.spec, state.params, inputs)

    def log_y(x):
        logits, _ = semi_supervised.infer(state.spec, state.params, x)
        return np.asarray(jax.nn.log_softmax(logits))

    here = log_y(x)
    for seed in range(20):
        r = np.random.default_rng(seed).normal(size=(8, x[0].size))
        r *= 1e-2 / np.linalg.norm(r, axis=1, keepdims=True)
        there = log_y(x + r.reshape(x.shape))
        assert (np.exp(here) * (here - there)).sum(axis=1).mean() < loss.mean()


def test_transformations_add_the_divergence_from_other_images(x64):
    """Weighted, with or without smoothness; each row changes by its own key."""
    x = jnp.asarray(few_labels()["image"][:8], jnp.float64) / 255
    row_keys = keys.row_keys(jax.random.key(1), 8)
    losses = {}
    for chosen in ((0.3, None), (0.3, 2.0), (None, 2.0)):
        smoothness, weight = chosen
        options = dataclasses.replace(
            CLUSTERS, smoothness=smoothness, transformations=weight, information=None
        )
        state = start(make_model("float64", options=options))
        assert state.spec.phases[-1].name == "smoothness"
        inputs = Inputs(x, x, jnp.full(8, -1), row_keys, None, step=0)
        losses[chosen] = semi_supervised.smoothness(state.spec, state.params, inputs)[0]
    changed = transformations.random_affine(keys.fold_rows(row_keys, 5), x)
    p, q = (np.asarray(aae.classify(state, np.asarray(images))) for images in (x, changed))
    wanted = 2 * (p * (np.log(p) - np.log(q))).sum(axis=1)
    assert (wanted > 0).all()
    np.testing.assert_allclose(losses[None, 2.0], wanted, rtol=1e-6)
    np.testing.assert_allclose(losses[0.3, 2.0], losses[0.3, None] + wanted, rtol=1e-6)


def test_smoothness_begins_late_beside_labels(x64):
    """Until its first step it changes nothing; then it trains the encoder alone."""
    found = {}
    for first in (None, 2):
        options = Options() if first is None else Options(smoothness=0.5, smoothness_from=first)
        optimizer = {"smoothness": aae.OptimizerSpec(name="sgd", learning_rate=0.1)}
        model = make_model("float64", options=options, optimizer=optimizer)
        state, found[first] = start(model), []
        for step in range(3):
            batch, prior_sample = batch_of(state, few_labels(), step)
            state, metrics = train_step(state, batch, prior_sample)
            found[first].append((state.params, metrics.get("loss/smoothness", 0.0)))

    def difference(step, name):
        """The largest difference of a parameter of a network after a step."""
        without, beside = (found[which][step][0][name] for which in (None, 2))
        apart = jax.tree.map(lambda a, b: float(abs(a - b).max()), without, beside)
        return max(jax.tree.leaves(apart))

    # Two programs may round differently; a step of the encoder moves it by far more.
    for step in (0, 1):
        assert found[2][step][1] == 0
        assert max(difference(step, name) for name in found[None][step][0]) < 1e-12
    assert found[2][2][1] > 0
    changed = {name for name in found[None][2][0] if difference(2, name) > 1e-6}
    assert changed == {"encoder"}


def test_noise_on_styles_changes_only_the_reconstruction(x64):
    found = {}
    for noise in (None, 0.5):
        options = dataclasses.replace(CLUSTERS, style_noise=noise)
        state = start(make_model("float64", options=options))
        x = jnp.asarray(few_labels()["image"][:8], jnp.float64) / 255
        prior_sample = aae.sample_prior(state.spec, 0, 8)
        row_keys = keys.row_keys(jax.random.key(1), 8)
        inputs = Inputs(x, x, jnp.full(8, -1), row_keys, prior_sample, step=0)
        found[noise] = [
            np.asarray(loss(state.spec, state.params, inputs)[0])
            for loss in (semi_supervised.reconstruction, semi_supervised.generator)
        ]
    assert (found[0.5][0] != found[None][0]).all()
    np.testing.assert_array_equal(found[0.5][1], found[None][1])


def test_transformations_replace_smoothness():
    """They begin late, and stand beside the information, without it."""
    late = Options(transformations=1.0, smoothness_from=3)
    optimizer = {"smoothness": aae.OptimizerSpec(name="sgd", learning_rate=0.1)}
    spec = make_model(options=late, optimizer=optimizer)
    for step, is_zero in ((2, True), (3, False)):
        x = jnp.asarray(few_labels()["image"][:8], jnp.float32) / 255
        row_keys = keys.row_keys(jax.random.key(1), 8)
        inputs = Inputs(x, x, jnp.full(8, -1), row_keys, None, step=jnp.asarray(step))
        loss, _ = semi_supervised.smoothness(spec, start(spec).params, inputs)
        assert loss.dtype == jnp.float32
        assert (loss == 0).all() == is_zero
    options = dataclasses.replace(CLUSTERS, smoothness=None)
    assert make_model(options=options).phases[-1].name == "smoothness"
    with refused("information is 0.5, .* and options.transformations None: it is for clusters"):
        make_model(options=dataclasses.replace(options, transformations=None))


def test_only_images_are_transformed():
    with refused("^options.transformations is 2.0 and data.standardise True: pixels that move"):
        aae.create_train_state(
            make_model(options=CLUSTERS, model={"output": "linear"}),
            jax.random.key(0),
            jnp.zeros(SHAPE),
            jnp.ones(SHAPE),
        )
    with refused("^options.transformations is 2.0 and image_shape \\(6,\\): it needs images"):
        make_spec(model=None, algorithm="semi_supervised", image_shape=(6,), options=CLUSTERS)


@pytest.mark.slow
def test_clusters_train_alike_on_devices_in_parts_and_seeds(x64):
    state, dataset = start(make_model("float64", options=CLUSTERS)), few_labels()
    expected, _ = aae.train_steps(state, dataset, 5)
    mesh = parallel.make_mesh(jax.devices()[:4])
    sharded, _ = aae.train_steps(
        jax.device_put(state, parallel.replicated(mesh)),
        parallel.replicate(dataset, mesh),
        5,
        batch_sharding=parallel.batch_sharding(mesh),
    )
    parts, _ = aae.train_steps(aae.train_steps(state, dataset, 2)[0], dataset, 3)
    members = multi_seed.create(state.spec, jax.random.key(0)[None])
    own = {k: v if k == "image" else v[None] for k, v in dataset.items()}
    member = multi_seed.member(multi_seed.train(members, own, 5)[0], 0)
    for found in (sharded, parts, member):
        chex.assert_trees_all_close(found.params, expected.params, rtol=0, atol=1e-9)
    with refused("phase 'smoothness' is one number .* use parallel.runner 'jit'"):
        parallel.pmap_train_steps(state, dataset, 1, jax.devices()[:4])


# Scores.


def test_clusters_are_named_by_the_image_of_highest_probability():
    p = np.array([[0.9, 0.05, 0.05], [0.5, 0.1, 0.4], [0.2, 0.1, 0.7], [0.3, 0.15, 0.55]])
    np.testing.assert_array_equal(measures.name_clusters(p, np.array([3, 1, 4, 1])), [3, 1, 4])
    # In float32 the first probability of the first three rows is 1; the others tell them apart.
    p = np.asarray(jax.nn.softmax(jnp.array([[20.0, 0, 0], [40, 0, 0], [30, 0, 0], [0, 9, 10]])))
    assert (p[:3, 0] == 1).all()
    np.testing.assert_array_equal(measures.name_clusters(p, np.array([2, 7, 5, 8])), [7, 8, 8])


def test_the_error_of_classes_and_of_clusters(trained):
    images = np.asarray(make_dataset()["image"])
    chosen = np.asarray(aae.classify(trained, images)).argmax(axis=1)
    label = chosen.copy()
    label[:5] = (label[:5] + 1) % 10
    label[19] = -1  # unlabelled: it counts neither way
    found = aae.diagnose(trained, {"image": images, "label": label}, 0)
    assert found["classification/error"] == pytest.approx(5 / 19)
    assert found["classification/standard_error"] == pytest.approx(np.sqrt(5 * 14 / 19**3))

    spec = make_model(options=Options(labels=False, num_clusters=4))
    assert [phase.name for phase in spec.phases] == ["reconstruction", "discriminator", "generator"]
    state = start(spec)
    test = {"image": images, "label": np.arange(20) % 10}
    validation = {"image": 255 - images, "label": np.arange(20)[::-1] % 10}
    # Labels of the test images name nothing.
    assert "classification/error" not in aae.diagnose(state, test, 0)
    found = aae.diagnose(state, test, 0, validation)
    p = np.asarray(aae.classify(state, validation["image"]))
    names = validation["label"][p.argmax(axis=0)]
    np.testing.assert_array_equal(found["classification/cluster_names"], names)
    in_cluster = np.asarray(aae.classify(state, images)).argmax(axis=1)
    assert found["classification/error"] == pytest.approx(
        (names[in_cluster] != test["label"]).mean()
    )
    members = [validation["label"][p.argmax(axis=1) == k].tolist() for k in range(4)]
    majority = np.array(
        [
            max(sorted(set(labels)), key=labels.count) if labels else names[k]
            for k, labels in enumerate(members)
        ]
    )
    assert max(map(len, members)) > 2 and not np.array_equal(majority, names)
    assert found["classification/majority_error"] == pytest.approx(
        (majority[in_cluster] != test["label"]).mean()
    )


# Configs and runs.


@pytest.mark.parametrize(
    "module, variant",
    [
        (module, variant)
        for module in (configs, clustering, reduction)
        for variant in module.VARIANTS
    ],
)
def test_configs_build_and_their_rates_fall(module, variant):
    config = module.get_config(variant)
    if variant == "files":
        config.data.path = "images.npz"
    spec = parse_config(config).spec
    assert spec.needs_labelled == (module is not clustering)
    for phase in spec.phases:
        rate = make_schedule(dict(spec.optimizer)[phase.name], spec.train.num_steps)
        assert rate(spec.train.num_steps) <= 0.31 * rate(0), phase.name
    with pytest.raises(ValueError, match="the config's argument is '3'"):
        module.get_config("3")


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"data.num_labelled": 0}, "^no training image has a label"),
        ({"data.num_labelled": 5}, "data.num_labelled is 5: it must be a multiple of the 10"),
        ({"options.num_clusters": 7}, "labels name the 10 classes"),
        (
            {"options.labels": False, "options.num_clusters": 21},
            "num_clusters is 21 .* at least one",
        ),
        ({"options.num_clusters": 0}, "^options.num_clusters is 0"),
        ({"options.labels": False, "options.num_clusters": 1}, "num_clusters is 1: there must"),
        ({"options.head_distance": -1.0}, "^options.head_distance is -1"),
        ({"options.style_noise": -1.0}, "^options.style_noise is -1"),
        (
            {"options.information": 2.0},
            "^options.information is 2.0, options.labels True, .* it is for clusters, beside one of the",
        ),
        (
            {
                "options.labels": False,
                "options.information": 2.0,
                "options.smoothness": 1.0,
                "options.smoothness_from": 9,
                "optimizer.smoothness.name": "sgd",
            },
            "^options.smoothness_from is 9 and options.information 2.0: both begin with the train",
        ),
        ({"options.information": -2.0}, "^options.information is -2.0: it must be"),
        ({"options.smoothness": -2.0}, "^options.smoothness is -2"),
        ({"options.transformations": -2.0}, "^options.transformations is -2"),
        (
            {
                "options.transformations": 2.0,
                "data.standardise": True,
                "model.output": "linear",
            },
            "^options.transformations is 2.0 and data.standardise True: pixels that move need",
        ),
        (
            {"options.smoothness_from": 9},
            "^options.smoothness_from is 9, but options.smoothness is None: set both",
        ),
        (
            {"options.smoothness": 2.0, "options.smoothness_from": -1},
            "^options.smoothness_from is -1: it is a step, and must be 0 or more",
        ),
        (
            {"options.smoothness": 2.0, "options.smoothness_from": 9},
            "^options.smoothness_from is 9 and optimizer.smoothness.name 'adam': .* use 'sgd'",
        ),
        (
            {"options.smoothness": 2.0, "options.smoothness_from": 10**6},
            "^options.smoothness_from is 1000000: it must be below train.num_steps and run.max_steps,",
        ),
        ({"model.label_in_decoder": True}, "^model.label_in_decoder is True"),
        ({"model.posterior": "gaussian"}, "needs 'deterministic'"),
        ({"prior.name": "swiss_roll", "model.code_dim": 2}, "^prior.name is 'swiss_roll'"),
        ({"model.discriminator": "mlp_spread"}, "^model.discriminator is 'mlp_spread'"),
    ],
)
def test_bad_fields_are_one_line_before_anything_is_written(tmp_path, overrides, message):
    config = small_config(algorithm="semi_supervised", **overrides)
    with refused(message):
        experiment.run(config, str(tmp_path / "run"))
    assert not os.path.exists(tmp_path / "run")


def test_a_run_is_scored_drawn_resumed_and_used(tmp_path, capsys, monkeypatch):
    """Two seeds with labels of their own, cut in between; then classes from the command line."""
    from aae_jax import __main__ as command

    def config():
        return small_config(
            algorithm="semi_supervised",
            num_seeds=2,
            **{"data.num_labelled": 20, "prior.std": 1.0},
        )

    workdir = str(tmp_path / "run")
    interrupt(monkeypatch, 5, Killed)
    with pytest.raises(Killed):
        experiment.run(config(), workdir)
    monkeypatch.undo()
    experiment.run(config(), workdir)
    steps = [line["step"] for line in metrics(workdir)]
    assert steps[-1] == STEPS and steps == sorted(set(steps))
    found = results(workdir)
    shown = f"classification error {found['classification/error']:.2%} ± "
    assert shown in capsys.readouterr().out
    for scores in found["by_seed"]:
        assert 0 <= scores["classification/error"] <= 1
    assert os.path.exists(os.path.join(workdir, "figures", "classes.png"))
    with open(os.path.join(workdir, "report.html")) as file:
        page = file.read()
    assert "Classification error" in page and "One class or cluster per row" in page
    state = aae.load_state(workdir, seed=1)
    output = str(tmp_path / "classes.npz")
    command.run(["", "classify", f"--workdir={workdir}", f"--output={output}", "--run_seed=1"])
    with np.load(output) as stored:
        test = data.load(parse_config(config()).data).test
        np.testing.assert_allclose(
            stored["classes"], aae.classify(state, test["image"]), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_array_equal(stored["labels"], test["label"])
        error = (stored["classes"].argmax(axis=1) != stored["labels"]).mean()
    assert found["by_seed"][1]["classification/error"] == pytest.approx(error)
    with open(os.path.join(workdir, "config.json")) as file:
        assert json.load(file)["data"]["num_labelled"] == 20


def test_codes_of_clusters_are_written_without_the_classes_of_the_data(tmp_path):
    """`decode` would take these labels for clusters."""
    state = start(make_model(options=Options(labels=False, num_clusters=4)))
    dataset = make_dataset()
    output = str(tmp_path / "codes.npz")
    rows = commands.Rows(np.asarray(dataset["image"]), "", np.arange(20, dtype=np.int32) % 4)
    commands.encode(state, rows, output)
    commands.classify(state, rows, str(tmp_path / "classes.npz"))
    with np.load(output) as stored, np.load(tmp_path / "classes.npz") as of_classes:
        assert stored.files == ["codes"]
        assert of_classes.files == ["classes", "labels"]
    codes = commands.rows_of_file(output, "codes")
    with refused("the decoder takes a label: give --label"):
        commands.decode(state, codes, str(tmp_path / "images.npz"))
    with refused("label ranges from -1 to -1: it must be 0 … 3$"):
        commands.decode(state, commands.for_all(codes, -1, None), str(tmp_path / "images.npz"))


@pytest.mark.parametrize(
    "options, names",
    [
        (Options(), {"classes.png"}),
        (Options(labels=False, num_clusters=3), {"classes.png"}),
        (Options(as_map=True), {"classes.png", "map.png"}),
    ],
)
def test_the_figures_of_a_model(options, names, tmp_path):
    state = start(make_model(options=options))
    drawn = figures.drawings(state.spec)
    assert {"classes.png", "map.png"} & drawn.keys() == names
    dataset = make_dataset()
    test = {"image": np.asarray(dataset["image"]), "label": np.asarray(dataset["label"])}
    given = figures.Given(
        test["image"], test, [{"step": 1, "loss/supervised": 1.0}], jax.random.key(0)
    )
    figures.draw_all(state, given, str(tmp_path))
    assert set(os.listdir(tmp_path)) == drawn.keys()


def test_networks_are_drawn_from_the_same_keys_as_ever():
    """Encoder 0 and decoder 1, as in every algorithm."""
    built = networks.build(make_model())
    assert [built[name].index for name in built] == [0, 1, 3, 4]
