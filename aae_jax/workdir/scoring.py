"""Scores of a run: passes that can be cut and go on, `results.json`, means over seeds."""

import dataclasses
import functools
import os
import shutil
import time
from typing import Any

import jax
import numpy as np

from aae_jax import evaluation, measures, multi_seed, parallel, processes
from aae_jax.data import Dataset
from aae_jax.settings import Settings
from aae_jax.train_state import TrainState, chain_starts, sampler
from aae_jax.workdir import health, records, terminal

_DISPATCH_SECONDS = 1.0  # of a scoring pass: signals and progress wait for its end
_SAVE_SECONDS = 30.0  # between two saves of a scoring pass
_QUIET_SECONDS = 5.0  # shorter passes show no progress


def is_scored(state: TrainState, settings: Settings, workdir: str) -> bool:
    """Whether `results.json` has the scores of this state by this protocol."""
    results = records.read_json(os.path.join(workdir, "results.json")) or {}
    missing = results.get("steps") != int(state.step) or results.get(
        "evaluation"
    ) != _evaluation_fields(settings)
    # Where one process does not see the file yet, all score again.
    return not processes.all_reduce_max([missing])[0]


def score(
    state: TrainState,
    dataset: Dataset,
    settings: Settings,
    mesh: jax.sharding.Mesh,
    workdir: str,
) -> None:
    """Scores every seed and writes `results.json`; a signal saves what is done and exits."""
    terminal.say(f"scoring with {settings.evaluation.num_samples} samples")
    start = time.monotonic()
    members = multi_seed.members(state)
    starts = parallel.replicate(chain_starts(state, dataset.train["image"]), mesh)
    by_seed = []
    takes = settings.spec.model.condition_in_decoder
    conditions: Any = dataset.train["condition"] if takes else None
    with terminal.Signals() as signals, processes.report_lost_peer():
        run = functools.partial(_run_pass, signals=signals, workdir=workdir)
        keys = [jax.random.fold_in(jax.random.key(seed), 1) for seed in settings.seeds]
        for seed, key, alone in zip(settings.seeds, keys, members, strict=True):
            found = evaluation.evaluate(
                sampler(alone, starts, conditions),
                dataset.folds,
                settings.evaluation,
                key,
                mesh,
                run,
            )
            if found["parzen/multiplied_share"] < 1:
                share = 100 * found["parzen/multiplied_share"]
                terminal.say(
                    f"multiplied {share:.2g} % of images × samples: the others are too far"
                )
            if found["parzen/sigma_on_grid_edge"]:
                terminal.say(
                    f"warning: σ = {found['parzen/sigma']:.4g} lies on the edge of "
                    "evaluation.sigmas"
                )
            by_seed.append({"seed": seed, **found})
        path = os.path.join(workdir, "results.json")
        # Without the protocol they don't count as whole, but nothing that fails below loses them.
        records.write_json(path, {"steps": int(state.step), **_over_seeds(by_seed)})
        if settings.evaluation.annealed.num_images is not None:
            for scores, key, alone in zip(by_seed, keys, members, strict=True):
                scores |= _annealed(
                    alone, dataset, settings, scores["parzen/sigma"], key, mesh, run
                )
            records.write_json(path, {"steps": int(state.step), **_over_seeds(by_seed)})
        for scores, key, alone in zip(by_seed, keys, members, strict=True):
            one, validation = processes.local_copy(alone), dataset.folds[0].validation
            scores |= measures.diagnose(one, dataset.test, key, validation)
        lines = records.MetricsLog.read(workdir)
        found_now = [
            *health.weak_bound(by_seed),
            *health.far_from_prior(by_seed),
            *health.blind_discriminator(by_seed, lines),
        ]
        for warning in found_now:
            terminal.say(f"warning: {warning}")
        results = {
            "data": settings.data.name,
            **({} if dataset.class_names is None else {"class_names": list(dataset.class_names)}),
            "steps": int(state.step),
            "seconds": records.MetricsLog.last_seconds(workdir),
            "evaluation_seconds": time.monotonic() - start,
            **_over_seeds(by_seed),
            "warnings": health.Collapse(lines).warnings + found_now,
            "evaluation": _evaluation_fields(settings),
            "devices": [str(device.device_kind) for device in mesh.devices.flat],
            "jax": jax.__version__,
        }
        records.write_json(path, results)
        if processes.is_first():
            shutil.rmtree(records.partial_directory(workdir), ignore_errors=True)
        signals.ask()
    if signals.to_obey():
        terminal.say(f"interrupted after scoring: {workdir} holds the scores")
        raise SystemExit(128 + signals.to_obey())


def _annealed(state, dataset, settings, sigma, key, mesh, run):
    """The limit of many samples; blackjax is imported where it is asked for."""
    from aae_jax import likelihood

    spec = settings.evaluation.annealed
    terminal.say(f"annealed likelihood of {spec.num_images} test images")
    key = jax.random.fold_in(key, 0)
    return likelihood.score_annealed(state, dataset.folds, spec, key, sigma, mesh, run)


def _over_seeds(by_seed: list[dict[str, Any]]) -> dict[str, Any]:
    """The scores of one seed; of several the means, their standard deviations, and all of them."""
    if len(by_seed) == 1:
        return by_seed[0]
    means, spread = {}, {}
    for name in by_seed[0].keys() - {"seed"}:
        values = [scores[name] for scores in by_seed]
        means[name] = _elementwise(np.mean, values)
        if isinstance(means[name], float):
            spread[name] = float(np.std(values, ddof=1))
    return {**means, "spread": spread, "by_seed": by_seed}


def _elementwise(function, values):
    """Of floats, in lists and dicts too; a warning is one where any is, and the rest is the first's.

    None where a seed's number could not be had.
    """
    first = values[0]
    if any(value is None for value in values):
        return None
    if isinstance(first, dict):
        return {name: _elementwise(function, [value[name] for value in values]) for name in first}
    if isinstance(first, list):
        return [_elementwise(function, list(items)) for items in zip(*values)]
    if isinstance(first, bool):
        return any(values)
    return float(function(values)) if isinstance(first, float) else first


def _run_pass(scoring_pass, signals, workdir):
    """Runs a pass about a second at a time, or resumes one that was interrupted.

    The sums are saved every half minute, under the hash of everything that they depend on. So a pass
    never resumes from sums of another model, grid or number of samples.
    """
    path = os.path.join(records.partial_directory(workdir), f"{scoring_pass.identity}.npz")
    total, name, unit = scoring_pass.num_samples, scoring_pass.name, scoring_pass.unit

    def samples(rounds):
        return min(rounds * scoring_pass.samples_per_round, total)

    done, sums = processes.broadcast_from_first(
        records.read_partial(path, type(scoring_pass.empty)) or (0, scoring_pass.empty)
    )
    done = int(done)
    if done:
        terminal.say(f"{name}: resuming from {unit} {samples(done)}")
    size = 1
    begun = saved = time.monotonic()
    with terminal.Progress(total, unit, name) as progress:
        while done < scoring_pass.num_rounds:
            before = time.monotonic()
            count = min(size, scoring_pass.num_rounds - done)
            sums = jax.block_until_ready(scoring_pass.add(sums, done, done + count))
            done += count
            now = time.monotonic()
            signals.ask()
            # The clocks of several processes differ, and all must do the same.
            took, unsaved = processes.all_reduce_max([now - before, now - saved])
            ends = done == scoring_pass.num_rounds and unsaved > _QUIET_SECONDS
            size = max(1, min(2 * size, int(count * _DISPATCH_SECONDS / took)))
            if now - begun > _QUIET_SECONDS:
                progress.show(samples(done))
            if unsaved > _SAVE_SECONDS or ends or signals.to_obey():
                records.write_partial(path, done, processes.gather_to_host(sums))
                saved = now
            if signals.to_obey():
                break
    if signals.to_obey():
        terminal.say(
            f"interrupted at {unit} {samples(done)} of {total} ({name}), saved in {workdir}: the "
            "same command resumes from there"
        )
        raise SystemExit(128 + signals.to_obey())
    return sums


def _evaluation_fields(settings):
    spec, annealed = settings.evaluation, {}
    if spec.annealed.num_images is not None:  # what is not asked for makes no score another one
        annealed = {"annealed": dataclasses.asdict(spec.annealed)}
    return {
        "fold": settings.data.fold,
        "num_samples": spec.num_samples,
        "num_validation": spec.num_validation,
        "sigmas": None if spec.sigmas is None else list(spec.sigmas),
        **annealed,
    }
