"""One run in several processes: joining, training as one, stopping, dying and resuming."""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest
from runs import (
    ROOT,
    STEPS,
    assert_close,
    environment,
    metrics,
    results,
    small_config,
)
from small import (
    IN_TWO_PROCESSES,
    MODELS,
    streamed_settings,
    twenty_steps_of,
)

import aae_jax as aae
from aae_jax import data, experiment, parallel, processes
from aae_jax.errors import PeerLost, UserError
from aae_jax.settings import ParallelSpec

TOGETHER = IN_TWO_PROCESSES[::2]  # by default
MODELS_IN_TWO_PROCESSES = """
import os, signal, sys
process, port, where = int(sys.argv[1]), sys.argv[2], sys.argv[3]
import jax, numpy as np
from aae_jax import processes
processes.initialize(f"localhost:{port}", 2, process)
import aae_jax as aae
from aae_jax import data, experiment, parallel
from aae_jax.workdir import loop, records
import small
from runs import small_config
jax.config.update("jax_enable_x64", True)
mesh = parallel.make_mesh()
assert mesh.size == 4 and jax.process_count() == 2

def create(spec):
    whole = parallel.replicated(mesh)
    create = jax.jit(aae.create_train_state, static_argnums=0, out_shardings=whole)
    return create(spec, jax.random.key(0))

def save(name, state):
    leaves = map(np.asarray, jax.tree.leaves((state.params, state.ema_params)))
    if process == 0:
        np.savez(os.path.join(where, name), *leaves)

for name in sys.argv[4:]:
    state = create(small.start_of(name).spec)
    dataset = parallel.replicate(small.partly_labelled(), mesh)
    sharding = parallel.batch_sharding(mesh)
    save(name, small.train_compiled_fast(state, dataset, 20, batch_sharding=sharding)[0])
"""
TWO_PROCESSES = (
    MODELS_IN_TWO_PROCESSES
    + """
settings = small.streamed_settings()
train = data.load(settings.data).train
images, asked = train["image"], []
def read(rows):
    asked.append(len(rows))
    return (255 * images[rows]).astype(np.uint8)
train["image"] = data.LazyImages(read, len(images), (8, 8, 1))
state = create(settings.spec)
job = loop.Job(settings, train, mesh, where)
save("streamed", loop.stepper(state, job)(state, 20)[0])
assert set(asked) == {10}, asked  # each process reads half of a batch

# A signal that only one process gets stops both, at the same step.
jax.config.update("jax_enable_x64", False)
write = records.MetricsLog.write
def write_and_stop(self, step, *rest):
    if process == 1 and step == 8:
        signal.raise_signal(signal.SIGTERM)
    return write(self, step, *rest)
records.MetricsLog.write = write_and_stop
config = small_config()
config.parallel.num_devices = None
try:
    experiment.run(config, os.path.join(where, "run"))
except SystemExit as stopped:
    assert stopped.code == 128 + signal.SIGTERM
else:
    raise AssertionError("nothing stopped")
"""
)


def start_two(*arguments, devices=2):
    """Starts the command twice, as processes 0 and 1 with several devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    variables = environment(devices, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    return [
        subprocess.Popen(
            [sys.executable, *(a.format(process=i, port=port) for a in arguments)],
            cwd=ROOT, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for i in range(2)
    ]  # fmt: skip


def outputs_of(started):
    """Waits for the processes; their output, without that of libraries, and their exit codes."""
    try:
        outputs = [process.communicate(timeout=1_200)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    outputs = [
        # Gloo's threads write into each other's lines.
        "".join(
            line
            for line in out.splitlines(True)
            if line.strip() and "[Gloo]" not in line and "peer ranks" not in line
        )
        for out in outputs
    ]
    return outputs, [process.returncode for process in started]


def launch_flags(directory):
    """`launch.py` with `small_config` on all devices, as one of two processes."""
    path = directory / "small.py"
    path.write_text(
        "from runs import small_config\n\n\n"
        "def get_config():\n    return small_config(**{'parallel.num_devices': None})\n"
    )
    flags = ["launch.py", f"--config={path}", "--coordinator_address=localhost:{port}"]
    return [*flags, "--num_processes=2", "--process_id={process}"]


def two_processes(*arguments):
    """Starts the command twice, two devices each, and waits; their outputs."""
    outputs, codes = outputs_of(start_two(*arguments))
    assert codes == [0, 0], outputs
    return outputs


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """The results of two processes: parameters of models, and a stopped run."""
    path = tmp_path_factory.mktemp("two")
    script = path / "script.py"
    script.write_text(TWO_PROCESSES)
    outputs = two_processes(str(script), "{process}", "{port}", str(path), *TOGETHER)
    assert "interrupted at step" in outputs[0] and outputs[1] == ""  # only the first prints
    return path


def assert_saved(path, state):
    found = np.load(path)
    leaves = jax.tree.leaves((state.params, state.ema_params))
    assert len(found.files) == len(leaves)
    for name, leaf in zip(found.files, leaves):
        np.testing.assert_allclose(found[name], leaf, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_train_a_model_as_one_device_does(x64, where, name):
    assert_saved(where / f"{name}.npz", twenty_steps_of(name)[0])


@pytest.mark.slow
def test_two_processes_train_the_other_models_too(x64, tmp_path):
    names = [name for name in MODELS if name not in TOGETHER]
    script = tmp_path / "script.py"
    script.write_text(MODELS_IN_TWO_PROCESSES)
    two_processes(str(script), "{process}", "{port}", str(tmp_path), *names)
    for name in names:
        assert_saved(tmp_path / f"{name}.npz", twenty_steps_of(name)[0])


def test_two_processes_each_read_half_and_train_the_same(x64, where):
    settings = streamed_settings()
    train = data.load(settings.data).train
    train["image"] = (255 * train["image"]).astype(np.uint8)
    state, _ = aae.train_steps(aae.create_train_state(settings.spec, jax.random.key(0)), train, 20)
    assert_saved(where / "streamed.npz", state)


@pytest.mark.slow
def test_two_processes_run_as_one_and_one_goes_on(where, tmp_path):
    """Two processes resume a run stopped by a signal; then one process resumes their checkpoint."""
    workdir = str(where / "run")
    stopped = [int(name) for name in os.listdir(os.path.join(workdir, "checkpoints"))]
    assert max(stopped) < STEPS
    outputs = two_processes(*launch_flags(tmp_path), f"--workdir={workdir}")
    assert f"resuming from step {max(stopped)}" in outputs[0] and outputs[1] == ""

    alone = str(tmp_path / "alone")
    experiment.run(small_config(), alone)
    assert_close(metrics(workdir), metrics(alone), 1e-3)
    assert_close(results(workdir), results(alone), 1e-3)
    drawn = [sorted(os.listdir(os.path.join(run, "figures"))) for run in (workdir, alone)]
    assert drawn[0] == drawn[1]

    before = aae.load_state(workdir)
    shutil.rmtree(os.path.join(workdir, "checkpoints", str(STEPS)))
    experiment.run(small_config(**{"parallel.num_devices": 2}), workdir)
    after = aae.load_state(workdir)
    assert before.step == after.step == STEPS
    chex.assert_trees_all_close(after.params, before.params, rtol=0, atol=1e-3)
    assert_close(results(workdir), {**results(alone), "devices": ["cpu"] * 2}, 1e-3)


SCORING = """
import os, signal, sys
process, port, where, first, stop_in = *map(int, sys.argv[1:3]), *sys.argv[3:5], int(sys.argv[5])
from aae_jax import processes
processes.initialize(f"localhost:{port}", 2, process)
import numpy as np
from aae_jax import evaluation, experiment
from aae_jax.workdir import scoring
from runs import LONG, small_config

# Every dispatch of a scoring pass is one round, and its sums are saved.
scoring._DISPATCH_SECONDS, scoring._SAVE_SECONDS = 0.0, -1.0
add, scored = evaluation._add_drawn, evaluation.scored
rounds, found = [], []

def counted(*arguments):
    rounds.append(arguments[1])  # the first of the dispatch
    if name == "cut" and len(rounds) == stop_in and process == 1:
        signal.raise_signal(signal.SIGTERM)
    return add(*arguments)

def kept(*arguments):
    log_likelihoods, share = scored(*arguments)
    found.append(log_likelihoods)
    return log_likelihoods, share

evaluation._add_drawn, evaluation.scored = counted, kept
config = small_config(**LONG)
config.parallel.num_devices = None
for name in ("uncut", "cut")[first == "cut":]:
    rounds.clear(), found.clear()
    try:
        experiment.run(config, os.path.join(where, name), "evaluate")
    except SystemExit as stopped:
        assert stopped.code == 128 + signal.SIGTERM and len(rounds) == stop_in
    else:
        np.savez(os.path.join(where, f"{name}{process}"), *found, rounds=rounds)
"""


@pytest.mark.slow
def test_a_scoring_pass_of_two_processes_that_one_stops_goes_on_bit_identical(tmp_path):
    """6 rounds for the validation images, then 6 for the test images; stopped in the 9th."""
    experiment.run(small_config(), str(tmp_path / "uncut"), "train")
    shutil.copytree(tmp_path / "uncut", tmp_path / "cut")
    script = tmp_path / "script.py"
    script.write_text(SCORING)

    def score(first, stop_in):
        flags = str(script), "{process}", "{port}", str(tmp_path), first, str(stop_in)
        said, nothing = two_processes(*flags)
        assert nothing == ""  # only the first prints
        return said

    said = score("uncut", 9)
    assert "interrupted at sample 24000 of 40500 (test), saved in" in said
    assert "resuming" not in said
    partial = tmp_path / "cut" / "partial"
    assert len(list(partial.iterdir())) == 2  # both passes
    assert not (tmp_path / "cut" / "results.json").exists()
    said = score("cut", 0)
    assert "validation: resuming from sample 40500" in said
    assert "test: resuming from sample 24000" in said
    for process in (0, 1):
        uncut, cut = (np.load(tmp_path / f"{name}{process}.npz") for name in ("uncut", "cut"))
        assert list(uncut["rounds"]) == 2 * [0, 1, 2, 3, 4, 5] and list(cut["rounds"]) == [3, 4, 5]
        for name in ("arr_0", "arr_1"):  # log-likelihoods of the validation and the test images
            assert uncut[name].shape[1] == 250
            np.testing.assert_array_equal(cut[name], uncut[name])
    assert results(tmp_path / "cut") == results(tmp_path / "uncut")
    assert not partial.exists() and not (tmp_path / "uncut" / "partial").exists()


@pytest.mark.slow
def test_when_one_of_two_processes_is_killed_the_other_says_so_and_both_go_on(tmp_path):
    workdir = tmp_path / "run"
    flags = [*launch_flags(tmp_path), f"--workdir={workdir}", "--mode=train"]
    flags += ["--config.train.num_steps=800", "--config.run.checkpoint_every=400"]
    # With more devices each, the threads of this runtime wait for one another, and what ends them is
    # JAX's heartbeat, after 100 seconds.
    started = start_two(*flags, devices=1)
    while not (workdir / "checkpoints" / "400").is_dir():
        assert started[0].poll() is None, outputs_of(started)
        time.sleep(0.1)
    time.sleep(0.3)  # nor while a checkpoint is written
    started[1].kill()
    outputs, codes = outputs_of(started)
    assert codes == [2, -signal.SIGKILL], outputs[0]
    last = outputs[0].splitlines()[-1]
    assert last.startswith("error: another process of this run has died"), outputs[0]
    assert "Traceback" not in outputs[0] and "start all 2 again" in last
    outputs, codes = outputs_of(start_two(*flags, devices=1))
    assert codes == [0, 0], outputs
    assert "resuming from step" in outputs[0]
    assert aae.load_state(str(workdir)).step == 800


def test_devices_of_several_processes(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for spec, said in (
        (ParallelSpec(num_devices=4), "parallel.num_devices is 4: 2 processes use all of their 8"),
        (ParallelSpec(runner="pmap"), "parallel.runner is 'pmap', which takes one process"),
    ):
        with pytest.raises(UserError, match=said):
            parallel.choose_devices(spec, 16)
    with pytest.raises(UserError, match="a multiple of the 8 devices of the 2 processes$"):
        parallel.choose_devices(ParallelSpec(), 12)
    assert parallel.choose_devices(ParallelSpec()) == jax.devices()


def test_rows_of_a_process_lie_together(monkeypatch):
    """In any order of the devices, each process reads its slice of a streamed batch."""

    @dataclasses.dataclass(frozen=True)
    class Device:
        process_index: int
        id: int

    devices = [Device(process, 2 * i + process) for i in range(3) for process in (0, 1)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    chosen = parallel.choose_devices(ParallelSpec(), 6)
    assert [device.process_index for device in chosen] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("a:1", 2, None), "--process_id missing: give all of"),
        ((None, 2, None), "--coordinator_address and --process_id missing"),
        (("a:1", 2, 2), "--process_id is 2: it must be 0 … 1"),
        (("a:1", 2, -1), "--process_id is -1"),
        (("a:1", 0, 0), "--num_processes is 0: it must be positive"),
        (("a", 2, 0), "--coordinator_address is 'a': it must be host:port"),
        (("a:b", 2, 0), "--coordinator_address is 'a:b': it must be host:port"),
        (("a:99999", 2, 0), "--coordinator_address is 'a:99999'"),
    ],
)
def test_flags_of_several_processes(monkeypatch, arguments, said):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_: pytest.fail("it was started"))
    with pytest.raises(UserError, match=said):
        processes.initialize(*arguments)


LAUNCHERS = (
    "SLURM_STEP_NODELIST", "SLURM_NTASKS", "OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE",
    "TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES",
)  # fmt: skip


@pytest.mark.parametrize(
    "variables, libtpu, asked",
    [
        ({}, False, False),
        ({}, True, True),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "n[1-2]"}, False, True),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n1"}, False, False),  # srun --pty bash
        ({"SLURM_NTASKS": "", "SLURM_STEP_NODELIST": "n1"}, False, False),
        ({"OMPI_COMM_WORLD_SIZE": " "}, False, False),
        ({"SLURM_NTASKS": "2"}, False, False),  # within salloc, without srun
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://1.2.3.4:5", "OMPI_COMM_WORLD_SIZE": "2"}, False, True),
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://1.2.3.4:5", "OMPI_COMM_WORLD_SIZE": "1"}, False, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, True, False),
    ],
)  # fmt: skip
def test_launchers_are_seen(monkeypatch, variables, libtpu, asked):
    calls = []
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: libtpu or None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments: calls.append(arguments))
    processes.initialize()
    assert calls == ([(None, None, None)] if asked else [])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_open_mpi_that_jax_does_not_know_is_one_line(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(UserError, match="give --coordinator_address, --num_processes=4"):
        processes.initialize()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "four")
    with pytest.raises(UserError, match="OMPI_COMM_WORLD_SIZE is 'four': it must be an integer"):
        processes.initialize()


def test_only_errors_of_communication_are_a_lost_peer(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with (
        pytest.raises(PeerLost, match="has died .*start all 2 again"),
        processes.report_lost_peer(),
    ):
        raise jax.errors.JaxRuntimeError(
            "UNKNOWN: Gloo all-reduce failed: Connection reset by peer"
        )
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE"), processes.report_lost_peer():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
