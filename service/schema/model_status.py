"""Wire types of `/v1/models`: the state of each model version."""

from typing import Any

from pydantic import Field

from service.schema.tasks import TASKS
from service.schema.vocabulary import ModelState, Task, Wire


class ExecutionProvider(Wire):
    """The requested execution provider, and the one that ONNX Runtime uses."""

    requested: str
    active: str
    nodes_on_cpu: int = Field(
        0,
        description="Number of nodes of a graph on a GPU that run on the CPU, "
        "except for shape arithmetic.",
    )


class Accuracy(Wire):
    """Measured accuracy of the precision in use; null if a metric was not measured."""

    data: str
    images: int
    top1: float | None
    top5: float | None
    miou: float | None
    pixel_accuracy: float | None

    def metric(self, task: Task) -> float | None:
        """Return the metric that compares models of a task."""
        value: float | None = getattr(self, TASKS[task].metric)
        return value


class Measurement(Wire):
    """Calibrated duration of one execution, by number of threads and batch size."""

    threads: int
    batch_size: int
    seconds: float


class Width(Wire):
    """A number of threads, and the largest batch to run on them."""

    threads: int
    max_batch_size: int


class Batching(Wire):
    """Batching of a model, and the measurements it is based on."""

    widths: list[Width] = Field(
        description="In ascending order; the current load decides which one is used."
    )
    max_queue_delay_microseconds: int
    max_queue_size: int = Field(description="Maximum number of queued images.")
    measurements: list[Measurement]
    measured_at: tuple[int, int] = Field(description="Height and width of the measured images.")


class ModelStatus(Wire):
    """A model version and its state."""

    name: str
    version: str | None = Field(description="Null if the contract cannot be read.")
    task: Task | None
    state: ModelState
    reason: str | None = Field(
        description="Reason why the version is not ready, or why its replacement could not be "
        "loaded; null otherwise."
    )
    labels: list[str]
    precision: str | None
    execution_provider: ExecutionProvider | None
    accuracy: Accuracy | None = Field(description="Null if it was not measured.")
    batching: Batching | None = Field(description="Null if the version is not loaded.")


class ModelDetail(ModelStatus):
    """A model version, its state, and the files it was loaded from."""

    contract: dict[str, Any] | None = Field(
        description="`config.json` as of the load, without the versions of the export tools."
    )
    certificate: dict[str, Any] | None = Field(
        description="`certificate.json`; null if the version is not loaded."
    )


class ModelList(Wire):
    """All model versions that are loaded or should be."""

    models: list[ModelStatus]
