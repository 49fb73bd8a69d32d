"""The contents of the figures."""

import dataclasses
import functools
import os
import types
import warnings

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image
from small import SHAPE, make_dataset, make_spec, refused, start

import aae_jax as aae
from aae_jax import figures, parallel, pictures
from aae_jax.algorithms.semi_supervised import Options


def given_of(num_images=40, metrics=(), key=0):
    test = {name: np.asarray(values) for name, values in make_dataset(num_images).items()}
    return figures.Given(test["image"], test, list(metrics), jax.random.key(key))


def test_nearest_is_the_nearest_in_euclidean_distance():
    train = np.asarray(make_dataset(50)["image"])
    images = np.random.default_rng(3).uniform(size=(7, *SHAPE)).astype(np.float32)
    unit = train.astype(np.float64) / 255
    squared = ((images[:, None] - unit[None]) ** 2).sum(axis=(2, 3, 4))
    state = start(make_spec())
    for devices in (jax.devices()[:1], jax.devices()[:4]):  # 50 images do not divide over 4
        state = jax.device_put(state, parallel.replicated(parallel.make_mesh(devices)))
        found = pictures._nearest(state, images, train)
        np.testing.assert_allclose(found, unit[squared.argmin(axis=1)], atol=1e-6)
    unit = np.concatenate([unit, unit[:, :, ::-1]])
    squared = ((images[:, None] - unit[None]) ** 2).sum(axis=(2, 3, 4))
    assert 0 < (squared.argmin(axis=1) >= 50).sum() < 7
    found = pictures._nearest(start(make_spec(mirror=True)), images, train)
    np.testing.assert_allclose(found, unit[squared.argmin(axis=1)], atol=1e-6)


def test_the_last_column_belongs_to_the_column_beside_it(monkeypatch):
    state = start(make_spec())
    seen = {}
    tile = pictures._tile
    monkeypatch.setattr(
        pictures, "_tile", lambda images: seen.setdefault(len(seen), images) is None or tile(images)
    )
    given = given_of(50, key=1)
    pictures.samples(state, given, rows=4, columns=3)
    drawn, nearest = seen[0], seen[1]
    expected = pictures._nearest(state, drawn[:, -1], given.train_images)
    np.testing.assert_array_equal(nearest[:, 0], expected)
    expected = aae.generate(state, given.key, 12)
    np.testing.assert_allclose(drawn.reshape(expected.shape), expected, atol=1e-6)


def test_codes_beyond_the_prior_are_not_dropped():
    state = start(make_spec())
    far = jax.tree.map(lambda v: 30 * v, state.params["encoder"]["Dense_1"])
    params = {**state.params, "encoder": {**state.params["encoder"], "Dense_1": far}}
    figure = pictures.code_marginals(state.replace(params=params), given_of())
    edges = figure.axes[0].patches[-1].get_xy()
    heights = edges[:, 1]
    # Most of the codes lie outside the prior's range: the outermost bins are the highest.
    assert heights.max() in (heights[1], heights[2], heights[-2], heights[-3])


def test_tiles_stand_in_row_major_order():
    images = np.arange(6).reshape(2, 3, 1, 1, 1) / 10 * np.ones(SHAPE)
    grid = pictures._tile(images)
    height, width, _ = SHAPE
    assert grid.shape == (2 * (height + 1), 3 * (width + 1), 1)
    for row in range(2):
        for column in range(3):
            tile = grid[row * (height + 1) + 1 :, column * (width + 1) + 1 :][:height, :width]
            assert (tile == images[row, column]).all()
    assert (grid[0] == 1).all() and (grid[:, 0] == 1).all()


def test_channels_that_are_no_colours_stand_side_by_side():
    images = np.random.default_rng(0).uniform(size=(1, 2, 3, 4, 2))
    grid = pictures._tile(images)
    assert grid.shape == (4, 2 * 9, 1)
    for column in range(2):
        for channel in range(2):
            left = 9 * column + 1 + 4 * channel
            tile = grid[1:, left : left + 4, 0]
            np.testing.assert_array_equal(tile, images[0, column, ..., channel])
    assert pictures._tile(np.zeros((2, 2, 3, 4, 3))).shape == (8, 10, 3)


METRICS = (
    "loss/reconstruction loss/discriminator loss/generator discriminator/accuracy_on_prior "
    "discriminator/accuracy_on_codes code/mean code/std code/kurtosis prior/mean prior/std "
    "prior/kurtosis"
).split()


def lines_of(names):
    """Two lines of metrics.jsonl."""
    return [{"step": step, **dict.fromkeys(names, 1.0)} for step in (10, 20)]


MODELS = {
    "gaussian": ({}, {}, ["codes", "percentiles"]),
    "mixture": ({}, {"name": "gaussian_mixture"}, ["codes", "components"]),
    "roll": ({"label_in_discriminator": True}, {"name": "swiss_roll"}, ["codes", "roll"]),
    "style": ({"label_in_decoder": True, "code_dim": 5}, {}, ["style", "walk"]),
    "universal": ({"posterior": "universal", "code_dim": 3}, {}, ["walk"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_figure_of_every_model_is_drawn(tmp_path, name):
    model, prior, own = MODELS[name]
    state = start(make_spec(model=model, prior=prior))
    common = ["samples", "reconstructions", "code_marginals", "training_curves"]
    names = [f"{name}.gif" if name == "walk" else f"{name}.png" for name in common + own]
    directory = tmp_path / "figures"
    assert figures.missing(state.spec, directory) == names
    figures.draw_all(state, given_of(metrics=lines_of(METRICS)), directory)
    assert sorted(os.listdir(directory)) == sorted(names)
    assert figures.missing(state.spec, directory) == []
    for file in names:
        if file.endswith(".gif"):
            with Image.open(directory / file) as animation:
                assert animation.n_frames == 6 * 12
        else:
            assert imread(directory / file)[..., :3].std() > 0.01


@pytest.mark.parametrize("name", ["style", "universal"])
def test_pictures_do_not_depend_on_the_number_of_devices(tmp_path, name):
    """To one of 255 grey levels; 64 samples divide over 4 devices, 30 reconstructions do not."""
    model, prior, _ = MODELS[name]
    state = start(make_spec(model=model, prior=prior))
    drawings = {
        file: drawing
        for file, drawing in figures.drawings(state.spec).items()
        if file not in ("training_curves.png", "walk.gif")
    }
    drawings["walk.gif"] = figures.Drawing(
        functools.partial(pictures.walk, rows=2, stops=2, frames=2)
    )
    seen = []
    for count in (1, 4):
        mesh = parallel.make_mesh(jax.devices()[:count])
        there = jax.device_put(state, parallel.replicated(mesh))
        pixels = {}
        for file, drawing in drawings.items():
            figure = drawing.draw(there, given_of())
            if not file.endswith(".gif"):
                figures.save(figure, str(tmp_path / file))
                figure = [255 * imread(tmp_path / file)]
            pixels[file] = np.stack(figure).astype(float)
        seen.append(pixels)
    one, four = seen
    for file in one:
        np.testing.assert_allclose(four[file], one[file], rtol=0, atol=1.001, err_msg=file)


@pytest.mark.parametrize("image_shape", [(6, 5, 2), (6, 5, 4), (3, 8, 8), (2, 2, 100)], ids=str)
def test_any_number_of_channels_is_drawn(tmp_path, image_shape):
    state = start(
        make_spec(image_shape=image_shape, model={"label_in_decoder": True, "code_dim": 3})
    )
    test = {k: np.asarray(v) for k, v in make_dataset(40, image_shape=image_shape).items()}
    given = figures.Given(test["image"], test, lines_of(METRICS), jax.random.key(0))
    figures.draw_all(state, given, tmp_path)
    assert figures.missing(state.spec, tmp_path) == []
    assert {"samples.png", "reconstructions.png", "style.png", "walk.gif"} <= set(
        os.listdir(tmp_path)
    )


def test_unlabelled_images_and_few_classes_are_drawn(tmp_path):
    spec = make_spec(model={"label_in_discriminator": True}, prior={"name": "gaussian_mixture"})
    state = start(dataclasses.replace(spec, num_classes=1))
    given = given_of(metrics=lines_of(METRICS))
    given.test["label"] = np.full(40, -1, np.int32)
    figures.draw_all(state, given, tmp_path)
    assert figures.missing(state.spec, tmp_path) == []


def shown_in(legend):
    """The labels of a legend, and their colours."""
    labels = [
        float(text.get_text().strip("$").removeprefix(r"\mathdefault")[1:-1])
        for text in legend.texts
    ]
    return labels, [handle.get_color() for handle in legend.legend_handles]


@pytest.mark.parametrize("num_classes", [10, 20, 200])
@pytest.mark.parametrize("name", ["codes", "map_of_classes"])
def test_a_legend_names_labels_and_their_colours(tmp_path, name, num_classes):
    on_a_map = {"algorithm": "semi_supervised", "options": Options(as_map=True)}
    spec = make_spec(**({} if name == "codes" else on_a_map), batch_size=num_classes)
    state = start(dataclasses.replace(spec, num_classes=num_classes))
    given = given_of(num_classes)
    given.test["label"] = np.arange(num_classes, dtype=np.int32)
    figure = getattr(pictures, name)(state, given)
    with warnings.catch_warnings(action="error"):  # of a layout without room
        figure.savefig(tmp_path / "drawn.png")
    legend = figure.legends[0] if name == "codes" else figure.axes[0].get_legend()
    labels, colours = shown_in(legend)
    step = 1 if num_classes <= 48 else 5
    assert labels == list(range(0, num_classes, step))
    assert len(set(map(tuple, colours))) == len(labels)
    dots = figure.axes[0].collections[0]
    np.testing.assert_array_equal(dots.get_facecolors()[::step], colours)


def test_what_is_no_image_is_not_shown_as_one():
    """Figures of decoded codes are left out if the decoder takes a condition."""

    plain = {"code_dim": 2, "label_in_decoder": False, "condition_in_decoder": False}

    def shown(image_shape, **model):
        model = types.SimpleNamespace(**{**plain, **model})
        algorithm = make_spec().algorithm._replace(figures=tuple(figures.FIGURES))
        fields = {"image_shape": image_shape, "model": model, "prior": make_spec().prior}
        return list(figures.drawings(types.SimpleNamespace(algorithm=algorithm, **fields)))

    everywhere = ["code_marginals.png", "training_curves.png"]
    assert shown((20,)) == [*everywhere, "codes.png"]
    assert shown((20,), code_dim=5) == shown((20,), code_dim=5, label_in_decoder=True) == everywhere
    images = ["samples.png", "reconstructions.png", *everywhere]
    assert shown((8, 8, 1)) == [*images, "codes.png", "percentiles.png"]
    conditional = {"condition_in_decoder": True}
    assert shown((8, 8, 1), **conditional) == [*images, "codes.png"]
    assert shown((8, 8, 1), code_dim=5, **conditional) == images
    assert shown((8, 8, 1), code_dim=5, label_in_decoder=True, **conditional) == images


# Figures of an algorithm's own.


def broken(state, given):
    raise RuntimeError("of\nmine")


def histogram(state, given):
    """A histogram of the samples' pixels that uses all of `given`."""
    figure = Figure()
    images = [given.train_images, given.test["image"], aae.generate(state, given.key, 9)]
    figure.subplots().hist([np.ravel(image) for image in images])
    return figure


def test_figures_by_import_path_are_drawn(tmp_path):
    names = ("test_figures:histogram", "training_curves")
    algorithm = make_spec().algorithm._replace(figures=names)
    state = start(make_spec(algorithm=algorithm))
    assert figures.missing(state.spec, tmp_path) == ["histogram.png", "training_curves.png"]
    figures.draw_all(state, given_of(metrics=lines_of(METRICS)), tmp_path)
    assert imread(tmp_path / "histogram.png")[..., :3].std() > 0.01
    assert sorted(os.listdir(tmp_path)) == ["histogram.png", "training_curves.png"]


def test_a_figure_that_fails_is_one_line_and_the_others_are_drawn(tmp_path):
    names = (
        "test_figures:broken",
        "training_curves",
        "test_figures:lines_of",
        "test_figures:histogram",
    )
    state = start(make_spec(algorithm=make_spec().algorithm._replace(figures=names)))
    with refused(
        r"can't be drawn: broken.png \(RuntimeError: of mine\), lines_of.png \(TypeError.*done"
    ):
        figures.draw_all(state, given_of(metrics=lines_of(METRICS)), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["histogram.png", "training_curves.png"]
    assert figures.missing(state.spec, tmp_path) == ["broken.png", "lines_of.png"]


def test_figures_that_need_what_an_algorithm_has_not_are_left_out():
    algorithm = make_spec().algorithm
    for changes, left in (
        ({"encode": None}, ["samples", "training_curves", "percentiles"]),
        ({"decode": None}, ["samples", "code_marginals", "training_curves", "codes"]),
        ({"encode": None, "decode": None}, ["samples", "training_curves"]),
    ):
        spec = make_spec(algorithm=algorithm._replace(**changes))
        assert list(figures.drawings(spec)) == [f"{name}.png" for name in left]


@pytest.mark.parametrize(
    "name, match",
    [
        (
            "sampels",
            "^algorithm .* names the figure 'sampels': it must be one of samples, .*or 'package",
        ),
        ("test_figures:none", "^figures is 'test_figures:none', which can't be imported"),
        ("nowhere:f", "figures is 'nowhere:f'"),
    ],
)
def test_figures_that_do_not_exist_are_one_line(name, match):
    spec = make_spec(algorithm=make_spec().algorithm._replace(figures=("samples", name)))
    with refused(match):
        figures.drawings(spec)


def curves(names):
    """The axes of `training_curves`: title → labels, and the number of empty axes."""
    figure = pictures.training_curves(start(make_spec()), given_of(metrics=lines_of(names)))
    drawn = [axes for axes in figure.axes if axes.lines]
    for axes in drawn:
        for line in axes.lines:
            np.testing.assert_array_equal(line.get_xydata(), [[10, 1], [20, 1]])
    return {a.get_title(): [line.get_label() for line in a.lines] for a in drawn}


def test_curves_of_the_adversarial_autoencoder():
    assert curves(METRICS) == {
        "reconstruction loss": ["loss/reconstruction"],
        "adversarial losses": ["loss/discriminator", "loss/generator"],
        "discriminator's accuracy": METRICS[3:5],
        "mean": ["code/mean", "prior/mean"],
        "standard deviation": ["code/std", "prior/std"],
        "kurtosis": ["code/kurtosis", "prior/kurtosis"],
    }


@pytest.mark.parametrize("number", [1, 2, 5])
def test_curves_with_names_of_an_algorithms_own_are_all_drawn(number):
    """Six known groups, and one to five more: all are drawn."""
    own = [f"own{i}/{which}" for i in range(number) for which in ("one", "two")]
    found = curves([*METRICS, "loss/wake", *own])
    assert len(found) == 7 + number
    assert found["loss"] == ["loss/wake"]
    for i in range(number):
        assert found[f"own{i}"] == [f"own{i}/one", f"own{i}/two"]
    drawn = [label for labels in found.values() for label in labels]
    assert sorted(drawn) == sorted([*METRICS, "loss/wake", *own])


def test_components_follow_the_percentiles_of_the_mixture():
    """The centre of panel i is the mean of component i, and the axes are those of its covariance."""
    spec = make_spec(prior={"name": "gaussian_mixture", "radius": 3.0, "radial_std": 0.5})
    state = start(spec)
    seen = []
    original, pictures._decode_grid = (
        pictures._decode_grid,
        lambda state, z: seen.append(z) or original(state, z),
    )
    try:
        pictures.components(state, given_of(), num_components=2, size=3)
    finally:
        pictures._decode_grid = original
    np.testing.assert_allclose(seen[0][1, 1], [3, 0], atol=1e-6)
    np.testing.assert_allclose(
        seen[0][1, 2], [3 + 0.5 * 1.6448536, 0], atol=1e-5
    )  # 95 % to the right
    angle = 2 * np.pi / 10
    np.testing.assert_allclose(seen[1][1, 1], [3 * np.cos(angle), 3 * np.sin(angle)], atol=1e-6)


def test_a_walk_keeps_the_length_of_the_codes_and_meets_its_ends():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 6, 4))
    np.testing.assert_allclose(pictures._slerp(start, end, 0.0), start, atol=1e-6)
    np.testing.assert_allclose(pictures._slerp(start, end, 1.0), end, atol=1e-6)
    lengths = np.linalg.norm(pictures._slerp(start, end, 0.5), axis=1)
    expected = 0.5 * (np.linalg.norm(start, axis=1) + np.linalg.norm(end, axis=1))
    np.testing.assert_allclose(lengths, expected, rtol=1e-6)
