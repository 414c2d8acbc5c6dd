"""The terms that other types are made of: tasks, states, datatypes, tensors."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


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


class MetadataTensor(Wire):
    """An input or output; -1 in the shape is any size."""

    name: str
    datatype: Datatype
    shape: list[int]
