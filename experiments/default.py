"""Every field of a config, with the paper's choices for MNIST as defaults where the paper has them.

The other configs start from this one. Any field can be overridden on the command line:
`--config.train.num_steps=100`.
"""

from ml_collections import config_dict

# Finer than Goodfellow's grid, which has only 0.129, 0.167 and 0.215 between 0.1 and 0.25.
FINE_SIGMAS = tuple(round(0.1 + 0.005 * i, 3) for i in range(31))


class ByPhase(config_dict.ConfigDict):
    """A section for each phase, created when a config or a flag first names it."""

    def __getitem__(self, phase):
        if phase not in self:
            with self.unlocked():
                self[phase] = config_dict.ConfigDict()
        return super().__getitem__(phase)


def get_config() -> config_dict.ConfigDict:
    """The fields and their defaults."""
    config = config_dict.ConfigDict()
    config.seed = 0
    config.num_seeds = 1  # more: seeds seed, seed + 1, … trained in one program
    # Or "vae", "decoder_finetuning", "semi_supervised", "gan", "gmmn", "gmmn_autoencoder",
    # "autoencoder", "cae", "stacked_cae", "rbm", "dbn", "gsn", or an import path
    # "package.module:VALUE": docs/extending.md.
    config.algorithm = "aae"
    config.options = (
        config_dict.ConfigDict()
    )  # fields of the algorithm that differ from its defaults
    # For algorithms that start from another run: its --workdir, or its config, which is then
    # trained first.
    config.start_from = config_dict.placeholder(str)

    config.data = config_dict.ConfigDict()
    # "digits", "mnist", "tfd", "files" (data.path), or a builder of tensorflow-datasets.
    config.data.name = "mnist"
    config.data.image_shape = (28, 28, 1)
    config.data.num_classes = 10
    config.data.path = config_dict.placeholder(str)  # arrays, a table or a directory of images
    config.data.data_dir = config_dict.placeholder(str)  # prepared data; None: tfds's default
    config.data.manual_dir = config_dict.placeholder(str)  # the original files, to prepare offline
    # Other builders only; mnist, tfd and files have their own splits: docs/data.md.
    config.data.train_split = "train[:90%]"
    config.data.validation_split = "train[90%:]"
    config.data.test_split = "test"
    config.data.fold = config_dict.placeholder(int)  # tfd: 1 … 5; None: all five are scored
    config.data.drop_black = False  # tfd: leave out its 130 black images
    config.data.num_labelled = config_dict.placeholder(int)  # images with labels; None: all
    config.data.labelled_repeats = config_dict.placeholder(int)  # visits per epoch; None: one
    config.data.standardise = False
    config.data.resize = False  # files and builders: convert images of other sizes and kinds
    config.data.label_column = config_dict.placeholder(str)  # .csv files; None: label, class, …
    config.data.condition_dim = 0  # files: K of the conditions [N, K]; 0: none are read

    config.model = config_dict.ConfigDict()
    # "mlp", "conv", or the import path of a factory; the encoder also "mlp_centred", the
    # discriminator "mlp_spread".
    config.model.encoder = "mlp"
    config.model.decoder = "mlp"
    config.model.discriminator = "mlp"
    # "deterministic", "gaussian", "universal" (section 2), or an import path; None: the algorithm's.
    config.model.posterior = config_dict.placeholder(str)
    # "squared_error", "bernoulli", or the import path of (x_hat, x) → f[B]; None: the algorithm's.
    config.model.reconstruction = config_dict.placeholder(str)
    config.model.noise_dim = 100  # of η; "universal" only
    config.model.code_dim = 8
    config.model.code_scale = config_dict.placeholder(float)  # encoder output to z; None: 1
    config.model.encoder_hidden = (1000, 1000)
    config.model.decoder_hidden = (1000, 1000)
    config.model.discriminator_hidden = (1000, 1000)
    config.model.conv_channels = (32, 64)  # "conv": channels after each stride of 2
    config.model.label_in_discriminator = False  # section 3.1, Fig. 3a
    config.model.label_in_decoder = False  # section 3.2, Fig. 3b
    config.model.condition_in_discriminator = False
    config.model.condition_in_decoder = False
    config.model.output = "sigmoid"
    config.model.param_dtype = "float32"
    config.model.compute_dtype = "float32"

    config.prior = config_dict.ConfigDict()
    # Or "uniform", "gaussian_mixture", "swiss_roll", "user", or the import path of a Prior.
    config.prior.name = "gaussian"
    config.prior.std = 5.0
    config.prior.radius = 1.0  # of the mixture's means or the roll; half a side of the uniform box
    config.prior.radial_std = 1.0  # mixture
    config.prior.tangential_std = 1.0  # mixture
    config.prior.turns = 2.0  # swiss roll
    config.prior.function = config_dict.placeholder(str)  # "user": "package.module:function"

    # By phase, fields of `OptimizerSpec` that differ from the phase's own (aae_jax/algorithms):
    # --config.optimizer.generator.learning_rate=1e-3. "reconstruction_encoder" is the encoder's own
    # optimiser in that phase.
    config.optimizer = ByPhase()

    config.train = config_dict.ConfigDict()
    config.train.num_steps = 5_000
    config.train.batch_size = 100
    config.train.input_noise = 0.0
    config.train.mirror = False  # each training image left to right, with probability 1/2
    config.train.ema_decay = config_dict.placeholder(float)  # None: no moving average

    config.parallel = config_dict.ConfigDict()
    config.parallel.runner = "jit"  # or "pmap"
    config.parallel.num_devices = config_dict.placeholder(int)  # None: all that divide a batch

    config.run = config_dict.ConfigDict()
    config.run.steps_per_dispatch = 100  # also the interval of metrics, and of checks for signals
    config.run.checkpoint_every = 1_000  # steps
    config.run.stream = config_dict.placeholder(bool)  # images from the host; None: if necessary
    config.run.max_steps = config_dict.placeholder(int)  # of this run and those it starts from

    config.evaluation = config_dict.ConfigDict()
    config.evaluation.num_samples = 10_000
    config.evaluation.num_validation = 1_000  # images that choose σ
    # None: Goodfellow's grid, or a grid for numbers outside [0, 1].
    config.evaluation.sigmas = config_dict.placeholder(tuple)
    # The limit of many samples, by annealed importance sampling: docs/likelihood.md.
    config.evaluation.annealed = config_dict.ConfigDict()
    config.evaluation.annealed.num_images = config_dict.placeholder(int)  # test images; None: none
    config.evaluation.annealed.num_validation = 64  # images to which σ is fitted
    config.evaluation.annealed.sigma = config_dict.placeholder(float)  # None: fitted
    config.evaluation.annealed.num_chains = 16  # for each image
    config.evaluation.annealed.num_temperatures = 500
    config.evaluation.annealed.num_leapfrog = 3  # steps of a transition
    config.evaluation.annealed.acceptance = 0.8
    config.evaluation.annealed.block_size = 16  # images run together
    return config


def change_optimizer(config: config_dict.ConfigDict, phase: str, **fields) -> None:
    """Sets fields of a phase's optimiser; fields set earlier stay."""
    with config.unlocked():
        config.optimizer[phase].update(fields)


def use_mixture(config: config_dict.ConfigDict) -> None:
    """Figs 2b, 2d, 4a: ten petals around the origin.

    The paper's figures show elongated components that point outwards and touch at their inner ends.
    Means at radius 1.4 with stds 0.5 and 0.1 look like this.
    """
    config.prior.name = "gaussian_mixture"
    config.prior.radius = 1.4
    config.prior.radial_std = 0.5
    config.prior.tangential_std = 0.1


def use_swiss_roll(config: config_dict.ConfigDict) -> None:
    """Fig. 4c: two turns, with a Gaussian around the axis narrow enough to separate the turns."""
    config.prior.name = "swiss_roll"
    config.prior.radius = 3.0
    config.prior.turns = 2.0
    config.prior.std = 0.1


def use_adversarial_rates(config: config_dict.ConfigDict) -> None:
    """Adversarial learning rates five times the reconstruction's, for a close match to the prior.

    With the rates of the 8-D code, the reconstruction lays out the classes first. They then lock
    into the wrong petals, with or without labels.
    """
    change_optimizer(config, "reconstruction", learning_rate=2e-4)
    change_optimizer(config, "discriminator", learning_rate=1e-3)
    change_optimizer(config, "generator", learning_rate=1e-3)


def use_floors(config: config_dict.ConfigDict) -> None:
    """Adversarial learning rates end at 0.3 of their start, the reconstruction's at a twentieth.

    If all rates fall to zero together, the rest of the mismatch to the prior stays.
    """
    change_optimizer(config, "reconstruction", floor=0.05)
    change_optimizer(config, "discriminator", floor=0.3)
    change_optimizer(config, "generator", floor=0.3)


def use_vae(config: config_dict.ConfigDict) -> None:
    """Section 2.1: the variational autoencoder of the same architecture."""
    config.algorithm = "vae"
    config.optimizer = ByPhase()


def check_variant(variant: str, variants: tuple[str, ...]) -> None:
    """Raises if a config's argument is unknown."""
    if variant not in variants:
        raise ValueError(
            f"the config's argument is {variant!r}: it must be one of {', '.join(variants)}"
        )
