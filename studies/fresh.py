"""A new discriminator, trained on frozen codes, which measures the mismatch that a game leaves."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from aae_jax import losses
from aae_jax.priors import sample_prior
from aae_jax.spec import Spec
from studies import games

FRESH = games.SpreadMLP((256, 256), (), 1.0, 1.0, jnp.float32, jnp.float32)
DEEPER = games.SpreadMLP((512, 512, 512), (), 1.0, 1.0, jnp.float32, jnp.float32)


def fresh_discriminator(
    spec: Spec,
    z: jax.Array,
    key: jax.Array,
    num_steps: int,
    batch_size: int = 1_000,
    network: games.SpreadMLP = FRESH,
) -> Callable[[jax.Array], jax.Array]:
    """The logits z f[N, D] → f[N] of a new discriminator, trained only on codes f[N, D].

    `network` takes codes in units of the prior's std.
    """
    std, optimizer = games.prior_std(spec), optax.adam(optax.cosine_decay_schedule(2e-3, num_steps))
    params = network.init(jax.random.fold_in(key, 0), jnp.zeros((1, z.shape[1])))

    def loss(params, codes, prior_z):
        found = losses.discriminator_loss(
            network.apply(params, prior_z / std), network.apply(params, codes / std)
        )
        return found.mean()

    def step(carry, index):
        params, state = carry
        prior_key, row_key = jax.random.split(jax.random.fold_in(key, 1 + index))
        codes = z[jax.random.randint(row_key, (batch_size,), 0, len(z))]
        prior_z = sample_prior(spec, prior_key, batch_size).z
        updates, state = optimizer.update(jax.grad(loss)(params, codes, prior_z), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(num_steps))
    return lambda z: network.apply(params, z / std)


def left(
    logit: Callable[[jax.Array], jax.Array], z: jax.Array, prior_z: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A discriminator's gain over random guesses, in thousandths of a nat, and its accuracy."""
    prior_logits, code_logits = logit(prior_z), logit(z)
    gain = 2 * jnp.log(2) - losses.discriminator_loss(prior_logits, code_logits).mean()
    told = 0.5 * ((prior_logits > 0).mean() + (code_logits < 0).mean())
    return 1_000 * gain, told
