"""The preprocessing of a photo, as the contract describes it."""

import math
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    model_validator,
)

from service.schema.record import Color, Record, Side


class Squash(Record):
    """Resize to the exact size, ignoring the aspect ratio."""

    mode: Literal["squash"]
    height: Side
    width: Side


class Crop(Record):
    """Resize the short side to `short_side`, then crop the centre."""

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
    """Resize to the size (height, width) nearest in aspect ratio; if several are, the first."""

    mode: Literal["buckets"]
    sizes: Annotated[list[tuple[Side, Side]], Field(min_length=1)]


Resize = Annotated[Squash | Crop | Buckets, Field(discriminator="mode")]


class Preprocessing(Record):
    """The steps from a photo to the graph's input."""

    color_space: Literal["RGB"]
    color_profile: Literal["srgb", "ignored"] = "ignored"
    """Whether embedded colour profiles are converted to sRGB."""
    exif_orientation: bool
    fill: Color
    filter: Literal["bilinear", "bicubic"]
    resize: Resize
    jpeg_reducing_gap: Annotated[float, Field(ge=1, le=64)] | None = None
    """Smallest size to decode a JPEG at, relative to its resized size; None decodes it in full."""

    @cached_property
    def input_sizes(self) -> list[tuple[int, int]]:
        """Every possible size (width, height) of the graph's input."""
        match self.resize:
            case Squash() | Crop() as fixed:
                return [(fixed.width, fixed.height)]
            case Buckets(sizes=sizes):
                return [(width, height) for height, width in sizes]

    @cached_property
    def common_size(self) -> tuple[int, int]:
        """The width and height of the graph's input for a photo of aspect ratio 4:3."""
        return self.input_size(4, 3)

    @cached_property
    def fixed_shape(self) -> tuple[int, int, int] | None:
        """The shape [height, width, 3] of every image as the graph sees it; None if it varies."""
        (width, height), *others = self.input_sizes
        return None if others else (height, width, 3)

    def input_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height of the graph's input for a photo of this size."""
        sizes = self.input_sizes
        if len(sizes) == 1:
            return sizes[0]
        # change of the aspect ratio, in either direction
        distortions = [abs(math.log(width * size[1] / (height * size[0]))) for size in sizes]
        return sizes[distortions.index(min(distortions))]
