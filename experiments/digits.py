"""The default experiment, with no download: scikit-learn's 1,797 handwritten digits, 8×8.

    python launch.py --config=experiments/digits.py

Half a minute on 2 CPU cores. Test log-likelihood: 33.8 ± 0.9 nats (10,000 samples).

This is the paper's likelihood experiment (section 4) at the size of these digits. The code is 6-D
and the encoder's input is noisy: otherwise the model would memorise the 1,297 training images. Both
were chosen on the validation images.
"""

from experiments import default


def get_config():
    """`experiments/default.py`, smaller."""
    config = default.get_config()
    config.data.name = "digits"
    config.data.image_shape = (8, 8, 1)
    config.model.code_dim = 6
    config.model.encoder_hidden = (500, 500)
    config.model.decoder_hidden = (500, 500)
    config.model.discriminator_hidden = (500, 500)
    config.train.num_steps = 3_000
    config.train.input_noise = 0.2
    config.evaluation.num_validation = 250
    config.evaluation.sigmas = tuple(round(0.08 + 0.01 * i, 2) for i in range(13))
    return config
