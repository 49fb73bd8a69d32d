"""The choice of σ for the Parzen window, where drawing samples is the larger part of the work."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

FEW = 100_000  # samples that choose the candidates for σ, where there are many more


def best(valid_ll: Sequence[np.ndarray]) -> tuple[list[int], int]:
    """Indices of the σ with the highest mean: of each fold, and of all together."""
    means = [ll.mean(axis=1) for ll in valid_ll]
    return [int(mean.argmax()) for mean in means], int(np.mean(means, axis=0).argmax())


def draws_once(num_samples: int, sigmas: Sequence[float]) -> bool:
    """Whether a pass for the candidates for σ costs less than decoding all samples twice.

    On a GPU that has not been measured.
    """
    return jax.default_backend() == "cpu" and len(sigmas) > 1 and num_samples >= 10 * FEW


def score_once(
    score: Callable,
    valid: Sequence[np.ndarray],
    test: Sequence[np.ndarray],
    sigmas: Sequence[float],
) -> tuple[list[np.ndarray], list[np.ndarray], float] | None:
    """Scores validation and test images in one pass: each sample is drawn once.

    With more samples the best σ falls. So the candidates are the best σ with few samples, its upper
    neighbour, and all below.

    Args:
        score: (arrays of images, σ, name[, number of samples]) → f64[S, T] for each, and a share.
        valid, test: images of each fold.
        sigmas: the grid.

    Returns:
        Of validation and of test images f64[S, T] for each fold, −inf where σ was no candidate, and
        the share multiplied out; None where the upper neighbour wins, so that one above it might.
    """
    few, _ = score(valid, sigmas, "candidates for σ", FEW)
    own, shared = best(few)
    rising = np.argsort(sigmas, kind="stable")
    last = max(rising.tolist().index(index) for index in (*own, shared)) + 1
    candidates = rising[: last + 1]
    found, share = score([*valid, *test], [sigmas[i] for i in candidates], "validation and test")
    whole = [np.full((len(sigmas), ll.shape[1]), -np.inf) for ll in found]
    for every, ll in zip(whole, found):
        every[candidates] = ll
    valid_ll, test_ll = whole[: len(valid)], whole[len(valid) :]
    own, shared = best(valid_ll)
    if last < len(sigmas) and rising[last] in (*own, shared):
        return None
    return valid_ll, test_ll, share
