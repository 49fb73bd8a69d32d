"""The paper's pictures: each function draws one from a trained state and what is `Given`.

All devices that hold the state take part: `parallel.by_rows`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from aae_jax.parallel import by_rows
from aae_jax.priors import sample_prior, swiss_roll_axis
from aae_jax.train_state import (
    TrainState,
    chain_starts,
    classify,
    decode,
    embed,
    encode,
    generate,
    reconstruct,
    to_unit,
)

_BLOCK = 10_000  # training images searched at a time
_GAP = 1  # pixels between two images of a grid
_WIDEST = 8  # the largest width of an image, in units of its height
_LARGEST = 100  # inches a side: matplotlib saves fewer than 2^16 pixels
_MOST_MARGINALS = 64  # dimensions of the code that are shown
_MOST_LABELS = 48  # in a legend
_FEW = 30  # points of a curve: fewer are marked


class Given(NamedTuple):
    """What a figure may show in addition to the state."""

    train_images: Any  # [N, H, W, C], the training images; may be lazy
    test: dict[str, np.ndarray]  # {"image": [N, H, W, C], "label": i32[N]}, hold-out images
    metrics: list[dict[str, Any]]  # the lines of metrics.jsonl
    key: jax.Array  # for random draws


def samples(state: TrainState, given: Given, rows: int = 8, columns: int = 8) -> Figure:
    """Fig. 6: samples of the model; the last column holds the training image nearest, in pixel-wise
    Euclidean distance, to the sample in the second-to-last column.

    Args:
        state: a trained state.
        given: training images, and a key.
        rows: of the grid.
        columns: of samples; one more shows the training images.
    """
    condition = _conditions(state, given, rows * columns)
    start = chain_starts(state, given.train_images)
    draw = jax.jit(generate, static_argnums=2)
    drawn = np.asarray(draw(state, given.key, rows * columns, condition=condition, start=start))
    drawn = drawn.reshape(rows, columns, *state.spec.image_shape)
    nearest = _nearest(state, drawn[:, -1], given.train_images)
    left, right = _tile(drawn), _tile(nearest[:, None])
    figure, axes = _new_figure(columns + 2, rows, state.spec)
    _show(axes, np.concatenate([left, right], axis=1))
    axes.axvline(left.shape[1] + _GAP / 2 - 0.5, color="tab:red", linewidth=2)
    axes.set_title("samples; right of the line: nearest training image", fontsize=9)
    return figure


def reconstructions(state: TrainState, given: Given, rows: int = 5, columns: int = 6) -> Figure:
    """Hold-out images, each with its reconstruction to the right.

    Args:
        state: a trained state.
        given: test images, and a key for the posterior.
        rows, columns: of pairs; fewer if there are fewer images.
    """
    test = given.test
    columns = min(columns, len(test["image"]))
    rows = min(rows, len(test["image"]) // columns)
    images: Any = test["image"][: rows * columns]
    label: Any = test["label"][: rows * columns]
    label = label if state.spec.model.label_in_decoder else None
    condition: Any = None
    if state.spec.model.condition_in_decoder:
        condition = test["condition"][: rows * columns]
    reconstructed = by_rows(_reconstruct, state, (images, label, condition), given.key)
    pairs = np.concatenate([to_unit(jnp.asarray(images)), reconstructed], axis=2)
    figure, axes = _new_figure(2 * columns, rows, state.spec)
    _show(axes, _tile(pairs.reshape(rows, columns, *pairs.shape[1:])))
    axes.set_title("hold-out images, each with its reconstruction to the right", fontsize=9)
    return figure


def _reconstruct(state, images, label, condition, key):
    return reconstruct(state, images, label, key, condition)


def _conditions(state, given, num_rows):
    """Conditions of random hold-out examples, if the decoder takes conditions."""
    if not state.spec.model.condition_in_decoder:
        return None
    own = given.test["condition"]
    # Not 1, which draws the labels of the samples.
    rows = jax.random.randint(jax.random.fold_in(given.key, 3), (num_rows,), 0, len(own))
    return own[np.asarray(rows)]


def code_marginals(state: TrainState, given: Given) -> Figure:
    """Histograms of the codes of hold-out images over samples of the prior, for each dimension.

    Only the first 64 dimensions are shown.
    """
    z = by_rows(encode, state, (given.test["image"],), given.key)
    std = z.std(axis=0)
    prior = np.asarray(sample_prior(state.spec, given.key, 100_000).z)
    dim = min(z.shape[1], _MOST_MARGINALS)
    columns = min(dim, 4)
    rows = -(-dim // columns)
    figure = Figure(figsize=(2.4 * columns, 1.9 * rows + 0.5), layout="constrained")
    limit = np.abs(prior).max()
    # Codes beyond the samples of the prior are counted in the outermost bins.
    z = np.clip(z, -limit, limit)
    bins = np.linspace(-limit, limit, int(np.clip(2 * np.sqrt(len(z)), 20, 60)) + 1)
    for index, axes in enumerate(np.ravel(figure.subplots(rows, columns, sharey=True))):
        if index >= dim:
            axes.set_axis_off()
            continue
        axes.hist(prior[:, index], bins, density=True, color="0.8", label="prior p(z)")
        axes.hist(
            z[:, index], bins, density=True, histtype="step", color="tab:blue", label="codes q(z)"
        )
        axes.set_title(f"dimension {index + 1}: std {std[index]:.2f}", fontsize=9)
        axes.tick_params(labelsize=9)
        axes.set_yticks([])
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=9, ncols=2 if columns > 1 else 1, loc="outside upper center")
    return figure


def training_curves(state: TrainState, given: Given) -> Figure:
    """Losses, the discriminator's accuracies, the moments of codes and prior, and further metrics.

    Metrics that the table below does not name are grouped by their first word.
    """
    del state
    metrics = given.metrics
    steps = [line["step"] for line in metrics]
    groups = {
        "reconstruction loss": ["loss/reconstruction"],
        "adversarial losses": ["loss/discriminator", "loss/generator"],
        "discriminator's accuracy": [
            "discriminator/accuracy_on_prior", "discriminator/accuracy_on_codes",
        ],
        "variational bound on −log p(x), nats": ["loss/elbo", "elbo/reconstruction"],
        "the bound's other terms, nats": ["elbo/entropy", "elbo/cross_entropy"],
        "standard deviation": ["code/std", "prior/std"],
        "kurtosis": ["code/kurtosis", "prior/kurtosis"],
        "mean": ["code/mean", "prior/mean"],
    }  # fmt: skip
    groups = {title: [n for n in names if n in metrics[0]] for title, names in groups.items()}
    named = {name for names in groups.values() for name in names}
    for name in metrics[0]:
        if name not in named | {"step", "seconds", "by_seed"}:
            groups.setdefault(name.partition("/")[0], []).append(name)
    groups = {title: names for title, names in groups.items() if names}
    rows = -(-len(groups) // 3)
    figure = Figure(figsize=(9, 3 * rows), layout="constrained")
    every = np.ravel(figure.subplots(rows, 3))
    # A line of one point would not be seen.
    style = {"linewidth": 1, "marker": "o" if len(steps) < _FEW else "", "markersize": 3}
    for axes, (title, names) in zip(every, groups.items()):
        for name in names:
            axes.plot(steps, [line[name] for line in metrics], label=name, **style)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("training step", fontsize=8)
        # Below the axes, where it hides no line.
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    for axes in every[len(groups) :]:
        axes.set_axis_off()
    return figure


def codes(state: TrainState, given: Given) -> Figure:
    """Figs 2a–2d, 4a, 4c: 2-D codes of hold-out images coloured by label; the prior beside them."""
    z = by_rows(encode, state, (given.test["image"],), given.key)
    label = np.asarray(given.test["label"])
    spec = state.spec
    drawn = label if spec.model.label_in_discriminator else None
    prior_z = np.asarray(sample_prior(spec, given.key, len(z), drawn).z)
    extent = np.abs(prior_z).max()
    # Codes farther than twice the prior's extent would shrink all others: they are only counted.
    limit = 1.05 * min(max(extent, np.abs(z).max()), 2 * extent)
    outside = int((np.abs(z) > limit).any(axis=1).sum())
    titles = (
        f"codes of hold-out images{f' ({outside} outside)' if outside else ''}",
        "samples of the prior",
    )
    by_label = _colours_of(spec.num_classes)
    size = _point_size(len(z))
    figure = Figure(figsize=(9, 5), layout="constrained")
    for axes, points, title in zip(figure.subplots(1, 2), (z, prior_z), titles):
        colours: dict[str, Any] = {"color": "0.5"}
        if points is z or drawn is not None:
            colours = {"c": label, "cmap": by_label, "vmin": -0.5, "vmax": spec.num_classes - 0.5}
        dots = axes.scatter(*points.T, s=size, linewidths=0, **colours)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        axes.set_title(title, fontsize=10)
        axes.tick_params(labelsize=9)
        if points is z:
            handles, labels = _legend_of(dots)
    legend = {"title": "label", "fontsize": 9, "title_fontsize": 9, "ncols": min(len(labels), 12)}
    figure.legend(handles, labels, loc="outside lower center", columnspacing=1, **legend)
    return figure


def _colours_of(num_classes):
    """A colormap with its own colour for each class, and grey for −1, unlabelled."""
    if num_classes <= 20:
        colours = colormaps["tab10" if num_classes <= 10 else "tab20"]
    else:
        colours = colormaps["gist_rainbow"].resampled(num_classes)
    return colours.with_extremes(under="0.5")


def _legend_of(dots):
    """Handles and names of the labels of a scatter plot; of too many labels, every n-th."""
    handles, names = dots.legend_elements(num=None)
    step = math.ceil(len(names) / _MOST_LABELS)
    return handles[::step], names[::step]


def _point_size(number):
    """The area of each of so many points, in points²; few points are larger."""
    return float(np.clip(20_000 / number, 2, 20))


def percentiles(state: TrainState, given: Given, size: int = 20) -> Figure:
    """Fig. 2e: the decoder over the percentiles of a 2-D Gaussian prior, from 5 % to 95 %."""
    del given
    levels = _normal_quantiles(size)
    z = state.spec.prior.std * _grid(levels, levels)
    figure, axes = _new_figure(size, size, state.spec, scale=0.32)
    _show(axes, _tile(_decode_grid(state, z)))
    axes.set_title("decoder over the Gaussian percentiles of both code dimensions", fontsize=9)
    return figure


def components(state: TrainState, given: Given, num_components: int = 3, size: int = 12) -> Figure:
    """Fig. 4b: the decoder over the Gaussian percentiles along the axes of mixture components.

    The radial axis points right, the tangential axis down.
    """
    del given
    prior = state.spec.prior
    num_components = min(num_components, state.spec.num_classes)
    levels = _normal_quantiles(size)
    local = _grid(levels, levels)
    figure = Figure(figsize=(3.2 * num_components, 3.5))
    for index, axes in enumerate(np.ravel(figure.subplots(1, num_components))):
        along = prior.radius + prior.radial_std * local[..., 0]
        across = prior.tangential_std * local[..., 1]
        angle = 2 * np.pi * index / state.spec.num_classes
        z = np.stack(
            [
                along * np.cos(angle) - across * np.sin(angle),
                along * np.sin(angle) + across * np.cos(angle),
            ],
            axis=-1,
        )
        axes.set_axis_off()
        _show(axes, _tile(_decode_grid(state, z)))
        axes.set_title(f"component {index}", fontsize=9)
    figure.tight_layout()
    return figure


def roll(state: TrainState, given: Given, columns: int = 20) -> Figure:
    """Fig. 4d: a walk along the swiss roll's axis, read row by row; row i is the i-th tenth."""
    del given
    rows = state.spec.num_classes
    u = (np.arange(rows * columns) + 0.5) / (rows * columns)
    z = np.asarray(swiss_roll_axis(state.spec, jnp.asarray(u, jnp.float32)))
    figure, axes = _new_figure(columns, rows, state.spec, scale=0.4)
    _show(axes, _tile(_decode_grid(state, z.reshape(rows, columns, 2))))
    axes.set_title("walk along the axis of the swiss roll, row by row from its centre", fontsize=9)
    return figure


def style(state: TrainState, given: Given, rows: int = 10) -> Figure:
    """Fig. 5: each row one code drawn from the prior, each column one label.

    If the discriminator took labels too, each code lies in the component of its label, at the same
    place along a row.
    """
    spec = state.spec
    figure, axes = _new_figure(spec.num_classes, rows, spec)
    if spec.model.label_in_discriminator and spec.prior.has_components:
        labels = range(spec.num_classes)
        z = np.stack([sample_prior(spec, given.key, rows, label).z for label in labels], axis=1)
    else:
        z = np.asarray(sample_prior(spec, given.key, rows).z)
    _show(axes, _tile(_style_grid(state, z)))
    axes.set_title("each row one code, each column one label", fontsize=9)
    return figure


def classes(state: TrainState, given: Given, columns: int = 8) -> Figure:
    """A row for each class or cluster: its image with style 0, styles of the prior, test images.

    Args:
        state: a trained state whose algorithm classifies.
        given: test images, and a key.
        columns: of styles, the same in all rows, and of test images, the first of each class.
    """
    spec = state.spec
    num_labels = spec.num_labels
    drawn = np.asarray(sample_prior(spec, given.key, columns).z)
    z = np.concatenate([np.zeros_like(drawn[:1]), drawn])
    styles = by_rows(
        decode, state, (np.tile(z, (num_labels, 1)), np.repeat(np.arange(num_labels), len(z)))
    ).reshape(num_labels, len(z), *spec.image_shape)
    p = by_rows(classify, state, (given.test["image"],))
    in_class, images = p.argmax(axis=1), np.ones((num_labels, columns, *spec.image_shape))
    for index in range(num_labels):
        rows = np.flatnonzero(in_class == index)[:columns]
        images[index, : len(rows)] = to_unit(jnp.asarray(given.test["image"][rows]))
    parts = [_tile(part) for part in (styles[:, :1], styles[:, 1:], images)]
    figure, axes = _new_figure(2 * columns + 1, num_labels, spec)
    _show(axes, np.concatenate(parts, axis=1))
    for end in np.cumsum([part.shape[1] for part in parts])[:2]:
        axes.axvline(end + _GAP / 2 - 0.5, color="tab:red", linewidth=2)
    axes.set_title("style 0, styles of the prior, test images; each row one class", fontsize=9)
    return figure


def map_of_classes(state: TrainState, given: Given) -> Figure:
    """Test images on a 2-D map, coloured by label, and the centres of classes or clusters.

    Args:
        state: a trained state whose algorithm has a map.
        given: test images.
    """
    in_class = by_rows(classify, state, (given.test["image"],)).argmax(axis=1)
    places = by_rows(embed, state, (given.test["image"],))
    label, num_classes = np.asarray(given.test["label"]), state.spec.num_classes
    by_label = _colours_of(num_classes)
    figure = Figure(figsize=(6, 5.4))
    axes = figure.subplots()
    colours: dict[str, Any] = {"cmap": by_label, "vmin": -0.5, "vmax": num_classes - 0.5}
    size = _point_size(len(places))
    dots = axes.scatter(places[:, 0], places[:, 1], s=size, linewidths=0, c=label, **colours)
    centres = np.array([places[in_class == index].mean(axis=0) for index in np.unique(in_class)])
    axes.plot(*centres.T, "x", color="black", markersize=6)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=9)
    handles, names = _legend_of(dots)
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    beside["ncols"] = 1 if len(names) <= 24 else 2
    axes.legend(handles, names, fontsize=9, title="label", title_fontsize=9, **beside)
    axes.set_title("hold-out images by label; crosses: centres of the classes", fontsize=9)
    figure.tight_layout()
    return figure


def walk(state: TrainState, given: Given, rows: int = 5, stops: int = 6, frames: int = 12) -> list:
    """The videos of sections 3.2 and 4: a closed walk through the codes.

    Between draws from the prior the code moves on a great circle, so that its length stays that of
    a draw. With labels in the decoder, each row is one walk and each column a label (Fig. 5).
    Without labels, each image has its own walk (Fig. 6).

    Args:
        state: a trained state with a Gaussian prior.
        given: a key.
        rows: of the grid; without labels the grid has as many columns.
        stops: draws that each walk passes.
        frames: from one stop to the next.

    Returns:
        Arrays uint8[height, width, C], one per frame.
    """
    labelled = state.spec.model.label_in_decoder
    num_walks = rows if labelled else rows * rows
    ends = np.asarray(sample_prior(state.spec, given.key, stops * num_walks).z)
    ends = ends.reshape(stops, num_walks, -1)
    pictures = []
    for stop in range(stops):
        for step in range(frames):
            z = _slerp(ends[stop], ends[(stop + 1) % stops], step / frames)
            if labelled:
                grid = _style_grid(state, z)
            else:
                grid = _decode_grid(state, z.reshape(rows, rows, -1))
            pictures.append(np.asarray(255 * _tile(grid)).round().astype(np.uint8))
    return pictures


def _normal_quantiles(size):
    """Standard normal quantiles at `size` levels from 5 % to 95 %."""
    return np.asarray(jax.scipy.stats.norm.ppf(jnp.linspace(0.05, 0.95, size)))


def _grid(horizontal, vertical):
    """Points [rows, columns, 2] of a grid; the second coordinate grows upwards."""
    return np.stack(np.meshgrid(horizontal, vertical[::-1]), axis=-1)


def _decode_grid(state, z):
    """Images [rows, columns, H, W, C] of codes [rows, columns, D]."""
    rows, columns, dim = z.shape
    images = by_rows(decode, state, (z.reshape(-1, dim).astype(np.float32),))
    return images.reshape(rows, columns, *state.spec.image_shape)


def _style_grid(state, z):
    """Images [N, K, H, W, C] of codes [N, D], or [N, K, D], under every label."""
    num_classes = state.spec.num_classes
    label = np.tile(np.arange(num_classes), len(z))
    z_of_label = z.reshape(-1, z.shape[-1]) if z.ndim == 3 else np.repeat(z, num_classes, axis=0)
    images = by_rows(decode, state, (z_of_label, label))
    return images.reshape(len(z), num_classes, *state.spec.image_shape)


def _slerp(start, end, share):
    """Points a share of the way from start to end [N, D], on great circles."""
    lengths = [np.linalg.norm(v, axis=1, keepdims=True) for v in (start, end)]
    cosine = (start / lengths[0] * end / lengths[1]).sum(axis=1, keepdims=True)
    angle = np.arccos(np.clip(cosine, -1, 1))
    direction = (
        np.sin((1 - share) * angle) * start / lengths[0] + np.sin(share * angle) * end / lengths[1]
    ) / np.maximum(np.sin(angle), 1e-6)
    return ((1 - share) * lengths[0] + share * lengths[1]) * direction


def _nearest(state, images, train_images):
    """The nearest training image to each image, or its mirror image if the model learnt that too.

    The training images may be lazy.
    """
    images = jax.device_put(images.reshape(len(images), -1), state.step.sharding)
    best = np.full(len(images), np.inf)
    nearest = np.zeros((len(images), *state.spec.image_shape), np.float32)
    for start in range(0, len(train_images), _BLOCK):
        block = train_images[start : start + _BLOCK]
        for seen in (block, block[:, :, ::-1]) if state.spec.train.mirror else (block,):
            found = by_rows(_offsets, images, (seen,))
            closer = found.min(axis=0) < best
            nearest[closer] = to_unit(jnp.asarray(seen[found.argmin(axis=0)[closer]]))
            best = np.minimum(best, found.min(axis=0))
    return nearest


def _offsets(images, block):
    """Squared distances [B, N] of a block to images [N, P], minus each image's squared norm."""
    block = to_unit(block).reshape(len(block), -1)
    product = jnp.matmul(block, images.T, precision=jax.lax.Precision.HIGHEST)
    return (block**2).sum(axis=1, keepdims=True) - 2 * product


def _tile(images):
    """Images [rows, columns, H, W, C] as one picture with white lines between them.

    C is 1 for grey and 3 for RGB. For any other C, an image is shown as its channels in grey, side
    by side.
    """
    images = np.clip(images, 0, 1)
    rows, columns, height, width, channels = images.shape
    if channels not in (1, 3):
        images = np.moveaxis(images, -1, 3).reshape(rows, columns, height, channels * width, 1)
    gap = ((0, 0), (0, 0), (_GAP, 0), (_GAP, 0), (0, 0))
    padded = np.pad(images, gap, constant_values=1.0)
    return padded.transpose(0, 2, 1, 3, 4).reshape(
        rows * padded.shape[2], columns * padded.shape[3], padded.shape[4]
    )


def _new_figure(columns, rows, spec, scale=0.55):
    """A figure and axes for a grid of images, each `scale` inches high."""
    height, width, channels = spec.image_shape
    wide = width / height * (1 if channels in (1, 3) else channels)
    figure = Figure(
        figsize=(
            min(scale * columns * min(wide, _WIDEST) + 0.1, _LARGEST),
            min(scale * rows + 0.4, _LARGEST),
        )
    )
    axes = figure.subplots()
    axes.set_axis_off()
    return figure, axes


def _show(axes, grid):
    """Shows a picture with pixels in [0, 1]; one channel is grey, with 1 as white, as for MNIST."""
    grey = grid.shape[-1] == 1
    axes.imshow(
        grid[..., 0] if grey else grid, cmap="gray", vmin=0, vmax=1, interpolation="nearest"
    )
