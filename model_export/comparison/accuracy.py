"""The accuracy of a version's graphs on labelled data, and how far they agree."""

from collections.abc import Sequence
from typing import Any

from model_export.comparison.evaluation import Agreement, Predict, data_sha256, task_accuracy
from model_export.comparison.predictors import graph_predictor
from model_export.entry.artifact import Version
from model_export.entry.precisions import PrecisionName
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


def _metrics(version: Version, predict: Predict, samples: Sequence[Sample]) -> dict[str, Any]:
    metrics = task_accuracy(predict, samples, version.preprocessing, version.dimensions)
    if "iou" in metrics:
        metrics["iou"] = dict(zip(version.contract["labels"], metrics["iou"], strict=True))
    return metrics
