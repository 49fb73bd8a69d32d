"""Algorithms: one file each, one value each; `aae_jax.registry` has their names."""
