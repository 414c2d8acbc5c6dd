"""Measure what a photo of 12 megapixels costs on one core: decoding, overlays and masks.

    python -m tests.benchmarks.large_photos

The photo is an example of the segmenter, enlarged, with the noise of a camera. Its label map is the
one of the test data. Each row is the least processor time of several runs in one thread. No model
runs."""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from service.images.masks import Labels, indexed, scale_labels
from service.images.overlays import encode_picture, overlay
from service.images.photo import Photo
from service.schema.files import read_contract
from tests.benchmarks.serve import LIMITS, SEGMENTER

SIZE = (4000, 3000)
MASKS: dict[str, dict[str, Any]] = {
    "level 1": {"compress_level": 1},
    "level 6, the default": {"compress_level": 6},
    "Huffman codes only": {"compress_type": 2},
    "run lengths": {"compress_level": 1, "compress_type": 3},
}


def enlarged(photo: Path) -> bytes:
    """Return the photo as a JPEG of 12 megapixels with the noise of a camera."""
    with Image.open(photo) as image:
        large = np.asarray(image.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS), np.float32)
    noise = np.random.default_rng(0).normal(0, 5, (*large.shape[:2], 1))
    return _encoded(Image.fromarray((large + noise).clip(0, 255).astype(np.uint8)), "JPEG", 90)


def _encoded(image: Image.Image, name: str, quality: int | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options, **({} if quality is None else {"quality": quality}))
    return file.getvalue()


def _decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _show(name: str, call: Callable[[], object], runs: int) -> None:
    """Print the least processor time of a call, and the size of the bytes that it returns."""
    least, result = float("inf"), None
    for _ in range(runs):
        began = time.thread_time()
        result = call()
        least = min(least, time.thread_time() - began)
    size = f"{len(result) / 1e6:8.2f} MB" if isinstance(result, bytes) else ""
    print(f"{name:44}{least * 1000:8.1f} ms{size}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"))
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    folder = options.weights_dir / SEGMENTER
    contract = read_contract(folder)
    data = enlarged(folder / "examples" / "0016E5_08033.jpg")
    labels = _labels(Path("tests/data/camvid/0016E5_08033.png"), len(contract.labels))

    def show(name: str, call: Callable[[], object]) -> None:
        _show(name, call, options.runs)

    def photo() -> Photo:
        return Photo(data, contract.preprocessing, LIMITS)

    def drawn() -> Image.Image:
        return overlay(photo().upright(), scale_labels(labels, *SIZE), contract.colors)

    print(f"a JPEG of {SIZE[0]} x {SIZE[1]} pixels and {len(data) / 1e6:.1f} MB")
    show("Pillow decodes it", lambda: _decoded(data))
    show("Pillow decodes it and encodes it at quality 85", lambda: _bare(data))
    show("decoded and resized for the model", lambda: photo().prepare())
    show("overlay as JPEG", lambda: encode_picture(drawn(), "jpeg"))
    show("overlay as WebP", lambda: encode_picture(drawn(), "webp"))
    show("overlay as PNG", lambda: encode_picture(drawn(), "png"))
    picture, mask = drawn(), indexed(scale_labels(labels, *SIZE), contract.colors)
    for name, png in MASKS.items():
        show(f"the overlay's PNG, {name}", lambda png=png: _encoded(picture, "PNG", **png))
        show(f"the mask's PNG, {name}", lambda png=png: _encoded(mask, "PNG", **png))


def _bare(data: bytes) -> bytes:
    return _encoded(_decoded(data), "JPEG", 85)


def _labels(path: Path, classes: int) -> Labels:
    """Return a label map of the test data at the size at which the segmenter sees a photo."""
    with Image.open(path) as image:
        labels = np.asarray(image.resize((480, 352), Image.Resampling.NEAREST))
    return np.where(labels < classes, labels, 0).astype(np.uint8)


if __name__ == "__main__":
    main()
