"""One run in several processes: how they join, agree on values, and share the host's work."""

import contextlib
import functools
import importlib.util
import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aae_jax.errors import PeerLost, UserError

_PREPARATION_SECONDS = 4 * 3600  # downloads and prepares the data

# Words in the errors of collectives that mean that another process is gone.
_COMMUNICATION = (
    "gloo", "nccl", "unavailable", "connection", "deadline_exceeded", "heartbeat", "socket", "peer",
)  # fmt: skip


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run before anything is computed; does nothing for a single process.

    Without arguments it joins the processes that srun, Open MPI's mpirun or a TPU pod started, as
    `jax.distributed.initialize()` finds them.

    Args:
        coordinator_address: "host:port" of process 0.
        num_processes: the number of processes.
        process_id: this process's number, from 0.

    Raises:
        UserError: only some of the three are given, or they are invalid.
    """
    given = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given) and not _started_together():
        return
    if 0 < len(missing) < len(given):
        raise UserError(
            f"{' and '.join(missing)} missing: give all of {', '.join(given)}, or none of them "
            "under srun, mpirun and on TPU pods"
        )
    if coordinator_address is not None and num_processes is not None and process_id is not None:
        host, _, port = coordinator_address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise UserError(
                f"--coordinator_address is {coordinator_address!r}: it must be host:port"
            )
        if num_processes < 1:
            raise UserError(f"--num_processes is {num_processes}: it must be positive")
        if not 0 <= process_id < num_processes:
            raise UserError(
                f"--process_id is {process_id}: it must be 0 … {num_processes - 1}, below "
                "--num_processes"
            )
    handler = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except ValueError as error:
        # libtpu is installed, but there is no pod.
        if missing and "coordinator_address should be defined" in str(error):
            return
        raise
    except RuntimeError as error:  # JAX's own errors are RuntimeErrors
        raise UserError(
            f"process {process_id} can't join the others at {coordinator_address} "
            f"({str(error).splitlines()[0][:100]}): is the address that of process 0, and its port free?"
        ) from error
    finally:
        # JAX would only note SIGTERM; `terminal.Signals` stops all processes together.
        signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def _started_together() -> bool:
    """Whether a launcher that `jax.distributed` knows may have started several processes.

    `jax.distributed` is not called otherwise: it takes time on one machine, and it would leave an
    interactive SLURM shell (one task) with one of its GPUs.
    """
    env = os.environ
    if "SLURM_STEP_NODELIST" in env and _number_in_environment("SLURM_NTASKS") > 1:
        return True
    if _number_in_environment("OMPI_COMM_WORLD_SIZE") > 1:
        if "OMPI_MCA_orte_hnp_uri" not in env:  # Open MPI 5, which JAX does not know
            raise UserError(
                "this Open MPI does not say where process 0 is: give --coordinator_address, "
                f"--num_processes={env['OMPI_COMM_WORLD_SIZE']} and "
                "--process_id=$OMPI_COMM_WORLD_RANK"
            )
        return True
    hosts = env.get("TPU_PROCESS_ADDRESSES", env.get("TPU_WORKER_HOSTNAMES"))
    if hosts is not None:  # Google Kubernetes Engine, or notebooks with one host
        return "," in hosts
    return importlib.util.find_spec("libtpu") is not None  # a TPU VM asks its metadata server


def _number_in_environment(name):
    """The number in an environment variable; 1 if it is not set or empty."""
    value = os.environ.get(name, "").strip() or "1"
    if not value.isdigit():
        raise UserError(f"the environment variable {name} is {value!r}: it must be an integer")
    return int(value)


def check_devices() -> None:
    """Raises if JAX finds no device, or not the one that JAX_PLATFORMS asks for."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # depends on where JAX notices it
        reason = " ".join(str(error).split())[:150]
        reason = f" ({reason})" if reason else ""
        asked = jax.config.jax_platforms  # type: ignore[attr-defined]
        if not asked:
            raise UserError(f"JAX finds no device to compute on{reason}") from error
        raise UserError(
            f"JAX_PLATFORMS is {asked!r}, but JAX can't use such a device here{reason}: unset it, "
            "set it to 'cpu', or install the driver and the JAX for it"
        ) from error


def is_first() -> bool:
    """Whether this is process 0, the only one that writes files and prints."""
    return jax.process_index() == 0


def all_reduce_max(values: Sequence[float]) -> jax.Array | np.ndarray:
    """The maximum over all processes, for each of several values.

    A collective operation: every process must call it at the same point. It does not block.

    Args:
        values: K numbers.

    Returns:
        f32[K], the same on every process.
    """
    if jax.process_count() == 1:
        return np.asarray(values, np.float32)
    mesh = Mesh(np.array(jax.devices()), ("all",), axis_types=(AxisType.Auto,))
    own = np.tile(np.asarray(values, np.float32), (jax.local_device_count(), 1))
    everyones = jax.make_array_from_process_local_data(
        NamedSharding(mesh, PartitionSpec("all")), own
    )
    return _largest(everyones, NamedSharding(mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnums=1)
def _largest(values, sharding):
    return jax.lax.with_sharding_constraint(values.max(axis=0), sharding)


def broadcast_from_first(tree: Any) -> Any:
    """The first process's host arrays, on all processes; shapes must agree."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def gather_to_host(tree: Any) -> Any:
    """Host copies of arrays, which may be split over processes; a collective operation."""

    def gather(leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(gather, tree)


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """Lets the first process run the body before the others, to prepare files that all read."""
    try:
        if not is_first():
            _wait_for_all()
        yield
    finally:  # if it fails, the others must not wait for ever
        if is_first():
            _wait_for_all()


_barriers = itertools.count()


def _wait_for_all() -> None:
    """A barrier of the coordination service; a collective would time out after half a minute."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost  # takes seconds to import

        multihost.sync_global_processes(
            f"aae_jax {next(_barriers)}",
            timeout=_PREPARATION_SECONDS,
            processes=set(range(jax.process_count())),
        )


@contextlib.contextmanager
def report_lost_peer() -> Iterator[None]:
    """Reports a failed collective in one line; does nothing for a single process.

    Gloo and NCCL notice at once when a process dies. If a machine vanishes from the network, JAX's
    heartbeat ends the process after 100 seconds with its own message.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # depends on the dispatch's progress
        text = str(error).lower()
        told = isinstance(error, UserError) or jax.process_count() == 1
        if told or not any(word in text for word in _COMMUNICATION):
            raise
        raise PeerLost(
            f"another process of this run has died ({str(error).splitlines()[0][:100]}): start all "
            f"{jax.process_count()} again, and they resume from the last checkpoint"
        ) from error


def local_copy(tree: Any) -> Any:
    """Copies of replicated arrays on one device of this process, for its own computations."""

    def copy(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = np.asarray(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))  # type: ignore[arg-type]
        return jax.device_put(leaf.addressable_data(0), jax.local_devices()[0])

    return jax.tree.map(copy, tree)
