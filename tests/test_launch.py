"""The command line from a user's point of view."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from runs import ROOT, command, environment, launch, metrics, results

import aae_jax as aae
import launch as launch_module
from aae_jax import figures
from aae_jax.config import parse_config, spec_from_config
from experiments import digits, files

SMALL = (
    "--config.train.num_steps=20",
    "--config.model.encoder_hidden=(8,)",
    "--config.model.decoder_hidden=(8,)",
    "--config.model.discriminator_hidden=(8,)",
    "--config.evaluation.num_samples=100",
)


def assert_one_line(done, said):
    """Exit code 2, nothing printed, and one line of error."""
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert re.search(said, lines[0]), lines[0]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (
            ["--config.train.num_stps=1"],
            "train.num_stps is not a field; the fields are: .*num_steps",
        ),
        (["--config.trian.num_steps=1"], "--config.trian.num_steps is not .*: did you mean train?"),
        (["--config.nothing.there=1"], "--config.nothing.there is not a field of the config"),
        (["--config.seed.x=1", "--config.num_seeds=2"], "error: --config.seed.x is not a field"),
        (["--config.algorithm.x=1"], "error: --config.algorithm.x is not a field"),
        (["--config.start_from.x=1"], "error: --config.start_from.x is not a field"),
        (["--config.train.num_steps=many"], "--config.train.num_steps=many: not an integer"),
        (["--config.train.num_steps=0"], "train.num_steps is 0: it must be positive"),
        (
            ["--config.optimizer.generatr.clip_norm=1.0"],
            "optimizer.generatr is not a field: the phases .* are reconstruction, discriminator, gen",
        ),
        (
            ["--config.optimizer.generator.clip_nrm=1.0"],
            "optimizer.generator.clip_nrm is not a field; the fields are: .*clip_norm",
        ),
        (
            ["--config.optimizer.generator.clip_norm=-1.0"],
            "optimizer.generator.clip_norm is -1.0: it must be positive",
        ),
        (["--config.options.noise=1.0"], "options.noise is not a field; .*: code_noise"),
        (["--config.options.code_noise=-1.0"], "options.code_noise is -1.0: it must be 0 or more"),
        (["--config.train.input_noise=-0.1"], "train.input_noise is -0.1: it must be 0 or more"),
        (
            ["--config.algorithm=flow"],
            "algorithm is 'flow': it must be one of 'aae'.*an import path",
        ),
        (["--config=experiments/none.py"], "'experiments/none.py': there is no such Python file"),
        (
            [f"--config={ROOT}/experiments/fig2.py:z"],
            "argument is 'z': it must be one of a, b, c, d",
        ),
        (["--workdir=/dev/null/run"], "'/dev/null' can't be written to"),
        ([f"--config={ROOT}/experiments/digits.py:x"], "takes no argument"),
        (["--mode=fly"], r"--mode=fly.*<run\|train\|evaluate\|figures>"),
        (["--confg=x"], "confg"),
        (["digits"], "'digits' is not a flag"),
        (["--config.data.data_dir="], "data.data_dir is empty: give a value, or None"),
        (
            ["--workdir=~no_such_user/run"],
            "--workdir is '~no_such_user/run': there is no such home directory",
        ),
        (["--config.train.num_steps=None"], "train.num_steps is None: it must be an integer"),
        (["--config.trian.num_steps=None"], "--config.trian.num_steps is not a field"),
        (["--num_processes=2"], "--coordinator_address and --process_id missing"),
        (["--config.parallel.num_devices=2"], "parallel.num_devices is 2: there are 1"),
        (["--mode=evaluate"], "no checkpoint in 'runs/digits': train first"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, arguments, said):
    assert_one_line(launch(tmp_path, *arguments), said)
    assert list(tmp_path.iterdir()) == []


def test_a_bug_in_a_config_file_is_a_traceback(tmp_path):
    """The override beside the bug is not blamed."""
    (tmp_path / "mine.py").write_text(
        "from experiments import default\n\n"
        "def get_config():\n"
        "    config = default.get_config()\n"
        "    config.seed.x = 1\n"
        "    return config\n"
    )
    done = launch(tmp_path, "--config=mine.py", "--config.seed=1")
    assert done.returncode == 1 and 'mine.py", line 5, in get_config' in done.stderr


def test_the_main_job_from_anywhere(tmp_path):
    arguments = (*SMALL, "--config.optimizer.generator.clip_norm=1.0")
    done = launch(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "runs/digits: 20 of 20 steps" in done.stdout
    assert "test log-likelihood" in done.stdout
    workdir = tmp_path / "runs" / "digits"
    for name in figures.drawings(spec_from_config(digits.get_config())):
        assert (workdir / "figures" / name).stat().st_size > 1_000
    config = json.loads((workdir / "config.json").read_text())
    assert config["optimizer"] == {"generator": {"clip_norm": 1.0}}
    optimizer = dict(parse_config(config).spec.optimizer)["generator"]
    assert optimizer.clip_norm == 1.0 and optimizer.b1 == 0.5  # the phase's own, but for the norm
    again = launch(tmp_path, f"--config={ROOT}/experiments/digits.py", *arguments)
    assert again.returncode == 0 and "training is finished" in again.stdout


def test_overrides_before_the_config_none_and_the_home_directory(tmp_path):
    flags = ["--config.seed=1", "--config.train.ema_decay", "None", "--config.run.stream=None"]
    flags += ["--config.data.data_dir=x", "--config.data.data_dir=None"]  # the last one counts
    flags += [
        "--config.optimizer.generator.clip_norm=None",
        "--config",
        f"{ROOT}/experiments/digits.py",
    ]
    done = launch(tmp_path, *flags, *SMALL, "--workdir=~/run", "--mode=train", HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir() if path.name != ".cache"] == ["run"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["seed"] == 1 and config["optimizer"] == {"generator": {"clip_norm": None}}
    assert config["train"]["ema_decay"] is config["data"]["data_dir"] is None


def test_none_is_none_for_every_optional_field():
    config = files.get_config()
    optional = [f"{section}.{name}" for section in ("data", "model", "prior", "train", "parallel", "run")
                for name, value in config[section].items() if value is None]  # fmt: skip
    optional += ["start_from", "evaluation.num_validation"]
    assert len(optional) > 15 and "data.data_dir" in optional
    argv = [
        "launch.py",
        *(f"--config.{name}=None" for name in optional),
        "--config.data.path=x.npz",
    ]
    for name in launch_module._take_nones(argv):
        launch_module._set_none(config, name)
    assert argv == ["launch.py", "--config.data.path=x.npz"]
    assert config.data.path is None  # which the last of the flags will set
    config.data.path = "x.npz"
    settings = parse_config(config)
    assert settings.data.data_dir is settings.run.max_steps is settings.spec.train.ema_decay is None


def test_the_last_override_of_a_field_counts():
    argv = ["launch.py", "--config.model.encoder_hidden=(16,)", "--config.seed=1", "--mode=train"]
    argv += ["-config.model.encoder_hidden=(8,)", "--config.model.encoder_hidden=(8,)"]
    assert launch_module._take_nones(argv) == []
    kept = ["--config.seed=1", "--mode=train", "--config.model.encoder_hidden=(8,)"]
    assert argv == ["launch.py", *kept]


def test_another_algorithm_by_its_name_alone(tmp_path):
    arguments = "--config.algorithm=vae", "--config.optimizer.elbo.clip_norm=1.0"
    done = launch(tmp_path, *SMALL, *arguments, "--mode=train", f"--workdir={tmp_path / 'run'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "loss/elbo" in metrics(tmp_path / "run")[0]
    assert aae.load_state(str(tmp_path / "run")).spec.algorithm_name == "'vae'"


# A Wasserstein autoencoder: its penalty is one number for the whole batch. With an option and a
# figure of its own.
MINE = """
import dataclasses

import jax.numpy as jnp
from matplotlib.figure import Figure

import aae_jax as aae
from aae_jax.algorithms import autoencoder


@dataclasses.dataclass(frozen=True)
class Options:
    weight: float = 10.0


def loss(spec, params, inputs):
    z = autoencoder.encode(spec, params, inputs.x_noisy, inputs.row_keys)
    outputs = autoencoder.decoder_outputs(spec, params, z, inputs.label)
    reconstruction = autoencoder.reconstruction_loss(spec, outputs, inputs.x)
    penalty = jnp.square(z.mean(axis=0) - inputs.prior_sample.z.mean(axis=0)).sum()
    return reconstruction.mean() + spec.options.weight * penalty, {"penalty": penalty}


def norms(state, given):
    figure = Figure()
    z = aae.encode(state, given.test["image"])
    figure.add_subplot().hist(jnp.linalg.norm(z, axis=1))
    return figure


def diagnose(state, test, key):
    return {"mine/weight": state.spec.options.weight}


ALGORITHM = aae.Algorithm(
    networks=autoencoder.encoder_and_decoder,
    phases=(aae.Phase("matching", ("encoder", "decoder"), loss),),
    sample=autoencoder.sample,
    encode=autoencoder.encode,
    decode=autoencoder.decode,
    diagnose=diagnose,
    options=Options,
    figures=("samples", "training_curves", "mine:norms"),
)
"""


@pytest.mark.slow
def test_an_algorithm_of_the_users_is_trained_resumed_scored_and_drawn(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    workdir = tmp_path / "run"

    def start(*arguments):
        flags = "--config.algorithm=mine:ALGORITHM", "--config.options.weight=2.0"
        flags += "--config.run.steps_per_dispatch=10", "--config.run.checkpoint_every=10"
        flags += *SMALL, f"--workdir={workdir}", *arguments
        return launch(tmp_path, *flags, PYTHONPATH=str(tmp_path))

    done = start("--mode=train")
    assert (done.returncode, done.stderr) == (0, "")
    uncut = metrics(workdir)
    shutil.rmtree(workdir / "checkpoints" / "20")
    done = start()
    assert (done.returncode, done.stderr) == (0, "")
    assert "resuming from step 10" in done.stdout and metrics(workdir) == uncut
    assert uncut[0].keys() == {"step", "loss/matching", "penalty"}
    found = results(workdir)
    assert np.isfinite(found["parzen/log_likelihood"]) and found["mine/weight"] == 2.0
    assert "reconstruction/half_squared_error" in found
    drawn = {path.name for path in (workdir / "figures").iterdir()}
    assert drawn == {"samples.png", "training_curves.png", "norms.png"}
    monkeypatch.syspath_prepend(tmp_path)
    state = aae.load_state(str(workdir))
    assert state.step == 20 and state.spec.options.weight == 2.0
    assert aae.generate(state, jax.random.key(0), 3).shape == (3, 8, 8, 1)
    done = start("--config.options.weight=3.0")
    assert_one_line(done, "options.weight was 2.0, now 3.0")


@pytest.mark.parametrize("closed", ["", "2>&-", ">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "cp1252", "ascii"])
def test_output_is_never_a_reason_to_stop(tmp_path, encoding, closed):
    code = (
        "from aae_jax import streams; streams.protect(); import os, sys\n"
        "opened = open('opened', 'w')\n"
        "for stream in (sys.stdout, sys.stderr):\n"
        "    for _ in range(1000): print('σ 0.2 ± 0.1', file=stream, flush=True)\n"
        "os.write(2, b'of a library'); opened.write('done'); sys.exit(7)"
    )
    shell = f'set -o pipefail; "$@" {closed} | head -1'
    done = subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert done.returncode == 7 and (tmp_path / "opened").read_text() == "done"
    if not closed:
        assert done.stdout == "σ 0.2 ± 0.1\n".encode(encoding, "replace")
        assert b"Traceback" not in done.stderr and done.stderr.endswith(b"of a library")


def test_a_run_whose_output_goes_nowhere_ends(tmp_path):
    """A pipe closed after one line, no stderr, and an ASCII-only encoding."""
    flags = *SMALL, f"--workdir={tmp_path / 'run'}"
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" 2>&- | head -1', "bash", *command(*flags)],
        env=environment(PYTHONIOENCODING="ascii"), capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    assert results(tmp_path / "run")["steps"] == 20
    assert (tmp_path / "run" / "figures" / "samples.png").exists()


def test_a_closed_terminal_saves(tmp_path):
    """SIGHUP works like SIGTERM, although the output is gone too."""
    flags = *SMALL, "--config.train.num_steps=100_000", f"--workdir={tmp_path / 'run'}"
    process = subprocess.Popen(
        command(*flags),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not process.stdout.readline().startswith("step"):
        assert process.poll() is None
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 128 + signal.SIGHUP
    assert aae.load_state(str(tmp_path / "run")).step == metrics(tmp_path / "run")[-1]["step"]


def test_a_device_that_is_not_there_is_one_line(tmp_path):
    for platforms in ("cuda", "nonsense"):
        if platforms == "cuda" and any(d.platform == "gpu" for d in jax.devices()):
            continue
        done = launch(tmp_path, *SMALL, JAX_PLATFORMS=platforms)
        assert_one_line(done, f"JAX_PLATFORMS is '{platforms}', but JAX can't use such a device")
        assert not (tmp_path / "runs").exists()


def test_compiled_programs_are_kept_in_a_home_that_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for home, cache, kept in (
        (str(tmp_path), None, f"{tmp_path}/.cache/aae_jax"),
        ("", str(tmp_path / "cache"), f"{tmp_path}/cache/aae_jax"),
        (str(tmp_path), "relative", f"{tmp_path}/.cache/aae_jax"),
        ("", None, None),
        ("~", None, None),
        (str(tmp_path / "none"), None, None),
        (str(tmp_path / "file"), None, None),
        (str(tmp_path), str(tmp_path / "file"), None),
    ):
        monkeypatch.setenv("HOME", home)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        if cache is not None:
            monkeypatch.setenv("XDG_CACHE_HOME", cache)
        assert launch_module._cache_directory() == kept
    # No HOME, and a user whom the system does not know.
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert launch_module._cache_directory() is None


def test_importing_the_package_is_light():
    heavy = "tensorflow", "matplotlib", "orbax", "sklearn", "tensorflow_datasets", "ml_collections"
    code = (
        "import sys, aae_jax as aae; print('jax' in sys.modules); "
        "[getattr(aae, name) for name in aae.__all__]; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "[]"], done


def test_a_system_without_locks_hangups_and_sysconf_can_import_everything():
    """Such as Windows."""
    code = (
        "import os, signal, sys; sys.modules['fcntl'] = None; del signal.SIGHUP, os.sysconf\n"
        "from aae_jax import experiment; from aae_jax.workdir import memory, terminal\n"
        "with terminal.Signals(): print(memory.device_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_functions_are_not_hidden_by_modules():
    for module in ("parallel", "training", "train_state"):
        importlib.import_module(f"aae_jax.{module}")
    for name in aae.__all__:
        assert name in dir(aae)
        if name not in ("annealed", "parzen"):
            assert callable(getattr(aae, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = aae.nothing


@pytest.mark.slow
def test_compiled_programs_are_kept_and_a_damaged_one_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)

    def train(name):
        done = launch(tmp_path, f"--workdir={tmp_path / name}", "--mode=train", *SMALL)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return metrics(tmp_path / name)

    expected = train("first")
    kept = {path: path.read_bytes() for path in (tmp_path / "cache" / "aae_jax").iterdir()}
    assert any("train_steps" in path.name for path in kept)
    assert train("second") == expected
    assert set((tmp_path / "cache" / "aae_jax").iterdir()) == set(kept)
    for path, content in kept.items():
        path.write_bytes(content[: len(content) // 2])
    assert train("third") == expected
