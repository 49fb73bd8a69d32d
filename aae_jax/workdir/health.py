"""Checks of a training: NaN, Inf, a collapsed code or discriminator, a poor match to the prior."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax.data.order import batch_rows, labelled_batch_rows
from aae_jax.networks import Params
from aae_jax.train_state import TrainState

# A collapse is reported after this many lines of metrics.jsonl in a row, one line per dispatch.
PATIENCE = 5

# A finished run warns from this distance of the codes from the prior, in stds of the prior. Codes
# with half or one and a half times the prior's std, or shifted by half a std, have a distance of
# 0.5. The digits end at 0.20 (samples of the prior: 0.14), at 1.08 if the discriminator does not
# learn, and at 0.72 if the generator does not learn.
FAR = 0.5

# A run warns from this standard deviation of the log weights over an image's chains, median over
# images, in nats. Trained autoencoders have 2 when both bounds lie within a nat. Models that chains
# can't sample have hundreds.
DISAGREEMENT = 5.0

# A discriminator is blind if codes are at least `SEEN` stds from the prior, and its loss differs
# from that of random guesses by less than `COIN` nats and by less than a tenth of the squared
# distance. A shift of codes by d stds allows a gain of d² / 4 nats. Fig. 2a before `mlp_spread`
# gained 3 times the squared distance, the variants in `studies.matching` half of it or more. After
# a few steps, losses are still far from random guesses.
SEEN, COIN = 0.1, 0.02


@jax.jit
def finite_networks(params: Params) -> dict[str, jax.Array]:
    """Whether all parameters of a network are finite, bool[] by network.

    If losses are finite, this check covers gradients too: a gradient that is not finite makes the
    parameters of the same step not finite, under Adam, SGD and clipping, at any learning rate.
    """
    return {
        name: jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(network)], bool).all()
        for name, network in params.items()
    }


def is_finite(metrics: dict[str, Any], networks: dict[str, Any]) -> bool:
    """Whether a dispatch's losses f[K] and `finite_networks` after it are all finite."""
    losses = [values for name, values in metrics.items() if name.startswith("loss/")]
    return bool(np.isfinite(losses).all()) and all(map(bool, networks.values()))


def find_failure(
    state: TrainState,
    num_steps: int,
    dataset: dict[str, Any],
    advance: Callable[[TrainState, int], tuple[TrainState, dict[str, jax.Array]]],
) -> dict[str, Any] | None:
    """Repeats steps one at a time up to the first with a loss or parameter that is not finite.

    Args:
        state: the state before a dispatch that failed.
        num_steps: of that dispatch.
        dataset: of that dispatch, as `train_steps` takes it.
        advance: (state, number of steps) → (state, metrics), as in the dispatch.

    Returns:
        `step` (1 is the first of the training), `losses` by phase in that step, `networks` whose
        parameters are not finite after it, and `rows` of its batch in the training set, with
        `labelled_rows` if a phase learns from rows with labels; None if all steps are finite.
    """
    for _ in range(num_steps):
        before = state
        state, metrics = advance(state, 1)
        finite = finite_networks(state.params)
        if not is_finite(metrics, finite):
            rows = {"rows": batch_rows(before, dataset, 1)}
            if state.spec.needs_labelled:
                rows["labelled_rows"] = labelled_batch_rows(before, dataset, 1)
            losses = {
                name.removeprefix("loss/"): float(values[0])
                for name, values in metrics.items()
                if name.startswith("loss/")
            }
            return {
                "step": int(state.step),
                # JSON has no NaN.
                "losses": {k: v if math.isfinite(v) else str(v) for k, v in losses.items()},
                "networks": sorted(name for name, ok in finite.items() if not ok),
                **{name: np.asarray(values[0]).tolist() for name, values in rows.items()},
            }
    return None


class Collapse:
    """Reads lines of metrics in turn; warns once of each kind of collapse."""

    def __init__(self, lines: Iterable[dict[str, Any]] = ()) -> None:
        self._in_a_row: dict[str, int] = {}
        self.warnings: list[str] = []
        for line in lines:
            self.see(line)

    def see(self, line: dict[str, Any]) -> list[str]:
        """Reads the next line; returns new warnings."""
        before = len(self.warnings)
        for kind, seen in _signs_of_all(line).items():
            self._in_a_row[kind] = self._in_a_row.get(kind, 0) + 1 if seen else 0
            if self._in_a_row[kind] == PATIENCE and not any(kind in w for w in self.warnings):
                self.warnings.append(
                    f"{kind} (step {line['step']}, {PATIENCE} dispatches in a row)"
                )
        return self.warnings[before:]


def _signs_of_all(line):
    """`_signs` for each seed, or for the single training."""
    by_seed = line.get("by_seed")
    if not by_seed:
        return _signs(line)
    number = len(next(iter(by_seed.values())))
    return {
        f"seed {index + 1} of {number}: {kind}": seen
        for index in range(number)
        for kind, seen in _signs({name: v[index] for name, v in by_seed.items()}).items()
    }


def _signs(line):
    """Whether a line shows each kind of collapse; the VAE has no discriminator."""
    accuracies = [line.get(f"discriminator/accuracy_on_{name}") for name in ("prior", "codes")]
    stds = [line.get(f"{name}/std") for name in ("code", "prior")]
    return {
        "the discriminator tells 99 of 100 codes from the prior: its accuracy stays near 1": (
            None not in accuracies and min(accuracies) >= 0.99
        ),
        "the codes have collapsed: their std is below 1 % of the prior's": (
            None not in stds and stds[0] < 0.01 * stds[1]
        ),
    }


def far_from_prior(by_seed: list[dict[str, Any]]) -> list[str]:
    """Warnings of codes that do not match the prior.

    Args:
        by_seed: the results of `measures.diagnose` for each seed; without an encoder they have no
            distance.
    """
    warnings = []
    for index, found in enumerate(by_seed):
        distance, floor = match_to_prior(found)
        # A sample's squared distance exceeds that of the distributions by about the floor's.
        if distance is not None and floor is not None and distance**2 - floor**2 > FAR**2:
            seed = f"seed {index + 1} of {len(by_seed)}: " if len(by_seed) > 1 else ""
            warnings.append(
                f"{seed}the codes are far from the prior, {distance:.2f} of its std (samples of the "
                f"prior: {floor:.2f}): samples are drawn where the decoder has seen few codes"
            )
    return warnings


def weak_bound(by_seed: list[dict[str, Any]]) -> list[str]:
    """Warnings of an annealed likelihood that is far too low, because its chains disagree.

    Args:
        by_seed: the results of `likelihood.score_annealed` for each seed, if it was run.
    """
    warnings = []
    for index, found in enumerate(by_seed):
        std = found.get("annealed/log_weight_std", 0.0)
        if not std <= DISAGREEMENT:  # NaN too
            seed = f"seed {index + 1} of {len(by_seed)}: " if len(by_seed) > 1 else ""
            warnings.append(
                f"{seed}the annealed likelihood may be nats too low: the log weights of an image's "
                f"chains have a standard deviation of {std:.3g} nats (median); raise "
                "evaluation.annealed.num_temperatures, or num_chains"
            )
    return warnings


def blind_discriminator(by_seed: list[dict[str, Any]], lines: list[dict[str, Any]]) -> list[str]:
    """Warnings of a discriminator that sees no difference although codes and prior differ.

    Args:
        by_seed: as in `far_from_prior`.
        lines: of metrics.jsonl; the last `PATIENCE` values of `loss/discriminator` count, if there
            is such a phase.
    """
    warnings = []
    for index, found in enumerate(by_seed):
        distance, floor = match_to_prior(found)
        losses = [_of_seed(line, "loss/discriminator", index) for line in lines[-PATIENCE:]]
        if distance is None or floor is None or not losses or None in losses:
            continue
        excess, loss = distance**2 - floor**2, sum(losses) / len(losses)
        if excess > SEEN**2 and abs(2 * math.log(2) - loss) < min(COIN, excess / 10):
            seed = f"seed {index + 1} of {len(by_seed)}: " if len(by_seed) > 1 else ""
            warnings.append(
                f"{seed}the discriminator has gone blind: its loss is that of random guesses, "
                f"{loss:.4f}, but the codes are {distance:.2f} of the prior's std from the prior "
                f"(samples of the prior: {floor:.2f})"
            )
    return warnings


def _of_seed(line, name, index):
    by_seed = line.get("by_seed")
    return by_seed[name][index] if by_seed and name in by_seed else line.get(name)


def match_to_prior(found: dict[str, Any]) -> tuple[float | None, float | None]:
    """Sliced Wasserstein distances from the prior, of codes and of prior samples, in its stds."""
    std = found.get("prior/std")
    values = [found.get(f"prior/sliced_wasserstein{suffix}") for suffix in ("", "_floor")]
    if not std or None in values or not np.isfinite([std, *values]).all():
        return None, None
    return values[0] / std, values[1] / std
