"""One whole run on the real digits, and every way of cutting it short."""

import errno
import json
import os
import pathlib
import shutil
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import aae_jax as aae
from aae_jax import data, evaluation, experiment, records, training
from aae_jax.errors import UserError
from aae_jax.spec import spec_from_config
from experiments import default, digits

STEPS = 30


def small_config(**overrides):
    config = digits.get_config()
    for network in ("encoder", "decoder", "discriminator"):
        config.model[f"{network}_hidden"] = (16, 16)
    config.train.num_steps = STEPS
    config.train.batch_size = 20
    config.parallel.num_devices = 4
    config.run.steps_per_dispatch = 4
    config.run.checkpoint_every = 10
    config.evaluation.num_samples = 200
    config.update_from_flattened_dict(overrides)
    return config


def final_arrays(workdir):
    """The last checkpoint, read without the package."""
    manager = ocp.CheckpointManager(os.path.abspath(os.path.join(workdir, "checkpoints")))
    assert manager.latest_step() == STEPS
    arrays = manager.restore(STEPS, args=ocp.args.StandardRestore())
    manager.close()
    return jax.tree.leaves_with_path(arrays)


def metrics(workdir):
    """Lines of metrics.jsonl without their times."""
    lines = [json.loads(line) for line in open(os.path.join(workdir, "metrics.jsonl"))]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def results(workdir):
    with open(os.path.join(workdir, "results.json")) as file:
        loaded = json.load(file)
    return {name: value for name, value in loaded.items() if "seconds" not in name}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    workdir = str(tmp_path_factory.mktemp("whole"))
    experiment.run(small_config(), workdir)
    return workdir


def test_workdir_holds_everything(whole):
    loaded = json.load(open(os.path.join(whole, "results.json")))
    assert loaded["steps"] == STEPS and loaded["seconds"] > 0
    assert np.isfinite(loaded["parzen/log_likelihood"]) and loaded["parzen/standard_error"] > 0
    assert loaded["parzen/num_samples"] == 200
    assert loaded["parzen/sigma"] in digits.get_config().evaluation.sigmas
    assert json.load(open(os.path.join(whole, "config.json")))["train"]["num_steps"] == STEPS
    figures = sorted(os.listdir(os.path.join(whole, "figures")))
    assert figures == sorted(experiment.figure_files(spec_from_config(small_config())))
    assert [line["step"] for line in metrics(whole)] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert any("tfevents" in name for name in os.listdir(os.path.join(whole, "tensorboard")))


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


class Killed(BaseException):
    """Stands for a process that ends without a chance to save."""


def interrupt(monkeypatch, at_write, how):
    """Makes the n-th write of metrics a signal, or a death before it is written."""
    original = records.MetricsLog.write
    count = 0

    def write(self, *arguments):
        nonlocal count
        count += 1
        if count == at_write:
            if how is Killed:
                raise Killed
            signal.raise_signal(how)
        return original(self, *arguments)

    monkeypatch.setattr(records.MetricsLog, "write", write)


@pytest.mark.parametrize("at_write", [1, 4, 8])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, Killed], ids=str)
def test_a_run_cut_anywhere_ends_bit_identical(whole, tmp_path, monkeypatch, capsys, how, at_write):
    workdir = str(tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt(patch, at_write, how)
        with pytest.raises((Killed, SystemExit)) as stopped:
            experiment.run(small_config(), workdir)
    if how is not Killed:
        assert stopped.value.code == 128 + how
        assert "the same command goes on" in capsys.readouterr().out
        assert os.listdir(os.path.join(workdir, "checkpoints"))
    experiment.run(small_config(), workdir)
    for (path, found), (path_, expected) in zip(final_arrays(workdir), final_arrays(whole)):
        assert path == path_
        np.testing.assert_array_equal(found, expected, err_msg=str(path))
    assert metrics(workdir) == metrics(whole)
    assert results(workdir) == results(whole)


@pytest.mark.parametrize("cut", [False, True])
def test_a_streamed_run_ends_bit_identical(whole, tmp_path, monkeypatch, cut):
    """And may change between the two ways of reading where it is cut."""
    workdir = str(tmp_path / "run")
    if cut:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            interrupt(patch, 4, Killed)
            experiment.run(small_config(), workdir)
    monkeypatch.setattr(experiment, "train_steps", None)  # it is streamed
    config = small_config()
    config.run.stream = True
    experiment.run(config, workdir)
    for (path, found), (_, expected) in zip(final_arrays(workdir), final_arrays(whole)):
        np.testing.assert_array_equal(found, expected, err_msg=str(path))
    assert metrics(workdir) == metrics(whole)
    assert results(workdir) == results(whole)


def test_images_are_streamed_where_they_would_not_fit():
    settings = experiment.parse_config(small_config())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for num_images, streamed in ((memory // 64, True), (1_000, False)):
        images = data.LazyImages(None, num_images, (8, 8, 1))
        assert experiment._is_streamed(images, settings) is streamed


def test_a_checkpoint_alone_encodes_decodes_and_generates(tmp_path, monkeypatch):
    states = []
    evaluate = experiment._evaluate
    monkeypatch.setattr(
        experiment, "_evaluate", lambda state, *rest: states.append(state) or evaluate(state, *rest)
    )
    overrides = {"data.standardise": True, "model.output": "linear", "train.num_steps": 8}
    experiment.run(small_config(**overrides), str(tmp_path))
    loaded = aae.load_state(str(tmp_path))
    images = data.load(experiment.parse_config(small_config()).data).test["image"]
    for function in (aae.encode, aae.reconstruct):
        np.testing.assert_array_equal(function(loaded, images), function(states[0], images))
    key = jax.random.key(0)
    np.testing.assert_array_equal(aae.generate(loaded, key, 5), aae.generate(states[0], key, 5))
    assert int(loaded.step) == 8
    with pytest.raises(UserError, match="must be the --workdir of a run"):
        aae.load_state(str(tmp_path / "figures"))


def test_scores_of_an_unfinished_model_do_not_survive_it(tmp_path, monkeypatch):
    workdir = str(tmp_path)
    with monkeypatch.context() as patch:
        interrupt(patch, 2, signal.SIGTERM)
        with pytest.raises(SystemExit):
            experiment.run(small_config(), workdir, "train")
    experiment.run(small_config(), workdir, "evaluate")
    experiment.run(small_config(), workdir, "figures")
    assert results(workdir)["steps"] < STEPS
    experiment.run(small_config(), workdir, "train")
    assert not os.path.exists(os.path.join(workdir, "results.json"))
    assert not os.path.exists(os.path.join(workdir, "figures"))


def test_evaluation_may_change_and_training_may_not(whole):
    experiment.run(small_config(**{"evaluation.num_samples": 100}), whole, "evaluate")
    assert results(whole)["parzen/num_samples"] == 100
    experiment.run(small_config(), whole)  # asks for 200: that score is missing
    assert results(whole)["parzen/num_samples"] == 200
    with pytest.raises(UserError, match=r"train.num_steps was 30, now 40.*--workdir"):
        experiment.run(small_config(**{"train.num_steps": 40}), whole)


LONG = {"evaluation.num_samples": 40_500}  # 6 rounds of 2,000 samples on each of 4 devices


@pytest.fixture
def dispatches(monkeypatch):
    """Every dispatch of a scoring pass is one round, and its sums are saved; returns their count."""
    monkeypatch.setattr(experiment, "_DISPATCH_SECONDS", 0.0)
    monkeypatch.setattr(experiment, "_SAVE_SECONDS", -1.0)
    done = []
    original = evaluation._add
    monkeypatch.setattr(
        evaluation, "_add", lambda *arguments: done.append(arguments[6]) or original(*arguments)
    )
    return done


@pytest.fixture(scope="module")
def long_results(whole, tmp_path_factory):
    """An uncut evaluation with `LONG`."""
    workdir = shutil.copytree(whole, tmp_path_factory.mktemp("long") / "run")
    experiment.run(small_config(**LONG), str(workdir), "evaluate")
    return results(workdir)


@pytest.mark.parametrize(
    "at, how", [(1, Killed), (3, signal.SIGTERM), (6, signal.SIGINT), (8, Killed)], ids=str
)
def test_a_cut_evaluation_goes_on_bit_identical(
    whole, long_results, tmp_path, monkeypatch, capsys, dispatches, how, at
):
    """6 dispatches for the validation images, then 6 for the test images."""
    workdir = str(shutil.copytree(whole, tmp_path / "run"))
    with monkeypatch.context() as patch:
        counted = evaluation._add

        def add(*arguments):
            if len(dispatches) == at - 1:
                if how is Killed:
                    raise Killed
                signal.raise_signal(how)
            return counted(*arguments)

        patch.setattr(evaluation, "_add", add)
        with pytest.raises((Killed, SystemExit)) as stopped:
            experiment.run(small_config(**LONG), workdir, "evaluate")
    if how is not Killed:
        assert stopped.value.code == 128 + how
        assert "the same command goes on from there" in capsys.readouterr().out
    assert results(workdir)["parzen/num_samples"] == 200
    # Sums of another model, or damaged ones, are not taken.
    partial = os.path.join(workdir, "partial")
    os.makedirs(partial, exist_ok=True)
    with open(os.path.join(partial, "0" * 64 + ".npz"), "wb") as file:
        file.write(b"damaged")
    first = len(dispatches)
    experiment.run(small_config(**LONG), workdir, "evaluate")
    assert results(workdir) == long_results
    assert not os.path.exists(partial)
    # What was saved is not done again; a signal is obeyed after the dispatch that it came in.
    assert len(dispatches) == 12 and first == (at - 1 if how is Killed else at)
    if how is not Killed:
        resumed = f"validation: going on from sample {min(at * 8_000, 40_500)}\n"
        assert resumed in capsys.readouterr().out


def test_damaged_and_foreign_sums_are_not_used(whole, long_results, tmp_path, dispatches):
    workdir = str(shutil.copytree(whole, tmp_path / "run"))
    partial = tmp_path / "run" / "partial"
    saved = []
    original = records.write_partial

    def spoil(path, done, sums):
        original(path, done, sums)
        saved.append(path)
        if len(saved) == 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "write_partial", spoil)
        with pytest.raises(Killed):
            experiment.run(small_config(**LONG), workdir, "evaluate")
    content = pathlib.Path(saved[0]).read_bytes()
    pathlib.Path(saved[0]).write_bytes(content[: len(content) // 2])
    dispatches.clear()
    experiment.run(small_config(**LONG), workdir, "evaluate")
    assert len(dispatches) == 12 and results(workdir) == long_results
    # A whole file of 40,500 samples says nothing about 200.
    partial.mkdir()
    (partial / os.path.basename(saved[0])).write_bytes(content)
    experiment.run(small_config(), workdir, "evaluate")
    assert results(workdir) == results(whole)


def test_long_evaluations_show_progress(whole, tmp_path, monkeypatch, capsys, dispatches):
    monkeypatch.setattr(experiment, "_QUIET_SECONDS", 0.0)
    workdir = str(shutil.copytree(whole, tmp_path / "run"))
    experiment.run(small_config(**LONG), workdir, "evaluate")
    lines = capsys.readouterr().out.splitlines()
    for label in ("validation", "test"):
        shown = [line for line in lines if line.startswith(f"{label}: sample ")]
        assert [line.split()[2].split("/")[0].strip(",") for line in shown] == [
            "8000", "16000", "24000", "32000", "40000", "40500"
        ]  # fmt: skip
        assert "samples/s" in shown[-1] and "s left" in shown[-1]


# The reconstruction's rate is 100 from the 14th step on: the run diverges within a few.
DIVERGING = {
    "optimizer.reconstruction.name": "sgd",
    "optimizer.reconstruction.learning_rate": 1e-5,
    "optimizer.reconstruction.schedule": "piecewise",
    "optimizer.reconstruction.boundaries": (13,),
    "optimizer.reconstruction.factors": (1e7,),
    "model.output": "linear",
}


def test_a_failure_is_traced_to_its_step_and_batch(tmp_path):
    workdir = str(tmp_path)
    config = small_config(**DIVERGING)
    config.run.stream = True  # so that the stream has gone past the step when it is repeated
    message = r"at step \d+ loss/.* is (nan|inf).*training stopped"
    with pytest.raises(UserError, match=message) as said:
        experiment.run(config, workdir)
    failure = json.load(open(tmp_path / "failure.json"))
    step = failure["step"]
    assert 14 <= step <= 20 and f"at step {step} " in str(said.value)
    # The checkpoint of step 12 (the dispatch that holds step 10 ended there) and its metrics stay.
    assert failure["last_checkpoint"] == 12
    assert [line["step"] for line in metrics(workdir)][:3] == [4, 8, 12]
    # From that checkpoint the steps before are finite and this one is not.
    state = aae.load_state(workdir)
    images = data.load(experiment.parse_config(config).data).train
    good, _ = training.train_steps(state, images, step - 1 - 12)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(good.params))
    _, bad = training.train_steps(good, images, 1)
    for name, value in failure["losses"].items():
        np.testing.assert_allclose(float(value), bad[f"loss/{name}"][0], rtol=1e-3)
    # Rows of the first epoch's order of the 1,297 images.
    order = np.asarray(training.epoch_permutation(state.rng, 0, 1_297))
    np.testing.assert_array_equal(failure["rows"], order[(step - 1) * 20 : step * 20])


def test_an_untrained_model_is_neither_scored_nor_drawn(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for mode in ("evaluate", "figures"):
        with pytest.raises(UserError, match="no checkpoint in .*: train first"):
            experiment.run(small_config(), str(tmp_path), mode)
    assert not os.path.exists(tmp_path / "results.json")


def test_clipping_is_of_the_norm_and_keeps_a_run_finite(tmp_path):
    """The learning rate that breaks `test_divergence_names_step_and_loss`, scaled to its clip."""
    overrides = {"optimizer.reconstruction.name": "sgd", "train.num_steps": 4}
    config = small_config(**overrides)
    config.optimizer.reconstruction.clip_norm = 1e-3
    config.optimizer.reconstruction.learning_rate = 1e2
    experiment.run(config, str(tmp_path), "train")
    assert [line["step"] for line in metrics(tmp_path)] == [4]
    with pytest.raises(UserError, match="optimizer.reconstruction.clip_norm was 0.001, now None"):
        config.optimizer.reconstruction.clip_norm = None
        experiment.run(config, str(tmp_path), "train")


def test_a_collapse_is_said_and_recorded(whole, tmp_path, capsys):
    config = small_config(**{"prior.std": 1e4, "run.steps_per_dispatch": 2})
    experiment.run(config, str(tmp_path / "point"), "train")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert sum("codes have collapsed" in line and "step 10" in line for line in said) == 1
    assert results(whole)["warnings"] == []
    workdir = shutil.copytree(whole, tmp_path / "run")
    shutil.copy(tmp_path / "point" / "metrics.jsonl", workdir / "metrics.jsonl")
    experiment.run(small_config(), str(workdir), "evaluate")
    assert [f"warning: {warning}" for warning in results(workdir)["warnings"]] == said


def test_a_second_run_in_a_workdir_is_refused(tmp_path):
    with records.at_work(str(tmp_path)):
        with pytest.raises(UserError, match="another run is at work in .*--workdir"):
            experiment.run(small_config(), str(tmp_path))
    assert os.listdir(tmp_path) == ["lock"]


def test_a_damaged_checkpoint_costs_only_its_steps(whole, tmp_path, capsys):
    workdir = shutil.copytree(whole, tmp_path / "run")
    (workdir / "checkpoints" / str(STEPS) / "default" / "manifest.ocdbt").write_bytes(b"")
    experiment.run(small_config(), str(workdir))
    said = capsys.readouterr().out
    assert "the checkpoint of step 30 is damaged" in said and "going on from step 20" in said
    for (path, found), (_, expected) in zip(final_arrays(workdir), final_arrays(whole)):
        np.testing.assert_array_equal(found, expected, err_msg=str(path))
    assert metrics(workdir) == metrics(whole)
    assert results(workdir) == results(whole)


def test_only_validation_images_choose_sigma_and_neighbours_are_training_images(
    tmp_path, monkeypatch
):
    from aae_jax import evaluation, figures

    seen = {}

    def evaluate(state, folds, spec, key, *rest):
        ((validation, test),) = folds
        seen.update(validation=validation["image"], test=test["image"], evaluation_key=key)
        return original(state, folds, spec, key, *rest)

    original = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    nearest = figures._nearest
    monkeypatch.setattr(
        figures,
        "_nearest",
        lambda state, images, train: seen.update(train=train) or nearest(state, images, train),
    )
    config = small_config(**{"train.num_steps": 8})
    experiment.run(config, str(tmp_path))
    loaded = data.load(experiment.parse_config(config).data)
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(seen[name], getattr(loaded, name)["image"])
    # The samples that are scored are not drawn with the key that made the parameters.
    initial = jax.random.fold_in(jax.random.key(config.seed), 0)
    assert (jax.random.key_data(seen["evaluation_key"]) != jax.random.key_data(initial)).any()


def test_partial_labels_and_standardised_pixels_reach_the_training(tmp_path, monkeypatch):
    seen = []
    original = experiment.train_steps

    def record(state, dataset, num_steps, **kwargs):
        seen.append((state, np.asarray(dataset["label"])))
        return original(state, dataset, num_steps, **kwargs)

    monkeypatch.setattr(experiment, "train_steps", record)
    config = small_config(
        **{
            "train.num_steps": 4,
            "data.standardise": True,
            "model.output": "linear",
            "model.code_dim": 2,
            "model.label_in_discriminator": True,
            "prior.name": "gaussian_mixture",
        }
    )
    config.data.num_labelled = 100
    experiment.run(config, str(tmp_path), "train")
    state, label = seen[0]
    np.testing.assert_array_equal(np.bincount(label[label >= 0]), np.full(10, 10))
    assert (label == -1).sum() == 1_297 - 100
    images = data.load(experiment.parse_config(config).data).train["image"].reshape(1_297, -1)
    np.testing.assert_allclose(state.pixel_mean, images.mean(axis=0), atol=1e-5)
    constant = images.std(axis=0) == 0
    assert constant.any() and (np.asarray(state.pixel_std)[constant] == 1).all()


def test_mistakes_leave_no_workdir(tmp_path):
    workdir = str(tmp_path / "run")
    for overrides, match in (
        ({"train.batch_size": 10}, "train.batch_size is 10.*4 devices"),
        ({"evaluation.num_validation": 251}, "evaluation.num_validation is 251.*250"),
        ({"data.num_classes": 9}, "data.num_classes is 9.*10"),
        ({"data.name": "cifar"}, "data.name is 'cifar'"),
        ({"prior.std": -1.0}, "prior.std is -1.0"),
    ):
        with pytest.raises(UserError, match=match):
            experiment.run(small_config(**overrides), workdir)
        assert not os.path.exists(workdir)
    for mode in ("evaluate", "figures"):
        with pytest.raises(UserError, match="no checkpoint in"):
            experiment.run(small_config(), workdir, mode)
        assert not os.path.exists(workdir)


def decoder_config(start_from, **overrides):
    """What `experiments/mnist.py:smooth` is to `experiments/mnist.py`."""
    config = small_config()
    config.algorithm = "decoder"
    config.start_from = start_from
    config.train.code_noise = 0.5
    config.optimizer = {"reconstruction": default.adam(1e-2, b1=0.9)}
    config.update_from_flattened_dict(overrides)
    return config


def test_a_decoder_is_trained_on_after_another_run(whole, tmp_path):
    workdir = str(tmp_path / "run")
    experiment.run(decoder_config(whole), workdir)
    before, after = aae.load_state(whole), aae.load_state(workdir)
    assert after.step == STEPS and after.params.keys() == {"encoder", "decoder"}
    jax.tree.map(np.testing.assert_array_equal, after.params["encoder"], before.params["encoder"])
    moved = np.abs(
        after.params["decoder"]["Dense_0"]["kernel"] - before.params["decoder"]["Dense_0"]["kernel"]
    )
    assert 0 < moved.max() < 0.5  # from there, not from new parameters
    assert np.isfinite(results(workdir)["parzen/log_likelihood"])
    for overrides, match in (
        ({"start_from": str(tmp_path / "none")}, "start_from is '.*none': no checkpoint in"),
        ({"prior.std": 4.0}, "start_from is '.*', a run of another prior"),
        ({"model.decoder_hidden": (8, 8)}, "start_from is '.*', a run of another model"),
        ({"num_seeds": 2}, "num_seeds is 2: start_from goes on from one"),
        ({"start_from": None}, "start_from is None: algorithm 'decoder' needs"),
    ):
        with pytest.raises(UserError, match=match):
            experiment.run(
                decoder_config(**{"start_from": whole, **overrides}), str(tmp_path / "refused")
            )
        assert not os.path.exists(tmp_path / "refused")


def test_a_run_that_is_taken_up_needs_no_earlier_one(whole, tmp_path):
    first, workdir = str(tmp_path / "first"), str(tmp_path / "run")
    shutil.copytree(whole, first)
    experiment.run(decoder_config(first), workdir, "train")
    shutil.rmtree(first)
    experiment.run(decoder_config(first), workdir)
    assert np.isfinite(results(workdir)["parzen/log_likelihood"])


def test_workdir_that_is_a_file(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="which is a file"):
        experiment.run(small_config(), str(tmp_path / "run"))


def test_training_sees_training_images_only(tmp_path, monkeypatch):
    loaded = data.load(experiment.parse_config(small_config()).data)
    seen = []

    def record(state, dataset, num_steps, **kwargs):
        seen.append(np.asarray(dataset["image"]))
        return original(state, dataset, num_steps, **kwargs)

    original = experiment.train_steps
    monkeypatch.setattr(experiment, "train_steps", record)
    experiment.run(small_config(**{"train.num_steps": 8}), str(tmp_path), "train")
    for images in seen:
        np.testing.assert_array_equal(images, loaded.train["image"])


def test_seeds_in_one_program_end_as_the_runs_of_each(tmp_path, x64, capsys):
    common = {
        "train.num_steps": 12,
        "model.param_dtype": "float64",
        "model.compute_dtype": "float64",
        "model.label_in_discriminator": True,
        "evaluation.num_samples": 50,
        "seed": 4,
    }

    def config(**changes):
        made = small_config(**{**common, **changes})
        made.data.num_labelled = 100  # which, the seed decides
        return made

    together = tmp_path / "together"
    experiment.run(config(num_seeds=2), str(together), "train")
    experiment.run(config(num_seeds=2), str(together), "evaluate")
    assert "mean of 2 seeds" in capsys.readouterr().out
    found = results(together)
    assert [scores["seed"] for scores in found["by_seed"]] == [4, 5]
    scores = []
    for seed in (4, 5):
        alone = tmp_path / str(seed)
        experiment.run(config(seed=seed), str(alone), "train")
        experiment.run(config(seed=seed), str(alone), "evaluate")
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
    with pytest.raises(UserError, match="seed is 6: the run .* has 4, 5"):
        aae.load_state(str(together), seed=6)


def test_of_several_seeds_the_one_that_diverges_is_named(tmp_path, monkeypatch):
    create = experiment.ensemble.create

    def one_explodes(*arguments):
        state = create(*arguments)
        scale = {k: np.float32([1.0, 1e25]) * v for k, v in state.learning_rate_scale.items()}
        return state.replace(learning_rate_scale=scale)

    monkeypatch.setattr(experiment.ensemble, "create", one_explodes)
    with pytest.raises(UserError, match=r"at step \d+ of seed 1 loss/"):
        experiment.run(small_config(num_seeds=2), str(tmp_path), "train")
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert failure["seed"] == 1 and len(failure["rows"]) == 20


@pytest.mark.parametrize("changes", [{"parallel.runner": "pmap"}, {"run.stream": True}])
def test_several_seeds_need_one_program_and_resident_images(tmp_path, changes):
    with pytest.raises(UserError, match="num_seeds is 2 with"):
        experiment.run(small_config(num_seeds=2, **changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_some_fields_is_read_and_goes_on(whole, tmp_path, capsys):
    workdir = shutil.copytree(whole, tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    for name in ("num_seeds", "parallel", "start_from"):
        del config[name]
    (workdir / "config.json").write_text(json.dumps(config))
    assert aae.load_state(str(workdir)).step == STEPS
    experiment.run(small_config(), str(workdir))
    assert "training is finished" in capsys.readouterr().out


def test_a_disk_without_locks_is_a_warning(whole, tmp_path, monkeypatch, capsys):
    def refuse(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    workdir = str(shutil.copytree(whole, tmp_path / "run"))
    monkeypatch.setattr(records.fcntl, "flock", refuse)
    experiment.run(small_config(), workdir, "train")
    assert "has no locks" in capsys.readouterr().out
