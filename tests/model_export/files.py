"""Photos, data sets and label files for tests, and the contents of files."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLORS = {"blue": (20, 40, 220), "green": (30, 200, 50), "red": (220, 30, 40)}


def flat_photo(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (40, 36)) -> Path:
    """A photo of one colour with a little noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    chance = np.random.default_rng(sum(path.stem.encode()) + sum(color))
    pixels = np.array(color) + chance.integers(-20, 21, (height, width, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def noise_photo(path: Path, seed: int, size: tuple[int, int] = (50, 44)) -> Path:
    """A photo of smooth coloured noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def color_folders(root: Path, images: int, prefix: str = "") -> Path:
    """Class folders `blue`, `green`, `red`, each with photos of its colour."""
    for name, color in COLORS.items():
        for index in range(images):
            flat_photo(root / f"{prefix}{name}" / f"{index}.png", color)
    return root


def two_color_pairs(root: Path, images: int, size: tuple[int, int] = (64, 64)) -> Path:
    """Images that are red on one side and blue on the other, with a void line in between."""
    width, height = size
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    chance = np.random.default_rng(images)
    for index in range(images):
        border = int(chance.integers(width // 4, 3 * width // 4))
        labels = np.zeros((height, width), np.uint8)
        labels[:, border:] = 1
        pixels = np.array([COLORS["red"], COLORS["blue"]], np.uint8)[labels]
        labels[:, border] = 255
        Image.fromarray(pixels).save(root / "images" / f"{index}.png")
        Image.fromarray(labels).save(root / "labels" / f"{index}.png")
    return root


def rows_of(run: Path) -> list[dict[str, str]]:
    """The metrics of a training run, by epoch."""
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def json_of(path: Path) -> Any:
    return json.loads(path.read_text())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_certificate_is_listed(weights: Path) -> None:
    """Require the hash of `colors` 1's certificate in its contract."""
    listed = json_of(weights / "colors/config.json")["versions"]["1"]["certificate_sha256"]
    assert listed == sha256(weights / "colors/1/certificate.json")


def samples_sha256(*samples: tuple[Path, int | Path]) -> str:
    """The hash that a certificate has for these images and targets."""
    digest = hashlib.sha256()
    for image, target in samples:
        digest.update(sha256(image).encode())
        digest.update((sha256(target) if isinstance(target, Path) else str(target)).encode())
    return digest.hexdigest()


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
