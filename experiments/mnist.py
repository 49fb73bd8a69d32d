"""Table 1 and Fig. 6a, MNIST: 784-1000-1000-8, Gaussian prior of std 5, deterministic encoder.

    python launch.py --config=experiments/mnist.py
"""

from experiments import default


def get_config():
    """The paper's likelihood experiment (section 4)."""
    return default.get_config()
