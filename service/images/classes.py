"""Turn logits into the most likely classes."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.errors import InferenceFailed
from service.schema.predictions import ClassScore


def top_classes(
    logits: npt.NDArray[np.generic], labels: Sequence[str], top_k: int, temperature: float = 1.0
) -> list[ClassScore]:
    """Return the `top_k` most likely classes of logits [classes], equal scores in order of index.

    The scores are the softmax of `logits / temperature` over all classes.
    """
    values = logits.astype(np.float64)
    order = (-values).argsort(kind="stable")
    largest, smallest = values[order[0]], values[order[-1]]  # NaN is sorted to the end
    if not (math.isfinite(largest) and math.isfinite(smallest)):
        raise InferenceFailed("The model returned a score that is not a number.")
    exponents = np.exp((values - largest) / temperature)
    best = order[:top_k]
    scores = (exponents[best] / exponents.sum()).tolist()
    return [
        {"label": labels[index], "index": index, "score": round(score, 6)}
        for index, score in zip(best.tolist(), scores, strict=True)
    ]
