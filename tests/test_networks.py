"""Convolutions, dropout, a user's networks, and the key of each network."""

import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import convolve, convolve_transposed, forward, group_norm, layers_of
from small import SHAPE, inputs_of_step, make_dataset, make_spec, refused, start, train_step

import aae_jax as aae
from aae_jax import convolutions, keys, layers, networks, parallel
from aae_jax.algorithms import autoencoder
from aae_jax.training import check_algorithm

# "conv".

CONV = {"encoder": "conv", "decoder": "conv", "conv_channels": (4, 8)}


@pytest.mark.parametrize("image_shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (48, 48, 1)], ids=str)
@pytest.mark.parametrize("posterior", ["gaussian", "universal"])
def test_shapes_of_convolutions(image_shape, posterior):
    model = {"encoder": "conv", "decoder": "conv", "posterior": posterior, "noise_dim": 3}
    spec = make_spec(model=model | {"label_in_decoder": True}, image_shape=image_shape)

    def use(key):
        state = aae.create_train_state(spec, key)
        images = jnp.zeros((5, *image_shape))
        z = aae.encode(state, images, key)
        return state.params, z, aae.decode(state, z, label=3), aae.generate(state, key, 6)

    params, z, x_hat, samples = jax.eval_shape(use, jax.eval_shape(lambda: jax.random.key(0)))
    assert z.shape == (5, 2)
    assert x_hat.shape == (5, *image_shape) and samples.shape == (6, *image_shape)
    height, width, channels = image_shape
    flat = height // 4 * (width // 4) * 64
    encoder, decoder = params["encoder"], params["decoder"]
    assert encoder["Conv_0"]["kernel"].shape == (4, 4, channels, 32)
    assert encoder["Conv_1"]["kernel"].shape == (4, 4, 32, 64)
    inputs, outputs = {"gaussian": (flat, 4), "universal": (flat + 3, 2)}[posterior]
    assert encoder["Dense_0"]["kernel"].shape == (inputs, outputs)
    assert decoder["Dense_0"]["kernel"].shape == (2 + 10, flat)
    assert decoder["ConvTranspose_0"]["kernel"].shape == (4, 4, 64, 32)
    assert decoder["ConvTranspose_1"]["kernel"].shape == (4, 4, 32, channels)


@pytest.mark.parametrize(
    "image_shape, channels, match",
    [
        ((28, 28, 1), (8, 8, 8), r"divides by 2 only 2 times; .*multiples of 8, or 2 numbers"),
        ((8, 12, 3), (8, 8, 8), r"\(8, 12, 3\) divides by 2 only 2 times"),
        ((9, 8, 1), (8,), r"\(9, 8, 1\) divides by 2 only 0 times; use .*multiples of 2$"),
        ((8, 8, 1), (), r"\(\): 'conv' needs at least one"),
    ],
    ids=str,
)
@pytest.mark.parametrize("which", ["encoder", "decoder"])
def test_sides_that_the_strides_do_not_divide_are_refused(image_shape, channels, match, which):
    model = {which: "conv", "conv_channels": channels}
    spec = make_spec(model=model, image_shape=image_shape)
    for use in (check_algorithm, lambda spec: aae.create_train_state(spec, jax.random.key(0))):
        with refused("^model.conv_channels is .*" + match):
            use(spec)


def perturbed(params):
    """Biases and scales that are not 0 and 1, so that they show."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda v: jnp.asarray(v + 0.3 * random.normal(size=v.shape)), params)


def test_convolutions_against_numpy(x64):
    """Convolution, GroupNorm, ReLU; and back: an image of 4×8 pixels and two channels."""
    shape = (4, 8, 2)
    spec = make_spec("float64", model=CONV | {"conv_channels": (8, 16)}, image_shape=shape)
    state = start(spec)
    state = state.replace(params=perturbed(state.params))
    params = jax.tree.map(np.asarray, state.params)
    images = make_dataset(3, image_shape=shape)["image"]

    def relu_of_norm(x, layer):
        return np.maximum(group_norm(x, 8, layer["scale"], layer["bias"]), 0)

    network, x = params["encoder"], np.asarray(images, np.float64) / 255
    for index in (0, 1):
        x = convolve(x, **network[f"Conv_{index}"], stride=2)
        x = relu_of_norm(x, network[f"GroupNorm_{index}"])
    z = x.reshape(3, -1) @ network["Dense_0"]["kernel"] + network["Dense_0"]["bias"]
    np.testing.assert_allclose(aae.encode(state, images), z, rtol=1e-9)

    network = params["decoder"]
    x = (z @ network["Dense_0"]["kernel"] + network["Dense_0"]["bias"]).reshape(3, 1, 2, 16)
    x = relu_of_norm(x, network["GroupNorm_0"])
    x = convolve_transposed(x, **network["ConvTranspose_0"])
    x = relu_of_norm(x, network["GroupNorm_1"])
    x = convolve_transposed(x, **network["ConvTranspose_1"])
    np.testing.assert_allclose(aae.decode(state, jnp.asarray(z)), 1 / (1 + np.exp(-x)), rtol=1e-9)


def test_convolutions_train():
    shape = (8, 8, 1)
    rate = {"reconstruction": aae.OptimizerSpec(learning_rate=5e-3)}
    spec = make_spec(optimizer=rate, model=CONV, image_shape=shape, num_steps=60)
    before = start(spec)
    # White from the left up to one of eight columns, which a code can tell.
    columns = np.arange(8) <= np.arange(20)[:, None] % 8
    image = np.broadcast_to(columns[:, None, :, None], (20, *shape)).astype(np.float32)
    dataset = {"image": jnp.asarray(image), "label": jnp.zeros(20, jnp.int32)}
    state, metrics = aae.train_steps(before, dataset, 60)
    loss = np.asarray(metrics["loss/reconstruction"])
    assert loss[-5:].mean() < 0.5 * loss[:5].mean()
    for name in ("encoder", "decoder"):
        kernels = jax.tree.map(
            lambda old, new: bool((old != new).any()), before.params[name], state.params[name]
        )
        assert jax.tree.all(kernels)


def test_a_code_is_no_image_for_a_convolution():
    spec = make_spec(model={"discriminator": "conv"})
    with refused(r"^model.discriminator is 'conv'.*\(2,\).*use 'mlp'$"):
        check_algorithm(spec)
    # Of images there is one.
    module = networks.conv_discriminator(make_spec(model=CONV))
    images = jnp.zeros((5, 8, 8, 3))
    logits, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
    assert logits.shape == (5,)


# "mlp_centred".


def test_a_centred_encoder_sees_the_mean_colour_and_the_differences_from_it(x64):
    shape = (2, 4, 3)
    model = {"encoder": "mlp_centred", "encoder_hidden": (7,)}
    state = start(make_spec("float64", model=model, image_shape=shape))
    images = make_dataset(5, image_shape=shape)["image"]
    x = np.asarray(images, np.float64) / 255
    mean = x.mean(axis=(1, 2))
    inputs = np.concatenate([mean, (x - mean[:, None, None]).reshape(5, -1)], axis=1)
    network = layers_of(state.params["encoder"])
    assert [kernel.shape for kernel, _ in network] == [(3 + 2 * 4 * 3, 7), (7, 2)]
    np.testing.assert_allclose(aae.encode(state, images), forward(network, inputs)[0], rtol=1e-9)


@pytest.mark.parametrize("shape", [(6,), (4, 4), (2, 4, 4, 3)])
def test_a_centred_encoder_of_other_examples_is_refused(shape):
    match = f"^model.encoder is 'mlp_centred': an example is {re.escape(str(shape))}, .*use 'mlp'$"
    with refused(match):
        check_algorithm(make_spec(model={"encoder": "mlp_centred"}, image_shape=shape))


# Dropout.


class Dropping(nn.Module):
    """An MLP with one hidden layer and dropout after it."""

    hidden: int
    output_shape: tuple[int, ...]
    rate: float
    dtype: str

    @nn.compact
    def __call__(self, x, y=None):
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, param_dtype=self.dtype)(x))
        x = layers.Dropout(self.rate)(x)
        x = nn.Dense(int(np.prod(self.output_shape)), dtype=self.dtype, param_dtype=self.dtype)(x)
        return x.reshape(len(x), *self.output_shape)


def dropping_encoder(spec, num_outputs):
    return Dropping(16, (num_outputs,), 0.5, spec.model.param_dtype)


def dropping_discriminator(spec):
    return Dropping(16, (), 0.25, spec.model.param_dtype)


DROPPING = {"encoder": dropping_encoder, "discriminator": dropping_discriminator}


def test_dropout_is_off_outside_training():
    state = start(make_spec(model=DROPPING))
    images = make_dataset()["image"]
    x = np.asarray(images).reshape(20, -1) / 255
    expected, _ = forward(layers_of(state.params["encoder"]), x)
    for key in (None, jax.random.key(0)):
        np.testing.assert_allclose(aae.encode(state, images, key), expected, atol=1e-5)


class Mask(nn.Module):
    """Ones with dropout."""

    num_outputs: int
    rate: float

    @nn.compact
    def __call__(self, x, eta=None):
        return layers.Dropout(self.rate)(jnp.ones((len(x), self.num_outputs), x.dtype))


def mask_encoder(spec, num_outputs):
    return Mask(num_outputs, 0.25)


def test_dropout_keeps_its_share_and_scales_it():
    spec = make_spec(model={"encoder": mask_encoder, "code_dim": 2_000})
    x = jnp.zeros((8, *SHAPE))

    def apply(row_keys):
        return networks.apply(spec, {"encoder": {}}, "encoder", x, None, dropout_keys=row_keys)

    assert (apply(None) == 1).all()
    mask = np.asarray(jax.jit(apply)(keys.row_keys(jax.random.key(0), 8)))
    np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.75], rtol=1e-6)
    # Six standard deviations of a binomial.
    allowed = 6 * np.sqrt(0.75 * 0.25 / 2_000)
    np.testing.assert_allclose((mask > 0).mean(axis=1), 0.75, atol=allowed)
    # Rows are independent: two agree in 0.75² + 0.25².
    agree = (mask[:, None] == mask[None]).mean(axis=2)[np.triu_indices(8, 1)]
    np.testing.assert_allclose(agree, 0.625, atol=6 * np.sqrt(0.625 * 0.375 / 2_000))


MASKS = []


def recorder(phase, spec, params, inputs):
    """A phase that records the masks of its encoder and its discriminator."""
    z = autoencoder.encode(spec, params, inputs.x_noisy, inputs.row_keys, inputs.dropout_keys)
    logits = networks.apply(spec, params, "critic", inputs.x, dropout_keys=inputs.dropout_keys)
    jax.debug.callback(lambda *v: MASKS.append((phase, *map(np.array, v))), z, logits)
    return jnp.zeros(len(z)), {}


def recorder_networks(spec):
    return {
        **autoencoder.encoder_and_decoder(spec),
        "critic": networks.Network(Mask(spec.model.code_dim, 0.25), (spec.image_shape,)),
    }


RECORDER = aae.Algorithm(
    networks=recorder_networks,
    phases=tuple(
        aae.Phase(name, ("decoder",), functools.partial(recorder, name)) for name in ("one", "two")
    ),
    sample=autoencoder.sample,
)


def test_masks_differ_by_step_row_phase_and_network():
    model = {"encoder": mask_encoder, "code_dim": 100}
    state = start(make_spec(model=model, algorithm=RECORDER))
    seen = []
    for _ in range(2):
        MASKS.clear()
        aae.train_steps(state, make_dataset(), 3)
        jax.effects_barrier()
        assert sorted(phase for phase, *_ in MASKS) == ["one"] * 3 + ["two"] * 3
        rows = np.concatenate([np.concatenate(masks) for _, *masks in MASKS])
        assert rows.shape == (3 * 2 * 2 * 8, 100)
        assert len(np.unique(rows, axis=0)) == len(rows)
        seen.append(np.unique(rows, axis=0))
    np.testing.assert_array_equal(*seen)  # the same steps drop the same units


def test_dropout_is_the_same_however_the_batch_is_split(x64):
    """One device, a mesh of eight and pmap: a mask belongs to a row of the global batch."""
    state = start(make_spec("float64", model=DROPPING))
    expected, expected_metrics = aae.train_steps(state, make_dataset(), 20)
    mesh = parallel.make_mesh()
    there, dataset = jax.device_put((state, make_dataset()), parallel.replicated(mesh))
    for found, metrics in (
        aae.train_steps(there, dataset, 20, batch_sharding=parallel.batch_sharding(mesh)),
        parallel.pmap_train_steps(state, make_dataset(), 20),
    ):
        chex.assert_trees_all_close(found.params, expected.params, rtol=0, atol=1e-9)
        chex.assert_trees_all_close(metrics, expected_metrics, rtol=0, atol=1e-9)


# Networks of the user's own.


class Linear(nn.Module):
    """One dense layer of all inputs."""

    output_shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x, y=None):
        x = x.reshape(len(x), -1)
        x = x if y is None else jnp.concatenate([x, y], axis=1)
        x = nn.Dense(int(np.prod(self.output_shape)), name="only")(x)
        return x.reshape(len(x), *self.output_shape)


def linear_encoder(spec, num_outputs):
    return Linear((num_outputs,))


def linear_decoder(spec):
    return Linear(spec.image_shape)


def linear_discriminator(spec):
    return Linear(())


def test_factories_are_named_by_path_or_given():
    own = {
        "encoder": linear_encoder,
        "decoder": linear_decoder,
        "discriminator": linear_discriminator,
    }
    by_path = {name: f"test_networks:{factory.__name__}" for name, factory in own.items()}
    spec = make_spec(model=own)
    assert spec == make_spec(model=by_path) != make_spec()
    state = start(spec)
    assert {name: set(params) for name, params in state.params.items()} == {
        name: {"only"} for name in own
    }
    x = np.asarray(make_dataset()["image"]).reshape(20, -1) / 255
    z = aae.encode(state, make_dataset()["image"])
    layer = state.params["encoder"]["only"]
    np.testing.assert_allclose(z, x @ layer["kernel"] + layer["bias"], atol=1e-5)
    after, _ = train_step(state, *inputs_of_step(state, make_dataset(), 0))
    for name in own:
        assert (after.params[name]["only"]["kernel"] != state.params[name]["only"]["kernel"]).any()


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, y=None):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=False)(x.reshape(len(x), -1)))


class Raising(nn.Module):
    @nn.compact
    def __call__(self, x, y=None):
        raise RuntimeError("two\nlines")


class OneArgument(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x.reshape(len(x), -1))


class Two(nn.Module):
    @nn.compact
    def __call__(self, x, y=None):
        z = nn.Dense(2)(x.reshape(len(x), -1))
        return z, z


class AlwaysDropping(nn.Module):
    @nn.compact
    def __call__(self, x, y=None):
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=False)(x.reshape(len(x), -1)))


def raising_factory(spec, num_outputs):
    raise ZeroDivisionError("so\nit goes")


BAD = {
    "batch norm": (
        {"encoder": lambda spec, n: Normalised()},
        "^model.encoder keeps batch_stats beside its parameters.*use GroupNorm or LayerNorm",
    ),
    "codes of another shape": (
        {"encoder": lambda spec, n: Linear((n + 1,))},
        r"^model.encoder returns shape \(2, 3\) for a batch of 2: it must return \(2, 2\)$",
    ),
    "images of another shape": (
        {"decoder": lambda spec: Linear((12,))},
        r"^model.decoder returns shape \(2, 12\) for a batch of 2: it must return \(2, 3, 4, 1\)$",
    ),
    "logits of another shape": (
        {"discriminator": lambda spec: Linear((1,))},
        r"^model.discriminator returns shape \(2, 1\) for a batch of 2: it must return \(2,\)$",
    ),
    "two arrays": ({"encoder": lambda spec, n: Two()}, "^model.encoder returns tuple for a batch"),
    "a factory that raises": (
        {"encoder": raising_factory},
        "^model.encoder fails with ZeroDivisionError: so it goes$",
    ),
    "a module that raises": (
        {"decoder": lambda spec: Raising()},
        "^model.decoder fails with RuntimeError: two lines$",
    ),
    "no module": (
        {"encoder": lambda spec, n: 3},
        "^model.encoder returns 3: it must return a Flax",
    ),
    "a class, no module": (
        {"decoder": lambda spec: Raising},
        "^model.decoder returns <class .*it must return a Flax",
    ),
    "a factory of other arguments": (
        {"encoder": lambda spec: Linear((2,))},
        "^model.encoder fails with TypeError: .*takes 1 positional argument but 2 were given$",
    ),
    "a module of other arguments": (
        {"encoder": lambda spec, n: OneArgument()},
        "^model.encoder fails with TypeError: .*positional arguments",
    ),
    "dropout that is never off": (
        {"encoder": lambda spec, n: AlwaysDropping()},
        "^model.encoder asks for random numbers outside training: use .*layers.Dropout",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_networks_that_can_not_be_used_are_one_line(name):
    model, match = BAD[name]
    spec = make_spec(model=model)
    for use in (check_algorithm, lambda spec: aae.create_train_state(spec, jax.random.key(0))):
        with refused(match):
            use(spec)


# "mlp_spread".


def spread(points, x, width=50, seed=0):
    """Parameters and outputs of a layer that starts around a table of points f[width, D]."""

    def draw(key, num_points):
        return jnp.resize(points, (num_points, points.shape[1]))

    layer = layers.Spread(width, draw, jnp.float64, jnp.float64)
    params = layer.init(jax.random.key(seed), x)["params"]
    return params, layer.apply({"params": params}, x)


def test_every_unit_starts_on_a_hyperplane_through_its_point(x64):
    points = jnp.asarray(np.random.default_rng(0).normal(3, 2, (50, 2)))
    params, outputs = spread(points, points)
    assert outputs.shape == (50, 50)
    assert abs(jnp.diagonal(outputs)).max() < 1e-13
    assert abs(outputs).mean() > 0.1
    assert params["kernel"].shape == (2, 50) and params["bias"].shape == (50,)


@pytest.mark.parametrize("scale, shift", [((100.0, 0.01), (0, 0)), ((1, 1), (30.0, -4.0))], ids=str)
def test_the_units_of_z_make_no_difference_to_a_spread_layer(x64, scale, shift):
    rng = np.random.default_rng(0)
    points, x = jnp.asarray(rng.normal(size=(50, 2))), jnp.asarray(rng.normal(size=(7, 2)))
    scale, shift = jnp.asarray(scale), jnp.asarray(shift)
    _, expected = spread(points, x)
    _, found = spread(points * scale + shift, x * scale + shift)
    chex.assert_trees_all_close(found, expected, rtol=0, atol=1e-11)


def test_a_spread_layer_leaves_labels_and_constant_dimensions_alone(x64):
    """He's weights N(0, 2 / 5) beside the points' two dimensions, of which one never changes."""
    points = jnp.asarray(np.random.default_rng(0).normal(size=(20_000, 2))) * jnp.array([10.0, 0])
    params, outputs = spread(points, jnp.ones((3, 5)), width=20_000)
    assert jnp.isfinite(outputs).all()
    for row, std in enumerate((10.0, 1, 1, 1, 1)):
        # The std of 20,000 draws is within 2.5 % = 5 / √(2 · 20,000).
        assert abs(params["kernel"][row].std() * std / np.sqrt(2 / 5) - 1) < 0.025


def test_the_discriminator_of_mlp_is_homogeneous_and_mlp_spread_is_not():
    z = aae.sample_prior(make_spec(), jax.random.key(1), 100).z
    for name, homogeneous in (("mlp", True), ("mlp_spread", False)):
        spec = make_spec(model={"discriminator": name, "discriminator_hidden": (16, 16)})
        near, far = (
            autoencoder.discriminate(spec, start(spec).params, scale * z, None) for scale in (1, 3)
        )
        error = abs(far - 3 * near).max() / abs(far).max()
        assert error < 1e-5 if homogeneous else error > 0.1


def test_a_spread_discriminator_starts_alike_in_all_units_of_its_input():
    """It gets z / code_scale: a prior of std 5 in units of 5 is one of std 1."""
    params = [
        start(
            make_spec(
                model={"discriminator": "mlp_spread", "code_scale": scale}, prior={"std": std}
            )
        ).params["discriminator"]
        for scale, std in ((5.0, 5.0), (None, 1.0))
    ]
    chex.assert_trees_all_close(*params, rtol=1e-5)


@pytest.mark.parametrize("prior", ["gaussian", "uniform", "gaussian_mixture", "swiss_roll"])
def test_a_spread_discriminator_trains_on_every_prior_with_labels(prior):
    model = {"discriminator": "mlp_spread", "label_in_discriminator": True}
    spec = make_spec(model=model, prior={"name": prior})
    check_algorithm(spec)
    state, _ = aae.train_steps(start(spec), make_dataset(), 3)
    before, after = (s.params["discriminator"]["Spread_0"]["bias"] for s in (start(spec), state))
    assert jnp.isfinite(after).all() and (before != after).any()
    assert networks.build(make_spec(model=model, prior={"name": prior})) == networks.build(spec)


def test_a_spread_discriminator_of_images_is_refused():
    with refused("^model.discriminator is 'mlp_spread'.*algorithm 'gan' discriminates are codes"):
        check_algorithm(make_spec(algorithm="gan", model={"discriminator": "mlp_spread"}))


# Keys.


def networks_of(*names):
    """An algorithm whose networks are an encoder, a decoder and others, in the order of names."""

    def make(spec):
        known = autoencoder.encoder_and_decoder(spec)
        other = networks.Network(Linear((3,)), ((5,),))
        return {name: known.get(name, other) for name in names}

    phases = (aae.Phase("own", ("encoder",), lambda spec, params, inputs: (0.0, {})),)
    return make_spec().algorithm._replace(networks=make, phases=phases)


def test_keys_are_of_positions_so_that_known_networks_keep_their_parameters():
    aae_params = start(make_spec()).params
    params_key, _ = jax.random.split(jax.random.key(0))
    for order, others in {
        ("encoder", "decoder"): {},
        ("wake", "decoder", "encoder"): {"wake": 3},
        ("decoder", "wake", "encoder", "sleep"): {"wake": 3, "sleep": 4},
        ("sleep", "encoder", "wake", "decoder"): {"sleep": 3, "wake": 4},
    }.items():
        params = start(make_spec(algorithm=networks_of(*order))).params
        assert set(params) == set(order)
        for name in ("encoder", "decoder"):
            chex.assert_trees_all_equal(params[name], aae_params[name])
        for name, position in others.items():
            key = jax.random.fold_in(params_key, position)
            expected = Linear((3,)).init(key, jnp.zeros((1, 5)))["params"]
            chex.assert_trees_all_equal(params[name], expected)


def test_the_three_known_networks_are_at_positions_0_1_and_2():
    spec = make_spec()
    params_key, _ = jax.random.split(jax.random.key(0))
    modules = {
        "encoder": (networks.mlp_encoder(spec, 2), SHAPE),
        "decoder": (networks.mlp_decoder(spec), (2,)),
        "discriminator": (networks.mlp_discriminator(spec), (2,)),
    }
    for position, (name, (module, shape)) in enumerate(modules.items()):
        key = jax.random.fold_in(params_key, position)
        expected = module.init(key, jnp.zeros((1, *shape)))["params"]
        chex.assert_trees_all_equal(start(spec).params[name], expected)


@pytest.mark.parametrize("function, module", [("halve", nn.Conv), ("double", nn.ConvTranspose)])
def test_convolutions_and_their_gradients_are_those_of_flax(x64, function, module):
    """On a CPU the gradients are the package's own; 8 × 6 pixels tell height from width."""
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.normal(size=(3, 8, 6, 2))),
        jnp.asarray(rng.normal(size=(4, 4, 2, 5))),
    )
    layer = module(5, (4, 4), (2, 2), use_bias=False, param_dtype=jnp.float64)

    def of_flax(x, kernel):
        return layer.apply({"params": {"kernel": kernel}}, x)

    found, expected = (
        jax.value_and_grad(lambda x, kernel, f=f: jnp.sin(f(x, kernel)).sum(), (0, 1))(x, kernel)
        for f in (getattr(convolutions, function), of_flax)
    )
    chex.assert_trees_all_close(found, expected, rtol=0, atol=1e-12)
