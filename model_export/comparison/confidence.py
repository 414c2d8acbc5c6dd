"""Calibrated confidence: temperature scaling, and how wrong the confidence is.

Source: Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599).
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model_export.comparison.evaluation import Predict, batches
from model_export.errors import InvalidData
from model_export.preprocessing import Preprocessing
from model_export.samples import Sample

BINS = 15
TEMPERATURES = (0.05, 20.0)
"""The range in which a temperature is looked for."""

Logits = npt.NDArray[np.float64]
"""`[N, classes]`."""
Truth = npt.NDArray[np.int64]
"""Class indices `[N]`."""


def logits_and_truth(
    predict: Predict, samples: Sequence[Sample], preprocessing: Preprocessing
) -> tuple[Logits, Truth]:
    """The logits of all samples, and their classes."""
    logits = [predict(images)["logits"] for _, images in batches(samples, preprocessing, 32)]
    truth = [int(str(sample.target)) for sample in samples]
    return np.concatenate(logits).astype(np.float64), np.array(truth)


def fitted_temperature(logits: Logits, truth: Truth) -> float:
    """The temperature T whose `softmax(logits / T)` has the smallest negative log-likelihood.

    That is convex in 1 / T, so the root of its derivative is found by bisection.

    Raises:
        InvalidData: no temperature in `TEMPERATURES` fits, because all or hardly any are right.
    """
    low, high = (math.log(1 / temperature) for temperature in reversed(TEMPERATURES))
    if _slope(logits, truth, math.exp(low)) >= 0 or _slope(logits, truth, math.exp(high)) <= 0:
        raise InvalidData(
            "no temperature fits these photos: the model classifies all of them right, or hardly "
            "any; calibrate on photos that it was not trained on"
        )
    for _ in range(60):
        middle = (low + high) / 2
        if _slope(logits, truth, math.exp(middle)) > 0:
            high = middle
        else:
            low = middle
    return math.exp(-(low + high) / 2)


def _slope(logits: Logits, truth: Truth, inverse: float) -> float:
    """Derivative of the mean negative log-likelihood by `inverse` = 1 / T."""
    own = np.take_along_axis(logits, truth[:, None], axis=1)[:, 0]
    return float(((probabilities(logits, 1 / inverse) * logits).sum(axis=1) - own).mean())


def probabilities(logits: Logits, temperature: float) -> Logits:
    """`softmax(logits / temperature)`."""
    scaled = logits / temperature
    exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: Logits = exponents / exponents.sum(axis=1, keepdims=True)
    return result


def expected_calibration_error(logits: Logits, truth: Truth, temperature: float) -> float:
    """Mean difference of confidence and accuracy, over `BINS` equal intervals of confidence."""
    scores = probabilities(logits, temperature)
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == truth
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    differences = np.bincount(places, right - confidence, minlength=BINS)
    return float(np.abs(differences).sum() / len(truth))
