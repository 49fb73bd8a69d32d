"""One run: data → stages → train → evaluate → draw, in a workdir that can be resumed."""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax import data, multi_seed, networks, parallel, processes
from aae_jax.checks import expand_home
from aae_jax.config import check_data, named_config, parse_config, part_config, run_name
from aae_jax.errors import UserError
from aae_jax.priors import check_prior
from aae_jax.settings import Settings
from aae_jax.spec import Spec
from aae_jax.train_state import TrainState, create_train_state, inference_params, take_networks
from aae_jax.training import check_algorithm
from aae_jax.workdir import loop, memory, records, report, scoring, summary, terminal


class _Part(NamedTuple):
    """The run that another one starts from."""

    config: Any  # None: it is trained already, and only read here
    workdir: str


def run(config: Any, workdir: str, mode: str = "run") -> None:
    """Trains, evaluates and draws, or resumes an earlier run in the workdir.

    If the config starts from another config, that one is trained first, beside the workdir.

    Args:
        config: a ConfigDict with the fields of `experiments/default.py`.
        workdir: gets `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`,
            `results.json`, `figures/` and `report.html`.
        mode: "run" does everything that is missing; "train", "evaluate" and "figures" do one part.

    Raises:
        UserError: anything that the user can fix, in one line.
        SystemExit: after SIGINT, SIGTERM or SIGHUP, with 128 + the signal's number; the state is saved.
    """
    with memory.reported(config):
        _run(config, expand_home("--workdir", workdir), mode)


def _run(config, workdir, mode, dataset=None, later=()) -> None:
    """`dataset`: None to load it here; `later`: the workdirs that wait for this run."""
    settings, trains = parse_config(config), mode in ("run", "train")
    batch_size = settings.spec.train.batch_size if trains else None
    mesh = parallel.make_mesh(parallel.choose_devices(settings.parallel, batch_size))
    config_json = json.loads(config.to_json_best_effort())
    records.check(workdir, config_json, settings.spec)
    pmap = settings.parallel.runner == "pmap"
    check_algorithm(settings.spec, parallel.DATA_AXIS if pmap else None)
    on_cpu = jax.default_backend() == "cpu"
    memory.check(settings, len(mesh.local_devices) if on_cpu else 1)
    if settings.evaluation.annealed.num_images is not None and not later:
        from aae_jax import likelihood  # needs blackjax, which is optional

        likelihood.check_annealed(settings.spec, settings.evaluation.annealed)
    if mode in ("run", "figures"):
        _figures().drawings(settings.spec)  # refuses unknown names
    part = None
    if settings.start_from is not None and trains and _is_new(workdir):
        part = _find_part(config, settings, workdir, later)
    if dataset is None:
        with processes.first_before_others():
            dataset = data.load(settings.data)
    check_data(settings, dataset.image_shape, dataset.num_classes)
    if not later:  # a part that a run starts from is never scored
        _check_hold_out(settings, dataset)
    check_prior(settings.spec)
    # Hosts may differ in memory, but all must choose alike.
    streamed = bool(
        processes.all_reduce_max([loop.is_streamed(dataset.train["image"], settings)])[0]
    )
    if settings.num_seeds > 1 and streamed:
        raise UserError(
            f"num_seeds is {settings.num_seeds}: the images {settings.data.name!r} would be "
            "streamed, but several trainings in one program need them on the device"
        )
    settings = dataclasses.replace(settings, run=dataclasses.replace(settings.run, stream=streamed))
    train = _training_split(dataset, settings)
    if not trains and not os.path.isdir(os.path.join(workdir, "checkpoints")):
        raise UserError(f"no checkpoint in {workdir!r}: train first, with --mode=train")
    started_from = None
    if part is not None:
        started_from = _train_part(part, settings, dataset, (*later, workdir))

    if trains:
        os.makedirs(workdir, exist_ok=True)
    with records.at_work(workdir):
        records.check(workdir, config_json, settings.spec)  # again: another run may just have ended
        if trains:
            records.write_json(os.path.join(workdir, "config.json"), config_json)
        job = loop.Job(settings, train, mesh, workdir)
        state = _restore_and_train(job, dataset, started_from, mode)
        if mode == "evaluate" or (
            mode == "run" and not scoring.is_scored(state, settings, workdir)
        ):
            scoring.score(state, dataset, settings, mesh, workdir)
        if processes.is_first():
            try:
                if mode == "figures" or (mode == "run" and not _is_drawn(state, workdir)):
                    _draw(state, dataset, settings, mesh, workdir)
            finally:  # a figure that fails must not hide the scores
                if mode != "train":
                    wanted = () if mode == "evaluate" else _figures().drawings(settings.spec)
                    report.write(workdir, wanted)
                summary.say(state, workdir)


def _check_hold_out(settings, dataset):
    """Raises if more images are to be scored than there are."""
    evaluation = settings.evaluation
    wanted = [("evaluation.num_validation", evaluation.num_validation, "validation")]
    if evaluation.annealed.num_images is not None:
        annealed, prefix = evaluation.annealed, "evaluation.annealed."
        wanted.append((f"{prefix}num_images", annealed.num_images, "test"))
        if annealed.sigma is None:
            wanted.append((f"{prefix}num_validation", annealed.num_validation, "validation"))
    for field, number, split in wanted:
        available = min(len(getattr(fold, split)["image"]) for fold in dataset.folds)
        if number is not None and number > available:
            raise UserError(
                f"{field} is {number}: the data {settings.data.name!r} have only {available} "
                f"{split} images"
            )


def _training_split(dataset, settings) -> dict[str, Any]:
    """The training images, with each seed's labels and order of examples."""
    train, spec = dataset.train, settings.data
    kept = [train] * settings.num_seeds
    if spec.num_labelled is not None:
        kept = [
            data.keep_labels(train, spec.num_labelled, dataset.num_classes, seed)
            for seed in settings.seeds
        ]
    own = {"label": [split["label"] for split in kept]}
    if spec.labelled_repeats is not None:
        own["example_order"] = [
            data.example_order(label, spec.labelled_repeats) for label in own["label"]
        ]
    if settings.spec.needs_labelled:
        own["labelled_rows"] = [
            data.labelled_rows(label, dataset.num_classes) for label in own["label"]
        ]
    return {**train, **{k: v[0] if len(v) == 1 else np.stack(v) for k, v in own.items()}}


def _restore_and_train(job: loop.Job, dataset, started_from, mode) -> TrainState:
    from aae_jax.workdir.checkpoint import Checkpoints  # orbax takes seconds to import

    settings, workdir = job.settings, job.workdir
    statistics = _statistics(settings, dataset.train["image"])
    # During training, a first signal is only noted. It is obeyed once the state is saved.
    with (
        terminal.Signals() as signals,
        Checkpoints(os.path.join(workdir, "checkpoints")) as checkpoints,
        processes.report_lost_peer(),
    ):
        state = _create(settings, statistics, parallel.replicated(job.mesh))
        if checkpoints.latest_step() is not None or mode in ("evaluate", "figures"):
            state = checkpoints.restore(state)
        elif started_from is not None:
            sharding = parallel.replicated(job.mesh)
            state = take_networks(state, jax.device_put(started_from, sharding))
        if mode in ("run", "train"):
            state = loop.train(state, job, checkpoints, signals)
        signals.ask()
    if signals.to_obey():
        terminal.say(
            f"interrupted at step {int(state.step)} of {state.spec.train.num_steps}, saved in "
            f"{workdir}: the same command resumes from there"
        )
        raise SystemExit(128 + signals.to_obey())
    return state


def _statistics(settings: Settings, images):
    """The last three arguments of `create_train_state`: pixel mean, pixel std and image mean."""
    starts_from_them = any(
        built.network.init is not None for built in networks.build(settings.spec).values()
    )
    if not (settings.data.standardise or starts_from_them):
        return None, None, None
    mean, std = data.pixel_statistics(images)
    return (mean, std, mean) if settings.data.standardise else (None, None, mean)


def _create(settings: Settings, statistics, sharding=None) -> TrainState:
    """The state of a run at step 0, with all its seeds."""
    keys = [jax.random.fold_in(jax.random.key(seed), 0) for seed in settings.seeds]
    create: Callable[..., TrainState] = create_train_state
    key = keys[0]
    if len(keys) > 1:
        create, key = multi_seed.create, jnp.stack(keys)
    create = jax.jit(create, static_argnums=0, out_shardings=sharding)
    return create(settings.spec, key, *statistics)


def _is_new(workdir) -> bool:
    """Whether there is no checkpoint, judged by file names alone."""
    # If one process does not see the files yet, the workdir counts as new for all.
    return bool(processes.all_reduce_max([records.newest_step(workdir) == 0])[0])


# Stages: a run that starts from another one.


def _find_part(config, settings, workdir, later) -> _Part:
    """The run that `start_from` names; refused, before anything is trained, if it does not fit."""
    start_from = settings.start_from
    try:
        if named_config(start_from):
            beside = os.path.normpath(os.path.join(workdir, os.pardir, run_name(start_from)))
            if os.path.abspath(beside) in map(os.path.abspath, (workdir, *later)):
                raise UserError(f"it is trained in {beside!r}: name another --workdir")
            part = _Part(part_config(config, start_from), beside)
            before = parse_config(part.config)
            part_json = json.loads(part.config.to_json_best_effort())
            records.check(part.workdir, part_json, before.spec)
        else:
            part = _Part(None, expand_home("start_from", start_from))
            before = _read_settings(part.workdir)
    except UserError as error:
        raise UserError(f"start_from is {start_from!r}: {error}") from error
    _check_units(start_from, before, settings)
    _check_networks(start_from, before.spec, settings.spec)
    return part


def _check_units(start_from, before: Settings, now: Settings) -> None:
    """Raises if the networks that are taken over have other units in the two runs."""
    found, here = (
        {
            "model.code_scale": settings.spec.model.code_scale,
            "model.output": settings.spec.model.output,
            "data.standardise": settings.data.standardise,
        }
        for settings in (before, now)
    )
    for field in found:
        # No code_scale is a scale of 1.
        if found[field] != here[field] and {found[field], here[field]} != {None, 1.0}:
            raise UserError(
                f"start_from is {start_from!r}, a run with {field}={found[field]}: it is "
                f"{here[field]} here, and must be the same"
            )


def _check_networks(start_from, before: Spec, now: Spec) -> None:
    """Raises if the networks that are taken over have other shapes in the two runs."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    trees = [
        jax.eval_shape(lambda key, spec=spec: networks.init(spec, key), key)
        for spec in (before, now)
    ]
    for name in now.algorithm.starts_from:
        if not all(name in tree for tree in trees):
            raise UserError(f"start_from is {start_from!r}: both runs must have a network {name!r}")
        found, wanted = (
            {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
             for path, leaf in jax.tree.leaves_with_path(tree[name])}
            for tree in trees
        )  # fmt: skip
        for path in sorted(found.keys() | wanted.keys()):
            if found.get(path) != wanted.get(path):
                raise UserError(
                    f"start_from is {start_from!r}, a run with another {name}: {path} is "
                    f"{found.get(path)} there, {wanted.get(path)} here"
                )


def _train_part(part: _Part, settings, dataset, later) -> networks.Params:
    """Trains the part if it is not trained yet, and returns the networks to start from."""
    if part.config is not None:
        terminal.say(f"first {settings.start_from}, in {part.workdir}")
        _run(part.config, part.workdir, "train", dataset, later)
    before, state = _load(part.workdir)
    done, wanted = int(state.step), before.spec.train.num_steps
    if done < wanted:
        terminal.say(
            f"warning: start_from is {settings.start_from!r}, a run with {done} of {wanted} steps done"
        )
    seeds = settings.seeds
    if before.num_seeds == settings.num_seeds == 1:
        chosen = [state]
    elif set(seeds) <= set(before.seeds):
        chosen = [multi_seed.members(state)[before.seeds.index(seed)] for seed in seeds]
    else:
        raise UserError(
            f"start_from is {settings.start_from!r}, a run with seeds "
            f"{', '.join(map(str, before.seeds))}: this one has {', '.join(map(str, seeds))}"
        )
    names = settings.spec.algorithm.starts_from
    # `inference_params` lacks networks that only training needs, such as a GMMN's encoder.
    every = [{**one.params, **inference_params(one)} for one in chosen]
    taken = [{name: params[name] for name in names} for params in every]
    return taken[0] if len(taken) == 1 else jax.tree.map(lambda *v: jnp.stack(v), *taken)


def load_state(workdir: str, seed: int | None = None) -> TrainState:
    """Loads the trained model of a run from its directory; neither config file nor data are needed.

    Args:
        workdir: with `config.json` and `checkpoints/`.
        seed: the seed of the model, if the run has several; None for the first.

    Returns:
        The state of the newest checkpoint, for `encode`, `decode`, `generate` and the others.

    Raises:
        UserError: there is no run, or it can't be read.
    """
    settings, state = _load(expand_home("workdir", workdir))
    if seed is not None and seed not in settings.seeds:
        raise UserError(
            f"seed or --run_seed is {seed!r}: the run in {workdir!r} has "
            f"{'seed' if len(settings.seeds) == 1 else 'seeds'} {', '.join(map(str, settings.seeds))}"
        )
    return multi_seed.members(state)[0 if seed is None else settings.seeds.index(seed)]


def _load(workdir) -> tuple[Settings, TrainState]:
    """A run's config and its newest state, with all its seeds."""
    from aae_jax.workdir.checkpoint import Checkpoints

    settings = _read_settings(workdir)
    mean = std = None
    if settings.data.standardise:  # placeholders; the checkpoint has the measured values
        mean, std = jnp.zeros(settings.spec.num_pixels), jnp.ones(settings.spec.num_pixels)
    state = _create(settings, (mean, std))
    with Checkpoints(os.path.join(workdir, "checkpoints"), read_only=True) as checkpoints:
        return settings, checkpoints.restore(state)


def _read_settings(workdir) -> Settings:
    """The config of a run that has a checkpoint."""
    config = None
    if os.path.isdir(workdir):
        config = records.read_config(workdir)
    if config is None or not os.path.isdir(os.path.join(workdir, "checkpoints")):
        raise UserError(f"no checkpoint in {workdir!r}: it must be the --workdir of a run")
    return parse_config(config)


# Pictures.


def _figures():
    from aae_jax import figures  # matplotlib takes as long to import as JAX

    return figures


def _draw(state, dataset, settings, mesh, workdir) -> None:
    figures = _figures()
    terminal.say("drawing")
    # The other processes are done: this one draws with its own devices.
    first = multi_seed.members(processes.local_copy(state))[0]
    own_mesh = parallel.make_mesh(mesh.local_devices)
    first = jax.device_put(first, parallel.replicated(own_mesh))
    given = figures.Given(
        train_images=dataset.train["image"],
        test=dataset.test,
        metrics=records.MetricsLog.read(workdir),
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
    )
    figures.draw_all(first, given, os.path.join(workdir, "figures"))


def _is_drawn(state, workdir):
    return _figures().missing(state.spec, os.path.join(workdir, "figures")) == []
