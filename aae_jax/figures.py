"""The figures of a model, by name, and their files.

`FIGURES` lists the functions of `aae_jax.pictures`. An algorithm names the figures of its models. A
user's own figure is the import path of a function with the same arguments.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from matplotlib.figure import Figure

from aae_jax import pictures, registry
from aae_jax.errors import UserError
from aae_jax.pictures import Given
from aae_jax.spec import Spec
from aae_jax.train_state import TrainState


class Drawing(NamedTuple):
    """One kind of figure.

    Attributes:
        draw: (state, given) → a matplotlib Figure, or for an animation arrays u8[H, W, C].
        needs: the functions of an `Algorithm` that `draw` calls.
        applies: (spec) → whether `draw` can show such a model.
        suffix: the suffix of the file.
    """

    draw: Callable[[TrainState, Given], Any]
    needs: tuple[str, ...] = ()
    applies: Callable[[Spec], bool] = lambda spec: True
    suffix: str = ".png"


def drawings(spec: Spec) -> dict[str, Drawing]:
    """The figures of a model by file name, in the algorithm's order.

    Raises:
        UserError: the algorithm names a figure that does not exist.
    """
    found = {}
    for name in spec.algorithm.figures:
        if ":" in name:
            drawing = Drawing(registry.import_path("figures", name))
            name = name.rpartition(":")[2]
        elif name in FIGURES:
            drawing = FIGURES[name]
        else:
            raise UserError(
                f"algorithm {spec.algorithm_name} names the figure {name!r}: it must be one of "
                f"{', '.join(FIGURES)}, or 'package.module:function'"
            )
        if name + drawing.suffix in found:
            raise UserError(f"algorithm {spec.algorithm_name} names two figures {name!r}")
        has_functions = all(getattr(spec.algorithm, need) is not None for need in drawing.needs)
        if has_functions and drawing.applies(spec):
            found[name + drawing.suffix] = drawing
    return found


def missing(spec: Spec, directory: str) -> list[str]:
    """The files of a model's figures that a directory lacks."""
    return [name for name in drawings(spec) if not os.path.exists(os.path.join(directory, name))]


def draw_all(state: TrainState, given: Given, directory: str) -> None:
    """Draws and saves every figure of a model, each with its own key.

    Raises:
        UserError: some figures can't be drawn; the message names them, and all others are drawn.
    """
    failed = []
    for index, (name, drawing) in enumerate(drawings(state.spec).items()):
        own = given._replace(key=jax.random.fold_in(given.key, index))
        try:
            _draw(drawing, state, own, os.path.join(directory, name))
        except Exception as error:  # the user's code may raise anything
            reason = " ".join(str(error).split())[:200]
            failed.append(f"{name} ({type(error).__name__}: {reason})")
            last = error
    if failed:
        raise UserError(f"can't be drawn: {', '.join(failed)}; all other work is done") from last


def _draw(drawing, state, given, path):
    figure = drawing.draw(state, given)
    if not isinstance(figure, list if drawing.suffix == ".gif" else Figure):
        raise UserError(f"it returns {type(figure).__name__}, not a matplotlib Figure")
    save(figure, path)


def save(figure: Figure | list, path: str) -> None:
    """Writes a PNG or an animated GIF; the file appears, or is replaced, once it is complete."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if isinstance(figure, list):
        _save_animation(figure, path + ".part")
    else:
        figure.savefig(path + ".part", format="png", dpi=150, bbox_inches="tight")
    os.replace(path + ".part", path)


def _save_animation(pictures, path, scale=2):
    """An animated GIF, 12 frames a second."""
    from PIL import Image

    frames = []
    for picture in pictures:
        picture = picture[..., 0] if picture.shape[-1] == 1 else picture
        frame = Image.fromarray(picture)
        frames.append(
            frame.resize((frame.width * scale, frame.height * scale), Image.Resampling.NEAREST)
        )
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:], duration=83, loop=0)


def _is_image(spec):
    """Whether examples are images, (height, width, channels)."""
    return len(spec.image_shape) == 3


def _is_plane(spec):
    return spec.model.code_dim == 2


def _decodes_codes_alone(spec):
    """Whether the decoder makes images from a code and at most a label."""
    return _is_image(spec) and not spec.model.condition_in_decoder


def _shows_prior(name, spec):
    """Whether this picture of a 2-D prior applies: the decoder must take no labels."""
    shown = name in spec.prior.distribution.figures
    without_label = _decodes_codes_alone(spec) and not spec.model.label_in_decoder
    return shown and _is_plane(spec) and without_label


def _shows_style(spec):
    return spec.model.label_in_decoder and _decodes_codes_alone(spec)


def _has_plane_map(spec):
    return _is_plane(spec) and spec.algorithm.has_map(spec)


def _shows_walk(spec):
    shown = "walk" in spec.prior.distribution.figures
    return shown and spec.model.code_dim > 2 and _decodes_codes_alone(spec)


FIGURES = {
    "samples": Drawing(pictures.samples, applies=_is_image),
    "reconstructions": Drawing(pictures.reconstructions, ("encode", "decode"), _is_image),
    "code_marginals": Drawing(pictures.code_marginals, ("encode",)),
    "training_curves": Drawing(pictures.training_curves),
    "codes": Drawing(pictures.codes, ("encode",), _is_plane),
    "percentiles": Drawing(
        pictures.percentiles, ("decode",), functools.partial(_shows_prior, "percentiles")
    ),
    "components": Drawing(
        pictures.components, ("decode",), functools.partial(_shows_prior, "components")
    ),
    "roll": Drawing(pictures.roll, ("decode",), functools.partial(_shows_prior, "roll")),
    "style": Drawing(pictures.style, ("decode",), _shows_style),
    "classes": Drawing(pictures.classes, ("classify", "decode"), _is_image),
    "map": Drawing(pictures.map_of_classes, ("embed", "classify"), _has_plane_map),
    "walk": Drawing(pictures.walk, ("decode",), _shows_walk, ".gif"),
}
