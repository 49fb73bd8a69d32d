"""What the numbers of `results.json` and the figures of a run mean, for its report."""

from typing import NamedTuple


class Number(NamedTuple):
    """A number of `results.json` that the page shows."""

    title: str
    meaning: str
    form: str = ".4g"
    error: str | None = None  # the name of its standard error
    floor: str | None = None  # the name of the same for samples of the prior in place of codes


# In the order of the page. Numbers that are not here are left to `results.json`.
NUMBERS = {
    "parzen/log_likelihood": Number(
        "Test log-likelihood, nats",
        "Mean over test images, under a Parzen window around samples of the model. Higher is "
        "better. Compare only numbers of the same data, scale and number of samples.",
        ".1f",
        error="parzen/standard_error",
    ),
    "parzen/validation_log_likelihood": Number(
        "Validation log-likelihood, nats",
        "The same for the validation images that chose σ.",
        ".1f",
    ),
    "parzen/sigma": Number("σ of the Parzen window", "Chosen on validation images."),
    "parzen/num_samples": Number("Samples", "Drawn from the model for the Parzen window.", ",d"),
    "annealed/log_likelihood": Number(
        "Annealed log-likelihood, nats",
        "Mean over test images, under the decoder and Gaussian noise of σ: the limit of endlessly "
        "many samples, by annealed importance sampling, which errs to low numbers. Higher is better.",
        ".1f",
        error="annealed/standard_error",
    ),
    "annealed/spread": Number(
        "Spread of the annealed estimates, nats",
        "Standard error of an image's estimate over its chains, mean over images.",
        ".2g",
    ),
    "annealed/log_weight_std": Number(
        "Disagreement of the annealed chains, nats",
        "Std of the log weights over an image's chains, median over images. Above 5 the estimate is "
        "too low by nats.",
    ),
    "annealed/sigma": Number("σ of the annealed log-likelihood", "Std of the decoder's noise."),
    "annealed/num_images": Number("Images of the annealed score", "The first of the test.", ",d"),
    "annealed/acceptance": Number("Annealed acceptance", "Share of proposals accepted."),
    "classification/error": Number(
        "Classification error", "Share of test images given a wrong class. Lower is better."
    ),
    "reconstruction/half_squared_error": Number(
        "Reconstruction error",
        "Half of the squared error of a test image, summed over its pixels. Lower is better.",
    ),
    "prior/sliced_wasserstein": Number(
        "Distance of codes from the prior",
        "Sliced Wasserstein distance of test images' codes from samples of the prior, in units of "
        "the code. Samples of the prior have the lowest that can be had.",
        floor="prior/sliced_wasserstein_floor",
    ),
    "prior/empty_cells": Number(
        "Empty cells",
        "Share of cells of equal prior probability without a code. Samples of the prior leave the "
        "fewest that can be had.",
        floor="prior/empty_cells_floor",
    ),
    "label/codes_in_component": Number(
        "Codes in their label's component",
        "Share of test images whose code lies in the component of the prior that their label "
        "selects. Samples of the prior have the most that can be had.",
        floor="label/prior_in_component",
    ),
    "code/std": Number("Std of the codes", "Over test images and dimensions."),
    "prior/std": Number("Std of the prior", "Over samples and dimensions."),
}

CAPTIONS = {
    "training_curves": "Losses and diagnostics while training; each point is a mean over steps.",
    "samples": "Samples of the model. Right of the red line: the training image nearest to the "
    "sample beside it.",
    "reconstructions": "Test images, each with its reconstruction to the right.",
    "code_marginals": "Each dimension of the codes of test images (blue), over samples of the "
    "prior (grey).",
    "codes": "Codes of test images by label; samples of the prior beside them.",
    "percentiles": "The decoder over the percentiles of a 2-D Gaussian prior.",
    "components": "The decoder over the first components of the mixture.",
    "roll": "The decoder along the swiss roll, row by row from its centre.",
    "style": "Each row one code, each column one label.",
    "walk": "A closed walk through the codes.",
}
