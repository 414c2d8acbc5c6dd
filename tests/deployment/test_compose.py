"""The compose file: its schema, and that its paths, ports, names and limits are the code's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service import __version__
from tests.deployment.files import (
    DOCKERFILES,
    ROOT,
    Yaml,
    compose,
    dockerfile,
    documented,
    settings,
    stop_seconds,
)

SERVICES = compose()["services"]
OURS = ["vt-serve", "vt-serve-gpu"]
FOLDERS = [
    (name, volume)
    for name, service in SERVICES.items()
    for volume in service["volumes"]
    if volume.startswith(".")
]


def read(name: str) -> Yaml:
    return yaml.safe_load((ROOT / name).read_text())


def check_schema(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, path], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_file_follows_the_compose_specification() -> None:
    check_schema(ROOT / "docker-compose.yml")


@pytest.mark.parametrize(("name", "volume"), FOLDERS)
def test_mounted_paths_exist_and_are_read_only(name: str, volume: str) -> None:
    source, _, mode = volume.split(":")
    assert (ROOT / source).exists(), source
    assert mode == "ro"


def test_every_named_volume_is_declared() -> None:
    used = {volume.split(":")[0] for each in SERVICES.values() for volume in each["volumes"]}
    assert {name for name in used if not name.startswith(".")} == set(compose()["volumes"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_bounded_and_published_on_loopback_only(name: str) -> None:
    service = SERVICES[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["stop_grace_period"]
    for port in service["ports"]:
        assert port.startswith("127.0.0.1:")
    assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])


def test_the_monitoring_images_are_of_the_major_versions_that_the_files_are_for() -> None:
    assert SERVICES["prometheus"]["image"].startswith("prom/prometheus:v3.")
    assert SERVICES["grafana"]["image"].startswith("grafana/grafana:12.")


@pytest.mark.parametrize(("name", "device"), [*zip(OURS, DOCKERFILES, strict=True)])
def test_the_service_is_built_and_run_as_its_dockerfile_says(name: str, device: str) -> None:
    service, path = SERVICES[name], DOCKERFILES[device]
    assert ROOT / service["build"]["context"] / service["build"]["dockerfile"] == path
    assert service["image"] == f"{name}:{__version__}"
    stage = dockerfile(path)[1][-1]
    check = stage.one("HEALTHCHECK").text.split("CMD ")[1]
    assert service["healthcheck"]["test"] == ["CMD", *yaml.safe_load(check)]
    chosen = settings({**stage.variables("ENV"), **service["environment"]})
    assert service["volumes"] == [f"./weights:{chosen.model_repository}:ro"]
    assert service["ports"] == [f"127.0.0.1:8000:{chosen.port}"]
    assert service["init"]  # SIGTERM ends it at any time, also while Python starts


@pytest.mark.parametrize("name", OURS)
def test_a_drain_ends_before_the_grace_period(name: str) -> None:
    service = SERVICES[name]
    grace = float(service["stop_grace_period"].removesuffix("s"))
    assert grace > stop_seconds(settings(service["environment"]))


def test_each_profile_starts_one_service_of_the_name_that_is_scraped() -> None:
    profiles = [profile for name in OURS for profile in SERVICES[name]["profiles"]]
    assert profiles == list(DOCKERFILES)
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env").read_text().splitlines()
    assert SERVICES["vt-serve-gpu"]["networks"]["default"]["aliases"] == ["vt-serve"]
    assert "profiles" not in SERVICES["prometheus"] | SERVICES["grafana"]


def test_prometheus_scrapes_the_service() -> None:
    jobs = read("docker/prometheus/prometheus.yml")["scrape_configs"]
    targets = [
        target for job in jobs for each in job["static_configs"] for target in each["targets"]
    ]
    assert "vt-serve:8000" in targets


def test_grafana_finds_the_dashboard_and_its_home_where_they_are_mounted() -> None:
    providers = read("docker/grafana/provisioning/dashboards/vt-serve.yml")["providers"]
    grafana = SERVICES["grafana"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert f"./docker/grafana/dashboards/vt-serve.json:{home}:ro" in grafana["volumes"]
    assert home.startswith(providers[0]["options"]["path"])


def test_grafanas_data_source_is_the_prometheus_of_the_file() -> None:
    sources = read("docker/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert [each["url"] for each in sources] == ["http://prometheus:9090"]


def test_the_override_of_the_docs_is_compose_and_sets_settings(tmp_path: Path) -> None:
    override = documented("operations.md", "VT_TLS_CERTIFICATE")
    path = tmp_path / "docker-compose.override.yml"
    path.write_text(yaml.safe_dump(override))
    check_schema(path)
    (added,) = override["services"].values()
    assert set(override["services"]) <= set(OURS)
    chosen = settings(added["environment"])
    (volume,) = added["volumes"]
    _, folder, mode = volume.split(":")
    assert mode == "ro"
    for file in (chosen.api_keys_file, chosen.tls_certificate, chosen.tls_key):
        assert file is not None
        assert str(file.parent) == folder


def test_the_docs_say_how_to_stop_what_the_profile_started() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    assert "docker compose --profile gpu up" in text
    assert "docker compose --profile gpu down" in text
