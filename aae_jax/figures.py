"""The paper's pictures. Each function draws one figure; `save` writes it as a PNG."""

import os

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from aae_jax.priors import sample_prior
from aae_jax.train_state import TrainState, encode, generate, reconstruct, to_unit

_GAP = 1  # pixels between two images of a grid


def save(figure: Figure, path: str) -> None:
    """Writes a PNG by one rename, so that no half-written picture is ever seen."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    figure.savefig(path + ".part", format="png", dpi=150, bbox_inches="tight")
    os.replace(path + ".part", path)


def samples(
    state: TrainState, train_images: np.ndarray, key: jax.Array, rows: int = 8, columns: int = 8
) -> Figure:
    """Fig. 6: samples of the model; the last column holds the training image nearest, in pixel-wise
    Euclidean distance, to the sample in the second-to-last column.

    Args:
        state: a trained state.
        train_images: [N, H, W, C], those that the model was trained on.
        key: a PRNG key.
        rows: of the grid.
        columns: of samples, beside the last.
    """
    drawn = np.asarray(generate(state, key, rows * columns)).reshape(
        rows, columns, *state.spec.image_shape
    )
    nearest = _nearest(drawn[:, -1], train_images)
    figure, axes = _new_figure(columns + 2, rows)
    grid = np.concatenate([_tile(drawn), _tile(nearest[:, None])], axis=1)
    _show(axes, grid)
    _, width, _ = state.spec.image_shape
    axes.axvline(columns * (width + _GAP) + _GAP / 2 - 0.5, color="tab:red", linewidth=2)
    axes.set_title("samples; right of the line: nearest training image", fontsize=9)
    return figure


def reconstructions(state: TrainState, images: np.ndarray, rows: int = 5, columns: int = 6) -> Figure:
    """Hold-out images, each with its reconstruction to the right.

    Args:
        state: a trained state.
        images: [N, H, W, C], at least rows · columns of them.
    """
    images = jnp.asarray(images[: rows * columns])
    pairs = np.stack([to_unit(images), reconstruct(state, images)], axis=1)
    figure, axes = _new_figure(2 * columns, rows)
    _show(axes, _tile(pairs.reshape(rows, 2 * columns, *state.spec.image_shape)))
    axes.set_title("hold-out images, each with its reconstruction to the right", fontsize=9)
    return figure


def code_marginals(state: TrainState, images: np.ndarray, key: jax.Array) -> Figure:
    """Histogram of each dimension of the codes of hold-out images, over samples of the prior."""
    z = np.asarray(encode(state, jnp.asarray(images)))
    prior = np.asarray(sample_prior(state.spec, key, 100_000).z)
    dim = z.shape[1]
    columns = min(dim, 4)
    rows = -(-dim // columns)
    figure = Figure(figsize=(2.4 * columns, 1.8 * rows + 0.5))
    limit = np.abs(prior).max()
    bins = np.linspace(-limit, limit, 61)
    for index, axes in enumerate(np.ravel(figure.subplots(rows, columns, sharex=True, sharey=True))):
        if index >= dim:
            axes.set_axis_off()
            continue
        axes.hist(prior[:, index], bins, density=True, color="0.8", label="prior p(z)")
        axes.hist(
            z[:, index], bins, density=True, histtype="step", color="tab:blue", label="codes q(z)"
        )
        axes.set_title(f"dimension {index + 1}: std {z[:, index].std():.2f}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_yticks([])
    figure.axes[0].legend(fontsize=6, loc="upper left")
    figure.tight_layout()
    return figure


def training_curves(metrics: list[dict[str, float]]) -> Figure:
    """Losses, the discriminator's accuracies, and the code's moments against the prior's.

    Args:
        metrics: the lines of `metrics.jsonl`.
    """
    steps = [line["step"] for line in metrics]
    groups = {
        "reconstruction loss, ½ squared error": ["loss/reconstruction"],
        "adversarial losses": ["loss/discriminator", "loss/generator"],
        "discriminator's accuracy": [
            "discriminator/accuracy_on_prior", "discriminator/accuracy_on_codes",
        ],
        "standard deviation": ["code/std", "prior/std"],
        "kurtosis": ["code/kurtosis", "prior/kurtosis"],
        "mean": ["code/mean", "prior/mean"],
    }  # fmt: skip
    figure = Figure(figsize=(10, 5.5))
    for axes, (title, names) in zip(np.ravel(figure.subplots(2, 3)), groups.items()):
        for name in names:
            axes.plot(steps, [line[name] for line in metrics], linewidth=1, label=name)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.set_xlabel("training step", fontsize=7)
        axes.legend(fontsize=7)
    figure.tight_layout()
    return figure


def _nearest(images, train_images):
    """The training image nearest to each image."""

    @jax.jit
    def indices(images, train):
        images, train = (v.reshape(len(v), -1) for v in (images, to_unit(train)))
        product = jnp.matmul(images, train.T, precision=jax.lax.Precision.HIGHEST)
        return jnp.argmin((train**2).sum(axis=1) - 2 * product, axis=1)

    rows = np.asarray(indices(jnp.asarray(images), jnp.asarray(train_images)))
    return np.asarray(to_unit(jnp.asarray(train_images[rows])))


def _tile(images):
    """Images [rows, columns, H, W, C] as one picture with white lines between them."""
    rows, columns, _, _, channels = images.shape
    gap = ((0, 0), (0, 0), (_GAP, 0), (_GAP, 0), (0, 0))
    padded = np.pad(np.clip(images, 0, 1), gap, constant_values=1.0)
    return padded.transpose(0, 2, 1, 3, 4).reshape(
        rows * padded.shape[2], columns * padded.shape[3], channels
    )


def _new_figure(columns, rows):
    figure = Figure(figsize=(0.55 * columns + 0.1, 0.55 * rows + 0.4))
    axes = figure.subplots()
    axes.set_axis_off()
    return figure, axes


def _show(axes, grid):
    """A picture with pixels of [0, 1]; one channel is grey, white on black as MNIST is shown."""
    grey = grid.shape[-1] == 1
    axes.imshow(grid[..., 0] if grey else grid, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
