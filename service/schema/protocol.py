"""Wire types: what clients read, in the words of the Open Inference Protocol."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticUseDefault


class Wire(BaseModel):
    """A value that travels as JSON."""

    model_config = ConfigDict(frozen=True)


class Task(StrEnum):
    """What a model answers."""

    CLASSIFICATION = "classification"
    SEGMENTATION = "segmentation"


class ModelState(StrEnum):
    """Where a model version is in its life."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


class Datatype(StrEnum):
    """Element types of tensors, by the protocol's names."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BF16 = "BF16"
    BYTES = "BYTES"


class ErrorResponse(Wire):
    """The body of every answer that is not a success."""

    error: str = Field(description="One sentence: what happened, and what to do.")


class MetadataTensor(Wire):
    """An input or output; -1 in the shape is any size."""

    name: str
    datatype: Datatype
    shape: list[int]


class ServerMetadata(Wire):
    """Who serves, and which extensions of the protocol are there."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(Wire):
    """A model's tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[MetadataTensor]
    outputs: list[MetadataTensor]


Parameters = dict[str, Any]
"""What the protocol leaves open; keys that are not known here are ignored."""


def _default_for_null(value: object) -> object:
    """Take null, which some typed clients write for what is absent, as that."""
    if value is None:
        raise PydanticUseDefault
    return value


TensorName = Annotated[str, Field(max_length=256)]
Side = Annotated[int, Field(ge=0, lt=1 << 63)]
NullIsAbsent = BeforeValidator(_default_for_null)
RequestParameters = Annotated[Parameters, NullIsAbsent]


class RequestInput(Wire):
    """An input tensor: its data are here, or follow the JSON as `binary_data_size` bytes."""

    name: TensorName
    shape: Annotated[list[Side], Field(max_length=16, fail_fast=True)]
    datatype: Datatype
    parameters: RequestParameters = {}
    data: list[Any] | None = None


class RequestOutput(Wire):
    """An output that is asked for, as binary data or JSON, or as classes."""

    name: TensorName
    parameters: RequestParameters = {}


class InferenceRequest(Wire):
    """The JSON of an inference request."""

    id: Annotated[str, Field(max_length=1024)] | None = None
    parameters: RequestParameters = {}
    inputs: Annotated[list[RequestInput], Field(max_length=64, fail_fast=True)]
    outputs: Annotated[list[RequestOutput], Field(max_length=64, fail_fast=True), NullIsAbsent] = []


class ResponseOutput(Wire):
    """An output tensor: its data are here, or follow the JSON as `binary_data_size` bytes."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: Parameters | None = None
    data: list[Any] | None = None


class InferenceResponse(Wire):
    """The JSON of an answer to an inference request."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]


class DurationStatistic(Wire):
    """How often something happened, and the nanoseconds that it took in all."""

    count: int = 0
    ns: int = 0


class InferenceStatistics(Wire):
    """Requests by how they ended, and where those that succeeded spent their time."""

    success: DurationStatistic
    fail: DurationStatistic
    queue: DurationStatistic
    compute_input: DurationStatistic = Field(description="decoding and resizing photos")
    compute_infer: DurationStatistic
    compute_output: DurationStatistic = Field(description="encoding the answer")
    cache_hit: DurationStatistic = DurationStatistic()
    cache_miss: DurationStatistic = DurationStatistic()


class BatchStatistics(Wire):
    """The executions of one batch size."""

    batch_size: int
    compute_infer: DurationStatistic


class ModelStatistics(Wire):
    """What a model version did since it was loaded."""

    name: str
    version: str
    last_inference: int = Field(description="milliseconds since 1970; 0 is never")
    inference_count: int = Field(description="images")
    execution_count: int = Field(description="batches")
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class AllStatistics(Wire):
    """The statistics of every model version that serves."""

    model_stats: list[ModelStatistics]


class RepositoryIndexRequest(Wire):
    """Which versions are listed."""

    ready: bool = False


class RepositoryModel(Wire):
    """A version of a model in the repository; its name, the version and where it is in its life."""

    name: str
    version: str = Field(description="empty where the contract cannot be read")
    state: ModelState
    reason: str = Field(
        description="why it does not serve, or why a newer form of what serves could not be "
        "loaded; else empty"
    )


class RepositoryModelRequest(Wire):
    """What a load or an unload is asked to do."""

    parameters: RequestParameters = {}


class ServerLive(Wire):
    """The event loop turns."""

    live: bool


class ServerReady(Wire):
    """Every model is loaded and warm."""

    ready: bool


class ModelReady(Wire):
    """This model version is loaded and warm."""

    name: str
    ready: bool


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


class ClassScore(Wire):
    """A class and its probability."""

    label: str
    index: int
    score: float


class Classification(Wire):
    """One image's classes, the likeliest first."""

    classes: list[ClassScore]


class ClassifyResponse(Wire):
    """The classes of each image, in the order of the request."""

    model: str
    version: str
    predictions: list[Classification]


class ClassArea(Wire):
    """How much of the photo a class covers."""

    label: str
    index: int
    pixels: int
    fraction: float


class PngMask(Wire):
    """An indexed 8-bit PNG whose pixel values are class indices."""

    format: Literal["png"] = "png"
    data: str = Field(description="base64")


class RleClass(Wire):
    """One class's pixels as COCO compressed run lengths."""

    index: int
    label: str
    size: tuple[int, int] = Field(description="height, width")
    counts: str


class RleMask(Wire):
    """One run-length mask a class."""

    format: Literal["rle"] = "rle"
    classes: list[RleClass]


class Segmentation(Wire):
    """One photo's areas, the largest first, and its mask."""

    width: int
    height: int
    classes: list[ClassArea]
    mask: PngMask | RleMask | None = Field(
        default=None, description="absent with mask=none", discriminator="format"
    )


class SegmentResponse(Wire):
    """The areas and mask of each photo, in the order of the request."""

    model: str
    version: str
    predictions: list[Segmentation]
