"""How a photo becomes the graph's input, as the contract states it."""

import math
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    model_validator,
)

from service.schema.record import Color, Record, Side


class Squash(Record):
    """Straight to the size, whatever the aspect ratio."""

    mode: Literal["squash"]
    height: Side
    width: Side


class Crop(Record):
    """The short side to `short_side`, then the centre."""

    mode: Literal["crop"]
    short_side: Side
    height: Side
    width: Side

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.short_side < max(self.height, self.width):
            raise ValueError("short_side is smaller than the crop")
        return self


class Buckets(Record):
    """To whichever of `sizes` (height, width) is nearest in aspect ratio; the first of equals."""

    mode: Literal["buckets"]
    sizes: Annotated[list[tuple[Side, Side]], Field(min_length=1)]


Resize = Annotated[Squash | Crop | Buckets, Field(discriminator="mode")]


class Preprocessing(Record):
    """How a photo becomes the graph's input."""

    color_space: Literal["RGB"]
    exif_orientation: bool
    fill: Color
    filter: Literal["bilinear", "bicubic"]
    resize: Resize

    @property
    def common_size(self) -> tuple[int, int]:
        """The width and height at which the graph sees a photo of aspect ratio 4:3."""
        return self.input_size(4, 3)

    @property
    def input_sizes(self) -> list[tuple[int, int]]:
        """Every width and height at which the graph sees photos."""
        match self.resize:
            case Squash() | Crop() as fixed:
                return [(fixed.width, fixed.height)]
            case Buckets(sizes=sizes):
                return [(width, height) for height, width in sizes]

    def input_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height at which the graph sees a photo of this size."""
        match self.resize:
            case Squash() | Crop() as fixed:
                return fixed.width, fixed.height
            case Buckets(sizes=sizes):
                nearest = min(sizes, key=lambda size: _distortion(width, height, size))
                return nearest[1], nearest[0]


def _distortion(width: int, height: int, size: tuple[int, int]) -> float:
    """How far the aspect ratio is changed, either way."""
    return abs(math.log(width * size[0] / (height * size[1])))
