"""What kustomize makes of the manifests, and of the overlay that the docs show."""

import json
import os
import shutil
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from service import __version__
from tests.deployment.files import (
    CUSTOM_RESOURCES,
    DOCKERFILES,
    KUBERNETES,
    KUBERNETES_VERSION,
    ROOT,
    Yaml,
    dockerfile,
    documented,
    render,
    settings,
)
from tests.monitoring.files import dashboard
from tests.tools import needs

ALL = ("monitoring", "autoscaling", "models-volume", "gpu", "tls", "keys")
REGISTRY = "registry.example.com"


def validate(objects: list[Yaml]) -> dict[str, Yaml]:
    """The objects by kind and name, once those that have a schema follow it."""
    for found in objects:
        if f"{found['apiVersion']} {found['kind']}" not in CUSTOM_RESOURCES.values():
            kubernetes_validate.validate(found, KUBERNETES_VERSION, strict=True)
    return {f"{found['kind']} {found['metadata']['name']}": found for found in objects}


def one(objects: dict[str, Yaml], kind: str) -> Yaml:
    (found,) = (each for name, each in objects.items() if name.split()[0] == kind)
    return found


def configuration(objects: dict[str, Yaml]) -> Yaml:
    (found,) = (
        each
        for name, each in objects.items()
        if name.startswith("ConfigMap vt-serve-") and "dashboard" not in name
    )
    return found["data"]


def pod(objects: dict[str, Yaml]) -> Yaml:
    return one(objects, "Deployment")["spec"]["template"]["spec"]


def queries(objects: dict[str, Yaml]) -> str:
    return "".join(
        each["metadata"]["query"] for each in one(objects, "ScaledObject")["spec"]["triggers"]
    )


def overlay(folder: Path, whole: Yaml) -> dict[str, Yaml]:
    """Render a kustomization that has a copy of the checkout beside it, called vt-serve."""
    shutil.copytree(ROOT / "docker", folder / "vt-serve" / "docker")
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    return validate(render(folder))


def composed(folder: Path, *components: str) -> dict[str, Yaml]:
    """Render the base with components."""
    up = os.path.relpath(KUBERNETES.resolve(), folder.resolve())  # kustomize wants it relative
    whole = {"resources": [f"{up}/base"], "components": [f"{up}/{name}" for name in components]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    return validate(render(folder))


@needs("kubectl")
@pytest.mark.parametrize("folder", [".", "base", "kserve"])
def test_kustomize_renders_valid_objects(folder: str) -> None:
    validate(render(KUBERNETES / folder))


@needs("kubectl")
def test_the_overlay_of_the_docs_runs_the_gpu_image_on_gpu_nodes(tmp_path: Path) -> None:
    whole = documented("operations.md", "kind: Kustomization")
    objects = overlay(tmp_path, whole)
    (container,) = pod(objects)["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"] == f"{REGISTRY}/vt-serve-gpu:{__version__}"
    assert settings(configuration(objects)).execution_providers == "cuda"
    (own,) = whole["configMapGenerator"]
    for literal in own["literals"]:
        name, _, value = literal.partition("=")
        assert configuration(objects)[name] == value


@needs("kubectl")
def test_a_tag_for_the_cpu_image_never_reaches_gpu_nodes(tmp_path: Path) -> None:
    whole = documented("operations.md", "kind: Kustomization")
    (cpu,) = (each for each in whole["images"] if each["name"] == "vt-serve")
    cpu["newTag"] = "9.9.9"
    (container,) = pod(overlay(tmp_path, whole))["containers"]
    assert container["image"] == f"{REGISTRY}/vt-serve-gpu:{__version__}"


@needs("kubectl")
def test_the_overlay_of_the_docs_without_a_gpu_runs_the_cpu_image(tmp_path: Path) -> None:
    whole = documented("operations.md", "kind: Kustomization")
    whole["components"] = [each for each in whole["components"] if not each.endswith("/gpu")]
    (container,) = pod(overlay(tmp_path, whole))["containers"]
    assert container["image"] == f"{REGISTRY}/vt-serve:{__version__}"


@needs("kubectl")
def test_the_overlay_of_the_docs_scales_by_its_own_namespace(tmp_path: Path) -> None:
    whole = documented("operations.md", "kind: Kustomization")
    objects = overlay(tmp_path, whole)
    assert whole["namespace"] != "vt-serve"
    assert queries(objects).count(f'namespace="{whole["namespace"]}"') == 3
    assert 'namespace="vt-serve"' not in queries(objects)


def test_the_overlay_of_the_docs_names_every_component() -> None:
    whole = documented("operations.md", "kind: Kustomization")
    assert {Path(each).name for each in whole["components"]} == set(ALL)
    assert set(ALL) == {
        path.parent.name
        for path in KUBERNETES.glob("*/kustomization.yaml")
        if yaml.safe_load(path.read_text())["kind"] == "Component"
    }


@needs("kubectl")
def test_another_namespace_reaches_the_queries_of_kserve(tmp_path: Path) -> None:
    folder = "vt-serve/docker/kubernetes/kserve"
    whole = {
        "namespace": "production",
        "resources": [folder],
        "replacements": [{"path": f"{folder}/namespace.yaml"}],
    }
    service = one(overlay(tmp_path, whole), "InferenceService")
    text = json.dumps(service["spec"]["predictor"]["autoScaling"])
    assert text.count('namespace=\\"production\\"') == 3
    assert 'namespace=\\"vt-serve\\"' not in text


@needs("kubectl")
def test_the_components_fit_together(tmp_path: Path) -> None:
    objects = composed(tmp_path, *ALL)
    assert "replicas" not in one(objects, "Deployment")["spec"]
    mounts = {each["name"]: each for each in pod(objects)["containers"][0]["volumeMounts"]}
    assert (
        set(mounts)
        == {"models", "tls", "keys"}
        == {each["name"] for each in pod(objects)["volumes"]}
    )
    assert all(each["readOnly"] and "subPath" not in each for each in mounts.values())
    final = dockerfile(DOCKERFILES["gpu"])[1][-1]
    assert mounts["models"]["mountPath"] == final.variables("ENV")["VT_MODEL_REPOSITORY"]
    claims = [
        each["persistentVolumeClaim"]
        for each in pod(objects)["volumes"]
        if "persistentVolumeClaim" in each
    ]
    assert [each["claimName"] for each in claims] == [
        one(objects, "PersistentVolumeClaim")["metadata"]["name"]
    ]
    chosen = settings(configuration(objects))
    assert chosen.execution_providers == "cuda"
    assert chosen.drain_timeout_seconds == 20


@needs("kubectl")
def test_with_tls_the_probes_and_the_scrapes_use_it(tmp_path: Path) -> None:
    objects = composed(tmp_path, "monitoring", "tls")
    (container,) = pod(objects)["containers"]
    for name in ("livenessProbe", "readinessProbe"):
        assert container[name]["httpGet"]["scheme"] == "HTTPS"
        assert container[name]["httpGet"]["path"].startswith("/v2/health/")
    (mount,) = container["volumeMounts"]
    (volume,) = pod(objects)["volumes"]
    chosen = settings(configuration(objects))
    assert str(chosen.tls_certificate) == f"{mount['mountPath']}/tls.crt"
    assert str(chosen.tls_key) == f"{mount['mountPath']}/tls.key"
    (endpoint,) = one(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["ca"]["secret"]["name"] == volume["secret"]["secretName"]
    assert endpoint["tlsConfig"]["serverName"] == one(objects, "Service")["metadata"]["name"]


@needs("kubectl")
def test_with_keys_the_service_reads_them_from_the_secret(tmp_path: Path) -> None:
    objects = composed(tmp_path, "keys")
    (mount,) = pod(objects)["containers"][0]["volumeMounts"]
    chosen = settings(configuration(objects))
    assert str(chosen.api_keys_file) == f"{mount['mountPath']}/keys.toml"


@needs("kubectl")
def test_secrets_are_readable_by_the_pods_group_only(tmp_path: Path) -> None:
    objects = composed(tmp_path, "tls", "keys")
    assert (
        pod(objects)["securityContext"]["fsGroup"] == pod(objects)["securityContext"]["runAsGroup"]
    )
    assert {each["secret"]["defaultMode"] for each in pod(objects)["volumes"]} == {0o440}


@needs("kubectl")
@pytest.mark.parametrize("folder", [".", "kserve"])
def test_alerts_and_the_dashboard_come_with_the_service(folder: str) -> None:
    objects = validate(render(KUBERNETES / folder))
    board = objects["ConfigMap vt-serve-dashboard"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["vt-serve.json"]) == dashboard()
    groups = yaml.safe_load((ROOT / "docker/prometheus/rules.yml").read_text())["groups"]
    assert one(objects, "PrometheusRule")["spec"]["groups"] == groups
    assert len(json.dumps(board)) < 200_000  # kubectl keeps a copy in an annotation of 256 KiB


@needs("kubectl")
def test_kserve_comes_with_the_claim_that_it_mounts() -> None:
    objects = validate(render(KUBERNETES / "kserve"))
    model = one(objects, "InferenceService")["spec"]["predictor"]["model"]
    claim = one(objects, "PersistentVolumeClaim")["metadata"]["name"]
    assert model["storageUri"] == f"pvc://{claim}/"
    (container,) = one(objects, "ServingRuntime")["spec"]["containers"]
    assert container["image"] == f"vt-serve:{__version__}"
