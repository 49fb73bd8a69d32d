"""The command line, as a user meets it."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from aae_jax import experiment
from aae_jax.spec import spec_from_config
from experiments import digits

SMALL = (
    "--config.train.num_steps=20",
    "--config.model.encoder_hidden=(8,)",
    "--config.model.decoder_hidden=(8,)",
    "--config.model.discriminator_hidden=(8,)",
    "--config.evaluation.num_samples=100",
)


def launch(cwd, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--config.train.num_stps=1"], "--config.train.num_stps is not a field.*num_steps"),
        (["--config.nothing.there=1"], "--config.nothing.there is not a field"),
        (["--config.train.num_steps=many"], "--config.train.num_steps=many: not an integer"),
        (["--config.train.batch_size=1000000000000"], "train.batch_size is 1000000000000: it must"),
        (["--config.train.num_steps=0"], "train.num_steps is 0: it must be positive"),
        (["--config=experiments/none.py"], "'experiments/none.py': there is no such Python file"),
        (["--config=../README.md"], "no such Python file"),
        (
            [f"--config={ROOT}/experiments/fig2.py:z"],
            "argument is 'z': it must be one of a, b, c, d",
        ),
        (["--workdir=/dev/null/run"], "'/dev/null' can't be written to"),
        ([f"--config={ROOT}/experiments/digits.py:x"], "takes no argument"),
        (["--mode=fly"], r"--mode=fly.*<run\|train\|evaluate\|figures>"),
        (["--confg=x"], "confg"),
        (["digits"], "'digits' is not a flag"),
        (["--num_processes=2"], "--coordinator_address and --process_id missing"),
        (
            ["--coordinator_address=localhost:1", "--num_processes=2", "--process_id=2"],
            "--process_id is 2: it must be 0 … 1",
        ),
        (["--config.parallel.num_devices=2"], "parallel.num_devices is 2: there are 1"),
        (["--mode=evaluate"], "no checkpoint in 'runs/digits': train first"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, arguments, said):
    done = launch(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert re.search(said, lines[0]), lines[0]
    assert os.listdir(tmp_path) == []


def test_the_main_job_from_anywhere(tmp_path):
    done = launch(tmp_path, *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "runs/digits: 20 of 20 steps" in done.stdout
    assert "test log-likelihood" in done.stdout
    for name in experiment.figure_files(spec_from_config(digits.get_config())):
        assert (tmp_path / "runs" / "digits" / "figures" / name).stat().st_size > 1_000
    again = launch(tmp_path, f"--config={ROOT}/experiments/digits.py", *SMALL)
    assert again.returncode == 0 and "training is finished" in again.stdout


def test_importing_the_package_is_light():
    heavy = "tensorflow", "matplotlib", "orbax", "sklearn", "tensorflow_datasets", "ml_collections"
    code = (
        "import sys, aae_jax as aae; [getattr(aae, name) for name in aae.__all__]; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done
    code = "import sys, aae_jax; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done


def test_functions_are_not_hidden_by_modules():
    import aae_jax as aae
    import aae_jax.parallel
    import aae_jax.training

    for name in aae.__all__:
        assert name in dir(aae)
        if name != "parzen":
            assert callable(getattr(aae, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        aae.nothing


def test_compiled_programs_are_kept_and_a_damaged_one_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)

    def train(name):
        done = launch(tmp_path, f"--workdir={tmp_path / name}", "--mode=train", *SMALL)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        (metrics,) = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return {k: v for k, v in json.loads(metrics).items() if "second" not in k}

    expected = train("first")
    kept = {path: path.read_bytes() for path in (tmp_path / "cache" / "aae_jax").iterdir()}
    assert any("train_steps" in path.name for path in kept)
    assert train("second") == expected
    assert set((tmp_path / "cache" / "aae_jax").iterdir()) == set(kept)
    for path, content in kept.items():
        path.write_bytes(content[: len(content) // 2])
    assert train("third") == expected
