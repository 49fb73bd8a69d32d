"""Classification error by epoch, for any config whose model has classes or clusters.

    python -m studies.few_labels --config=experiments/semi_supervised.py:100 --output=DIR \\
        [--config.FIELD=VALUE …] [--mnist_dir=DIR] [--every=1] [--stop=EPOCHS] [--alone]

Every `--every` epochs of the 50,000 training images, the study records the error on validation and
on test images, with the parameters of the trained model, and the seconds of training so far. For clusters it
also gives the error on test images if a cluster has the commonest label of its validation images.
`--alone` trains the same encoder only by the cross-entropy of the labelled rows. Several seeds
(`--config.num_seeds=3`) run in one program, each with its own labels.

`--output` gets curve.jsonl, one line per measurement, and checkpoints, from the newest of which the
same command resumes.
"""

import dataclasses
import json
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

import aae_jax as aae
from aae_jax import data, measures, multi_seed
from aae_jax.config import parse_config
from aae_jax.workdir.checkpoint import Checkpoints
from benchmarks.report import machine
from studies import runs

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Of experiments/.", lock_config=False, accept_new_attributes=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Directory of the curve.", required=True)
_MNIST_DIR = flags.DEFINE_string("mnist_dir", None, "With the four original gz files.")
_EVERY = flags.DEFINE_float("every", 1.0, "Epochs between two measurements.", lower_bound=0.0)
_STOP = flags.DEFINE_float("stop", None, "Epochs after which to stop, schedules as they are.")
_ALONE = flags.DEFINE_bool("alone", False, "Train by labels alone.")


def load(settings):
    """The data of the config; MNIST from its original files if they are given."""
    if _MNIST_DIR.value is not None:
        return runs.load_mnist(_MNIST_DIR.value)
    return data.load(settings.data)


def arrays(settings, dataset):
    """Images, and each seed's labels and labelled rows, as `train_steps` or `multi_seed.train` take."""
    labels = [dataset.train["label"]] * settings.num_seeds
    if settings.data.num_labelled is not None:
        labels = [
            data.keep_labels(dataset.train, settings.data.num_labelled, dataset.num_classes, seed)[
                "label"
            ]
            for seed in settings.seeds
        ]
    own = {"label": labels}
    if settings.spec.needs_labelled:
        own["labelled_rows"] = [data.labelled_rows(label, dataset.num_classes) for label in labels]
    own = {k: jnp.asarray(v[0] if len(v) == 1 else np.stack(v)) for k, v in own.items()}
    return {"image": jnp.asarray(dataset.train["image"]), **own}


def by_labels_alone(spec):
    """The same encoder with only those phases that learn from labelled rows."""
    phases = tuple(phase for phase in spec.phases if phase.on_labelled)
    algorithm = spec.algorithm._replace(phases=phases)
    optimizer = {phase.name: dict(spec.optimizer)[phase.name] for phase in phases}
    return dataclasses.replace(spec, algorithm=algorithm, optimizer=optimizer)


def start(settings):
    """The state of all seeds at step 0, from the keys that `launch.py` uses."""
    keys = [jax.random.fold_in(jax.random.key(seed), 0) for seed in settings.seeds]
    if len(keys) == 1:
        return aae.create_train_state(settings.spec, keys[0])
    return multi_seed.create(settings.spec, jnp.stack(keys))


def errors(state, fold):
    """[validation, test, majority] errors of each seed.

    Validation images name clusters, so they have no error; classes have no majority error.
    """
    found = []
    for member in multi_seed.members(state):
        of_test = measures.classification(member, fold.test, fold.validation)
        named = member.spec.algorithm.names_classes(member.spec)
        of_validation = measures.classification(member, fold.validation) if named else {}
        both = [found.get("classification/error") for found in (of_validation, of_test)]
        found.append([*both, of_test.get("classification/majority_error")])
    return found


def main(argv):
    del argv
    settings = parse_config(_CONFIG.value)
    if _ALONE.value:
        settings = dataclasses.replace(settings, spec=by_labels_alone(settings.spec))
    spec, dataset = settings.spec, load(settings)
    train, fold = arrays(settings, dataset), dataset.folds[0]
    epoch = len(train["image"]) / spec.train.batch_size
    last = spec.train.num_steps
    if _STOP.value is not None:
        last = min(last, round(_STOP.value * epoch))
    advance = multi_seed.train if settings.num_seeds > 1 else aae.train_steps
    logging.set_verbosity(logging.ERROR)  # orbax narrates
    os.makedirs(_OUTPUT.value, exist_ok=True)
    print(json.dumps(machine()), flush=True)
    path = os.path.join(_OUTPUT.value, "curve.jsonl")
    with Checkpoints(os.path.join(_OUTPUT.value, "checkpoints")) as checkpoints:
        state, lines = start(settings), []
        if checkpoints.latest_step() is not None:
            state = checkpoints.restore(state)
            with open(path) as file:
                lines = [json.loads(line) for line in file]
            lines = [line for line in lines if line["step"] <= int(state.step)]
        seconds = lines[-1]["seconds"] if lines else 0.0
        while int(state.step) < last:
            size = max(1, min(round(_EVERY.value * epoch), last - int(state.step)))
            begun = time.perf_counter()
            state, metrics = jax.block_until_ready(advance(state, train, size))
            seconds += time.perf_counter() - begun
            found = np.array(errors(state, fold), np.float64)
            line = {
                "epoch": round(int(state.step) / epoch, 3),
                "step": int(state.step),
                "seconds": round(seconds, 1),
                **{
                    name: None if np.isnan(column).any() else column.tolist()
                    for name, column in zip(("validation", "test", "majority"), found.T)
                },
                "metrics": {name: float(v.mean()) for name, v in metrics.items()},
            }
            lines.append(line)
            with open(path, "w") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
            checkpoints.save(state)
            print(
                f"epoch {line['epoch']:g}, {seconds:.0f} s: error on "
                + ("" if line["validation"] is None else f"validation {shown(found[:, 0])}, ")
                + f"test {shown(found[:, 1])}"
                + ("" if line["majority"] is None else f", by majority {shown(found[:, 2])}"),
                flush=True,
            )


def shown(values):
    """The percentage of each seed, with mean and standard deviation if there are several."""
    each = " ".join(f"{100 * value:.2f}" for value in values)
    if len(values) == 1:
        return f"{each} %"
    return f"{each} ({100 * values.mean():.2f} ± {100 * values.std(ddof=1):.2f}) %"


if __name__ == "__main__":
    app.run(main)
