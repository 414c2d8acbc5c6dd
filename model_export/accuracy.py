"""The accuracy of a version's graphs on labelled data, and how far they agree."""

from collections.abc import Sequence
from typing import Any

from model_export.artifact import Version
from model_export.evaluation import (
    Agreement,
    classification_accuracy,
    data_sha256,
    segmentation_accuracy,
)
from model_export.precisions import PrecisionName
from model_export.predictors import graph_predictor
from model_export.training.data import Sample


def accuracy(
    version: Version,
    names: Sequence[PrecisionName],
    samples: Sequence[Sample],
    *,
    data: str,
    provider: str,
) -> dict[PrecisionName, dict[str, Any]]:
    """A certificate's `accuracy` for each precision, on an execution provider.

    `agreement_with_fp32` is the share of top-1 classes or pixels that are the float32 graph's.
    """
    facts = {"data": data, "sha256": data_sha256(samples), "images": len(samples)}
    float32 = graph_predictor(version.graph(), provider)
    results: dict[PrecisionName, dict[str, Any]] = {}
    for name in names:
        if name == "fp32":
            results[name] = facts | _metrics(version, float32, samples)
            continue
        predict = Agreement(graph_predictor(version.graph(name), provider), float32)
        metrics = _metrics(version, predict, samples)
        results[name] = facts | metrics | {"agreement_with_fp32": predict.share}
    return results


def _metrics(version: Version, predict: Any, samples: Sequence[Sample]) -> dict[str, Any]:
    labels = version.contract["labels"]
    if version.dimensions.task == "classification":
        return dict(classification_accuracy(predict, samples, version.preprocessing))
    metrics = segmentation_accuracy(predict, samples, version.preprocessing, len(labels))
    metrics["iou"] = dict(zip(labels, metrics["iou"], strict=True))
    return metrics
