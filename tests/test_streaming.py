"""Streamed batches are those of data on the device."""

import jax
import numpy as np
import pytest
from small import SHAPE, make_dataset, make_spec

import aae_jax as aae
from aae_jax import ensemble
from aae_jax.data import LazyImages, streaming
from aae_jax.training import epoch_rows

BATCH = 8


def lazy(dataset):
    images = np.asarray(dataset["image"])
    return {
        "image": LazyImages(lambda rows: images[rows], len(images), SHAPE),
        "label": np.asarray(dataset["label"]),
    }


@pytest.mark.parametrize("first, last", [(0, 12), (5, 9)])
def test_batches_are_those_of_the_stream(first, last):
    """20 examples in batches of 8: epochs end within batches."""
    dataset, rng = make_dataset(), jax.random.key(3)
    rows = np.asarray(epoch_rows(rng, 0, last, BATCH, 20))[first:]
    found = list(streaming.batches(lazy(dataset), rng, first, last, BATCH))
    assert len(found) == last - first
    for batch, expected in zip(found, rows):
        for name, values in dataset.items():
            np.testing.assert_array_equal(batch[name], np.asarray(values)[expected])


def test_processes_read_their_own_rows():
    dataset, rng = lazy(make_dataset()), jax.random.key(3)
    whole = list(streaming.batches(dataset, rng, 0, 6, BATCH))
    parts = [list(streaming.batches(dataset, rng, 0, 6, BATCH, slice(r, r + 4))) for r in (0, 4)]
    for batch, *halves in zip(whole, *parts):
        for name, values in batch.items():
            np.testing.assert_array_equal(np.concatenate([h[name] for h in halves]), values)


@pytest.mark.parametrize("model", [{}, {"posterior": "gaussian"}])
def test_training_on_streamed_batches_is_training_on_the_device(model):
    state = aae.create_train_state(make_spec(model=model, input_noise=0.1), jax.random.key(0))
    dataset = make_dataset()
    expected, expected_metrics = aae.train_steps(state, dataset, 9)
    for step in (0, 3, 6):
        batches = list(streaming.batches(lazy(dataset), state.rng, step, step + 3, BATCH))
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        state, metrics = aae.train_batches(state, stacked)
    jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, expected.opt_state)
    np.testing.assert_array_equal(
        metrics["loss/reconstruction"], expected_metrics["loss/reconstruction"][6:]
    )


def test_places_are_examples_that_are_repeated():
    """On the device, in an ensemble and streamed, as if the data set held them twice."""
    state = aae.create_train_state(make_spec(), jax.random.key(0))
    dataset = make_dataset()
    place = np.array([*range(20), 3, 7, 7], np.int32)
    repeated = {name: values[place] for name, values in dataset.items()}
    expected, _ = aae.train_steps(state, repeated, 9)
    placed = {**dataset, "place": place}
    found, _ = aae.train_steps(state, placed, 9)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    batches = list(streaming.batches({**lazy(dataset), "place": place}, state.rng, 0, 9, BATCH))
    found, _ = aae.train_batches(state, jax.tree.map(lambda *v: np.stack(v), *batches))
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    members = ensemble.create(make_spec(), jax.random.key(0)[None])
    own = {"image": dataset["image"], "label": dataset["label"][None], "place": place[None]}
    found = ensemble.member(ensemble.train(members, own, 9)[0], 0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.params, expected.params
    )


def test_an_image_that_can_not_be_read_stops_the_stream_with_its_own_words():
    dataset = lazy(make_dataset())

    def read(rows):
        raise aae.UserError("'cat.png' is damaged")

    dataset["image"] = LazyImages(read, 20, SHAPE)
    with pytest.raises(aae.UserError, match="'cat.png' is damaged"):
        next(streaming.batches(dataset, jax.random.key(0), 0, 5, BATCH))
