"""Fig. 4: labels select the part of the prior that an image is mapped to (section 3.1).

    python launch.py --config=experiments/fig4.py:a    # mixture; also Fig. 4b
    python launch.py --config=experiments/fig4.py:c    # swiss roll; also Fig. 4d

On 2 CPU cores 6 to 8 minutes each. docs/gallery.md has the pictures and the numbers.

The data are 10,000 labelled and 40,000 unlabelled MNIST images. For the roll, an epoch visits each
labelled image four times, so that half of a batch is labelled. With single visits, 20 of 100 are
labelled, and 5 % of the hold-out codes lie in other labels' tenths. The other points of the curve
are `--config.data.num_labelled=50000` (all; for the roll with `labelled_repeats=1`), and 1000 with
`--config.data.labelled_repeats=40`; without the repeats, the two labelled images of a step have too
little weight.
"""

from experiments import default

VARIANTS = ("a", "c")


def get_config(panel="a"):
    """MNIST with a 2-D code and labels in the adversarial phase."""
    default.check_variant(panel, VARIANTS)
    config = default.get_config()
    config.data.num_labelled = 10_000
    config.model.code_dim = 2
    config.model.label_in_discriminator = True
    config.train.num_steps = 15_000
    config.train.input_noise = 0.2
    default.use_adversarial_rates(config)
    if panel == "a":
        default.use_mixture(config)
    else:
        default.use_swiss_roll(config)
        config.data.labelled_repeats = 4
        config.train.input_noise = 0.3
    return config
