"""What the service reports while it works; `metrics.py` turns it into numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from service.errors import Outcome
from service.protocol import Accuracy, ModelState, Task
from service.stage_timer import Stage


@dataclass(frozen=True)
class ModelIdentity:
    """Which model version an event is about."""

    name: str
    version: str
    task: Task


@dataclass(frozen=True)
class ModelBuild:
    """What a loaded model version is made of."""

    precision: str
    requested_provider: str
    active_provider: str
    graph_sha256: str
    accuracy: Accuracy | None = None


class Events(Protocol):
    """Everything that is reported."""

    def http_finished(self, method: str, route: str, status: int, seconds: float) -> None:
        """Report that an answer has left."""

    def inference_finished(
        self,
        model: ModelIdentity,
        outcome: Outcome,
        images: int,
        stages: Mapping[Stage, float],
    ) -> None:
        """Report how an inference request ended; `images` were predicted."""

    def queue_changed(self, model: ModelIdentity, images: int) -> None:
        """Report how many images are admitted and not yet predicted."""

    def model_loaded(self, model: ModelIdentity, build: ModelBuild, seconds: float) -> None:
        """Report that a model version serves."""

    def self_tested(
        self, model: ModelIdentity, max_absolute_error: float, agreement: float, *, ok: bool
    ) -> None:
        """Report how far the golden outputs were off."""

    def model_refused(self, name: str) -> None:
        """Report that a repository entry could not be loaded."""

    def model_state_changed(self, name: str, version: str, state: ModelState) -> None:
        """Report where a model version is in its life."""
