"""Classes and styles: the semi-supervised adversarial autoencoder, and clustering without labels.

From the later version of the paper (Makhzani et al. 2016). The encoder infers a class y and a style z,
and the decoder sees both. One discriminator compares y with one-hot draws, another compares z with
samples of the prior. Rows with labels train the class by its cross-entropy. Without labels the
classes are clusters.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from aae_jax import layers, losses, networks, transformations
from aae_jax.algorithms import autoencoder
from aae_jax.algorithms.base import Algorithm, Inputs, Metrics, Phase, raw_moments
from aae_jax.checks import (
    check_begins,
    check_first_step,
    check_length,
    check_positive,
    check_types,
)
from aae_jax.errors import UserError
from aae_jax.keys import fold_rows, row_normal
from aae_jax.networks import Network, Params
from aae_jax.optimizers import OptimizerSpec
from aae_jax.posteriors import DETERMINISTIC
from aae_jax.priors import sample_prior
from aae_jax.registry import POSTERIORS, name_of
from aae_jax.spec import Spec


@dataclasses.dataclass(frozen=True)
class Options:
    """The config's section `options`.

    Attributes:
        labels: whether labelled rows train the class. False: clusters, found without labels.
        num_clusters: K of the class y; None: the classes of the data.
        as_map: whether the decoder sees one point, W y + z, in place of y and z. On such a map,
            every class has a head, a row of W, and styles lie around it. `aae.embed` returns the
            point.
        head_distance: the distance up to which two heads of a map are pushed apart.
        style_noise: if given, the std of Gaussian noise on styles while images are reconstructed.
        smoothness: if given, classes also learn not to change within this distance of an image
            (virtual adversarial training, Miyato et al. 2016), in units of the encoder's input.
        smoothness_from: the first step with `smoothness` and `transformations`. Smoothness keeps the
            classes that it finds, so with few labels it should come late.
        transformations: if given, classes also learn, with this weight, not to change if an image
            turns, moves and stretches a little (`transformations.random_affine`). This is a part of
            the phase "smoothness", beside `smoothness` or alone.
        information: if given, the weight of the information that clusters hold about images, in the
            same loss (Hu et al. 2017). It keeps clusters in use, and each image's cluster certain.
    """

    labels: bool = True
    num_clusters: int | None = None
    as_map: bool = False
    head_distance: float = 10.0
    style_noise: float | None = None
    smoothness: float | None = None
    smoothness_from: int = 0
    transformations: float | None = None
    information: float | None = None

    def __post_init__(self) -> None:
        check_types(self, "options")
        if self.num_clusters is not None:
            check_positive("options.num_clusters", self.num_clusters)
        check_length("options.head_distance", self.head_distance)
        for name in ("style_noise", "smoothness", "transformations", "information"):
            value = getattr(self, name)
            if value is not None:
                check_length(f"options.{name}", value)
        smooth = "smoothness" if self.transformations is None else "transformations"
        check_first_step(self, "smoothness_from", smooth)


_SMALL_WEIGHTS = jax.nn.initializers.normal(0.01)


def encoder(spec: Spec, num_outputs: int) -> layers.MLP:
    """`model.encoder` with the paper's initial weights: "mlp" with weights N(0, 0.01²)."""
    return _mlp(spec, spec.model.encoder_hidden, (num_outputs,))


def decoder(spec: Spec) -> layers.MLP:
    """`model.decoder` with the paper's initial weights."""
    return _mlp(spec, spec.model.decoder_hidden, spec.image_shape)


def discriminator_network(spec: Spec) -> layers.MLP:
    """`model.discriminator` with the paper's initial weights."""
    return _mlp(spec, spec.model.discriminator_hidden, ())


def _mlp(spec, hidden, output_shape):
    dtypes = networks.dtypes(spec)
    return layers.MLP(hidden, output_shape, kernel_init=_SMALL_WEIGHTS, **dtypes)


def num_labels(spec: Spec) -> int:
    """K, the number of classes or clusters."""
    return spec.options.num_clusters or spec.num_classes


def make_networks(spec: Spec) -> dict[str, Network]:
    """Encoder and decoder of class and style, a discriminator for each, and the heads of a map."""
    model, num_classes = spec.model, num_labels(spec)
    num_outputs = num_classes + model.code_dim
    decoder = networks.make("model.decoder", model.decoder, spec)
    if spec.options.as_map:
        shape = num_classes, model.code_dim
        start = _heads_start(spec.options.head_distance / autoencoder.code_scale(spec))
        decoder = layers.OnMap(decoder, shape, start, jnp.dtype(model.param_dtype))
    made = {
        "encoder": Network(
            networks.make("model.encoder", model.encoder, spec, num_outputs),
            inputs=(spec.image_shape, None),
            output=(num_outputs,),
        ),
        "decoder": Network(
            decoder, inputs=((model.code_dim,), (num_classes,)), output=spec.image_shape
        ),
    }
    beside = (num_classes,) if model.label_in_discriminator else None
    for name, inputs in (
        ("class_discriminator", ((num_classes,), None)),
        ("style_discriminator", ((model.code_dim,), beside)),
    ):
        made[name] = Network(
            networks.make("model.discriminator", model.discriminator, spec),
            inputs=inputs,
            output=(),
            training_only=True,
        )
    return made


# One function per distance, so that equal specs make equal modules.
_heads_start = functools.cache(jax.nn.initializers.normal)


def infer(
    spec: Spec, params: Params, x: jax.Array, dropout_keys: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Class logits f[B, K] and styles f[B, D] of images f[B, H, W, C] in the networks' units."""
    outputs = networks.apply(spec, params, "encoder", x, None, dropout_keys=dropout_keys)
    logits, z = jnp.split(outputs, [num_labels(spec)], axis=1)
    return logits, autoencoder.code_scale(spec) * z


def decoder_outputs(
    spec: Spec,
    params: Params,
    z: jax.Array,
    y: jax.Array,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """Images of styles f[B, D] and classes f[B, K], before the output activation."""
    z = z / autoencoder.code_scale(spec)
    return networks.apply(spec, params, "decoder", z, y, dropout_keys=dropout_keys)


def heads(spec: Spec, params: Params) -> jax.Array:
    """The heads f[K, D] of the classes on a map."""
    return autoencoder.code_scale(spec) * params["decoder"]["heads"]


def reconstruction(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """The reconstruction phase; the class is the encoder's softmax, even for labelled rows."""
    keys = inputs.dropout_keys
    logits, z = infer(spec, params, inputs.x_noisy, keys)
    if spec.options.style_noise is not None:
        z = autoencoder.with_noise(z, inputs.row_keys, spec.options.style_noise)
    outputs = decoder_outputs(spec, params, z, jax.nn.softmax(logits), keys)
    loss = autoencoder.reconstruction_loss(spec, outputs, inputs.x)
    if not spec.options.as_map:
        return loss, {}
    closeness = head_closeness(heads(spec, params), spec.options.head_distance)
    return loss + closeness, {"heads/closeness": jnp.full_like(loss, closeness)}


def head_closeness(places: jax.Array, distance: float) -> jax.Array:
    """Σ_{i<j} max(0, distance − ‖w_i − w_j‖) f[], the loss of heads f[K, D] that are too close."""
    i, j = jnp.triu_indices(len(places), 1)
    apart = jnp.linalg.norm(places[i] - places[j], axis=1)
    return jnp.maximum(0.0, distance - apart).sum()


def discriminator(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """Both discriminators learn to tell draws of the prior from the updated encoder's outputs."""
    keys = inputs.dropout_keys
    prior_keys = None if keys is None else fold_rows(keys, 1)
    logits, z = infer(spec, params, inputs.x_noisy, keys)
    prior_z, label = inputs.prior_sample
    y, prior_y = jax.nn.softmax(logits), jax.nn.one_hot(label, num_labels(spec), dtype=z.dtype)
    loss = jnp.zeros(z.shape[0], z.dtype)
    metrics = {**raw_moments("code", z), **raw_moments("prior", prior_z)}
    for name in ("class_discriminator", "style_discriminator"):
        on_prior = _discriminate(spec, params, name, prior_y, prior_z, prior_keys)
        on_codes = _discriminate(spec, params, name, y, z, keys)
        loss += losses.discriminator_loss(on_prior, on_codes)
        # The warnings of a run read those of styles, which are the codes.
        called = name.removeprefix("style_")
        metrics[f"{called}/accuracy_on_prior"] = (on_prior > 0).astype(z.dtype)
        metrics[f"{called}/accuracy_on_codes"] = (on_codes < 0).astype(z.dtype)
    return loss, metrics


def generator(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """The encoder learns to confuse both updated discriminators."""
    keys = inputs.dropout_keys
    logits, z = infer(spec, params, inputs.x_noisy, keys)
    y = jax.nn.softmax(logits)
    of_class = _discriminate(spec, params, "class_discriminator", y, z, keys)
    of_style = _discriminate(spec, params, "style_discriminator", y, z, keys)
    return losses.generator_loss(of_class) + losses.generator_loss(of_style), {}


def _discriminate(spec, params, name, y, z, dropout_keys):
    """Logits f[B] of classes f[B, K] or styles f[B, D].

    With `model.label_in_discriminator`, the discriminator of styles also sees the likeliest class.
    """
    v, beside = y, None
    if name == "style_discriminator":
        v = z / autoencoder.code_scale(spec)
        if spec.model.label_in_discriminator:  # a soft class would tell codes from one-hot draws
            beside = jax.nn.one_hot(y.argmax(axis=1), y.shape[1], dtype=y.dtype)
    return networks.apply(spec, params, name, v, beside, dropout_keys=dropout_keys)


def supervised(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """The class's cross-entropy f[L] in nats on labelled rows, which have noise like all others.

    It is 0 for a row without a label.
    """
    labelled = inputs.labelled
    assert labelled is not None  # the training step sees to it
    logits, _ = infer(spec, params, labelled.x_noisy, labelled.dropout_keys)
    y = jax.nn.one_hot(labelled.label, num_labels(spec), dtype=logits.dtype)
    loss = -(jax.nn.log_softmax(logits) * y).sum(axis=1)
    right = logits.argmax(axis=1) == labelled.label
    return loss, {"supervised/accuracy": right.astype(loss.dtype)}


def smoothness(spec: Spec, params: Params, inputs: Inputs) -> tuple[jax.Array, Metrics]:
    """How much the class of an image changes with the image, f[B].

    With `options.smoothness` KL(q(y|x) ‖ q(y|x + r)), for the r of that length that raises it most. One
    step of power iteration finds r (Miyato et al. 2016): the gradient at a random r of length 1, where
    they take the limit of short ones. With `options.transformations`, plus this weight times
    KL(q(y|x) ‖ q(y|x′)), for a randomly transformed x′. Before `options.smoothness_from` it is 0. With
    `options.information`, the mean f[] of this less the weighted information of the classes.
    """
    x, keys, options = inputs.x, inputs.dropout_keys, spec.options

    def loss():
        logits, _ = infer(spec, params, x, keys)
        log_y = jax.lax.stop_gradient(jax.nn.log_softmax(logits))

        def divergence(changed):
            changed_logits, _ = infer(spec, params, changed, keys)
            return (jnp.exp(log_y) * (log_y - jax.nn.log_softmax(changed_logits))).sum(axis=1)

        found = jnp.zeros(len(x), x.dtype)
        if options.smoothness is not None:
            start = row_normal(fold_rows(inputs.row_keys, 3), spec.num_pixels, x.dtype)
            start = _with_length(start.reshape(x.shape), 1.0)
            direction = jax.grad(lambda r: divergence(x + r).sum())(start)
            worst = jax.lax.stop_gradient(_with_length(direction, options.smoothness))
            found += divergence(x + worst)
        if options.transformations is not None:
            changed = transformations.random_affine(fold_rows(inputs.row_keys, 5), x)
            found += options.transformations * divergence(changed)
        if options.information is None:
            return found
        return found.mean() - options.information * information(logits)

    first = options.smoothness_from
    if not first:
        return loss(), {}
    return jax.lax.cond(inputs.step >= first, loss, lambda: jnp.zeros(len(x), x.dtype)), {}  # type: ignore[operator]


def _is_smooth(spec):
    """Whether classes learn not to change with the image."""
    return spec.options.smoothness is not None or spec.options.transformations is not None


# Clusters need not be equally large: beyond this share of ln K, more entropy gains nothing.
_ENOUGH_ENTROPY = 0.92


def information(logits: jax.Array) -> jax.Array:
    """4 min(H(y), 0.92 ln K) − H(y|x) f[] in nats, of a batch's class logits f[B, K].

    H(y) − H(y|x) is the mutual information of class and image, which Hu et al. (2017) maximise beside
    smoothness. The weight 4 keeps clusters in use; the bound lets their sizes differ.
    """
    log_y = jax.nn.log_softmax(logits)
    # By logarithms: a cluster whose mean underflows to 0 would have no finite gradient.
    log_mean = jax.nn.logsumexp(log_y, axis=0) - math.log(len(logits))
    of_mean = -(jnp.exp(log_mean) * log_mean).sum()
    enough = jnp.minimum(of_mean, _ENOUGH_ENTROPY * math.log(logits.shape[1]))
    return 4 * enough + (jnp.exp(log_y) * log_y).sum(axis=1).mean()


def _with_length(r, length):
    """Rows of r f[B, …] scaled to a length; zeros stay."""
    squares = jnp.square(r).sum(axis=tuple(range(1, r.ndim)), keepdims=True)
    return length * r * jax.lax.rsqrt(jnp.maximum(squares, jnp.finfo(r.dtype).tiny))


def encode(
    spec: Spec,
    params: Params,
    x: jax.Array,
    row_keys: jax.Array | None,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """The styles f[B, D] of images."""
    del row_keys
    return infer(spec, params, x, dropout_keys)[1]


def classify(spec: Spec, params: Params, x: jax.Array) -> jax.Array:
    """The class probabilities q(y|x) f[B, K] of images."""
    return jax.nn.softmax(infer(spec, params, x)[0])


def embed(spec: Spec, params: Params, x: jax.Array) -> jax.Array:
    """The points W y + z f[B, D] of images on a map."""
    logits, z = infer(spec, params, x)
    return jax.nn.softmax(logits) @ heads(spec, params) + z


def decode(spec: Spec, params: Params, z: jax.Array, label: jax.Array | None) -> jax.Array:
    """Images of styles f[B, D] and classes i32[B], or f[B, K] of soft classes."""
    if label is None:
        raise UserError(
            f"algorithm {spec.algorithm_name} decodes a style and a class: give label, 0 … "
            f"{num_labels(spec) - 1}"
        )
    y = autoencoder.as_classes(label, num_labels(spec), z.dtype)
    return autoencoder.activate(spec, decoder_outputs(spec, params, z, y))


def reconstruct(
    spec: Spec, params: Params, x: jax.Array, row_keys: jax.Array | None, label: jax.Array | None
) -> jax.Array:
    """Decodes the style with the inferred class, or with the label if it is given."""
    del row_keys
    logits, z = infer(spec, params, x)
    return decode(spec, params, z, jax.nn.softmax(logits) if label is None else label)


def sample(
    spec: Spec,
    params: Params,
    key: jax.Array,
    num_samples: int,
    label: jax.Array | None = None,
    start: jax.Array | None = None,
) -> jax.Array:
    """Decodes styles from the prior with the given classes, or with classes drawn uniformly.

    A class of −1 is drawn too.
    """
    del start
    is_soft = label is not None and jnp.issubdtype(label.dtype, jnp.floating)
    z, drawn = sample_prior(spec, key, num_samples, None if is_soft else label)
    return decode(spec, params, z, label if is_soft else drawn)


def check(spec: Spec) -> None:
    """Raises for options that do not fit a class and a style."""
    model, options = spec.model, spec.options
    name = spec.algorithm_name
    for field in (
        "label_in_decoder",
        "condition_in_decoder",
        "condition_in_discriminator",
    ):
        if getattr(model, field):
            raise UserError(
                f"model.{field} is True: algorithm {name} infers the class, and its networks take no "
                "label or condition beside it"
            )
    if model.posterior is not DETERMINISTIC:
        raise UserError(
            f"model.posterior is {name_of(model.posterior, POSTERIORS)}: algorithm {name} needs "
            "'deterministic'"
        )
    if spec.prior.has_components:
        raise UserError(
            f"prior.name is {spec.prior.name!r}: the prior of algorithm {name} is that of the style, and "
            "its labels would be another class; use 'gaussian'"
        )
    if options.labels and num_labels(spec) != spec.num_classes:
        raise UserError(
            f"options.num_clusters is {options.num_clusters} and options.labels is True: labels name "
            f"the {spec.num_classes} classes of the data; set options.labels=False for clusters"
        )
    if num_labels(spec) < 2:
        raise UserError(
            "options.num_clusters is 1: there must be at least 2 classes or clusters"
            if options.num_clusters
            else f"num_classes is {spec.num_classes}: algorithm {name} needs at least 2"
        )
    check_begins(spec, "smoothness_from")
    if options.smoothness_from and dict(spec.optimizer)["smoothness"].name == "adam":
        raise UserError(
            f"options.smoothness_from is {options.smoothness_from} and optimizer.smoothness.name 'adam': "
            "after steps without a gradient Adam's first updates are several times too long; use 'sgd'"
        )
    if options.information is not None and (options.labels or not _is_smooth(spec)):
        raise UserError(
            f"options.information is {options.information}, options.labels {options.labels}, "
            f"options.smoothness {options.smoothness} and options.transformations "
            f"{options.transformations}: it is for clusters, beside one of the last two; set "
            "options.labels=False, and options.smoothness or options.transformations"
        )
    if options.transformations is not None and len(spec.image_shape) != 3:
        raise UserError(
            f"options.transformations is {options.transformations} and image_shape {spec.image_shape}: "
            "it needs images of (height, width, channels)"
        )
    if options.information is not None and options.smoothness_from:
        raise UserError(
            f"options.smoothness_from is {options.smoothness_from} and options.information "
            f"{options.information}: both begin with the training; set options.smoothness_from=0"
        )
    if not options.labels and num_labels(spec) > spec.train.batch_size:
        raise UserError(
            f"options.num_clusters is {num_labels(spec)} and train.batch_size {spec.train.batch_size}: "
            "a batch must have at least one row for each cluster"
        )


def check_standardised(spec: Spec) -> None:
    """Raises for transformations: they would move a pixel to where mean and std are others."""
    if spec.options.transformations is not None:
        raise UserError(
            f"options.transformations is {spec.options.transformations} and data.standardise True: "
            "pixels that move need one mean and std; set data.standardise=False"
        )


_REGULARISATION = OptimizerSpec(learning_rate=2e-4, b1=0.5, schedule="cosine")

SEMI_SUPERVISED = Algorithm(
    networks=make_networks,
    phases=(
        Phase(
            "reconstruction",
            ("encoder", "decoder"),
            reconstruction,
            OptimizerSpec(schedule="cosine"),
        ),
        Phase(
            "discriminator",
            ("class_discriminator", "style_discriminator"),
            discriminator,
            _REGULARISATION,
        ),
        Phase("generator", ("encoder",), generator, _REGULARISATION),
        Phase(
            "supervised",
            ("encoder",),
            supervised,
            OptimizerSpec(schedule="cosine"),
            on_labelled=True,
            applies=lambda spec: spec.options.labels,
        ),
        Phase(
            "smoothness",
            ("encoder",),
            smoothness,
            OptimizerSpec(schedule="cosine"),
            applies=_is_smooth,
        ),
    ),
    sample=sample,
    encode=encode,
    decode=decode,
    reconstruct=reconstruct,
    classify=classify,
    embed=embed,
    num_labels=num_labels,
    has_map=lambda spec: spec.options.as_map,
    names_classes=lambda spec: spec.options.labels,
    options=Options,
    check=check,
    check_standardised=check_standardised,
    figures=("classes", "reconstructions", "code_marginals", "training_curves", "samples", "map"),
)
