"""The dashboard and how Grafana gets it, without Grafana."""

import itertools
import re

import pytest
import yaml

from service.telemetry.gpu_metrics import OWN
from service.telemetry.metrics import PrometheusMetrics
from tests.monitoring.files import GRAFANA, ROOT, dashboard, metrics_in, queries, rules

ROWS = [
    *("Golden signals", "Where time goes", "Batching", "GPU", "Models", "Data", "Process"),
]


def shown() -> set[str]:
    """Every metric that the service can show."""
    families = [family.name for family in PrometheusMetrics().registry.collect()]
    counters = [f"{name}_total" for name in families]
    return {*families, *counters, *(name for _, name, _, _ in OWN)}


@pytest.mark.parametrize("query", sorted({query for _, query in queries()}))
def test_every_metric_of_a_panel_is_one_of_the_services(query: str) -> None:
    assert metrics_in(query) <= shown()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert set(re.findall(r"\bvt:[\w:]+", query)) <= recorded
    assert metrics_in(query) or "vt:" in query


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_metric_of_a_rule_is_one_of_the_services(rule: dict) -> None:
    assert metrics_in(rule["expr"]) <= shown()


def test_every_metric_of_the_service_is_watched() -> None:
    watched = set().union(*(metrics_in(query) for _, query in queries()))
    watched |= set().union(*(metrics_in(rule["expr"]) for rule in rules()))
    families = {family.name for family in PrometheusMetrics().registry.collect()}
    own = {name for name in families if not name.startswith("process_")}
    assert {name for name in own if not {name, f"{name}_total"} & watched} == set()


def test_the_rows_of_the_dashboard_are_documented() -> None:
    board = dashboard()
    assert [each["title"] for each in board["panels"] if each["type"] == "row"] == ROWS
    text = (ROOT / "docs" / "monitoring.md").read_text()
    for row in ROWS:
        assert f"**{row}**" in text


def test_panels_do_not_overlap_and_have_a_unit_and_a_description() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"]
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )


def test_every_query_follows_the_variables_that_the_dashboard_has() -> None:
    board = dashboard()
    names = {variable["name"] for variable in board["templating"]["list"]}
    assert names == {"datasource", "instance", "model"}
    for title, query in queries():
        assert set(re.findall(r"\$(\w+)", query)) <= names | {"__rate_interval"}, title
        assert "$instance" in query or "vt:" in query, title
    of_models = re.compile(r"vt_(stage|batch|queue|inference|model)_\w+\{([^}]*)\}")
    for title, query in queries():
        for _, labels in of_models.findall(query):
            assert "$model" in labels or title == "Power", title


def test_grafana_is_given_the_dashboard_and_prometheus() -> None:
    folder = GRAFANA / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((folder / "dashboards/vt-serve.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
