"""The names of a config: their values, and the equality of a name, its path and its value."""

import chex
import jax
import pytest
from small import inputs_of_step, make_dataset, make_spec, refused

import aae_jax as aae
from aae_jax import registry
from aae_jax.algorithms.base import Algorithm
from aae_jax.losses import Reconstruction
from aae_jax.posteriors import Posterior
from aae_jax.priors import Prior

KINDS = (
    ("ALGORITHMS", lambda value: isinstance(value, Algorithm)),
    ("POSTERIORS", lambda value: isinstance(value, Posterior)),
    ("PRIORS", lambda value: isinstance(value, Prior)),
    ("RECONSTRUCTIONS", lambda value: isinstance(value, Reconstruction)),
    ("ENCODERS", callable),
    ("DECODERS", callable),
    ("DISCRIMINATORS", callable),
)
NAMES = [
    pytest.param(path, is_kind, id=f"{table}-{name}")
    for table, is_kind in KINDS
    for name, path in getattr(registry, table).items()
] + [
    pytest.param(path, callable, id=f"SOURCES-{name}")
    for name, (path, _) in {**registry.SOURCES, "builders": registry.BUILDERS}.items()
]


@pytest.mark.parametrize("path, is_kind", NAMES)
def test_every_name_stands_for_what_it_should(path, is_kind):
    value = registry.import_path("name", path)
    assert is_kind(value)
    hash(value)


def test_names_stand_for_different_values():
    for table, _ in KINDS:
        names = getattr(registry, table)
        values = [registry.resolve("name", name, names) for name in names]
        assert len({id(value) for value in values}) == len(names)
        for name, value in zip(names, values):
            assert registry.name_of(value, names) == repr(name)


def variants_of(field, table):
    """Specs whose `field` is a name, its import path, and the value."""
    for name, path in table.items():
        yield [make_with(field, given) for given in (name, path, registry.import_path(field, path))]


def make_with(field, value):
    if field == "algorithm":
        return make_spec(algorithm=value)
    return make_spec(model={field: value}, image_shape=(4, 4, 1))


@pytest.mark.parametrize(
    "field, table",
    [
        ("algorithm", registry.ALGORITHMS),
        ("encoder", registry.ENCODERS),
        ("decoder", registry.DECODERS),
        ("posterior", registry.POSTERIORS),
        ("reconstruction", registry.RECONSTRUCTIONS),
    ],
)
def test_a_name_its_path_and_its_value_make_equal_specs(field, table):
    distinct = set()
    for named, by_path, by_value in variants_of(field, table):
        assert named == by_path == by_value
        assert hash(named) == hash(by_path) == hash(by_value)
        distinct.add(named)
    assert len(distinct) == len(table)


def test_a_name_its_path_and_its_value_share_one_trace():
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(aae.train_step, n=1))
    path = registry.ALGORITHMS["aae"]
    networks = {
        "encoder": "aae_jax.networks:mlp_encoder",
        "posterior": "aae_jax.posteriors:DETERMINISTIC",
        "reconstruction": "aae_jax.losses:SQUARED_ERROR",
    }
    for spec in (
        make_spec(),
        make_spec(algorithm=path),
        make_spec(algorithm=registry.import_path("algorithm", path)),
        make_spec(model=networks),
    ):
        state = aae.create_train_state(spec, jax.random.key(0))
        step(state, *inputs_of_step(state, make_dataset(), 0))


def test_the_algorithm_says_what_is_left_open():
    """`model.posterior` and `model.reconstruction` None are the algorithm's, by any name."""
    assert make_spec() == make_spec(
        model={"posterior": "deterministic", "reconstruction": "squared_error"}
    )
    assert make_spec(algorithm="vae") == make_spec(
        algorithm="vae", model={"posterior": "gaussian", "reconstruction": "bernoulli"}
    )


@pytest.mark.parametrize(
    "path, match",
    [
        ("flow", "^field is 'flow': it must be one of 'aae', 'vae', .*or an import path"),
        ("nowhere:GAN", "^field is 'nowhere:GAN', .*: ModuleNotFoundError: No module"),
        ("math:gan", "^field is 'math:gan', which can't be imported: AttributeError: "),
        (":x", "^field is ':x': write 'package.module:name'$"),
        ("math:", "^field is 'math:': write 'package.module:name'$"),
        ("test_registry_broken:x", ": RuntimeError: broken in two lines$"),
    ],
)
def test_what_is_not_there_is_one_line(path, match, tmp_path, monkeypatch):
    (tmp_path / "test_registry_broken.py").write_text("raise RuntimeError('broken\\nin two lines')")
    monkeypatch.syspath_prepend(tmp_path)
    with refused(match):
        registry.resolve("field", path, registry.ALGORITHMS)


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"algorithm": "math:pi"}, "^algorithm is 'math:pi': it must be, or name, an .*Algorithm"),
        ({"model": {"encoder": "math:pi"}}, "^model.encoder is 'math:pi': .*function that makes"),
        ({"model": {"posterior": "math:pi"}}, "^model.posterior is 'math:pi': .*Posterior"),
        ({"model": {"reconstruction": "math:pi"}}, "^model.reconstruction is .*function"),
        ({"prior": {"name": "math:pi"}}, "^prior.name is 'math:pi': .*Prior"),
    ],
)
def test_values_of_another_kind_are_refused(fields, match):
    with refused(match):
        make_spec(**fields)


def test_values_that_can_not_be_hashed_are_refused():
    unhashable = make_spec().algorithm._replace(figures=["samples"])
    with refused("algorithm is .*can't be hashed: unhashable.*list"):
        make_spec(algorithm=unhashable)
