"""Titles and meanings of the numbers in `results.json`, and captions of figures, for the report."""

from typing import NamedTuple


class Number(NamedTuple):
    """A number of `results.json` that the report shows."""

    title: str
    meaning: str
    form: str = ".4g"
    error: str | None = None  # the name of its standard error
    floor: str | None = None  # the name of its value for samples of the prior in place of codes


# In the order of the report. It leaves out all other numbers of `results.json`.
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
        "Mean over the validation images that chose σ, under the same Parzen window.",
        ".1f",
    ),
    "parzen/sigma": Number("σ of the Parzen window", "Chosen on validation images."),
    "parzen/num_samples": Number("Samples", "Drawn from the model for the Parzen window.", ",d"),
    "annealed/log_likelihood": Number(
        "Annealed log-likelihood, nats",
        "Mean over test images, under the decoder and Gaussian noise of std σ: the limit of the "
        "Parzen window for infinitely many samples. Annealed importance sampling estimates a lower "
        "bound. Higher is better.",
        ".1f",
        error="annealed/standard_error",
    ),
    "annealed/spread": Number(
        "Spread of the annealed estimates, nats",
        "Standard error of an image's estimate over its chains; mean over images.",
        ".2g",
    ),
    "annealed/log_weight_std": Number(
        "Disagreement of the annealed chains, nats",
        "Std of the log weights over an image's chains; median over images. Above 5 the estimate "
        "is too low by nats.",
    ),
    "annealed/sigma": Number("σ of the annealed log-likelihood", "Std of the decoder's noise."),
    "annealed/num_images": Number("Annealed test images", "The first test images.", ",d"),
    "annealed/acceptance": Number("Annealed acceptance", "Share of proposals accepted."),
    "classification/error": Number(
        "Classification error",
        "Share of test images with a wrong class. Lower is better. Clusters found without labels "
        "are named by one validation image each.",
        error="classification/standard_error",
    ),
    "classification/majority_error": Number(
        "Classification error by majority",
        "Share of test images with a wrong class if each cluster is named by the commonest class of "
        "its validation images. Lower is better.",
    ),
    "reconstruction/half_squared_error": Number(
        "Reconstruction error",
        "Half the squared error of a test image, summed over its pixels; mean over images. Lower "
        "is better.",
    ),
    "prior/sliced_wasserstein": Number(
        "Distance of codes from the prior",
        "Sliced Wasserstein distance between codes of test images and samples of the prior, in "
        "units of the code. Lower is better; samples of the prior have the lowest possible value.",
        floor="prior/sliced_wasserstein_floor",
    ),
    "prior/empty_cells": Number(
        "Empty cells",
        "Share of cells of equal prior probability that hold no code. Lower is better; samples of "
        "the prior have the lowest possible value.",
        floor="prior/empty_cells_floor",
    ),
    "label/codes_in_component": Number(
        "Codes in their label's component",
        "Share of test images whose code lies in the component of the prior that their label "
        "selects. Higher is better; samples of the prior have the highest possible value.",
        floor="label/prior_in_component",
    ),
    "code/std": Number("Std of the codes", "Over test images and dimensions."),
    "prior/std": Number("Std of the prior", "Over samples and dimensions."),
}

CAPTIONS = {
    "training_curves": "Losses and diagnostics while training; each point is the mean over a "
    "dispatch's steps.",
    "samples": "Samples of the model. Right of the red line: the nearest training image to the "
    "sample beside it.",
    "reconstructions": "Test images, each with its reconstruction to the right.",
    "code_marginals": "Each dimension of the codes of test images (blue), over samples of the "
    "prior (grey).",
    "codes": "Left: codes of test images, coloured by label. Right: samples of the prior.",
    "percentiles": "Decoded images over the percentiles of a 2-D Gaussian prior.",
    "components": "Decoded images over the first components of the mixture prior.",
    "roll": "Decoded images along the axis of the swiss roll, row by row from its centre.",
    "style": "Decoded images: one code per row, one label per column.",
    "classes": "One class or cluster per row. Left of the first red line: its image with style 0. "
    "Then decoded styles of the prior. Right of the second line: test images put in the class.",
    "map": "Test images on the map, coloured by label. Crosses: the centres of classes or clusters.",
    "walk": "Decoded images along a closed walk through the codes.",
}
