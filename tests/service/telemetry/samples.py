"""A model version, its build and its load, as events report them; and a way to read a metric."""

import re
from dataclasses import dataclass

import httpx

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


async def triton_samples(http: httpx.AsyncClient) -> dict[str, float]:
    """The values of the classifier's metrics under Triton's names."""
    text = (await http.get("/metrics")).text
    found = re.findall(
        r'^(nv_\w+)\{model="colour",(?:reason="(\w+)",)?version="1"\} (\S+)$', text, re.MULTILINE
    )
    return {f"{name}{reason and '/'}{reason}": float(value) for name, reason, value in found}
