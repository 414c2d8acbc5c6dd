"""Draw a label map over a photo, and encode pictures."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from PIL import Image

from service.errors import InvalidRequest
from service.images.masks import OTHER, PNG_OPTIONS, Labels, Palette, indexed

PictureFormat = Literal["jpeg", "webp", "png"]

OPACITY = 0.5
BLEND_PIXELS = 1 << 17  # a strip stays in a core's cache; other threads can run between two
MAX_WEBP_PIXELS = 1 << 24  # Pillow copies them without releasing the GIL
_OPTIONS: Mapping[PictureFormat, Mapping[str, Any]] = {
    "jpeg": {"quality": 85},
    "webp": {"quality": 80, "method": 0},  # other methods take longer and save a few per cent
    "png": PNG_OPTIONS,
}
_MAX_SIDE: Mapping[PictureFormat, int] = {"jpeg": 65_500, "webp": 16_383}


def overlay(
    photo: Image.Image, labels: Labels, palette: Palette, *, keep_other: bool = False
) -> Image.Image:
    """Blend the colours of a label map of the same size into an RGB photo, in place.

    With `keep_other`, pixels whose label is `OTHER` do not change.
    """
    rows = max(1, BLEND_PIXELS // photo.width)
    for top in range(0, photo.height, rows):
        strip = (0, top, photo.width, min(photo.height, top + rows))
        part = labels[top : strip[3]]
        colors = indexed(part, palette).convert("RGB")
        blended = Image.blend(photo.crop(strip), colors, OPACITY)
        photo.paste(blended, strip, Image.fromarray(part != OTHER) if keep_other else None)
    return photo


def fits(picture: PictureFormat, width: int, height: int) -> bool:
    """Return whether a picture of this size can be encoded in the format."""
    if picture == "webp" and width * height > MAX_WEBP_PIXELS:
        return False
    return max(width, height) <= _MAX_SIDE.get(picture, max(width, height))


@dataclass(frozen=True)
class PictureChoice:
    """What a request says about the format of its picture.

    It is the one that is asked for, or else the one that is accepted if the picture fits into it;
    otherwise JPEG for a photo that came as JPEG, and PNG for others.
    """

    asked: PictureFormat | None = None
    accepted: PictureFormat | None = None

    def encode(self, image: Image.Image, source: str | None) -> "Picture":
        """Encode the picture of a photo whose file has the format `source`."""
        picture = self.asked
        if picture is None and self.accepted is not None and fits(self.accepted, *image.size):
            picture = self.accepted
        if picture is None:
            picture = "jpeg" if source == "JPEG" else "png"
        return Picture(encode_picture(image, picture), f"image/{picture}")


class Picture(NamedTuple):
    """An encoded image and its media type."""

    data: bytes
    media_type: str


def encode_picture(image: Image.Image, picture: PictureFormat) -> bytes:
    """Encode an RGB image; raises `InvalidRequest` if it is too large for the format."""
    if not fits(picture, *image.size):
        raise InvalidRequest(
            f"The photo's {image.width} x {image.height} pixels do not fit into a "
            f"{picture} response; ask for format=png."
        )
    file = io.BytesIO()
    image.save(file, picture, **_OPTIONS[picture])
    return file.getvalue()
