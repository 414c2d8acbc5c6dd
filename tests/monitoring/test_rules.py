"""Each alert fires on series that should make it, and is quiet on those that should not."""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from service.telemetry.metrics import PrometheusMetrics
from tests.monitoring.files import PROMETHEUS, ROOT, alerts, promtool
from tests.service.telemetry.samples import BUILD, MODEL, Load
from tests.tools import needs

ROUTE = 'route="/v1/classify",status="200"'
SLOW = "http_request_duration_seconds"
REQUESTS = 'vt_inference_requests_total{model="m",outcome='
JOB = '{job="vt-serve",instance="a"}'


def latencies(slow: float, of: float = 100, labels: str = ROUTE) -> dict[str, str]:
    """So many slow answers, of so many a minute, for four days."""
    return {
        f'{SLOW}_bucket{{{labels},le="0.5"}}': f"0+{of - slow}x6000",
        f"{SLOW}_count{{{labels}}}": f"0+{of}x6000",
    }


def namespaces(production: float, staging: float) -> dict[str, str]:
    """So many slow answers of a hundred a minute in each of two namespaces."""
    slow = {"production": production, "staging": staging}
    found = [
        latencies(n, labels=f'{ROUTE},job="vt-serve",namespace="{x}"') for x, n in slow.items()
    ]
    return found[0] | found[1]


def outcomes(**a_minute: int) -> dict[str, str]:
    return {f'{REQUESTS}"{outcome}"}}': f"0+{n}x6000" for outcome, n in a_minute.items()}


def missed(by_whom: int) -> dict[str, str]:
    """A day of 60 answers a minute, then so many requests while nothing serves.

    Of another model, which never served, there are more.
    """
    ok, unavailable = (f'{REQUESTS}"{outcome}"}}' for outcome in ("ok", "unavailable"))
    return {
        ok: "0+60x1440 86400x100",
        unavailable: f"0x1440 0+{by_whom}x100",
        ok.replace('"m"', '"never"'): "0x1540",
        unavailable.replace('"m"', '"never"'): "0+100x1540",
    }


def statuses(**a_minute: int) -> dict[str, str]:
    route = 'route="/v2/models/{model}/infer"'
    counts = {f'{route},status="{name[1:]}"': n for name, n in a_minute.items()}
    return {f"http_requests_total{{{labels}}}": f"0+{n}x100" for labels, n in counts.items()}


def confidences(first: str, last: str) -> dict[str, str]:
    """Sums of 100 confidences a minute: a day and an hour, then two hours."""
    labels = '{model="m",version="1"}'
    return {
        f"vt_prediction_confidence_sum{labels}": f"0+{first}x1500 {last}",
        f"vt_prediction_confidence_count{labels}": "0+100x1700",
    }


def fill(full: int, busy: float) -> dict[str, str]:
    """Batches so full in a hundred, 60 a minute, on a GPU that is so busy."""
    labels = '{instance="a",model="m"}'
    return {
        f"vt_batch_fill_ratio_sum{labels}": f"0+{full * 0.6}x6000",
        f"vt_batch_fill_ratio_count{labels}": "0+60x6000",
        'vt_gpu_utilization_ratio{instance="a",gpu="g"}': f"{busy}x6000",
    }


def memory(grows: int, limit: int = 1000) -> dict[str, str]:
    return {
        f"process_resident_memory_bytes{JOB}": f"100+{grows}x6000",
        f"vt_memory_limit_bytes{JOB}": f"{limit}x6000",
        f"process_start_time_seconds{JOB}": "0x6000",
    }


def lag(slow: int) -> dict[str, str]:
    """So many timers of a hundred that come more than a second late."""
    name = "vt_event_loop_lag_seconds_bucket"
    return {
        f'{name}{{instance="a",le="0.01"}}': f"0+{100 - slow}x6000",
        f'{name}{{instance="a",le="2.5"}}': "0+100x6000",
        f'{name}{{instance="a",le="+Inf"}}': "0+100x6000",
    }


DAY = 86400
EXPIRY = 'vt_tls_certificate_expiry_timestamp_seconds{file="certificate"}'
RELOAD = 'vt_last_reload_successful{file="api_keys"}'
READY = 'vt_ready{job="vt-serve",instance="a"}'
STATE = 'vt_model_state{job="vt-serve",instance="a",model="m",state='
FAILURES = 'vt_model_loads_total{model="m",result="failure"}'
UNAVAILABLE = 'vt_model_state{model="m",state="UNAVAILABLE"}'
PROVIDER = 'vt_provider_requested_active{model="m",requested="cuda",active="cpu"}'
GPU_USED = 'vt_gpu_memory_used_bytes{gpu="g"}'
GPU_TOTAL = {'vt_gpu_memory_total_bytes{gpu="g"}': "100x6000"}
DRIFT = 'vt_token_drift_score{model="m",version="1",statistic="token_similarity"}'
FDS = {f"process_max_fds{JOB}": "100x6000"}
UP = {f"up{JOB}": "1x6000"}

# alert -> when it is looked at, series that make it fire, series that do not
CASES: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "VtServeDown": ("10m", {f"up{JOB}": "1x5 0x50"}, UP),
    "VtServeNotReady": ("10m", {READY: "1x5 0x50"}, {READY: "0x1 1x50"}),
    "VtServeServesNothing": (
        "15m",
        {READY: "1x50", f'{STATE}"READY"}}': "1x2 0x48"},
        {READY: "1x50", f'{STATE}"READY"}}': "1x50"},
    ),
    "VtServeRestarts": (
        "10m",
        {f"process_start_time_seconds{JOB}": "0+1x4 5x50"},
        {f"process_start_time_seconds{JOB}": "0x4 1x50"},
    ),
    "VtServeLatencyBurnsFast": ("2h", latencies(slow=20), latencies(slow=10)),
    "VtServeLatencyBurns": ("7h", latencies(slow=10), latencies(slow=5)),
    "VtServeLatencyBudgetSpent": ("20h", latencies(slow=2), latencies(slow=0)),
    "VtServeErrors": ("20m", outcomes(ok=97, error=2, timeout=1), outcomes(ok=995, error=5)),
    "VtServeRefuses": (
        "20m",
        outcomes(ok=90, rejected_full=4, rejected_deadline=6),
        outcomes(ok=96, rejected_full=4, bad_input=50),
    ),
    "VtServeUnavailable": ("25h", missed(by_whom=12), missed(by_whom=3)),
    "VtServeAskedInVain": ("40m", outcomes(ok=98, unavailable=2), outcomes(ok=995, unavailable=5)),
    "VtServeNotFound": ("40m", statuses(_200=98, _404=2), statuses(_200=995, _404=5, _503=500)),
    "VtServeQueueWaits": (
        "10m",
        {'vt_queue_oldest_seconds{model="m"}': "0.3x50"},
        {'vt_queue_oldest_seconds{model="m"}': "0.3 0.01x50"},
    ),
    "VtServeWrongProvider": ("5m", {PROVIDER: "0x50"}, {PROVIDER: "1x50"}),
    "VtServeNodesOnCpu": (
        "5m",
        {'vt_nodes_on_cpu{model="m"}': "3x50"},
        {'vt_nodes_on_cpu{model="m"}': "0x50"},
    ),
    "VtServeSelfTestFailed": (
        "5m",
        {'vt_selftest_ok{model="m"}': "0x50"},
        {'vt_selftest_ok{model="m"}': "1x50"},
    ),
    "VtServeModelHangs": ("5m", {'vt_hung{model="m"}': "1x50"}, {'vt_hung{model="m"}': "0x50"}),
    "VtServeLoadFailed": ("30m", {FAILURES: "0x25 1x50"}, {FAILURES: "2x50"}),
    "VtServeVersionUnavailable": ("20m", {UNAVAILABLE: "0x5 1x50"}, {UNAVAILABLE: "0x5 1x8 0x50"}),
    "VtServeOutOfMemory": (
        "30m",
        {'vt_oom_total{model="m"}': "0x25 1x50"},
        {'vt_oom_total{model="m"}': "0 1x50"},
    ),
    "VtServeGpuMemory": ("20m", {GPU_USED: "95x50", **GPU_TOTAL}, {GPU_USED: "85x50", **GPU_TOTAL}),
    "VtServeBatchesEmpty": ("1h", fill(full=5, busy=0.9), fill(full=5, busy=0.5)),
    "VtServeConfidenceFell": (
        "28h",
        confidences("90", "135050+60x200"),
        confidences("90", "135080+80x200"),
    ),
    "VtServeTokensDrift": (
        "1h",
        {DRIFT: "0.3x100"},
        {DRIFT: "0.3x5 0.2x80"},
    ),
    "VtServeMemoryGrows": ("3h", memory(grows=10), memory(grows=1)),
    "VtServeEventLoopLags": ("30m", lag(slow=5), lag(slow=0)),
    "VtServeFilesRunOut": (
        "20m",
        {f"process_open_fds{JOB}": "90x50", **FDS},
        {f"process_open_fds{JOB}": "70x50", **FDS},
    ),
    "VtServeReloadFailed": ("20m", {RELOAD: "1x5 0x50"}, {RELOAD: "1x5 0x2 1x50"}),
    "VtServeCertificateEnds": ("10m", {EXPIRY: f"{13 * DAY}x50"}, {EXPIRY: f"{15 * DAY}x50"}),
    "VtServeCertificateEndsSoon": ("10m", {EXPIRY: f"{DAY}x50"}, {EXPIRY: f"{3 * DAY}x50"}),
}
# The same alert by another way.
MORE = {
    "VtServeDown": ("10m", {'up{job="other"}': "1x50"}),
    "VtServeLoadFailed": ("10m", {FAILURES: "_x5 1x50"}),
    "VtServeLatencyBurnsFast": ("2h", namespaces(production=20, staging=0)),
    "VtServeServesNothing": ("15m", {READY: "1x50"}),
    "VtServeAskedInVain": ("40m", outcomes(ok=0, unavailable=1)),
    "VtServeCertificateEndsSoon": ("10m", {EXPIRY: f"-{DAY}x50"}),
}
# Series that look like it and are not worth an alert: one slow answer of three in an hour.
FEW = {
    "VtServeLatencyBurnsFast": ("2h", latencies(slow=0.5, of=1.5)),
    "VtServeLatencyBurns": ("7h", latencies(slow=0.08, of=0.25)),
    "VtServeLatencyBudgetSpent": ("20h", latencies(slow=0.25, of=0.75)),
}


def every_minutes(at: str) -> int:
    """How often the rules are evaluated up to then: over many hours every minute takes long."""
    return 10 if at.endswith("h") and int(at[:-1]) > 3 else 1


@dataclass
class Case:
    """What must be found of an alert at a time, given series."""

    alert: str
    at: str
    series: dict[str, str]
    fires: bool

    def expected(self) -> dict:
        found = f'count(ALERTS{{alertname="{self.alert}",alertstate="firing"}}) or vector(0)'
        samples = [{"labels": "{}", "value": int(self.fires)}]
        return {"expr": found, "eval_time": self.at, "exp_samples": samples}


def every_case() -> Iterator[Case]:
    for alert, (at, fires, quiet) in CASES.items():
        yield Case(alert, at, fires, True)
        yield Case(alert, at, quiet, False)
    for alert, (at, fires) in MORE.items():
        yield Case(alert, at, fires, True)
    for alert, (at, quiet) in FEW.items():
        yield Case(alert, at, quiet, False)


def together(cases: Iterable[Case]) -> list[list[Case]]:
    """Put cases together whose series do not contradict each other: each test costs a second."""
    groups: list[list[Case]] = []
    for case in cases:
        for group in groups:
            alerts = {each.alert for each in group}
            series = {name: values for each in group for name, values in each.series.items()}
            agree = all(series.get(name, each) == each for name, each in case.series.items())
            if agree and case.alert not in alerts:
                group.append(case)
                break
        else:
            groups.append([case])
    return groups


def as_test(group: Sequence[Case]) -> dict:
    """Cases in promtool's form; what else fires does not matter."""
    series = {name: values for each in group for name, values in each.series.items()}
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": each} for name, each in series.items()],
        "promql_expr_test": [each.expected() for each in group],
    }


def test_every_alert_has_its_cases() -> None:
    assert set(CASES) == set(alerts())


@needs("promtool")
def test_each_alert_fires_only_on_the_series_of_its_cases(tmp_path: Path) -> None:
    for minutes in (1, 10):
        cases = [each for each in every_case() if every_minutes(each.at) == minutes]
        document = {
            "rule_files": [str(PROMETHEUS / "rules.yml")],
            "evaluation_interval": f"{minutes}m",
            "group_eval_order": ["vt-serve recordings", "vt-serve alerts"],
            "tests": [as_test(group) for group in together(cases)],
        }
        path = tmp_path / f"{minutes}.yml"
        path.write_text(yaml.safe_dump(document))
        assert "SUCCESS" in promtool("test", "rules", path)


@needs("promtool")
def test_the_configuration_and_its_rules_are_valid() -> None:
    promtool("check", "config", "--lint-fatal", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", "--lint-fatal", PROMETHEUS / "rules.yml")


def test_the_rules_of_the_operator_are_those_of_the_file() -> None:
    made = [sys.executable, str(PROMETHEUS.parent / "prometheus_rule.py")]
    printed = subprocess.run(made, check=True, capture_output=True, text=True).stdout
    assert (PROMETHEUS / "prometheus-rule.yaml").read_text() == printed, "make manifests"
    rule = yaml.safe_load(printed)
    assert rule["spec"] == yaml.safe_load((PROMETHEUS / "rules.yml").read_text())
    assert (rule["kind"], rule["apiVersion"]) == ("PrometheusRule", "monitoring.coreos.com/v1")


@needs("promtool")
def test_the_metrics_follow_the_conventions() -> None:
    metrics = PrometheusMetrics()
    metrics.models.model_loaded(MODEL, BUILD, 0.2, Load())
    metrics.server.http_finished("POST", "/v1/classify", 200, 0.1)
    assert promtool("check", "metrics", given=metrics.render("")[0]) == ""


@pytest.mark.parametrize("alert", alerts())
def test_every_alert_has_a_summary_a_severity_and_a_runbook(alert: str) -> None:
    rule = alerts()[alert]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"].endswith(".")
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    runbook = re.search(
        rf"^### {alert}\n\n(.+?)(?=^#|\Z)", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
    )
    assert anchor == alert.lower()
    for part in ("**Means**", "**Look at**", "**Do**"):
        assert runbook is not None
        assert part in runbook[1], part


def test_every_runbook_has_its_alert() -> None:
    headings = re.findall(r"^### (Vt\w+)$", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE)
    assert headings == list(alerts())
