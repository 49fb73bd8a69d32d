"""`python -m aae_jax`: its output equals the functions' results, and each mistake is one line."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT
from runs import environment, small_config
from small import make_spec, refused

import aae_jax as aae
from aae_jax import __main__ as command, arrays, commands, data, experiment
from aae_jax.config import parse_config

RNG = np.random.default_rng(0)
SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of trained runs: "plain", and one with labels and two seeds."""
    directory = tmp_path_factory.mktemp("runs")
    short = {"train.num_steps": 4, "parallel.num_devices": 1}
    made = {
        "plain": small_config(**short),
        "labels": small_config(
            **short, **{"num_seeds": 2, "seed": 5, "model.label_in_decoder": True}
        ),
    }
    for name, config in made.items():
        experiment.run(config, str(directory / name), "train")
    return directory


@pytest.fixture
def run(runs, tmp_path, monkeypatch, capsys):
    """Runs the command in this process: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    for name in os.listdir(runs):
        os.symlink(runs / name, name)
    monkeypatch.setattr(commands, "_BLOCK", 16)

    def run(*arguments):
        capsys.readouterr()
        return command.main(["aae_jax", *arguments]), *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def state(runs):
    return aae.load_state(runs / "plain")


@pytest.fixture(scope="module")
def dataset():
    return data.load(parse_config(small_config()).data)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_real_command(run, runs):
    done = subprocess.run(
        [sys.executable, "-m", "aae_jax", "sample", "--workdir=plain", "--num_samples=3",
         "--output=samples.npy"],
        env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done
    assert "samples.npy: images float32[3, 8, 8, 1]" in done.stdout
    assert np.load("samples.npy").shape == (3, *SHAPE)


def test_output_that_goes_nowhere_costs_no_work(run, runs):
    """A closed pipe, and an encoding that lacks characters."""
    variables = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    arguments = "sample --workdir=plain --num_samples=3 --output=samples.npy".split()
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "aae_jax", *arguments], env=environment(**variables), stdout=writer,
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 0 and done.stderr == "", done
    assert np.load("samples.npy").shape == (3, *SHAPE)
    done = subprocess.run(
        [sys.executable, "-m", "aae_jax", "--help"], env=environment(**variables),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr, done


@pytest.mark.parametrize("split", [None, "train", "validation"])
def test_codes_of_the_runs_own_data(run, state, dataset, split):
    arguments = [] if split is None else [f"--split={split}"]
    assert run("encode", "--workdir=plain", "--output=codes.npz", *arguments)[0] == 0
    expected = getattr(dataset, split or "test")
    found = np.load("codes.npz")
    assert sorted(found.files) == ["codes", "labels"] and found["codes"].dtype == np.float32
    close(found["codes"], aae.encode(state, expected["image"]))
    np.testing.assert_array_equal(found["labels"], expected["label"])


def test_files_come_and_go(run, state):
    images = RNG.integers(0, 256, (40, *SHAPE), np.uint8)
    np.save("images.npy", images)
    np.savez("several.npz", images=images / 255.0, other=np.zeros(3))
    np.savez("named.npz", other=np.zeros((3, 2)), mine=images)
    expected = aae.encode(state, images)
    for given in ("images.npy", "several.npz", "named.npz:mine"):
        assert run("encode", "--workdir=plain", f"--input={given}", "--output=codes.npy")[0] == 0
        close(np.load("codes.npy"), expected)
    assert run("decode", "--workdir=plain", "--input=codes.npy", "--output=x_hat.npz")[0] == 0
    close(np.load("x_hat.npz")["images"], aae.decode(state, expected))
    assert not [name for name in os.listdir() if name.endswith(".part")]


def test_home_is_expanded(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save("images.npy", np.zeros((3, *SHAPE)))
    arguments = ("--workdir=~/plain", "--input=~/images.npy", "--output=~/codes.npy")
    assert run("encode", *arguments)[0] == 0 and os.path.isfile("codes.npy")


def test_scores(run, state, dataset):
    status, printed, _ = run("score", "--workdir=plain", "--output=scores.npz")
    assert status == 0 and "image 250/250" in printed
    found, expected = np.load("scores.npz"), aae.score(state, dataset.test["image"])
    assert sorted(found.files) == ["by_pixel", "code", "labels", "reconstruction"]
    for name, values in expected._asdict().items():
        close(found[name], values)
    np.testing.assert_array_equal(found["labels"], dataset.test["label"])


def test_samples(run, state):
    arguments = ("--workdir=plain", "--num_samples=40", "--output=samples.npy")
    assert run("sample", *arguments, "--seed=3")[0] == 0
    keys = [jax.random.fold_in(jax.random.key(3), block) for block in range(3)]
    expected = np.concatenate([aae.generate(state, key, 16) for key in keys])[:40]
    close(np.load("samples.npy"), expected)
    assert run("sample", *arguments)[0] == 0  # replaces the file
    assert np.abs(np.load("samples.npy") - expected).max() > 1e-3


def test_labels_and_runs_of_several_seeds(run, runs, dataset):
    second = aae.load_state(runs / "labels", seed=6)
    of_second = ("--workdir=labels", "--run_seed=6")
    z = RNG.normal(size=(20, second.spec.model.code_dim)).astype(np.float32)
    labels = np.arange(20) % 10
    np.save("codes.npy", z)
    np.savez("codes.npz", codes=z, labels=labels)
    for arguments, label in (
        (["--input=codes.npy", "--label=3"], 3),
        (["--input=codes.npz"], labels),
    ):
        assert run("decode", *of_second, *arguments, "--output=x.npz")[0] == 0
        found = np.load("x.npz")
        close(found["images"], aae.decode(second, z, label))
        np.testing.assert_array_equal(found["labels"], np.broadcast_to(label, 20))
    assert run("score", *of_second, "--output=scores.npz")[0] == 0  # the data's own labels
    close(
        np.load("scores.npz")["reconstruction"],
        aae.score(second, dataset.test["image"], dataset.test["label"]).reconstruction,
    )
    assert run("sample", *of_second, "--num_samples=5", "--label=7", "--output=s.npz")[0] == 0
    expected = aae.generate(second, jax.random.fold_in(jax.random.key(0), 0), 5, 7)
    close(np.load("s.npz")["images"], expected)
    assert (np.load("s.npz")["labels"] == 7).all()


def test_stochastic_posteriors_and_conditions(tmp_path):
    universal = aae.create_train_state(make_spec(model={"posterior": "universal"}), 0)
    images = RNG.uniform(size=(5, *universal.spec.image_shape)).astype(np.float32)
    rows, path = commands.Rows(images, "--input"), str(tmp_path / "codes.npy")
    with refused("or --seed on the command line"):
        commands.encode(universal, rows, path)
    assert not os.listdir(tmp_path)
    commands.encode(universal, rows, path, seed=1)
    key = jax.random.fold_in(jax.random.key(1), 0)
    close(np.load(path), aae.encode(universal, images, key))

    model = aae.ModelSpec(code_dim=2, condition_in_decoder=True, decoder_hidden=(8,))
    spec = aae.Spec(universal.spec.image_shape, condition_dim=2, model=model)
    state = aae.create_train_state(spec, 0)
    path = str(tmp_path / "samples.npz")
    rows = commands.for_all(commands.rows_of_samples(4), None, [0.5, -1.0])
    commands.sample(state, rows, path)
    key = jax.random.fold_in(jax.random.key(0), 0)
    close(np.load(path)["images"], aae.generate(state, key, 4, condition=[0.5, -1.0]))
    z = RNG.normal(size=(4, 2)).astype(np.float32)
    with refused("give --condition"):
        commands.decode(state, commands.Rows(z, "--input"), path)
    commands.decode(state, commands.for_all(commands.Rows(z, ""), None, [0.5, -1.0]), path)
    close(np.load(path)["images"], aae.decode(state, z, condition=np.float32([0.5, -1.0])))
    with refused("it must be finite"):
        commands.sample(state, commands.for_all(rows, None, [0.5, np.nan]), path)


def test_exported_programs(run, state):
    os.mkdir("programs")
    status, printed, _ = run("export", "--workdir=plain", "--output=programs")
    assert status == 0 and "encode.stablehlo: float32[b,8,8,1]" in printed
    assert sorted(os.listdir("programs")) == ["decode.stablehlo", "encode.stablehlo"]
    with open("programs/encode.stablehlo", "rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    images = RNG.uniform(size=(3, *SHAPE)).astype(np.float32)
    close(program.call(images), aae.encode(state, images))


def test_a_file_is_there_when_it_is_whole(run, tmp_path, monkeypatch):
    np.save("old.npy", np.zeros(1))
    images = np.zeros((40, *SHAPE), np.float32)
    images[33] = 7.0  # in the third block
    np.save("images.npy", images)
    arguments = ("encode", "--workdir=plain", "--input=images.npy", "--output=old.npy")
    status, _, errors = run(*arguments)
    assert status == 2 and "rows 32 to 39: images range from 0 to 7" in errors
    assert np.load("old.npy").shape == (1,) and not os.path.exists("old.npy.part")

    def full(*_):
        raise OSError(28, "No space left on device")

    def interrupted(*_):
        raise KeyboardInterrupt

    np.save("images.npy", np.zeros((40, *SHAPE), np.float32))
    for error, status in ((full, 2), (interrupted, 130)):
        monkeypatch.setattr(arrays, "_write_rows", error)
        found, _, errors = run(*arguments)
        assert found == status and errors.count("\n") == 1
        assert np.load("old.npy").shape == (1,) and not os.path.exists("old.npy.part")


def save_bad_files():
    """One for every kind of mistake."""
    np.save("good.npy", np.zeros((3, *SHAPE)))
    np.save("codes.npy", np.zeros((3, 6)))
    np.save("nan.npy", np.full((3, 6), np.nan))
    np.save("flat.npy", np.zeros((3, 64)))
    np.save("wide.npy", np.full((3, *SHAPE), 3.0))
    np.save("integers.npy", np.zeros((3, *SHAPE), np.int64))
    np.save("empty.npy", np.zeros((0, *SHAPE)))
    np.save("words.npy", np.full(3, "a"))
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    np.savez("several.npz", a=np.zeros(3), b=np.zeros(3))
    np.savez("labels.npz", codes=np.zeros((3, 6)), labels=np.array([0, 1, 17]))
    np.savez("short.npz", images=np.zeros((3, *SHAPE)), labels=np.zeros(2, int))
    with open("text.npy", "w") as file:
        file.write("no array")
    whole = open("good.npy", "rb").read()
    open("cut.npy", "wb").write(whole[:200])


ENCODE = ("encode", "--workdir=plain", "--output=out.npz")
DECODE = ("decode", "--workdir=plain", "--output=out.npz")
SAMPLE = ("sample", "--workdir=plain", "--output=out.npz")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((), "the command is missing: it must be one of encode, decode"),
        (("enocde",), "the command is enocde"),
        (("encode", "codes.npz"), "the command is encode codes.npz"),
        ((*ENCODE, "--inptu=x"), "Unknown command line flag 'inptu'"),
        (
            (*ENCODE, "--num_samples=3"),
            "--num_samples is not a flag of encode, which takes --workdir",
        ),
        ((*ENCODE, "--split=half"), "value should be one of <train|validation|test>"),
        ((*SAMPLE, "--num_samples=many"), "num_samples"),
        (("encode", "--output=out.npz"), "--workdir is missing"),
        (("encode", "--workdir=plain"), "--output is missing"),
        (DECODE, "--input is missing"),
        (SAMPLE, "--num_samples is missing"),
        ((*ENCODE, "--input=good.npy", "--split=test"), "--input and --split"),
        ((*ENCODE, "--workdir=nope"), "no checkpoint in 'nope'"),
        ((*ENCODE, "--run_seed=9"), "seed or --run_seed is 9: the run in 'plain' has seed 0"),
        ((*ENCODE, "--output=nope/out.npz"), "there is no directory"),
        ((*ENCODE, "--output=out.txt"), "must end in .npy or .npz"),
        (("score", "--workdir=plain", "--output=out.npy"), "must end in .npz"),
        (("export", "--workdir=plain", "--output=nope"), "there is no such directory"),
        ((*ENCODE, "--input=nope.npy"), "'nope.npy': there is no such file"),
        ((*ENCODE, "--input=text.npy"), "neither an npy nor an npz file"),
        ((*ENCODE, "--input=cut.npy"), "can't be read"),
        ((*ENCODE, "--input=objects.npy"), "holds Python objects"),
        ((*ENCODE, "--input=words.npy"), "must hold numbers"),
        ((*ENCODE, "--input=empty.npy"), "it has no rows"),
        ((*ENCODE, "--input=several.npz"), "write several.npz:NAME, with NAME one of a, b"),
        ((*ENCODE, "--input=several.npz:c"), "holds no array 'c'"),
        ((*ENCODE, "--input=short.npz"), "one row for each row of images"),
        ((*ENCODE, "--input=flat.npy"), r"must be [B, 8, 8, 1]"),
        ((*ENCODE, "--input=wide.npy"), "floats must lie in [0, 1]"),
        ((*ENCODE, "--input=integers.npy"), "give uint8, or floats in [0, 1]"),
        ((*DECODE, "--input=flat.npy"), "it must be [B, 6]"),
        ((*DECODE, "--input=nan.npy"), "they must be finite"),
        ((*DECODE, "--input=codes.npy", "--label=3"), "the model takes no label"),
        ((*DECODE, "--input=codes.npy", "--condition=a"), "must be numbers, such as 0.5,1"),
        ((*DECODE, "--input=codes.npy", "--condition=1"), "the model takes no condition"),
        ((*DECODE, "--workdir=labels", "--input=codes.npy"), "give --label"),
        ((*DECODE, "--workdir=labels", "--input=codes.npy", "--label=10"), "must be 0 … 9"),
        ((*DECODE, "--workdir=labels", "--input=labels.npz"), "label ranges from 0 to 17"),
        ((*SAMPLE, "--num_samples=0"), "--num_samples is 0: it must be at least 1"),
        ((*SAMPLE, "--num_samples=3", "--label=3"), "a label is given, but neither prior"),
        ((*SAMPLE, "--num_samples=3", "--condition=1"), "a condition is given"),
        ((*SAMPLE, "--num_samples=3", f"--seed={2**80}"), "key is"),
        ((*SAMPLE, "--workdir=labels", "--num_samples=3", "--label=10"), "must be 0 … 9"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(run, arguments, said):
    save_bad_files()
    before = sorted(os.listdir())
    status, printed, errors = run(*arguments)
    assert status == 2 and printed == "", (status, printed, errors)
    assert errors.startswith("error: ") and errors.count("\n") == 1 and said in errors, errors
    assert sorted(os.listdir()) == before


def test_help(run, capsys):
    with pytest.raises(SystemExit) as stop:
        run("--help")
    assert stop.value.code == 0 and "python -m aae_jax encode" in capsys.readouterr().out


def test_blocks_need_no_more_memory(tmp_path):
    """Only one earlier block is alive when the next one is computed."""
    alive, most = set(), []

    class Block(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def blocks():
        for index in range(20):
            block = np.full((10, 3), index, np.float32).view(Block)
            alive.add(id(block))
            most.append(len(alive))
            yield {"images": block, "labels": np.arange(10)}
            del block

    for suffix in arrays.SUFFIXES:
        path = str(tmp_path / f"out{suffix}")
        arrays.write(path, 200, blocks())
        found = np.load(path) if suffix == ".npy" else np.load(path)["images"]
        np.testing.assert_array_equal(found[:, 0], np.repeat(np.arange(20), 10))
    assert max(most) <= 4
