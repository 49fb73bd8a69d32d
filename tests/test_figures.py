"""What the pictures are made of."""

import jax
import numpy as np
from matplotlib.image import imread
from small import SHAPE, make_dataset, make_spec

import aae_jax as aae
from aae_jax import figures


def test_nearest_is_the_nearest_in_euclidean_distance():
    train = np.asarray(make_dataset(50)["image"])
    images = np.random.default_rng(3).uniform(size=(7, *SHAPE)).astype(np.float32)
    unit = train.astype(np.float64) / 255
    squared = ((images[:, None] - unit[None]) ** 2).sum(axis=(2, 3, 4))
    np.testing.assert_allclose(figures._nearest(images, train), unit[squared.argmin(axis=1)], atol=1e-6)


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


def test_every_figure_is_drawn(tmp_path):
    state = aae.create_train_state(make_spec(), jax.random.key(0))
    images = np.asarray(make_dataset(40)["image"])
    names = (
        "loss/reconstruction loss/discriminator loss/generator discriminator/accuracy_on_prior "
        "discriminator/accuracy_on_codes code/mean code/std code/kurtosis prior/mean prior/std "
        "prior/kurtosis"
    ).split()
    metrics = [{"step": step, **dict.fromkeys(names, 1.0)} for step in (10, 20)]
    drawn = {
        "samples": figures.samples(state, images, jax.random.key(0)),
        "reconstructions": figures.reconstructions(state, images),
        "code_marginals": figures.code_marginals(state, images, jax.random.key(0)),
        "training_curves": figures.training_curves(metrics),
    }
    for name, figure in drawn.items():
        path = tmp_path / "figures" / f"{name}.png"
        figures.save(figure, str(path))
        picture = imread(path)
        assert picture.ndim == 3 and picture[..., :3].std() > 0.01
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(f"{name}.png" for name in drawn)
