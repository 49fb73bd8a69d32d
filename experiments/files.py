"""Your own data, or any image builder of tensorflow-datasets: docs/data.md lists the formats.

    python launch.py --config=experiments/files.py --config.data.path=DIR_OR_FILE \\
        --config.data.image_shape="(32,32,3)" --config.data.num_classes=5 --workdir=runs/mine

The model of Table 1 with 10,000 steps. All validation images choose σ, from Goodfellow's grid.
"""

from ml_collections import config_dict

from experiments import default


def get_config():
    """`experiments/default.py` for data of unknown size."""
    config = default.get_config()
    config.data.name = "files"
    config.train.num_steps = 10_000
    config.evaluation.num_validation = config_dict.placeholder(int)
    return config
