"""σ that is chosen while every sample is drawn once: the same as with two passes."""

import jax
import numpy as np
import pytest

from aae_jax import bandwidth, evaluation
from aae_jax.settings import EvaluationSpec

NUM_SAMPLES = 20_000


def sampler(key, n):
    return 0.5 + 0.1 * jax.random.normal(key, (n, 6))


def folds(number):
    rng = np.random.default_rng(0)
    images = 0.5 + 0.1 * rng.normal(size=(number, 2, 30, 6, 1, 1))
    return [tuple({"image": part.astype(np.float32)} for part in fold) for fold in images]


@pytest.mark.parametrize("few", [200, 2_000])
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("sigmas", [(0.01, 0.02, 0.04, 0.08, 0.3), (0.3, 0.02, 0.08, 0.04, 0.01)])
def test_gives_what_two_passes_give(monkeypatch, few, number, sigmas):
    names = []

    def run(one_pass):
        names.append(one_pass.name)
        return evaluation.at_once(one_pass)

    spec = EvaluationSpec(num_samples=NUM_SAMPLES, num_validation=30, sigmas=sigmas)
    arguments = sampler, folds(number), spec, jax.random.key(0), None, run
    two = evaluation.evaluate(*arguments)
    assert names == ["validation", "test"]
    names.clear()
    monkeypatch.setattr(bandwidth, "FEW", few)
    one = evaluation.evaluate(*arguments)
    assert names == ["candidates for σ", "validation and test"]
    assert two.keys() == one.keys()
    for name in ("parzen/sigma", "parzen/sigmas", "parzen/sigma_on_grid_edge"):
        assert one[name] == two[name]
    for name in ("log_likelihood", "standard_error", "validation_log_likelihood"):
        assert one[f"parzen/{name}"] == pytest.approx(two[f"parzen/{name}"], abs=1e-3)


@pytest.mark.parametrize("best_of_few, whole_grid", [(1, True), (2, False), (3, False)])
def test_takes_the_whole_grid_where_the_upper_neighbour_wins(best_of_few, whole_grid):
    """The best of all samples is number 2."""
    asked = []

    def score(splits, sigmas, name, number=NUM_SAMPLES):
        asked.append((name, list(sigmas), number))
        best = float(best_of_few if number == bandwidth.FEW else 2)
        return [np.array([[-abs(s - best)] * len(split) for s in sigmas]) for split in splits], 0.5

    grid = [0.0, 1.0, 2.0, 3.0]
    valid, test = [np.zeros((3, 1))], [np.zeros((5, 1))]
    found = bandwidth.score_once(score, valid, test, grid)
    assert asked[0] == ("candidates for σ", grid, bandwidth.FEW)
    assert asked[1] == ("validation and test", grid[: best_of_few + 2], NUM_SAMPLES)
    assert (found is None) == whole_grid
    if not whole_grid:
        valid_ll, test_ll, share = found
        assert bandwidth.best(valid_ll) == ([2], 2) and share == 0.5
        assert test_ll[0].shape == (4, 5) and test_ll[0][2].tolist() == [0] * 5
        assert np.isneginf(test_ll[0][best_of_few + 2 :]).all()
