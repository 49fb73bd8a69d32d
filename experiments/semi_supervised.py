"""Classification from few labels: the semi-supervised adversarial autoencoder (2016).

    python launch.py --config=experiments/semi_supervised.py:100    # labels, 10 of each class
    python launch.py --config=experiments/semi_supervised.py:1000
    python launch.py --config=experiments/semi_supervised.py:all    # 50,000

From the later version of the paper. All 50,000 training images are reconstructed and regularised; the
cross-entropy sees those that keep their label, which the seed chooses, as many of each class.
"""

from experiments import default

VARIANTS = ("100", "1000", "all")


def get_config(num_labelled="100"):
    """Encoder and decoder of 2 × 1000 units, a class and a 10-D style of std 1."""
    default.check_variant(num_labelled, VARIANTS)
    config = default.get_config()
    config.algorithm = "semi_supervised"
    if num_labelled != "all":
        config.data.num_labelled = int(num_labelled)
    config.model.code_dim = 10
    config.prior.std = 1.0
    config.train.num_steps = 25_000  # 50 epochs
    config.train.input_noise = 0.3
    config.train.ema_decay = 0.999
    return config
