"""Adversarial autoencoders (Makhzani et al. 2015) as pure JAX functions.

Names are resolved on first use (PEP 562), so importing one part costs only that part.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "algorithms.base": ("Algorithm", "Inputs", "Phase"),
    "config": ("spec_from_config",),
    "errors": ("UserError",),
    "evaluation": ("evaluate",),
    "experiment": ("load_state",),
    "exporting": ("export",),
    "likelihood": ("annealed_arguments", "decoder_of"),
    "measures": ("diagnose",),
    "networks": ("Network",),
    "novelty": ("Scores", "score"),
    "optimizers": ("OptimizerSpec",),
    "parallel": ("make_mesh", "pmap_train_step"),
    "posteriors": ("Posterior",),
    "priors": ("Prior", "PriorSample", "sample_prior"),
    "settings": ("AnnealedSpec", "DataSpec", "EvaluationSpec"),
    "spec": ("ModelSpec", "PriorSpec", "Spec", "TrainSpec"),
    "train_state": (
        "TrainState",
        "classify",
        "create_train_state",
        "decode",
        "embed",
        "encode",
        "generate",
        "reconstruct",
        "sampler",
    ),
    # Not "train_step.py": importing a submodule binds its name in the package, over the function.
    "training": ("train_batches", "train_step", "train_steps"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("annealed", "parzen")

__all__ = sorted([*_HOME_OF, *_MODULES])


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"aae_jax.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'aae_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"aae_jax.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
