"""One run: data → train → checkpoint → evaluate → draw, in a workdir that can be taken up again."""

import dataclasses
import itertools
import json
import math
import os
import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax import data, ensemble, health, parallel, processes, records, terminal
from aae_jax.errors import PeerLost, UserError
from aae_jax.priors import check_prior
from aae_jax.spec import Settings, Spec, parse_config, spec_from_config
from aae_jax.train_state import TrainState, create_train_state, used_params
from aae_jax.training import train_batches, train_steps

_DISPATCH_SECONDS = 1.0  # of a scoring pass: signals and progress wait for its end
_SAVE_SECONDS = 30.0  # between two saves of a scoring pass
_QUIET_SECONDS = 5.0  # shorter passes show no progress

_STREAMED_BYTES = 2**26  # of images that are handed to the device at a time


def run(config: Any, workdir: str, mode: str = "run") -> None:
    """Trains, evaluates and draws, or takes up where an earlier start in the workdir ended.

    Args:
        config: a ConfigDict with the fields of `experiments/default.py`.
        workdir: gets `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`,
            `results.json` and `figures/`.
        mode: "run" does what is missing of all; "train", "evaluate" and "figures" do that one.

    Raises:
        UserError: anything that the user can put right, in one line.
        SystemExit: after SIGINT or SIGTERM, with 128 + the signal's number; the state is saved.
    """
    settings = parse_config(config)
    batch_size = settings.spec.train.batch_size if mode in ("run", "train") else None
    mesh = parallel.make_mesh(parallel.choose_devices(settings.parallel, batch_size))
    config_json = json.loads(config.to_json_best_effort())
    records.check(workdir, config_json)
    with processes.first_before_others():
        dataset = data.load(settings.data)
    spec = spec_from_config(config, dataset.image_shape, dataset.num_classes)
    available = min(len(fold.validation["image"]) for fold in dataset.folds)
    wanted = settings.evaluation.num_validation
    if wanted is not None and wanted > available:
        raise UserError(
            f"evaluation.num_validation is {wanted}: the data {settings.data.name!r} have only "
            f"{available} validation images"
        )
    train = dataset.train
    # Hosts may differ in memory, and all must do the same.
    streamed = bool(processes.agree([_is_streamed(train["image"], settings)])[0])
    settings = dataclasses.replace(settings, run=dataclasses.replace(settings.run, stream=streamed))
    if settings.num_seeds > 1 and streamed:
        raise UserError(
            f"num_seeds is {settings.num_seeds}: the images {settings.data.name!r} would be "
            "streamed, and several trainings in one program need them on the device"
        )
    if settings.data.num_labelled is not None:
        kept = [
            data.keep_labels(train, settings.data.num_labelled, dataset.num_classes, seed)
            for seed in _seeds(settings)
        ]
    else:
        kept = [train] * settings.num_seeds
    own = {"label": [split["label"] for split in kept]}
    if settings.data.labelled_visits is not None:
        own["place"] = [data.places(v, settings.data.labelled_visits) for v in own["label"]]
    train = {**train, **{k: v[0] if len(v) == 1 else np.stack(v) for k, v in own.items()}}
    pixel_mean = pixel_std = None
    if settings.data.standardise:
        pixel_mean, pixel_std = data.pixel_statistics(train["image"])
    check_prior(spec)
    earlier = None  # read before anything is made, unless the run has a checkpoint of its own
    if settings.start_from is not None and mode in ("run", "train") and _is_new(workdir):
        earlier = _earlier(settings, spec)

    if mode in ("run", "train"):
        os.makedirs(workdir, exist_ok=True)
    elif not os.path.isdir(os.path.join(workdir, "checkpoints")):
        raise UserError(f"no checkpoint in {workdir!r}: train first, with --mode=train")
    with records.at_work(workdir):
        records.check(workdir, config_json)  # again: another run may have just left
        if mode in ("run", "train"):
            records.write_json(os.path.join(workdir, "config.json"), config_json)
        statistics = pixel_mean, pixel_std
        _run(settings, spec, dataset, train, statistics, earlier, mesh, workdir, mode)


def _run(settings, spec, dataset, train, pixel_statistics, earlier, mesh, workdir, mode) -> None:
    from aae_jax.checkpoint import Checkpoints  # orbax takes seconds to import

    keys = [jax.random.key(seed) for seed in _seeds(settings)]
    # From here to the end of the training a first signal is only noted, so that it can be obeyed
    # when the state is whole.
    with (
        terminal.Signals() as signals,
        Checkpoints(os.path.join(workdir, "checkpoints")) as checkpoints,
        processes.peers(),
    ):
        state = _create(spec, keys, pixel_statistics, parallel.replicated(mesh))
        if checkpoints.latest_step() is not None or mode in ("evaluate", "figures"):
            state = checkpoints.restore(state)
        elif settings.start_from is not None:
            state = with_networks_of(earlier or _earlier(settings, spec), state)
        if mode in ("run", "train"):
            state = _train(state, train, settings, mesh, checkpoints, signals, workdir)
        signals.ask()
    if signals.to_obey():
        _exit_interrupted(state, signals.to_obey(), workdir)
    if mode == "evaluate" or (mode == "run" and not _is_evaluated(state, settings, workdir)):
        _evaluate(state, dataset, settings, keys, mesh, workdir)
    if processes.is_first():
        if mode == "figures" or (mode == "run" and not _is_drawn(state, workdir)):
            # The other processes have nothing left to do: it draws with the devices of its own.
            first = processes.own_copy(_members(state, settings)[0])
            own_mesh = parallel.make_mesh(mesh.local_devices)
            first = jax.device_put(first, parallel.replicated(own_mesh))
            _draw(first, dataset, jax.random.fold_in(keys[0], 2), workdir)
        _summarise(state, workdir)


def _seeds(settings) -> range:
    return range(settings.seed, settings.seed + settings.num_seeds)


def _create(spec, keys, pixel_statistics, sharding=None) -> TrainState:
    """The state at step 0 of a run: of several seeds, an ensemble."""
    keys = [jax.random.fold_in(key, 0) for key in keys]
    create, key = create_train_state, keys[0]
    if len(keys) > 1:
        create, key = ensemble.create, jnp.stack(keys)
    create = jax.jit(create, static_argnums=0, out_shardings=sharding)
    return create(spec, key, *pixel_statistics)


def _is_new(workdir) -> bool:
    """Whether there is no checkpoint, told from the names alone."""
    directory = os.path.join(workdir, "checkpoints")
    names = os.listdir(directory) if os.path.isdir(directory) else ()
    # Where one process does not see the files yet, it is new to all.
    return bool(processes.agree([not any(name.isdigit() for name in names)])[0])


def _earlier(settings, spec) -> TrainState:
    """The model of the run that `start_from` names; refused where it is another one."""
    start_from = settings.start_from
    try:
        earlier = load_state(start_from)
    except PeerLost:
        raise
    except UserError as error:
        raise UserError(f"start_from is {start_from!r}: {error}") from error
    for name in ("image_shape", "num_classes", "model", "prior"):
        before, now = getattr(earlier.spec, name), getattr(spec, name)
        if before != now:
            raise UserError(
                f"start_from is {start_from!r}, a run of another {name}: it has {before}, the config "
                f"{now}"
            )
    return earlier


def with_networks_of(earlier, state) -> TrainState:
    """A state at step 0 with the encoder and the decoder that an earlier one uses."""
    params = {name: used_params(earlier)[name] for name in ("encoder", "decoder")}
    params = jax.device_put(params, jax.tree.map(lambda value: value.sharding, state.params))
    average = None if state.average is None else jax.tree.map(jnp.copy, params)
    return state.replace(params=params, average=average)


def _members(state, settings) -> list[TrainState]:
    if settings.num_seeds == 1:
        return [state]
    return [ensemble.member(state, index) for index in range(settings.num_seeds)]


def load_state(workdir: str, seed: int | None = None) -> TrainState:
    """The trained model of a run, from its directory alone: no config file and no data.

    Args:
        workdir: with `config.json` and `checkpoints/`.
        seed: which of the models that a run of several seeds has; None for the first.

    Returns:
        The state of the newest checkpoint, to `encode`, `decode` and `generate` with.

    Raises:
        UserError: there is no run, or it can't be read.
    """
    from aae_jax.checkpoint import Checkpoints

    config = records.read_json(os.path.join(workdir, "config.json"))
    if config is None or not os.path.isdir(os.path.join(workdir, "checkpoints")):
        raise UserError(f"no checkpoint in {workdir!r}: it must be the --workdir of a run")
    settings = parse_config(config)
    mean = std = None
    if settings.data.standardise:  # overwritten by what was measured on the training images
        mean, std = jnp.zeros(settings.spec.num_pixels), jnp.ones(settings.spec.num_pixels)
    seeds = _seeds(settings)
    if seed is not None and seed not in seeds:
        raise UserError(
            f"seed is {seed!r}: the run in {workdir!r} has {', '.join(map(str, seeds))}"
        )
    state = _create(settings.spec, [jax.random.key(s) for s in seeds], (mean, std))
    with Checkpoints(os.path.join(workdir, "checkpoints")) as checkpoints:
        state = checkpoints.restore(state)
    return _members(state, settings)[0 if seed is None else seeds.index(seed)]


def _train(state, train, settings, mesh, checkpoints, signals, workdir) -> TrainState:
    """Steps on to `train.num_steps`, a dispatch at a time, or until a signal."""
    spec, every = state.spec, settings.run.checkpoint_every
    step, num_steps = int(state.step), spec.train.num_steps
    if step >= num_steps:
        terminal.say(f"training is finished: {step} steps")
        return state
    given, mesh = mesh, parallel.for_batches(mesh, spec.train.batch_size)
    if mesh is not given:
        terminal.say(
            f"batch {spec.train.batch_size} does not divide over {given.size} devices: "
            f"training on {mesh.size}"
        )
        state = jax.device_put(state, parallel.replicated(mesh))
    advance = _stepper(state, train, settings, mesh)
    checkpoints.remove_after(step)
    records.remove_stale(workdir)
    log = records.MetricsLog(workdir, step)
    collapse = health.Collapse(log.kept)
    if step:
        terminal.say(f"going on from step {step}")
    before, start = log.seconds, time.monotonic()
    pending = None  # the dispatch under way; its metrics are read while the next one runs
    with terminal.Progress(num_steps) as progress:

        def flush():
            if pending is None:
                return
            begin, end, metrics, finite = pending
            if not health.is_finite(metrics, finite):
                _fail(begin, end, train, settings, mesh, advance, checkpoints, workdir)
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
                flush()  # raises where a number is not finite, before that state is saved
                pending = None
                log.flush()
                checkpoints.save(state)
            if stop:
                break
    log.close()
    return state if mesh is given else jax.device_put(state, parallel.replicated(given))


def _fail(begin, end, train, settings, mesh, advance, checkpoints, workdir):
    """Says which of the steps from the state `begin` to step `end` went wrong first, and how."""
    if _is_streamed(train["image"], settings):  # the stream has gone past them
        advance = _stepper(begin, train, settings, mesh)
    first = int(begin.step) + 1
    failures = []
    for index, seed in enumerate(_seeds(settings)):
        alone, own = begin, train
        if settings.num_seeds > 1:
            alone = ensemble.member(begin, index)
            own = {k: v if k == "image" else v[index] for k, v in train.items()}
            advance = _stepper(alone, own, dataclasses.replace(settings, num_seeds=1), mesh)
        found = health.find_failure(alone, end - first + 1, own, advance)
        if found is not None:
            failures.append({"seed": seed, **found})
    failure = min(failures, key=lambda found: found["step"], default=None)
    if failure is None:
        raise UserError(
            f"a loss or a parameter was not finite in steps {first} to {end}, and is when they are "
            f"repeated: training is at the edge of what {begin.spec.model.param_dtype} holds, or this machine computes "
            f"wrongly; earlier checkpoints are kept in {workdir}"
        )
    failure["last_checkpoint"] = checkpoints.latest_step()
    records.write_json(os.path.join(workdir, "failure.json"), failure)
    losses = ", ".join(f"loss/{name} is {float(v):.4g}" for name, v in failure["losses"].items())
    networks = " and ".join(failure["networks"])
    networks = f", and the parameters of {networks} are not finite after it" if networks else ""
    of_seed = f" of seed {failure['seed']}" if settings.num_seeds > 1 else ""
    raise UserError(
        f"at step {failure['step']}{of_seed} {losses}{networks}: training stopped, earlier checkpoints are "
        f"kept in {workdir}, failure.json there has the rows of the batch; try lower "
        "optimizer.*.learning_rate or set optimizer.*.clip_norm"
    )


def _stepper(state, train, settings, mesh):
    """(state, number of steps) → (state, metrics), from images on the device or streamed to it."""
    sharding, devices = parallel.split(mesh), list(mesh.devices.flat)
    pmap = settings.parallel.runner == "pmap"
    if not _is_streamed(train["image"], settings):
        train = {name: np.asarray(values) for name, values in train.items()}
        on_device = parallel.replicate(train, mesh)
        if pmap:
            return lambda state, size: parallel.pmap_train_steps(state, on_device, size, devices)
        if settings.num_seeds > 1:
            return lambda state, size: ensemble.train(
                state, on_device, size, batch_sharding=sharding
            )
        return lambda state, size: train_steps(state, on_device, size, batch_sharding=sharding)
    from aae_jax.data import streaming

    spec = settings.spec.train
    share = spec.batch_size // jax.process_count()
    first_row = share * jax.process_index()
    source = streaming.batches(
        train,
        state.rng,
        int(state.step),
        spec.num_steps,
        spec.batch_size,
        slice(first_row, first_row + share),
    )

    per_call = max(1, _STREAMED_BYTES // (_num_bytes(train["image"]) * spec.batch_size))

    def advance(state, size):
        metrics = []
        while size:
            batches = list(itertools.islice(source, min(size, per_call)))
            size -= len(batches)
            batches = {name: np.stack([b[name] for b in batches]) for name in batches[0]}
            if pmap:
                state, found = parallel.pmap_train_batches(state, batches, devices)
            else:
                batches = {
                    name: jax.make_array_from_process_local_data(
                        parallel.split_batches(mesh), values
                    )
                    for name, values in batches.items()
                }
                state, found = train_batches(state, batches, batch_sharding=sharding)
            metrics.append(found)
        return state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *metrics)

    return advance


def _num_bytes(images) -> int:
    """Of one image."""
    return math.prod(images.shape[1:]) * images.dtype.itemsize


def _is_streamed(images, settings) -> bool:
    if settings.run.stream is not None:
        return settings.run.stream
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        memory = statistics["bytes_limit"]
    else:  # on a CPU the device's memory is the host's
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return len(images) * _num_bytes(images) > memory / 2


def _exit_interrupted(state, signum, workdir):
    terminal.say(
        f"interrupted at step {int(state.step)} of {state.spec.train.num_steps}, saved in "
        f"{workdir}: the same command goes on from there"
    )
    raise SystemExit(128 + signum)


def _evaluate(state, dataset, settings: Settings, keys, mesh, workdir) -> None:
    from aae_jax import evaluation  # compiled code that training alone does not need

    terminal.say(f"scoring with {settings.evaluation.num_samples} samples")
    start = time.monotonic()
    by_seed = []
    with terminal.Signals() as signals, processes.peers():
        for seed, key, alone in zip(_seeds(settings), keys, _members(state, settings), strict=True):
            scores = evaluation.evaluate(
                alone,
                dataset.folds,
                settings.evaluation,
                jax.random.fold_in(key, 1),
                mesh,
                lambda one_pass: _run_pass(one_pass, signals, workdir),
            )
            if scores["parzen/sigma_on_grid_edge"]:
                terminal.say(
                    f"warning: σ = {scores['parzen/sigma']:.4g} lies on the edge of "
                    "evaluation.sigmas"
                )
            by_seed.append({"seed": seed, **scores})
        scores = _over_seeds(by_seed)
        results = {
            "data": settings.data.name,
            "steps": int(state.step),
            "seconds": records.MetricsLog.last_seconds(workdir),
            "evaluation_seconds": time.monotonic() - start,
            **scores,
            "warnings": health.Collapse(records.MetricsLog.read(workdir)).warnings,
            "evaluation": _evaluation_fields(settings),
            "devices": [str(device.device_kind) for device in mesh.devices.flat],
            "jax": jax.__version__,
        }
        records.write_json(os.path.join(workdir, "results.json"), results)
        if processes.is_first():
            shutil.rmtree(records.partial_directory(workdir), ignore_errors=True)
        signals.ask()
    if signals.to_obey():
        terminal.say(f"interrupted after scoring: {workdir} holds the scores")
        raise SystemExit(128 + signals.to_obey())


def _over_seeds(by_seed: list[dict[str, Any]]) -> dict[str, Any]:
    """The scores of one seed; of several the means, their standard deviations, and all of them."""
    if len(by_seed) == 1:
        return by_seed[0]
    means, spread = {}, {}
    for name in by_seed[0].keys() - {"seed"}:
        values = [scores[name] for scores in by_seed]
        means[name] = _elementwise(np.mean, values)
        if isinstance(values[0], float):
            spread[name] = float(np.std(values, ddof=1))
    return {**means, "spread": spread, "by_seed": by_seed}


def _elementwise(function, values):
    """Of floats, in lists and dicts too; a warning is one where any is, and the rest is the first's."""
    first = values[0]
    if isinstance(first, dict):
        return {name: _elementwise(function, [value[name] for value in values]) for name in first}
    if isinstance(first, list):
        return [_elementwise(function, list(items)) for items in zip(*values)]
    if isinstance(first, bool):
        return any(values)
    return float(function(values)) if isinstance(first, float) else first


def _run_pass(one_pass, signals, workdir):
    """Runs a pass about a second at a time, or goes on with one that was cut.

    The sums are saved every half minute under the hash of all that they depend on, so those of
    another model, grid or number of samples are never taken for its own.
    """
    path = os.path.join(records.partial_directory(workdir), f"{one_pass.identity}.npz")
    total = one_pass.num_samples

    def samples(rounds):
        return min(rounds * one_pass.samples_per_round, total)

    done, sums = processes.from_first(records.read_partial(path) or (0, one_pass.empty))
    done = int(done)
    if done:
        terminal.say(f"{one_pass.label}: going on from sample {samples(done)}")
    size = 1
    begun = saved = time.monotonic()
    with terminal.Progress(total, "sample", one_pass.label) as progress:
        while done < one_pass.num_rounds:
            before = time.monotonic()
            count = min(size, one_pass.num_rounds - done)
            sums = jax.block_until_ready(one_pass.add(sums, done, done + count))
            done += count
            now = time.monotonic()
            signals.ask()
            # The clocks of several processes differ, and all must do the same.
            took, unsaved = processes.agree([now - before, now - saved])
            size = max(1, min(2 * size, int(count * _DISPATCH_SECONDS / took)))
            if now - begun > _QUIET_SECONDS:
                progress.show(samples(done))
            if unsaved > _SAVE_SECONDS or signals.to_obey():
                records.write_partial(path, done, processes.whole(sums))
                saved = now
            if signals.to_obey():
                break
    if signals.to_obey():
        terminal.say(
            f"interrupted at sample {samples(done)} of {total} ({one_pass.label}), saved in "
            f"{workdir}: the same command goes on from there"
        )
        raise SystemExit(128 + signals.to_obey())
    return sums


def figure_files(spec: Spec) -> tuple[str, ...]:
    """The pictures that a model has: those of every model, and its own of the paper."""
    names = ["samples.png", "reconstructions.png", "code_marginals.png", "training_curves.png"]
    if spec.model.code_dim == 2:
        names.append("codes.png")  # Figs 2a-2d, 4a, 4c
        if not spec.model.label_in_decoder:
            own = {
                "gaussian": "percentiles.png",  # Fig. 2e
                "gaussian_mixture": "components.png",  # Fig. 4b
                "swiss_roll": "roll.png",  # Fig. 4d
            }
            names += [own[spec.prior.name]] if spec.prior.name in own else []
    if spec.model.label_in_decoder:
        names.append("style.png")  # Fig. 5
    if spec.prior.name == "gaussian" and spec.model.code_dim > 2:
        names.append("walk.gif")  # the videos of sections 3.2 and 4
    return tuple(names)


def _draw(state, dataset, key, workdir) -> None:
    from aae_jax import figures  # matplotlib takes as long to import as JAX

    terminal.say("drawing")
    keys = jax.random.split(key, 6)
    test = dataset.test
    drawn = {
        "samples.png": lambda: figures.samples(state, dataset.train["image"], keys[0]),
        "reconstructions.png": lambda: figures.reconstructions(state, test, keys[1]),
        "code_marginals.png": lambda: figures.code_marginals(state, test["image"], keys[2]),
        "training_curves.png": lambda: figures.training_curves(records.MetricsLog.read(workdir)),
        "codes.png": lambda: figures.codes(state, test, keys[3]),
        "percentiles.png": lambda: figures.percentiles(state),
        "components.png": lambda: figures.components(state),
        "roll.png": lambda: figures.roll(state),
        "style.png": lambda: figures.style(state, keys[4]),
        "walk.gif": lambda: figures.walk(state, keys[5]),
    }
    for name in figure_files(state.spec):
        save = figures.save_animation if name.endswith(".gif") else figures.save
        save(drawn[name](), _figure_path(workdir, name))


def _summarise(state, workdir) -> None:
    lines = [f"{workdir}: {int(state.step)} of {state.spec.train.num_steps} steps"]
    results = records.read_json(os.path.join(workdir, "results.json"))
    if results:
        by_fold = results.get("parzen/by_fold")
        how = f"{len(by_fold)} folds" if by_fold else f"σ {results['parzen/sigma']:.4g}"
        lines.append(
            f"  results.json   test log-likelihood {results['parzen/log_likelihood']:.1f} ± "
            f"{results['parzen/standard_error']:.1f} nats (Parzen window, "
            f"{results['parzen/num_samples']} samples, {how})"
        )
        if "spread" in results:
            lines.append(
                f"                 mean of {len(results['by_seed'])} seeds, their standard deviation "
                f"{results['spread']['parzen/log_likelihood']:.1f} nats; the pictures are the first's"
            )
    drawn = [
        name for name in figure_files(state.spec) if os.path.exists(_figure_path(workdir, name))
    ]
    if drawn:
        lines.append(f"  figures/       {', '.join(drawn)}")
    lines.append("  metrics.jsonl, tensorboard/, checkpoints/, config.json")
    terminal.say("\n".join(lines))


def _is_evaluated(state, settings, workdir):
    results = records.read_json(os.path.join(workdir, "results.json")) or {}
    missing = results.get("steps") != int(state.step) or results.get(
        "evaluation"
    ) != _evaluation_fields(settings)
    # Where one process does not see the file yet, all score again.
    return not processes.agree([missing])[0]


def _is_drawn(state, workdir):
    return all(os.path.exists(_figure_path(workdir, name)) for name in figure_files(state.spec))


def _figure_path(workdir, name):
    return os.path.join(workdir, "figures", name)


def _evaluation_fields(settings):
    spec = settings.evaluation
    return {
        "fold": settings.data.fold,
        "num_samples": spec.num_samples,
        "num_validation": spec.num_validation,
        "sigmas": list(spec.sigmas),
    }
