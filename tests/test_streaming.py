"""Streamed batches are those of data on the device."""

import chex
import jax
import numpy as np
import pytest
from small import SHAPE, make_dataset, make_spec, start

import aae_jax as aae
from aae_jax import multi_seed
from aae_jax.data import LazyImages, streaming
from aae_jax.data.order import epoch_rows

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


def test_conditions_are_streamed_beside_their_examples():
    dataset = {**lazy(make_dataset()), "condition": np.arange(40, dtype=np.float32).reshape(20, 2)}
    rows = np.asarray(epoch_rows(jax.random.key(3), 0, 6, BATCH, 20))
    for batch, expected in zip(streaming.batches(dataset, jax.random.key(3), 0, 6, BATCH), rows):
        np.testing.assert_array_equal(batch["condition"], dataset["condition"][expected])


def test_processes_read_their_own_rows():
    dataset, rng = lazy(make_dataset()), jax.random.key(3)
    whole = list(streaming.batches(dataset, rng, 0, 6, BATCH))
    parts = [list(streaming.batches(dataset, rng, 0, 6, BATCH, slice(r, r + 4))) for r in (0, 4)]
    for batch, *halves in zip(whole, *parts):
        for name, values in batch.items():
            np.testing.assert_array_equal(np.concatenate([h[name] for h in halves]), values)


def assert_same(found, expected):
    """Compares, in float64, the results of programs that a compiler may fuse differently."""
    chex.assert_trees_all_close(found.params, expected.params, rtol=0, atol=1e-9)
    chex.assert_trees_all_close(found.opt_state, expected.opt_state, rtol=0, atol=1e-9)


def test_training_on_streamed_batches_is_training_on_the_device(x64):
    state = start(
        make_spec("float64", model={"posterior": "gaussian"}, input_noise=0.1, mirror=True)
    )
    dataset = make_dataset()
    expected, expected_metrics = aae.train_steps(state, dataset, 9)
    for step in (0, 3, 6):
        batches = list(streaming.batches(lazy(dataset), state.rng, step, step + 3, BATCH))
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        state, metrics = aae.train_batches(state, stacked)
    assert_same(state, expected)
    last = {name: values[6:] for name, values in expected_metrics.items()}
    chex.assert_trees_all_close(metrics, last, rtol=0, atol=1e-9)


def test_the_order_of_examples_may_repeat_some(x64):
    """On the device, in several seeds and streamed, as if the data set held them twice."""
    state = start(make_spec("float64"))
    dataset = make_dataset()
    order = np.array([*range(20), 3, 7, 7], np.int32)
    repeated = {name: values[order] for name, values in dataset.items()}
    expected, _ = aae.train_steps(state, repeated, 9)
    ordered = {**dataset, "example_order": order}
    found, _ = aae.train_steps(state, ordered, 9)
    assert_same(found, expected)
    ordered = {**lazy(dataset), "example_order": order}
    batches = list(streaming.batches(ordered, state.rng, 0, 9, BATCH))
    found, _ = aae.train_batches(state, jax.tree.map(lambda *v: np.stack(v), *batches))
    assert_same(found, expected)
    members = multi_seed.create(make_spec("float64"), jax.random.key(0)[None])
    own = {**dataset, "label": dataset["label"][None], "example_order": order[None]}
    assert_same(multi_seed.member(multi_seed.train(members, own, 9)[0], 0), expected)


def test_an_image_that_can_not_be_read_stops_the_stream_with_its_own_words():
    dataset = lazy(make_dataset())

    def read(rows):
        raise aae.UserError("'cat.png' is damaged")

    dataset["image"] = LazyImages(read, 20, SHAPE)
    with pytest.raises(aae.UserError, match="'cat.png' is damaged"):
        next(streaming.batches(dataset, jax.random.key(0), 0, 5, BATCH))
