"""What the service reports while it works; `metrics.py` turns it into numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from service.errors import Outcome
from service.schema.model_status import Accuracy
from service.schema.vocabulary import ModelState, Task
from service.telemetry.stage_timer import Stage

DispatchReason = Literal["full", "idle", "delay", "retry"]
DropReason = Literal["cancelled", "deadline"]
ShadowDrop = Literal["busy", "failed"]
WatchedFile = Literal["api_keys", "certificate"]
KeyOutcome = Literal["admitted", "rate_limited", "forbidden", "unknown", "missing"]
ConnectionDropReason = Literal[
    "too_many", "idle", "header_timeout", "headers_too_large", "not_http", "send_timeout"
]


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
    nodes_on_cpu: int = 0
    """Nodes that the active provider should run and does not, where it is not the CPU's."""


class Prediction(NamedTuple):
    """What an image was like, and what the model made of it.

    `shares` are what of the image belongs to each class, by label; together 1. `confidence` is
    the likeliest class's probability, where the model tells one.
    """

    pixels: int
    shares: Mapping[str, float]
    confidence: float | None


class ModelLoad(Protocol):
    """How busy a model is, now."""

    @property
    def pending(self) -> int:
        """Images admitted and not yet predicted."""

    @property
    def executing(self) -> int:
        """Batches that run."""

    @property
    def oldest_wait_seconds(self) -> float:
        """How long the oldest image in the queue has waited."""

    @property
    def predicted_wait_seconds(self) -> float:
        """How long one more image would wait."""


class Events(Protocol):
    """Everything that is reported."""

    def loop_lagged(self, seconds: float) -> None:
        """Report how late the event loop came to a timer."""

    def http_finished(self, method: str, route: str, status: int, seconds: float) -> None:
        """Report that an answer has left."""

    def api_key_used(self, key: str, outcome: KeyOutcome) -> None:
        """Report what became of a request that needed a key; empty where the key is not known."""

    def file_reloaded(self, file: WatchedFile, *, ok: bool) -> None:
        """Report that a file was read, first or anew; not `ok` where what it held still counts."""

    def certificate_loaded(self, ends_at: float) -> None:
        """Report when the certificate that serves ends, in seconds since 1970."""

    def connection_dropped(self, reason: ConnectionDropReason) -> None:
        """Report a connection that was ended because of what its client did."""

    def inference_finished(
        self,
        model: ModelIdentity,
        outcome: Outcome,
        images: int,
        stages: Mapping[Stage, float],
    ) -> None:
        """Report how an inference request ended; `images` were predicted."""

    def inference_unavailable(self, name: str, version: str, task: Task | None) -> None:
        """Report a request for a version that does not serve; what is not known is empty."""

    def bodies_exchanged(
        self, model: ModelIdentity, request_bytes: int, response_bytes: int
    ) -> None:
        """Report the size of a request that was answered well, and of its answer."""

    def images_predicted(self, model: ModelIdentity, predictions: Sequence[Prediction]) -> None:
        """Report what a request's images were like and what the model made of them."""

    def batch_dispatched(
        self, model: ModelIdentity, batch_size: int, reason: DispatchReason, room: int
    ) -> None:
        """Report that an execution begins; it had room for so many images."""

    def images_dropped(self, model: ModelIdentity, images: int, reason: DropReason) -> None:
        """Report images that were admitted and never run."""

    def ran_out_of_memory(self, model: ModelIdentity, max_batch_size: int) -> None:
        """Report that an execution found no memory; batches are smaller from now on."""

    def session_rebuilt(self, model: ModelIdentity, build: ModelBuild) -> None:
        """Report that a session was made anew, and where it runs now."""

    def session_lost(self, model: ModelIdentity) -> None:
        """Report that a session could not be made anew; the model is not ready."""

    def session_recovered(self, model: ModelIdentity) -> None:
        """Report that every session that was lost is there again; the model is ready."""

    def execution_hung(self, model: ModelIdentity, seconds: float) -> None:
        """Report that an execution has not ended after so long; the model is not ready."""

    def execution_recovered(self, model: ModelIdentity) -> None:
        """Report that everything that hung has ended; the model is ready again."""

    def shadow_compared(self, model: str, version: str, agreement: float) -> None:
        """Report how far a shadow version's prediction of an image agrees, from 0 to 1."""

    def shadow_dropped(self, model: str, version: str, images: int, reason: ShadowDrop) -> None:
        """Report images that were copied to a shadow version and not compared."""

    def model_loaded(
        self, model: ModelIdentity, build: ModelBuild, seconds: float, load: ModelLoad
    ) -> None:
        """Report that a model version serves; its load may be read at any time."""

    def model_released(self, name: str, version: str) -> None:
        """Report that nothing of a model version is in memory any more."""

    def self_tested(
        self, model: ModelIdentity, max_absolute_error: float, agreement: float, *, ok: bool
    ) -> None:
        """Report how far the golden outputs were off."""

    def model_refused(self, name: str) -> None:
        """Report that a contract could not be read, or a version not be loaded."""

    def model_state_changed(self, name: str, version: str, state: ModelState) -> None:
        """Report where a model version is in its life."""
