"""Wire types of the Open Inference Protocol, named as in the specification."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticUseDefault

from service.schema.vocabulary import Datatype, MetadataTensor, ModelState, Wire


class ServerMetadata(Wire):
    """The server's name and version, and the protocol extensions it supports."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(Wire):
    """Inputs and outputs of a model, and its versions that are ready."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[MetadataTensor]
    outputs: list[MetadataTensor]


Parameters = dict[str, Any]
"""Optional parameters; unknown keys are ignored."""


def _default_for_null(value: object) -> object:
    """Treat null as absent: some typed clients send it for unset fields."""
    if value is None:
        raise PydanticUseDefault
    return value


TensorName = Annotated[str, Field(max_length=256)]
Side = Annotated[int, Field(ge=0, lt=1 << 63)]
NullIsAbsent = BeforeValidator(_default_for_null)
RequestParameters = Annotated[Parameters, NullIsAbsent]


class RequestInput(Wire):
    """An input tensor, with its data inline or as `binary_data_size` bytes after the JSON."""

    name: TensorName
    shape: Annotated[list[Side], Field(max_length=16, fail_fast=True)]
    datatype: Datatype
    parameters: RequestParameters = {}
    data: list[Any] | None = None


class RequestOutput(Wire):
    """A requested output: as JSON, as binary data, or as its best classes."""

    name: TensorName
    parameters: RequestParameters = {}


class InferenceRequest(Wire):
    """An inference request."""

    id: Annotated[str, Field(max_length=1024)] | None = None
    parameters: RequestParameters = {}
    inputs: Annotated[list[RequestInput], Field(max_length=64, fail_fast=True)]
    outputs: Annotated[list[RequestOutput], Field(max_length=64, fail_fast=True), NullIsAbsent] = []


class ResponseOutput(Wire):
    """An output tensor, with its data inline or as `binary_data_size` bytes after the JSON."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: Parameters | None = None
    data: list[Any] | None = None


class InferenceResponse(Wire):
    """The response to an inference request."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]


class DurationStatistic(Wire):
    """A number of occurrences, and their total duration in nanoseconds."""

    count: int = 0
    ns: int = 0


class InferenceStatistics(Wire):
    """Successful and failed requests, and the time successful requests spent in each stage."""

    success: DurationStatistic
    fail: DurationStatistic
    queue: DurationStatistic
    compute_input: DurationStatistic = Field(description="Time spent decoding and resizing photos.")
    compute_infer: DurationStatistic
    compute_output: DurationStatistic = Field(description="Time spent encoding the response.")
    cache_hit: DurationStatistic = DurationStatistic()
    cache_miss: DurationStatistic = DurationStatistic()


class BatchStatistics(Wire):
    """Executions with one batch size."""

    batch_size: int
    compute_infer: DurationStatistic


class ModelStatistics(Wire):
    """Statistics of a model version since it was loaded."""

    name: str
    version: str
    last_inference: int = Field(
        description="Time of the last inference, in milliseconds since 1970; 0 if there was none."
    )
    inference_count: int = Field(description="Number of images.")
    execution_count: int = Field(description="Number of batches.")
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class AllStatistics(Wire):
    """Statistics of every loaded model version."""

    model_stats: list[ModelStatistics]


class RepositoryIndexRequest(Wire):
    """A filter for the repository index."""

    ready: bool = Field(False, description="List only versions that are ready.")


class RepositoryModel(Wire):
    """A model version in the repository, and its state."""

    name: str
    version: str = Field(description="Empty if the contract cannot be read.")
    state: ModelState
    reason: str = Field(
        description="Reason why the version is not ready, or why its replacement could not be "
        "loaded; empty otherwise."
    )


class RepositoryModelRequest(Wire):
    """Parameters of a load or unload request."""

    parameters: RequestParameters = {}


class ServerLive(Wire):
    """Liveness of the server."""

    live: bool


class ServerReady(Wire):
    """Readiness of the server: all required models are loaded and warm."""

    ready: bool


class ModelReady(Wire):
    """Readiness of a model version: it is loaded and warm."""

    name: str
    ready: bool
