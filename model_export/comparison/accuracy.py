"""Accuracy of the graphs of a version on labelled data, and their agreement with fp32."""

from collections.abc import Sequence
from typing import Any

from model_export.comparison.evaluation import Agreement, Predict, data_sha256, task_accuracy
from model_export.comparison.predictors import graph_predictor
from model_export.comparison.token_statistics import TokenStatistics
from model_export.entry.precisions import PrecisionName
from model_export.entry.version import Version
from model_export.samples import Sample


def accuracy(
    version: Version,
    names: Sequence[PrecisionName],
    samples: Sequence[Sample],
    *,
    data: str,
    provider: str,
) -> dict[PrecisionName, dict[str, Any]]:
    """The `accuracy` section of a certificate for each precision, on one execution provider.

    `agreement_with_fp32` is the share of top-1 classes or pixels that equal those of the fp32
    graph. `token_statistics` are there if the model has visual tokens and the data enough images.
    """
    facts = {"data": data, "sha256": data_sha256(samples), "images": len(samples)}
    float32 = graph_predictor(version.graph(), provider)
    results: dict[PrecisionName, dict[str, Any]] = {}
    for name in names:
        if name == "fp32":
            observed = TokenStatistics(float32)
            results[name] = facts | _metrics(version, observed, samples)
        else:
            observed = TokenStatistics(graph_predictor(version.graph(name), provider))
            predict = Agreement(observed, float32)
            metrics = _metrics(version, predict, samples)
            results[name] = facts | metrics | {"agreement_with_fp32": predict.share}
        results[name] |= observed.reference()
    return results


def _metrics(version: Version, predict: Predict, samples: Sequence[Sample]) -> dict[str, Any]:
    metrics = task_accuracy(predict, samples, version.preprocessing, version.dimensions)
    if "iou" in metrics:
        metrics["iou"] = dict(zip(version.contract["labels"], metrics["iou"], strict=True))
    return metrics
