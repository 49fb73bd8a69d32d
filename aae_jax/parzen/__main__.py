"""Scores samples of any model by the Parzen window.

python -m aae_jax.parzen --samples=a.npy --test=b.npy --validation=c.npy
python -m aae_jax.parzen --samples=arrays.npz:samples --test=arrays.npz:test --sigma=0.2

The rows of an array are points; images [N, H, W, C] are flattened, and all files must hold them in
one order of axes. An npy file of samples is read from the disk as it is needed, so it may be larger
than the memory. Where σ is too small for float32, scores are computed in float64.
"""

import itertools
import sys
from typing import Any

import numpy as np
from absl import app, flags, logging

from aae_jax import arrays, streams
from aae_jax.checks import have_same_order
from aae_jax.errors import UserError
from aae_jax.parzen import are_in_range

_SAMPLES = flags.DEFINE_string("samples", None, "The model's samples: npy, npz or npz:name.")
_TEST = flags.DEFINE_string("test", None, "The points to score: the same.")
_VALIDATION = flags.DEFINE_string("validation", None, "The points that choose σ: never test data.")
_SIGMA = flags.DEFINE_string("sigma", None, "A fixed σ, instead of validation data.")
_SIGMAS = flags.DEFINE_string(
    "sigmas", None, "The σ to choose from, with commas (default: ten from 0.1 to 1, log-spaced)."
)
_DIVIDE = flags.DEFINE_bool("divide_by_255", False, "Scale integer images from 0…255 to [0, 1].")

_PIECE = 20_000  # samples that are in memory at a time


def _load(flag):
    """The array of a file, memory-mapped where it is an npy file."""
    if flag.value is None:
        raise UserError(f"--{flag.name} is missing: give an npy or npz file")
    array = arrays.read(flag.name, flag.value, flag.name, ())[flag.name]
    if array.ndim < 2 or 0 in array.shape:
        raise UserError(
            f"--{flag.name}: {flag.value!r} has shape {array.shape}: it must be [N, D] or images "
            "[N, H, W, C], and not empty"
        )
    if array.dtype.kind == "b":
        raise UserError(f"--{flag.name}: {flag.value!r} holds bool: it must hold numbers")
    return array


def _rows(found):
    """Arrays as rows [N, D], refused where they are not of one shape."""
    samples = found["samples"].shape
    rows = {name: array.reshape(len(array), -1) for name, array in found.items()}
    for name, array in found.items():
        if rows[name].shape[1] != rows["samples"].shape[1]:
            raise UserError(
                f"--{name} has {rows[name].shape[1]} numbers a row, --samples has "
                f"{rows['samples'].shape[1]}: they must be the same (shapes {array.shape} and "
                f"{samples})"
            )
    # Pairwise, since rows [N, D] go with images of any order.
    for (name, array), (other, beside) in itertools.combinations(found.items(), 2):
        if not have_same_order(array.shape, beside.shape):
            raise UserError(
                f"--{other} has shape {beside.shape}, --{name} has shape {array.shape}: "
                "images must have one order of axes, as [N, H, W, C]"
            )
    return rows


def _check_values(flag, rows):
    """Every value, once, before anything compiles: finite, and on the scale of pixels."""
    low, high = np.inf, -np.inf
    for start in range(0, len(rows), _PIECE):
        piece = rows[start : start + _PIECE]
        low, high = np.minimum(low, piece.min()), np.maximum(high, piece.max())
        if not np.isfinite([low, high]).all():
            bad = start + np.flatnonzero(~np.isfinite(piece).all(axis=1))[0]
            raise UserError(f"--{flag.name}: {flag.value!r} has NaN or inf, first in row {bad}")
    if rows.dtype.kind == "f":
        if low < 0 or high > 1:
            print(
                f"warning: --{flag.name} has values from {low:.4g} to {high:.4g}: log-likelihoods "
                "can be compared with published ones for pixels in [0, 1] only",
                file=sys.stderr,
            )
        return
    if not _DIVIDE.value:
        raise UserError(
            f"--{flag.name}: {flag.value!r} holds integers ({rows.dtype}, {low:g} to {high:g}), not "
            "pixels in [0, 1]: add --divide_by_255, or store floats"
        )
    if low < 0 or not 1 < high <= 255:
        raise UserError(
            f"--divide_by_255 is for integers from 0 to 255: --{flag.name} holds {low:g} to {high:g}; "
            "store floats"
        )


def _floats(rows, dtype):
    """Rows as floats of a type, integers divided by 255."""
    return rows.astype(dtype) if rows.dtype.kind == "f" else rows.astype(dtype) / dtype(255)


def _numbers(flag):
    """Positive numbers with commas between them."""
    try:
        values = np.array([float(part) for part in flag.value.split(",")])
    except ValueError:
        raise UserError(
            f"--{flag.name} is {flag.value!r}: it must be numbers, as 0.1,0.2"
        ) from None
    if not ((values > 0) & np.isfinite(values)).all():
        raise UserError(f"--{flag.name} is {flag.value!r}: σ must be positive")
    if not are_in_range(values):
        raise UserError(f"--{flag.name} is {flag.value!r}: σ must be from 1e-15 to 1e15")
    return values


def _grid():
    """The candidates for σ; one where it is fixed."""
    if _SIGMA.value is not None:
        if _VALIDATION.value is not None or _SIGMAS.value is not None:
            raise UserError("--sigma fixes σ: leave out --validation and --sigmas")
        sigma = _numbers(_SIGMA)
        if len(sigma) > 1:
            raise UserError(f"--sigma is {_SIGMA.value!r}: give one, or --sigmas and --validation")
        return sigma
    if _VALIDATION.value is None:
        raise UserError("--validation and --sigma are missing: σ comes from one of them")
    # Goodfellow et al. 2014.
    return np.logspace(-1, 0, 10) if _SIGMAS.value is None else _numbers(_SIGMAS)


def _score(points, samples, sigmas):
    """Log-likelihoods f64[S, T], and the share of products that was multiplied out.

    The samples are read a piece at a time.
    """
    import jax  # here, so that a mistake is answered at once

    from aae_jax import parzen, processes

    processes.check_devices()
    if parzen.products_hold(_floats(points, np.float32), sigmas):
        return _score_as(np.float32, points, samples, sigmas)
    with jax.enable_x64(True):
        return _score_as(np.float64, points, samples, sigmas)


def _score_as(dtype, points, samples, sigmas):
    import jax
    import jax.numpy as jnp

    from aae_jax import parzen

    x, sigmas = jnp.asarray(_floats(points, dtype)), jnp.asarray(sigmas, dtype)
    method = parzen.choose_method(x, sigmas, len(samples))
    bound = None
    sums: Any
    if method.screened:
        bound = parzen.make_bound(x, sigmas, len(samples))
        sums = parzen.start_screened(bound)
    else:
        sums = parzen.start(x, sigmas, differences=method.differences)
    for start in range(0, len(samples), _PIECE):
        piece = jnp.asarray(_floats(samples[start : start + _PIECE], dtype))
        # Waiting keeps the pieces that are read ahead from filling the memory.
        if bound is None:
            sums = parzen.add_samples(sums, x, piece, sigmas, method.columns, method.bf16_split)
        else:
            sums = parzen.add_screened_samples(sums, piece, bound)
        jax.block_until_ready(sums)
    share = 1.0
    if bound is not None:
        share, sums = parzen.multiplied_share(sums), parzen.in_order(sums, bound)
    return np.asarray(parzen.finish(sums, x, len(samples), sigmas), np.float64), share


def report() -> list[str]:
    """Checks the flags and the files, scores, and returns the lines to print.

    Raises:
        UserError: anything that the user can put right, in one line.
    """
    sigmas = _grid()
    read = (_SAMPLES, _TEST) if _SIGMA.value is not None else (_SAMPLES, _TEST, _VALIDATION)
    found = _rows({flag.name: _load(flag) for flag in read})
    for flag in read:
        _check_values(flag, found[flag.name])
    samples, test = found["samples"], found["test"]
    sigma, how = sigmas[0], "given"
    if "validation" in found:
        means = _score(found["validation"], samples, sigmas)[0].mean(axis=1)
        best = int(means.argmax())
        sigma, how = sigmas[best], f"the best of {len(sigmas)} on validation data"
        if len(sigmas) > 1 and sigma in (sigmas.min(), sigmas.max()):
            print(
                f"warning: σ = {sigma:.4g} lies on the edge of the grid: try others with --sigmas",
                file=sys.stderr,
            )
    (scores,), share = _score(test, samples, [sigma])
    lines = [f"sigma           {sigma:.5g}  ({how})"]
    if "validation" in found:
        lines.append(f"validation      {means[best]:.2f} nats  ({len(found['validation'])} points)")
    mean, error = scores.mean(), scores.std() / np.sqrt(len(scores))
    return [
        *lines,
        f"log-likelihood  {mean:.2f} ± {error:.2f} nats  (± standard deviation over points / √T)",
        f"samples         {len(samples)}",
        f"test points     {len(test)}",
        f"dimensions      {test.shape[1]}",
        f"multiplied      {100 * share:.2g} %  (of test points × samples; the others are too far to count)",
    ]


def _parse_flags(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(error)


def _fail(message):
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)


def main(argv: list[str]) -> None:
    """Prints σ and the score; exits with 2 after a mistake, which is one line."""
    if len(argv) > 1:
        _fail(f"{argv[1]!r} is not a flag: write --samples=FILE --test=FILE --validation=FILE")
    logging.set_verbosity(logging.ERROR)  # JAX narrates
    try:
        print("\n".join(report()))
    except UserError as error:
        _fail(error)


if __name__ == "__main__":
    streams.protect()
    app.run(main, flags_parser=_parse_flags)
