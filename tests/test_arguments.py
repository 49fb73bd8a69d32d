"""Arguments of the library's functions: every form is taken, or refused in one line."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aae_jax as aae
from tests.small import MIXTURE, SHAPE, inputs_of_step, make_dataset, make_spec, refused, start

IMAGES = np.asarray(make_dataset()["image"][:4])


class Tensor:
    """Another library's tensor, as NumPy sees it."""

    def __init__(self, values, on_cpu=True):
        self.values, self.on_cpu = values, on_cpu

    def __array__(self, dtype=None, copy=None):
        if not self.on_cpu:
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        return self.values if dtype is None else self.values.astype(dtype)


@functools.cache
def plain():
    return start(make_spec())


@functools.cache
def labelled():
    return start(make_spec(model={"label_in_decoder": True}, prior=MIXTURE))


def step(state, images, **batch):
    prior_sample = aae.sample_prior(state.spec, 0, len(IMAGES))
    return aae.train_step(state, {"image": images, **batch}, prior_sample)


# Every function that takes images.
TAKES_IMAGES = {
    "encode": lambda images: aae.encode(plain(), images),
    "reconstruct": lambda images: aae.reconstruct(plain(), images),
    "train_step": lambda images: step(plain(), images)[1]["loss/reconstruction"],
}
each_function = pytest.mark.parametrize("take", TAKES_IMAGES.values(), ids=TAKES_IMAGES)


@each_function
def test_images_of_every_kind_are_the_same_images(take):
    expected = take(IMAGES)
    units = IMAGES / np.float32(255)
    for images in (units, units.tolist(), jnp.asarray(units), Tensor(units), Tensor(IMAGES)):
        np.testing.assert_allclose(take(images), expected, rtol=1e-5, atol=1e-5)
    binary = IMAGES > 100
    np.testing.assert_array_equal(take(binary), take(binary.astype(np.float32)))


BAD_IMAGES = {
    "0 … 255 as floats": (
        IMAGES.astype(np.float32),
        "images range from 4 to 248: floats must lie in",
    ),
    "negative": (IMAGES / 255 - 0.5, "images range from -0.4843 to"),
    "NaN": (
        np.where(IMAGES == IMAGES.max(), np.nan, IMAGES / 255),
        "images contain NaN or inf",
    ),
    "integers": (IMAGES.astype(np.int32), "images are int32: give uint8, or floats"),
    "channels first": (
        IMAGES.transpose(0, 3, 1, 2),
        r"\(4, 1, 3, 4\).*\[B, 3, 4, 1\], with the axes in this order",
    ),
    "one alone": (IMAGES[0], r"\(3, 4, 1\).*\[B, 3, 4, 1\]; for a single one, give images\[None\]"),
    "flat": (IMAGES.reshape(4, -1), r"images has shape \(4, 12\): it must be \[B, 3, 4, 1\]"),
    "words": ("a path.png", "images is a str: it must be an array of numbers"),
    "None": (None, "images is a NoneType: it must be an array of numbers"),
    "ragged": ([[1.0], [1.0, 2.0]], "images is a list: it must be an array of numbers"),
    "on another device": (Tensor(IMAGES, on_cpu=False), "images is a Tensor.*cuda:0"),
}


@each_function
@pytest.mark.parametrize("bad", BAD_IMAGES)
def test_bad_images_are_one_line(take, bad):
    images, match = BAD_IMAGES[bad]
    with refused(match):
        take(images)


def test_what_rounds_beyond_1_is_taken_and_traced_values_are_not_looked_at():
    images = np.ones((2, *SHAPE), np.float32)
    assert np.isfinite(aae.encode(plain(), images + 1e-4)).all()
    assert np.isfinite(jax.jit(aae.encode)(plain(), 255 * images)).all()


# (key) → something random.
TAKES_KEY = {
    "encode": lambda key: aae.encode(
        start(make_spec(model={"posterior": "gaussian"})), IMAGES, key
    ),
    "reconstruct": lambda key: aae.reconstruct(
        start(make_spec(model={"posterior": "gaussian"})), IMAGES, key=key
    ),
    "generate": lambda key: aae.generate(plain(), key, 3),
    "sampler": lambda key: aae.sampler(plain())(key, 3),
    "sampler of labels": lambda key: aae.sampler(labelled())(key, 3),
    "sampler of conditions": lambda key: aae.sampler(
        start(conditional_spec()), conditions=with_conditions()["condition"]
    )(key, 3),
    "sample_prior": lambda key: aae.sample_prior(plain().spec, key, 3).z,
    "create_train_state": lambda key: aae.create_train_state(plain().spec, key).params["decoder"][
        "Dense_0"
    ]["kernel"],
}


@pytest.mark.parametrize("take", TAKES_KEY.values(), ids=TAKES_KEY)
def test_a_key_may_be_a_seed_or_of_the_old_kind(take):
    expected = take(jax.random.key(3))
    for key in (3, np.int64(3), jax.random.PRNGKey(3), np.asarray(jax.random.PRNGKey(3))):
        np.testing.assert_array_equal(take(key), expected)
    for bad, shown in (
        ("3", "'3'"),
        (0.5, "0.5"),
        (True, "True"),
        (np.zeros(3), r"of shape \(3,\)"),
    ):
        with refused(f"key is {shown}: it must be a PRNG key"):
            take(bad)
    with refused(r"key is of shape \(4,\): it must be a PRNG key"):
        take(jax.random.split(jax.random.key(3), 4))


TAKES_LABEL = {
    "generate": lambda label: aae.generate(labelled(), 0, 4, label),
    "decode": lambda label: aae.decode(labelled(), np.zeros((4, 2)), label),
    "reconstruct": lambda label: aae.reconstruct(labelled(), IMAGES, label),
    "train_step": lambda label: step(labelled(), IMAGES, label=label)[1]["loss/reconstruction"],
    "sample_prior": lambda label: aae.sample_prior(labelled().spec, 0, 4, label).z,
}


@pytest.mark.parametrize("take", TAKES_LABEL.values(), ids=TAKES_LABEL)
def test_labels_are_classes(take):
    expected = take(np.array([7, 7, 7, 7], np.int32))
    for label in ([7, 7, 7, 7], np.full(4, 7, np.uint8), Tensor(np.full(4, 7))):
        np.testing.assert_array_equal(take(label), expected)
    for label, match in (
        ([7, 7, 7, 12], "label ranges from 7 to 12: it must be 0 … 9"),
        ([7, 7, 7, -2], "label ranges from -2 to 7"),
        ([7, 7, 7], r"label has shape \(3,\): it must be a scalar, \(4,\)"),
        ([7.0, 7.0, 7.0, 7.0], "label is float.*must be integers"),
        (["7", "7", "7", "7"], "label is a list: it must be an array of numbers"),
    ):
        with refused(match):
            take(label)


def test_one_label_is_that_of_all():
    many = aae.generate(labelled(), 0, 4, [2, 2, 2, 2])
    np.testing.assert_array_equal(aae.generate(labelled(), 0, 4, 2), many)


def test_codes_and_numbers_are_checked():
    for z, match in (
        (np.zeros((4, 3)), r"z has shape \(4, 3\): it must be \[B, 2\]"),
        (np.zeros(2), r"z has shape \(2,\): it must be \[B, 2\]; for a single one, give z\[None\]"),
    ):
        with refused(match):
            aae.decode(plain(), z)
    for number, match in ((0, "num_samples is 0"), (2.0, "num_samples is 2.0"), ("3", "'3'")):
        with refused(match):
            aae.generate(plain(), 0, number)


def test_a_batch_without_labels_is_unlabelled():
    state = labelled()
    for images in (IMAGES, IMAGES / 255):
        found = step(state, images)[1]["loss/reconstruction"]
        expected = step(state, images, label=np.full(4, -1))[1]["loss/reconstruction"]
        np.testing.assert_array_equal(found, expected)
    prior_sample = aae.sample_prior(state.spec, 0, 4)
    for batch, match in (
        (IMAGES, "batch is a ndarray: it must be a dict with 'image'"),
        ((IMAGES, np.zeros(4, int)), "batch is a tuple"),
        ({"images": IMAGES}, "batch is a dict with 'images': it must be a dict with 'image'"),
    ):
        with refused(match):
            aae.train_step(state, batch, prior_sample)
    dataset = {"image": make_dataset()["image"]}
    unlabelled = {**dataset, "label": np.full(20, -1)}
    for left, right in zip(
        jax.tree.leaves(aae.train_steps(state, dataset, 2)[0].params),
        jax.tree.leaves(aae.train_steps(state, unlabelled, 2)[0].params),
        strict=True,
    ):  # two programs of the same numbers
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-7)


# Examples that are no images, and conditions.


def vectors_spec(dtype="float32", **model):
    return make_spec(dtype, model={"output": "linear", **model}, image_shape=(5,))


@functools.cache
def table():
    """Numbers on different scales: counts, prices, fractions."""
    random = np.random.default_rng(0)
    scale = np.array([1e3, 50.0, 1.0, 1e-3, 10.0])
    return (random.normal(size=(40, 5)) * scale + 3 * scale).astype(np.float32)


def test_vectors_of_any_range_are_standardised_and_come_back_in_their_units():
    x = table()
    mean, std = x.mean(axis=0), x.std(axis=0)
    state = aae.create_train_state(vectors_spec(), 0, mean, std)
    # The networks see what a model of standardised numbers would see.
    plain_state = aae.create_train_state(vectors_spec(), 0, np.zeros(5), np.full(5, 1.5))
    z = aae.encode(state, x)
    np.testing.assert_allclose(
        z, aae.encode(plain_state, 1.5 * (x - mean) / std), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        aae.decode(state, z), aae.decode(plain_state, z) / 1.5 * std + mean, rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(
        aae.encode(state, x.round().astype(np.int32)), aae.encode(state, x.round())
    )
    with refused("images contain NaN or inf"):
        aae.encode(state, np.where(x == x.max(), np.inf, x))


def test_pixels_that_are_standardised_must_still_be_pixels():
    images = IMAGES / np.float32(255)
    spec = make_spec(model={"output": "linear"})
    std = images.std(axis=0)
    std[0, 0] = 1  # of a pixel that never changes
    state = aae.create_train_state(spec, 0, images.mean(axis=0), std)
    assert aae.encode(state, images).shape == (4, 2)
    with refused("images range from .* to 248"):
        aae.encode(state, 255 * images)


def conditional_spec(dtype="float32", **model):
    spec = vectors_spec(dtype)
    fields = {"condition_in_decoder": True, **model}
    return dataclasses.replace(
        spec, condition_dim=3, model=dataclasses.replace(spec.model, **fields)
    )


def with_conditions():
    random = np.random.default_rng(1)
    x = random.uniform(size=(20, 5)).astype(np.float32)
    return {"image": x, "condition": random.normal(size=(20, 3)).astype(np.float32)}


def by_hand(params, *inputs):
    """The perceptron of one hidden layer, in NumPy."""
    x = np.concatenate(inputs, axis=1)
    first, last = (params[name] for name in ("Dense_0", "Dense_1"))
    hidden = np.maximum(x @ np.asarray(first["kernel"]) + np.asarray(first["bias"]), 0)
    return hidden @ np.asarray(last["kernel"]) + np.asarray(last["bias"])


def test_conditions_reach_decoder_and_discriminator_where_a_label_would():
    spec = conditional_spec(condition_in_discriminator=True)
    state, dataset = start(spec), with_conditions()
    z, condition = (
        np.float32(np.random.default_rng(2).normal(size=(4, 2))),
        dataset["condition"][:4],
    )
    expected = by_hand(state.params["decoder"], z, condition)
    np.testing.assert_allclose(
        aae.decode(state, z, condition=condition), expected, rtol=1e-4, atol=1e-5
    )
    one = aae.decode(state, z, condition=condition[0])
    expected = by_hand(state.params["decoder"], z, np.tile(condition[:1], (4, 1)))
    np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)

    # The discriminator's loss at the first step, from codes of the updated encoder.
    batch = {name: values[:8] for name, values in dataset.items()}
    prior_sample = aae.sample_prior(spec, 0, 8)
    after, metrics = jax.jit(aae.train_step)(state, batch, prior_sample)
    still = {**after.params, "discriminator": state.params["discriminator"]}
    # The generator moved the encoder after the discriminator saw its codes: take them without.
    encoder = _encoder_after_reconstruction(state, batch)
    codes = by_hand(encoder, batch["image"])
    softplus = lambda x: np.logaddexp(0, x)  # noqa: E731
    real = by_hand(still["discriminator"], np.asarray(prior_sample.z), batch["condition"])
    fake = by_hand(still["discriminator"], codes, batch["condition"])
    expected = (softplus(-real) + softplus(fake)).mean()
    np.testing.assert_allclose(metrics["loss/discriminator"], expected, rtol=1e-4)


def _encoder_after_reconstruction(state, batch):
    """Adam's first step is the rate times the gradient's sign, nearly: taken from optax itself."""
    import optax

    def loss(trained):
        params = {**state.params, **trained}
        z = by_hand_jax(params["encoder"], batch["image"])
        x_hat = by_hand_jax(params["decoder"], jnp.concatenate([z, batch["condition"]], axis=1))
        return 0.5 * ((x_hat - batch["image"]) ** 2).sum(axis=1).mean()

    trained = {name: state.params[name] for name in ("encoder", "decoder")}
    updates, _ = optax.adam(1e-3).update(jax.grad(loss)(trained), optax.adam(1e-3).init(trained))
    return optax.apply_updates(trained, updates)["encoder"]


def by_hand_jax(params, x):
    hidden = jax.nn.relu(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"])
    return hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


@pytest.mark.parametrize("algorithm", ["aae", "vae"])
def test_conditional_models_train_and_sample(algorithm):
    fields = (
        {} if algorithm == "aae" else {"posterior": "gaussian", "reconstruction": "squared_error"}
    )
    spec = dataclasses.replace(
        conditional_spec(**fields), algorithm=algorithm, optimizer=None, options=None
    )
    state, metrics = aae.train_steps(start(spec), with_conditions(), 5)
    assert all(np.isfinite(values).all() for values in metrics.values())
    conditions = with_conditions()["condition"]
    samples = aae.generate(state, 0, 4, condition=conditions[:4])
    assert samples.shape == (4, 5)
    drawn = aae.sampler(state, conditions=conditions)(jax.random.key(0), 50)
    assert drawn.shape == (50, 5)
    # Each sample takes one of the conditions: without them the same codes give other samples.
    z = aae.sample_prior(spec, jax.random.key(0), 50).z
    every = np.stack([aae.decode(state, z, condition=c) for c in conditions])
    distance = np.abs(every - np.asarray(drawn)).max(axis=2)
    np.testing.assert_allclose(distance.min(axis=0), 0, atol=1e-5)
    assert len(set(distance.argmin(axis=0))) > 10


def test_conditions_that_do_not_fit_are_one_line():
    state, dataset = start(conditional_spec()), with_conditions()
    z = np.zeros((4, 2))
    bad_value = np.full(3, np.nan)
    for condition, match in (
        (None, r"condition is None: the model takes conditions \[N, 3\]"),
        (np.zeros((4, 2)), r"condition has shape \(4, 2\): it must be \(4, 3\), or \(3,\)"),
        (bad_value, "condition contains NaN or inf"),
    ):
        with refused(match):
            aae.decode(state, z, condition=condition)
        with refused(match):
            aae.generate(state, 0, 4, condition=condition)
    with refused("condition is None"):
        aae.train_steps(state, {"image": dataset["image"]}, 1)
    with refused("condition is None"):
        aae.sampler(state)
    with refused("model.condition_in_decoder is False"):
        aae.decode(plain(), z, condition=np.zeros(3))
    for fields in ({"condition_dim": 3}, {"condition_dim": -1}):
        with refused("condition_dim is"):
            dataclasses.replace(make_spec(), **fields)
    with refused("condition_dim is 0, model.condition_in_decoder True"):
        make_spec(model={"condition_in_decoder": True})


def test_a_condition_may_be_a_list():
    state, z, condition = start(conditional_spec()), np.zeros((4, 2)), [0.5, -1.0, 2.0]
    expected = aae.decode(state, z, condition=condition)
    found = aae.decoder_of(state, condition=condition)
    np.testing.assert_allclose(found(z), expected, rtol=1e-6)
    given = aae.annealed_arguments(state, 4, condition=condition)
    np.testing.assert_allclose(jax.jit(given["decoder"])(z), expected, rtol=1e-6)
    spec = aae.AnnealedSpec(num_chains=2, num_temperatures=3, num_leapfrog=1)
    estimate = aae.annealed.log_likelihood(x=expected, key=0, sigma=0.3, spec=spec, **given)
    assert np.isfinite(estimate.log_likelihood).all()


def test_conv_refuses_what_is_no_image():
    with refused(r"model.encoder is 'conv'.*\(5,\).*use 'mlp'|image_shape is \(5,\)"):
        start(vectors_spec(encoder="conv"))


@pytest.mark.slow
def test_a_state_takes_conditions_under_every_runner(x64):
    """One answer of the plain step, the scan, a mesh and pmap."""
    spec, dataset = conditional_spec("float64", condition_in_discriminator=True), with_conditions()
    first = aae.create_train_state(spec, 0)
    labelled = {**dataset, "label": jnp.full(20, -1)}
    batches = [inputs_of_step(first, labelled, index) for index in range(3)]
    expected = first
    for batch, prior_sample in batches:
        expected, _ = jax.jit(aae.train_step)(expected, batch, prior_sample)
    found = {"scan": aae.train_steps(first, dataset, 3)[0], "pmap": first}
    for batch, prior_sample in batches:
        found["pmap"], _ = aae.pmap_train_step(
            found["pmap"], batch, prior_sample, jax.devices()[:4]
        )
    mesh = aae.make_mesh()
    from aae_jax import parallel

    sharding = parallel.batch_sharding(mesh)
    on_mesh = jax.device_put(first, parallel.replicated(mesh))
    found["mesh"] = aae.train_steps(on_mesh, dataset, 3, batch_sharding=sharding)[0]
    for state in found.values():
        for left, right in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params)):
            np.testing.assert_allclose(left, right, rtol=0, atol=1e-9)


def test_numbers_about_1_of_a_table_are_no_pixels():
    """Their mean and variance could be those of pixels."""
    x = np.random.default_rng(0).normal(0.5, 0.25, (400, 5)).astype(np.float32)
    assert x.min() < 0 and x.max() > 1
    state = aae.create_train_state(vectors_spec(), 0, x.mean(axis=0), x.std(axis=0))
    assert np.isfinite(aae.encode(state, x)).all()
    with refused("images range from .* to [23].*: floats must lie in"):
        aae.encode(state, 255 * x)


WRONG_KINDS = {
    "a state": (
        lambda: aae.encode("x", IMAGES),
        "state is a str: it must be an aae_jax.TrainState",
    ),
    "a state to sample": (lambda: aae.sampler("x"), "state is a str"),
    "a spec": (lambda: aae.create_train_state("x", 0), "spec is a str: it must be an aae_jax.Spec"),
    "a prior sample": (
        lambda: aae.train_step(plain(), {"image": IMAGES}, np.zeros((4, 2))),
        "prior_sample is a ndarray: it must be a PriorSample",
    ),
    "a data set": (lambda: aae.train_steps(plain(), [IMAGES], 1), "dataset is a list: it must be"),
    "a data set of images": (
        lambda: aae.train_steps(plain(), IMAGES, 1),
        "dataset is a .*Tracer: it must be",
    ),
    "a number of codes": (lambda: aae.sample_prior(plain().spec, 0, 4.0), "batch_size is 4.0"),
    "conditions": (
        lambda: aae.sampler(start(conditional_spec()), conditions=5),
        r"conditions have shape \(\): they must be \[M, condition_dim\]",
    ),
    "codes of NaN": (lambda: aae.decode(plain(), np.full((1, 2), np.nan)), "z contain NaN or inf"),
    "soft classes": (
        lambda: aae.decode(labelled(), np.zeros((1, 2)), np.full((1, 10), -1.0)),
        "label .N, K. has negative values",
    ),
    "a workdir": (lambda: aae.load_state(None), "workdir is None: it must be a path"),
    "a file for a workdir": (
        lambda: aae.load_state(__file__),
        "no checkpoint in .*workdir of a run",
    ),
    "images to diagnose": (
        lambda: aae.diagnose(plain(), {"image": IMAGES.astype(np.float32)}, 0),
        "images range from 4 to 248",
    ),
    "no images to diagnose": (
        lambda: aae.diagnose(plain(), {"image": IMAGES[:0]}, 0),
        r"^images have shape \(0, .*: to diagnose a model takes at least one",
    ),
    "images to score by a model": (
        lambda: aae.evaluate(
            aae.sampler(plain()),
            [({"image": IMAGES.astype(np.float32)}, {"image": IMAGES})],
            aae.EvaluationSpec(10, num_validation=None, sigmas=(0.2,)),
            0,
        ),
        "images range from 4 to 248",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_KINDS)
def test_arguments_of_a_wrong_kind_are_one_line(wrong):
    call, match = WRONG_KINDS[wrong]
    with refused(match):
        call()


def test_diagnose_takes_a_seed_and_images_without_labels():
    found = aae.diagnose(plain(), {"image": IMAGES}, 0)
    expected = aae.diagnose(plain(), {"image": IMAGES, "label": np.full(4, -1)}, jax.random.key(0))
    assert found == expected


def test_one_hot_integers_are_soft_classes():
    one_hot = np.eye(10, dtype=int)[[7, 7, 7, 7]]
    expected = aae.decode(labelled(), np.zeros((4, 2)), [7, 7, 7, 7])
    for label in (one_hot, [[7], [7], [7], [7]]):
        np.testing.assert_allclose(aae.decode(labelled(), np.zeros((4, 2)), label), expected)


def test_a_column_of_labels_of_one_class_is_labels():
    state = start(dataclasses.replace(labelled().spec, num_classes=1))
    z = np.ones((2, 2))
    found = aae.decode(state, z, np.zeros((2, 1), int))
    np.testing.assert_array_equal(found, aae.decode(state, z, [0, 0]))
    assert (found != aae.decode(state, z, -1)).any()


def test_counts_are_measured_as_floats_are():
    counts = np.random.default_rng(0).poisson(30, (40, 5))
    state = aae.create_train_state(vectors_spec(), 0, counts.mean(axis=0), counts.std(axis=0))
    floats = counts.astype(np.float32)
    assert aae.diagnose(state, {"image": counts}, 0) == aae.diagnose(state, {"image": floats}, 0)
    for found, expected in zip(aae.score(state, counts), aae.score(state, floats), strict=True):
        np.testing.assert_array_equal(found, expected)
    with refused("condition is None: the model takes conditions"):
        aae.diagnose(start(conditional_spec()), {"image": np.zeros((4, 5), np.float32)}, 0)


# -- In a user's own jitted function ---------------------------------------------------------------


@pytest.mark.parametrize("label", [3, [0, 1, 2, 3], np.eye(10, dtype=np.float32)[:4]])
def test_a_label_that_a_jitted_function_holds_is_checked_when_it_is_traced(label):
    """It is known there, and computing with it must not be traced."""
    state, z = labelled(), jnp.ones((4, 2))
    label = jnp.asarray(label)
    found = jax.jit(lambda z: aae.decode(state, z, label))(z)
    np.testing.assert_allclose(found, aae.decode(state, z, label), rtol=1e-5, atol=1e-6)
    wrong = label - 12
    with refused("label"):
        jax.jit(lambda z: aae.decode(state, z, wrong))(z)


def test_codes_and_images_that_a_jitted_function_holds():
    state = plain()
    z, images = jnp.ones((4, 2)), jnp.asarray(IMAGES / 255, jnp.float32)
    found = jax.jit(lambda scale: scale * aae.decode(state, z))(1.0)
    np.testing.assert_allclose(found, aae.decode(state, z), rtol=1e-5, atol=1e-6)
    found = jax.jit(lambda scale: scale * aae.encode(state, images))(1.0)
    np.testing.assert_allclose(found, aae.encode(state, images), rtol=1e-4, atol=1e-5)
    with refused("images range from"):
        outside = 3 * images
        jax.jit(lambda scale: scale * aae.encode(state, outside))(1.0)
