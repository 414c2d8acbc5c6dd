"""Wire types of `/v1/models`: the state of each model version, and how it runs."""

from typing import Any

from pydantic import Field

from service.schema.vocabulary import ModelState, Task, Wire


class ExecutionProvider(Wire):
    """Where a model runs: what was asked for and what ONNX Runtime gave."""

    requested: str
    active: str
    nodes_on_cpu: int = Field(
        0, description="of a graph on another provider, but for shape arithmetic"
    )


class Accuracy(Wire):
    """What was measured of the precision that serves; null is not measured."""

    data: str
    images: int
    top1: float | None
    top5: float | None
    miou: float | None
    pixel_accuracy: float | None


class Measurement(Wire):
    """What one execution of a batch takes on so many threads, by the calibration at start."""

    threads: int
    batch_size: int
    seconds: float


class Width(Wire):
    """A way to execute: on so many threads, so many images at most."""

    threads: int
    max_batch_size: int


class Batching(Wire):
    """How a model uses its device, and the measurements from which that was chosen."""

    widths: list[Width] = Field(description="narrow to wide; the load decides which is used")
    max_queue_delay_microseconds: int
    max_queue_size: int = Field(description="images")
    measurements: list[Measurement]
    measured_at: tuple[int, int] = Field(description="height and width of the images measured")


class ModelStatus(Wire):
    """What the service knows of one model version."""

    name: str
    version: str | None = Field(description="null where the contract cannot be read")
    task: Task | None
    state: ModelState
    reason: str | None = Field(
        description="why it does not serve, or why a newer form of what serves could not be "
        "loaded; or null"
    )
    labels: list[str]
    precision: str | None
    execution_provider: ExecutionProvider | None
    accuracy: Accuracy | None = Field(description="null where it was not measured")
    batching: Batching | None = Field(description="null where the model does not serve")


class ModelDetail(ModelStatus):
    """The same, with the files that it was loaded from."""

    contract: dict[str, Any] | None = Field(
        description="config.json as it was when the version was loaded, without its tools' versions"
    )
    certificate: dict[str, Any] | None = Field(
        description="certificate.json; null where the version is not loaded"
    )


class ModelList(Wire):
    """Every model version that serves or should."""

    models: list[ModelStatus]
