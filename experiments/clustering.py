"""Clustering without labels (2016): the class of the semi-supervised model, and no supervised phase.

python launch.py --config=experiments/clustering.py:16    # clusters
python launch.py --config=experiments/clustering.py:30
"""

from experiments import default, semi_supervised

VARIANTS = ("16", "30")


def get_config(num_clusters="16"):
    """`experiments/semi_supervised.py` with clusters in place of classes, and a 5-D style."""
    default.check_variant(num_clusters, VARIANTS)
    config = semi_supervised.get_config("all")
    with config.unlocked():
        config.options.labels = False
        config.options.num_clusters = int(num_clusters)
    config.model.code_dim = 5
    return config
