"""Clustering without labels (2016): the semi-supervised model without its supervised phase.

    python launch.py --config=experiments/clustering.py:16    # clusters
    python launch.py --config=experiments/clustering.py:30

Error, three seeds: 5.6 ± 5.6 % with 30 clusters (2.7, 2.1, 12.0; the paper: 4.10 ± 1.13 %), 3.6 ± 2.2 %
with 16 (9.55 ± 2.05 %). If clusters are named by the commonest label: 2.7 ± 0.7 % with 30. 7 to 11
minutes each on one core of an EPYC with AVX-512. RESULTS.md says what each part is worth.
"""

from experiments import default, semi_supervised

VARIANTS = ("16", "30")


def get_config(num_clusters="16"):
    """Clusters in place of classes, and a 5-D style, by Adam.

    The information keeps clusters in use while the classes become smooth. Transformations separate 4
    from 9. The paper uses none of these. With noise, a style holds less of the class.
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
