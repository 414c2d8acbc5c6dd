"""An image on its way to the graph: encoded or prepared."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.errors import ServiceError
from service.images.decode import ImageLimits, decode, signed_format
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


EncodedOrPrepared = bytes | PreparedImage
"""An image file, or pixels sent as the graph's input."""


class Photo:
    """An image file on its way to the graph; the first thread that needs it prepares it."""

    def __init__(
        self, data: bytes, preprocessing: Preprocessing, limits: ImageLimits, index: int = 0
    ) -> None:
        self._data = data
        self._preprocessing = preprocessing
        self._limits = limits
        self._index = index
        self.prepared: PreparedImage | None = None
        self.shape: tuple[int, ...] | None = preprocessing.fixed_shape
        """Shape of the prepared image; None until it is prepared if it depends on the photo."""

    def prepare(self) -> PreparedImage:
        """Return the graph's input; an error names the photo's index in its request."""
        if self.prepared is None:
            try:
                self.prepared = prepare(self._data, self._preprocessing, self._limits)
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
        return decode(self._data, self._preprocessing, self._limits)


def prepare(data: bytes, preprocessing: Preprocessing, limits: ImageLimits) -> PreparedImage:
    """Turn an image file into the graph's input, as the contract describes."""
    photo = decode(data, preprocessing, limits)
    pixels = np.asarray(resize(photo, preprocessing))
    return PreparedImage(pixels, photo.width, photo.height)
