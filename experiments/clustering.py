"""Clustering without labels (2016): the semi-supervised model without its supervised phase.

    python launch.py --config=experiments/clustering.py:16    # clusters
    python launch.py --config=experiments/clustering.py:30

It does not reach the paper's numbers yet: RESULTS.md says how far it is and what was tried.
"""

from experiments import default, semi_supervised

VARIANTS = ("16", "30")


def get_config(num_clusters="16"):
    """Clusters in place of classes, a 5-D style, and Adam: by the gradient descent of
    `experiments/semi_supervised.py` the clusters are no better than chance.
    """
    default.check_variant(num_clusters, VARIANTS)
    config = semi_supervised.get_base()
    with config.unlocked():
        config.options.labels = False
        config.options.num_clusters = int(num_clusters)
    config.model.code_dim = 5
    return config
