"""The names that a config may use, each short for an import path.

The only place that knows the built-in algorithms, networks, posteriors, priors, losses and data
sources by name. A user's own are import paths too, and go the same way.
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
    "cae": "aae_jax.algorithms.contractive:CONTRACTIVE_AUTOENCODER",
    "stacked_cae": "aae_jax.algorithms.contractive:STACKED_CONTRACTIVE_AUTOENCODER",
    "rbm": "aae_jax.algorithms.dbn:RESTRICTED_BOLTZMANN_MACHINE",
    "dbn": "aae_jax.algorithms.dbn:DEEP_BELIEF_NETWORK",
    "gsn": "aae_jax.algorithms.gsn:GENERATIVE_STOCHASTIC_NETWORK",
}
ENCODERS = {"mlp": "aae_jax.networks:mlp_encoder", "conv": "aae_jax.networks:conv_encoder"}
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
# Each with the fields of the config's section `data` that no other source takes. A name that is not
# here is a builder of tensorflow-datasets.
SOURCES = {
    "digits": ("aae_jax.data.digits:load", ()),
    "mnist": ("aae_jax.data.mnist:load", ()),
    "tfd": ("aae_jax.data.tfd:load", ("fold", "drop_black")),
    "files": ("aae_jax.data.files:load", ("path", "resize", "label_column", "condition_dim")),
}
BUILDERS = ("aae_jax.data.tfds_images:load", ("resize",))


def resolve(field: str, value: Any, names: dict[str, str]) -> Any:
    """What a config's field means: a name of `names`, an import path, or the value itself.

    Args:
        field: its name in the config, for the message.
        value: a name, "package.module:VALUE", or anything that is no string.
        names: one of the tables above.

    Raises:
        UserError: there is no such name, or nothing at the import path.
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


# What import paths have named so far, so that a value can be called as the user called it.
_NAMED: dict[str, Any] = {}


def import_path(field: str, path: str) -> Any:
    """What "package.module:name" names, for a config's `field`."""
    module, _, attribute = path.partition(":")
    if not module or not attribute:
        raise UserError(f"{field} is {path!r}: write 'package.module:name'")
    try:
        _NAMED[path] = getattr(importlib.import_module(module), attribute)
    except UserError:
        raise
    except Exception as error:  # a module of the user's may raise whatever it likes
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{field} is {path!r}, which can't be imported: {reason}") from error
    return _NAMED[path]


def name_of(value: Any, names: dict[str, str]) -> str:
    """How a config would name a value: by its name, or by the import path that it came by."""
    if isinstance(value, str):
        return repr(value)
    for name, path in names.items():
        if import_path("", path) is value:
            return repr(name)
    return repr(next((path for path, known in _NAMED.items() if known is value), path_of(value)))


def path_of(value: Any) -> str:
    """Module and name of a function or a class; of other values, those of their type."""
    if not hasattr(value, "__qualname__"):
        value = type(value)
    return f"{value.__module__}:{value.__qualname__}"
