"""Samplers by Markov chains: their steps, their starts, their options, and many devices."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import parzen_window
from runs import results
from small import SHAPE, make_dataset, make_spec, refused, start

import aae_jax as aae
from aae_jax import evaluation, experiment, figures, parallel
from aae_jax.algorithms import chains, contractive, dbn, gsn
from aae_jax.train_state import chain_starts
from experiments import table1

SHORT = {"burn_in": 3, "spacing": 2, "num_chains": 4}
OPTIONS = {
    "cae": contractive.Options(hidden=(5, 4), **SHORT),
    "stacked_cae": contractive.Options(hidden=(5, 4), **SHORT),
    "rbm": dbn.Options(hidden=(5, 4), gibbs_steps=2, **SHORT),
    "dbn": dbn.Options(hidden=(5, 4), gibbs_steps=2, **SHORT),
    "gsn": gsn.Options(hidden=(5, 4), walkback=2, **SHORT),
}
ALGORITHMS = sorted(OPTIONS)


def make_chains(name, dtype="float32", **fields):
    return make_spec(dtype, algorithm=name, options=OPTIONS[name], **fields)


def test_samples_are_taken_after_the_burn_in_and_every_spacing():
    """A chain that counts its steps: 3 chains, 7 samples, the first after 5 steps, then every 4."""
    options = chains.ChainOptions(burn_in=5, spacing=4, num_chains=3)
    begin = jnp.array([[0.0], [100.0], [200.0]])
    found = chains.run(options, jax.random.key(0), 7, begin, lambda key, x: (x + 1, x + 1))
    assert found[:, 0].tolist() == [5, 105, 205, 9, 109, 209, 13]


def test_every_step_draws_anew():
    def step(key, x):
        return x, jax.random.uniform(key, (2, 1))

    options = chains.ChainOptions(burn_in=1, spacing=1, num_chains=2)
    found = chains.run(options, jax.random.key(0), 10, jnp.zeros((2, 1)), step)
    assert len(np.unique(found)) == 10


def test_chains_begin_at_rows_of_the_images_or_at_noise():
    spec, key = make_chains("cae"), jax.random.key(0)
    images = jnp.arange(3.0)[:, None, None, None] * jnp.ones(SHAPE)
    found = chains.start_images(spec, key, 1_000, images)
    assert found.shape == (4, 12)  # as many as there are chains
    assert chains.start_images(spec, key, 2, images).shape == (2, 12)
    rows = {int(chains.start_images(spec, k, 1, images)[0, 0]) for k in jax.random.split(key, 40)}
    assert rows == {0, 1, 2}
    noise = chains.start_images(spec, key, 1_000, None)
    assert noise.shape == (4, 12) and ((0 <= noise) & (noise < 1)).all() and noise.std() > 0.2


@pytest.mark.parametrize("name", ALGORITHMS)
def test_samples_are_means_that_follow_from_the_key(name):
    state, images = start(make_chains(name)), make_dataset()["image"]
    draw = jax.jit(aae.generate, static_argnums=2)
    samples = draw(state, jax.random.key(0), 10, start=images)
    assert samples.shape == (10, *SHAPE)
    assert ((0 < samples) & (samples < 1)).all()  # no binary draws
    np.testing.assert_array_equal(samples, draw(state, jax.random.key(0), 10, start=images))
    assert (samples != draw(state, jax.random.key(1), 10, start=images)).any()
    # After one step chains remember where they began: machines with weights that aren't tiny.
    short = dataclasses.replace(OPTIONS[name], burn_in=1)
    state = start(make_spec(algorithm=name, options=short))
    scale = 300 if "rbm_1" in state.params else 1
    state = state.replace(params=jax.tree.map(lambda leaf: scale * leaf, state.params))
    samples, of_noise = (draw(state, jax.random.key(0), 4, start=s) for s in (images, None))
    assert (samples != of_noise).any()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_runs_give_training_images_to_chains_and_to_no_other_model(name):
    images = np.zeros((10_001, *SHAPE), np.uint8)
    assert len(chain_starts(start(make_chains(name)), images)) == 10_000
    assert len(chain_starts(start(make_chains(name)), images[:7])) == 7
    assert chain_starts(start(make_spec()), images) is None


@pytest.mark.parametrize("name", ALGORITHMS)
def test_scores_do_not_depend_on_the_number_of_devices(name):
    """3,000 samples: chunk i has chains of its own, on whichever device; NumPy scores them too."""
    state, dataset = start(make_chains(name)), make_dataset()
    sampler = aae.sampler(state, dataset["image"])
    mesh = parallel.make_mesh()
    assert mesh.size == 8
    key, sigmas = jax.random.key(0), (0.2, 0.4)
    one, eight = (
        evaluation.log_likelihoods(sampler, dataset["image"], key, 3_000, sigmas, "test", devices)
        for devices in (None, mesh)
    )
    draw = jax.jit(lambda key: sampler(key, 1_000))
    samples = np.concatenate([draw(jax.random.fold_in(key, i)) for i in range(3)])
    x = np.asarray(dataset["image"], np.float64).reshape(20, -1) / 255
    for index, sigma in enumerate(sigmas):
        expected = parzen_window(x, samples, sigma)
        # float32: squared distances of at most 12, over 2σ² = 0.08, to 2⁻²² of themselves.
        np.testing.assert_allclose(one[index], expected, atol=12 / 0.08 * 2**-18)
        np.testing.assert_allclose(eight[index], expected, atol=12 / 0.08 * 2**-18)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_trainings_are_the_same_on_one_device_a_mesh_and_under_pmap(x64, name):
    """Every row of a batch draws from keys of its own."""
    state = start(make_chains(name, "float64"))
    expected, expected_metrics = aae.train_steps(state, make_dataset(), 10)
    mesh = parallel.make_mesh()
    there, dataset = jax.device_put((state, make_dataset()), parallel.replicated(mesh))
    others = [aae.train_steps(there, dataset, 10, batch_sharding=parallel.batch_sharding(mesh))]
    if name not in ("rbm", "dbn"):  # whose chains belong to the whole batch
        others.append(parallel.pmap_train_steps(state, make_dataset(), 10))
    for found, metrics in others:
        chex.assert_trees_all_close(found.params, expected.params, rtol=0, atol=1e-9)
        chex.assert_trees_all_close(metrics, expected_metrics, rtol=0, atol=1e-9)
    for network in state.spec.algorithm.starts_from:
        chex.assert_trees_all_equal(expected.params[network], state.params[network])
    trained = state.spec.algorithm.phases[-1].trains[0]
    for path, leaf in jax.tree.leaves_with_path(expected.params[trained]):
        before = dict(jax.tree.leaves_with_path(state.params[trained]))[path]
        assert (leaf != before).any(), path


# Options and refusals.


@pytest.mark.parametrize("cls", [contractive.Options, dbn.Options, gsn.Options])
@pytest.mark.parametrize("field", ["burn_in", "spacing", "num_chains"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_a_chain_without_steps_is_refused(cls, field, value):
    with refused(f"^options.{field} is .*: it must be (positive|an integer)$"):
        cls(**{field: value})


@pytest.mark.parametrize(
    "cls, fields, match",
    [
        (contractive.Options, {"hidden": (5,)}, r"^options.hidden is \(5,\): .* of 2 layers$"),
        (contractive.Options, {"hidden": (5, 0)}, r"^options.hidden is \(5, 0\): .* positive$"),
        (contractive.Options, {"contraction": -0.1}, "^options.contraction is -0.1: "),
        (contractive.Options, {"contraction": float("nan")}, "^options.contraction is nan: "),
        (contractive.Options, {"noise": 0.0}, "^options.noise is 0.0: it must be positive$"),
        (dbn.Options, {"hidden": (5, 4, 3)}, r"^options.hidden is \(5, 4, 3\): .* of 2 layers$"),
        (dbn.Options, {"gibbs_steps": 0}, "^options.gibbs_steps is 0: it must be positive$"),
        (gsn.Options, {"hidden": ()}, r"^options.hidden is \(\): .* of 1 layers or more$"),
        (gsn.Options, {"walkback": 0}, "^options.walkback is 0: it must be positive$"),
        (gsn.Options, {"corruption": 1.0}, "^options.corruption is 1.0: .* below 1$"),
        (gsn.Options, {"hidden_noise": -2.0}, "^options.hidden_noise is -2.0: "),
    ],
)
def test_options_that_make_no_sense_are_refused(cls, fields, match):
    with refused(match):
        cls(**fields)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(
    "fields, match",
    [
        ({"model": {"label_in_decoder": True}}, "^model.label_in_decoder is True: .* no labels$"),
        ({"model": {"label_in_discriminator": True}}, "^model.label_in_discriminator is True"),
        ({"model": {"output": "linear"}}, "^model.output is 'linear': .* needs 'sigmoid'"),
        ({"input_noise": 0.3}, "^train.input_noise is 0.3: .* takes none$"),
        ({"image_shape": (3_000, 3_000, 48)}, "than 2.31 parameters$"),
    ],
)
def test_what_these_models_have_no_use_for_is_refused(name, fields, match):
    with refused(match):
        make_chains(name, **fields)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_there_are_no_labels_and_no_codes(name):
    state = start(make_chains(name))
    with refused(f"^a label is given, but algorithm '{name}' takes none$"):
        aae.generate(state, jax.random.key(0), 2, 1)
    with refused(f"^algorithm '{name}' has no 'encode'$"):
        aae.encode(state, make_dataset()["image"])


# Runs.


def small_row(row):
    """A row of Table 1 on the digits, a few steps of each part, two seeds."""
    config = table1.get_config(row)
    config.data.name, config.data.image_shape = "digits", (8, 8, 1)
    config.num_seeds = 2
    config.run.max_steps = 3
    config.parallel.num_devices = 2
    config.evaluation.num_samples = config.evaluation.num_validation = 100
    config.options.hidden = (8, 6)
    config.options.burn_in = 2
    config.options.spacing = 1
    return config


@pytest.mark.parametrize(
    "row, part, network",
    [
        pytest.param("cae", "cae_layer", "layer_1", marks=pytest.mark.slow),
        pytest.param("dbn", "rbm", "rbm_1", marks=pytest.mark.slow),
        pytest.param("gsn", "", "", marks=pytest.mark.slow),
    ],
)
def test_a_row_of_two_seeds_is_trained_in_stages_and_scored(
    tmp_path, monkeypatch, row, part, network
):
    starts = []
    original = evaluation.evaluate

    def evaluate(sampler, *arguments):
        starts.append(sampler.args[1])
        return original(sampler, *arguments)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    workdir = tmp_path / f"table1-{row}"
    config = small_row(row)
    if part:  # of the same widths as the whole
        path = tmp_path / "part.py"
        path.write_text(
            "from test_chains import small_row\n\n\ndef get_config():\n"
            f"    return small_row({part!r})\n"
        )
        config.start_from = str(path)
    experiment.run(config, str(workdir), "train")
    experiment.run(config, str(workdir), "evaluate")
    found = results(workdir)
    assert len(found["by_seed"]) == 2 and np.isfinite(found["parzen/log_likelihood"])
    assert [value.shape[1:] for value in starts] == 2 * [(8, 8, 1)]
    assert all(len(value) > 1_000 and value.max() == 1 for value in starts)
    for seed in (0, 1):
        after = aae.load_state(str(workdir), seed)
        if part:
            before = aae.load_state(str(tmp_path / "part"), seed)
            chex.assert_trees_all_equal(after.params[network], before.params[network])
    assert json.loads((workdir / "config.json").read_text())["options"]["burn_in"] == 2


def test_the_picture_of_samples_begins_its_chains_at_training_images(monkeypatch):
    from aae_jax import pictures

    state, dataset = start(make_chains("gsn")), make_dataset()
    drawn = []
    original = pictures._tile
    monkeypatch.setattr(pictures, "_tile", lambda images: drawn.append(images) or original(images))
    given = figures.Given(dataset["image"], dataset, [], jax.random.key(3))
    pictures.samples(state, given)
    expected = aae.generate(state, given.key, 64, start=dataset["image"])
    np.testing.assert_allclose(drawn[0].reshape(64, *SHAPE), expected, rtol=1e-5)


def test_the_authors_way_is_a_chain_of_one_from_one_image():
    """GSN: consecutive states from a test image are the sampler's with other options."""
    state, image = start(make_chains("gsn")), make_dataset()["image"][:1]
    options = dataclasses.replace(state.spec.options, burn_in=1, spacing=1, num_chains=1)
    one = state.replace(spec=dataclasses.replace(state.spec, options=options))
    states = aae.sampler(one, image)(jax.random.key(0), 6)
    assert states.shape == (6, 12) and len(np.unique(states, axis=0)) == 6
