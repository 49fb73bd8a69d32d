"""Table 1, MNIST: the rows that are trained here, by their authors' recipes.

python launch.py --config=experiments/table1.py:aae            # the paper's: experiments/mnist.py
python launch.py --config=experiments/table1.py:gan            # Goodfellow et al. 2014
python launch.py --config=experiments/table1.py:gmmn           # Li, Swersky, Zemel 2015
python launch.py --config=experiments/table1.py:gmmn_pixels    # the same without an autoencoder
"""

import math

from experiments import default, mnist

VARIANTS = ("aae", "gan", "gmmn", "gmmn_pixels", "autoencoder")
SIGMAS = tuple(round(0.1 + 0.005 * i, 3) for i in range(41))
_GMMN = "aae_jax.algorithms.gmmn"


def get_config(row="aae"):
    """`experiments/default.py` as the authors of a row have it."""
    default.check_variant(row, VARIANTS)
    if row == "aae":
        return mnist.get_config()
    config = default.get_config()
    config.evaluation.sigmas = SIGMAS
    {
        "gan": _use_gan,
        "gmmn": _use_gmmn,
        "gmmn_pixels": _use_gmmn_pixels,
        "autoencoder": _use_autoencoder,
    }[row](config)
    return config


def _use_gan(config):
    config.algorithm = "gan"
    config.model.decoder = "aae_jax.algorithms.gan:generator"
    config.model.decoder_hidden = (1200, 1200)
    config.model.discriminator = "aae_jax.algorithms.gan:discriminator"
    config.model.discriminator_hidden = (240, 240)
    config.model.code_dim = 100
    config.prior.name = "uniform"
    config.prior.radius = math.sqrt(3)
    config.train.num_steps = 125_000
    default.change_optimizer(
        config,
        "game",
        name="sgd",
        learning_rate=0.1,
        schedule="exponential",
        decay=1.000004,
        floor=1e-5,
        momentum_steps=(500, 125_000),
        momentum_values=(0.5, 0.7),
    )


def _use_moment_matching(config):
    config.model.code_dim = 10
    config.prior.name = "uniform"
    config.prior.radius = 1.0
    config.train.batch_size = 1_000
    config.train.num_steps = 40_000
    default.change_optimizer(
        config,
        "mmd",
        name="sgd",
        learning_rate=2.0,
        schedule="piecewise",
        boundaries=(10_000,),
        factors=(0.1,),
        momentum_steps=(9_999, 10_000),
        momentum_values=(0.9, 0.99),
    )


def _use_gmmn(config):
    config.algorithm = "gmmn_autoencoder"
    config.start_from = "experiments/table1.py:autoencoder"
    _use_sigmoid_autoencoder(config)
    _use_moment_matching(config)


def _use_gmmn_pixels(config):
    config.algorithm = "gmmn"
    config.model.decoder = f"{_GMMN}:generator"
    config.model.decoder_hidden = (64, 256, 256, 1024)
    _use_moment_matching(config)


def _use_sigmoid_autoencoder(config):
    config.model.encoder = f"{_GMMN}:sigmoid_encoder"
    config.model.decoder = f"{_GMMN}:sigmoid_decoder"
    config.model.encoder_hidden = config.model.decoder_hidden = (1024,)


def _use_autoencoder(config):
    config.algorithm = "autoencoder"
    _use_sigmoid_autoencoder(config)
    config.model.code_dim = 32
    config.train.num_steps = 9_000
