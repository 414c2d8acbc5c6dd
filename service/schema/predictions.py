"""Wire types of `/v1/classify`, `/v1/segment` and of every error.

Predictions are plain dictionaries, which orjson serializes directly; creating a pydantic model for
each class would cost more than the JSON.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from service.schema.vocabulary import Wire


class ErrorResponse(Wire):
    """The body of every answer that is not a success."""

    error: str = Field(description="One sentence: what happened, and what to do.")


class ClassScore(TypedDict):
    """A class and its probability."""

    label: str
    index: int
    score: float


class Classification(TypedDict):
    """One image's classes, the likeliest first."""

    classes: list[ClassScore]


class ClassifyResponse(TypedDict):
    """The classes of each image, in the order of the request."""

    model: str
    version: str
    predictions: list[Classification]


class ClassArea(TypedDict):
    """How much of the photo a class covers."""

    label: str
    index: int
    pixels: int
    fraction: float


class PngMask(TypedDict):
    """An indexed 8-bit PNG whose pixel values are class indices."""

    format: NotRequired[Annotated[Literal["png"], Field(json_schema_extra={"default": "png"})]]
    data: Annotated[str, Field(description="base64")]


class RleClass(TypedDict):
    """One class's pixels as COCO compressed run lengths."""

    index: int
    label: str
    size: Annotated[tuple[int, int], Field(description="height, width")]
    counts: str


class RleMask(TypedDict):
    """One run-length mask a class."""

    format: NotRequired[Annotated[Literal["rle"], Field(json_schema_extra={"default": "rle"})]]
    classes: list[RleClass]


Mask = Annotated[
    PngMask | RleMask | None,
    Field(description="absent with mask=none", discriminator="format"),
]


class Segmentation(TypedDict):
    """One photo's areas, the largest first, and its mask."""

    width: int
    height: int
    classes: list[ClassArea]
    mask: NotRequired[Mask]


class SegmentResponse(TypedDict):
    """The areas and mask of each photo, in the order of the request."""

    model: str
    version: str
    predictions: list[Segmentation]
