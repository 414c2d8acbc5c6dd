"""The parsed files that deploy the service."""

import json
import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from service.engine.engine import CLOSE_SECONDS
from service.http.server.server import ABORT_SECONDS
from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
DOCKERFILES = {"cpu": ROOT / "docker" / "Dockerfile", "gpu": ROOT / "docker" / "Dockerfile.gpu"}
KUBERNETES = ROOT / "docker" / "kubernetes"
KUBERNETES_VERSION = "1.34"
CUSTOM_RESOURCES = {
    "monitoring/service-monitor.yaml": "monitoring.coreos.com/v1 ServiceMonitor",
    "autoscaling/scaled-object.yaml": "keda.sh/v1alpha1 ScaledObject",
    "kserve/pod-monitor.yaml": "monitoring.coreos.com/v1 PodMonitor",
    "../prometheus/prometheus-rule.yaml": "monitoring.coreos.com/v1 PrometheusRule",
    "kserve/serving-runtime.yaml": "serving.kserve.io/v1alpha1 ServingRuntime",
    "kserve/inference-service.yaml": "serving.kserve.io/v1beta1 InferenceService",
}

Yaml = dict[str, Any]


@dataclass(frozen=True)
class Instruction:
    """A line of a Dockerfile, continuations joined."""

    keyword: str
    text: str

    @property
    def arguments(self) -> list[str]:
        """The words; a JSON array's elements."""
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)

    @property
    def source_stage(self) -> str | None:
        """The stage that a COPY copies from; None is the checkout."""
        flag = self.arguments[0]
        return flag.removeprefix("--from=") if flag.startswith("--from=") else None

    @property
    def paths(self) -> list[str]:
        """A COPY's sources and its target."""
        return [word for word in self.arguments if not word.startswith("--")]


@dataclass(frozen=True)
class Stage:
    """The instructions from one FROM to the next."""

    base: str
    name: str
    instructions: list[Instruction]

    def all(self, keyword: str) -> list[Instruction]:
        return [each for each in self.instructions if each.keyword == keyword]

    def one(self, keyword: str) -> Instruction:
        (found,) = self.all(keyword)
        return found

    def variables(self, keyword: str) -> dict[str, str]:
        """What ENV, ARG or LABEL set, by name."""
        words = [word for each in self.all(keyword) for word in each.arguments]
        return dict(word.split("=", 1) for word in words)


def instructions(path: Path) -> list[Instruction]:
    lines = [line for line in path.read_text().splitlines() if not line.strip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [Instruction(keyword, text) for keyword, text in pairs]


def dockerfile(path: Path) -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first stage, and the stages."""
    before = Stage("", "", [])
    stages = [before]
    for each in instructions(path):
        if each.keyword == "FROM":
            base, *name = each.text.split(" AS ")
            stages.append(Stage(base, *(name or [""]), []))
        else:
            stages[-1].instructions.append(each)
    return before.variables("ARG"), stages[1:]


@cache
def compose() -> Yaml:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def manifest(path: str) -> Yaml:
    return yaml.safe_load((KUBERNETES / path).read_text())


def documented(page: str, marker: str) -> Yaml:
    """The one YAML block of a page of the docs that has this in it."""
    blocks = re.findall(r"^```yaml\n(.+?)^```", (ROOT / "docs" / page).read_text(), re.M | re.S)
    (block,) = (each for each in blocks if marker in each)
    return yaml.safe_load(block)


def render(folder: Path) -> list[Yaml]:
    """What `kubectl apply -k` would send."""
    command = ["kubectl", "kustomize", str(folder)]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(rendered))


def settings(environment: dict[str, str]) -> Settings:
    """What the service would make of these variables; every `VT_*` has to be a setting."""
    ours = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    return Settings(**{name.removeprefix(PREFIX).lower(): value for name, value in ours.items()})


def stop_seconds(chosen: Settings) -> float:
    """How long the service may take from SIGTERM to its end."""
    return chosen.drain_timeout_seconds + ABORT_SECONDS + CLOSE_SECONDS
