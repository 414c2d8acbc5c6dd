"""The distribution of token statistics on a data set, which the service compares requests with."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.comparison.evaluation import Outputs, Predict
from model_export.preprocessing import RgbArray

ATTENTION = "token_attention"
TOKENS = "tokens"
MAX_BINS = 10
IMAGES_PER_BIN = 20

Values = npt.NDArray[np.float64]


class TokenStatistics:
    """A predictor that observes the attention entropy and the token similarity of its images."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._values: dict[str, list[Values]] = defaultdict(list)

    def __call__(self, images: RgbArray) -> Outputs:
        """The outputs of the predictor."""
        outputs = self._predict(images)
        for name, values in token_statistics(outputs).items():
            self._values[name].append(values)
        return outputs

    def reference(self) -> dict[str, Any]:
        """`{"token_statistics": {<statistic>: distribution}}`; empty without enough images."""
        distributions = {
            name: distribution(np.concatenate(values)) for name, values in self._values.items()
        }
        known = {name: each for name, each in distributions.items() if each is not None}
        return {"token_statistics": known} if known else {}


def token_statistics(outputs: Outputs) -> Mapping[str, Values]:
    """`token_similarity` and `attention_entropy_<module>` of each image, from batched outputs.

    The similarity is the mean cosine of two different tokens. The entropy is that of a token's
    attention divided by the largest possible, as a mean over the tokens of a module.
    """
    statistics: dict[str, Values] = {}
    for name, output in outputs.items():
        if name == ATTENTION:  # [B, modules, L, h, w]
            for index in range(output.shape[1]):
                statistics[f"attention_entropy_module_{index + 1}"] = _entropy(output[:, index])
        elif name.startswith(f"{ATTENTION}_"):  # [B, L, h, w]
            module = name.removeprefix(f"{ATTENTION}_")
            statistics[f"attention_entropy_{module}"] = _entropy(output)
        elif name == TOKENS and output.shape[1] > 1:
            statistics["token_similarity"] = _similarity(output)
    return statistics


def _entropy(attention: npt.NDArray[Any]) -> Values:
    """`[B, L, h, w]` to `[B]`."""
    flat = attention.reshape(*attention.shape[:2], -1).astype(np.float64)
    flat /= flat.sum(axis=2, keepdims=True)
    terms = flat * np.log(flat, out=np.zeros_like(flat), where=flat > 0)
    entropy: Values = -terms.sum(axis=2).mean(axis=1) / np.log(max(flat.shape[2], 2))
    return entropy


def _similarity(tokens: npt.NDArray[Any]) -> Values:
    """`[B, L, C_T]` to `[B]`."""
    unit = tokens / np.maximum(np.linalg.norm(tokens, axis=2, keepdims=True), 1e-12)
    count = tokens.shape[1]
    cosines = (unit @ unit.transpose(0, 2, 1)).sum(axis=(1, 2), dtype=np.float64)
    similarity: Values = (cosines - count) / (count * (count - 1))
    return similarity


def distribution(values: Values) -> dict[str, list[float]] | None:
    """Up to ten bins of equal size: their inner `bounds`, and the `shares` of the values in them.

    A value equal to a bound is in the bin below. None if there are too few values.
    """
    bins = min(MAX_BINS, len(values) // IMAGES_PER_BIN)
    if bins < 2 or not np.isfinite(values).all():
        return None
    bounds = np.unique(np.quantile(values, np.arange(1, bins) / bins).round(6))
    counts = np.bincount(np.searchsorted(bounds, values), minlength=len(bounds) + 1)
    shares = (counts / len(values)).round(6)
    return {"bounds": bounds.tolist(), "shares": shares.tolist()}
