"""Table 1: the rows that are trained here, by their authors' recipes.

    --config=experiments/table1.py:aae            # the paper's model: experiments/mnist.py
    --config=experiments/table1.py:gan            # Goodfellow et al. 2014
    --config=experiments/table1.py:gmmn           # Li, Swersky, Zemel 2015, with an autoencoder
    --config=experiments/table1.py:gmmn_pixels    # the same without an autoencoder
    --config=experiments/table1.py:cae            # Rifai et al. 2012: contractive autoencoders, stacked
    --config=experiments/table1.py:dbn            # Hinton, Osindero, Teh 2006: a deep belief network
    --config=experiments/table1.py:gsn            # Bengio et al. 2014: a deep GSN

Each is one command, `python launch.py --config=experiments/table1.py:gan`. `python -m
studies.table1` trains several seeds of each in one program, and logs the validation likelihood
during training.

Published scores, in nats at 10,000 samples: gan 225 ± 2, gmmn 282 ± 2, gmmn_pixels 147 ± 2,
cae 121 ± 1.6, dbn 138 ± 2, gsn 214 ± 1.1.
Test scores here (three seeds, H200): gan 220.4 ± 1.1, gmmn 281.6 ± 1.3, gmmn_pixels 177.9 ± 1.9,
cae 194.5 ± 7.3, dbn 258.8 ± 2.9, gsn 284.1 ± 7.2.

Time on one busy CPU core, extrapolated from short trainings: 10 minutes for a layer of the CAE, 1
hour for a machine of the DBN, 2 hours for the GSN. Three seeds in one program on an H200 take 17,
48 and 54 s; the GAN takes 59 s, the GMMN on pixels 61 s.

All rows: the first 50,000 images are for training. The first 1,000 of the other 10,000 choose σ
among 0.1, 0.105, … 0.3. All test images are scored. Samples are outputs of the decoder, or means of
the visible units, never binary draws.

`gan`: z is 100-D, uniform on (−√3, √3). The generator is 100-1200-1200-784, ReLU, with weights
U(±0.05) and output biases at the mean image. The discriminator has two maxout layers with 240 units
of 5 pieces, weights U(±0.005), and dropout of 0.2 of the pixels and 0.5 of the hidden units. Both
are updated at once, by SGD with batches of 100. The rate is 0.1, divided by 1.000004 every batch;
the momentum goes from 0.5 to 0.7 over epochs 1 to 250. Differences: the momentum rises every step,
not every epoch; the training ends after those 250 epochs, since the authors' file has no stopping
rule; samples come from moving averages of the generator's parameters. The rate has only fallen to
0.06 by then, and the parameters are noisy: the test score is 220.4 ± 1.1 with the averages and
192.3 ± 4.3 with the last parameters. Some versions of the authors' code draw z from N(0, I),
`--config.prior.name=gaussian --config.prior.std=1.0`. That is no better: 123 after 15,625 steps
with the last parameters, against 120 to 132.

`gmmn`: z is 10-D, uniform on (−1, 1). The generator, 10-64-256-256-1024-32 with ReLU, then
sigmoids, makes codes of a trained autoencoder. The loss is √MMD² between 1,000 of them and the
codes of 1,000 images, with one kernel, exp(−d² / 2). There are 24,000 updates, not 40,000. Weights
are N(0, 1 / fan_in). The authors have 55,000 training images. The autoencoder,
`experiments/table1.py:autoencoder`, is trained first: 784-1024-32-1024-784, sigmoids,
cross-entropy, dropout of 0.2 of the pixels and 0.5 of the hidden units in the encoder, 3,000
batches of 100. Differences: Adam from random weights replaces layerwise pretraining and SGD. From
random weights, the authors' SGD leaves the codes near 0 and 1, where MMD does not learn them. For
the generator, Adam at 0.001 replaces SGD with rate 2 and momentum 0.9, then 0.2 and 0.99 from
update 10,000 on. That SGD has one step size, rate / (1 − momentum), throughout, and √MMD² stops far
above its value for two batches of codes (0.052 against 0.039). Their library's own weights, N(0,
0.1 / fan_in), make SGD slower still. Validation scores, one seed, one core of an AMD EPYC: after
2,000 updates 193 nats by SGD with 9,000 batches for the autoencoder, 228 with 3,000, and 244 with
Adam too. The test score of 281.6 ± 1.3 is still rising; seed 0 has 280.1 there, and also after 8
minutes on 2 cores of an AMD EPYC. Decoded codes of training images, the limit of a perfect
generator, score 306 on validation images. SGD with 9,000 batches gives a test score of 231.8 ± 6.3
(three seeds, H200).

`gmmn_pixels`: the generator ends in 784 pixels. The kernels compare images, with bandwidths 2, 5,
10, 20, 40 and 80 in place of 1. SGD as above. At rate 2, nearly all pixels are 0 or 1 after 100
updates. The loss stays near 0.45 for the first thousand updates, and then falls.

`cae`: layers of 1,000 sigmoids with tied weights, U(±4 √(6 / (n + m))), trained one after the other
(`cae_layer` is the first) on cross-entropy plus λ ‖J‖², with Adam, 10,000 steps each. A step of a
chain is h' = h + J Jᵀ α, x' = g(h'), with the Jacobian J of both layers. Samples are 10 of each of
1,000 chains that start at training images, after 100 steps. λ = 0.5 and the std 1.5 of α are
choices made here: with λ = 0.1, or a std of 3, most chains end at blank images. Most chains here
end at a 1.

`dbn`: two restricted Boltzmann machines of 1,000 hidden units (`rbm` is the first), trained by
persistent chains, one for each row of a batch, 5 steps per training step. Rate 0.05 with a cosine
schedule, momentum 0.5, 50 epochs for each machine. Pixels, and the first machine's hidden units,
are drawn at each step. Samples are means after 1,000 steps of Gibbs sampling in the second machine.
The papers give no recipe. In a public recipe, with 1 step and momentum 0.9, the chains fall behind:
after 4 epochs the free energy of images was 36 nats above that of the chains.

`gsn`: 784-1500-1500, tanh, tied weights, uniform Glorot. Salt-and-pepper noise on 0.4 of the
visible units, Gaussian noise of std 2 before and after the activation of the second hidden layer,
binary draws of the visible units. 4 steps of walkback; the loss is the sum of their mean
cross-entropies. Differences: Adam at 0.0003 with a cosine schedule for 30,000 steps (60 epochs)
replaces gradient descent (rate 0.25 times 0.995 per epoch, momentum 0.5, up to 1,000 epochs), which
needs twice the steps at first; at 0.001 the loss jumped once. The first 50,000 images, not 60,000.
Samples are 10 of each of 1,000 chains that start at training images, after 100 steps. The authors
score 10,000 consecutive states of one chain from the first test image, with σ = 0.2; `python -m
studies.table1 --row=gsn` gives both. One chain stays with a digit for thousands of steps, and
scores 106 ± 58; by the authors' gradient descent 174 ± 32 (RESULTS.md).

`tfd_aae`, `tfd_gan`, `tfd_gmmn` (with `tfd_autoencoder`): the Toronto Face Dataset. The first is
`experiments/tfd.py`; the other two see pixels in [0, 1]. Networks are those for MNIST; the GAN's
authors have 100-8000-8000-2304 and maxout layers of 1,200 units. The GAN's rate is 0.03: at 0.1,
one of three seeds diverged on FER2013's faces.
"""

import math

from experiments import default, mnist, tfd

VARIANTS = (
    "aae", "gan", "gmmn", "gmmn_pixels", "autoencoder", "cae", "cae_layer", "dbn", "rbm", "gsn",
    "tfd_aae", "tfd_gan", "tfd_gmmn", "tfd_autoencoder",
)  # fmt: skip
SIGMAS = tuple(round(0.1 + 0.005 * i, 3) for i in range(41))
_GMMN = "aae_jax.algorithms.gmmn"


def get_config(row="aae"):
    """`experiments/default.py` with the recipe of a row's authors."""
    default.check_variant(row, VARIANTS)
    if row == "aae":
        return mnist.get_config()
    if row == "tfd_aae":
        return tfd.get_config()
    config = default.get_config()
    config.evaluation.sigmas = SIGMAS
    {
        "gan": _use_gan,
        "gmmn": _use_gmmn,
        "gmmn_pixels": _use_gmmn_pixels,
        "autoencoder": _use_autoencoder,
        "cae": _use_cae,
        "cae_layer": _use_cae_layer,
        "dbn": _use_dbn,
        "rbm": _use_rbm,
        "gsn": _use_gsn,
    }[row.removeprefix("tfd_")](config)
    if row.startswith("tfd_"):
        _use_faces(config)
    return config


def _use_faces(config):
    faces = tfd.get_config()
    config.data = faces.data
    config.data.standardise = False
    config.evaluation = faces.evaluation
    if config.start_from:
        config.start_from = "experiments/table1.py:tfd_autoencoder"
    if config.algorithm == "gan":
        config.train.num_steps = 20_000  # 20 epochs of TFD's unlabelled images
        default.change_optimizer(config, "game", learning_rate=0.03)


def _use_gan(config):
    config.algorithm = "gan"
    config.model.decoder = "aae_jax.algorithms.gan:generator"
    config.model.decoder_hidden = (1200, 1200)
    config.model.discriminator = "aae_jax.algorithms.gan:discriminator"
    config.model.discriminator_hidden = (240, 240)
    config.model.code_dim = 100
    config.prior.name = "uniform"
    config.prior.radius = math.sqrt(3)
    config.train.num_steps = 125_000  # 250 epochs
    config.train.ema_decay = 0.9998
    default.change_optimizer(
        config,
        "game",
        name="sgd",
        learning_rate=0.1,
        schedule="exponential",
        decay=1.000004,
        floor=1e-5,  # of the rate: 1e-6
        momentum_steps=(500, 125_000),  # epochs 1 and 250
        momentum_values=(0.5, 0.7),
    )


def _use_moment_matching(config):
    config.model.code_dim = 10
    config.prior.name = "uniform"
    config.prior.radius = 1.0
    config.train.batch_size = 1_000
    config.train.num_steps = 40_000


def _use_gmmn(config):
    config.algorithm = "gmmn_autoencoder"
    config.start_from = "experiments/table1.py:autoencoder"
    _use_sigmoid_autoencoder(config)
    _use_moment_matching(config)
    config.train.num_steps = 24_000


def _use_gmmn_pixels(config):
    config.algorithm = "gmmn"
    config.model.decoder = f"{_GMMN}:generator"
    config.model.decoder_hidden = (64, 256, 256, 1024)
    _use_moment_matching(config)
    default.change_optimizer(
        config,
        "mmd",
        name="sgd",
        learning_rate=2.0,
        schedule="piecewise",
        boundaries=(10_000,),
        factors=(0.1,),
        momentum_steps=(9_999, 10_000),
        momentum_values=(0.9, 0.99),
    )


def _use_sigmoid_autoencoder(config):
    config.model.encoder = f"{_GMMN}:sigmoid_encoder"
    config.model.decoder = f"{_GMMN}:sigmoid_decoder"
    config.model.encoder_hidden = config.model.decoder_hidden = (1024,)


def _use_autoencoder(config):
    config.algorithm = "autoencoder"
    _use_sigmoid_autoencoder(config)
    config.model.code_dim = 32
    config.train.num_steps = 3_000


def _use_cae_layer(config):
    config.algorithm = "cae"
    config.train.num_steps = 10_000  # 20 epochs
    default.change_optimizer(config, "contraction", schedule="cosine")


def _use_cae(config):
    _use_cae_layer(config)
    config.algorithm = "stacked_cae"
    config.start_from = "experiments/table1.py:cae_layer"


def _use_rbm(config):
    config.algorithm = "rbm"
    config.options.burn_in = 1_000
    config.train.num_steps = 25_000  # 50 epochs
    default.change_optimizer(config, "divergence", schedule="cosine")


def _use_dbn(config):
    _use_rbm(config)
    config.algorithm = "dbn"
    config.start_from = "experiments/table1.py:rbm"


def _use_gsn(config):
    config.algorithm = "gsn"
    config.train.num_steps = 30_000  # 60 epochs
