"""Every field that a config has, with the paper's choices for MNIST where it makes them.

The other configs start from here. On the command line any field can be overridden:
`--config.train.num_steps=100`.
"""

import numpy as np
from ml_collections import config_dict

# Finer than Goodfellow's grid, which has only 0.129, 0.167 and 0.215 between 0.1 and 0.25.
FINE_SIGMAS = tuple(round(0.1 + 0.005 * i, 3) for i in range(31))


def get_config() -> config_dict.ConfigDict:
    """The fields and their defaults."""
    config = config_dict.ConfigDict()
    config.seed = 0
    config.num_seeds = 1  # more: seeds seed, seed + 1, … trained in one program
    config.algorithm = "aae"  # or "vae"; "decoder" trains the decoder of another run alone
    config.start_from = config_dict.placeholder(str)  # of "decoder": the --workdir of that run

    config.data = config_dict.ConfigDict()
    # "digits", "mnist", "tfd", "files" (data.path), or a builder of tensorflow-datasets.
    config.data.name = "mnist"
    config.data.image_shape = (28, 28, 1)
    config.data.num_classes = 10
    config.data.path = config_dict.placeholder(str)  # an .npz, a .mat or a directory of images
    config.data.data_dir = config_dict.placeholder(str)  # prepared data; None: tfds's default
    config.data.manual_dir = config_dict.placeholder(str)  # the original files, to prepare offline
    # Of other builders; mnist, tfd and files have splits of their own: docs/data.md.
    config.data.train_split = "train[:90%]"
    config.data.validation_split = "train[90%:]"
    config.data.test_split = "test"
    config.data.fold = config_dict.placeholder(int)  # of tfd, 1 … 5; None: all five are scored
    config.data.drop_black = False  # of tfd: leave out its 130 black images
    config.data.num_labelled = config_dict.placeholder(int)  # training images; None: all
    config.data.labelled_visits = config_dict.placeholder(int)  # an epoch, of these; None: one
    config.data.standardise = False

    config.model = config_dict.ConfigDict()
    config.model.posterior = "deterministic"  # or "gaussian", "universal" (section 2)
    config.model.noise_dim = 100  # of η, where the posterior is universal
    config.model.code_dim = 8
    config.model.code_scale = config_dict.placeholder(float)  # of encoder outputs to z; None: 1
    config.model.encoder_hidden = (1000, 1000)
    config.model.decoder_hidden = (1000, 1000)
    config.model.discriminator_hidden = (1000, 1000)
    config.model.label_in_discriminator = False  # section 3.1, Fig. 3a
    config.model.label_in_decoder = False  # section 3.2, Fig. 3b
    config.model.output = "sigmoid"
    config.model.param_dtype = "float32"
    config.model.compute_dtype = "float32"

    config.prior = config_dict.ConfigDict()
    config.prior.name = "gaussian"  # or "gaussian_mixture", "swiss_roll", "user"
    config.prior.std = 5.0
    config.prior.radius = 1.0  # of the mixture's means, or of the roll
    config.prior.radial_std = 1.0  # of the mixture
    config.prior.tangential_std = 1.0  # of the mixture
    config.prior.turns = 2.0  # of the roll
    config.prior.function = config_dict.placeholder(str)  # of "user": "package.module:function"

    config.optimizer = config_dict.ConfigDict()
    config.optimizer.reconstruction = adam(learning_rate=1e-3, b1=0.9)
    config.optimizer.discriminator = adam(learning_rate=2e-4, b1=0.5)
    config.optimizer.generator = adam(learning_rate=2e-4, b1=0.5)

    config.train = config_dict.ConfigDict()
    config.train.num_steps = 5_000
    config.train.batch_size = 100
    config.train.input_noise = 0.0
    config.train.code_noise = config_dict.placeholder(float)  # of "decoder"
    config.train.average_decay = config_dict.placeholder(float)  # None: no average

    config.parallel = config_dict.ConfigDict()
    config.parallel.runner = "jit"  # or "pmap"
    config.parallel.num_devices = config_dict.placeholder(int)  # None: all that divide a batch

    config.run = config_dict.ConfigDict()
    config.run.steps_per_dispatch = 100  # then metrics are written and signals are heeded
    config.run.checkpoint_every = 1_000  # steps
    config.run.stream = config_dict.placeholder(bool)  # images from the host; None: if they must

    config.evaluation = config_dict.ConfigDict()
    config.evaluation.num_samples = 10_000
    config.evaluation.num_validation = 1_000  # images that choose σ
    # Goodfellow's grid.
    config.evaluation.sigmas = tuple(np.logspace(-1, 0, 10).tolist())
    return config


def adam(learning_rate: float, b1: float) -> config_dict.ConfigDict:
    """One phase's optimiser: Adam, its rate falling to zero by half a cosine."""
    optimizer = config_dict.ConfigDict()
    optimizer.name = "adam"
    optimizer.learning_rate = learning_rate
    optimizer.b1 = b1
    optimizer.b2 = 0.999
    optimizer.momentum = 0.0  # of "sgd"
    optimizer.schedule = "cosine"
    optimizer.floor = config_dict.placeholder(float)  # of "cosine", a share of the rate; None: 0
    optimizer.boundaries = ()  # of "piecewise", steps
    optimizer.factors = ()
    optimizer.clip_norm = config_dict.placeholder(float)  # of the phase's gradient; None: as it is
    return optimizer


def use_mixture(config: config_dict.ConfigDict) -> None:
    """Figs 2b, 2d, 4a: ten petals around the origin.

    The figures show elongated components that point outwards and touch at their inner ends, as
    means at radius 1.4 with stds 0.5 and 0.1 do.
    """
    config.prior.name = "gaussian_mixture"
    config.prior.radius = 1.4
    config.prior.radial_std = 0.5
    config.prior.tangential_std = 0.1


def use_swiss_roll(config: config_dict.ConfigDict) -> None:
    """Fig. 4c: two turns, with a Gaussian around the axis that leaves the turns apart."""
    config.prior.name = "swiss_roll"
    config.prior.radius = 3.0
    config.prior.turns = 2.0
    config.prior.std = 0.1


def use_adversarial_rates(config: config_dict.ConfigDict) -> None:
    """Adversarial rates five times the reconstruction's, where the match to the prior comes first.

    With the rates of the 8-D code the reconstruction lays out the classes first, and they then lock
    into petals that are not theirs, labels or not.
    """
    config.optimizer.reconstruction.learning_rate = 2e-4
    config.optimizer.discriminator.learning_rate = 1e-3
    config.optimizer.generator.learning_rate = 1e-3


def use_vae(config: config_dict.ConfigDict) -> None:
    """Section 2.1: the variational autoencoder of the same architecture."""
    config.algorithm = "vae"
    config.model.posterior = "gaussian"
    config.optimizer = config_dict.ConfigDict({"elbo": adam(learning_rate=1e-3, b1=0.9)})


def check_variant(variant: str, variants: tuple[str, ...]) -> None:
    """Refuses an argument of a config that does not exist."""
    if variant not in variants:
        raise ValueError(
            f"the config's argument is {variant!r}: it must be one of {', '.join(variants)}"
        )
