"""Trains, evaluates and draws one experiment.

python launch.py
python launch.py --config=experiments/mnist.py --config.train.num_steps=2000
"""

import os
import re
import sys
import traceback
import warnings

from absl import app, flags, logging
from ml_collections import config_flags

from aae_jax import __version__, streams
from aae_jax.checks import expand_home
from aae_jax.errors import UserError

_DEFAULT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "experiments", "digits.py")
# Overrides may name fields that the file leaves to the algorithm (`optimizer`, `options`);
# parse_config refuses unknown ones.
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A config file, with its argument after a colon (default: digits.py).",
    lock_config=False,
    accept_new_attributes=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory for all output (default: runs/<experiment>[-<argument>])."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "run",
    ("run", "train", "evaluate", "figures"),
    "run: all of the other three that is missing.",
)
flags.DEFINE_bool("version", False, "Prints the version.")
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "Several processes: host:port of process 0."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Several processes: their number.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Several processes: this one, from 0.")


def _one_line(message):
    return f"error: {' '.join(str(message).split())}"


def _fail(message):
    print(_one_line(message), file=sys.stderr)
    sys.exit(2)


def _join_values(argv):
    """Writes `--config.seed 1` as `--config.seed=1`, in place."""
    joined: list[str] = []
    for argument in argv:
        awaits = joined and re.fullmatch(r"--?config([.][\w.]+)?", joined[-1])
        if awaits and not argument.startswith("-"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    argv[:] = joined


def _put_config_first(argv):
    """Moves --config to the front, in place: ml_collections refuses overrides before it."""
    given = [argument for argument in argv[1:] if re.match(r"--?config(=|$)", argument)]
    paths = [expand_home("--config", argument.partition("=")[2]) for argument in given]
    for path in (path.partition(":")[0] for path in paths):
        if not (path.endswith(".py") and os.path.isfile(path)):
            raise UserError(f"--config is {path!r}: there is no such Python file")
    others = [argument for argument in argv[1:] if argument not in given]
    argv[1:] = [f"--config={path}" for path in paths or [_DEFAULT]] + others


def _take_nones(argv):
    """Removes overrides with the value None, in place; returns their fields.

    ml_collections would read None as a string, or as an invalid number.
    """
    values = {}
    for argument in argv:
        if re.match(r"--?config[.][\w.]+=", argument):
            name, _, value = argument.partition("=")
            values[name.partition(".")[2]] = value
    argv[:] = [a for a in argv if not re.fullmatch(r"--?config[.][\w.]+=None", a)]
    # The last override of a field counts; ml_collections would join two tuples.
    last = {argument.partition("=")[0].lstrip("-"): i for i, argument in enumerate(argv)}
    argv[:] = [
        argument
        for i, argument in enumerate(argv)
        if not re.match(r"--?config[.]", argument)
        or last[argument.partition("=")[0].lstrip("-")] == i
    ]
    return [name for name, value in values.items() if value == "None"]


def _set_none(config, name):
    *sections, field = name.split(".")
    for section in sections:
        config = config[section]
    with config.unlocked():
        config[field] = None


def _parse_flags(argv):
    if {"--version", "-version"} & set(argv[1:]):
        print(f"aae_jax {__version__}")
        sys.exit(0)
    # ml_collections reads overrides such as --config.seed=1 from sys.argv, which argv is.
    _join_values(argv)
    try:
        _put_config_first(argv)
    except UserError as error:
        _fail(error)
    given = list(argv)
    nones = _take_nones(argv)
    try:
        rest = flags.FLAGS(argv)
        for name in nones:
            _set_none(_CONFIG.value, name)
        return rest
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        overrides = [a.split("=")[0] for a in given if re.match(r"--?config[.]", a)]
        if not overrides or any(frame.name in ("get_config", "<module>") for frame in frames):
            raise  # a bug in the config file: its author wants the traceback
        # An override of a field that is not there, or of a field below a value.
        named = set(re.findall(r"[\w.]+", str(error)))
        paths = {name: name.partition(".")[2] for name in overrides}
        wrong = (
            [name for name in overrides if paths[name] in named]
            or [name for name in overrides if named & set(paths[name].split("."))]
            or overrides
        )
        hint = re.search(r'Did you mean "(\w+)"', str(error))
        said = f": did you mean {hint[1]}?" if hint else ": see experiments/default.py"
        _fail(f"{' or '.join(wrong)} is not a field of the config{said}")
    except flags.Error as error:
        if "get_config() takes 0 positional" in str(error):
            _fail("this config takes no argument: write --config=FILE without a colon")
        last = str(error).splitlines()[-1]
        if last.startswith("ValueError: "):  # said by the config file about its argument
            _fail(last.removeprefix("ValueError: "))
        if "Error whilst parsing config file" in str(error):
            raise  # as above
        _fail(str(error).replace("invalid literal for int() with base 10:", "not an integer:"))


def _cache_directory():
    """The directory of compiled programs; None if there is no writable home directory."""
    directory = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(directory):
        home = os.path.expanduser("~") if os.environ.get("HOME", "/") else ""
        if not os.path.isabs(home) or not os.path.isdir(home):
            return None
        directory = os.path.join(home, ".cache")
    directory = os.path.join(directory, "aae_jax")
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError:
        return None
    return directory


def _keep_compiled_programs():
    """Lets later starts reuse compiled programs; JAX's own environment variables come first."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        directory = _cache_directory()
        if directory is None:
            return
        jax.config.update("jax_compilation_cache_dir", directory)
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            # Not one second, JAX's own: an evaluation compiles many small programs.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    # A file that a kill cut short, or a directory that can't be written, only costs the time.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        _fail(f"{argv[1]!r} is not a flag: write --config=FILE, --workdir=DIR, --mode=MODE")
    logging.set_verbosity(logging.FATAL)  # the libraries log a lot; failures are raised as well
    # Threads of a failed write find orbax's event loop closed, long after the error was reported.
    sys.unraisablehook = lambda unraisable: None
    try:
        from aae_jax import processes  # here, so that a mistyped flag is reported at once

        _keep_compiled_programs()
        processes.initialize(_COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        processes.check_devices()
        from aae_jax import config, experiment

        name = config.run_name(flags.FLAGS["config"].config_filename)  # type: ignore[attr-defined]
        workdir = os.path.join("runs", name) if _WORKDIR.value is None else _WORKDIR.value
        experiment.run(_CONFIG.value, workdir, _MODE.value)
    except UserError as error:
        print(_one_line(error), file=sys.stderr, flush=True)
        os._exit(2)  # with several processes, an ordinary exit waits minutes for the others
    except KeyboardInterrupt:  # outside the training, which saves
        print(
            "interrupted: the same command resumes from what is saved", file=sys.stderr, flush=True
        )
        os._exit(130)  # a compilation under way does not survive an ordinary exit


if __name__ == "__main__":
    streams.protect()
    app.run(main, flags_parser=_parse_flags)
