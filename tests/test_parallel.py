"""One training, however it is split: one device, a mesh, pmap, several processes; and restarts."""

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
from conftest import ROOT
from small import (
    IN_TWO_PROCESSES,
    MODELS,
    partly_labelled,
    start_of,
    streamed_settings,
    train_compiled_fast,
    twenty_steps_of,
)
from test_experiment import STEPS, metrics, results, small_config

import aae_jax as aae
from aae_jax import data, experiment, parallel, processes
from aae_jax.checkpoint import Checkpoints
from aae_jax.errors import PeerLost, UserError
from aae_jax.spec import ParallelSpec

# In float64, because Adam amplifies rounding.


@pytest.mark.parametrize("count", [8, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODELS)
def test_mesh_and_pmap_train_every_model_as_one_device_does(x64, name, count):
    expected, expected_metrics = twenty_steps_of(name)
    assert len(jax.devices()) == 8
    devices = jax.devices()[:count]
    mesh = parallel.make_mesh(devices)
    state = jax.device_put(start_of(name), parallel.replicated(mesh))
    dataset = parallel.replicate(partly_labelled(), mesh)
    for trained, found in (
        train_compiled_fast(state, dataset, 20, batch_sharding=parallel.split(mesh)),
        parallel.pmap_train_steps(state, dataset, 20, devices),
    ):
        assert trained.params["encoder"]["Dense_0"]["kernel"].dtype == np.float64
        chex.assert_trees_all_close(trained.params, expected.params, rtol=0, atol=1e-9)
        chex.assert_trees_all_close(trained.average, expected.average, rtol=0, atol=1e-9)
        chex.assert_trees_all_close(trained.opt_state, expected.opt_state, rtol=0, atol=1e-9)
        chex.assert_trees_all_close(found, expected_metrics, rtol=0, atol=1e-9)


MODELS_IN_TWO_PROCESSES = """
import os, signal, sys
process, port, where = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.path.insert(0, "tests")
import jax, numpy as np
from aae_jax import processes
processes.initialize(f"localhost:{port}", 2, process)
import aae_jax as aae
from aae_jax import data, experiment, parallel, records
import small
from test_experiment import small_config
jax.config.update("jax_enable_x64", True)
mesh = parallel.make_mesh()
assert mesh.size == 4 and jax.process_count() == 2

def create(spec):
    whole = parallel.replicated(mesh)
    create = jax.jit(aae.create_train_state, static_argnums=0, out_shardings=whole)
    return create(spec, jax.random.key(0))

def save(name, state):
    leaves = map(np.asarray, jax.tree.leaves((state.params, state.average)))
    if process == 0:
        np.savez(os.path.join(where, name), *leaves)

for name in sys.argv[4:] or small.IN_TWO_PROCESSES:
    state = create(small.start_of(name).spec)
    dataset = parallel.replicate(small.partly_labelled(), mesh)
    sharding = parallel.split(mesh)
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
save("streamed", experiment._stepper(state, train, settings, mesh)(state, 20)[0])
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
    """Starts the command twice, as processes 0 and 1 with so many devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, *(a.format(process=i, port=port) for a in arguments)],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for i in range(2)
    ]  # fmt: skip


def outputs_of(started):
    """Waits; what the processes printed, without what the libraries did, and their exit codes."""
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


def two_processes(*arguments):
    """Starts the command twice, two devices each, and waits; their outputs."""
    outputs, codes = outputs_of(start_two(*arguments))
    assert codes == [0, 0], outputs
    return outputs


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """What two processes made: parameters of every model, and a run that was stopped."""
    path = tmp_path_factory.mktemp("two")
    script = path / "script.py"
    script.write_text(TWO_PROCESSES)
    outputs = two_processes(str(script), "{process}", "{port}", str(path))
    assert "interrupted at step" in outputs[0] and outputs[1] == ""  # only the first prints
    return path


def assert_saved(path, state):
    found = np.load(path)
    leaves = jax.tree.leaves((state.params, state.average))
    assert len(found.files) == len(leaves)
    for name, leaf in zip(found.files, leaves):
        np.testing.assert_allclose(found[name], leaf, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", IN_TWO_PROCESSES)
def test_two_processes_train_every_model_as_one_device_does(x64, where, name):
    assert_saved(where / f"{name}.npz", twenty_steps_of(name)[0])


@pytest.mark.slow
def test_two_processes_train_the_other_models_too(x64, tmp_path):
    names = [name for name in MODELS if name not in IN_TWO_PROCESSES]
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


def assert_close(found, expected, tolerance):
    """Nested results, lists of metrics: numbers to a tolerance, the rest exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_close(found[name], expected[name], tolerance)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected):
            assert_close(*pair, tolerance)
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    else:
        assert found == expected


@pytest.mark.slow
def test_two_processes_run_as_one_and_one_goes_on(where, tmp_path):
    """Two processes take up the run that a signal stopped; then one, a checkpoint that they made."""
    workdir = str(where / "run")
    stopped = [int(name) for name in os.listdir(os.path.join(workdir, "checkpoints"))]
    assert max(stopped) < STEPS
    flags = ["launch.py", f"--workdir={workdir}", "--coordinator_address=localhost:{port}"]
    flags += ["--num_processes=2", "--process_id={process}"]
    flags += [f"--config.{name}={value}" for name, value in changed_fields().items()]
    outputs = two_processes(*flags)
    assert f"going on from step {max(stopped)}" in outputs[0] and outputs[1] == ""

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
sys.path.insert(0, "tests")
from aae_jax import processes
processes.initialize(f"localhost:{port}", 2, process)
import numpy as np
from aae_jax import evaluation, experiment
from test_experiment import LONG, small_config

# Every dispatch of a scoring pass is one round, and its sums are saved.
experiment._DISPATCH_SECONDS, experiment._SAVE_SECONDS = 0.0, -1.0
add, log_likelihoods = evaluation._add, evaluation.log_likelihoods
rounds, found = [], []

def counted(*arguments):
    rounds.append(arguments[6])
    if name == "cut" and len(rounds) == stop_in and process == 1:
        signal.raise_signal(signal.SIGTERM)
    return add(*arguments)

def kept(*arguments):
    found.append(log_likelihoods(*arguments))
    return found[-1]

evaluation._add, evaluation.log_likelihoods = counted, kept
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
    assert "going on" not in said
    partial = tmp_path / "cut" / "partial"
    assert len(list(partial.iterdir())) == 2  # both passes
    assert not (tmp_path / "cut" / "results.json").exists()
    said = score("cut", 0)
    assert "validation: going on from sample 40500" in said
    assert "test: going on from sample 24000" in said
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
    flags = ["launch.py", f"--workdir={workdir}", "--coordinator_address=localhost:{port}"]
    flags += ["--num_processes=2", "--process_id={process}", "--mode=train"]
    changes = {**changed_fields(), "train.num_steps": 800, "run.checkpoint_every": 400}
    flags += [f"--config.{name}={value}" for name, value in changes.items()]
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
    assert "going on from step" in outputs[0]
    assert aae.load_state(str(workdir)).step == 800


def changed_fields():
    """What `small_config` changes in the default config, as overrides."""
    from experiments import digits

    def flat(tree, prefix=""):
        for name, value in tree.items():
            yield from (
                flat(value, f"{prefix}{name}.")
                if hasattr(value, "items")
                else [(prefix + name, value)]
            )

    default = dict(flat(digits.get_config()))
    return {
        name: value
        for name, value in flat(small_config())
        if value != default[name] and not name.startswith("parallel.")
    }


def test_checkpoints_move_between_numbers_of_devices(x64, tmp_path):
    """4 → 2 → 1: the run ends where an uncut one on one device does."""
    name = "aae, gaussian, labels in the decoder"
    state, dataset = start_of(name), partly_labelled()
    for count, num_steps in ((4, 8), (2, 8), (1, 4)):
        mesh = parallel.make_mesh(jax.devices()[:count])
        state = jax.device_put(start_of(name), parallel.replicated(mesh))
        with Checkpoints(tmp_path) as checkpoints:
            if count < 4:
                state = checkpoints.restore(state)
            on_device = parallel.replicate(dataset, mesh)
            sharding = parallel.split(mesh)
            state, _ = train_compiled_fast(state, on_device, num_steps, batch_sharding=sharding)
            kernel = state.params["encoder"]["Dense_0"]["kernel"]
            assert len(kernel.sharding.device_set) == count
            checkpoints.save(state)
    assert state.step == 20
    expected, _ = twenty_steps_of(name)
    chex.assert_trees_all_close(state.params, expected.params, rtol=0, atol=1e-9)


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
            r"train.batch_size is 12: .*multiple of the 8 devices \(without parallel.num_devices as",
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
    """The numbers of devices that the pictures would be drawn with."""
    seen = []
    monkeypatch.setattr(
        experiment, "_draw", lambda state, *rest: seen.append(len(state.step.devices()))
    )
    return seen


def test_by_default_as_many_train_as_the_batch_divides_over_and_all_score_and_draw(
    tmp_path, drawn_on, capsys
):
    """Batches of 20 on 8 devices: 5, which end bit-identical to 5 that were asked for."""
    config = small_config(**{"train.num_steps": 8})
    five = config.copy_and_resolve_references()
    config.parallel.num_devices, five.parallel.num_devices = None, 5
    experiment.run(config, str(tmp_path / "default"))
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "batch 20 does not divide over 8 devices: training on 5"
    assert results(tmp_path / "default")["devices"] == ["cpu"] * 8 and drawn_on == [8]
    experiment.run(five, str(tmp_path / "five"), "train")
    assert "does not divide" not in capsys.readouterr().out
    assert metrics(tmp_path / "default") == metrics(tmp_path / "five")
    default, five = (aae.load_state(str(tmp_path / name)) for name in ("default", "five"))
    chex.assert_trees_all_equal(default.params, five.params)


def test_only_training_wants_a_batch_that_divides(tmp_path, drawn_on):
    """Batches of 20 on 3 devices that were asked for."""
    three = small_config(**{"parallel.num_devices": 3, "train.num_steps": 4})
    experiment.run(small_config(**{"train.num_steps": 4}), str(tmp_path), "train")
    experiment.run(three, str(tmp_path), "evaluate")
    experiment.run(three, str(tmp_path), "figures")
    assert results(tmp_path)["devices"] == ["cpu"] * 3 and drawn_on == [3]
    for mode in ("run", "train"):
        with pytest.raises(UserError, match="train.batch_size is 20: .*multiple of the 3 devices"):
            experiment.run(three, str(tmp_path), mode)


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
    """Whatever order the devices come in: each process reads its slice of a streamed batch."""

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
        (("a:1", 2, None), "--process_id missing: .* go together"),
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
    "environment, libtpu, asked",
    [
        ({}, False, False),
        ({}, True, True),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "n[1-2]"}, False, True),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n1"}, False, False),  # srun --pty bash
        ({"SLURM_NTASKS": "2"}, False, False),  # within salloc, without srun
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://1.2.3.4:5", "OMPI_COMM_WORLD_SIZE": "2"}, False, True),
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://1.2.3.4:5", "OMPI_COMM_WORLD_SIZE": "1"}, False, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, True, False),
    ],
)  # fmt: skip
def test_launchers_are_seen(monkeypatch, environment, libtpu, asked):
    calls = []
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
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


def test_only_errors_of_communication_are_a_lost_peer(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(PeerLost, match="has died .*start all 2 again"), processes.peers():
        raise jax.errors.JaxRuntimeError(
            "UNKNOWN: Gloo all-reduce failed: Connection reset by peer"
        )
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE"), processes.peers():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
