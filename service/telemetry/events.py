"""Events that the service reports, by subject; `metrics/` turns them into metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from service.schema.model_status import Accuracy
from service.schema.vocabulary import ModelState, Task

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
    """The model version that an event is about."""

    name: str
    version: str
    task: Task


@dataclass(frozen=True)
class ModelBuild:
    """The graph of a loaded model version and the execution provider it runs on."""

    precision: str
    requested_provider: str
    active_provider: str
    graph_sha256: str
    accuracy: Accuracy | None = None
    nodes_on_cpu: int = 0
    """Nodes that run on the CPU although the active provider is another one."""


class Prediction(NamedTuple):
    """The size of an image, and the classes found in it.

    `shares` maps the label of each class found to its share of the image; they add up to 1.
    `confidence` is the probability of the most likely class, or None for a segmentation.
    """

    pixels: int
    shares: Mapping[str, float]
    confidence: float | None


class ModelLoad(Protocol):
    """The current load of a model version."""

    @property
    def pending(self) -> int:
        """Number of images admitted and not yet predicted."""

    @property
    def executing(self) -> int:
        """Number of batches currently running."""

    @property
    def oldest_wait_seconds(self) -> float:
        """Time the oldest image in the queue has been waiting."""

    @property
    def predicted_wait_seconds(self) -> float:
        """Predicted wait of one more image."""


class ServerEvents(Protocol):
    """Events of the process, its connections and its HTTP requests."""

    def loop_lagged(self, seconds: float) -> None:
        """Report the delay of a timer on the event loop."""

    def http_finished(self, method: str, route: str, status: int, seconds: float) -> None:
        """Report that a response was sent."""

    def api_key_used(self, key: str, outcome: KeyOutcome) -> None:
        """Report a request that required an API key; `key` is empty if the key is unknown."""

    def file_reloaded(self, file: WatchedFile, *, ok: bool) -> None:
        """Report that a file was loaded; if not `ok`, its previous contents stay in use."""

    def certificate_loaded(self, ends_at: float) -> None:
        """Report the Unix time at which the certificate in use expires."""

    def connection_dropped(self, reason: ConnectionDropReason) -> None:
        """Report a connection closed because of the client's behaviour."""


class InferenceEvents(Protocol):
    """Events of prediction requests."""

    def inference_unavailable(self, name: str, version: str, task: Task | None) -> None:
        """Report a request for a version that is not ready; `version` may be empty."""


class BatchEvents(Protocol):
    """Events of the batches of a model version, and of the sessions that run them."""

    def batch_dispatched(
        self, model: ModelIdentity, batch_size: int, reason: DispatchReason, room: int
    ) -> None:
        """Report that a batch starts; `room` is its largest possible size."""

    def images_dropped(self, model: ModelIdentity, images: int, reason: DropReason) -> None:
        """Report images that were admitted but never run."""

    def ran_out_of_memory(self, model: ModelIdentity, max_batch_size: int) -> None:
        """Report a batch that did not fit in memory, and the new limit on the batch size."""

    def session_rebuilt(self, model: ModelIdentity, build: ModelBuild) -> None:
        """Report that a session was reopened; it may run on another execution provider."""

    def session_lost(self, model: ModelIdentity) -> None:
        """Report that a session could not be reopened; the model is not ready."""

    def session_recovered(self, model: ModelIdentity) -> None:
        """Report that every lost session is open again; the model is ready."""

    def execution_hung(self, model: ModelIdentity, seconds: float) -> None:
        """Report that a batch hangs, `seconds` after it started; the model is not ready."""

    def execution_recovered(self, model: ModelIdentity) -> None:
        """Report that every batch that hung has ended; the model is ready again."""


class ShadowEvents(Protocol):
    """Events of a shadow version."""

    def shadow_compared(self, model: str, version: str, agreement: float) -> None:
        """Report the agreement of the shadow version for one image, from 0 to 1."""

    def shadow_dropped(self, model: str, version: str, images: int, reason: ShadowDrop) -> None:
        """Report images that were copied to a shadow version but not compared."""


class ModelEvents(Protocol):
    """Events in the life of a model version."""

    def model_loaded(
        self, model: ModelIdentity, build: ModelBuild, seconds: float, load: ModelLoad
    ) -> None:
        """Report that a version is ready; its load may be read until its release."""

    def model_released(self, name: str, version: str) -> None:
        """Report that a version is no longer in memory."""

    def self_tested(
        self, model: ModelIdentity, max_absolute_error: float, agreement: float, *, ok: bool
    ) -> None:
        """Report how closely the golden outputs were reproduced."""

    def model_refused(self, name: str) -> None:
        """Report a contract that could not be read, or a version that could not be loaded."""

    def model_state_changed(self, name: str, version: str, state: ModelState) -> None:
        """Report the new state of a version."""
