"""Fig. 5: the label goes to the decoder, and the code keeps the style (section 3.2).

    python launch.py --config=experiments/fig5.py:a    # MNIST
    python launch.py --config=experiments/fig5.py:b    # SVHN

On 2 CPU cores 2 minutes for panel a. The code must not carry the label past the adversary: with a
prior of std 5 and the rates of the likelihood experiment the decoder ignores the label altogether.
"""

from experiments import default

VARIANTS = ("a", "b")


def get_config(panel="a"):
    """A 15-D Gaussian; the paper gives no std for it."""
    default.check_variant(panel, VARIANTS)
    config = default.get_config()
    config.model.code_dim = 15
    config.model.label_in_decoder = True
    config.prior.std = 1.0
    config.train.num_steps = 4_000
    default.use_adversarial_rates(config)
    if panel == "b":
        config.data.name = "svhn_cropped"
        config.data.image_shape = (32, 32, 3)
        config.data.train_split = "train[:90%]+extra"
    return config
