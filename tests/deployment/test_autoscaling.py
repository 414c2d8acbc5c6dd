"""How many replicas the autoscalers ask for, by series that Prometheus could hold."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from service.settings import Settings
from service.telemetry.metrics import PrometheusMetrics
from tests.deployment.files import Yaml, manifest
from tests.monitoring.files import metrics_in, promtool
from tests.tools import needs

SCALED = manifest("autoscaling/scaled-object.yaml")["spec"]
PREDICTOR = manifest("kserve/inference-service.yaml")["spec"]["predictor"]


class Trigger(NamedTuple):
    """A query, and how much of its value one replica may have."""

    query: str
    threshold: float


TRIGGERS = [
    Trigger(each["metadata"]["query"], float(each["metadata"]["threshold"]))
    for each in SCALED["triggers"]
]


def pods(n: int, *, wait: float, busy: float, namespace: str = "vt-serve") -> Iterator[Yaml]:
    """So many pods, the wait that each predicts, and the requests that each is at work on."""
    for pod in range(n):
        labels = f'namespace="{namespace}",job="vt-serve",pod="{pod}"'
        work = f'{labels},model="m",stage="compute"'
        waits = f'{labels},model="m",stage="queue"'
        yield {"series": f"vt_predicted_wait_seconds{{{labels}}}", "values": f"{wait}x40"}
        yield {"series": f"vt_ready{{{labels}}}", "values": "1x40"}
        for each, seconds in ((work, busy), (waits, 100)):
            name = f"vt_stage_duration_seconds_sum{{{each}}}"
            yield {"series": name, "values": f"0+{seconds * 15}x40"}


# the series, and the sums that the two triggers find
CASES = {
    "a load that is met keeps its six pods": ([*pods(6, wait=0.005, busy=0.9)], (0.03, 5.4)),
    "a wait over the threshold adds pods": ([*pods(4, wait=0.5, busy=1.5)], (2.0, 6.0)),
    "the load of another namespace is not ours": (
        [*pods(2, wait=0, busy=0.5), *pods(9, wait=9, busy=9, namespace="staging")],
        (0.0, 1.0),
    ),
    "no requests yet": (
        [each for each in pods(2, wait=0, busy=0) if "_sum" not in each["series"]],
        (0.0, 0.0),
    ),
    "nothing scraped is no number": ([], (None, None)),
}
REPLICAS = {
    "a load that is met keeps its six pods": 6,
    "a wait over the threshold adds pods": 10,
    "the load of another namespace is not ours": 1,
}


def as_test(series: list[Yaml], sums: tuple[float | None, ...]) -> Yaml:
    expected = [[] if found is None else [{"labels": "{}", "value": found}] for found in sums]
    rounded = [f"round({each.query}, 0.001)" for each in TRIGGERS]
    return {
        "interval": "15s",
        "input_series": series,
        "promql_expr_test": [
            {"expr": query, "eval_time": "5m", "exp_samples": samples}
            for query, samples in zip(rounded, expected, strict=True)
        ],
    }


@needs("promtool")
@pytest.mark.parametrize("case", CASES)
def test_the_queries_find_the_sums_of_their_own_namespace(case: str, tmp_path: Path) -> None:
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump({"tests": [as_test(*CASES[case])]}))
    assert "SUCCESS" in promtool("test", "rules", path)


@pytest.mark.parametrize("case", REPLICAS)
def test_the_sums_yield_the_expected_replicas(case: str) -> None:
    pairs = zip(CASES[case][1], TRIGGERS, strict=True)
    assert max(math.ceil(found / each.threshold) for found, each in pairs) == REPLICAS[case]


def test_pods_are_removed_one_a_minute_after_five_quiet_minutes() -> None:
    down = SCALED["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] == 300
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]


def test_the_triggers_are_sums_of_metrics_that_the_service_has() -> None:
    deployment = manifest("base/deployment.yaml")
    assert SCALED["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert SCALED["minReplicaCount"] == deployment["spec"]["replicas"]
    for each in SCALED["triggers"]:
        assert (each["type"], each["metricType"]) == ("prometheus", "AverageValue")
        assert each["metadata"]["ignoreNullValues"] == "false"
    shown = {family.name for family in PrometheusMetrics().registry.collect()}
    assert set().union(*(metrics_in(each.query) for each in TRIGGERS)) <= shown
    assert 0 < TRIGGERS[0].threshold < Settings().default_timeout_seconds


def test_every_selector_of_a_query_names_the_namespace_first() -> None:
    namespace = manifest("kustomization.yaml")["namespace"]
    assert manifest("kserve/kustomization.yaml")["namespace"] == namespace
    for selector in re.findall(r"\{([^}]*)\}", "".join(each.query for each in TRIGGERS)):
        assert selector.startswith(f'namespace="{namespace}", job="vt-serve"')


def test_kserve_scales_by_the_same_queries_and_not_by_the_cpu() -> None:
    annotations = manifest("kserve/inference-service.yaml")["metadata"]["annotations"]
    assert annotations["serving.kserve.io/autoscalerClass"] == "keda"
    metrics = [each["external"] for each in PREDICTOR["autoScaling"]["metrics"]]
    found = [Trigger(e["metric"]["query"], float(e["target"]["value"])) for e in metrics]
    assert found == TRIGGERS
    addresses = {each["metadata"]["serverAddress"] for each in SCALED["triggers"]}
    assert {each["metric"]["serverAddress"] for each in metrics} == addresses
    assert {each["metric"]["backend"] for each in metrics} == {"prometheus"}
    assert PREDICTOR["minReplicas"] == SCALED["minReplicaCount"]
    assert PREDICTOR["maxReplicas"] == SCALED["maxReplicaCount"]
