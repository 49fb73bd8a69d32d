"""Fig. 5: the label goes to the decoder, and the code keeps the style (section 3.2).

python launch.py --config=experiments/fig5.py:a    # MNIST
python launch.py --config=experiments/fig5.py:b    # SVHN
"""

from experiments import default

VARIANTS = ("a", "b")


def get_config(panel="a"):
    """A 15-D Gaussian; its std is the paper's for MNIST elsewhere, since Fig. 5 states none."""
    default.check_variant(panel, VARIANTS)
    config = default.get_config()
    config.model.code_dim = 15
    config.model.label_in_decoder = True
    config.train.num_steps = 6_000
    config.train.input_noise = 0.3
    if panel == "b":
        config.data.name = "svhn_cropped"
        config.data.image_shape = (32, 32, 3)
        config.train.input_noise = 0.0
    return config
