"""Generated configs either train a step or raise a one-line error that names a field."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings, strategies as st

import aae_jax as aae
from aae_jax.config import parse_config
from aae_jax.priors import check_prior
from aae_jax.training import check_algorithm, train_steps
from experiments import default


def prior(key, batch_size):
    return jax.random.normal(key, (batch_size, 2))


def small(variant=None):
    config = default.get_config()
    if variant == "vae":
        default.use_vae(config)
    if variant == "user":
        config.prior.name, config.prior.function = "user", f"{__name__}:prior"
    if variant == "conv":
        config.model.encoder = config.model.decoder = "conv"
        config.model.conv_channels = (2,)
    if variant == "decoder_finetuning":
        config.algorithm, config.start_from = variant, "experiments/mnist.py"
        config.options.code_noise = 0.5
    if variant == "gmmn":
        config.options.bandwidths = (1.0,)
    if variant in ("gan", "gmmn"):
        config.algorithm, config.prior.name = variant, "uniform"
        config.prior.radius = 1.0
    phase = {"vae": "elbo", "gan": "game", "gmmn": "mmd"}.get(variant, "reconstruction")
    default.change_optimizer(config, phase, **dataclasses.asdict(aae.OptimizerSpec()))
    config.data.image_shape = (2, 2, 1)
    config.model.code_dim = 2
    config.model.noise_dim = 2
    for network in ("encoder", "decoder", "discriminator"):
        config.model[f"{network}_hidden"] = (4,)
    config.train.num_steps, config.train.batch_size = 2, 4
    return config.to_dict()


def leaves(tree, prefix=()):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, name))
        else:
            yield (*prefix, name)


NUMBERS = st.sampled_from(
    [
        *(0, -1, 1, 3, 10**12, 2**31, 2**63, 10**400, True, np.int64(3), 1j),
        *(0.0, -0.0, -1.5, 0.5, 0.99999999, 1.0, 1e-45, 1e-320, 1e30, 1e39, 1e308),
        *(float("nan"), float("inf"), -float("inf")),
    ]
)
WORDS = st.sampled_from(
    [
        *("", "adam", "sgd", "piecewise", "cosine", "vae", "gan", "gaussian", "universal"),
        *("swiss_roll", "mlp", "conv", "squared_error", "bernoulli", "decoder_finetuning"),
        *("aae_jax.losses:BERNOULLI", "gaussian_mixture", "user", "linear", "float64", "bfloat16"),
        *("a\nb", "files", "tfd", "Gauß", "math:pi", "math:sin", "builtins:max", ".:x", "os:"),
        *("no such module:f", "x" * 10_000),
    ]
)
PLAUSIBLE = st.sampled_from([1, 2, 3, 0.25, 0.5, 2.0, 1e-3, True, False, (3,), (2, 3), ()])
VALUES = st.one_of(
    PLAUSIBLE,
    NUMBERS,
    WORDS,
    st.none(),
    st.lists(NUMBERS, max_size=3),
    st.lists(NUMBERS, max_size=3).map(tuple),
    st.sampled_from([(3, 3), ((1,), 2), {"a": 1}, {}, b"x", object, np.ones(2)]),
)


VARIANTS = (None, None, "vae", "user", "conv", "decoder_finetuning", "gan", "gmmn")


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_what_is_changed_is_right_before(variant):
    check_algorithm(parse_config(small(variant)).spec)


@pytest.fixture
def eager():
    """No configuration is worth a compilation."""
    with jax.disable_jit():
        yield


@pytest.mark.slow
@settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_bad_configurations_are_refused_or_train(eager, data):
    config = small(data.draw(st.sampled_from(VARIANTS)))
    paths = list(leaves(config))
    paths += [(name,) for name in config if isinstance(config[name], dict)]
    changed = data.draw(st.lists(st.sampled_from(sorted(paths)), min_size=1, max_size=2))
    for path in changed:
        section = config
        for name in path[:-1]:  # an earlier change may have taken it away
            section = section.get(name, {}) if isinstance(section, dict) else {}
        if not isinstance(section, dict):
            continue
        how = data.draw(st.sampled_from(["value"] * 8 + ["missing", "unknown"]))
        if how == "value":
            section[path[-1]] = data.draw(VALUES)
        elif how == "missing":
            section.pop(path[-1], None)
        else:
            section[f"{path[-1]}s"] = 1
    try:
        parsed = parse_config(config)
        check_algorithm(parsed.spec)
        check_prior(parsed.spec)
    except aae.UserError as error:
        message = str(error)
        assert "\n" not in message, message
        event("refused")
        assert any(name.split("_")[0] in message for path in changed for name in path), message
        return
    event("trained")
    spec = parsed.spec
    pixels = (
        (np.zeros(spec.num_pixels), np.ones(spec.num_pixels)) if parsed.data.standardise else ()
    )
    state = aae.create_train_state(spec, jax.random.key(parsed.seed), *pixels)
    images = np.random.default_rng(0).integers(0, 256, (5, *spec.image_shape), dtype=np.uint8)
    dataset = {"image": jax.numpy.asarray(images), "label": jax.numpy.arange(5) % spec.num_classes}
    _, metrics = train_steps(state, dataset, 1)
    for name, value in metrics.items():
        assert not name.startswith("loss/") or np.isfinite(value).all(), (name, value, changed)
