"""Wire types of `/v1/classify`, `/v1/segment` and of every error."""

from typing import Literal

from pydantic import Field

from service.schema.vocabulary import Wire


class ErrorResponse(Wire):
    """The body of every answer that is not a success."""

    error: str = Field(description="One sentence: what happened, and what to do.")


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
