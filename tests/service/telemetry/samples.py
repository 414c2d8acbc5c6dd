"""A model version, its build and its load, as events report them; and a way to read a metric."""

from dataclasses import dataclass

from service.schema.vocabulary import Task
from service.telemetry.events import ModelBuild, ModelIdentity
from service.telemetry.metrics import PrometheusMetrics

MODEL = ModelIdentity("colour", "1", Task.CLASSIFICATION)
VERSION = {"model": "colour", "version": "1"}
BUILD = ModelBuild("fp32", "cpu", "cpu", "ab")


@dataclass
class Load:
    pending: int = 3
    executing: int = 2
    oldest_wait_seconds: float = 0.5
    predicted_wait_seconds: float = 0.25


def value(metrics: PrometheusMetrics, name: str, **labels: str) -> float | None:
    """Return a sample, or None if it is not shown."""
    return metrics.registry.get_sample_value(name, labels)
