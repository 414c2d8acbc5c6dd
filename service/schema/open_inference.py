"""Wire types of the Open Inference Protocol, by the specification's names."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticUseDefault

from service.schema.vocabulary import Datatype, MetadataTensor, ModelState, Wire


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
