"""q(z|x): how the encoder's output becomes a code (section 2)."""

from typing import Callable, NamedTuple

import jax

from aae_jax.spec import Spec

Encoder = Callable[[jax.Array], jax.Array]


class Posterior(NamedTuple):
    """One choice of q(z|x).

    Attributes:
        num_extra_inputs: (spec) → how many inputs the encoder has beside the pixels.
        num_outputs: (spec) → how many outputs the encoder has.
        sample: (spec, encoder, x f[B, P], row_keys key[B] or None) → z f[B, D].
    """

    num_extra_inputs: Callable[[Spec], int]
    num_outputs: Callable[[Spec], int]
    sample: Callable[[Spec, Encoder, jax.Array, jax.Array | None], jax.Array]


def deterministic(spec: Spec, encoder: Encoder, x: jax.Array, row_keys: jax.Array | None) -> jax.Array:
    """The encoder's output is the code; the only randomness in q(z) is the data's."""
    del spec, row_keys
    return encoder(x)


POSTERIORS = {
    "deterministic": Posterior(
        num_extra_inputs=lambda spec: 0,
        num_outputs=lambda spec: spec.model.code_dim,
        sample=deterministic,
    ),
}
