"""Turns a config into checked dataclasses; no other module reads a ConfigDict."""

import copy
import dataclasses
import importlib.util
import json
import os
from collections.abc import Mapping
from typing import Any

from aae_jax import registry
from aae_jax.checks import expand_home
from aae_jax.errors import UserError, in_one_line
from aae_jax.optimizers import OptimizerSpec, own_optimizers
from aae_jax.settings import (
    AnnealedScoring,
    DataSpec,
    EvaluationSpec,
    ParallelSpec,
    RunSpec,
    Settings,
)
from aae_jax.spec import (
    ModelSpec,
    PriorSpec,
    Spec,
    TrainSpec,
    default_options,
)

_MAX_SEEDS = 1_000
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # of the project
_FIELDS = {
    "seed",
    "num_seeds",
    "start_from",
    "algorithm",
    "options",
    "data",
    "model",
    "prior",
    "optimizer",
    "train",
    "parallel",
    "run",
    "evaluation",
}


def spec_from_config(
    config: Mapping[str, Any],
    image_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
) -> Spec:
    """Checks every field of a config and returns its static part.

    Args:
        config: a ConfigDict (or nested mapping) with the fields of `experiments/default.py`.
        image_shape: (height, width, channels) of the data; None: the config's.
        num_classes: number of classes of the data; None: the config's.

    Returns:
        The `Spec`.

    Raises:
        UserError: a field is wrong; the message names the field, its value and what would be right.
    """
    settings = parse_config(config)
    check_data(settings, image_shape, num_classes)
    return settings.spec


def check_data(
    settings: Settings, image_shape: tuple[int, ...] | None, num_classes: int | None
) -> None:
    """Raises `UserError` if shape or number of classes differ between data and config."""
    shape = None if image_shape is None else tuple(image_shape)
    for name, found in (("image_shape", shape), ("num_classes", num_classes)):
        stated = getattr(settings.data, name)
        if found is not None and found != stated:
            raise UserError(
                f"data.{name} is {stated} in the config, but the data {settings.data.name!r} "
                f"have {found}"
            )


def parse_config(config: Mapping[str, Any]) -> Settings:
    """Checks every field of a config: names, types, values. Raises `UserError`."""
    _check_names(config, _FIELDS, "")
    seed, num_seeds = config["seed"], config["num_seeds"]
    if type(seed) is not int or not 0 <= seed < 2**32 - _MAX_SEEDS:
        raise UserError(
            f"seed is {seed!r}: it must be an integer from 0 to {2**32 - _MAX_SEEDS - 1}"
        )
    if type(num_seeds) is not int or not 1 <= num_seeds <= _MAX_SEEDS:
        raise UserError(f"num_seeds is {num_seeds!r}: it must be an integer from 1 to {_MAX_SEEDS}")
    if not isinstance(config["algorithm"], str):
        raise UserError(f"algorithm is {config['algorithm']!r}: it must be a string")
    data = _section(config, "data", DataSpec)
    run = _section(config, "run", RunSpec)
    spec = _spec(config, data, run)
    start_from = config["start_from"]
    if start_from is not None and not isinstance(start_from, str):
        raise UserError(
            f"start_from is {start_from!r}: it must be the --workdir of a run, or a config"
        )
    if (start_from is not None) != bool(spec.algorithm.starts_from):
        raise UserError(
            f"start_from is {start_from!r}: algorithm {spec.algorithm_name} "
            + (
                f"starts from the {' and '.join(spec.algorithm.starts_from)} of an earlier run: "
                "name its --workdir or its config"
                if spec.algorithm.starts_from
                else "does not start from an earlier run"
            )
        )
    if data.standardise and spec.model.output == "sigmoid":
        raise UserError("data.standardise is True: model.output must be 'linear', not 'sigmoid'")
    if data.standardise:
        spec.algorithm.check_standardised(spec)
    parallel = _section(config, "parallel", ParallelSpec)
    if num_seeds > 1 and (parallel.runner == "pmap" or run.stream):
        raise UserError(
            f"num_seeds is {num_seeds} with parallel.runner {parallel.runner!r} and run.stream "
            f"{run.stream}: several trainings in one program need 'jit', and images on the device"
        )
    return Settings(
        seed=seed,
        num_seeds=num_seeds,
        start_from=start_from,
        spec=spec,
        data=data,
        parallel=parallel,
        run=run,
        evaluation=_evaluation(config),
    )


def named_config(path: str) -> bool:
    """Whether `start_from` names a config, such as "experiments/mnist.py:gaussian"."""
    return path.partition(":")[0].endswith(".py")


def run_name(path: str) -> str:
    """The name of a config's run: the file's name, then a dash and the argument if there is one."""
    path, _, argument = path.partition(":")
    return os.path.splitext(os.path.basename(path))[0] + (f"-{argument}" if argument else "")


def part_config(config: Any, start_from: str) -> Any:
    """The config of the run that another run starts from, with its data, seeds and devices.

    Args:
        config: the ConfigDict of the later run.
        start_from: a config file, relative to the project's root, with its argument after a colon.

    Returns:
        The file's ConfigDict, with `seed`, `num_seeds`, `data`, `parallel` and `run.max_steps` of
        the later run.

    Raises:
        UserError: there is no such file, or the file refuses its argument.
    """
    name, _, argument = start_from.partition(":")
    path = os.path.join(_ROOT, expand_home("start_from", name))
    if not os.path.isfile(path):
        raise UserError(f"there is no file {path!r}")
    module = in_one_line(repr(name), _import_file, path)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path!r} has no function get_config")
    try:
        part = module.get_config(argument) if argument else module.get_config()
    except ValueError as error:  # the config file's message about its argument
        raise UserError(str(error)) from error
    except TypeError as error:
        raise UserError(f"its get_config does not take this argument: {error}") from error
    with part.unlocked():
        for field in ("seed", "num_seeds", "data", "parallel"):
            part[field] = copy.deepcopy(config[field])
        part.run.max_steps = config.run.max_steps
    return part


def default_config() -> dict[str, Any] | None:
    """The fields of `experiments/default.py`, in the form of `config.json`.

    None if the package is installed without the rest of the project.
    """
    path = os.path.join(_ROOT, "experiments", "default.py")
    if not (os.path.isfile(path) and os.path.isfile(os.path.join(_ROOT, "launch.py"))):
        return None
    config = in_one_line(repr(path), lambda: _import_file(path).get_config())
    return json.loads(config.to_json_best_effort())


def _import_file(path):
    module_spec = importlib.util.spec_from_file_location("aae_jax_config_file", path)
    module = importlib.util.module_from_spec(module_spec)  # type: ignore[arg-type]  # it is a .py file
    module_spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def _spec(config, data, run):
    """The static part, its training limited to `run.max_steps`."""
    algorithm = registry.resolve("algorithm", config["algorithm"], registry.ALGORITHMS)
    train = _section(config, "train", TrainSpec)
    if run.max_steps is not None:
        train = dataclasses.replace(train, num_steps=min(train.num_steps, run.max_steps))
    optimizer = config["optimizer"]
    _check_section(optimizer, "optimizer")
    is_algorithm = hasattr(algorithm, "phases") and hasattr(algorithm, "options")
    options = default_options(algorithm) if is_algorithm else None  # the spec refuses None
    phases = algorithm.phases if is_algorithm else ()
    return Spec(
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        condition_dim=data.condition_dim,
        algorithm=config["algorithm"],
        model=_section(config, "model", ModelSpec),
        prior=_section(config, "prior", PriorSpec),
        train=train,
        optimizer=_optimizers(optimizer, phases),
        options=_overridden(config, "options", options) if is_algorithm else None,
    )


def _optimizers(section, phases):
    """The optimisers that a config names; a network's own has the other fields of its phase's."""
    made = {}
    for phase in phases:
        made[phase.name] = phase.optimizer
        if phase.name in section:
            made[phase.name] = _overridden(section, phase.name, phase.optimizer, "optimizer.")
        made |= {
            key: _overridden(section, key, made[phase.name], "optimizer.")
            for key in own_optimizers(phase)
            if key in section
        }
    # A phase that does not exist is refused by the spec.
    unknown = {key: OptimizerSpec() for key in section if key not in made}
    return made | unknown


def _evaluation(config):
    """The section `evaluation`, with its subsection `annealed`."""
    section = config["evaluation"]
    _check_section(section, "evaluation")
    if "annealed" not in section:
        raise UserError("evaluation.annealed is missing from the config")
    try:
        annealed = _section(section, "annealed", AnnealedScoring)
    except UserError as error:
        raise UserError(f"evaluation.{error}") from error
    return _section({"evaluation": {**section, "annealed": annealed}}, "evaluation", EvaluationSpec)


def _section(config, name, cls):
    """One section of the config as its dataclass; every field must be given."""
    section = config[name]
    _check_section(section, name)
    _check_names(section, {field.name for field in dataclasses.fields(cls)}, f"{name}.")
    for field, value in section.items():
        if value == "":  # from a shell variable that is not set
            raise UserError(f"{name}.{field} is empty: give a value, or None for the default")
    return cls(**_values(section))


def _overridden(config, name, default, prefix=""):
    """A dataclass with its fields replaced by those in a section of the config."""
    section = config[name]
    _check_section(section, f"{prefix}{name}")
    fields = {field.name for field in dataclasses.fields(default)}
    _check_names(section, fields, f"{prefix}{name}.", optional=fields)
    try:
        return dataclasses.replace(default, **_values(section))
    except UserError as error:
        if not prefix:
            raise
        # Name the phase of the optimiser.
        raise UserError(str(error).replace(prefix, f"{prefix}{name}.", 1)) from error


def _values(section):
    return {name: tuple(v) if isinstance(v, list) else v for name, v in section.items()}


def _check_section(section, name):
    if not hasattr(section, "items"):
        raise UserError(f"{name} is {section!r}: it must be a section with fields")


def _check_names(config, expected, prefix, optional=frozenset()):
    found = set(config.keys())
    for name in sorted(found - expected, key=str):
        there = ", ".join(sorted(expected)) or "none"
        raise UserError(f"{prefix}{name} is not a field; the fields are: {there}")
    for name in sorted(expected - optional - found):
        raise UserError(f"{prefix}{name} is missing from the config")
