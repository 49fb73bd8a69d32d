"""Table 1 and Fig. 6b, the Toronto Face Dataset: 15-D Gaussian of std 10 (footnote 1).

    python launch.py --config=experiments/tfd.py

"Data points are subtracted by the mean and divided by the standard deviation along each input
dimension across the whole training set"; the output is linear, and samples are mapped back to
[0, 1] before they are shown or scored.
"""

from experiments import default


def get_config():
    """`experiments/default.py` with standardised pixels."""
    config = default.get_config()
    config.data.name = "tfd"
    config.data.image_shape = (48, 48, 1)
    config.data.num_classes = 7
    config.data.standardise = True
    config.model.code_dim = 15
    config.model.output = "linear"
    config.prior.std = 10.0
    config.train.num_steps = 20_000
    return config
