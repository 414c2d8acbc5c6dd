"""Types that other types are built from: tasks, states, datatypes, tensors."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """A value sent or received as JSON."""

    model_config = ConfigDict(frozen=True)


class Task(StrEnum):
    """The task that a model performs."""

    CLASSIFICATION = "classification"
    SEGMENTATION = "segmentation"


class ModelState(StrEnum):
    """State of a model version."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


class Datatype(StrEnum):
    """Element type of a tensor, named as in the Open Inference Protocol."""

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


class MetadataTensor(Wire):
    """An input or output of a model; -1 in the shape means any size."""

    name: str
    datatype: Datatype
    shape: list[int]
