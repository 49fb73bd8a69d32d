"""Clustering without labels (2016): the semi-supervised model without its supervised phase.

    python launch.py --config=experiments/clustering.py:16    # clusters
    python launch.py --config=experiments/clustering.py:30

Error with 30 clusters: 7.3 ± 3.0 %, three seeds (the paper: 4.10 ± 1.13 %). 16 clusters: 13.1 %,
seed 0 (9.55 ± 2.05 %). 21 to 29 minutes each on one core of an EPYC with AVX-512. RESULTS.md says
what each part is worth.
"""

from experiments import default, semi_supervised

VARIANTS = ("16", "30")


def get_config(num_clusters="16"):
    """Clusters in place of classes, and a 5-D style, by Adam.

    The information keeps clusters in use while the classes become smooth; the paper uses neither.
    With noise, a style holds less of the class.
    """
    default.check_variant(num_clusters, VARIANTS)
    config = semi_supervised.get_base()
    with config.unlocked():
        config.options.labels = False
        config.options.num_clusters = int(num_clusters)
        config.options.style_noise = 1.0
        config.options.smoothness = 2.0
        config.options.transformations = 8.0
        config.options.information = 0.4
    for network in ("encoder", "decoder", "discriminator"):
        config.model[f"{network}_hidden"] = (500, 500)
    config.model.code_dim = 5
    config.train.num_steps = 10_000  # 20 epochs
    default.change_optimizer(config, "reconstruction", learning_rate=2e-4)
    return config
