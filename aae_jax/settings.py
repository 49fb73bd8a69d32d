"""The checked sections of a config that never reach a compiled function, and the whole config."""

import dataclasses
import itertools

from aae_jax import registry
from aae_jax.checks import (
    check_choice,
    check_image_shape,
    check_positive,
    check_types,
)
from aae_jax.errors import UserError
from aae_jax.spec import Spec

RUNNERS = ("jit", "pmap")


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The source of the images; shape and number of classes are checked against the data."""

    name: str  # "digits", "mnist", "tfd", "files", or a builder of tensorflow-datasets
    image_shape: tuple[int, ...]
    num_classes: int
    path: str | None = None  # "files": arrays, a table or a directory of images
    data_dir: str | None = None  # where tensorflow-datasets keeps prepared data
    manual_dir: str | None = None  # the original files, to prepare them without a network
    # Other builders of tensorflow-datasets: their splits, or slices of splits.
    train_split: str = "train[:90%]"
    validation_split: str = "train[90%:]"
    test_split: str = "test"
    fold: int | None = None  # "tfd": 1 … 5; None: all five are scored
    drop_black: bool = False  # "tfd": leave out the images that are all black
    # How many training images keep their label, balanced over the classes; None: all of them.
    num_labelled: int | None = None
    # How often an epoch visits an image that keeps its label; all others are visited once. None:
    # once as well.
    labelled_repeats: int | None = None
    standardise: bool = False  # every pixel to mean 0 and std 1 over the training images
    # "files" and other builders: images of other sizes and kinds are converted to `image_shape`.
    resize: bool = False
    label_column: str | None = None  # "files": of a .csv; None: the column called label, class, …
    condition_dim: int = 0  # "files": K of the `conditions` f[N, K] beside the examples; 0: none

    def __post_init__(self) -> None:
        check_types(self, "data")
        check_image_shape("data.image_shape", self.image_shape)
        check_positive("data.num_classes", self.num_classes)
        if not 0 <= self.condition_dim < 2**31:
            raise UserError(f"data.condition_dim is {self.condition_dim}: it must be 0 or more")
        _, own = registry.SOURCES.get(self.name, registry.BUILDERS)
        if ("path" in own) != bool(self.path):
            raise UserError(
                f"data.name is {self.name!r} and data.path is {self.path!r}: 'files' needs a path, "
                "the other data sets take none"
            )
        if self.resize and (len(self.image_shape) != 3 or self.image_shape[2] not in (1, 3)):
            raise UserError(
                f"data.resize is True and data.image_shape {self.image_shape}: images become "
                "(height, width, 1), grey, or (height, width, 3), RGB"
            )
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        takes = {repr(source): fields for source, (_, fields) in registry.SOURCES.items()}
        takes["other builders of tensorflow-datasets"] = registry.BUILDERS[1]
        for field in dict.fromkeys(itertools.chain(*takes.values())):
            value = getattr(self, field)
            if field not in own and value != defaults[field]:
                users = " and ".join(source for source, fields in takes.items() if field in fields)
                raise UserError(f"data.{field} is {value!r}: it is for {users}, not {self.name!r}")
        if self.fold is not None and not 1 <= self.fold <= 5:
            raise UserError(f"data.fold is {self.fold}: it must be 1 … 5, or None for all five")
        if self.num_labelled is not None and self.num_labelled < 0:
            raise UserError(f"data.num_labelled is {self.num_labelled}: it must be 0 or more")
        if self.labelled_repeats is not None:
            check_positive("data.labelled_repeats", self.labelled_repeats, most=10**4)
            if not self.num_labelled:
                raise UserError(
                    f"data.labelled_repeats is {self.labelled_repeats} and data.num_labelled "
                    f"{self.num_labelled}: it needs images that keep their label; set "
                    "data.labelled_repeats=None"
                )


@dataclasses.dataclass(frozen=True)
class ParallelSpec:
    """The devices over which each batch is split, and how: see `aae_jax.parallel`."""

    runner: str = "jit"  # over a mesh of the devices; or "pmap", in one process
    num_devices: int | None = None  # None: all; for training, as many as the batch divides over

    def __post_init__(self) -> None:
        check_types(self, "parallel")
        check_choice("parallel.runner", self.runner, RUNNERS)
        if self.num_devices is not None:
            check_positive("parallel.num_devices", self.num_devices)


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """How often the training loop returns to the host, and when it ends."""

    steps_per_dispatch: int = 100
    checkpoint_every: int = 1_000
    # Whether images are streamed from the host while training, instead of lying on the device;
    # None: if they would take more than half of its memory.
    stream: bool | None = None
    # The maximal number of steps of this training and of those that it starts from, for trials;
    # schedules end with it. None: `train.num_steps` of each.
    max_steps: int | None = None

    def __post_init__(self) -> None:
        check_types(self, "run")
        check_positive("run.steps_per_dispatch", self.steps_per_dispatch, most=10**5)
        check_positive("run.checkpoint_every", self.checkpoint_every)
        if self.max_steps is not None:
            check_positive("run.max_steps", self.max_steps)


@dataclasses.dataclass(frozen=True)
class AnnealedSpec:
    """Number and length of the chains of annealed importance sampling: see `aae_jax.annealed`."""

    num_chains: int = 16  # for each image
    num_temperatures: int = 500  # from the start to the posterior; one transition at each
    # Leapfrog steps of a transition. Many temperatures with few steps are better than the reverse:
    # docs/likelihood.md has numbers.
    num_leapfrog: int = 3
    acceptance: float = 0.8  # the acceptance rate that step sizes are adapted to
    block_size: int = 64  # images that are run together; memory grows with it

    def __post_init__(self) -> None:
        check_types(self, "annealed")
        check_positive("annealed.num_chains", self.num_chains, most=10**6)
        check_positive("annealed.num_temperatures", self.num_temperatures, most=10**7)
        check_positive("annealed.num_leapfrog", self.num_leapfrog, most=10**6)
        check_positive("annealed.block_size", self.block_size)
        if not 0.0 < self.acceptance < 1.0:
            raise UserError(
                f"annealed.acceptance is {self.acceptance}: it must be above 0 and below 1"
            )


@dataclasses.dataclass(frozen=True)
class AnnealedScoring(AnnealedSpec):
    """The config's section `evaluation.annealed`: see `aae_jax.likelihood.score_annealed`."""

    block_size: int = 16  # images that are run together: a signal waits for the end of a block
    num_images: int | None = None  # the first test images, which are scored; None: none
    num_validation: int = 64  # the first validation images, to which σ is fitted
    sigma: float | None = None  # None: the best for the validation images

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_images is not None:
            check_positive("annealed.num_images", self.num_images)
        check_positive("annealed.num_validation", self.num_validation)
        if self.sigma is not None:
            check_positive("annealed.sigma", self.sigma, least=1e-15, most=1e15)


@dataclasses.dataclass(frozen=True)
class EvaluationSpec:
    """The Parzen protocol of Table 1: see `aae_jax.evaluation`."""

    num_samples: int = 10_000
    num_validation: int | None = 1_000  # the first validation images, which choose σ; None: all
    # The grid from which σ is chosen. None: Goodfellow's for pixels in [0, 1]; for other numbers,
    # twenty values from 0.03 to 3 times their standard deviation.
    sigmas: tuple[float, ...] | None = None
    annealed: AnnealedScoring = AnnealedScoring()  # the limit of many samples

    def __post_init__(self) -> None:
        check_types(self, "evaluation")
        check_positive("evaluation.num_samples", self.num_samples, most=10**12)
        if self.num_validation is not None:
            check_positive("evaluation.num_validation", self.num_validation)
        if self.sigmas is None:
            return
        if not self.sigmas:
            raise UserError(
                "evaluation.sigmas is empty: give the grid from which σ is chosen, or None"
            )
        for sigma in self.sigmas:
            check_positive("evaluation.sigmas", sigma, self.sigmas, least=1e-15, most=1e15)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole config, checked."""

    seed: int
    num_seeds: int  # trainings in one program, with seeds seed, seed + 1, …
    start_from: str | None  # the workdir or the config of the run that this one starts from
    spec: Spec
    data: DataSpec
    parallel: ParallelSpec
    run: RunSpec
    evaluation: EvaluationSpec

    @property
    def seeds(self) -> range:
        """The seeds of the trainings."""
        return range(self.seed, self.seed + self.num_seeds)
