"""`python -m aae_jax.parzen`: what it prints, and one line for every mistake."""

import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from test_parzen import ANCHOR, anchor_tolerance, reference, tolerance

from aae_jax.parzen import __main__ as command

RNG = np.random.default_rng(0)
TEST, VALIDATION, SAMPLES = (
    RNG.uniform(size=(rows, 6)).astype(np.float32) for rows in (40, 30, 300)
)
GRID = np.logspace(-1, 0, 10)
OWN = ("samples", "test", "validation", "sigma", "sigmas", "divide_by_255")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The three arrays, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, array in (("a", SAMPLES), ("b", TEST), ("c", VALIDATION)):
        np.save(name, array)
    return tmp_path


@pytest.fixture
def run(files, capsys):
    """Runs the command in this process: (exit status, stdout, stderr)."""

    def run(*arguments):
        for name in OWN:
            flags.FLAGS[name].unparse()
        status = 0
        try:
            command.main(command._parse_flags(["parzen", *arguments]))
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def real(*arguments):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "aae_jax.parzen", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def numbers(printed):
    """The first number of every line, and what follows a ±."""
    found = {line.split()[0]: float(line.split()[1]) for line in printed.splitlines()
             if line.split()[0] != "test" }  # fmt: skip
    return found, float(re.search(r"± ([\d.]+) nats", printed)[1])


def exactly(x, samples, sigma):
    """The mean of the exact scores, within float32's rounding and the two decimals of a print."""
    allowed = tolerance(x, samples, sigma, bf16_split=True).mean()
    return pytest.approx(reference(x, samples, sigma).mean(), abs=0.005 + allowed)


def test_real_command_equals_float64(files):
    arguments = ("--samples=a.npy", "--test=b.npy", "--validation=c.npy")
    printed = real(*arguments)
    assert printed.returncode == 0 and printed.stderr == "", printed
    sigma = GRID[np.argmax([reference(VALIDATION, SAMPLES, sigma).mean() for sigma in GRID])]
    found, error = numbers(printed.stdout)
    scores = reference(TEST, SAMPLES, sigma)
    allowed = tolerance(TEST, SAMPLES, sigma).max()
    assert found["sigma"] == float(f"{sigma:.5g}")
    assert found["log-likelihood"] == exactly(TEST, SAMPLES, sigma)
    assert error == pytest.approx(scores.std() / np.sqrt(len(scores)), abs=0.005 + allowed)
    assert found["validation"] == exactly(VALIDATION, SAMPLES, sigma)
    assert found["samples"] == 300 and found["dimensions"] == 6
    assert "test points     40\n" in printed.stdout


def test_mistakes_in_the_real_command_show_no_traceback(files):
    """Of its own check, and of absl's."""
    for arguments in (["--samples=nope.npy", "--test=b.npy", "--sigma=1"], ["--sample"]):
        printed = real(*arguments)
        assert printed.returncode == 2 and printed.stdout == "", printed
        assert printed.stderr.startswith("error: ") and printed.stderr.count("\n") == 1


def test_an_argument_that_is_not_a_flag_is_a_mistake(run):
    status, printed, errors = run("x")
    assert status == 2 and printed == "" and errors.startswith("error: 'x' is not a flag")


def test_given_sigma_pieces_and_npz(run, monkeypatch):
    np.savez("one.npz", SAMPLES.astype(np.float64))
    coarse = TEST.astype(np.float16)
    np.savez("two.npz", test=coarse, other=VALIDATION)
    monkeypatch.setattr(command, "_PIECE", 77)
    status, printed, _ = run("--samples=one.npz", "--test=b.npy", "--sigma=0.3")
    assert status == 0
    assert numbers(printed)[0]["log-likelihood"] == exactly(TEST, SAMPLES, 0.3)
    status, printed, _ = run("--samples=a.npy", "--test=two.npz:test", "--sigma=0.3")
    assert numbers(printed)[0]["log-likelihood"] == exactly(coarse, SAMPLES, 0.3)


def test_images_are_flattened_and_integers_scaled(run):
    rng = np.random.default_rng(1)
    images = {name: rng.integers(0, 256, (20, 3, 2, 1), np.uint8) for name in "st"}
    for name, value in images.items():
        np.save(name, value)
    status, printed, _ = run("--samples=s.npy", "--test=t.npy", "--sigma=0.3", "--divide_by_255")
    rows = {name: value.reshape(20, 6) / 255 for name, value in images.items()}
    assert status == 0
    assert numbers(printed)[0]["log-likelihood"] == exactly(rows["t"], rows["s"], 0.3)
    # Floats are in [0, 1] already: the flag leaves them.
    np.save("f.npy", rows["s"].astype(np.float32))
    assert run("--samples=f.npy", "--test=t.npy", "--sigma=0.3", "--divide_by_255")[1] == printed


@pytest.mark.parametrize("sigma", ["1e-5", "1e-3", "3"])
def test_any_sigma_is_right_for_the_numbers_in_the_files(run, monkeypatch, sigma):
    """Float64 files are not rounded to float32 where it shows; integers are exact levels / 255."""
    rng = np.random.default_rng(2)
    monkeypatch.setattr(command, "_PIECE", 70)
    points = rng.normal(size=(50, 1))
    near = points + 30 * float(sigma) * rng.normal(size=(4, 50, 1))
    np.save("x.npy", points)
    np.save("s.npy", near.reshape(200, 1))
    found, error = numbers(run("--samples=s.npy", "--test=x.npy", f"--sigma={sigma}")[1])
    scores = reference(points, near.reshape(200, 1), float(sigma))
    assert found["log-likelihood"] == pytest.approx(scores.mean(), abs=0.01)
    assert error == pytest.approx(scores.std() / np.sqrt(50), abs=0.01)
    levels = rng.integers(0, 256, (300, 2), np.uint8)
    np.save("x.npy", levels[:40])
    np.save("s.npy", levels[30:])
    printed = run("--samples=s.npy", "--test=x.npy", f"--sigma={sigma}", "--divide_by_255")[1]
    scores = reference(levels[:40] / 255, levels[30:] / 255, float(sigma))
    assert numbers(printed)[0]["log-likelihood"] == pytest.approx(scores.mean(), abs=0.01)


def test_a_tiny_sigma_is_chosen(run):
    rng = np.random.default_rng(3)
    points = rng.normal(size=(50, 2))
    np.save("x.npy", points)
    np.save("s.npy", np.repeat(points, 9, axis=0) + 1e-5 * rng.normal(size=(450, 2)))
    sigmas = [1e-6, 1e-5, 1e-4, 0.1]
    _, printed, _ = run(
        "--samples=s.npy", "--test=x.npy", "--validation=x.npy", "--sigmas=1e-6,1e-5,1e-4,0.1"
    )
    means = [reference(points, np.load("s.npy"), sigma).mean() for sigma in sigmas]
    found, _ = numbers(printed)
    assert found["sigma"] == sigmas[np.argmax(means)] == 1e-5
    assert found["validation"] == found["log-likelihood"] == pytest.approx(max(means), abs=0.01)


def test_images_must_have_one_order_of_axes(run):
    rng = np.random.default_rng(4)
    shapes = {
        "a": (30, 3, 2, 1),
        "b": (20, 3, 2),
        "c": (20, 6),
        "d": (20, 2, 3),
        "e": (20, 1, 3, 2),
    }
    for name, shape in shapes.items():
        np.save(name, rng.uniform(size=shape).astype(np.float32))
    for samples, test in (("a", "b"), ("a", "c"), ("b", "a"), ("c", "d"), ("d", "d")):
        status, printed, errors = run(f"--samples={samples}.npy", f"--test={test}.npy", "--sigma=1")
        assert status == 0 and "dimensions      6" in printed and errors == ""
    for samples, test in (("a", "d"), ("a", "e"), ("b", "d"), ("d", "a")):
        status, printed, errors = run(f"--samples={samples}.npy", f"--test={test}.npy", "--sigma=1")
        assert status == 2 and printed == "" and errors.count("\n") == 1
        assert f"--test has shape {shapes[test]}" in errors
        assert f"--samples has shape {shapes[samples]}" in errors
    # Rows go with both, but the images don't go together.
    status, _, errors = run("--samples=c.npy", "--test=a.npy", "--validation=d.npy")
    assert (
        status == 2
        and "--validation has shape (20, 2, 3), --test has shape (30, 3, 2, 1)" in errors
    )


def test_warnings(run):
    status, printed, errors = run(
        "--samples=a.npy", "--test=b.npy", "--validation=c.npy", "--sigmas=0.01,0.02"
    )
    assert status == 0 and numbers(printed)[0]["sigma"] == 0.02
    assert errors == "warning: σ = 0.02 lies on the edge of the grid: try others with --sigmas\n"
    np.save("d.npy", 3 * TEST - 1)
    status, _, errors = run("--samples=a.npy", "--test=d.npy", "--sigma=0.3")
    assert status == 0 and "--test has values from -0.9" in errors and "[0, 1] only" in errors
    assert errors.count("\n") == 1


def save_bad_files():
    """One file for every kind of mistake."""
    bad = SAMPLES.copy()
    bad[7, 2] = np.nan
    np.save("nan.npy", bad)
    bad[7, 2] = -np.inf
    np.save("inf.npy", bad)
    np.save("wide.npy", np.zeros((5, 7), np.float32))
    np.save("empty.npy", np.zeros((0, 6), np.float32))
    np.save("flat.npy", np.zeros(6, np.float32))
    np.save("bytes.npy", np.full((5, 6), 200, np.uint8))
    np.save("binary.npy", np.ones((5, 6), np.int64))
    np.save("words.npy", np.full((5, 6), "a"))
    np.save("objects.npy", np.array([[{}] * 6], object), allow_pickle=True)
    np.savez("objects.npz", np.array([[{}] * 6], object))
    np.savez("two.npz", one=TEST, two=TEST)
    pathlib.Path("pickle.npy").write_bytes(pickle.dumps(TEST))
    npy, npz = (pathlib.Path(name).read_bytes() for name in ("a.npy", "two.npz"))
    middle = npz.index(b"NUMPY") + 200
    for name, content in (
        ("cut.npy", npy[:1_000]),
        ("head.npy", npy[:20]),
        ("no.npy", b""),
        ("cut.npz", npz[:300]),
        ("damaged.npz", npz[:middle] + b"XXXX" + npz[middle + 4 :]),
    ):
        pathlib.Path(name).write_bytes(content)


GOOD = {"samples": "a.npy", "test": "b.npy", "validation": "c.npy"}
MISTAKES = [
    ({"samples": None}, "--samples is missing"),
    ({"test": None}, "--test is missing"),
    ({"validation": None}, "--validation and --sigma are missing"),
    ({"sigma": "0.1"}, "--sigma fixes σ: leave out --validation and --sigmas"),
    ({"validation": None, "sigma": "0"}, "--sigma is '0': σ must be positive"),
    ({"validation": None, "sigma": "-1"}, "--sigma is '-1': σ must be positive"),
    ({"validation": None, "sigma": "nan"}, "--sigma is 'nan': σ must be positive"),
    ({"validation": None, "sigma": "1e-16"}, "--sigma is '1e-16': σ must be from 1e-15 to 1e15"),
    ({"sigmas": "0.1,1e-300"}, "--sigmas is '0.1,1e-300': σ must be from 1e-15 to 1e15"),
    ({"validation": None, "sigma": "a"}, "--sigma is 'a': it must be numbers"),
    ({"validation": None, "sigma": "0.1,0.2"}, "--sigma is '0.1,0.2': give one"),
    ({"sigmas": "0.1,-0.2"}, "--sigmas is '0.1,-0.2': σ must be positive"),
    ({"samples": "nope.npy"}, "--samples is 'nope.npy': there is no such file"),
    ({"samples": "."}, "--samples: '.' can't be read"),
    ({"test": "wide.npy"}, "--test has 7 numbers a row, --samples has 6"),
    ({"validation": "wide.npy"}, "--validation has 7 numbers a row"),
    ({"samples": "empty.npy"}, r"--samples is 'empty.npy': it has no rows"),
    ({"test": "flat.npy"}, r"--test: 'flat.npy' has shape \(6,\)"),
    ({"samples": "nan.npy"}, "--samples: 'nan.npy' has NaN or inf, first in row 7"),
    ({"test": "nan.npy"}, "--test: 'nan.npy' has NaN or inf"),
    ({"validation": "inf.npy"}, "--validation: 'inf.npy' has NaN or inf, first in row 7"),
    ({"test": "bytes.npy"}, r"holds integers \(uint8, 200 to 200\).*add --divide_by_255"),
    ({"samples": "binary.npy", "divide_by_255": "true"}, "--samples holds 1 to 1; store floats"),
    ({"samples": "words.npy"}, "holds samples of <U1.*: it must hold numbers"),
    ({"samples": "objects.npy"}, "'objects.npy' holds Python objects, which are not read"),
    ({"samples": "objects.npz"}, "'objects.npz' holds Python objects, which are not read"),
    ({"samples": "pickle.npy"}, "neither an npy nor an npz file; pickles are not read"),
    ({"samples": "no.npy"}, "neither an npy nor an npz file"),
    ({"samples": "cut.npy"}, "'cut.npy' can't be read; it may be truncated"),
    ({"samples": "head.npy"}, "'head.npy' can't be read"),
    ({"samples": "cut.npz"}, "'cut.npz' can't be read"),
    ({"samples": "damaged.npz:one"}, "'damaged.npz:one' can't be read"),
    ({"test": "two.npz"}, "'two.npz' holds 2 arrays: write two.npz:NAME.*one, two"),
    ({"test": "two.npz:three"}, "'two.npz' holds no array 'three'.*one, two"),
]


@pytest.mark.parametrize("changes, match", MISTAKES, ids=lambda value: str(value)[:40])
def test_every_mistake_is_one_line(run, monkeypatch, changes, match):
    monkeypatch.setattr(command, "_score", None)  # nothing may compile
    save_bad_files()
    chosen = {**GOOD, **changes}
    status, printed, errors = run(*(f"--{k}={v}" for k, v in chosen.items() if v is not None))
    assert status == 2 and printed == ""
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert re.search(match, errors), errors


def test_pickles_are_not_run(run):
    class Trap:
        def __reduce__(self):
            return open, ("trapped", "w")

    pathlib.Path("p.npy").write_bytes(pickle.dumps(Trap()))
    np.save("q.npy", np.array([[Trap()]], object), allow_pickle=True)
    for name in ("p.npy", "q.npy"):
        assert run(f"--samples={name}", "--test=b.npy", "--sigma=1")[0] == 2
    assert not pathlib.Path("trapped").exists()


def test_mnist_anchor(run, mnist_images):
    """Images as they are stored: bytes."""
    for name, images in (
        ("a", mnist_images["train"][:10_000]),
        ("b", mnist_images["t10k"]),
        ("c", mnist_images["train"][50_000:51_000]),
    ):
        np.save(name, np.round(images * 255).astype(np.uint8).reshape(-1, 28, 28, 1))
    arguments = [f"--{name}={value}" for name, value in GOOD.items()]
    status, printed, errors = run(*arguments, "--divide_by_255")
    assert status == 0 and errors == ""
    found, error = numbers(printed)
    allowed, (sigma, mean, std) = 0.005 + anchor_tolerance(mnist_images), ANCHOR
    assert found["sigma"] == float(f"{sigma:.5g}")
    assert found["log-likelihood"] == pytest.approx(mean, abs=allowed)
    assert error == pytest.approx(std / 100, abs=allowed)
