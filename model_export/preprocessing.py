"""Turn an image file into the graph's RGB bytes by the rules of the contract.

The service implements the same rules (`docs/model_repository.md`); a test compares the two image by
image.
"""

import hashlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from model_export.colors import is_negative, note_white, to_srgb, white_of
from model_export.errors import InvalidData

SRGB, IGNORED = "srgb", "ignored"
RgbArray = npt.NDArray[np.uint8]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
BUCKET_RATIOS = ((1, 1), (7, 6), (4, 3), (3, 2), (16, 9), (7, 3), (3, 1))
"""Long to short side: common camera formats and steps in between, at most a third apart."""
JPEG_REDUCING_GAP = 2.0
"""Smallest size to decode a JPEG at, relative to the size that it is resized to."""
MAX_ASPECT_RATIO = 16
"""Limit before a crop: scaling a narrow strip would make a huge image."""
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_TURNED = frozenset({5, 6, 7, 8})
"""The orientations that swap width and height."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Squash:
    """Resize to `height` x `width`, ignoring the aspect ratio."""

    height: int
    width: int
    mode: Literal["squash"] = "squash"


@dataclass(frozen=True)
class Crop:
    """Resize the short side to `short_side`, then cut out the centre `height` x `width`."""

    short_side: int
    height: int
    width: int
    mode: Literal["crop"] = "crop"


@dataclass(frozen=True)
class Buckets:
    """Resize to the one of `sizes` (height, width) with the nearest aspect ratio.

    Photos of one bucket can share a batch, and memory is bounded for any mix of photos.
    """

    sizes: tuple[tuple[int, int], ...]
    mode: Literal["buckets"] = "buckets"

    @classmethod
    def around(cls, short_side: int, multiple_of: int = 32) -> "Buckets":
        """Landscape and portrait for every ratio, and half-height buckets for longer strips."""

        def side(length: float) -> int:
            return max(multiple_of, multiple_of * int(length / multiple_of + 0.5))

        landscape = [(short_side, side(short_side * a / b)) for a, b in BUCKET_RATIOS]
        landscape.append((side(short_side / 2), landscape[-1][1]))
        portrait = [(width, height) for height, width in landscape]
        return cls(tuple(dict.fromkeys([*landscape, *portrait])))

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height of the bucket for a photo of this width and height."""
        bucket = min(
            self.sizes, key=lambda each: abs(math.log(width * each[0] / (height * each[1])))
        )
        return bucket[1], bucket[0]


@dataclass(frozen=True)
class Preprocessing:
    """The `preprocessing` of a contract. The graph itself applies `mean` and `std`."""

    resize: Squash | Crop | Buckets
    filter: str = "bilinear"
    fill: tuple[int, int, int] = (255, 255, 255)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    jpeg_reducing_gap: float | None = JPEG_REDUCING_GAP
    exif_orientation: bool = field(default=True, init=False)
    color_space: str = field(default="RGB", init=False)
    color_profile: str = SRGB
    """Whether embedded profiles are converted to sRGB or, as in early contracts, ignored."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data; tuples become lists."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.color_profile == IGNORED:
            del data["color_profile"]
        if self.jpeg_reducing_gap is None:
            del data["jpeg_reducing_gap"]
        return data

    @property
    def sha256(self) -> str:
        """SHA-256 of the JSON with sorted keys and without spaces."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def common_size(self) -> tuple[int, int]:
        """Height and width of the input for a photo of aspect ratio 4:3."""
        if isinstance(self.resize, Buckets):
            width, height = self.resize.size(4000, 3000)
            return height, width
        return self.resize.height, self.resize.width

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Preprocessing":
        """The inverse of `as_dict`."""
        resize = dict(data["resize"])
        kinds = {"squash": Squash, "crop": Crop, "buckets": Buckets}
        if "sizes" in resize:
            resize["sizes"] = tuple((height, width) for height, width in resize["sizes"])
        return cls(
            resize=kinds[resize.pop("mode")](**resize),
            filter=data["filter"],
            fill=tuple(data["fill"]),
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            color_profile=data.get("color_profile", IGNORED),
            jpeg_reducing_gap=data.get("jpeg_reducing_gap"),
        )

    def read(self, path: Path) -> RgbArray:
        """An image file to the graph's input, UINT8 `[height, width, 3]`.

        A JPEG is decoded at the smallest scale of libjpeg that keeps `jpeg_reducing_gap` times the
        size to which it is resized. Raises `InvalidData` with the file name.
        """
        image, scale = _decoded(path, self._scale_down)
        return np.array(self.resized(self.to_rgb(image), scale))

    def _scale_down(self, image: Image.Image) -> "Scale | None":
        """Set the scale of an opened JPEG; None if the image is decoded in full."""
        if image.format not in ("JPEG", "MPO"):
            return None  # the others know their orientation only once they are loaded
        orientation, stored = _orientation(image), image.size
        size = stored[::-1] if orientation in _TURNED else stored
        resized = self._resized_size(*size)
        if self.jpeg_reducing_gap is None or resized is None:
            return None
        width, height = (math.ceil(self.jpeg_reducing_gap * side) for side in resized)
        drafted = image.draft(None, (height, width) if orientation in _TURNED else (width, height))
        if drafted is None or image.size == stored:
            return None
        return Scale(size, _upright_box(drafted[1][2:], image.size, orientation))

    def _resized_size(self, width: int, height: int) -> tuple[int, int] | None:
        """The size to which a photo is resized as a whole; None if it is cut before."""
        match self.resize:
            case Squash():
                return self.resize.width, self.resize.height
            case Buckets():
                return self.resize.size(width, height)
            case Crop(short_side):
                if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
                    return None
                return _short_side_size((width, height), short_side)

    def __call__(self, image: Image.Image) -> RgbArray:
        """An image decoded in full to the graph's input, UINT8 `[height, width, 3]`."""
        return np.array(self.resized(self.to_rgb(image)))

    def to_rgb(self, image: Image.Image) -> Image.Image:
        """A decoded image to upright 8-bit RGB."""
        return to_rgb(image, self.fill, converts_profile=self.color_profile == SRGB)

    def resized(self, image: Image.Image, scale: "Scale | None" = None) -> Image.Image:
        """Resize and crop an RGB image by the contract's mode, unless it has the right size."""
        scale = scale or Scale(image.size, (0, 0, *image.size))
        if (resized := self._resized_size(*scale.size)) is None:
            longest = MAX_ASPECT_RATIO * min(image.size)
            return self.resized(
                _centre(image, min(image.width, longest), min(image.height, longest))
            )
        if scale.size != resized:
            image = image.resize(resized, _FILTERS[self.filter], scale.box)
        if isinstance(self.resize, Crop):
            return _centre(image, self.resize.width, self.resize.height)
        return image


@dataclass(frozen=True)
class Scale:
    """The size of an upright photo, and the box that it fills in an image decoded at a scale."""

    size: tuple[int, int]
    box: tuple[float, float, float, float]


def _upright_box(
    photo: tuple[float, float], image: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """The box of a photo that fills the top left of an image before it is turned upright."""
    (width, height), margins = photo, (image[0] - photo[0], image[1] - photo[1])
    if orientation in _TURNED:
        width, height, margins = height, width, margins[::-1]
    left = margins[0] if orientation in (2, 3, 6, 7) else 0.0
    top = margins[1] if orientation in (3, 4, 7, 8) else 0.0
    return left, top, left + width, top + height


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _short_side_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    scale = short_side / min(size)
    width, height = (max(short_side, int(side * scale + 0.5)) for side in size)
    return width, height


def to_rgb(
    image: Image.Image, fill: tuple[int, int, int], *, converts_profile: bool = True
) -> Image.Image:
    """Upright 8-bit RGB from any Pillow mode, with transparency composited over `fill`."""
    negative = is_negative(image)
    rgb = _to_rgb(to_srgb(image) if converts_profile else image, fill)
    return _turned_upright(ImageOps.invert(rgb) if negative else rgb, image)


def _to_rgb(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I;16"):
        wide = np.asarray(image.convert("I"))
        white = white_of(image, int(wide.max()))
        narrow = (wide.astype(np.int64) * 255 + white // 2) // white
        return Image.fromarray(narrow.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return _stretched(np.asarray(image, np.float64)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
    background = Image.new("RGBA", rgba.size, (*fill, 255))
    return Image.alpha_composite(background, rgba).convert("RGB")


def _turned_upright(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """Turn pixels as the metadata of the image that they come from say."""
    transpose = _UPRIGHT.get(_orientation(image))
    return rgb if transpose is None else rgb.transpose(transpose)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return 1  # a photo with broken metadata is still readable
    return orientation if isinstance(orientation, int) else 1


def _stretched(values: npt.NDArray[np.float64]) -> Image.Image:
    """Scale the finite range of the values to 0-255; a constant image becomes black."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    bounded = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled = (bounded - low) * (255 / ((high - low) or 1.0))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def open_image(path: Path) -> Image.Image:
    """Decode the first frame of an image file in full; raises `InvalidData` with the file name."""
    return _decoded(path)[0]


def _decoded(
    path: Path, scale_down: Callable[[Image.Image], "Scale | None"] = lambda _: None
) -> "tuple[Image.Image, Scale | None]":
    try:
        data = path.read_bytes()
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        scale = scale_down(image)
        image.load()
        note_white(image, data)
    except Exception as error:  # Pillow's decoders raise all kinds of errors on broken bytes
        raise InvalidData(f"{path} cannot be read as an image: {error}") from error
    return image, scale
