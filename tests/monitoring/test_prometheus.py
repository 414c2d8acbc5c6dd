"""A real Prometheus scrapes the real service under load and answers the dashboard's queries."""

import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.monitoring.files import PROMETHEUS, alerts, queries
from tests.service.photos import GREEN, encode, quarters, solid
from tests.service.process import Process, running
from tests.service.token_models import write_token_models
from tests.tools import needs

LIMIT_SECONDS = 60.0
VARIABLES = {"$__rate_interval": "5s", "$instance": ".*", "$model": ".*"}
ONLY_AT_TIMES = (
    "vt_gpu_",
    "vt_shadow_",
    "vt_api_key_",
    "vt_connections_dropped",
    "vt_token_drift_score",
)
"""What has values with a GPU, a shadow, keys, odd clients or a reference distribution only."""
SAMPLE_OFTEN = {"VT_TOKEN_SAMPLE_SECONDS": "0.1"}
CLASSIFY = "/v1/classify"
LOAD = [
    (CLASSIFY, encode(solid(GREEN))),
    ("/v1/segment", encode(quarters())),
    (CLASSIFY, b"broken"),
]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_token_models(tmp_path / "weights")


@contextmanager
def under_load(server: Process) -> Iterator[None]:
    """Ask again and again, one request at a time."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.02):
            for path, body in LOAD:
                server.ask("POST", path, body)

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield
    finally:
        ended.set()
        client.join(LIMIT_SECONDS)
        assert not client.is_alive()


def configuration(folder: Path, target: str) -> Path:
    """The shipped configuration with another target and shorter intervals."""
    document = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    document["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    document["rule_files"] = [str(PROMETHEUS / "rules.yml")]
    (job,) = document["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(document))
    return path


class Prometheus:
    """A running Prometheus."""

    def __init__(self, folder: Path, target: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={configuration(folder, target)}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def get(self, path: str, **query: str) -> dict:
        url = f"{self._url}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20) as response:
            return json.loads(response.read() or b"{}")

    def is_ready(self) -> bool:
        assert self._process.poll() is None, Path(self._log.name).read_text()
        try:
            return self.get("/api/v1/status/runtimeinfo")["status"] == "success"
        except (urllib.error.URLError, ConnectionError):
            return False

    def values(self, query: str) -> list[float]:
        """The current values of a query that are numbers."""
        for name, value in VARIABLES.items():
            query = query.replace(name, value)
        result = self.get("/api/v1/query", query=query)["data"]["result"]
        values = [float(each["value"][1]) for each in result]
        return [value for value in values if value == value]  # noqa: PLR0124

    def close(self) -> None:
        self._process.kill()
        self._process.wait(LIMIT_SECONDS)
        self._log.close()


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    each = Prometheus(folder, target)
    try:
        yield each
    finally:
        each.close()


def poll(condition: Callable[[], bool]) -> bool:
    """Poll until a condition is true; return False if the time limit is reached first."""
    ends = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < ends:
        if condition():
            return True
        time.sleep(0.1)
    return False


@needs("prometheus")
def test_every_query_of_the_dashboard_finds_values_and_the_rules_are_evaluated(
    repository: Path, tmp_path: Path
) -> None:
    unanswered = {
        query for _, query in queries() if not any(name in query for name in ONLY_AT_TIMES)
    }

    def is_answered() -> bool:
        unanswered.difference_update([each for each in unanswered if board.values(each)])
        return not unanswered

    with (
        running(repository, **SAMPLE_OFTEN) as server,
        under_load(server),
        prometheus(tmp_path, f"127.0.0.1:{server.port}") as board,
    ):
        assert poll(board.is_ready)
        assert poll(is_answered), sorted(unanswered)
        for _, query in queries():
            board.values(query)
        assert board.values('sum(vt_predicted_classes_total{label="green"})')[0] > 0
        groups = board.get("/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in rules} >= set(alerts())
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []
