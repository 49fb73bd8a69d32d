"""How far a model with labels in its decoder separates content from style (section 3.2, Fig. 5).

    python -m benchmarks.style --workdir=runs/fig5-a [--other=runs/mnist]

Content: a classifier trained on real images reads generated cells; the share in which it reads the
label that was asked for. Style: a probe trained on the codes of training images predicts the labels
of test images from their codes; chance is one over the number of classes. The same probe on the
codes of a model without labels (`--other`) shows what a code holds that is not told the label.
"""

import json
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

import aae_jax as aae
from aae_jax import data
from aae_jax.spec import parse_config
from aae_jax.train_state import to_unit

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "A finished run with labels in the decoder.", required=True
)
_OTHER = flags.DEFINE_string("other", None, "A finished run on the same data, without labels.")


def load(workdir):
    """The trained state and the data of a run."""
    state = aae.load_state(workdir)
    with open(os.path.join(workdir, "config.json")) as file:
        return state, data.load(parse_config(json.load(file)).data)


def probe(state, dataset):
    """Accuracy on test codes of a linear and of a one-layer probe trained on training codes."""
    key = jax.random.key(0)
    train_z, test_z = (
        np.asarray(aae.encode(state, jnp.asarray(split["image"]), key))
        for split in (dataset.train, dataset.test)
    )
    mean, std = train_z.mean(axis=0), train_z.std(axis=0)
    train_z, test_z = (train_z - mean) / std, (test_z - mean) / std
    found = {}
    for name, model in (
        ("linear", LogisticRegression(max_iter=200)),
        ("200 hidden units", MLPClassifier((200,), max_iter=10, random_state=0)),
    ):
        model.fit(train_z, dataset.train["label"])
        found[name] = model.score(test_z, dataset.test["label"])
    return found


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)  # orbax narrates
    # Ten passes over 50,000 images are enough for these classifiers, and scikit-learn asks for more.
    warnings.simplefilter("ignore", ConvergenceWarning)
    state, dataset = load(_WORKDIR.value)
    num_classes = state.spec.num_classes

    def flat(images):
        return np.asarray(to_unit(jnp.asarray(images))).reshape(len(images), -1)

    classifier = MLPClassifier((500,), max_iter=10, random_state=0)
    classifier.fit(flat(dataset.train["image"]), dataset.train["label"])
    label = np.tile(np.arange(num_classes), 1_000)
    z = np.repeat(aae.sample_prior(state.spec, jax.random.key(1), 1_000).z, num_classes, axis=0)
    cells = aae.decode(state, jnp.asarray(z), jnp.asarray(label))
    report = {
        "classifier, accuracy on real test images": classifier.score(
            flat(dataset.test["image"]), dataset.test["label"]
        ),
        "generated cells read as their label": classifier.score(flat(cells), label),
    }
    for name, accuracy in probe(state, dataset).items():
        report[f"label from the code, {name}"] = accuracy
    if _OTHER.value:
        for name, accuracy in probe(*load(_OTHER.value)).items():
            report[f"label from the code of the other model, {name}"] = accuracy
    for name, value in report.items():
        print(f"{name:60} {value:.4f}")
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main)
