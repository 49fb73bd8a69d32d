"""Clustering without labels (2016): the semi-supervised model without its supervised phase.

    python launch.py --config=experiments/clustering.py:16    # clusters
    python launch.py --config=experiments/clustering.py:30

Error with 16 clusters: 20.3 ± 6.5 % (26.5, 21.0, 13.5 % of seeds 0, 1, 2; the paper: 9.55 ± 2.05 %).
The seed decides. RESULTS.md says what each part is worth.
"""

from experiments import default, semi_supervised

VARIANTS = ("16", "30")


def get_config(num_clusters="16"):
    """Clusters in place of classes, and a 5-D style, by Adam.

    Adversarial rates are five times the reconstruction's. Logits are normalised by the batch,
    since otherwise they become certain at once, and most clusters stay unused. With noise, a style
    holds less of the class. Smoothness lets images change their cluster later.
    """
    default.check_variant(num_clusters, VARIANTS)
    config = semi_supervised.get_base()
    with config.unlocked():
        config.options.labels = False
        config.options.num_clusters = int(num_clusters)
        config.options.style_noise = 1.0
        config.options.smoothness = 2.0
        config.options.information = 0.4
    config.model.code_dim = 5
    config.train.num_steps = 10_000  # 20 epochs
    default.change_optimizer(config, "reconstruction", learning_rate=2e-4)
    return config
