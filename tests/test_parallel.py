"""The same training on one device, on a mesh and by pmap, and after restarts on fewer devices."""

import chex
import jax
import numpy as np
import pytest
from runs import assert_close, metrics, results, small_config
from small import (
    IN_TWO_PROCESSES,
    MODELS,
    make_dataset,
    make_spec,
    partly_labelled,
    refused,
    start,
    start_of,
    train_compiled_fast,
    twenty_steps_of,
)

import aae_jax as aae
from aae_jax import experiment, parallel
from aae_jax.algorithms.adversarial import ADVERSARIAL_AUTOENCODER
from aae_jax.errors import UserError
from aae_jax.settings import ParallelSpec
from aae_jax.workdir.checkpoint import Checkpoints

# In float64, because Adam amplifies rounding.


# Each posterior and way of using labels once; the slow tests train the others too.
@pytest.mark.parametrize(
    "name, count",
    [
        pytest.param(
            name, count, marks=() if name in IN_TWO_PROCESSES and count == 8 else pytest.mark.slow
        )
        for count in (8, 4)
        for name in MODELS
    ],
)
def test_mesh_and_pmap_train_a_model_as_one_device_does(x64, name, count):
    expected, expected_metrics = twenty_steps_of(name)
    assert len(jax.devices()) == 8
    devices = jax.devices()[:count]
    mesh = parallel.make_mesh(devices)
    state = jax.device_put(start_of(name), parallel.replicated(mesh))
    dataset = parallel.replicate(partly_labelled(), mesh)
    for trained, found in (
        train_compiled_fast(state, dataset, 20, batch_sharding=parallel.batch_sharding(mesh)),
        parallel.pmap_train_steps(state, dataset, 20, devices),
    ):
        assert trained.params["encoder"]["Dense_0"]["kernel"].dtype == np.float64
        chex.assert_trees_all_close(trained.params, expected.params, rtol=0, atol=1e-9)
        chex.assert_trees_all_close(trained.ema_params, expected.ema_params, rtol=0, atol=1e-9)
        chex.assert_trees_all_close(trained.opt_state, expected.opt_state, rtol=0, atol=1e-9)
        chex.assert_trees_all_close(found, expected_metrics, rtol=0, atol=1e-9)


def test_checkpoints_move_between_numbers_of_devices(x64, tmp_path):
    """4 → 2 → 1 devices: the run ends like an uninterrupted one on one device."""
    name = "aae, gaussian, labels in the decoder"
    state, dataset = start_of(name), partly_labelled()
    for count, num_steps in ((4, 8), (2, 8), (1, 4)):
        mesh = parallel.make_mesh(jax.devices()[:count])
        state = jax.device_put(start_of(name), parallel.replicated(mesh))
        with Checkpoints(tmp_path) as checkpoints:
            if count < 4:
                state = checkpoints.restore(state)
            on_device = parallel.replicate(dataset, mesh)
            sharding = parallel.batch_sharding(mesh)
            state, _ = train_compiled_fast(state, on_device, num_steps, batch_sharding=sharding)
            kernel = state.params["encoder"]["Dense_0"]["kernel"]
            assert len(kernel.sharding.device_set) == count
            checkpoints.save(state)
    assert state.step == 20
    expected, _ = twenty_steps_of(name)
    chex.assert_trees_all_close(state.params, expected.params, rtol=0, atol=1e-9)


def test_rows_that_do_not_divide_are_refused_under_pmap():
    state, dataset = start(make_spec(**MODELS["semi_supervised"])), make_dataset()
    devices = jax.devices()[:2]

    def batch_of(num_images, num_labelled):
        labelled = {f"labelled_{name}": v[:num_labelled] for name, v in dataset.items()}
        return {**{name: v[:num_images] for name, v in dataset.items()}, **labelled}

    for batch, match in (
        (batch_of(8, 3), "^the number of rows of labelled_image is 3: .* of the 2 devices$"),
        (batch_of(7, 4), "^train.batch_size is 7: it must be a multiple of the 2 devices$"),
    ):
        prior_sample = aae.sample_prior(state.spec, 0, len(batch["image"]))
        with refused(match):
            parallel.pmap_train_step(state, batch, prior_sample, devices)
        with refused(match):
            batches = {name: values[None] for name, values in batch.items()}
            parallel.pmap_train_batches(state, batches, devices)


@pytest.mark.parametrize("num_rows", [1, 3, 8, 10])
def test_rows_are_divided_over_the_devices_and_come_back_in_order(num_rows):
    seen = []

    def function(scale, x, label, shift):
        assert label is None
        jax.debug.inspect_array_sharding(x, callback=seen.append)
        return scale * x + shift

    x = np.arange(2.0 * num_rows, dtype=np.float32).reshape(num_rows, 2)
    for count in (1, 4, 8):
        mesh = parallel.make_mesh(jax.devices()[:count])
        scale = jax.device_put(np.float32(3), parallel.replicated(mesh))
        found = parallel.by_rows(function, scale, (x, None), np.float32(1))
        np.testing.assert_array_equal(found, 3 * x + 1)
        padded = (-(-num_rows // count) * count, 2)
        assert seen.pop().shard_shape(padded) == (padded[0] // count, 2) and not seen


@pytest.mark.parametrize("stream", [False, True])
def test_the_launcher_trains_with_pmap_if_so_asked(tmp_path, monkeypatch, stream):
    called = []
    for name in ("pmap_train_steps", "pmap_train_batches"):
        original = getattr(parallel, name)
        monkeypatch.setattr(
            parallel,
            name,
            lambda *arguments, name=name, original=original: (
                called.append((name, len(arguments[-1]))) or original(*arguments)
            ),
        )
    for runner in ("jit", "pmap"):
        overrides = {"parallel.runner": runner, "parallel.num_devices": 2, "train.num_steps": 8}
        config = small_config(**overrides)
        config.run.stream = stream
        experiment.run(config, str(tmp_path / runner), "train")
    assert_close(metrics(tmp_path / "pmap"), metrics(tmp_path / "jit"), 1e-3)
    assert set(called) == {("pmap_train_batches" if stream else "pmap_train_steps", 2)}


def _mean_reconstruction(spec, params, inputs):
    loss, found = ADVERSARIAL_AUTOENCODER.phases[0].loss(spec, params, inputs)
    return loss.mean(), found


# The same training, its first loss one number for the whole batch.
WHOLE_BATCH = ADVERSARIAL_AUTOENCODER._replace(
    phases=(
        ADVERSARIAL_AUTOENCODER.phases[0]._replace(loss=_mean_reconstruction),
        *ADVERSARIAL_AUTOENCODER.phases[1:],
    )
)


def test_a_loss_of_the_whole_batch_is_refused_under_pmap_before_anything_is_read(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(experiment.data, "load", lambda spec: pytest.fail("data were loaded"))
    changes = {"algorithm": "test_parallel:WHOLE_BATCH", "parallel.runner": "pmap"}
    with pytest.raises(UserError, match="phase 'reconstruction' .* use parallel.runner 'jit'"):
        experiment.run(small_config(**changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_devices_that_are_asked_for():
    assert parallel.choose_devices(ParallelSpec(), 16) == jax.devices()
    assert parallel.choose_devices(ParallelSpec(num_devices=3), 9) == jax.devices()[:3]
    assert parallel.choose_devices(ParallelSpec(num_devices=3)) == jax.devices()[:3]  # no training
    assert parallel.choose_devices(ParallelSpec(), 12) == jax.devices()  # `for_batches` takes fewer
    for batch_size, count in ((100, 5), (800, 8), (12, 6), (11, 1), (3, 3)):
        mesh = parallel.for_batches(parallel.make_mesh(), batch_size)
        assert list(mesh.devices) == jax.devices()[:count]
    for spec, batch_size, said in (
        (
            ParallelSpec(num_devices=8),
            12,
            r"train.batch_size is 12: .*multiple of the 8 devices \(if parallel.num_devices is left out",
        ),
        (ParallelSpec(num_devices=9), 9, "parallel.num_devices is 9: there are 8"),
    ):
        with pytest.raises(UserError, match=said):
            parallel.choose_devices(spec, batch_size)
    for fields, said in (
        ({"runner": "mpi"}, "parallel.runner is 'mpi': it must be one of 'jit', 'pmap'"),
        ({"num_devices": 0}, "parallel.num_devices is 0: it must be positive"),
    ):
        with pytest.raises(UserError, match=said):
            ParallelSpec(**fields)


@pytest.fixture
def drawn_on(monkeypatch):
    """The numbers of devices that draw the pictures."""
    seen = []
    monkeypatch.setattr(
        experiment, "_draw", lambda state, *rest: seen.append(len(state.step.devices()))
    )
    return seen


def test_by_default_as_many_train_as_the_batch_divides_over_and_all_score_and_draw(
    tmp_path, drawn_on, capsys
):
    """Batches of 20 on 8 devices: 5 train, bit-identical to a request for 5."""
    config = small_config(**{"train.num_steps": 8})
    five = config.copy_and_resolve_references()
    config.parallel.num_devices, five.parallel.num_devices = None, 5
    experiment.run(config, str(tmp_path / "default"))
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "a batch of 20 does not divide over 8 devices: training on 5"
    assert results(tmp_path / "default")["devices"] == ["cpu"] * 8 and drawn_on == [8]
    experiment.run(five, str(tmp_path / "five"), "train")
    assert "does not divide" not in capsys.readouterr().out
    assert metrics(tmp_path / "default") == metrics(tmp_path / "five")
    default, five = (aae.load_state(str(tmp_path / name)) for name in ("default", "five"))
    chex.assert_trees_all_equal(default.params, five.params)


def test_only_training_wants_a_batch_that_divides(tmp_path, drawn_on):
    """Batches of 20 on 3 requested devices."""
    three = small_config(**{"parallel.num_devices": 3, "train.num_steps": 4})
    experiment.run(small_config(**{"train.num_steps": 4}), str(tmp_path), "train")
    experiment.run(three, str(tmp_path), "evaluate")
    experiment.run(three, str(tmp_path), "figures")
    assert results(tmp_path)["devices"] == ["cpu"] * 3 and drawn_on == [3]
    for mode in ("run", "train"):
        with pytest.raises(UserError, match="train.batch_size is 20: .*multiple of the 3 devices"):
            experiment.run(three, str(tmp_path), mode)
