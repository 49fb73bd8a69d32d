"""An interrupted scoring pass resumes where it was, to the same bits."""

import os
import pathlib
import shutil
import signal

import numpy as np
import pytest
from runs import LONG, Killed, results, small_config

import aae_jax as aae
from aae_jax import bandwidth, evaluation, experiment, measures
from aae_jax.config import parse_config
from aae_jax.parzen import bound
from aae_jax.workdir import records, scoring


@pytest.fixture
def dispatches(monkeypatch):
    """Each dispatch of a scoring pass is one round with saved sums; returns the rounds so far."""
    monkeypatch.setattr(scoring, "_DISPATCH_SECONDS", 0.0)
    monkeypatch.setattr(scoring, "_SAVE_SECONDS", -1.0)
    done = []
    original = evaluation._add_drawn

    def add(*arguments):
        done.append(arguments[1])  # the first round
        return original(*arguments)

    monkeypatch.setattr(evaluation, "_add_drawn", add)
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that is trained and scored with few samples."""
    workdir = str(tmp_path_factory.mktemp("trained"))
    experiment.run(small_config(), workdir, "train")
    experiment.run(small_config(), workdir, "evaluate")
    return workdir


@pytest.fixture(scope="module")
def long_results(trained, tmp_path_factory):
    """An uncut evaluation with `LONG`."""
    workdir = shutil.copytree(trained, tmp_path_factory.mktemp("long") / "run")
    experiment.run(small_config(**LONG), str(workdir), "evaluate")
    return results(workdir)


@pytest.mark.parametrize(
    "at, how", [(1, Killed), (3, signal.SIGTERM), (6, signal.SIGINT), (8, Killed)]
)
def test_a_cut_evaluation_goes_on_bit_identical(
    trained, long_results, tmp_path, monkeypatch, capsys, dispatches, how, at
):
    """6 dispatches for the validation images, then 6 for the test images."""
    workdir = str(shutil.copytree(trained, tmp_path / "run"))
    with monkeypatch.context() as patch:
        counted = evaluation._add_drawn

        def add(*arguments):
            if len(dispatches) == at - 1:
                if how is Killed:
                    raise Killed
                signal.raise_signal(how)
            return counted(*arguments)

        patch.setattr(evaluation, "_add_drawn", add)
        with pytest.raises((Killed, SystemExit)) as stopped:
            experiment.run(small_config(**LONG), workdir, "evaluate")
    if how is not Killed:
        assert stopped.value.code == 128 + how
        assert "the same command resumes from there" in capsys.readouterr().out
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
    # Rounds that were saved are not done again; a signal is obeyed after the dispatch it came in.
    assert dispatches == 2 * [0, 1, 2, 3, 4, 5]
    assert first == (at - 1 if how is Killed else at)
    if how is not Killed:
        resumed = f"validation: resuming from sample {min(at * 8_000, 40_500)}\n"
        assert resumed in capsys.readouterr().out


def test_damaged_and_foreign_sums_are_not_used(trained, long_results, tmp_path, dispatches):
    workdir = str(shutil.copytree(trained, tmp_path / "run"))
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
    assert results(workdir) == results(trained)


@pytest.fixture
def screened(monkeypatch):
    """Samples that are too far are left out, and each is drawn once, from 40,000 samples on."""
    monkeypatch.setattr(bound, "_FEWEST_POINTS", 1)
    monkeypatch.setattr(bound, "_FEWEST_SAMPLES", 40_000)
    monkeypatch.setattr(bound, "_FEWEST_COLUMNS", 1)
    monkeypatch.setattr(bandwidth, "FEW", 4_000)


def test_samples_are_left_out_and_drawn_once(
    trained, long_results, tmp_path, monkeypatch, capsys, screened, dispatches
):
    """Of 64 pixels almost all are components: few samples are left out, but the sums are others."""
    whole = str(shutil.copytree(trained, tmp_path / "whole"))
    experiment.run(small_config(**LONG), whole, "evaluate")
    found, printed = results(whole), capsys.readouterr().out
    share = found.pop("parzen/multiplied_share")
    assert 0 < share < 1 and f"multiplied {100 * share:.2g} % of images × samples" in printed
    assert long_results["parzen/multiplied_share"] == 1
    assert {**found, "parzen/multiplied_share": 1.0}.keys() == long_results.keys()
    for name, value in found.items():
        if name.startswith("parzen/"):
            assert value == pytest.approx(long_results[name], abs=1e-3), name
    # Cut in the one pass over all samples, it goes on to the same bits.
    counted, number = evaluation._add_drawn, len(dispatches)
    assert number == 3
    cut = str(shutil.copytree(trained, tmp_path / "cut"))

    def add(*arguments):
        if len(dispatches) == number + 2:
            raise Killed
        return counted(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "_add_drawn", add)
        with pytest.raises(Killed):
            experiment.run(small_config(**LONG), cut, "evaluate")
    experiment.run(small_config(**LONG), cut, "evaluate")
    assert results(cut) == {**found, "parzen/multiplied_share": share}
    assert dispatches[number:] == [0, 0, 1]


def test_long_evaluations_show_progress(trained, tmp_path, monkeypatch, capsys, dispatches):
    monkeypatch.setattr(scoring, "_QUIET_SECONDS", 0.0)
    workdir = str(shutil.copytree(trained, tmp_path / "run"))
    experiment.run(small_config(**LONG), workdir, "evaluate")
    lines = capsys.readouterr().out.splitlines()
    for name in ("validation", "test"):
        shown = [line for line in lines if line.startswith(f"{name}: sample ")]
        assert [line.split()[2].split("/")[0].strip(",") for line in shown] == [
            "8000", "16000", "24000", "32000", "40000", "40500"
        ]  # fmt: skip
        assert "samples/s" in shown[-1] and "s left" in shown[-1]


def test_what_fails_after_the_scores_does_not_lose_them(trained, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("of an algorithm's own")

    workdir = shutil.copytree(trained, tmp_path / "run")
    (workdir / "results.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(measures, "diagnose", fail)
        with pytest.raises(RuntimeError):
            experiment.run(small_config(), str(workdir), "evaluate")
    kept, whole = results(workdir), results(trained)
    assert kept.items() <= whole.items() and np.isfinite(kept["parzen/log_likelihood"])
    state = aae.load_state(trained)
    settings = parse_config(small_config())
    assert scoring.is_scored(state, settings, trained)
    assert not scoring.is_scored(state, settings, str(workdir))  # it will be done again


def test_a_number_that_a_seed_has_not_is_none_in_the_mean():
    scores = [
        {"seed": i, "a": float(i), "b": [1.0, b], "c": c}
        for i, b, c in ((0, None, 1.0), (2, 3.0, None))
    ]
    found = scoring._over_seeds(scores)
    assert (found["a"], found["b"], found["c"]) == (1.0, [1.0, None], None)
    assert found["spread"] == {"a": 2**0.5}
