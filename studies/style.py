"""How well a model with labels in its decoder separates content from style (section 3.2, Fig. 5).

    python -m studies.style --workdir=runs/fig5-a [--other=runs/mnist]

Content: the share of generated cells that a classifier, trained on real images, assigns to the
requested label; of colour images it sees no colours. Style: a probe, trained on the codes of
training images, predicts the labels of test images from their codes; chance is one over the number
of classes. The same probe on the codes of a model without labels (`--other`) shows how much of the
label such codes hold.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from sklearn.linear_model import LogisticRegression

import aae_jax as aae
from benchmarks import inputs
from benchmarks.report import Report
from studies import runs

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "A finished run with labels in the decoder.", required=True
)
_OTHER = flags.DEFINE_string("other", None, "A finished run on the same data, without labels.")


def probe(run):
    """The accuracies on test codes of a linear and a one-layer probe, trained on training codes."""
    state, _, dataset = run
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
        ("200 hidden units", runs.perceptron(200)),
    ):
        model.fit(train_z, dataset.train["label"])
        found[name] = model.score(test_z, dataset.test["label"])
    return found


def main(argv):
    del argv
    report = Report()
    run = runs.load(_WORKDIR.value)
    has_colours = run.state.spec.image_shape[-1] > 1
    classifier = runs.fit_classifier(run.dataset, runs.contrast if has_colours else inputs.flat)
    test = run.dataset.test
    report.values(
        {
            "classifier, accuracy on real test images": classifier.score(
                test["image"], test["label"]
            ),
            "generated cells read as their label": runs.cells_read_as_their_label(
                run.state, classifier
            ),
        }
    )
    models = {"label from the code": run}
    if _OTHER.value:
        models["label from the code of the other model"] = runs.load(_OTHER.value)
    for model, run in models.items():
        report.values({f"{model}, {name}": accuracy for name, accuracy in probe(run).items()})
    report.end()


if __name__ == "__main__":
    app.run(main)
