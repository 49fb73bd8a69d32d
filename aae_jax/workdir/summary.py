"""The summary printed at the end of a run."""

import os

from aae_jax.train_state import TrainState
from aae_jax.workdir import health, records, terminal


def say(state: TrainState, workdir: str) -> None:
    """Prints steps, scores, the match to the prior, and the files of a run's directory."""
    lines = [f"{workdir}: {int(state.step)} of {state.spec.train.num_steps} steps"]
    results = records.read_json(os.path.join(workdir, "results.json"))
    if results:
        by_fold = results.get("parzen/by_fold")
        how = f"{len(by_fold)} folds" if by_fold else f"σ {_shown(results['parzen/sigma'], '.4g')}"
        lines.append(
            f"  results.json   test log-likelihood {_shown(results['parzen/log_likelihood'], '.1f')} "
            f"± {_shown(results['parzen/standard_error'], '.1f')} nats (Parzen window, "
            f"{results['parzen/num_samples']} samples, {how})"
        )
        if "annealed/log_likelihood" in results:
            lines.append(
                "                 limit of many samples "
                f"{_shown(results['annealed/log_likelihood'], '.1f')} "
                f"± {_shown(results['annealed/standard_error'], '.1f')} nats (annealed importance "
                f"sampling, {results['annealed/num_images']} images, "
                f"σ {_shown(results['annealed/sigma'], '.4g')})"
            )
        if "classification/error" in results:
            lines.append(
                "                 classification error "
                f"{_shown(results['classification/error'], '.2%')} "
                f"± {_shown(results['classification/standard_error'], '.2%')} of test images"
            )
        if "spread" in results:
            spread = _shown(results["spread"].get("parzen/log_likelihood"), ".1f")
            lines.append(
                f"                 mean of {len(results['by_seed'])} seeds, standard deviation "
                f"{spread} nats; pictures of the first seed"
            )
        match = _match(results, records.MetricsLog.read(workdir))
        lines += [f"                 {match}"] if match else []
    figures = os.path.join(workdir, "figures")
    if os.path.isdir(figures):
        lines.append(f"  figures/       {', '.join(sorted(os.listdir(figures)))}")
    if os.path.exists(os.path.join(workdir, "report.html")):
        lines.append("  report.html    scores, figures and config on one page, for a browser")
    lines.append("  metrics.jsonl, tensorboard/, checkpoints/, config.json")
    terminal.say("\n".join(lines))


def _shown(number, form):
    return "none" if number is None else format(number, form)


def _match(results, metrics) -> str:
    """The distance of the codes from the prior, and the discriminator's accuracies."""
    distance, floor = health.match_to_prior(results)
    if distance is None or floor is None:
        return ""
    said = (
        f"codes {distance:.2f} of the prior's std from the prior (sliced Wasserstein; samples of "
        f"the prior {floor:.2f})"
    )
    last = metrics[-1] if metrics else {}
    prior, codes = (last.get(f"discriminator/accuracy_on_{name}") for name in ("prior", "codes"))
    if prior is not None and codes is not None:
        said += f"; discriminator accuracy {prior:.2f} on the prior, {codes:.2f} on codes"
    return said
