"""Turn logits into the most likely classes."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.errors import InferenceFailed
from service.schema.predictions import ClassScore


def top_classes(
    logits: npt.NDArray[np.generic], labels: Sequence[str], top_k: int
) -> list[ClassScore]:
    """Return the `top_k` most likely classes of logits [classes]; equal scores by index.

    The scores are the softmax over all classes.
    """
    values = logits.astype(np.float64)
    if not np.isfinite(values).all():
        raise InferenceFailed("The model returned a score that is not a number.")
    exponents = np.exp(values - values.max())
    total = float(exponents.sum())
    best = np.argsort(-values, kind="stable")[:top_k].tolist()
    return [
        ClassScore(
            label=labels[index], index=index, score=round(float(exponents[index]) / total, 6)
        )
        for index in best
    ]
