"""Restricted Boltzmann machines, and a deep belief network of two (Hinton, Osindero, Teh 2006).

`RESTRICTED_BOLTZMANN_MACHINE` learns images. `DEEP_BELIEF_NETWORK` adds a second machine, of the
first one's hidden units. Pixels are probabilities of binary units, which are drawn at each step.

Both learn by persistent chains (Tieleman 2008): the gradient is that of the difference of two free
energies, F(images) − F(chains). The chains are a network without layers, and a phase moves them: a
gradient step of rate 1 takes them exactly to their next state. So chains are saved, resumed and
trained for several seeds like any network. Chains that start at the images instead (CD-k) do not
remove the model's other modes: from a machine trained by CD-5 for 3 epochs, ten of ten chains were
at blank images after 400 steps.
"""

import dataclasses

import jax
import jax.numpy as jnp

from aae_jax import layers
from aae_jax.algorithms import chains, tied
from aae_jax.algorithms.base import Algorithm, Inputs, Metrics, Phase
from aae_jax.checks import check_positive
from aae_jax.errors import UserError
from aae_jax.keys import fold_rows, row_keys
from aae_jax.networks import Network, Params
from aae_jax.optimizers import OptimizerSpec
from aae_jax.spec import Spec


@dataclasses.dataclass(frozen=True)
class Options(chains.ChainOptions):
    """The config's section `options`."""

    hidden: tuple[int, ...] = (1_000, 1_000)  # hidden units of the two machines
    gibbs_steps: int = 5  # of the persistent chains, in each training step

    def __post_init__(self) -> None:
        super().__post_init__()
        tied.check_hidden(self.hidden, exactly=2)
        check_positive("options.gibbs_steps", self.gibbs_steps)


_IMAGES = 2**31 - 1  # the stream of the images' draws; the streams before are the chains' steps
_weights = jax.nn.initializers.normal(0.01)  # Hinton 2010, section 8


def _machine(spec, index, visible):
    """A machine and its persistent chains, one for each row of a batch, which start at random."""
    size, dtype = spec.train.batch_size, spec.model.param_dtype
    units = layers.Stored((size, visible), _random_units, jnp.dtype(dtype))
    hidden = spec.options.hidden[index - 1]
    return {
        f"rbm_{index}": tied.make(spec, (visible, hidden), _weights),
        f"chains_{index}": Network(units, inputs=(), training_only=True),
    }


def _random_units(key, shape, dtype):
    return jax.random.bernoulli(key, 0.5, shape).astype(dtype)


def first_machine(spec: Spec) -> dict[str, Network]:
    """The machine of images; its visible biases start at the pixels' log-odds (Hinton 2010)."""

    def start_at_the_mean(params, mean):
        # A pixel that is never on would start at −∞.
        odds = jax.scipy.special.logit(jnp.clip(mean.reshape(-1), 1e-3, 1 - 1e-3))
        return {**params, "bias_0": odds}

    made = _machine(spec, 1, spec.num_pixels)
    return {**made, "rbm_1": made["rbm_1"]._replace(init=start_at_the_mean)}


def two_machines(spec: Spec) -> dict[str, Network]:
    """The trained machine of images, and the machine of its hidden units."""
    first = {"rbm_1": first_machine(spec)["rbm_1"]}
    return {**first, **_machine(spec, 2, spec.options.hidden[0])}


def free_energy(spec: Spec, rbm: Params, v: jax.Array) -> jax.Array:
    """F(v) f[B] = −v·b − Σ_j softplus(v·W_j + c_j): −log p(v) up to log Z, in nats."""
    return -v @ rbm["bias_0"] - jax.nn.softplus(tied.up(spec, rbm, v)).sum(axis=1)


def gibbs_step(
    spec: Spec, rbm: Params, keys: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws hidden units given v f[B, N], then v given them; returns the new v and its mean."""
    h = tied.draw(fold_rows(keys, 0), jax.nn.sigmoid(tied.up(spec, rbm, v)))
    mean = jax.nn.sigmoid(tied.down(spec, rbm, h))
    return tied.draw(fold_rows(keys, 1), mean), mean


def _move_chains(spec, params, inputs, index):
    """½ ‖chains − chains after k steps‖² f[], with a gradient only through the first.

    A gradient step of rate 1 replaces the chains by the moved chains, exactly: units are 0 or 1.
    """
    chains = params[f"chains_{index}"]["value"]
    rbm = params[f"rbm_{index}"]

    def body(step, v):
        # The first row's key does not depend on how the batch is split.
        keys = row_keys(jax.random.fold_in(inputs.row_keys[0], step), len(v))
        return gibbs_step(spec, rbm, keys, v)[0]

    moved = jax.lax.fori_loop(0, spec.options.gibbs_steps, body, chains)
    distance = 0.5 * ((chains - jax.lax.stop_gradient(moved)) ** 2).sum()
    return distance, {}


def move_first_chains(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """Moves the chains of the machine of images by `gibbs_steps`."""
    return _move_chains(spec, params, inputs, 1)


def move_second_chains(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """Moves the chains of the second machine by `gibbs_steps`."""
    return _move_chains(spec, params, inputs, 2)


def divergence(
    spec: Spec, rbm: Params, v: jax.Array, chains: jax.Array
) -> tuple[jax.Array, Metrics]:
    """F(v) − E F(chains) f[B]; with chains in equilibrium, its gradient is that of −log p(v)."""
    of_data, of_chains = (free_energy(spec, rbm, units) for units in (v, chains))
    metrics = {"free_energy/data": of_data, "free_energy/chains": of_chains}
    return of_data - of_chains.mean(), metrics


def _hidden_draws(spec, params, keys, x):
    """Draws of the first machine's hidden units given binary images."""
    return tied.draw(keys, jax.nn.sigmoid(tied.up(spec, params["rbm_1"], x)))


def _binary(keys, x):
    return tied.draw(fold_rows(keys, 0), x.reshape(len(x), -1))


def first_loss(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """The difference in free energy between binary images and chains."""
    v = _binary(fold_rows(inputs.row_keys, _IMAGES), inputs.x)
    return divergence(spec, params["rbm_1"], v, params["chains_1"]["value"])


def second_loss(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """As `first_loss`, for the first machine's hidden units; the first machine is not trained."""
    keys = fold_rows(inputs.row_keys, _IMAGES)
    v = _hidden_draws(spec, params, fold_rows(keys, 1), _binary(keys, inputs.x))
    return divergence(spec, params["rbm_2"], v, params["chains_2"]["value"])


def sample(
    spec: Spec,
    params: Params,
    key: jax.Array,
    num_samples: int,
    label: jax.Array | None = None,
    start: jax.Array | None = None,
) -> jax.Array:
    """Gibbs sampling in the topmost machine, then means down to pixels: f[num_samples, H, W, C]."""
    tied.check_label(spec, label)
    start_key, units_key, key = jax.random.split(key, 3)
    x = chains.start_images(spec, start_key, num_samples, start)
    keys = row_keys(units_key, len(x))
    v, top = _binary(keys, x), params["rbm_1"]
    is_deep = "rbm_2" in params
    if is_deep:
        v, top = _hidden_draws(spec, params, fold_rows(keys, 1), v), params["rbm_2"]

    def step(key, v):
        v, mean = gibbs_step(spec, top, row_keys(key, len(v)), v)
        return v, jax.nn.sigmoid(tied.down(spec, params["rbm_1"], mean)) if is_deep else mean

    samples = chains.run(spec.options, key, num_samples, v, step)
    return samples.reshape(num_samples, *spec.image_shape)


def check(spec: Spec) -> None:
    """Raises unless the chains move at rate 1."""
    tied.check(spec)
    if dict(spec.optimizer)["chains"] != _MOVE:
        raise UserError(
            "optimizer.chains differs from the algorithm's: the chains must move by gradient "
            "descent at rate 1"
        )


_MOVE = OptimizerSpec(name="sgd", learning_rate=1.0)
_SGD = OptimizerSpec(name="sgd", learning_rate=0.05, momentum=0.5)
RESTRICTED_BOLTZMANN_MACHINE = Algorithm(
    networks=first_machine,
    phases=(
        Phase("chains", ("chains_1",), move_first_chains, _MOVE),
        Phase("divergence", ("rbm_1",), first_loss, _SGD),
    ),
    sample=sample,
    options=Options,
    starts_from_images=True,
    check=check,
)
DEEP_BELIEF_NETWORK = RESTRICTED_BOLTZMANN_MACHINE._replace(
    networks=two_machines,
    phases=(
        Phase("chains", ("chains_2",), move_second_chains, _MOVE),
        Phase("divergence", ("rbm_2",), second_loss, _SGD),
    ),
    starts_from=("rbm_1",),
)
