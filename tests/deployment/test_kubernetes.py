"""The Kubernetes manifests: their schemas, and names, ports, metrics and times as in the code."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from service import __version__
from service.app import create_app
from service.command_line import _parser
from service.settings import Settings
from tests.deployment.files import (
    CUSTOM_RESOURCES,
    DOCKERFILES,
    KUBERNETES,
    KUBERNETES_VERSION,
    Yaml,
    dockerfile,
    manifest,
    settings,
    stop_seconds,
)
from tests.monitoring.files import rules
from tests.service.repository_fixture import write_classifier

WHOLE = ["base/deployment.yaml", "base/service.yaml", "base/pod-disruption-budget.yaml"]
WHOLE += ["claim/persistent-volume-claim.yaml", "kserve/pod-disruption-budget.yaml"]
KUSTOMIZATIONS = sorted(KUBERNETES.rglob("kustomization.yaml"))
NAME = "app.kubernetes.io/name"


def literals(path: str) -> dict[str, str]:
    """The variables that a kustomization gives to the pods."""
    (generator,) = manifest(path)["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generator["literals"])


def deployment_pod() -> Yaml:
    return manifest("base/deployment.yaml")["spec"]["template"]["spec"]


def runtime() -> Yaml:
    return manifest("kserve/serving-runtime.yaml")["spec"]


def runtime_environment() -> dict[str, str]:
    (container,) = runtime()["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def kserve_pod() -> Yaml:
    predictor = manifest("kserve/inference-service.yaml")["spec"]["predictor"]
    return {**predictor, **runtime()}


PODS = {
    "deployment": (deployment_pod(), literals("base/kustomization.yaml")),
    "kserve": (kserve_pod(), runtime_environment()),
}


@pytest.fixture
def routes(tmp_path: Path) -> set[str]:
    write_classifier(tmp_path)
    return set(create_app(Settings(model_repository=tmp_path)).openapi()["paths"])


@pytest.mark.parametrize("path", WHOLE)
def test_a_manifest_follows_the_schema_of_its_kind(path: str) -> None:
    kubernetes_validate.validate(manifest(path), KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("path", CUSTOM_RESOURCES)
def test_a_custom_resource_is_of_its_version_and_named(path: str) -> None:
    found = manifest(path)
    assert f"{found['apiVersion']} {found['kind']}" == CUSTOM_RESOURCES[path]
    assert found["metadata"]["name"] == "vt-serve"
    assert set(found) == {"apiVersion", "kind", "metadata", "spec"}


def test_every_file_belongs_to_a_kustomization_and_every_path_leads_somewhere() -> None:
    listed = set(KUSTOMIZATIONS)
    for path in KUSTOMIZATIONS:
        whole = yaml.safe_load(path.read_text())
        changes = [*whole.get("patches", []), *whole.get("replacements", [])]
        paths = [each["path"] for each in changes if "path" in each]
        names = [*whole.get("resources", []), *whole.get("components", []), *paths]
        targets = {(path.parent / name).resolve() for name in names}
        assert all(target.exists() for target in targets), path
        listed |= targets
    assert set(KUBERNETES.rglob("*.yaml")) <= listed


@pytest.mark.parametrize("path", ["base/kustomization.yaml", "kserve/kustomization.yaml"])
def test_the_image_is_the_one_of_this_version(path: str) -> None:
    assert manifest(path)["images"] == [{"name": "vt-serve", "newTag": __version__}]


def test_the_gpu_image_is_the_one_of_this_version_and_gets_a_gpu() -> None:
    assert manifest("gpu/kustomization.yaml")["images"] == [
        {"name": "vt-serve", "newName": "vt-serve-gpu", "newTag": __version__}
    ]
    (container,) = manifest("gpu/deployment.yaml")["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert settings(literals("gpu/kustomization.yaml")).execution_providers == "cuda"


@pytest.mark.parametrize("case", PODS)
def test_probes_ask_routes_that_exist_on_the_port_that_is_served(
    case: str, routes: set[str]
) -> None:
    pod, environment = PODS[case]
    (container,) = pod["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == settings(environment).port
    probes = {name: container[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")}
    assert {probe["path"] for probe in probes.values()} <= routes
    assert {probe.get("scheme", "HTTP") for probe in probes.values()} == {"HTTP"}
    assert probes["livenessProbe"]["path"].endswith("/live")
    assert probes["readinessProbe"]["path"].endswith("/ready")
    assert {probe["port"] for probe in probes.values()} <= {port["name"], port["containerPort"]}


@pytest.mark.parametrize("case", PODS)
def test_pause_drain_and_abort_end_before_the_grace_period(case: str) -> None:
    pod, environment = PODS[case]
    (container,) = pod["containers"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause + stop_seconds(settings(environment))


@pytest.mark.parametrize("case", PODS)
def test_a_pod_is_bounded_and_can_do_nothing_but_serve(case: str) -> None:
    pod, _ = PODS[case]
    (container,) = pod["containers"]
    security = {**pod.get("securityContext", {}), **container["securityContext"]}
    user = dockerfile(DOCKERFILES["cpu"])[1][-1].one("USER").text.split(":")[0]
    assert security["runAsUser"] == int(user)
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    limits, requests = (container["resources"][key] for key in ("limits", "requests"))
    assert limits["cpu"] == requests["cpu"]
    assert limits["cpu"].isdecimal()  # whole cores: they become whole threads
    assert {"cpu", "memory"} == set(limits) == set(requests)


def test_kubernetes_does_not_add_variables_that_look_like_settings() -> None:
    assert deployment_pod()["enableServiceLinks"] is False
    assert kserve_pod()["enableServiceLinks"] is False


def test_selectors_find_the_pods_and_the_service() -> None:
    pod_labels = manifest("base/deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    service = manifest("base/service.yaml")
    monitor = manifest("monitoring/service-monitor.yaml")["spec"]
    budget = manifest("base/pod-disruption-budget.yaml")["spec"]
    assert manifest("base/deployment.yaml")["spec"]["selector"]["matchLabels"] == pod_labels
    assert service["spec"]["selector"] == pod_labels
    assert budget["selector"]["matchLabels"] == pod_labels
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == [
        port["name"] for port in service["spec"]["ports"]
    ]
    (container,) = deployment_pod()["containers"]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]


def test_the_monitor_reads_the_route_of_the_metrics(routes: set[str]) -> None:
    (endpoint,) = manifest("monitoring/service-monitor.yaml")["spec"]["endpoints"]
    assert endpoint["path"] in routes
    (endpoint,) = manifest("kserve/pod-monitor.yaml")["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] in routes
    assert runtime()["annotations"]["prometheus.kserve.io/path"] in routes
    assert runtime()["annotations"]["prometheus.kserve.io/port"] == str(Settings().port)


def test_the_monitor_of_kserve_finds_its_pods_and_calls_the_job_as_the_rules_do() -> None:
    spec = manifest("kserve/pod-monitor.yaml")["spec"]
    name = manifest("kserve/inference-service.yaml")["metadata"]["name"]
    budget = manifest("kserve/pod-disruption-budget.yaml")["spec"]
    (spread,) = kserve_pod()["topologySpreadConstraints"]
    for selector in (spec["selector"], budget["selector"], spread["labelSelector"]):
        assert selector["matchLabels"] == {"serving.kserve.io/inferenceservice": name}
    (endpoint,) = spec["podMetricsEndpoints"]
    (container,) = runtime()["containers"]
    assert endpoint["port"] == container["ports"][0]["name"]
    (relabeling,) = endpoint["relabelings"]
    jobs = {job for rule in rules() for job in re.findall(r'job="([^"]+)"', rule["expr"])}
    assert {relabeling["replacement"]} == jobs
    assert relabeling["targetLabel"] == "job"
    assert {manifest("base/service.yaml")["metadata"]["name"]} == jobs


def test_the_inference_service_uses_v2_and_the_shipped_runtime() -> None:
    model = manifest("kserve/inference-service.yaml")["spec"]["predictor"]["model"]
    assert model["protocolVersion"] == "v2"
    assert runtime()["protocolVersions"] == ["v2"]
    assert model["runtime"] == manifest("kserve/serving-runtime.yaml")["metadata"]["name"]
    assert model["modelFormat"]["name"] in {
        each["name"] for each in runtime()["supportedModelFormats"]
    }
    claim = manifest("claim/persistent-volume-claim.yaml")["metadata"]["name"]
    assert model["storageUri"] == f"pvc://{claim}/"
    (container,) = runtime()["containers"]
    assert container["name"] == "kserve-container"
    arguments = _parser().parse_args(container["args"])
    assert arguments.model_repository == "/mnt/models"
