"""Labelled images on disk: class folders for classification, label maps for segmentation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_export.errors import InvalidData
from model_export.preprocessing import open_image

IGNORED = 255
"""The id of a pixel without a label."""
_IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Sample:
    """An image file and its target: a class index, or the file of a label map."""

    image: Path
    target: int | Path


def image_folder(root: Path) -> tuple[list[Sample], list[str]]:
    """The samples below `root/<class>/` and the sorted names of the class folders."""
    classes = sorted(path.name for path in _listed(root) if path.is_dir())
    samples = [
        Sample(path, index) for index, name in enumerate(classes) for path in _images(root / name)
    ]
    if not samples:
        raise InvalidData(f"{root} has no class folders with images")
    return samples, classes


def image_label_pairs(root: Path) -> list[Sample]:
    """`root/images/<stem>.*` with `root/labels/<stem>.png`; every image needs a label map."""
    images = _images(root / "images")
    if not images:
        raise InvalidData(f"{root / 'images'} contains no images")
    samples = [Sample(path, root / "labels" / f"{path.stem}.png") for path in images]
    missing = [sample.target for sample in samples if not Path(str(sample.target)).is_file()]
    if missing:
        raise InvalidData(f"{len(missing)} label maps are missing in {root}, first {missing[0]}")
    return samples


def held_out(samples: Sequence[Sample], share: float) -> tuple[list[Sample], list[Sample]]:
    """The samples in two parts: those to train on, and a share of all classes that is held out.

    The same samples are held out every time: one at every `1 / share`, in the order of the files.

    Raises:
        InvalidData: the share is not in [0, 0.5].
    """
    if not 0 <= share <= 0.5:
        raise InvalidData(f"the share to hold out must be between 0 and 0.5, not {share}")
    chosen = {
        index for index in range(len(samples)) if int((index + 1) * share) > int(index * share)
    }
    kept = [sample for index, sample in enumerate(samples) if index not in chosen]
    return kept, [samples[index] for index in sorted(chosen)]


def photos_below(folder: Path) -> list[Path]:
    """Every image file in a folder and its subfolders, sorted; at least one."""
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not photos:
        raise InvalidData(f"{folder} contains no photos")
    return photos


def load_labels(path: Path, classes: int) -> npt.NDArray[np.uint8]:
    """A label map UINT8 `[H, W]`; ids outside the classes become `IGNORED`."""
    labels = np.array(open_image(path))
    if labels.ndim != 2:
        raise InvalidData(f"{path} is not a label map: it has {labels.ndim} axes, not 2")
    return np.where(labels < classes, labels, IGNORED).astype(np.uint8)


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InvalidData(f"{folder} is not a folder")
    return sorted(folder.iterdir())


def _images(folder: Path) -> list[Path]:
    return [path for path in _listed(folder) if path.suffix.lower() in _IMAGE_SUFFIXES]
