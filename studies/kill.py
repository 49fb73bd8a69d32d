"""Kills runs with SIGKILL at random moments, and compares their results with an unkilled run's.

python -m studies.kill --kills=50

The runs train the digits for few steps, with a checkpoint every twenty. A series of kills hits one
workdir until its run finishes. Some kills wait for a checkpoint being written (orbax's temporary
directory) and hit inside it. After each series, parameters, `metrics.jsonl`, `results.json` (except
times) and the names of the figures must equal the unkilled run's, bit for bit.
"""

import collections
import hashlib
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from benchmarks.report import Report

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_KILLS = flags.DEFINE_integer("kills", 50, "How many.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments.")

STEPS, DISPATCH, EVERY = 400, 10, 20
OVERRIDES = (
    f"--config.train.num_steps={STEPS}",
    f"--config.run.steps_per_dispatch={DISPATCH}",
    f"--config.run.checkpoint_every={EVERY}",
    "--config.model.encoder_hidden=(64,)",
    "--config.model.decoder_hidden=(64,)",
    "--config.model.discriminator_hidden=(64,)",
    "--config.evaluation.num_samples=20_000",
)
# The phases of a run, and the latest moment of a kill, in seconds after the start of the phase.
PHASES = {
    "starting": 5.0,
    "training": 0.5,
    "checkpoint write": 0.05,
    "scoring": 0.5,
    "drawing": 1.0,
}
# The line that a run prints at the start of a phase.
_SAYS = {"training": r"^(step |resuming)", "scoring": r"^scoring", "drawing": r"^drawing"}


class Run:
    """A running training in `workdir`, and its phase."""

    def __init__(self, workdir: pathlib.Path):
        self.workdir = workdir
        self._out = tempfile.NamedTemporaryFile()  # noqa: SIM115 — the process writes to it
        self._process = subprocess.Popen(
            [sys.executable, "launch.py", f"--workdir={workdir}", *OVERRIDES],
            cwd=_ROOT, stdout=self._out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def output(self) -> str:
        return pathlib.Path(self._out.name).read_text()

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def is_writing(self) -> bool:
        """Whether a checkpoint is being written."""
        return any((self.workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))

    def saved(self) -> int:
        """The step of the newest checkpoint."""
        names = [path.name for path in (self.workdir / "checkpoints").glob("*")]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def phase(self) -> str:
        """The current phase; checkpoints are written while training continues."""
        if self.is_writing():
            return "checkpoint write"
        said = self.output()
        for phase in ("drawing", "scoring", "training"):
            if re.search(_SAYS[phase], said, re.MULTILINE):
                return phase
        return "starting"

    def kill(self) -> bool:
        """Kills the run; False if it had ended before."""
        self._process.send_signal(signal.SIGKILL)
        return self._process.wait() == -signal.SIGKILL

    def finish(self) -> None:
        if self._process.wait():
            raise RuntimeError(f"a start failed: {self.output()}")


def run_until(workdir: pathlib.Path, target: str, step: int, delay: float) -> tuple[str, Run]:
    """Starts a run and kills it `delay` seconds into a phase; returns (its phase, the run).

    In training, the delay starts once there is a checkpoint of `step` or later. The phase is "over"
    if the run has ended before.
    """
    run = Run(workdir)
    # In a run that is taken up, a phase may be behind it: then the next one is hit.
    wanted = list(PHASES)[list(PHASES).index(target) :]
    trains = target in ("training", "checkpoint write")
    while not run.is_over() and (run.phase() not in wanted or (trains and run.saved() < step)):
        time.sleep(0.001)
    time.sleep(delay)
    phase = run.phase()
    if run.kill():
        # The temporary directory tells what the kill has cut, whatever was seen before.
        return ("checkpoint write" if run.is_writing() else phase), run
    run.finish()
    return "over", run


def outcome(workdir: pathlib.Path) -> dict[str, object]:
    """All results that must not depend on kills."""
    import orbax.checkpoint as ocp  # read without the package

    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((workdir / "results.json").read_text())
    manager = ocp.CheckpointManager(workdir / "checkpoints")
    arrays = manager.restore(STEPS, args=ocp.args.StandardRestore())
    manager.close()
    return {
        "parameters": _digest(arrays),
        "metrics": [{k: v for k, v in line.items() if k != "seconds"} for line in lines],
        "results": {k: v for k, v in results.items() if "seconds" not in k},
        "figures": sorted(path.name for path in (workdir / "figures").iterdir()),
        "left over": sorted(path.name for path in workdir.glob("*.part")),
    }


def _digest(arrays) -> str:
    import jax
    import numpy as np

    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(arrays):
        leaf = np.asarray(leaf)
        digest.update(f"{path}{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    return digest.hexdigest()


def resumed_from(said: str) -> str:
    """The point from which the run resumed after a kill, from its output."""
    for pattern, shown in (
        (r"^resuming from step (\d+)", "step {}"),
        (r"^training is finished: (\d+) steps", "step {}, trained"),
    ):
        if found := re.search(pattern, said, re.MULTILINE):
            return shown.format(found[1])
    return "nothing"


def draw_moments(draw: random.Random, kills: int) -> list[tuple[str, int, float]]:
    """The arguments of `run_until` for the kills of one run, in the order of its phases."""
    place = {phase: i for i, phase in enumerate(PHASES)}
    place["checkpoint write"] = place["training"]  # either may come first
    targets = sorted(draw.choices(list(PHASES), k=kills), key=place.get)
    return [(t, draw.randrange(0, STEPS, EVERY), draw.uniform(0.0, PHASES[t])) for t in targets]


def series(workdir, moments, expected):
    """Kills one run at each moment until it ends; [(phase, resumed from)], and differing names."""
    hits = []
    for moment in moments:
        phase, run = run_until(workdir, *moment)
        if hits and hits[-1][1] is None:
            hits[-1] = (hits[-1][0], resumed_from(run.output()))
        if phase == "over":
            break
        hits.append((phase, None))
    # A kill may come before the run prints where it resumes: the next start prints it.
    run = Run(workdir)
    run.finish()
    hits = [(phase, found or resumed_from(run.output())) for phase, found in hits]
    found = outcome(workdir)
    return hits, [name for name in expected if found[name] != expected[name]]


def main(argv):
    del argv
    report = Report()
    draw = random.Random(_SEED.value)
    table, wrong, done = collections.defaultdict(collections.Counter), [], 0
    with tempfile.TemporaryDirectory() as directory:
        whole = pathlib.Path(directory, "whole")
        Run(whole).finish()
        expected = outcome(whole)
        assert [line["step"] for line in expected["metrics"]] == list(
            range(DISPATCH, STEPS + 1, DISPATCH)
        )
        while done < _KILLS.value:
            workdir = pathlib.Path(directory, f"from_{done}")
            moments = draw_moments(draw, min(5, _KILLS.value - done))
            hits, differing = series(workdir, moments, expected)
            for phase, origin in hits:
                done += 1
                table[phase][origin] += 1
                print(f"kill {done}: {phase}, resumed from {origin}", flush=True)
            wrong += differing
            print(f"  → {'differs in ' + ', '.join(differing) if differing else 'identical'}")
    rows = [
        (
            phase,
            sum(table[phase].values()),
            ", ".join(f"{name} ({n})" for name, n in sorted(table[phase].items())),
        )
        for phase in PHASES
    ]
    report.table("kills", ("killed while", "kills", "resumed from"), rows)
    report.values({"all kills": done, "differing": ", ".join(sorted(set(wrong))) or "nothing"})
    report.end()
    if wrong:
        raise SystemExit(f"error: the runs differ in {sorted(set(wrong))}")


if __name__ == "__main__":
    app.run(main)
