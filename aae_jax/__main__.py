"""Applies the trained model of a run to files and data sets.

python -m aae_jax encode --workdir=runs/mnist --output=codes.npz [--split=test | --input=images.npy]
python -m aae_jax decode --workdir=runs/mnist --input=codes.npz --output=images.npz [--label=3]
python -m aae_jax sample --workdir=runs/mnist --num_samples=1000 --output=samples.npy [--seed=0]
python -m aae_jax classify --workdir=runs/few --output=classes.npz [--split=test | --input=images.npy]
python -m aae_jax score  --workdir=runs/mnist --output=scores.npz [--split=test | --input=images.npy]
python -m aae_jax export --workdir=runs/mnist --output=DIRECTORY

Files are npy, npz or npz:name. docs/using.md says what they hold.
"""

import os
import sys

from absl import flags, logging

from aae_jax import __version__, streams
from aae_jax.checks import expand_home
from aae_jax.errors import UserError

# The flags that each command takes in addition to --workdir, --run_seed and --output.
COMMANDS = {
    "encode": ("input", "split", "seed"),
    "decode": ("input", "label", "condition"),
    "classify": ("input", "split"),
    "sample": ("num_samples", "seed", "label", "condition"),
    "score": ("input", "split", "seed", "label", "condition"),
    "export": (),
}
_OF_ALL = ("workdir", "run_seed", "output")


def _define():
    """The flags, kept apart from those of other programs in the same process."""
    values = flags.FlagValues()
    for name, text in (
        ("workdir", "Directory of a trained run."),
        ("output", "File to write or replace, npy or npz; for export, a directory."),
        ("input", "Images, or codes for decode: npy, npz or npz:name."),
        ("condition", "One condition for all rows: numbers separated by commas."),
    ):
        flags.DEFINE_string(name, None, text, flag_values=values)
    for name, text in (
        ("run_seed", "Which model of a run with several seeds (default: the first)."),
        ("label", "One label for all rows; −1: none."),
        ("num_samples", "Number of samples."),
        ("seed", "Seed of samples (default: 0) or of a stochastic posterior (default: its mean)."),
    ):
        flags.DEFINE_integer(name, None, text, flag_values=values)
    splits = ("train", "validation", "test")
    text = "Split of the run's own data, used without --input (default: test)."
    flags.DEFINE_enum("split", None, splits, text, flag_values=values)
    flags.DEFINE_bool("help", False, "Prints this help.", flag_values=values)
    flags.DEFINE_bool("version", False, "Prints the version.", flag_values=values)
    return values


def _parse(argv):
    """(command, flags by name); flags that the command does not take are refused."""
    values = _define()
    try:
        _, *rest = values(argv)
    except flags.Error as error:
        raise UserError(str(error)) from None
    if values.help:
        print(f"{__doc__}\n{values.get_help(include_special_flags=False)}")
        sys.exit(0)
    if values.version:
        print(f"aae_jax {__version__}")
        sys.exit(0)
    if len(rest) != 1 or rest[0] not in COMMANDS:
        said = " ".join(rest) or "missing"
        raise UserError(f"the command is {said}: it must be one of {', '.join(COMMANDS)}")
    command = rest[0]
    given = {name: values[name].value for name in values if name not in ("help", "version")}
    taken = (*_OF_ALL, *COMMANDS[command])
    for name, value in given.items():
        if value is not None and name not in taken:
            shown = ", ".join(f"--{other}" for other in taken)
            raise UserError(f"--{name} is not a flag of {command}, which takes {shown}")
    return command, given


def _check(command, given):
    """The checks that need no JAX."""
    needed = {"decode": ("input",), "sample": ("num_samples",)}.get(command, ())
    for name in ("workdir", *needed, "output"):
        if given[name] is None:
            raise UserError(f"--{name} is missing: {command} needs it")
    if given["input"] is not None and given["split"] is not None:
        raise UserError("--input and --split: give one of them")
    for name in ("workdir", "output"):
        given[name] = expand_home(f"--{name}", given[name])
    if given["condition"] is not None:
        try:
            given["condition"] = [float(part) for part in given["condition"].split(",")]
        except ValueError:
            raise UserError(
                f"--condition is {given['condition']!r}: it must be numbers, such as 0.5,1"
            ) from None
    if command == "export":
        if not os.path.isdir(given["output"]):
            raise UserError(f"--output is {given['output']!r}: there is no such directory")
        return
    from aae_jax import arrays

    arrays.check_output(given["output"], (".npz",) if command == "score" else arrays.SUFFIXES)


def run(argv: list[str]) -> None:
    """Runs one command line.

    Args:
        argv: as `sys.argv`.

    Raises:
        UserError: anything that the user can fix, in one line.
    """
    command, given = _parse(argv)
    _check(command, given)
    # Imported here, so that a mistyped flag is reported at once.
    from aae_jax import commands, experiment, processes

    processes.check_devices()
    rows = None
    if given["input"] is not None:
        rows = commands.rows_of_file(given["input"], "codes" if command == "decode" else "images")
    state = experiment.load_state(given["workdir"], given["run_seed"])
    if command == "export":
        commands.export(state, given["output"])
        return
    if command == "sample":
        rows = commands.rows_of_samples(given["num_samples"])
    elif rows is None:
        rows = commands.rows_of_run(given["workdir"], given["split"] or "test")
    rows = commands.for_all(rows, given["label"], given["condition"])
    seed = {} if given["seed"] is None else {"seed": given["seed"]}
    getattr(commands, command)(state, rows, given["output"], **seed)


def main(argv: list[str]) -> int:
    """Runs the command; exit status 2 after a user's mistake, which is printed in one line."""
    logging.set_verbosity(logging.FATAL)  # the libraries log a lot; failures are raised as well
    try:
        run(argv)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    streams.protect()
    sys.exit(main(sys.argv))
