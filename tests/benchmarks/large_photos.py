"""Measure what a photo of 12 megapixels costs on one core: decoding, overlays and masks.

    python -m tests.benchmarks.large_photos [--serve]

The photo is an example of the segmenter, enlarged, with the noise of a camera (`--noise`). Its
label map is the one of the test data. Each row is the least processor time of several runs in one
thread. No model runs. With `--serve`, the service classifies the photo on 16 connections instead,
at the scale of the contract and in full, in turns."""

import argparse
import hashlib
import io
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from PIL import Image

from service.images.masks import Labels, indexed, scale_labels
from service.images.overlays import encode_picture, overlay
from service.images.photo import Photo
from service.schema.files import read_contract
from tests.benchmarks.load import closed_loop
from tests.benchmarks.serve import SATURATED
from tests.benchmarks.servers import CLASSIFIER, LIMITS, SEGMENTER, Case, Server, service

SIZE = (4000, 3000)
MASKS: dict[str, dict[str, Any]] = {
    "level 1": {"compress_level": 1},
    "level 6, the default": {"compress_level": 6},
    "Huffman codes only": {"compress_type": 2},
    "run lengths": {"compress_level": 1, "compress_type": 3},
}


def enlarged(photo: Path, noise: float) -> bytes:
    """Return the photo as a JPEG of 12 megapixels with the noise of a camera."""
    with Image.open(photo) as image:
        large = np.asarray(image.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS), np.float32)
    grain = np.random.default_rng(0).normal(0, noise, (*large.shape[:2], 1))
    return _encoded(Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)), "JPEG", 90)


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
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--noise", type=float, default=5.0, help="standard deviation, of 255")
    parser.add_argument("--serve", action="store_true", help="measure the service instead")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each run")
    options = parser.parse_args()
    data = enlarged(
        options.weights_dir / SEGMENTER / "examples" / "0016E5_08033.jpg", options.noise
    )
    if options.serve:
        _serve(Case(options.weights_dir / CLASSIFIER, options.precision, data), options)
    else:
        _measure(data, options)


def _serve(case: Case, options: argparse.Namespace) -> None:
    """Print the throughput and the processor time of both ways to decode."""
    rows: dict[str, list[tuple[float, float]]] = {"at the contract's scale": [], "in full": []}
    with tempfile.TemporaryDirectory() as folder:
        in_full = replace(case, folder=_decoding_in_full(case.folder, Path(folder)))
        with service(case) as scaled, service(in_full) as full:
            for _ in range(options.runs):
                for row, server in zip(rows.values(), (scaled, full), strict=True):
                    row.append(_busy(server, case.request(), options.seconds))
    for name, runs in rows.items():
        throughput, cpu = map(statistics.median, zip(*runs, strict=True))
        print(f"{name:28}{throughput:8.1f} images/s{cpu:8.1f} ms of CPU per image")


def _busy(server: Server, request: bytes, seconds: float) -> tuple[float, float]:
    """Return the images per second of a busy server, and its processor time per image in ms."""
    uvloop.run(closed_loop(server.port, request, SATURATED, seconds / 4))
    cpu = server.cpu_seconds()
    results = uvloop.run(closed_loop(server.port, request, SATURATED, seconds))
    if set(results.statuses) != {200}:
        raise SystemExit(f"not every response was successful: {dict(results.statuses)}")
    return results.throughput, 1000 * (server.cpu_seconds() - cpu) / len(results.latencies)


def _decoding_in_full(entry: Path, folder: Path) -> Path:
    """Return a copy of an entry whose contract has no `jpeg_reducing_gap`."""
    copy = folder / entry.name
    shutil.copytree(entry, copy, copy_function=_link)
    config = json.loads((copy / "config.json").read_bytes())
    config["preprocessing"].pop("jpeg_reducing_gap", None)
    canonical = json.dumps(config["preprocessing"], sort_keys=True, separators=(",", ":"))
    config["preprocessing_sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    (copy / "config.json").unlink()
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def _link(source: str, to: str) -> None:
    Path(to).symlink_to(Path(source).resolve())


def _measure(data: bytes, options: argparse.Namespace) -> None:
    contract = read_contract(options.weights_dir / SEGMENTER)
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
