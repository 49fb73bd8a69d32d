"""Training steps over several devices, by `jit` over a data mesh or by `pmap`; rows of a model.

Both ways compute the same function of the same global batch as one device.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aae_jax.errors import UserError
from aae_jax.priors import PriorSample
from aae_jax.settings import ParallelSpec
from aae_jax.train_state import TrainState
from aae_jax.training import train_batches, train_step, train_steps

DATA_AXIS = "data"


def _in_order(devices: Iterable[jax.Device]) -> list[jax.Device]:
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def choose_devices(spec: ParallelSpec, batch_size: int | None = None) -> list[jax.Device]:
    """The devices that `config.parallel` asks for.

    Args:
        spec: the config's `parallel` section.
        batch_size: of the training; None if nothing is trained.

    Raises:
        UserError: there are fewer devices, the batch does not divide over them, or the request does
            not work with several processes.
    """
    devices = _in_order(jax.devices())
    wanted = len(devices) if spec.num_devices is None else spec.num_devices
    if wanted > len(devices):
        raise UserError(f"parallel.num_devices is {wanted}: there are {len(devices)}")
    if jax.process_count() > 1:
        if wanted != len(devices):
            raise UserError(
                f"parallel.num_devices is {wanted}: {jax.process_count()} processes use all of "
                f"their {len(devices)}; leave it out"
            )
        if spec.runner == "pmap":
            raise UserError(
                f"parallel.runner is 'pmap', which takes one process: there are "
                f"{jax.process_count()}; use 'jit'"
            )
    if batch_size is not None and jax.process_count() > 1:
        check_batch_size(batch_size, wanted, f" of the {jax.process_count()} processes")
    elif batch_size is not None and spec.num_devices is not None:
        hint = " (if parallel.num_devices is left out, a number that divides it is used)"
        check_batch_size(batch_size, wanted, hint)
    return devices[:wanted]


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A 1-D mesh of the given devices, or of all devices, along which batches are split."""
    # Not jax.make_mesh, which may reorder: the rows of a process must lie together.
    devices = _in_order(jax.devices()) if devices is None else devices
    return Mesh(np.array(devices), (DATA_AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def for_batches(mesh: Mesh, batch_size: int) -> Mesh:
    """The mesh, or a mesh of its first devices, as many as the batches divide over."""
    size = max(n for n in range(1, mesh.size + 1) if batch_size % n == 0)
    return mesh if size == mesh.size else make_mesh(list(mesh.devices.flat[:size]))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device: for states and for data sets on the device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The same host arrays on every device of every process; each process passes all of them."""

    def put(value):
        value = np.asarray(value)
        return jax.make_array_from_process_local_data(replicated(mesh), value, value.shape)

    return jax.tree.map(put, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows divided over the devices: for batches and prior samples."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def batches_sharding(mesh: Mesh) -> NamedSharding:
    """Rows divided over the devices, for K batches [K, B, …]."""
    return NamedSharding(mesh, PartitionSpec(None, DATA_AXIS))


def by_rows(
    function: Callable[..., jax.Array], whole: Any, rows: Sequence[Any], *rest: Any
) -> np.ndarray:
    """`function(whole, *rows, *rest)`, its rows divided over the devices that hold `whole`.

    Args:
        function: computes row i of its result from row i of `rows`. It is compiled once if each
            call gives the same object.
        whole: arrays that every device holds in full, such as a replicated state.
        rows: arrays [N, …], or None; the last row is repeated up to a multiple of the devices.
        rest: further arguments, the same for all rows, such as a key.

    Returns:
        A host array [N, …].
    """
    mesh = make_mesh(_in_order(jax.tree.leaves(whole)[0].devices()))
    num_rows = len(rows[0])
    padding = -num_rows % mesh.size

    def put(values):
        values = np.asarray(values)
        widths = ((0, padding),) + ((0, 0),) * (values.ndim - 1)
        return jax.device_put(np.pad(values, widths, mode="edge"), batch_sharding(mesh))

    return np.asarray(jax.jit(function)(whole, *jax.tree.map(put, tuple(rows)), *rest))[:num_rows]


def check_batch_size(
    batch_size: int, num_devices: int, hint: str = "", field: str = "train.batch_size"
) -> None:
    """Raises `UserError` unless the global batch divides evenly; `hint` ends its line."""
    if batch_size % num_devices:
        raise UserError(
            f"{field} is {batch_size}: it must be a multiple of the {num_devices} devices{hint}"
        )


@functools.cache
def _pmapped(function, in_axes, devices, **static):
    def mapped(_, *arguments):
        return function(*arguments, axis_name=DATA_AXIS, **static)

    mapped = jax.pmap(
        mapped, axis_name=DATA_AXIS, in_axes=(0, *in_axes), out_axes=(None, None), devices=devices
    )
    # pmap needs one mapped argument, and a data set is on every device in full.
    return functools.partial(mapped, np.arange(len(devices)))


def pmap_train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    prior_sample: PriorSample,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`train_step` under `jax.pmap`, with global arguments and a state that is not stacked.

    `jax.pmap` is in maintenance: prefer `jit` over a mesh.

    Args:
        state, batch, prior_sample: as `train_step`.
        devices: of this process; None for all of them.

    Raises:
        UserError: the batch, or its labelled rows, do not divide over the devices.
    """
    devices = _own_devices(devices, batch["image"].shape[0])
    _check_labelled(batch, 0, devices)
    batch, prior_sample = jax.tree.map(
        lambda v: v.reshape(len(devices), -1, *v.shape[1:]), (batch, prior_sample)
    )
    return _pmapped(train_step, (None, 0, 0), devices)(state, batch, prior_sample)


def pmap_train_steps(
    state: TrainState,
    dataset: dict[str, jax.Array],
    num_steps: int,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`train_steps` under `jax.pmap`: as `pmap_train_step`, with the data set on every device."""
    devices = _own_devices(devices, state.spec.train.batch_size)
    step = _pmapped(train_steps, (None, None), devices, num_steps=num_steps)
    return step(state, dataset)


def pmap_train_batches(
    state: TrainState,
    batches: dict[str, jax.Array],
    devices: Sequence[jax.Device] | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`train_batches` under `jax.pmap`: as `pmap_train_step`, of batches [K, B, …]."""
    devices = _own_devices(devices, batches["image"].shape[1])
    _check_labelled(batches, 1, devices)
    batches = jax.tree.map(lambda v: v.reshape(v.shape[0], len(devices), -1, *v.shape[2:]), batches)
    return _pmapped(train_batches, (None, 1), devices)(state, batches)


def _own_devices(devices, batch_size):
    devices = tuple(jax.local_devices() if devices is None else devices)
    check_batch_size(batch_size, len(devices))
    return devices


def _check_labelled(batch, axis, devices):
    if "labelled_image" in batch:  # it may have any number of rows
        num_rows = batch["labelled_image"].shape[axis]
        check_batch_size(num_rows, len(devices), field="the number of rows of labelled_image")
