"""An image on its way to the graph: encoded or prepared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.errors import ServiceError
from service.images.color import WARNING
from service.images.decode import ImageLimits, decode, decode_scaled, signed_format
from service.images.resize import resize
from service.schema.preprocessing import Preprocessing

ImageArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PreparedImage:
    """The graph's input, UINT8 [height, width, 3], and the size of the upright photo.

    It can be used like a `Photo` that has already been prepared.
    """

    pixels: ImageArray
    photo_width: int
    photo_height: int
    warning: str | None = None
    """Doubt about the file that the client should know of."""

    @property
    def prepared(self) -> "PreparedImage":
        """The image itself."""
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the pixels."""
        return self.pixels.shape

    def prepare(self) -> "PreparedImage":
        """Return the image itself."""
        return self


class ImageFrame(NamedTuple):
    """A frame of an animated image file, counted from 0."""

    data: bytes
    number: int


EncodedOrPrepared = bytes | ImageFrame | PreparedImage
"""An image file, one of its frames, or pixels sent as the graph's input."""


def size_in_bytes(image: EncodedOrPrepared) -> int:
    """Return the size of an image as it was sent."""
    match image:
        case PreparedImage():
            return image.pixels.nbytes
        case ImageFrame():
            return len(image.data)
        case _:
            return len(image)


Place = Callable[[PreparedImage], PreparedImage]
"""Moves a prepared image to where it is wanted."""


class Photo:
    """An image file on its way to the graph; the first thread that needs it prepares it."""

    def __init__(
        self,
        file: bytes | ImageFrame,
        preprocessing: Preprocessing,
        limits: ImageLimits,
        index: int = 0,
        place: Place | None = None,
    ) -> None:
        self._data: bytes = file.data if isinstance(file, ImageFrame) else file
        self._frame = file.number if isinstance(file, ImageFrame) else None
        self._preprocessing = preprocessing
        self._limits = limits
        self._index = index
        self._place = place
        self.prepared: PreparedImage | None = None
        self.shape: tuple[int, ...] | None = preprocessing.fixed_shape
        """Shape of the prepared image; None until it is prepared if it depends on the photo."""

    def prepare(self) -> PreparedImage:
        """Return the graph's input; an error names the photo's index in its request."""
        if self.prepared is None:
            try:
                image = prepare(self._data, self._preprocessing, self._limits, self._frame)
                self.prepared = image if self._place is None else self._place(image)
            except ServiceError as error:
                raise type(error)(f"Image {self._index} is refused: {error}.") from error
            self.shape = self.prepared.shape
        return self.prepared

    @property
    def format(self) -> str | None:
        """The format of the file, in Pillow's terms."""
        return signed_format(self._data)

    def upright(self) -> Image.Image:
        """Decode the photo again: only the prepared image is kept while the model runs."""
        return decode(self._data, self._preprocessing, self._limits, self._frame)


def prepare(
    data: bytes, preprocessing: Preprocessing, limits: ImageLimits, frame: int | None = None
) -> PreparedImage:
    """Turn an image file into the graph's input, as the contract describes."""
    photo, scale = decode_scaled(data, preprocessing, limits, frame)
    pixels = np.asarray(resize(photo, preprocessing, scale))
    size = scale.size if scale else photo.size
    return PreparedImage(pixels, *size, photo.info.get(WARNING))
