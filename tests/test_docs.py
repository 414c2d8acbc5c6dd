"""Everything that the service offers is documented, and everything documented exists."""

import re
import subprocess
import sys
from argparse import _SubParsersAction
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily

from model_export.commands.parser import parser as export_parser
from model_export.entry.precisions import PRECISIONS
from service import errors
from service.app import create_app
from service.command_line import _parser
from service.http.routes.operations import ENDPOINTS
from service.schema.certificate import PrecisionRecord, ProviderRecord
from service.settings import PREFIX, Settings
from service.telemetry import gpu_metrics
from service.telemetry.metrics import PrometheusMetrics
from service.telemetry.metrics.histogram import Histogram
from service.telemetry.triton_names import add_triton_names
from tests.service.repository_fixture import write_classifier

DOCS = Path(__file__).parents[1] / "docs"
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def read(name: str) -> str:
    return (DOCS / name).read_text()


@pytest.fixture
def described(tmp_path: Path) -> dict:
    write_classifier(tmp_path)
    return create_app(Settings(model_repository=tmp_path)).openapi()["paths"]


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(VT_\w+)` \| (.+?) \|", read("configuration.md"), re.MULTILINE))
    assert set(rows) == {PREFIX + name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        if field.default is not None:
            default = f"{field.default:g}" if isinstance(field.default, float) else field.default
            default = ",".join(map(str, default)) if isinstance(default, tuple) else default
            assert rows[PREFIX + name.upper()] == f"`{default}`"


def test_every_flag_is_documented() -> None:
    text = read("configuration.md")
    for action in _parser()._actions:
        assert action.dest == "help" or f"[{action.option_strings[0]}" in text


def test_every_variable_named_in_the_docs_is_a_setting() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    pages = ("api.md", "concepts.md", "configuration.md", "metrics.md", "monitoring.md")
    more = ("operations.md", "performance.md", "secure.md", "security.md", "tune.md")
    for name in (*pages, *more):
        assert set(re.findall(r"VT_[A-Z_]*[A-Z]", read(name))) <= known, name


def test_every_metric_is_documented_with_its_labels() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \|", read("metrics.md"), re.MULTILINE)
    documented = {name: (kind, re.findall(r"`(\w+)`", labels)) for name, kind, labels in rows}
    collectors = PrometheusMetrics().registry._collector_to_names
    declared = {}
    for collector in collectors:
        if hasattr(collector, "_labelnames"):
            name = collector._name + ("_total" if collector._type == "counter" else "")
            declared[name] = (collector._type, list(collector._labelnames))
        elif isinstance(collector, Histogram):
            declared[collector.name] = ("histogram", list(collector.labelnames))
    for family, name, _, _ in gpu_metrics.OWN:
        declared[name] = ("counter" if family is CounterMetricFamily else "gauge", ["gpu"])
    assert documented == declared


def test_every_one_of_tritons_names_is_documented() -> None:
    section = read("metrics.md").split("## Triton's names")[1].split("\n## ")[0]
    registry = CollectorRegistry()
    add_triton_names(registry, list, dict)
    names = {family.name for family in registry.collect()}
    names |= {name for _, name, _, _ in gpu_metrics.TRITON}
    assert set(re.findall(r"^\| `(nv_\w+)` \|", section, re.MULTILINE)) == names


def test_every_outcome_and_stage_is_documented() -> None:
    text = read("metrics.md")
    for word in [*errors.Outcome.__args__, "receive", "decode", "queue", "compute", "encode"]:
        assert f"`{word}`" in text


def test_every_route_is_documented(described: dict) -> None:
    text = read("api.md")
    for path, operations in described.items():
        for method in operations:
            assert f"`{method.upper()} {path}`" in text


def test_every_route_that_the_docs_or_the_root_name_exists(described: dict) -> None:
    named = re.findall(r"`(GET|POST) (/\S*)`", read("api.md"))
    named += [endpoint.split() for endpoint in ENDPOINTS]
    for method, path in named:
        assert path == "/docs" or method.lower() in described[path]


def test_every_option_of_a_prediction_is_documented(described: dict) -> None:
    text = read("api.md")
    for path in ("/v1/classify", "/v1/segment", "/v1/explain", "/v1/embed"):
        sections = {
            "query": text.split(f"## `POST {path}`")[1].split("\n## ")[0],
            "header": text.split("## Headers")[1].split("\n## ")[0],
        }
        for parameter in described[path]["post"]["parameters"]:
            assert f"`{parameter['name']}`" in sections[parameter["in"]]


def test_every_export_command_and_flag_is_documented() -> None:
    text = read("cli.md")
    commands = next(a for a in export_parser()._actions if isinstance(a, _SubParsersAction))
    for name, command in commands.choices.items():
        section = (
            text.split(f"\n## `vt-export {name}")[1].split("\n## ")[0]
            + text.split("\n## Shared flags")[1].split("\n## ")[0]
        )
        for action in command._actions:
            flag = action.option_strings[-1] if action.option_strings else action.metavar
            assert flag in (None, "--help") or flag in section, f"{name} {flag}"


def test_every_tolerance_and_limit_of_a_precision_is_documented() -> None:
    verify = read("cli.md").split("\n## `vt-export verify")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| .+? \| ([\d.]+) \| ([\d.]+) % \|$", verify, re.MULTILINE)
    assert {name: (float(far), float(equal)) for name, far, equal in rows} == {
        name: (each.parity.max_relative_difference, pytest.approx(100 * each.parity.agreement))
        for name, each in PRECISIONS.items()
    }
    rows = re.findall(
        r"^\| (\w+) \| `(\w+)`: .+? \| ([\d.]+) \| ([\d.]+) \|$",
        read("model_repository.md"),
        re.MULTILINE,
    )
    assert {
        name: {"classification": {limit: float(one)}, "segmentation": {limit: float(other)}}
        for name, limit, one, other in rows
    } == {name: dict(each.limits) for name, each in PRECISIONS.items() if each.limits}


def test_every_key_of_a_certificates_precision_is_documented() -> None:
    section = read("model_repository.md").split("## `certificate.json`")[1]
    keys = {*PrecisionRecord.model_fields, *ProviderRecord.model_fields}
    for key in keys | {"parity", "batch_invariance", "latency", "calibration"}:
        assert f"| `{key}` |" in section or key == "execution_providers"


def test_every_status_of_the_error_tree_is_documented() -> None:
    section = read("api.md").split("## Errors")[1]
    leaves = errors.ServiceError.__subclasses__()
    for status in {leaf.status for leaf in leaves} - {499}:
        assert f"| {status} |" in section
    assert "499" in section


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", each).lower() for each in headings)
    return {re.sub(r"[^\w\- ]", "", each).replace(" ", "-") for each in plain}


def test_links_between_pages_have_a_target() -> None:
    for page in [*DOCS.glob("*.md"), *(DOCS.parent / name for name in ROOT_PAGES)]:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(linked), f"{page.name}: {target}#{anchor}"


def test_the_example_of_the_engine_works() -> None:
    section = read("concepts.md").split("### The engine without HTTP")[1]
    code, output = re.findall(r"```(?:python)?\n(.+?)```", section, re.DOTALL)[:2]
    command = [sys.executable, "-W", "error", "-c", code]
    ended = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    printed = [line.rsplit(" ", 1) for line in ended.stdout.splitlines()]
    expected = [line.rsplit(" ", 1) for line in output.splitlines()]
    assert [label for label, _ in printed] == [label for label, _ in expected]
    scores = [float(score) for _, score in expected]  # processors round int8 differently
    assert [float(score) for _, score in printed] == pytest.approx(scores, abs=0.05)


def test_every_row_of_what_was_tried_names_a_test() -> None:
    table = read("security.md").split("## What was tried")[1].split("\n## ")[0]
    rows = re.findall(r"\| `([\w/]+\.py)::(\w+)` \|", table)
    assert len(rows) == table.count("\n| ") - 1
    for file, name in rows:
        assert f"def {name}(" in (Path(__file__).parent / "service" / file).read_text(), name
