"""One whole run on the real digits, and every way to interrupt it."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import (
    STEPS,
    Killed,
    assert_close,
    assert_same_arrays,
    assert_same_training,
    interrupt,
    metrics,
    results,
    small_config,
)
from small import make_spec

import aae_jax as aae
from aae_jax import data, evaluation, experiment, figures, multi_seed, pictures, training
from aae_jax.config import parse_config, spec_from_config
from aae_jax.data.order import epoch_permutation
from aae_jax.errors import UserError
from aae_jax.workdir import loop, memory, records, terminal
from experiments import digits
from studies import runs as finished_runs


@pytest.fixture(scope="module")
def seen():
    """The arguments of the parts of the run `whole`."""
    return {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, seen):
    """An uninterrupted run."""
    workdir = str(tmp_path_factory.mktemp("whole"))
    train_steps, evaluate, nearest = loop.train_steps, evaluation.evaluate, pictures._nearest

    def record_training(state, dataset, *rest, **static):
        seen["trained on"] = dataset["image"]
        return train_steps(state, dataset, *rest, **static)

    def record_evaluation(sampler, folds, spec, key, *rest):
        ((seen["validation"], seen["test"]),) = folds
        seen["evaluation key"] = key
        return evaluate(sampler, folds, spec, key, *rest)

    def record_figure(state, images, train):
        seen["neighbours among"] = train
        return nearest(state, images, train)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_steps", record_training)
        patch.setattr(evaluation, "evaluate", record_evaluation)
        patch.setattr(pictures, "_nearest", record_figure)
        experiment.run(small_config(), workdir)
    return workdir


@pytest.fixture(scope="module")
def dataset():
    return data.load(parse_config(small_config()).data)


def test_workdir_holds_everything(whole):
    with open(os.path.join(whole, "results.json")) as file:
        loaded = json.load(file)
    assert loaded["steps"] == STEPS and loaded["seconds"] > 0
    assert np.isfinite(loaded["parzen/log_likelihood"]) and loaded["parzen/standard_error"] > 0
    assert loaded["parzen/num_samples"] == 200
    assert loaded["parzen/sigma"] in digits.get_config().evaluation.sigmas
    (warning,) = loaded["warnings"]  # after 30 steps
    assert "the codes are far from the prior" in warning
    with open(os.path.join(whole, "config.json")) as file:
        assert json.load(file)["train"]["num_steps"] == STEPS
    drawn = sorted(os.listdir(os.path.join(whole, "figures")))
    assert drawn == sorted(figures.drawings(spec_from_config(small_config())))
    assert [line["step"] for line in metrics(whole)] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert any("tfevents" in name for name in os.listdir(os.path.join(whole, "tensorboard")))


def test_each_split_is_used_for_one_thing(whole, seen, dataset):
    """Training images train and are the neighbours, validation images choose σ, test images score."""
    np.testing.assert_array_equal(seen["trained on"], dataset.train["image"])
    np.testing.assert_array_equal(seen["neighbours among"], dataset.train["image"])
    for name in ("validation", "test"):
        np.testing.assert_array_equal(seen[name]["image"], getattr(dataset, name)["image"])
    # The samples that are scored are not drawn with the key that made the parameters.
    initial = jax.random.fold_in(jax.random.key(small_config().seed), 0)
    assert (jax.random.key_data(seen["evaluation key"]) != jax.random.key_data(initial)).any()


def test_a_finished_run_does_nothing_again(whole, capsys):
    paths = [os.path.join(whole, "results.json"), os.path.join(whole, "figures", "samples.png")]
    before = [os.stat(path).st_mtime_ns for path in paths]
    experiment.run(small_config(), whole)
    assert [os.stat(path).st_mtime_ns for path in paths] == before
    assert "training is finished" in capsys.readouterr().out


def test_a_finished_run_does_what_is_missing(whole):
    path = os.path.join(whole, "figures", "samples.png")
    before = results(whole)
    os.remove(path)
    os.remove(os.path.join(whole, "results.json"))
    experiment.run(small_config(), whole)
    assert os.path.exists(path) and results(whole) == before


@pytest.mark.parametrize(
    "how, at_write, step",
    [
        (signal.SIGTERM, 1, 8),  # after the dispatch under way
        (signal.SIGINT, 4, 20),
        (signal.SIGHUP, 2, 12),
        (signal.SIGTERM, 8, 30),
        (Killed, 1, None),
        (Killed, 4, None),
        (Killed, 8, None),
    ],
)
def test_a_run_cut_anywhere_ends_bit_identical(
    whole, tmp_path, monkeypatch, capsys, how, at_write, step
):
    workdir = str(tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt(patch, at_write, how)
        with pytest.raises((Killed, SystemExit)) as stopped:
            experiment.run(small_config(), workdir)
    if how is not Killed:
        assert stopped.value.code == 128 + how
        said = capsys.readouterr().out
        assert f"interrupted at step {step} of 30" in said and "the same command resumes" in said
        assert str(step) in os.listdir(os.path.join(workdir, "checkpoints"))
    experiment.run(small_config(), workdir, "train")
    assert_same_training(workdir, whole)
    if at_write == 4:
        experiment.run(small_config(), workdir, "evaluate")
        assert results(workdir) == results(whole)


def test_a_second_signal_acts_at_once_but_for_the_hangup():
    """Terminal and shell each send one SIGHUP."""
    with terminal.Signals() as signals:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert signals.to_obey() == signal.SIGHUP
        signal.raise_signal(signal.SIGINT)
        assert signals.to_obey() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_ignored_signal_stays_ignored(whole, tmp_path, monkeypatch):
    """`nohup python launch.py …`"""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupt(monkeypatch, 2, signal.SIGHUP)
        experiment.run(small_config(), str(tmp_path), "train")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert_same_training(str(tmp_path), whole)


def test_a_run_may_change_between_streamed_and_resident_images_where_it_is_cut(
    whole, tmp_path, monkeypatch
):
    """Streamed from the start, then resident, then streamed from within an epoch."""
    workdir = str(tmp_path / "run")
    for stream, at_write in ((True, 4), (False, 3), (True, None)):
        with monkeypatch.context() as patch:
            if stream:
                patch.setattr(loop, "train_steps", None)
            else:
                patch.setattr(loop, "train_batches", None)
            config = small_config(**{"run.stream": stream})
            if at_write is None:
                experiment.run(config, workdir, "train")
                break
            interrupt(patch, at_write, Killed)
            with pytest.raises(Killed):
                experiment.run(config, workdir, "train")
    assert_same_arrays(workdir, whole)
    # Two programs may sum the metrics in other orders.
    assert_close(metrics(workdir), metrics(whole), 1e-5)


def test_images_are_streamed_where_they_would_not_fit():
    settings = parse_config(small_config())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for num_images, streamed in ((memory // 2**20, True), (100, False)):
        images = data.LazyImages(None, num_images, (1024, 1024, 1))
        assert loop.is_streamed(images, settings) is streamed


def test_labels_and_standardised_pixels_reach_the_training_and_the_checkpoint(
    tmp_path, monkeypatch, dataset
):
    seen = {}
    train_steps, train = loop.train_steps, loop.train

    def record_labels(state, dataset, *rest, **static):
        seen["label"] = np.asarray(dataset["label"])
        return train_steps(state, dataset, *rest, **static)

    def record_state(*arguments):
        seen["state"] = train(*arguments)
        return seen["state"]

    monkeypatch.setattr(loop, "train_steps", record_labels)
    monkeypatch.setattr(loop, "train", record_state)
    config = small_config(
        **{
            "train.num_steps": 4,
            "train.ema_decay": 0.9,
            "parallel.num_devices": 1,
            "data.num_labelled": 100,
            "data.standardise": True,
            "model.output": "linear",
            "model.code_dim": 2,
            "model.label_in_discriminator": True,
            "prior.name": "gaussian_mixture",
        }
    )
    experiment.run(config, str(tmp_path), "train")
    label, state = seen["label"], seen["state"]
    np.testing.assert_array_equal(np.bincount(label[label >= 0]), np.full(10, 10))
    assert (label == -1).sum() == 1_297 - 100
    images = dataset.train["image"]
    np.testing.assert_allclose(state.pixel_mean, images.mean(axis=0), atol=1e-5)
    constant = images.std(axis=0) == 0
    assert constant.any() and (np.asarray(state.pixel_std)[constant] == 1).all()
    # The directory alone encodes, decodes and generates.
    loaded = aae.load_state(str(tmp_path))
    assert int(loaded.step) == 4
    images, key = dataset.test["image"], jax.random.key(0)
    for function in (aae.encode, aae.reconstruct):
        np.testing.assert_array_equal(function(loaded, images), function(state, images))
    np.testing.assert_array_equal(aae.generate(loaded, key, 5), aae.generate(state, key, 5))
    with pytest.raises(UserError, match="must be the --workdir of a run"):
        aae.load_state(str(tmp_path / "tensorboard"))


@pytest.mark.slow
def test_convolutional_networks_are_trained_scored_and_drawn(tmp_path):
    config = small_config(
        **{
            "model.encoder": "conv",
            "model.decoder": "conv",
            "model.conv_channels": (4, 8),
            "train.num_steps": 4,
            "parallel.num_devices": 1,
        }
    )
    experiment.run(config, str(tmp_path))
    assert np.isfinite(results(tmp_path)["parzen/log_likelihood"])
    assert figures.missing(spec_from_config(config), str(tmp_path / "figures")) == []
    assert "Conv_0" in aae.load_state(str(tmp_path)).params["encoder"]


def test_scores_of_an_unfinished_model_do_not_survive_it(tmp_path, monkeypatch):
    workdir = str(tmp_path)
    with monkeypatch.context() as patch:
        interrupt(patch, 2, signal.SIGTERM)
        with pytest.raises(SystemExit):
            experiment.run(small_config(), workdir, "train")
    experiment.run(small_config(), workdir, "evaluate")
    (tmp_path / "figures").mkdir()
    assert results(workdir)["steps"] < STEPS
    experiment.run(small_config(), workdir, "train")
    assert not os.path.exists(os.path.join(workdir, "results.json"))
    assert not os.path.exists(os.path.join(workdir, "figures"))


def test_evaluation_may_change_and_training_may_not(whole):
    experiment.run(small_config(**{"evaluation.num_samples": 100}), whole, "evaluate")
    assert results(whole)["parzen/num_samples"] == 100
    experiment.run(small_config(), whole)  # asks for 200: that score is missing
    assert results(whole)["parzen/num_samples"] == 200
    for changes, said in (
        (
            {"train.num_steps": 40},
            (
                "train.num_steps was 30, now 40, and 30 steps are done.*'cosine'.* of discriminator "
                "and generator and reconstruction depends on it"
            ),
        ),
        ({"train.num_steps": 20}, "run.max_steps is 20: .* has done 30 steps"),
        ({"run.max_steps": 20}, "run.max_steps is 20: .* has done 30 steps"),
        ({"optimizer.generator.clip_norm": 1.0}, "generator.clip_norm was None, now 1.0"),
    ):
        with pytest.raises(UserError, match=f"{said}.*--workdir"):
            experiment.run(small_config(**changes), whole)


CONSTANT = {
    f"optimizer.{phase}.schedule": "constant"
    for phase in ("reconstruction", "discriminator", "generator")
}


@pytest.mark.parametrize("at_first", [{"train.num_steps": 40}, {"run.max_steps": 40}], ids=str)
def test_a_finished_run_is_made_longer(tmp_path, at_first, longer):
    workdir = tmp_path / "run"
    experiment.run(small_config(**LONGER | at_first), str(workdir), "train")
    assert metrics(workdir)[-1]["step"] == 40
    (workdir / "figures").mkdir()
    (workdir / "results.json").write_text('{"steps": 40}')
    experiment.run(small_config(**LONGER), str(workdir), "train")
    assert_same_training(workdir, longer)
    assert not (workdir / "figures").exists() and not (workdir / "results.json").exists()
    config = json.loads((workdir / "config.json").read_text())
    assert config["train"]["num_steps"] == 80 and config["run"]["max_steps"] is None
    assert aae.load_state(str(workdir)).step == 80


LONGER = {**CONSTANT, "train.num_steps": 80, "parallel.num_devices": 1}


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """A run of 80 steps, with rates that do not depend on the number of steps."""
    workdir = str(tmp_path_factory.mktemp("longer"))
    experiment.run(small_config(**LONGER), workdir, "train")
    return workdir


def test_a_cut_run_may_end_sooner_and_one_without_a_checkpoint_have_any_length(
    longer, tmp_path, monkeypatch
):
    config = parse_config(small_config(**LONGER))
    (tmp_path / "checkpoints" / "40").mkdir(parents=True)
    shutil.copy(os.path.join(longer, "config.json"), tmp_path / "config.json")

    def check(**changes):
        config = small_config(**LONGER | changes)
        config_json = json.loads(config.to_json_best_effort())
        records.check(str(tmp_path), config_json, parse_config(config).spec)

    check(**{"train.num_steps": 60})
    check(**{"train.num_steps": 10**6, "run.max_steps": 40})
    with pytest.raises(UserError, match="is 30: .* has done 40 steps"):
        check(**{"train.num_steps": 30})
    (tmp_path / "checkpoints" / "40").rmdir()
    check(**{"train.num_steps": 30})
    assert config.spec.train.num_steps == 80


def test_a_run_of_a_version_without_a_field_goes_on_if_that_field_is_off(tmp_path, longer):
    config = json.loads(small_config().to_json_best_effort())
    del config["train"]["mirror"]
    (tmp_path / "config.json").write_text(json.dumps(config))

    def check(**changes):
        config = small_config(**changes)
        config_json = json.loads(config.to_json_best_effort())
        records.check(str(tmp_path), config_json, parse_config(config).spec)

    check()
    with pytest.raises(UserError, match=r"another config \(train.mirror was False, now True\): "):
        check(**{"train.mirror": True})

    copy = shutil.copytree(longer, tmp_path / "copy")
    path = copy / "config.json"
    config = json.loads(path.read_text())
    del config["train"]["mirror"]
    path.write_text(json.dumps(config))
    assert aae.load_state(str(copy)).spec == aae.load_state(longer).spec
    assert finished_runs.load(str(copy)).settings == finished_runs.load(longer).settings


# The reconstruction's rate is 100 from the 14th step on: the run diverges within a few.
DIVERGING = {
    "optimizer.reconstruction.name": "sgd",
    "optimizer.reconstruction.learning_rate": 1e-5,
    "optimizer.reconstruction.schedule": "piecewise",
    "optimizer.reconstruction.boundaries": (13,),
    "optimizer.reconstruction.factors": (1e7,),
    "model.output": "linear",
    "parallel.num_devices": 1,
    "run.stream": True,  # so that the stream has gone past the step when it is repeated
}


def test_a_failure_is_traced_to_its_step_and_batch(tmp_path, dataset):
    workdir = str(tmp_path)
    message = r"at step \d+ loss/.* is (nan|inf).*training stopped"
    with pytest.raises(UserError, match=message) as said:
        experiment.run(small_config(**DIVERGING), workdir)
    failure = json.loads((tmp_path / "failure.json").read_text())
    step = failure["step"]
    assert 14 <= step <= 20 and f"at step {step} " in str(said.value)
    # The checkpoint of step 12 (the dispatch that holds step 10 ended there) and its metrics stay.
    assert failure["last_checkpoint"] == 12
    assert [line["step"] for line in metrics(workdir)][:3] == [4, 8, 12]
    # From that checkpoint the steps before are finite and this one is not.
    state, images = aae.load_state(workdir), dataset.train
    for _ in range(13, step):
        state, _ = training.train_steps(state, images, 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    _, bad = training.train_steps(state, images, 1)
    for name, value in failure["losses"].items():
        np.testing.assert_allclose(float(value), bad[f"loss/{name}"][0], rtol=1e-3)
    # Rows of the first epoch's order of the 1,297 images.
    order = np.asarray(epoch_permutation(state.rng, 0, 1_297))
    np.testing.assert_array_equal(failure["rows"], order[(step - 1) * 20 : step * 20])


def test_an_untrained_model_is_neither_scored_nor_drawn(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for mode in ("evaluate", "figures"):
        with pytest.raises(UserError, match="no checkpoint in .*: train first"):
            experiment.run(small_config(), str(tmp_path), mode)
    assert not os.path.exists(tmp_path / "results.json")


def test_clipping_is_of_the_norm_and_keeps_a_run_finite(tmp_path):
    """At the learning rate of `DIVERGING`, scaled to the clip."""
    config = small_config(
        **{
            "optimizer.reconstruction.name": "sgd",
            "optimizer.reconstruction.clip_norm": 1e-3,
            "optimizer.reconstruction.learning_rate": 1e2,
            "parallel.num_devices": 1,
            "train.num_steps": 4,
        }
    )
    experiment.run(config, str(tmp_path), "train")
    assert [line["step"] for line in metrics(tmp_path)] == [4]


def test_a_collapse_is_said_and_recorded(whole, tmp_path, capsys):
    changes = {"run.steps_per_dispatch": 2, "train.num_steps": 10, "parallel.num_devices": 1}
    config = small_config(**{"prior.std": 1e4, **changes})
    experiment.run(config, str(tmp_path / "point"), "train")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert sum("codes have collapsed" in line and "step 10" in line for line in said) == 1
    workdir = shutil.copytree(whole, tmp_path / "run")
    shutil.copy(tmp_path / "point" / "metrics.jsonl", workdir / "metrics.jsonl")
    experiment.run(small_config(), str(workdir), "evaluate")
    *of_training, far = results(workdir)["warnings"]
    assert [f"warning: {warning}" for warning in of_training] == said
    assert f"warning: {far}\n" in capsys.readouterr().out


def test_a_second_run_in_a_workdir_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for mode in ("run", "train", "evaluate", "figures"):
        with records.at_work(str(tmp_path)):
            with pytest.raises(UserError, match="another run is at work in .*--workdir"):
                experiment.run(small_config(), str(tmp_path), mode)
        assert sorted(os.listdir(tmp_path)) == ["checkpoints", "lock"]
        assert os.listdir(tmp_path / "checkpoints") == []


@pytest.mark.parametrize("has_fcntl", [True, False])  # Windows
def test_a_disk_without_locks_is_a_warning(whole, tmp_path, monkeypatch, capsys, has_fcntl):
    def refuse(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    workdir = str(shutil.copytree(whole, tmp_path / "run"))
    if has_fcntl:
        monkeypatch.setattr(records.fcntl, "flock", refuse)
    else:
        monkeypatch.setattr(records, "fcntl", None)
    experiment.run(small_config(), workdir, "train")
    assert "has no locks" in capsys.readouterr().out


def test_a_damaged_checkpoint_costs_only_its_steps(whole, tmp_path, capsys):
    workdir = shutil.copytree(whole, tmp_path / "run")
    (workdir / "checkpoints" / str(STEPS) / "default" / "manifest.ocdbt").write_bytes(b"")
    experiment.run(small_config(), str(workdir), "train")
    said = capsys.readouterr().out
    assert "the checkpoint of step 30 is damaged" in said and "resuming from step 20" in said
    assert_same_training(workdir, whole)


def test_mistakes_leave_no_workdir(tmp_path):
    workdir = str(tmp_path / "run")
    for overrides, match in (
        ({"train.batch_size": 10}, "train.batch_size is 10.*4 devices"),
        ({"evaluation.num_validation": 251}, "evaluation.num_validation is 251.*250"),
        ({"data.num_classes": 9}, "data.num_classes is 9.*10"),
        ({"data.name": "cifar"}, "data.name is 'cifar'"),
        ({"prior.std": -1.0}, "prior.std is -1.0"),
        ({"model.encoder": "conv", "model.conv_channels": (2,) * 4}, "divides by 2 only 3 times"),
        ({"num_seeds": 2, "parallel.runner": "pmap"}, "num_seeds is 2 with"),
        ({"num_seeds": 2, "run.stream": True}, "num_seeds is 2 with"),
    ):
        with pytest.raises(UserError, match=match):
            experiment.run(small_config(**overrides), workdir)
        assert not os.path.exists(workdir)
    for mode in ("evaluate", "figures"):
        with pytest.raises(UserError, match="no checkpoint in"):
            experiment.run(small_config(), workdir, mode)
        assert not os.path.exists(workdir)
    pathlib.Path(workdir).touch()
    with pytest.raises(UserError, match="which is a file"):
        experiment.run(small_config(), workdir)


@pytest.mark.slow
def test_unlabelled_images_of_two_channels_are_trained_scored_and_drawn(tmp_path, dataset):
    """Unlabelled images have no component, so the share in the right component is left out."""
    images = np.concatenate([dataset.train["image"][:400]] * 2, axis=-1)
    np.savez(tmp_path / "images.npz", images=images)
    config = small_config(
        **{
            "data.name": "files",
            "data.path": str(tmp_path / "images.npz"),
            "data.image_shape": (8, 8, 2),
            "model.code_dim": 2,
            "prior.name": "gaussian_mixture",
            "evaluation.num_validation": None,
            "train.num_steps": 4,
            "parallel.num_devices": 1,
        }
    )
    experiment.run(config, str(tmp_path / "run"))
    found = results(tmp_path / "run")
    assert np.isfinite(found["parzen/log_likelihood"]) and found["prior/std"] > 0
    assert not any(name.startswith("label/") for name in found)
    directory = tmp_path / "run" / "figures"
    assert figures.missing(spec_from_config(config), str(directory)) == []
    assert (directory / "components.png").exists()


def test_a_figure_that_fails_keeps_the_scores(whole, tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise ValueError("no such picture")

    workdir = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(workdir / "figures")
    (workdir / "results.json").unlink()
    monkeypatch.setattr(pictures, "_nearest", fail)
    with pytest.raises(
        UserError, match=r"can't be drawn: samples.png \(ValueError: no such picture"
    ):
        experiment.run(small_config(), str(workdir))
    said = capsys.readouterr().out
    assert "test log-likelihood" in said and "reconstructions.png" in said
    assert results(workdir) == results(whole)
    monkeypatch.undo()
    experiment.run(small_config(), str(workdir))
    assert (workdir / "figures" / "samples.png").exists()


def test_json_has_no_nan(tmp_path):
    value = {"a": float("nan"), "b": [1.5, float("-inf"), {"c": (float("inf"), True, "nan", 3)}]}
    records.write_json(str(tmp_path / "value.json"), value)
    expected = {"a": None, "b": [1.5, None, {"c": [None, True, "nan", 3]}]}
    assert json.loads((tmp_path / "value.json").read_text()) == expected


def test_memory_that_runs_out_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda: 10_000)
    said = "does not fit into memory: parameters .* kB, moments .* kB.* on each of 4 CPU devices.*10 kB"
    with pytest.raises(UserError, match=said):
        experiment.run(small_config(), str(tmp_path / "run"))
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()

    def exhaust(*arguments):
        jax.block_until_ready(jax.jit(lambda: jnp.zeros(2**42) + 1)())  # 17 TB

    def raise_memory_error(*arguments):
        raise MemoryError

    for module, name, fail in (
        (loop, "train", exhaust),
        (loop, "train", raise_memory_error),
        (data, "load", raise_memory_error),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            with pytest.raises(UserError, match="the memory of .* has run out .*parameters .* kB"):
                experiment.run(small_config(), str(tmp_path / "run"), "train")


def test_the_estimate_of_memory_counts_every_number():
    """By hand: an encoder 12-16-2, a decoder 2-12-12, a discriminator 2-16-1; Adam has two moments."""
    encoder, decoder, discriminator = (
        12 * 16 + 16 + 16 * 2 + 2,
        2 * 12 + 12 + 12 * 12 + 12,
        2 * 16 + 16 + 17,
    )
    counters = 2 * 4 * 3  # of each phase's schedule and Adam, i32
    settings = parse_config(small_config(num_seeds=3))
    settings = dataclasses.replace(settings, spec=make_spec(ema_decay=0.5))
    assert memory.estimate(settings) == {
        "parameters": 3 * 4 * (encoder + decoder + discriminator),
        "moments": 3 * (4 * 2 * (2 * encoder + decoder + discriminator) + counters),
        "averages": 3 * 4 * (encoder + decoder),
        "batch": 4 * 8 * 12,
    }


@pytest.mark.slow
def test_seeds_in_one_program_end_as_the_runs_of_each(tmp_path, x64, capsys):
    common = {
        "train.num_steps": 8,
        "model.param_dtype": "float64",
        "model.compute_dtype": "float64",
        "model.label_in_discriminator": True,
        "evaluation.num_samples": 50,
        "parallel.num_devices": 2,
        "data.num_labelled": 100,  # which, the seed decides
        "seed": 4,
    }
    together = tmp_path / "together"
    experiment.run(small_config(**common, num_seeds=2), str(together), "train")
    experiment.run(small_config(**common, num_seeds=2), str(together), "evaluate")
    assert "mean of 2 seeds" in capsys.readouterr().out
    found = results(together)
    assert [scores["seed"] for scores in found["by_seed"]] == [4, 5]
    scores = []
    for seed in (4, 5):
        alone = tmp_path / str(seed)
        for mode in ("train", "evaluate"):
            experiment.run(small_config(**{**common, "seed": seed}), str(alone), mode)
        scores.append(results(alone)["parzen/log_likelihood"])
        state, member = aae.load_state(str(alone)), aae.load_state(str(together), seed=seed)
        for own, joint in zip(jax.tree.leaves(state.params), jax.tree.leaves(member.params)):
            np.testing.assert_allclose(own, joint, rtol=0, atol=1e-9)
    by_seed = [member["parzen/log_likelihood"] for member in found["by_seed"]]
    np.testing.assert_allclose(by_seed, scores, atol=1e-6)
    np.testing.assert_allclose(found["parzen/log_likelihood"], np.mean(scores), atol=1e-6)
    np.testing.assert_allclose(
        found["spread"]["parzen/log_likelihood"], np.std(scores, ddof=1), atol=1e-6
    )
    with pytest.raises(UserError, match="seed or --run_seed is 6: the run .* has seeds 4, 5"):
        aae.load_state(str(together), seed=6)


def test_of_several_seeds_the_one_that_diverges_is_named(tmp_path, monkeypatch):
    create = multi_seed.create

    def one_explodes(*arguments):
        state = create(*arguments)
        scale = {k: np.float32([1.0, 1e25]) * v for k, v in state.learning_rate_scale.items()}
        return state.replace(learning_rate_scale=scale)

    monkeypatch.setattr(multi_seed, "create", one_explodes)
    config = small_config(num_seeds=2, **{"train.num_steps": 4, "parallel.num_devices": 1})
    with pytest.raises(UserError, match=r"at step \d+ of seed 1 loss/"):
        experiment.run(config, str(tmp_path), "train")
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert failure["seed"] == 1 and len(failure["rows"]) == 20
