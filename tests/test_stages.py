"""Runs that start from another run: its directory, what it takes over, and interruptions."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from runs import (
    ROOT,
    Killed,
    assert_same_arrays,
    assert_same_training,
    finetuning_config,
    interrupt,
    launch,
    metrics,
    results,
    small_config,
    write_part,
)
from small import refused

import aae_jax as aae
from aae_jax import experiment
from aae_jax.errors import UserError
from aae_jax.train_state import inference_params

PART_STEPS, STEPS = 12, 8


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """A config file, and its argument, to start from."""
    return f"{write_part(tmp_path_factory.mktemp('configs'))}:0.2"


@pytest.fixture(scope="module")
def uncut(tmp_path_factory, part):
    """The directory of a part, "part-0.2", and of the run that started from it, "run"."""
    directory = tmp_path_factory.mktemp("uncut")
    experiment.run(finetuning_config(part), str(directory / "run"), "train")
    experiment.run(finetuning_config(part), str(directory / "run"), "evaluate")
    return directory


def assert_starts_from(before, after):
    """The encoder is the earlier model's, and the decoder has moved a little from it."""
    earlier = inference_params(before)
    jax.tree.map(np.testing.assert_array_equal, after.params["encoder"], earlier["encoder"])
    for name, layer in after.params["decoder"].items():
        distance = np.abs(layer["kernel"] - earlier["decoder"][name]["kernel"]).max()
        assert 0 < distance < 0.1, name


def test_a_config_is_trained_first_and_beside_the_run(uncut):
    assert sorted(os.listdir(uncut)) == ["part-0.2", "run"]
    assert metrics(uncut / "part-0.2")[-1]["step"] == PART_STEPS
    assert metrics(uncut / "run")[-1]["step"] == STEPS
    before, after = (aae.load_state(str(uncut / name)) for name in ("part-0.2", "run"))
    assert after.params.keys() == {"encoder", "decoder"}
    assert_starts_from(before, after)
    assert np.isfinite(results(uncut / "run")["parzen/log_likelihood"])
    assert not (uncut / "part-0.2" / "results.json").exists()  # it is trained only


def test_a_part_takes_over_seed_data_and_devices_and_keeps_its_own_model(uncut):
    now, then = (
        json.loads((uncut / name / "config.json").read_text()) for name in ("run", "part-0.2")
    )
    for field in ("seed", "num_seeds", "data", "parallel"):
        assert then[field] == now[field], field
    assert then["seed"] == 3 and then["data"]["num_labelled"] is None
    assert then["algorithm"] == "aae" and then["prior"]["std"] == 4.0
    assert then["train"]["num_steps"] == PART_STEPS and then["train"]["ema_decay"] == 0.9
    assert then["train"]["input_noise"] == 0.2  # the argument


@pytest.mark.parametrize(
    "where, how, at_write",
    [("part", signal.SIGTERM, 1), ("part", Killed, 2), ("between", Killed, 0), ("run", Killed, 5)],
)
def test_a_chain_that_is_cut_anywhere_ends_bit_identical(
    uncut, part, tmp_path, monkeypatch, where, how, at_write
):
    def kill(*arguments):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises((Killed, SystemExit)) as stopped:
        if where == "between":
            patch.setattr(experiment, "take_networks", kill)
        else:
            interrupt(patch, at_write, how)
        experiment.run(finetuning_config(part), str(tmp_path / "run"), "train")
    if how is not Killed:
        assert stopped.value.code == 128 + how
    assert (tmp_path / "run").exists() == (where != "part")
    if where == "run":  # it has a checkpoint, and needs no part any more
        shutil.rmtree(tmp_path / "part-0.2")
    experiment.run(finetuning_config(part), str(tmp_path / "run"), "train")
    if where != "run":
        assert_same_training(tmp_path / "part-0.2", uncut / "part-0.2")
    assert_same_training(tmp_path / "run", uncut / "run")


def test_a_finished_part_serves_other_runs_by_its_config_and_by_its_directory(
    uncut, part, tmp_path, capsys
):
    shutil.copytree(uncut / "part-0.2", tmp_path / "part-0.2")
    checkpoint = tmp_path / "part-0.2" / "checkpoints" / str(PART_STEPS)
    before = checkpoint.stat().st_mtime_ns
    for name, start_from in (("again", part), ("named", tmp_path / "part-0.2")):
        experiment.run(finetuning_config(str(start_from)), str(tmp_path / name), "train")
        assert_same_arrays(tmp_path / name, uncut / "run")
    assert checkpoint.stat().st_mtime_ns == before
    assert f"training is finished: {PART_STEPS} steps" in capsys.readouterr().out


@pytest.mark.parametrize("max_steps, warned", [(None, True), (8, False)])
def test_to_start_from_an_unfinished_run_is_one_warning(uncut, tmp_path, capsys, max_steps, warned):
    part = shutil.copytree(uncut / "part-0.2", tmp_path / "part")
    shutil.rmtree(part / "checkpoints" / str(PART_STEPS))  # the one before is of step 8
    config = json.loads((part / "config.json").read_text())
    config["run"]["max_steps"] = max_steps
    (part / "config.json").write_text(json.dumps(config))
    experiment.run(finetuning_config(str(part)), str(tmp_path / "run"), "train")
    warning = f"warning: start_from is {str(part)!r}, a run with 8 of {PART_STEPS} steps done\n"
    printed = capsys.readouterr().out
    assert (warning in printed, "warning" in printed) == (warned, warned)
    assert metrics(tmp_path / "run")[-1]["step"] == STEPS


def test_the_length_of_a_part_can_not_be_changed_afterwards(uncut, part):
    config = finetuning_config(part, **{"run.max_steps": STEPS})
    match = r"run.max_steps was None, now 8: the run in .* started from .*part.py:0.2"
    with pytest.raises(UserError, match=match):
        experiment.run(config, str(uncut / "run"), "train")


def test_a_part_may_start_from_a_part(uncut, part, tmp_path):
    """Single layers, then all layers: three runs beside each other."""
    (tmp_path / "second.py").write_text(
        "from runs import finetuning_config\n\n\n"
        f"def get_config():\n    return finetuning_config({part!r})\n"
    )
    config = finetuning_config(str(tmp_path / "second.py"))
    experiment.run(config, str(tmp_path / "runs" / "third"), "train")
    assert sorted(os.listdir(tmp_path / "runs")) == ["part-0.2", "second", "third"]
    assert_same_training(tmp_path / "runs" / "part-0.2", uncut / "part-0.2")
    assert_same_training(tmp_path / "runs" / "second", uncut / "run")
    second, third = (aae.load_state(str(tmp_path / "runs" / n)) for n in ("second", "third"))
    assert_starts_from(second, third)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"start_from": "none.py"}, f"start_from is 'none.py': there is no file '{ROOT}/none.py'"),
        ({"start_from": "/none"}, "start_from is '/none': no checkpoint in '/none'"),
        ({"start_from": "{part}x"}, "start_from is .*part.py:0.2x': could not convert string"),
        (
            {"start_from": "experiments/fig2.py:z"},
            "start_from is 'experiments/fig2.py:z': the config's argument is 'z'",
        ),
        ({"start_from": None}, "start_from is None: .* starts from the encoder and decoder"),
        (
            {"algorithm": "aae", "options": {}},
            "start_from is .*: algorithm 'aae' does not start from",
        ),
        (
            {"model.decoder_hidden": (16, 8)},
            r"a run with another decoder: Dense_1/bias is \(16,\) there, \(8,\) here",
        ),
        (
            {"model.posterior": "gaussian"},
            r"a run with another encoder: Dense_2/bias is \(6,\) there, \(12,\) here",
        ),
        (
            {"model.code_scale": 5.0},
            r"a run with model.code_scale=None: it is 5.0 here, and must be the same",
        ),
        ({"model.output": "linear"}, r"a run with model.output=sigmoid: it is linear here"),
        ({"model.decoder_hidden": (16,)}, r"Dense_1/bias is \(16,\) there, \(64,\) here"),
        # A path is of the project, wherever the command is given.
        ({"start_from": "experiments/digits.py"}, r"Dense_0/bias is \(500,\) there, \(16,\) here"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_trained(
    part, tmp_path, monkeypatch, changes, said
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment.data, "load", lambda spec: pytest.fail("data were loaded"))
    changes = {"start_from": part, **changes}
    if changes["start_from"] is not None:
        changes["start_from"] = changes["start_from"].format(part=part)
    with pytest.raises(UserError, match=said) as error:
        experiment.run(finetuning_config(**changes), str(tmp_path / "run"))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_other_units_is_refused(tmp_path):
    before = small_config(**{"data.standardise": True, "model.output": "linear"})
    start_from = tmp_path / "before"
    (start_from / "checkpoints").mkdir(parents=True)
    (start_from / "config.json").write_text(before.to_json_best_effort())
    config = finetuning_config(str(start_from), **{"model.output": "linear"})
    match = (
        "^start_from is '.*before', a run with data.standardise=True: it is False here, and must"
    )
    with refused(match):
        experiment.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"seed": 4}, "seed was 3, now 4"),
        ({"num_seeds": 2}, "num_seeds was 1, now 2"),
        ({"data.num_labelled": 50}, "data.num_labelled was None, now 50"),
        ({"run.max_steps": 4}, "run.max_steps is 4: the run in"),
        ({"part": "train.input_noise"}, "train.input_noise was 0.2, now 0.3"),
    ],
)
def test_a_directory_that_holds_another_part_is_refused(uncut, tmp_path, part, changes, said):
    changes = dict(changes)
    if changes.pop("part", None):  # another config, for which the directory's name is taken
        path = write_part(tmp_path)
        path.write_text(path.read_text().replace("float(noise)", "0.3"))
        part = f"{path}:0.2"
    before = metrics(uncut / "part-0.2")
    with pytest.raises(
        UserError, match="start_from is '.*part-0.2' h(olds a run|as done)"
    ) as error:
        experiment.run(finetuning_config(part, **changes), str(uncut / "other"))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (uncut / "other").exists() and metrics(uncut / "part-0.2") == before


def test_a_part_can_not_be_trained_where_the_run_is(part, tmp_path):
    with pytest.raises(UserError, match="start_from is .*: it is trained in .*another --workdir"):
        experiment.run(finetuning_config(part), str(tmp_path / "part-0.2"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_of_several_seeds_each_starts_from_its_own(part, tmp_path):
    experiment.run(finetuning_config(part, num_seeds=2), str(tmp_path / "run"), "train")
    first = str(tmp_path / "part-0.2")
    for seed in (3, 4):
        before, after = (aae.load_state(w, seed=seed) for w in (first, str(tmp_path / "run")))
        assert_starts_from(before, after)
    # One of them may go on alone, and none that is not there.
    experiment.run(finetuning_config(first, seed=4), str(tmp_path / "alone"), "train")
    assert_starts_from(aae.load_state(first, seed=4), aae.load_state(str(tmp_path / "alone")))
    for changes, said in (
        ({"seed": 5}, "a run with seeds 3, 4: this one has 5"),
        ({"seed": 4, "num_seeds": 2}, "a run with seeds 3, 4: this one has 4, 5"),
    ):
        with pytest.raises(UserError, match=said):
            experiment.run(finetuning_config(first, **changes), str(tmp_path / "refused"))
        assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_one_command_trains_all_parts_of_a_committed_config_as_short_as_asked(tmp_path):
    done = launch(
        tmp_path,
        f"--config={ROOT}/experiments/mnist.py:smooth",
        "--config.data.name=digits",
        "--config.data.image_shape=(8,8,1)",
        "--config.evaluation.num_samples=100",
        "--config.evaluation.num_validation=100",
        "--config.options.code_noise=0.5",
        "--config.run.max_steps=5",
    )
    assert (done.returncode, done.stderr) == (0, "")
    runs = tmp_path / "runs"
    assert sorted(os.listdir(runs)) == ["mnist", "mnist-smooth"]
    assert "first experiments/mnist.py, in runs/mnist" in done.stdout
    assert [metrics(path)[-1]["step"] for path in sorted(runs.iterdir())] == [5, 5]
    config = json.loads((runs / "mnist-smooth" / "config.json").read_text())
    assert config["options"] == {"code_noise": 0.5}
    assert np.isfinite(results(runs / "mnist-smooth")["parzen/log_likelihood"])
    assert (runs / "mnist-smooth" / "figures" / "samples.png").exists()
