"""An adversarial autoencoder on scikit-learn's 8×8 digits: the main job with no download.

    python launch.py --config=experiments/digits.py
"""

from experiments import default


def get_config():
    """The paper's likelihood experiment (section 4) at the size of the digits."""
    config = default.get_config()
    config.data.name = "digits"
    config.data.image_shape = (8, 8, 1)
    config.model.encoder_hidden = (500, 500)
    config.model.decoder_hidden = (500, 500)
    config.model.discriminator_hidden = (500, 500)
    config.train.num_steps = 3_000
    config.evaluation.num_validation = 250
    return config
