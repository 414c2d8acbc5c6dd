"""The two Dockerfiles, as far as they can be checked without an engine."""

import fnmatch
import os
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from service import __version__
from tests.deployment.files import DOCKERFILES, ROOT, Stage, dockerfile, settings

BOTH = pytest.mark.parametrize("device", DOCKERFILES)
SBOM_FOLDER = "/usr/local/share/sbom/"
ENGINE_ARGUMENTS = {"PYTHON_IMAGE", "CUDA_IMAGE"}


def stages(device: str) -> list[Stage]:
    return dockerfile(DOCKERFILES[device])[1]


def final(device: str) -> Stage:
    return stages(device)[-1]


def ignored(path: str) -> bool:
    """By .dockerignore: the last line that matches a path, or a folder above it, decides."""
    parents = ["/".join(path.split("/")[: n + 1]) for n in range(path.count("/") + 1)]
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        names = [parent.rsplit("/", 1)[-1] if "**/" in line else parent for parent in parents]
        if line and not line.startswith("#") and any(fnmatch.fnmatch(n, pattern) for n in names):
            verdict = not line.startswith("!")
    return verdict


def requirements(*extras: str) -> list[Requirement]:
    printed = subprocess.run(
        [sys.executable, "docker/requirements.py", *extras],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [Requirement(line) for line in printed.splitlines()]


@BOTH
def test_every_stage_is_built_on_a_pinned_base_or_on_an_earlier_stage(device: str) -> None:
    arguments, found = dockerfile(DOCKERFILES[device])
    assert set(arguments) <= ENGINE_ARGUMENTS
    for image in arguments.values():
        assert re.fullmatch(r"docker\.io/[\w/]+:\d+\.\d+\.\d+-[\w.-]+", image)
    earlier: set[str] = set()
    for stage in found:
        assert stage.base in {f"${{{name}}}" for name in arguments} | earlier
        earlier.add(stage.name)


def test_the_gpu_image_has_cuda_13_and_cudnn() -> None:
    (image,) = dockerfile(DOCKERFILES["gpu"])[0].values()
    assert re.search(r"/cuda:13\..*-cudnn-runtime-", image)


@BOTH
def test_the_last_stage_runs_nothing_and_copies_from_the_others(device: str) -> None:
    assert not final(device).all("RUN")
    assert not final(device).all("ADD")
    names = {stage.name for stage in stages(device)}
    assert {copy.source_stage for copy in final(device).all("COPY")} <= names


@BOTH
def test_paths_copied_from_the_checkout_exist_and_are_not_ignored(device: str) -> None:
    for stage in stages(device):
        for copy in stage.all("COPY"):
            for path in copy.paths[:-1] if copy.source_stage is None else []:
                assert (ROOT / path).exists(), path
                assert not ignored(path), path


def test_paths_that_no_image_needs_are_not_sent_to_the_builder() -> None:
    unwanted = (".git", ".ci/run", ".venv", "model_export", "tests", "docs", "service/__pycache__")
    assert [path for path in unwanted if not ignored(path)] == []


@BOTH
def test_the_process_is_not_a_shell_and_not_root(device: str) -> None:
    stage = final(device)
    assert stage.one("ENTRYPOINT").arguments == ["python", "-m", "service"]
    assert stage.one("ENTRYPOINT").text.startswith("[")
    assert stage.one("STOPSIGNAL").text == "SIGTERM"
    user, group = stage.one("USER").text.split(":")
    assert int(user) > 0
    assert int(group) > 0


@BOTH
def test_the_health_check_is_a_module_of_the_service_in_exec_form(device: str) -> None:
    flags, command = final(device).one("HEALTHCHECK").text.split("CMD ")
    assert command == '["python", "-m", "service.check_ready"]'
    assert "--start-period=" in flags
    assert (ROOT / "service" / "check_ready.py").exists()


@BOTH
def test_the_variables_are_settings_and_the_port_is_the_default_one(device: str) -> None:
    stage = final(device)
    chosen = settings(stage.variables("ENV"))
    assert stage.one("EXPOSE").text == str(chosen.port)
    assert str(chosen.model_repository) in {copy.paths[-1] for copy in stage.all("COPY")}
    assert chosen.host == "0.0.0.0"  # noqa: S104


@BOTH
def test_onnx_runtime_telemetry_is_disabled_in_the_images(device: str) -> None:
    assert final(device).variables("ENV")["ORT_DISABLE_TELEMETRY"] == "1"


@BOTH
def test_the_labels_describe_the_image(device: str) -> None:
    labels = final(device).variables("LABEL")
    prefix = "org.opencontainers.image."
    assert {name.removeprefix(prefix) for name in labels} == {
        "title",
        "description",
        "version",
        "revision",
        "licenses",
    }
    assert final(device).variables("ARG")["VERSION"] == __version__


def test_the_two_images_differ_in_their_base_alone() -> None:
    mine, other = (
        [each for each in final(device).instructions if each.keyword != "LABEL"]
        for device in DOCKERFILES
    )
    assert mine == other


@BOTH
def test_serving_needs_no_torch_and_one_onnx_runtime(device: str) -> None:
    dependencies = next(stage for stage in stages(device) if stage.name == "dependencies")
    arguments = dependencies.variables("ARG")
    names = {each.name for each in requirements(*arguments["EXTRAS"].split())}
    if device == "gpu":
        names.add("onnxruntime-gpu")
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = {
            each.name: each for each in map(Requirement, project["optional-dependencies"]["gpu"])
        }
        assert arguments["ONNXRUNTIME_GPU"] in wanted["onnxruntime-gpu"].specifier
        run = next(each for each in dependencies.instructions if "onnxruntime-gpu==" in each.text)
        assert set(wanted) <= set(re.findall(r"[a-z][a-z-]+", run.text))
    assert "torch" not in names
    assert sum(name.startswith("onnxruntime") for name in names) == 1
    assert "fastapi" in names


@BOTH
def test_the_bill_of_materials_is_of_what_is_copied_and_its_tool_stays_behind(device: str) -> None:
    named = {stage.name: stage for stage in stages(device)}
    sbom, dependencies = named["sbom"], named["dependencies"]
    assert sbom.base == "dependencies"
    make, install, write = (run.arguments for run in sbom.all("RUN"))
    tools = make[-1]
    assert f"{tools}/bin/python" in install
    assert (install[-3:-1], install[-1]) == (["--constraint", "constraints.txt"], "cyclonedx-bom")
    assert "cyclonedx-bom==" in (ROOT / "constraints.txt").read_text()
    script, tool, python, output = write
    assert os.access(ROOT / script, os.X_OK)
    assert sbom.one("COPY").paths == [script, ".ci/"]
    assert tool == f"{tools}/bin/cyclonedx-py"
    copied = {copy.source_stage: copy.paths for copy in final(device).all("COPY")}
    assert python == f"{copied['dependencies'][0]}/bin/python"
    assert copied["sbom"] == [f"{dependencies.one('WORKDIR').text}/{output}", SBOM_FOLDER]
    assert not any(tools in path for paths in copied.values() for path in paths)


@pytest.mark.parametrize("page", ["operations.md", "security.md"])
def test_the_docs_say_where_the_bill_of_materials_is(page: str) -> None:
    copied = {copy.paths[0] for copy in final("cpu").all("COPY") if copy.source_stage == "sbom"}
    (name,) = (path.rsplit("/", 1)[1] for path in copied)
    assert f"{SBOM_FOLDER}{name}" in (ROOT / "docs" / page).read_text()


def test_the_docs_serve_with_an_init_that_heeds_sigterm_from_the_start() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    serving = re.findall(r"^docker run .*--stop-timeout.*$", text, re.MULTILINE)
    assert len(serving) >= len(DOCKERFILES)
    assert all(" --init " in command for command in serving)
