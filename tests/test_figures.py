"""What the pictures are made of."""

import os

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image
from small import SHAPE, make_dataset, make_spec

import aae_jax as aae
from aae_jax import experiment, figures, parallel


def test_nearest_is_the_nearest_in_euclidean_distance():
    train = np.asarray(make_dataset(50)["image"])
    images = np.random.default_rng(3).uniform(size=(7, *SHAPE)).astype(np.float32)
    unit = train.astype(np.float64) / 255
    squared = ((images[:, None] - unit[None]) ** 2).sum(axis=(2, 3, 4))
    state = aae.create_train_state(make_spec(), jax.random.key(0))
    for devices in (jax.devices()[:1], jax.devices()[:4]):  # 50 images do not divide over 4
        state = jax.device_put(state, parallel.replicated(parallel.make_mesh(devices)))
        found = figures._nearest(state, images, train)
        np.testing.assert_allclose(found, unit[squared.argmin(axis=1)], atol=1e-6)


def test_the_last_column_belongs_to_the_column_beside_it(monkeypatch):
    state = aae.create_train_state(make_spec(), jax.random.key(0))
    seen = {}
    tile = figures._tile
    monkeypatch.setattr(
        figures, "_tile", lambda images: seen.setdefault(len(seen), images) is None or tile(images)
    )
    train = np.asarray(make_dataset(50)["image"])
    figures.samples(state, train, jax.random.key(1), rows=4, columns=3)
    drawn, nearest = seen[0], seen[1]
    np.testing.assert_array_equal(nearest[:, 0], figures._nearest(state, drawn[:, -1], train))
    expected = aae.generate(state, jax.random.key(1), 12)
    np.testing.assert_allclose(drawn.reshape(expected.shape), expected, atol=1e-6)


def test_codes_beyond_the_prior_are_not_dropped():
    state = aae.create_train_state(make_spec(), jax.random.key(0))
    far = jax.tree.map(lambda v: 30 * v, state.params["encoder"]["Dense_1"])
    params = {**state.params, "encoder": {**state.params["encoder"], "Dense_1": far}}
    images = np.asarray(make_dataset(40)["image"])
    figure = figures.code_marginals(state.replace(params=params), images, jax.random.key(0))
    edges = figure.axes[0].patches[-1].get_xy()
    heights = edges[:, 1]
    # Most of the codes lie outside the prior's range: the outermost bins are the highest.
    assert heights.max() in (heights[1], heights[2], heights[-2], heights[-3])


def test_tiles_stand_in_row_major_order():
    images = np.arange(6).reshape(2, 3, 1, 1, 1) / 10 * np.ones(SHAPE)
    grid = figures._tile(images)
    height, width, _ = SHAPE
    assert grid.shape == (2 * (height + 1), 3 * (width + 1), 1)
    for row in range(2):
        for column in range(3):
            tile = grid[row * (height + 1) + 1 :, column * (width + 1) + 1 :][:height, :width]
            assert (tile == images[row, column]).all()
    assert (grid[0] == 1).all() and (grid[:, 0] == 1).all()


def drawn_of(state):
    """Every figure of the model, by file name, as `experiment` calls them."""
    test = {name: np.asarray(values) for name, values in make_dataset(40).items()}
    key = jax.random.key(0)
    names = (
        "loss/reconstruction loss/discriminator loss/generator discriminator/accuracy_on_prior "
        "discriminator/accuracy_on_codes code/mean code/std code/kurtosis prior/mean prior/std "
        "prior/kurtosis"
    ).split()
    metrics = [{"step": step, **dict.fromkeys(names, 1.0)} for step in (10, 20)]
    every = {
        "samples.png": lambda: figures.samples(state, test["image"], key),
        "reconstructions.png": lambda: figures.reconstructions(state, test, key),
        "code_marginals.png": lambda: figures.code_marginals(state, test["image"], key),
        "training_curves.png": lambda: figures.training_curves(metrics),
        "codes.png": lambda: figures.codes(state, test, key),
        "percentiles.png": lambda: figures.percentiles(state),
        "components.png": lambda: figures.components(state),
        "roll.png": lambda: figures.roll(state),
        "style.png": lambda: figures.style(state, key),
        "walk.gif": lambda: figures.walk(state, key, rows=2, stops=2, frames=2),
    }
    return {name: every[name]() for name in experiment.figure_files(state.spec)}


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
    state = aae.create_train_state(make_spec(model=model, prior=prior), jax.random.key(0))
    drawn = drawn_of(state)
    common = ["samples", "reconstructions", "code_marginals", "training_curves"]
    assert [file.split(".")[0] for file in drawn] == common + own
    for file, figure in drawn.items():
        path = str(tmp_path / "figures" / file)
        if file.endswith(".gif"):
            figures.save_animation(figure, path)
            with Image.open(path) as animation:
                assert animation.n_frames == 4
        else:
            figures.save(figure, path)
            assert imread(path)[..., :3].std() > 0.01
    assert sorted(os.listdir(tmp_path / "figures")) == sorted(drawn)


@pytest.mark.parametrize("name", ["gaussian", "style", "universal"])
def test_pictures_do_not_depend_on_the_number_of_devices(tmp_path, name):
    """To one of 255 grey levels; 64 samples divide over 4 devices, 30 reconstructions do not."""
    model, prior, _ = MODELS[name]
    state = aae.create_train_state(make_spec(model=model, prior=prior), jax.random.key(0))
    seen = []
    for count in (1, 4):
        mesh = parallel.make_mesh(jax.devices()[:count])
        drawn = drawn_of(jax.device_put(state, parallel.replicated(mesh)))
        pixels = {}
        for file, figure in drawn.items():
            if not file.endswith(".gif"):
                figures.save(figure, str(tmp_path / file))
                figure = [255 * imread(tmp_path / file)]
            pixels[file] = np.stack(figure).astype(float)
        seen.append(pixels)
    one, four = seen
    for file in one:
        np.testing.assert_allclose(four[file], one[file], rtol=0, atol=1.001, err_msg=file)


def test_components_follow_the_percentiles_of_the_mixture():
    """The centre of panel i is the mean of component i, and the axes are those of its covariance."""
    spec = make_spec(prior={"name": "gaussian_mixture", "radius": 3.0, "radial_std": 0.5})
    state = aae.create_train_state(spec, jax.random.key(0))
    seen = []
    original, figures._decode_grid = (
        figures._decode_grid,
        lambda state, z: seen.append(z) or original(state, z),
    )
    try:
        figures.components(state, num_components=2, size=3)
    finally:
        figures._decode_grid = original
    np.testing.assert_allclose(seen[0][1, 1], [3, 0], atol=1e-6)
    np.testing.assert_allclose(
        seen[0][1, 2], [3 + 0.5 * 1.6448536, 0], atol=1e-5
    )  # 95 % to the right
    angle = 2 * np.pi / 10
    np.testing.assert_allclose(seen[1][1, 1], [3 * np.cos(angle), 3 * np.sin(angle)], atol=1e-6)


def test_a_walk_keeps_the_length_of_the_codes_and_meets_its_ends():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 6, 4))
    np.testing.assert_allclose(figures._slerp(start, end, 0.0), start, atol=1e-6)
    np.testing.assert_allclose(figures._slerp(start, end, 1.0), end, atol=1e-6)
    lengths = np.linalg.norm(figures._slerp(start, end, 0.5), axis=1)
    expected = 0.5 * (np.linalg.norm(start, axis=1) + np.linalg.norm(end, axis=1))
    np.testing.assert_allclose(lengths, expected, rtol=1e-6)
