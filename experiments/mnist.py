"""Table 1 and Fig. 6a, MNIST: 784-1000-1000-8, Gaussian prior of std 5, deterministic encoder.

    python launch.py --config=experiments/mnist.py

Where the paper is silent: Adam with a cosine schedule; the adversarial rates a fifth of the
reconstruction's, so that the prior is matched without losing the images; 20 epochs in batches of
100; Gaussian noise of std 0.3 on the images that the encoder sees, against which the match to the
prior decays with longer training.
"""

from experiments import default


def get_config():
    """`experiments/default.py` with 20 epochs and input noise."""
    config = default.get_config()
    config.train.num_steps = 10_000
    config.train.input_noise = 0.3
    return config
