"""Low-dimensional maps (2016): the decoder sees one point, W y + z, a head for each class and a style.

python launch.py --config=experiments/reduction.py:2d     # 1,000 labels, a map to look at
python launch.py --config=experiments/reduction.py:10d    # 100 labels
"""

from experiments import default, semi_supervised

VARIANTS = ("2d", "10d")


def get_config(dimensions="2d"):
    """`experiments/semi_supervised.py` on a map."""
    default.check_variant(dimensions, VARIANTS)
    config = semi_supervised.get_config("1000" if dimensions == "2d" else "100")
    with config.unlocked():
        config.options.as_map = True
    config.model.code_dim = 2 if dimensions == "2d" else 10
    return config
