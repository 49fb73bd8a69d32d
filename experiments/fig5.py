"""Fig. 5: the decoder gets the label, and the code keeps the style (section 3.2).

    python launch.py --config=experiments/fig5.py:a    # MNIST
    python launch.py --config=experiments/fig5.py:b    # SVHN

On one core of an EPYC with AVX-512 panel a takes 15 minutes. docs/gallery.md has the picture and the
numbers.

The discriminator gets the label too, as in Fig. 3a, so that the codes of each label match the full
prior. If only the decoder gets the label, as in Fig. 3b
(`--config.model.label_in_discriminator=False`), q(z) is as close to p(z), but every label keeps its
own region, and images do not follow the label: 44 % of generated cells were recognised as their
label. With std 5 the match to the prior is far worse.

In panel a the Gaussian posterior, a discriminator of three layers whose first units start at samples
of the prior, and a rate twenty times the encoder's leave less of the label in the code. The paper does
not give its networks for this figure.

SVHN is not at hand, so panel b was measured on street numbers made of MNIST
(`studies/colour_digits.py`). There the reconstruction must learn five times as fast as on MNIST
before images follow the label at all, and the game must stay slower. With 400 units per layer, 62 %
of the cells are then recognised as their label; 1,000 units were not run with these rates.
"""

from experiments import default

VARIANTS = ("a", "b")


def get_config(panel="a"):
    """A 15-D Gaussian; the paper gives no std for it."""
    default.check_variant(panel, VARIANTS)
    config = default.get_config()
    config.model.code_dim = 15
    config.model.label_in_decoder = True
    config.model.label_in_discriminator = True
    config.prior.std = 1.0
    config.model.discriminator = "mlp_spread"
    config.train.ema_decay = 0.999
    config.train.input_noise = 0.1
    default.use_floors(config)
    if panel == "a":
        config.model.posterior = "gaussian"
        config.model.discriminator_hidden = (600, 600, 600)
        config.train.num_steps = 16_000
        rates = {"reconstruction": 1e-4, "discriminator": 2e-3, "generator": 1e-4}
    else:
        config.data.name = "svhn_cropped"
        config.data.image_shape = (32, 32, 3)
        config.data.train_split = "train[:90%]+extra"
        config.train.num_steps = 12_000
        rates = {"reconstruction": 1e-3, "discriminator": 2e-4, "generator": 5e-5}
    for phase, rate in rates.items():
        default.change_optimizer(config, phase, learning_rate=rate)
    return config
