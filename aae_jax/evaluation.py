"""The protocol of Table 1, for the samples of any model."""

import dataclasses
import functools
import hashlib
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax import bandwidth, parallel, parzen, processes
from aae_jax.arguments import as_key, check_range
from aae_jax.checks import have_same_order
from aae_jax.errors import UserError
from aae_jax.registry import path_of
from aae_jax.settings import EvaluationSpec
from aae_jax.train_state import (
    TrainState,
    beyond_unit,
    to_unit,
)

Split = Mapping[str, Any]  # {"image": [N, H, W, C], "label": i32[N]}
Samples = parzen.Sampler | np.ndarray | jax.Array  # (key, n) → f[n, P], or stored f[N, …]

_PIECE = 20_000  # stored samples that are on the device at a time


class ScoringPass(NamedTuple):
    """A pass over a stream of samples, or over images, which any number of calls may share."""

    name: str  # what is scored
    identity: str  # a hash of everything that the sums depend on
    num_samples: int
    samples_per_round: int
    num_rounds: int
    empty: Any  # sums of no rounds: a NamedTuple of arrays
    add: Callable[[Any, int, int], Any]  # (sums, first, last): rounds first…last−1
    unit: str = "sample"  # what is counted


def at_once(scoring_pass: ScoringPass) -> Any:
    """All rounds of a pass in one call."""
    return scoring_pass.add(scoring_pass.empty, 0, scoring_pass.num_rounds)


Run = Callable[[ScoringPass], Any]


def evaluate(
    sampler: Samples,
    folds: Sequence[tuple[Split, Split]],
    spec: EvaluationSpec,
    key: jax.Array | None = None,
    mesh: jax.sharding.Mesh | None = None,
    run: Run = at_once,
) -> dict[str, Any]:
    """Scores samples of any model on hold-out images.

    The score is the Parzen log-likelihood of section 4. The first `num_validation` validation images
    choose σ by their mean log-likelihood under `num_samples` samples. Then every test image is scored
    with this σ. ± is the standard deviation over test images divided by √T.

    With several folds, as in TFD, each fold has its own σ. The result is the mean over the folds with
    their standard error (Goodfellow et al. 2014). A second result uses one σ for all folds, the best
    over their validation images (Li et al. 2015).

    Args:
        sampler: (key, n) → f[n, P], such as `aae_jax.sampler(state)`; chunk i of the samples is
            `sampler(fold_in(key, i), 1000)`. Or stored samples f[N, P], or f[N, H, W, C] in the
            images' order of axes; all of them are used.
        folds: pairs of validation and test images, each `{"image": [N, H, W, C] uint8, or floats
            in [0, 1], …}`.
        spec: the config's `evaluation` section; `num_samples` applies to a sampler.
        key: a PRNG key, or a seed, for the samples; stored samples need none.
        mesh, run: see `log_likelihoods`.

    Returns:
        `parzen/*`: numbers and lists for `results.json`; log-likelihoods in nats.

    Raises:
        UserError: folds are malformed or have an empty split; or samples and images don't fit.
    """
    _check_folds(folds)
    num_samples = spec.num_samples if callable(sampler) else len(sampler)
    valid = [validation["image"][: spec.num_validation] for validation, _ in folds]
    sigmas = fitting_sigmas(valid) if spec.sigmas is None else spec.sigmas

    def score(splits, sigmas, name, number=num_samples):
        """f64[S, T] for each split, all scored in one pass over the samples; the share multiplied out."""
        if len({split.dtype for split in splits}) > 1:  # else uint8 would join floats as 0 … 255
            splits = [to_unit(split) for split in splits]
        images = np.concatenate(splits)
        found, share = scored(sampler, images, key, number, tuple(sigmas), name, mesh, run)
        ends = np.cumsum([len(split) for split in splits])[:-1]
        return np.split(found.astype(np.float64), ends, axis=1), share

    test = [images["image"] for _, images in folds]
    once = None
    if callable(sampler) and bandwidth.draws_once(num_samples, sigmas):
        once = bandwidth.score_once(score, valid, test, sigmas)
    valid_ll = score(valid, sigmas, "validation")[0] if once is None else once[0]
    own, shared = bandwidth.best(valid_ll)
    used = sorted({*own, shared}) if len(folds) > 1 else own
    if once is None:
        test_ll, share = score(test, [sigmas[i] for i in used], "test")
    else:
        test_ll, share = [every[used] for every in once[1]], once[2]
    by_fold = [
        {
            "log_likelihood": float(test[used.index(best)].mean()),
            "standard_error": _standard_error(test[used.index(best)]),
            "sigma": float(sigmas[best]),
            "validation_log_likelihood": float(valid[best].mean()),
            "num_test": test.shape[1],
            "num_validation": valid.shape[1],
        }
        for best, valid, test in zip(own, valid_ll, test_ll)
    ]
    found = {
        **by_fold[0],
        "num_samples": num_samples,
        "sigmas": list(map(float, sigmas)),
        "multiplied_share": share,
        "sigma_on_grid_edge": len(sigmas) > 1
        and any(best in (0, len(sigmas) - 1) for best in used),
    }
    if len(folds) > 1:
        found.update(_over_folds(by_fold))
        validation = [fold["validation_log_likelihood"] for fold in by_fold]
        found["validation_log_likelihood"] = float(np.mean(validation))
        one_sigma = [test[used.index(shared)] for test in test_ll]
        found["shared_sigma"] = {
            **_over_folds([{"log_likelihood": ll.mean()} for ll in one_sigma]),
            "standard_error_over_images": _standard_error(np.concatenate(one_sigma)),
            "sigma": float(sigmas[shared]),
        }
        found["by_fold"] = by_fold
    return {f"parzen/{name}": value for name, value in found.items()}


def fitting_sigmas(images: Sequence[np.ndarray]) -> tuple[float, ...]:
    """A grid to choose σ from.

    Args:
        images: arrays [N, …] of validation images; uint8, or floats in units of their own.

    Returns:
        Ten from 0.1 to 1 (Goodfellow et al. 2014) for pixels in [0, 1]; otherwise twenty from 0.03
        to 3 times the standard deviation, root mean square over the numbers of an example.
    """
    if all(i.dtype == np.uint8 or (0 <= i.min() and i.max() <= 1) for i in map(np.asarray, images)):
        return tuple(np.logspace(-1, 0, 10).tolist())
    values = np.concatenate([np.asarray(i, np.float64).reshape(len(i), -1) for i in images])
    std = float(np.sqrt(values.var(axis=0).mean()))
    if not 1e-13 <= std <= 1e14:
        raise UserError(
            f"validation examples have the standard deviation {std:.3g}: to fit σ to it, it must be "
            "from 1e-13 to 1e14; scale them, or give evaluation.sigmas"
        )
    return tuple((std * np.geomspace(0.03, 3, 20)).tolist())


def _standard_error(log_likelihood):
    """Standard deviation over test images divided by √T."""
    return float(log_likelihood.std() / np.sqrt(len(log_likelihood)))


def _over_folds(by_fold):
    """Mean over the folds, and its standard error from their sample standard deviation."""
    means = np.array([fold["log_likelihood"] for fold in by_fold])
    return {
        "log_likelihood": float(means.mean()),
        "standard_error": float(means.std(ddof=1) / np.sqrt(len(means))),
    }


def log_likelihoods(
    sampler: Samples,
    images: np.ndarray,
    key: jax.Array | None,
    num_samples: int,
    sigmas: tuple[float, ...],
    name: str,
    mesh: jax.sharding.Mesh | None = None,
    run: Run = at_once,
) -> np.ndarray:
    """Parzen log-likelihoods of images under a model's samples.

    Args:
        sampler: as in `evaluate`.
        images: [T, H, W, C], uint8 or floats in [0, 1].
        key: a PRNG key. The samples that are drawn are the same for any images and mesh.
        num_samples: N.
        sigmas: S bandwidths.
        name: a word for the images, where the pass is reported.
        mesh: the devices that share the samples between them; None for one. Stored samples are
            scored on one.
        run: takes the pass from its empty sums to its last round; where the rounds are cut, and
            whether the sums are saved in between, changes no bit of the result.

    Returns:
        f[S, T], nats. Images and samples count as the float32 numbers that they are in [0, 1];
        `parzen.precision` says how exact scores are.
    """
    return scored(sampler, images, key, num_samples, sigmas, name, mesh, run).log_likelihoods


class Scored(NamedTuple):
    """What a pass over the samples found."""

    log_likelihoods: np.ndarray  # f[S, T], nats
    multiplied_share: float  # of images × samples, from 0 to 1: the others are too far to count


def scored(
    sampler: Samples,
    images: np.ndarray,
    key: jax.Array | None,
    num_samples: int,
    sigmas: tuple[float, ...],
    name: str,
    mesh: jax.sharding.Mesh | None = None,
    run: Run = at_once,
) -> Scored:
    """As `log_likelihoods`, with the share of products that was multiplied out."""
    x = to_unit(jnp.asarray(images)).reshape(len(images), -1)
    sigma = jnp.asarray(sigmas, x.dtype)
    if callable(sampler):
        if key is None:
            raise UserError("key is None: a sampler draws with a PRNG key, as jax.random.key(0)")
        key = as_key(key)
        _check_sampler(sampler, key, images)
    columns, *chosen = parzen.choose_method(x, sigma, num_samples)
    # Processes run one program, whatever each machine is good at.
    bf16_split, differences, screened = map(bool, processes.broadcast_from_first(chosen))
    kind: Any = parzen.DifferenceSums if differences else parzen.Sums
    bound, num_chunks = None, None
    if screened:
        bound = processes.broadcast_from_first(parzen.make_bound(x, sigma, num_samples))
        kind, num_chunks = parzen.ScreenedSums, parzen.NUM_CHUNKS
    of_bound = () if bound is None else (bound,)
    if callable(sampler):
        samples_per_round = parzen.samples_per_round(num_samples, mesh, num_chunks)
        # A plain function becomes a pytree without leaves.
        is_pytree = isinstance(sampler, jax.tree_util.Partial)
        drawn = sampler if is_pytree else jax.tree_util.Partial(sampler)
        if mesh is not None:
            x, sigma, bound = parallel.replicate((x, sigma, bound), mesh)

        def add(sums, first, last):
            sums = kind(*sums)  # a file of sums does not hold their kind
            scored = x, sigma, columns, drawn, key, bound
            return _add_drawn(sums, first, last, scored, (num_samples, mesh, bf16_split))

    else:
        samples, samples_per_round, mesh = _stored(sampler, images.shape), _PIECE, None

        def add(sums, first, last):
            sums = kind(*sums)
            for start in range(first * _PIECE, min(last * _PIECE, num_samples), _PIECE):
                piece = to_unit(jnp.asarray(samples[start : start + _PIECE]))
                if bound is None:
                    sums = parzen.add_samples(sums, x, piece, sigma, columns, bf16_split)
                else:
                    sums = parzen.add_screened_samples(sums, piece, bound)
            return sums

    empty: Any
    if bound is None:
        empty = parzen.start(x, sigma, mesh, differences)
    else:
        empty = parzen.start_screened(bound, mesh)
    scoring_pass = ScoringPass(
        name=name,
        identity=fingerprint(
            sampler, x, sigma, key, num_samples, 1 if mesh is None else mesh.size,
            samples_per_round, bf16_split, jax.__version__, *(["differences"] if differences else []),
            *of_bound,
        ),
        num_samples=num_samples,
        samples_per_round=samples_per_round,
        num_rounds=-(-num_samples // samples_per_round),
        empty=jax.tree.map(np.asarray, empty),
        add=add,
    )  # fmt: skip
    # Whether a pass has just run or was read whole, the devices' sums are added up in one order.
    sums, share = kind(*processes.gather_to_host(run(scoring_pass))), 1.0
    if bound is not None:
        share, sums = parzen.multiplied_share(sums), parzen.in_order(sums, bound)
    return Scored(np.asarray(parzen.finish(sums, x, num_samples, sigma)), share)


@functools.partial(jax.jit, static_argnames="static")
def _add_drawn(sums, first, last, scored, static):
    x, sigma, columns, sampler, key, bound = scored
    num_samples, mesh, bf16_split = static
    stream = parzen.Stream(sampler, key, num_samples, mesh)
    if bound is not None:
        return parzen.add_screened_drawn(sums, stream, first, last, bound)
    return parzen.add_drawn(sums, x, stream, sigma, first, last, columns, bf16_split)


def _check_folds(folds):
    """Pairs of splits, none of them empty, and images of one shape everywhere."""
    pair = "a pair (validation, test) of dicts with 'image'"
    if not isinstance(folds, Sequence) or not folds:
        shown = "empty" if isinstance(folds, Sequence) else f"a {type(folds).__name__}"
        raise UserError(f"folds is {shown}: it must be a list, each item {pair}")
    for i, fold in enumerate(folds):
        splits = fold if isinstance(fold, (tuple, list)) else ()
        if len(splits) != 2 or not all(isinstance(s, Mapping) and "image" in s for s in splits):
            raise UserError(f"folds[{i}] is a {type(fold).__name__}: it must be {pair}")
        for name, split in zip(("validation", "test"), splits):
            images = split["image"]
            shape = getattr(images, "shape", None)
            if not shape or shape[0] == 0:
                shown = f"a {type(images).__name__}" if shape is None else f"of shape {shape}"
                raise UserError(
                    f"{name} images of folds[{i}] are {shown}: they must be an array [N, H, W, C] "
                    "with N at least 1"
                )
    test = folds[0][1]["image"].shape
    for validation, other in folds:
        for name, images in (("validation", validation["image"]), ("test", other["image"])):
            if images.shape[1:] != test[1:]:
                raise UserError(
                    f"{name} images have shape {images.shape}, test images {test}: all axes but the "
                    "first must be the same"
                )


def _check_sampler(sampler, key, images):
    """Refuses a sampler whose samples are not what images [T, H, W, C] are."""
    dim = math.prod(images.shape[1:])
    found = jax.eval_shape(lambda key: sampler(key, parzen.CHUNK), key)
    if getattr(found, "shape", None) != (parzen.CHUNK, dim):
        shape = getattr(found, "shape", type(found).__name__)
        raise UserError(
            f"sampler(key, {parzen.CHUNK}) gives shape {shape}: the images have {dim} numbers each, "
            f"so it must be {(parzen.CHUNK, dim)}"
        )
    # The model's samples are flat, yet their axes are known.
    for state in getattr(sampler, "args", ()):
        if not isinstance(state, TrainState):
            continue
        if not have_same_order(images.shape, (1, *state.spec.image_shape)):
            raise UserError(
                f"images have shape {images.shape}: the model makes images {state.spec.image_shape}"
            )
        check_range("images", images, beyond_unit(state))


def _stored(samples, shape):
    """Stored samples as rows; refused where they are not what images of a shape [T, H, W, C] are."""
    if samples.ndim < 2 or len(samples) == 0 or not have_same_order(samples.shape, shape):
        raise UserError(
            f"samples have shape {samples.shape}: they must be [N, {math.prod(shape[1:])}], or N "
            f"images of the same axes as the images {tuple(shape)}"
        )
    return samples.reshape(len(samples), -1)


def fingerprint(*values: Any) -> str:
    """SHA-256 of everything that a result depends on.

    Arrays count by their shapes, types and values, functions by module, name and line, dataclasses
    and tuples by their fields. A closure holds values that can't be seen, so that it is like no
    other, itself included.
    """
    digest = hashlib.sha256()

    def add(value):
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        if isinstance(value, (jax.Array, np.ndarray, np.generic)):
            value = np.asarray(value)
            digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        elif isinstance(value, functools.partial):  # jax.tree_util.Partial is one
            add((value.func, value.args, value.keywords))
        elif isinstance(value, dict):
            add(tuple(sorted(value.items())))
        elif isinstance(value, (tuple, list)):
            digest.update(f"{type(value).__name__}{len(value)}".encode())
            for item in value:
                add(item)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            digest.update(path_of(value).encode())
            for field in dataclasses.fields(value):
                digest.update(field.name.encode())
                add(getattr(value, field.name))
        elif callable(value):
            line = getattr(getattr(value, "__code__", None), "co_firstlineno", 0)
            known = getattr(value, "__closure__", None) is None and hasattr(value, "__qualname__")
            digest.update((f"{path_of(value)}{line}" if known else str(uuid.uuid4())).encode())
        else:
            digest.update(repr(value).encode())
        digest.update(b";")

    add(values)
    return digest.hexdigest()
