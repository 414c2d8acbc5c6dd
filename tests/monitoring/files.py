"""The parsed dashboard, rules and configuration of monitoring."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "docker" / "prometheus"
GRAFANA = ROOT / "docker" / "grafana"

METRIC = re.compile(r"\b(?:vt|http|process)_\w+")
SUFFIX = re.compile(r"_(bucket|sum|count)$")


def dashboard() -> dict:
    return json.loads((GRAFANA / "dashboards" / "vt-serve.json").read_text())


def queries() -> Iterator[tuple[str, str]]:
    """Every query of the dashboard, with the title of its panel."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def rules() -> list[dict]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*arguments: str | Path, given: bytes = b"") -> str:
    """Run promtool, which must be content, and return what it says."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


def metrics_in(query: str) -> set[str]:
    """The metrics that a query names; the parts of a histogram by its own name."""
    without_labels = re.sub(r"\{[^}]*\}", "", query)
    without_labels = re.sub(r"\b(by|on|without|group_left)\s*\([^)]*\)", "", without_labels)
    return {SUFFIX.sub("", name) for name in METRIC.findall(without_labels)}
