"""The CPU image without an engine: its Dockerfile's steps in a folder, and its start command as
an unprivileged user who can write nothing there."""

import http.client
import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.deployment.files import DOCKERFILES, ROOT, Stage, dockerfile
from tests.service.photos import GREEN, encode, solid
from tests.service.repository_fixture import write_classifier

STAGES = {stage.name: stage for stage in dockerfile(DOCKERFILES["cpu"])[1]}
FINAL = STAGES[""]
USER = int(FINAL.one("USER").text.split(":")[0])
AS_USER = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
PYTHONS = [Path(sys.executable).resolve(), *sorted(Path("/usr/bin").glob("python3.1[1-3]"))]
START_LIMIT_SECONDS = 120


def base_python() -> Path:
    """A Python that the user may run, for the place of the base image's."""
    for python in PYTHONS:
        try:
            subprocess.run([python, "-c", "import venv"], check=True, env={}, **AS_USER)
        except (OSError, subprocess.SubprocessError):
            continue
        return python
    pytest.skip(f"No Python that user {USER} may run: {', '.join(map(str, PYTHONS))}.")


@dataclass
class Image:
    """A folder that stands for `/`, with what the Dockerfile's steps put there."""

    root: Path
    python: Path
    folders: dict[str, Path] = field(default_factory=dict)
    """Where each stage that was built ended, by its name."""

    def inside(self, text: str) -> str:
        """Move every absolute path that the Dockerfile makes into the folder."""
        made = "opt/vt-serve|opt/cyclonedx|usr/local/share/sbom|app|models|build"
        return re.sub(rf"(?<![\w.])/({made})\b", rf"{self.root}/\1", text)

    def build(self, stage: Stage) -> None:
        """Do what a stage says."""
        folder = self.folders.get(stage.base, self.root)
        environment = {**os.environ, "PATH": f"{self.root}/bin:{os.environ['PATH']}"}
        environment |= stage.variables("ARG")
        for step in stage.instructions:
            if step.keyword == "WORKDIR":
                folder = Path(self.inside(step.text))
                folder.mkdir(parents=True)
            elif step.keyword == "COPY":
                self.copy([ROOT / path for path in step.paths[:-1]], folder, step.paths[-1])
            elif step.keyword == "RUN":
                command = self.inside(re.sub(r"--mount=\S+\s+", "", step.text))
                subprocess.run(command, shell=True, check=True, cwd=folder, env=environment)  # noqa: S602
        self.folders[stage.name] = folder

    def copy(self, sources: list[Path], folder: Path, target: str) -> None:
        """Do what a COPY says."""
        to = folder / self.inside(target)
        for source in sources:
            if source.is_dir():
                shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, to)

    def environment(self, port: int) -> dict[str, str]:
        """What the image sets, and the port; the address is this machine's alone."""
        path = {"PATH": "/usr/bin:/bin"}
        variables = {name: self.inside(value) for name, value in FINAL.variables("ENV").items()}
        variables["PATH"] = variables["PATH"].replace("$PATH", path["PATH"])
        return {**variables, "VT_HOST": "127.0.0.1", "VT_PORT": str(port)}

    def command(self, keyword: str) -> list[str]:
        """The words of ENTRYPOINT or HEALTHCHECK, the first found as PATH finds it."""
        words = json.loads(FINAL.one(keyword).text.split("CMD ")[-1])
        return [f"{self.root}/opt/vt-serve/bin/{words[0]}", *words[1:]]

    def packages(self) -> Path:
        (packages,) = (self.root / "opt" / "vt-serve" / "lib").glob("python*/site-packages")
        return packages

    def files(self) -> set[Path]:
        return set(self.root.rglob("*"))


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The built image, readable by every user and writable by none."""
    root = Path(tempfile.mkdtemp())
    image = Image(root, base_python())
    (root / "bin").mkdir()
    (root / "bin" / "python").symlink_to(image.python)
    for name in ("dependencies", "sbom", "code"):
        image.build(STAGES[name])
    (bill,) = (copy for copy in FINAL.all("COPY") if copy.source_stage == "sbom")
    image.copy([Path(image.inside(bill.paths[0]))], root, bill.paths[1])
    write_classifier(root / "models")
    subprocess.run(["chmod", "-R", "a+rX,a-w", root], check=True)
    yield image
    subprocess.run(["chmod", "-R", "u+w", root], check=True)
    shutil.rmtree(root)


@dataclass
class Container:
    """The start command, running as the image's user."""

    image: Image
    port: int
    process: subprocess.Popen[bytes]

    def check(self) -> int:
        """Run the health check; return its exit status."""
        return self.run("HEALTHCHECK").returncode

    def run(self, keyword: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.image.command(keyword), *arguments],
            cwd=self.image.inside(FINAL.one("WORKDIR").text),
            env=self.image.environment(self.port),
            check=False,
            capture_output=True,
            text=True,
            timeout=START_LIMIT_SECONDS,
            **AS_USER,
        )

    def classify(self, photo: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("POST", "/v1/classify", photo)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@pytest.fixture
def container(image: Image) -> Iterator[Container]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        image.command("ENTRYPOINT"),
        cwd=image.inside(FINAL.one("WORKDIR").text),
        env=image.environment(port),
        stderr=subprocess.DEVNULL,
        **AS_USER,
    )
    yield Container(image, port, process)
    process.kill()
    process.wait(20)


def test_the_image_serves_is_healthy_and_stops_as_its_user_without_writing(
    container: Container,
) -> None:
    before = container.image.files()
    limit = time.monotonic() + START_LIMIT_SECONDS
    while container.check() != 0:
        assert container.process.poll() is None
        assert time.monotonic() < limit
    owner = Path(f"/proc/{container.process.pid}").stat().st_uid
    assert owner == (USER if AS_USER else os.geteuid())
    assert not os.access(container.image.root, os.W_OK) or os.geteuid() == 0
    status, body = container.classify(encode(solid(GREEN), "JPEG"))
    assert status == 200
    assert b"green" in body
    container.process.send_signal(signal.Signals[FINAL.one("STOPSIGNAL").text])
    assert container.process.wait(timeout=20) == 0
    assert container.check() == 1
    assert container.image.files() == before


def test_the_user_can_write_nowhere_in_the_image(image: Image) -> None:
    folders = [str(path) for path in (image.root, *image.files()) if path.is_dir()]
    code = "import os, sys; sys.exit(sum(os.access(p, os.W_OK) for p in sys.argv[1:]))"
    command = [*image.command("ENTRYPOINT")[:1], "-c", code, *folders]
    assert subprocess.run(command, check=False, env={}, **AS_USER).returncode == 0


def test_the_dependencies_are_neither_torch_nor_a_compiler_nor_pip(image: Image) -> None:
    names = {path.name for path in image.packages().iterdir()}
    assert {"fastapi", "onnxruntime", "uvloop"} <= names
    assert not names & {"torch", "pip", "setuptools", "pytest", "onnx"}


def test_the_dependencies_and_the_base_stay_under_the_documented_size(image: Image) -> None:
    files = [path for path in (image.root / "opt" / "vt-serve").rglob("*") if not path.is_symlink()]
    megabytes = sum(path.stat().st_size for path in files if path.is_file()) / 1e6
    text = (ROOT / "docs" / "operations.md").read_text()
    patterns = (r"(\d+) MB are the base", r"more than (\d+) MB")
    base, most = (float(re.findall(pattern, text)[0]) for pattern in patterns)
    assert 0.5 * (most - base) < megabytes < most - base


def test_the_bill_of_materials_lists_the_contents_of_the_image(image: Image) -> None:
    bill = json.loads((image.root / "usr/local/share/sbom/vt-serve.cdx.json").read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "vt-serve")
    held = importlib.metadata.distributions(path=[str(image.packages())])
    assert {(each["name"], each["version"]) for each in bill["components"]} == {
        (each.name, each.version) for each in held
    }


def test_an_image_without_models_reports_it(image: Image, container: Container) -> None:
    """No models are mounted."""
    container.process.kill()
    told = container.run("ENTRYPOINT", "--model-repository", str(image.root / "app"))
    assert told.returncode == 2
    assert "contains no <model>/config.json" in told.stderr
