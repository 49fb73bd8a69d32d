"""p(z): the distributions that can be imposed on the code."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aae_jax.arguments import as_key, as_labels, check_count
from aae_jax.errors import UserError, in_one_line
from aae_jax.losses import gaussian_cross_entropy
from aae_jax.spec import PriorSpec, Spec, takes_label


class PriorSample(NamedTuple):
    """Draws from the prior, the positive samples of the discriminator."""

    z: jax.Array  # f[B, D]
    # i32[B], the component that each row was drawn from; −1: the full prior. Of models that draw a
    # class or cluster beside the code (`Algorithm.num_labels`), that class.
    label: jax.Array


class Prior(NamedTuple):
    """One choice of p(z).

    Attributes:
        sample: (spec, key, label i32[B]) → z f[B, D]; label −1 draws from the full prior.
        log_prob: (spec, z f[B, D]) → f[B] nats; None if there is no formula.
        component_log_prob: (spec, z f[B, D]) → log p(z | label) f[B, num_classes]; None if there
            are no components or there is no formula.
        cross_entropy: (spec, mean f[B, D], std f[B, D]) → E[−log p(z)] f[B] nats under a Gaussian;
            None if it can only be estimated from draws of z.
        has_components: (spec.prior) → whether a label selects a component.
        code_dim: the only code dimension that the prior supports, or None for any.
        is_bounded: whether the density is zero outside a bounded region.
        takes_function: whether `prior.function` defines the prior.
        figures: the figures that show the layout of the prior (`aae_jax.figures`).
    """

    sample: Callable[[Spec, jax.Array, jax.Array], jax.Array]
    log_prob: Callable[[Spec, jax.Array], jax.Array] | None = None
    component_log_prob: Callable[[Spec, jax.Array], jax.Array] | None = None
    cross_entropy: Callable[[Spec, jax.Array, jax.Array], jax.Array] | None = None
    has_components: Callable[[PriorSpec], bool] = lambda prior: False
    code_dim: int | None = None
    is_bounded: bool = False
    takes_function: bool = False
    figures: tuple[str, ...] = ()


def gaussian(spec: Spec, key: jax.Array, label: jax.Array) -> jax.Array:
    """N(0, std²) in every dimension; it has no components, so the label is not used."""
    shape = (label.shape[0], spec.model.code_dim)
    return spec.prior.std * jax.random.normal(key, shape, spec.model.param_dtype)


def gaussian_log_prob(spec: Spec, z: jax.Array) -> jax.Array:
    """Σ_i log N(z_i; 0, std²)."""
    return _log_normal(z, spec.prior.std).sum(axis=-1)


def uniform(spec: Spec, key: jax.Array, label: jax.Array) -> jax.Array:
    """U(−radius, radius) in every dimension; it has no components, so the label is not used."""
    shape, radius = (label.shape[0], spec.model.code_dim), spec.prior.radius
    return jax.random.uniform(key, shape, spec.model.param_dtype, -radius, radius)


def uniform_log_prob(spec: Spec, z: jax.Array) -> jax.Array:
    """−D log(2 radius) in the box, −∞ outside."""
    inside = (jnp.abs(z) <= spec.prior.radius).all(axis=-1)
    log_density = jnp.asarray(-z.shape[-1] * math.log(2 * spec.prior.radius), z.dtype)
    return jnp.where(inside, log_density, -jnp.inf)


def gaussian_mixture(spec: Spec, key: jax.Array, label: jax.Array) -> jax.Array:
    """Figs 2b and 4a: one 2-D Gaussian per class, like petals around the origin.

    The mean of component i lies at `radius` in the direction 2πi / num_classes. Its standard
    deviation is `radial_std` along that direction and `tangential_std` across it.
    """
    component_key, noise_key = jax.random.split(key)
    component = _fill(component_key, label, spec.num_classes)
    prior, dtype = spec.prior, spec.model.param_dtype
    noise = jax.random.normal(noise_key, (label.shape[0], 2), dtype)
    along = prior.radius + prior.radial_std * noise[:, 0]
    across = prior.tangential_std * noise[:, 1]
    cos, sin = _direction(component, spec.num_classes, dtype)
    return jnp.stack([along * cos - across * sin, along * sin + across * cos], axis=1)


def gaussian_mixture_component_log_prob(spec: Spec, z: jax.Array) -> jax.Array:
    """log N of every component, in the frame where the component's covariance is diagonal."""
    cos, sin = _direction(jnp.arange(spec.num_classes), spec.num_classes, z.dtype)
    along = z[:, :1] * cos + z[:, 1:] * sin - spec.prior.radius
    across = z[:, 1:] * cos - z[:, :1] * sin
    return _log_normal(along, spec.prior.radial_std) + _log_normal(
        across, spec.prior.tangential_std
    )


def gaussian_mixture_log_prob(spec: Spec, z: jax.Array) -> jax.Array:
    """The mixture's exact log density; components have equal weights."""
    components = gaussian_mixture_component_log_prob(spec, z)
    return jax.nn.logsumexp(components, axis=1) - math.log(spec.num_classes)


def swiss_roll(spec: Spec, key: jax.Array, label: jax.Array) -> jax.Array:
    """Section 3.1: "a conditional Gaussian distribution whose mean is uniformly distributed along
    the length of a swiss roll axis"; label i takes the i-th of num_classes equal parts.
    """
    u_key, noise_key = jax.random.split(key)
    dtype = spec.model.param_dtype
    u = jax.random.uniform(u_key, label.shape, dtype)
    u = jnp.where(label < 0, u, (label + u) / spec.num_classes)
    noise = jax.random.normal(noise_key, (label.shape[0], 2), dtype)
    return swiss_roll_axis(spec, u) + spec.prior.std * noise


def swiss_roll_axis(spec: Spec, u: jax.Array) -> jax.Array:
    """Points f[B, 2] of the roll's axis at u f[B] in [0, 1] from its inner to its outer end.

    Radius and angle grow with √u, so that equal steps in u have nearly equal lengths.
    """
    root = jnp.sqrt(u)
    angle = 2 * jnp.pi * spec.prior.turns * root
    radius = spec.prior.radius * root
    return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=-1)


def swiss_roll_component_log_prob(spec: Spec, z: jax.Array) -> jax.Array:
    """log p(z | label) by quadrature, with 200 equal Gaussians for each part of the axis."""
    num_points = 200
    u = (jnp.arange(spec.num_classes * num_points) + 0.5) / (spec.num_classes * num_points)
    axis = swiss_roll_axis(spec, u.astype(z.dtype)).reshape(spec.num_classes, num_points, 2)

    def one(point):
        log_normal = _log_normal(point - axis, spec.prior.std).sum(axis=-1)
        return jax.nn.logsumexp(log_normal, axis=1) - math.log(num_points)

    return jax.lax.map(one, z, batch_size=1_000)


def user(spec: Spec, key: jax.Array, label: jax.Array) -> jax.Array:
    """The user's function, with the label if it takes one."""
    arguments = (key, label.shape[0]) + ((label,) if spec.prior.has_components else ())
    return in_one_line("prior.function", spec.prior.function, *arguments)


GAUSSIAN = Prior(
    gaussian,
    gaussian_log_prob,
    cross_entropy=lambda spec, mean, std: gaussian_cross_entropy(mean, std, spec.prior.std),
    figures=("percentiles", "walk"),
)
UNIFORM = Prior(uniform, uniform_log_prob, is_bounded=True)
GAUSSIAN_MIXTURE = Prior(
    gaussian_mixture,
    gaussian_mixture_log_prob,
    gaussian_mixture_component_log_prob,
    has_components=lambda prior: True,
    code_dim=2,
    figures=("components",),
)
SWISS_ROLL = Prior(
    swiss_roll,
    component_log_prob=swiss_roll_component_log_prob,
    has_components=lambda prior: True,
    code_dim=2,
    figures=("roll",),
)
USER = Prior(
    user,
    has_components=lambda prior: takes_label(prior.function),
    takes_function=True,
)
_BUILT_IN = GAUSSIAN, UNIFORM, GAUSSIAN_MIXTURE, SWISS_ROLL


def sample_prior(
    spec: Spec, key: jax.Array, batch_size: int, label: jax.Array | np.ndarray | int | None = None
) -> PriorSample:
    """Draws codes from the prior.

    Args:
        spec: which prior, and the code's dimension.
        key: a PRNG key, or a seed.
        batch_size: B, the number of draws.
        label: i32[B] or a scalar, the component to draw each row from; −1, or None for all rows,
            draws from the full prior. f[B, K], soft classes: the component is drawn by their shares.
            A prior without components is the component of every label, for a discriminator that
            takes labels. For models with classes or clusters of their own (`Algorithm.num_labels`),
            −1 and None draw the class uniformly.

    Returns:
        `PriorSample(z f[B, D], label i32[B])`.

    Raises:
        UserError: a label is given and neither prior nor discriminator takes one, or the user's
            function returns the wrong shape.
    """
    check_count("batch_size", batch_size)
    own_labels, key = spec.algorithm.num_labels is not None, as_key(key)
    takes_labels = own_labels or spec.prior.has_components or spec.model.label_in_discriminator
    if label is not None and not takes_labels:
        raise UserError(f"a label is given, but prior {spec.prior.name!r} has no components")
    component = as_labels(-1 if label is None else label, batch_size, spec.num_labels)
    if component.ndim == 2:
        component = jax.random.categorical(jax.random.fold_in(key, 2), jnp.log(component))
    if own_labels:
        component = _fill(jax.random.fold_in(key, 1), component, spec.num_labels)
    field = _field(spec)
    prior = spec.prior.distribution
    # split(key)[1] is fold_in(key, 1), which draws the class: an own prior may split its key.
    own_key = key if prior in _BUILT_IN else jax.random.fold_in(key, 2**31 - 1)
    z = in_one_line(field, prior.sample, spec, own_key, component)
    expected = (batch_size, spec.model.code_dim)
    if getattr(z, "shape", None) != expected:
        raise UserError(
            f"{field} returns shape {getattr(z, 'shape', type(z).__name__)}: it must be "
            f"[batch_size, model.code_dim], {expected}"
        )
    return PriorSample(z.astype(spec.model.param_dtype), component)


def check_prior(spec: Spec) -> None:
    """Tests draws from the prior, with and without labels, before anything is trained.

    Raises:
        UserError: a draw has the wrong shape or is not finite.
    """
    key = jax.random.key(0)
    labels: list[jax.Array | None] = [None]
    if spec.prior.has_components:
        labels.append(jnp.arange(1_000) % spec.num_classes)
    for label in labels:
        z = sample_prior(spec, key, 1_000, label).z
        if not jnp.isfinite(z).all():
            found = z[~jnp.isfinite(z)][0]
            raise UserError(f"{_field(spec)} returns {found}: codes must be finite")


def _field(spec):
    """The config's field that defines the prior."""
    return "prior.function" if spec.prior.distribution.takes_function else "prior.name"


def _fill(key, label, num_classes):
    """Labels, with a uniform draw in place of −1."""
    drawn = jax.random.randint(key, label.shape, 0, num_classes)
    return jnp.where(label < 0, drawn, label)


def _direction(component, num_classes, dtype):
    angle = (2 * jnp.pi / num_classes) * component.astype(dtype)
    return jnp.cos(angle), jnp.sin(angle)


def _log_normal(x, std):
    return -0.5 * (x / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))
