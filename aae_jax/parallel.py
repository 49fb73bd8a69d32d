"""The training step over several devices: `jit` over a data mesh, or `pmap`.

Both compute the same function of the same global batch as one device does.
"""

import functools

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aae_jax.errors import UserError
from aae_jax.priors import PriorSample
from aae_jax.train_state import TrainState
from aae_jax.training import train_step

DATA_AXIS = "data"


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A 1-D mesh of the given devices, or of all there are, along which batches are split."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh(
        (len(devices),), (DATA_AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device: states, and data sets that live on the device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Rows divided over the devices: batches and prior samples."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def split_batches(mesh: Mesh) -> NamedSharding:
    """Batches [K, B, …], one after the other, the rows of each divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, DATA_AXIS))


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Raises `UserError` unless the global batch divides evenly."""
    if batch_size % num_devices:
        raise UserError(
            f"train.batch_size is {batch_size}: it must be a multiple of the {num_devices} devices"
        )


@functools.partial(
    jax.pmap, axis_name=DATA_AXIS, in_axes=(None, 0, 0), out_axes=(None, None)
)  # fmt: skip
def _pmapped(state, batch, prior_sample):
    return train_step(state, batch, prior_sample, axis_name=DATA_AXIS)


def pmap_train_step(
    state: TrainState, batch: dict[str, jax.Array], prior_sample: PriorSample
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`train_step` under `jax.pmap` on all local devices; the arguments are the global ones.

    `jax.pmap` is in maintenance: prefer `jit` over a mesh. The state is not stacked.

    Raises:
        UserError: the batch does not divide over the devices.
    """
    num_devices = jax.local_device_count()
    check_batch_size(batch["image"].shape[0], num_devices)
    batch, prior_sample = jax.tree.map(
        lambda v: v.reshape(num_devices, -1, *v.shape[1:]), (batch, prior_sample)
    )
    return _pmapped(state, batch, prior_sample)
