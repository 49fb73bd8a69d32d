"""The public names for type checkers, which do not follow the lazy imports of `__init__.py`."""

from aae_jax import annealed as annealed, parzen as parzen
from aae_jax.algorithms.base import (
    Algorithm as Algorithm,
    Inputs as Inputs,
    Phase as Phase,
)
from aae_jax.config import (
    spec_from_config as spec_from_config,
)
from aae_jax.errors import (
    UserError as UserError,
)
from aae_jax.evaluation import (
    evaluate as evaluate,
)
from aae_jax.experiment import (
    load_state as load_state,
)
from aae_jax.exporting import (
    export as export,
)
from aae_jax.likelihood import (
    annealed_arguments as annealed_arguments,
    decoder_of as decoder_of,
)
from aae_jax.measures import (
    diagnose as diagnose,
)
from aae_jax.networks import (
    Network as Network,
)
from aae_jax.novelty import (
    Scores as Scores,
    score as score,
)
from aae_jax.optimizers import (
    OptimizerSpec as OptimizerSpec,
)
from aae_jax.parallel import (
    make_mesh as make_mesh,
    pmap_train_step as pmap_train_step,
)
from aae_jax.posteriors import (
    Posterior as Posterior,
)
from aae_jax.priors import (
    Prior as Prior,
    PriorSample as PriorSample,
    sample_prior as sample_prior,
)
from aae_jax.settings import (
    AnnealedSpec as AnnealedSpec,
    DataSpec as DataSpec,
    EvaluationSpec as EvaluationSpec,
)
from aae_jax.spec import (
    ModelSpec as ModelSpec,
    PriorSpec as PriorSpec,
    Spec as Spec,
    TrainSpec as TrainSpec,
)
from aae_jax.train_state import (
    TrainState as TrainState,
    classify as classify,
    create_train_state as create_train_state,
    decode as decode,
    embed as embed,
    encode as encode,
    generate as generate,
    reconstruct as reconstruct,
    sampler as sampler,
)
from aae_jax.training import (
    train_batches as train_batches,
    train_step as train_step,
    train_steps as train_steps,
)

__version__: str
