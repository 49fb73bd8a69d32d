"""Algorithms: one value each, one file each; `aae_jax.registry` lists their names."""
