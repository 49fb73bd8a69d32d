"""The names that a config may use, each short for an import path.

Only this module knows the built-in algorithms, networks, posteriors, priors, losses and data
sources by name. A user's own are import paths, resolved in the same way.
"""

import importlib
from typing import Any

from aae_jax.errors import UserError

ALGORITHMS = {
    "aae": "aae_jax.algorithms.adversarial:ADVERSARIAL_AUTOENCODER",
    "vae": "aae_jax.algorithms.variational:VARIATIONAL_AUTOENCODER",
    "autoencoder": "aae_jax.algorithms.gmmn:AUTOENCODER",
    "decoder_finetuning": "aae_jax.algorithms.decoder_finetuning:DECODER_FINETUNING",
    "gan": "aae_jax.algorithms.gan:GAN",
    "gmmn": "aae_jax.algorithms.gmmn:GMMN",
    "gmmn_autoencoder": "aae_jax.algorithms.gmmn:GMMN_AUTOENCODER",
    "semi_supervised": "aae_jax.algorithms.semi_supervised:SEMI_SUPERVISED",
    "cae": "aae_jax.algorithms.contractive:CONTRACTIVE_AUTOENCODER",
    "stacked_cae": "aae_jax.algorithms.contractive:STACKED_CONTRACTIVE_AUTOENCODER",
    "rbm": "aae_jax.algorithms.dbn:RESTRICTED_BOLTZMANN_MACHINE",
    "dbn": "aae_jax.algorithms.dbn:DEEP_BELIEF_NETWORK",
    "gsn": "aae_jax.algorithms.gsn:GENERATIVE_STOCHASTIC_NETWORK",
}
ENCODERS = {
    "mlp": "aae_jax.networks:mlp_encoder",
    "mlp_centred": "aae_jax.networks:mlp_centred_encoder",
    "conv": "aae_jax.networks:conv_encoder",
}
DECODERS = {"mlp": "aae_jax.networks:mlp_decoder", "conv": "aae_jax.networks:conv_decoder"}
DISCRIMINATORS = {
    "mlp": "aae_jax.networks:mlp_discriminator",
    "mlp_spread": "aae_jax.networks:mlp_spread_discriminator",
    "conv": "aae_jax.networks:conv_discriminator",
}
POSTERIORS = {
    "deterministic": "aae_jax.posteriors:DETERMINISTIC",
    "gaussian": "aae_jax.posteriors:GAUSSIAN",
    "universal": "aae_jax.posteriors:UNIVERSAL",
}
PRIORS = {
    "gaussian": "aae_jax.priors:GAUSSIAN",
    "uniform": "aae_jax.priors:UNIFORM",
    "gaussian_mixture": "aae_jax.priors:GAUSSIAN_MIXTURE",
    "swiss_roll": "aae_jax.priors:SWISS_ROLL",
    "user": "aae_jax.priors:USER",
}
RECONSTRUCTIONS = {
    "squared_error": "aae_jax.losses:SQUARED_ERROR",
    "bernoulli": "aae_jax.losses:BERNOULLI",
}
# Each with the fields of the config's section `data` that only some sources take. Any other name is
# a builder of tensorflow-datasets.
SOURCES = {
    "digits": ("aae_jax.data.digits:load", ()),
    "mnist": ("aae_jax.data.mnist:load", ()),
    "tfd": ("aae_jax.data.tfd:load", ("fold", "drop_black")),
    "files": ("aae_jax.data.files:load", ("path", "resize", "label_column", "condition_dim")),
}
BUILDERS = (
    "aae_jax.data.tfds_images:load",
    ("resize", "train_split", "validation_split", "test_split"),
)


def resolve(field: str, value: Any, names: dict[str, str]) -> Any:
    """The value of a config's field, given a name, an import path, or the value itself.

    Args:
        field: its name in the config, for the message.
        value: a name, "package.module:VALUE", or any value that is not a string.
        names: one of the tables above.

    Raises:
        UserError: the name is unknown, or the import path names nothing.
    """
    if not isinstance(value, str):
        return value
    if value in names:
        return import_path(field, names[value])
    if ":" in value:
        return import_path(field, value)
    raise UserError(
        f"{field} is {value!r}: it must be one of {', '.join(map(repr, names))}, or an import path "
        "'package.module:name'"
    )


# The values imported so far by path, so that messages can use the user's own path.
_NAMED: dict[str, Any] = {}


def import_path(field: str, path: str) -> Any:
    """The value that "package.module:name" names; `field` is the config's, for messages."""
    module, _, attribute = path.partition(":")
    if not module or not attribute:
        raise UserError(f"{field} is {path!r}: write 'package.module:name'")
    try:
        _NAMED[path] = getattr(importlib.import_module(module), attribute)
    except UserError:
        raise
    except Exception as error:  # the user's module may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{field} is {path!r}, which can't be imported: {reason}") from error
    return _NAMED[path]


def name_of(value: Any, names: dict[str, str]) -> str:
    """A value's name in a config: its registered name, or the import path that it came from."""
    if isinstance(value, str):
        return repr(value)
    for name, path in names.items():
        if import_path("", path) is value:
            return repr(name)
    return repr(next((path for path, known in _NAMED.items() if known is value), path_of(value)))


def path_of(value: Any) -> str:
    """Module and name of a function or a class; for other values, of their type."""
    if not hasattr(value, "__qualname__"):
        value = type(value)
    return f"{value.__module__}:{value.__qualname__}"
