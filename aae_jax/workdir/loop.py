"""The training loop: dispatches of many steps, metrics, checkpoints, and failures."""

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax import multi_seed, parallel
from aae_jax.errors import UserError
from aae_jax.settings import Settings
from aae_jax.train_state import TrainState
from aae_jax.training import train_batches, train_steps
from aae_jax.workdir import health, memory, records, terminal

_STREAMED_BYTES = 2**26  # of images that are handed to the device at a time

Advance = Callable[[TrainState, int], tuple[TrainState, dict[str, jax.Array]]]


class Job(NamedTuple):
    """What a training needs in addition to its state and its checkpoints."""

    settings: Settings  # `run.stream` is decided
    train: dict[str, Any]  # images [N, …], perhaps lazy; labels [N], or [K, N] of several seeds
    mesh: jax.sharding.Mesh
    workdir: str


def is_streamed(images: Any, settings: Settings) -> bool:
    """Whether images are streamed from the host while training, by `run.stream` or their size."""
    if settings.run.stream is not None:
        return settings.run.stream
    most = memory.device_bytes()
    return most is not None and len(images) * _num_bytes(images) > most / 2


def train(state: TrainState, job: Job, checkpoints: Any, signals: terminal.Signals) -> TrainState:
    """Trains up to `train.num_steps`, one dispatch at a time, or until a signal.

    Args:
        state: of the newest checkpoint, or at step 0; replicated over the job's mesh.
        job: the training.
        checkpoints: an open `workdir.checkpoint.Checkpoints`.
        signals: an open `workdir.terminal.Signals`, which notes a first signal.
    """
    settings, given = job.settings, job.mesh
    spec, every = state.spec, settings.run.checkpoint_every
    step, num_steps = int(state.step), spec.train.num_steps
    if step >= num_steps:
        terminal.say(f"training is finished: {step} steps")
        return state
    job = job._replace(mesh=parallel.for_batches(given, spec.train.batch_size))
    if job.mesh is not given:
        terminal.say(
            f"a batch of {spec.train.batch_size} does not divide over {given.size} devices: "
            f"training on {job.mesh.size}"
        )
        state = jax.device_put(state, parallel.replicated(job.mesh))
    advance = stepper(state, job)
    checkpoints.remove_after(step)
    records.remove_stale(job.workdir)
    log = records.MetricsLog(job.workdir, step)
    collapse = health.Collapse(log.kept)
    if step:
        terminal.say(f"resuming from step {step}")
    before, start = log.seconds, time.monotonic()
    pending = None  # the dispatch under way; its metrics are read while the next one runs
    with terminal.Progress(num_steps) as progress:

        def flush():
            if pending is None:
                return
            begin, end, metrics, finite = pending
            if not health.is_finite(metrics, finite):
                _fail(begin, end, job, advance, checkpoints)
            line = log.write(end, metrics, lambda: before + time.monotonic() - start)
            progress.show(end, line)
            for warning in collapse.see(line):
                terminal.say(f"warning: {warning}")

        while step < num_steps:
            size = settings.run.steps_per_dispatch
            size = min(size - step % size, num_steps - step)
            signals.ask()  # before the dispatch, so that the answer need not wait for its end
            begin = state
            state, metrics = advance(state, size)
            finite = health.finite_networks(state.params)
            flush()
            stop = signals.to_obey()
            step += size
            pending = (begin, step, metrics, finite)
            if step // every > (step - size) // every or step == num_steps or stop:
                flush()  # raises if a number is not finite, before that state is saved
                pending = None
                log.flush()
                checkpoints.save(state)
            if stop:
                break
    log.close()
    return state if job.mesh is given else jax.device_put(state, parallel.replicated(given))


def _fail(begin, end, job, advance, checkpoints):
    """Finds the first failed step from the state `begin` to step `end`, records it, and raises."""
    settings, workdir = job.settings, job.workdir
    if settings.run.stream:  # the stream has gone past them
        advance = stepper(begin, job)
    first = int(begin.step) + 1
    failures = []
    for index, seed in enumerate(settings.seeds):
        alone, own = begin, job.train
        if settings.num_seeds > 1:
            alone = multi_seed.member(begin, index)
            own = {k: v if k in multi_seed.SHARED else v[index] for k, v in job.train.items()}
            one = dataclasses.replace(settings, num_seeds=1)
            advance = stepper(alone, job._replace(settings=one, train=own))
        found = health.find_failure(alone, end - first + 1, own, advance)
        if found is not None:
            failures.append({"seed": seed, **found})
    failure = min(failures, key=lambda found: found["step"], default=None)
    if failure is None:
        raise UserError(
            f"a loss or a parameter was not finite in steps {first} to {end}, but is when they are "
            f"repeated: training is at the edge of {begin.spec.model.param_dtype}'s range, or this "
            f"machine makes errors; earlier checkpoints are kept in {workdir}"
        )
    failure["last_checkpoint"] = checkpoints.latest_step()
    records.write_json(os.path.join(workdir, "failure.json"), failure)
    losses = ", ".join(f"loss/{name} is {float(v):.4g}" for name, v in failure["losses"].items())
    networks = " and ".join(failure["networks"])
    networks = f", and the parameters of {networks} are not finite after it" if networks else ""
    of_seed = f" of seed {failure['seed']}" if settings.num_seeds > 1 else ""
    raise UserError(
        f"at step {failure['step']}{of_seed} {losses}{networks}: training stopped; earlier "
        f"checkpoints are kept in {workdir}, where failure.json has the rows of the batch; lower "
        "optimizer.*.learning_rate or set optimizer.*.clip_norm"
    )


def stepper(state: TrainState, job: Job) -> Advance:
    """(state, number of steps) → (state, metrics), from images on the device or streamed to it.

    Args:
        state: the state before the first step.
        job: the training; batches divide over its mesh.
    """
    if job.settings.run.stream:
        return _streaming_stepper(state, job)
    sharding, devices = parallel.batch_sharding(job.mesh), list(job.mesh.devices.flat)
    on_device = parallel.replicate(
        {name: np.asarray(values) for name, values in job.train.items()}, job.mesh
    )
    if job.settings.parallel.runner == "pmap":
        return lambda state, size: parallel.pmap_train_steps(state, on_device, size, devices)
    train = multi_seed.train if job.settings.num_seeds > 1 else train_steps
    return lambda state, size: train(state, on_device, size, batch_sharding=sharding)


def _streaming_stepper(state, job):
    from aae_jax.data import streaming

    sharding, devices = parallel.batch_sharding(job.mesh), list(job.mesh.devices.flat)
    spec = job.settings.spec.train
    share = spec.batch_size // jax.process_count()
    first_row = share * jax.process_index()
    source = streaming.batches(
        job.train,
        state.rng,
        int(state.step),
        spec.num_steps,
        spec.batch_size,
        slice(first_row, first_row + share),
    )
    per_call = max(1, _STREAMED_BYTES // (_num_bytes(job.train["image"]) * spec.batch_size))

    def advance(state, size):
        metrics = []
        while size:
            read = list(itertools.islice(source, min(size, per_call)))
            size -= len(read)
            batches: Any = {name: np.stack([b[name] for b in read]) for name in read[0]}
            if job.settings.parallel.runner == "pmap":
                state, found = parallel.pmap_train_batches(state, batches, devices)
            else:
                rows = parallel.batches_sharding(job.mesh)
                batches = {
                    name: jax.make_array_from_process_local_data(rows, values)
                    for name, values in batches.items()
                }
                state, found = train_batches(state, batches, batch_sharding=sharding)
            metrics.append(found)
        return state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *metrics)

    return advance


def _num_bytes(images) -> int:
    """Of one image."""
    return math.prod(images.shape[1:]) * images.dtype.itemsize
