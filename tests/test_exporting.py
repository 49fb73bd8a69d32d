"""Exported programs against `aae.encode` and `aae.decode`, in a process without the package."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from runs import environment
from small import SHAPE, make_spec, refused, start

import aae_jax as aae
from aae_jax import multi_seed
from aae_jax.algorithms import adversarial, semi_supervised

# Runs a program with the batch sizes 1 and 7: inputs from `numpy.savez`, outputs back.
RUN = """
import sys

import jax
import numpy as np

given, found = dict(np.load("given.npz")), {}
for name in ("encode", "decode"):
    with open(f"{name}.stablehlo", "rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    for rows in (1, 7):
        values = [given[f"{name}{place}"][:rows] for place in range(len(program.in_avals))]
        found[f"{name}_{rows}"] = program.call(*values)
assert not any(name.split(".")[0] in ("aae_jax", "flax") for name in sys.modules)
np.savez("found.npz", **found)
"""
RNG = np.random.default_rng(0)


def test_programs_run_in_a_process_without_the_package(tmp_path):
    spec = make_spec(
        model={"posterior": "gaussian", "label_in_decoder": True, "output": "linear"},
        ema_decay=0.5,
    )
    state = aae.create_train_state(spec, 0, np.full(SHAPE, 0.4), np.full(SHAPE, 0.3))
    state = state.replace(ema_params=jax.tree.map(lambda leaf: leaf + 0.1, state.ema_params))
    images = RNG.uniform(size=(7, *SHAPE)).astype(np.float32)
    z, label = RNG.normal(size=(7, 2)).astype(np.float32), np.arange(7, dtype=np.int32)
    for name, program in aae.export(state).items():
        assert program.platforms == ("cpu", "cuda", "tpu")
        (tmp_path / f"{name}.stablehlo").write_bytes(program.serialize())
    np.savez(tmp_path / "given.npz", encode0=images, decode0=z, decode1=label)
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, env=environment(), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    for rows in (1, 7):
        expected = aae.encode(state, images[:rows])
        np.testing.assert_allclose(found[f"encode_{rows}"], expected, rtol=1e-5, atol=1e-5)
        expected = aae.decode(state, z[:rows], label[:rows])
        np.testing.assert_allclose(found[f"decode_{rows}"], expected, rtol=1e-5, atol=1e-5)


def test_convolutions():
    model = {"encoder": "conv", "decoder": "conv", "conv_channels": (4, 8)}
    state = start(make_spec(model=model, image_shape=(8, 8, 3)))
    programs = aae.export(state)
    images = RNG.uniform(size=(3, 8, 8, 3)).astype(np.float32)
    z = programs["encode"].call(images)
    np.testing.assert_allclose(z, aae.encode(state, images), rtol=1e-5, atol=1e-5)
    x_hat = programs["decode"].call(z)
    np.testing.assert_allclose(x_hat, aae.decode(state, z), rtol=1e-5, atol=1e-5)


def test_conditions_follow_the_code():
    spec = aae.Spec(
        SHAPE, condition_dim=3,
        model=aae.ModelSpec(code_dim=2, condition_in_decoder=True, decoder_hidden=(8,)),
    )  # fmt: skip
    state = aae.create_train_state(spec, 0)
    z, condition = RNG.normal(size=(5, 2)), RNG.normal(size=(5, 3))
    z, condition = jnp.asarray(z), jnp.asarray(condition)
    found = aae.export(state)["decode"].call(z, condition)
    expected = aae.decode(state, z, condition=condition)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_classes_and_places_on_a_map():
    spec = aae.Spec(
        SHAPE, algorithm="semi_supervised", options=semi_supervised.Options(as_map=True),
        model=aae.ModelSpec(code_dim=2, encoder_hidden=(8,), decoder_hidden=(8,)),
    )  # fmt: skip
    state = aae.create_train_state(spec, 0)
    programs = aae.export(state)
    assert list(programs) == ["encode", "classify", "embed", "decode"]
    images = RNG.uniform(size=(5, *SHAPE)).astype(np.float32)
    for name, function in (("classify", aae.classify), ("embed", aae.embed)):
        found = programs[name].call(images)
        np.testing.assert_allclose(found, function(state, images), rtol=1e-5, atol=1e-5)


class Counting(nn.Module):
    @nn.compact
    def __call__(self, x, eta):
        return nn.Dense(2)(x.reshape(len(x), -1))


def test_what_cannot_be_exported():
    with refused("no mean in closed form"):
        aae.export(start(make_spec(model={"posterior": "universal"})))
    whole = adversarial.ADVERSARIAL_AUTOENCODER
    without = whole._replace(encode=None)
    assert list(aae.export(start(make_spec(algorithm=without)))) == ["decode"]
    with refused("has no function to export"):
        aae.export(start(make_spec(algorithm=without._replace(decode=None))))
    with refused(r"'encode' can't be exported for any batch size.*not len\(x\)"):
        aae.export(start(make_spec(model={"encoder": lambda spec, num_outputs: Counting()})))


def test_a_state_of_several_seeds_is_refused():
    keys = jnp.stack([jax.random.key(seed) for seed in range(2)])
    with refused("several seeds"):
        aae.export(multi_seed.create(make_spec(), keys))
