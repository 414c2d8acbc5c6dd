"""From an image file to the graph's RGB bytes, as the contract writes it down.

The service has its own implementation of the same rules (`docs/model_repository.md`); a test
compares the two image by image.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from model_export.errors import InvalidData

RgbArray = npt.NDArray[np.uint8]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Squash:
    """Straight to `height` x `width`, whatever the aspect ratio."""

    height: int
    width: int
    mode: Literal["squash"] = "squash"


@dataclass(frozen=True)
class Crop:
    """The short side to `short_side`, then the centre `height` x `width`."""

    short_side: int
    height: int
    width: int
    mode: Literal["crop"] = "crop"


@dataclass(frozen=True)
class Multiple:
    """Keep the aspect ratio as well as sides that are multiples of `multiple_of` allow."""

    short_side: int
    max_long_side: int
    multiple_of: int = 32
    mode: Literal["multiple"] = "multiple"

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height that a photo of this width and height is resized to."""
        scale = min(self.short_side / min(width, height), self.max_long_side / max(width, height))
        return self._side(width * scale), self._side(height * scale)

    def _side(self, length: float) -> int:
        return max(self.multiple_of, self.multiple_of * int(length / self.multiple_of + 0.5))


@dataclass(frozen=True)
class Preprocessing:
    """The `preprocessing` of a contract. `mean` and `std` are inside the graph."""

    resize: Squash | Crop | Multiple
    filter: str = "bilinear"
    fill: tuple[int, int, int] = (255, 255, 255)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    exif_orientation: bool = field(default=True, init=False)
    color_space: str = field(default="RGB", init=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data; tuples become lists."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data

    @property
    def sha256(self) -> str:
        """SHA-256 of the JSON with sorted keys and no spaces."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Preprocessing":
        """The inverse of `as_dict`."""
        resize = dict(data["resize"])
        kinds = {"squash": Squash, "crop": Crop, "multiple": Multiple}
        return cls(
            resize=kinds[resize.pop("mode")](**resize),
            filter=data["filter"],
            fill=tuple(data["fill"]),
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
        )

    def __call__(self, image: Image.Image) -> RgbArray:
        """A decoded image to the graph's input, UINT8 `[height, width, 3]`."""
        return np.asarray(self.resized(to_rgb(image, self.fill)))

    def resized(self, image: Image.Image) -> Image.Image:
        """Resize (and crop) an RGB image by the contract's mode; unchanged where it fits."""
        match self.resize:
            case Squash(height, width):
                return self._scaled(image, (width, height))
            case Crop(short_side, height, width):
                scaled = self._scaled(image, _short_side_size(image.size, short_side))
                left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
                return scaled.crop((left, top, left + width, top + height))
            case Multiple():
                return self._scaled(image, self.resize.size(*image.size))

    def _scaled(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        return image if image.size == size else image.resize(size, _FILTERS[self.filter])


def _short_side_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    scale = short_side / min(size)
    width, height = (max(short_side, int(side * scale + 0.5)) for side in size)
    return width, height


def to_rgb(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """Upright 8-bit RGB from any mode Pillow knows; transparency is composited over `fill`."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        wide = np.asarray(image.convert("I"))
        return Image.fromarray(((wide + 128) // 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return _stretched(np.asarray(image, np.float64)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
    background = Image.new("RGBA", rgba.size, (*fill, 255))
    return Image.alpha_composite(background, rgba).convert("RGB")


def _stretched(values: npt.NDArray[np.float64]) -> Image.Image:
    """Numbers of any range to 0-255 by their own extremes; constant images become black."""
    finite = np.nan_to_num(values)
    low, high = finite.min(), finite.max()
    scaled = (finite - low) / (high - low or 1.0) * 255
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def open_image(path: Path) -> Image.Image:
    """Decode the first frame of an image file; raises `InvalidData` naming the file."""
    try:
        image = Image.open(path, formats=FORMATS)
        image.load()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise InvalidData(f"{path} cannot be read as an image: {error}") from error
    return image
