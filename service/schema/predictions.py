"""Wire types of `/v1/classify`, `/v1/segment` and of error responses.

Predictions are plain dictionaries, which orjson serializes directly; creating a pydantic model for
each class would take longer than writing the JSON.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from service.schema.vocabulary import Wire


class ErrorResponse(Wire):
    """The body of every error response."""

    error: str = Field(description="One sentence that says what happened and what to do.")


class ClassScore(TypedDict):
    """A class and its probability."""

    label: str
    index: int
    score: float


class Classification(TypedDict):
    """The classes of one image, most likely first."""

    classes: list[ClassScore]


class ClassifyResponse(TypedDict):
    """The classes of each image, in the order of the request."""

    model: str
    version: str
    predictions: list[Classification]


class ClassArea(TypedDict):
    """The area of a photo that a class covers."""

    label: str
    index: int
    pixels: int
    fraction: float


class PngMask(TypedDict):
    """An indexed 8-bit PNG whose pixel values are class indices."""

    format: NotRequired[Annotated[Literal["png"], Field(json_schema_extra={"default": "png"})]]
    data: Annotated[str, Field(description="The PNG file in base64.")]


class RleClass(TypedDict):
    """The pixels of one class, as COCO compressed run lengths."""

    index: int
    label: str
    size: Annotated[tuple[int, int], Field(description="Height and width.")]
    counts: str


class RleMask(TypedDict):
    """A mask with one set of run lengths per class."""

    format: NotRequired[Annotated[Literal["rle"], Field(json_schema_extra={"default": "rle"})]]
    classes: list[RleClass]


Mask = Annotated[
    PngMask | RleMask | None,
    Field(description="Absent if `mask=none` was requested.", discriminator="format"),
]


class Segmentation(TypedDict):
    """The classes of one photo, largest area first, and its mask."""

    width: int
    height: int
    classes: list[ClassArea]
    mask: NotRequired[Mask]


class SegmentResponse(TypedDict):
    """The classes and the mask of each photo, in the order of the request."""

    model: str
    version: str
    predictions: list[Segmentation]
