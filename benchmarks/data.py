"""Images per second of the two ways of reading, compared with the needs of a training step.

    python -m benchmarks.data [--data_dir=DIR] [--repeats=7]

MNIST must be prepared in DIR. "On the device": batches gathered from uint8 and scaled, as in
`train_steps`. "Streamed": decoded on the host and passed on in order, from the prepared records and
from a directory of as many PNG files.
"""

import os
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import aae_jax as aae
from aae_jax.data import files, streaming, tfds_images
from aae_jax.data.order import epoch_rows
from aae_jax.train_state import to_unit
from benchmarks import inputs, timing
from benchmarks.report import Report
from experiments import mnist

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Data of tensorflow-datasets; None: its default.")
_REPEATS = flags.DEFINE_integer(
    "repeats", 7, "Rounds, in which everything is timed in turn.", lower_bound=1
)

STEPS, STREAMED, BATCH = 100, 300, 100
_LOAD = """
import sys, time; start = time.monotonic()
from aae_jax import data; from aae_jax.settings import DataSpec
imported = time.monotonic()
data.load(DataSpec("mnist", (28, 28, 1), 10, data_dir=sys.argv[1] or None))
print(imported - start, time.monotonic() - imported)
"""


def loading(data_dir, repeats):
    """Seconds to import aae_jax.data, and to load prepared MNIST, in a fresh process."""
    command = [sys.executable, "-c", _LOAD, data_dir or ""]
    runs = [
        subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(repeats)
    ]
    times = zip(*(map(float, run.stdout.split()) for run in runs))
    names = "seconds to import aae_jax.data", "seconds to load prepared MNIST"
    return {name: timing.median_and_spread(values) for name, values in zip(names, times)}


def streamed(train):
    """A function that reads 300 batches from a new stream, which then ends.

    So no stream reads ahead while another function is timed.
    """

    def read():
        stream = streaming.batches(train, jax.random.key(0), 0, STREAMED, BATCH)
        return sum(len(batch["label"]) for batch in stream)

    return read


def from_directory(images, directory):
    """The training split of as many PNG files, and the seconds to list and decode them."""
    import cv2

    for i, image in enumerate(np.asarray(images)):
        cv2.imwrite(os.path.join(directory, f"{i:05d}.png"), image)
    start = time.monotonic()
    train = files.load(aae.DataSpec("files", (28, 28, 1), 10, path=directory)).train
    return train, time.monotonic() - start


def main(argv):
    del argv
    report = Report()
    report.values(loading(_DATA_DIR.value, _REPEATS.value))
    builder = tfds_images.prepared_builder(inputs.mnist_spec(_DATA_DIR.value))
    train = tfds_images.read_split(builder, "train", lazy=True)
    images = jnp.asarray(train["image"])
    state = aae.create_train_state(aae.spec_from_config(mnist.get_config()), jax.random.key(0))
    dataset = {"image": images, "label": jnp.asarray(train["label"])}

    @jax.jit
    def gather(images):
        rows = epoch_rows(state.rng, 0, STEPS, BATCH, len(images))
        return jax.lax.map(lambda row: to_unit(images[row]).sum(), rows)

    with tempfile.TemporaryDirectory() as directory:
        from_files, listing = from_directory(images, directory)
        times = timing.interleaved(
            {
                "needed by a training step": lambda: aae.train_steps(state, dataset, STEPS),
                "on the device": lambda: gather(images),
                "streamed from prepared records": streamed(train),
                "streamed from PNG files": streamed(from_files),
            },
            _REPEATS.value,
        )
    report.values({"seconds to list, decode and split 60,000 files": listing})
    images_read = {name: (STREAMED if "streamed" in name else STEPS) * BATCH for name in times}
    report.table(
        "reading",
        ("images", "images/s"),
        [
            (name, timing.median_and_spread([images_read[name] / value for value in values]))
            for name, values in times.items()
        ],
    )
    report.end()


if __name__ == "__main__":
    app.run(main)
