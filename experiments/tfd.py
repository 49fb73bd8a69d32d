"""Table 1 and Fig. 6b, the Toronto Face Dataset: 15-D Gaussian of std 10 (footnote 1).

    python launch.py --config=experiments/tfd.py --config.data.manual_dir=DIR  # with TFD_48x48.mat
    python launch.py --config=experiments/tfd.py:fold=3                        # one fold's scores
    python launch.py --config=experiments/tfd.py:mirrored  # on the images and their mirror images
    python launch.py --config=experiments/tfd.py:nearest   # then its decoder on the score itself

"Data points are subtracted by the mean and divided by the standard deviation along each input
dimension across the whole training set". The output is linear. Samples are mapped back to [0, 1]
before they are shown or scored.

Learning rates are lower than for MNIST: an example has 2,304 standardised, mostly correlated
pixels, so that a change of weights moves a hidden unit many times farther. At 1e-3, the
reconstruction stays near that of a single component. The floors of the rates and the averaged
parameters are MNIST's; both were chosen on FER2013's faces, because TFD was not available
(RESULTS.md). 20,000 steps are 20 epochs of TFD's unlabelled images.

`nearest` starts from `mirrored`, which is trained if it is missing, or from another run
(`--config.start_from=DIR`). It trains the decoder as `mnist.py:nearest` does, but without a part on
noisy codes before, for longer, and with mirror images. On FER2013's faces, after 10,000 steps of
`mirrored`, it has 922.8 nats (52 minutes on one core); 6,000 steps of the first config have 898.9
(9 minutes). The paper has neither.
"""

from ml_collections import config_dict

from experiments import default

VARIANTS = ("mirrored", "nearest")


def get_config(argument=""):
    """`experiments/default.py` with standardised pixels; `fold=3` scores the third fold alone."""
    name, _, fold = argument.partition("=")
    one_fold = name == "fold" and fold.isdigit()
    if argument and argument not in VARIANTS and not one_fold:
        raise ValueError(
            f"the config's argument is {argument!r}: it must be one of {', '.join(VARIANTS)}, "
            "fold=1 … fold=5"
        )
    config = default.get_config()
    config.data.name = "tfd"
    if one_fold:
        config.data.fold = int(fold)
    config.data.image_shape = (48, 48, 1)
    config.data.num_classes = 7
    config.data.standardise = True
    config.model.code_dim = 15
    config.model.output = "linear"
    config.prior.std = 10.0
    config.train.num_steps = 20_000
    config.train.mirror = argument in VARIANTS
    config.evaluation.num_validation = config_dict.placeholder(int)  # all of a fold's
    config.evaluation.sigmas = default.FINE_SIGMAS
    if argument == "nearest":
        config.algorithm = "decoder_finetuning"
        config.start_from = "experiments/tfd.py:mirrored"
        config.options = config_dict.ConfigDict({"nearest_of": 10_000})
        config.train.num_steps = 1_200
        config.train.batch_size = 1_000
        default.change_optimizer(config, "reconstruction", learning_rate=7e-4)
        config.run.steps_per_dispatch = 10
        config.run.checkpoint_every = 100
        return config
    default.change_optimizer(config, "reconstruction", learning_rate=2e-4, floor=0.05)
    default.change_optimizer(config, "discriminator", learning_rate=4e-4, floor=0.3)
    default.change_optimizer(config, "generator", learning_rate=1e-4, floor=0.3)
    config.train.ema_decay = 0.999
    return config
