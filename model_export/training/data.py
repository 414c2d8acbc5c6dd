"""Image folders and image/label pairs, and the random views that training takes of them."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model_export.errors import InvalidData
from model_export.preprocessing import open_image, to_rgb
from model_export.training.recipes import Recipe

IGNORED = 255
FILL = (124, 116, 104)
_IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

View = Callable[[Image.Image, Any, random.Random], tuple[npt.NDArray[np.uint8], Any]]


@dataclass(frozen=True)
class Sample:
    """An image file and its target: a class index, or the file of a label map."""

    image: Path
    target: int | Path


def image_folder(root: Path) -> tuple[list[Sample], list[str]]:
    """The samples below `root/<class>/` and the class folders' names, sorted."""
    classes = sorted(path.name for path in _listed(root) if path.is_dir())
    samples = [
        Sample(path, index) for index, name in enumerate(classes) for path in _images(root / name)
    ]
    if not samples:
        raise InvalidData(f"{root} holds no images in class folders")
    return samples, classes


def image_label_pairs(root: Path) -> list[Sample]:
    """`root/images/<stem>.*` with `root/labels/<stem>.png`; every image needs its labels."""
    samples = [
        Sample(path, root / "labels" / f"{path.stem}.png") for path in _images(root / "images")
    ]
    missing = [sample.target for sample in samples if not Path(str(sample.target)).is_file()]
    if missing or not samples:
        what = f"{missing[0]} and {len(missing) - 1} more label files" if missing else "any image"
        raise InvalidData(f"{root} does not hold {what}")
    return samples


def photos_below(folder: Path) -> list[Path]:
    """Every image file in a folder and its subfolders, sorted; at least one."""
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not photos:
        raise InvalidData(f"{folder} holds no photos")
    return photos


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InvalidData(f"{folder} is not a folder")
    return sorted(folder.iterdir())


def _images(folder: Path) -> list[Path]:
    return [path for path in _listed(folder) if path.suffix.lower() in _IMAGE_SUFFIXES]


def load_labels(path: Path, classes: int) -> npt.NDArray[np.uint8]:
    """A label map UINT8 `[H, W]`; ids that are no class become `IGNORED`."""
    labels = np.array(open_image(path))
    if labels.ndim != 2:
        raise InvalidData(f"{path} is not a label map: it has {labels.ndim} axes, not 2")
    return np.where(labels < classes, labels, IGNORED).astype(np.uint8)


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Random views of samples, decoded once and kept in memory.

    A view depends on seed, epoch and index alone, not on which worker takes it.
    """

    def __init__(self, samples: list[Sample], view: View, classes: int, seed: int) -> None:
        self.samples = samples
        self.view = view
        self.seed = seed
        self.epoch = 0
        self._images = [np.asarray(to_rgb(open_image(s.image), FILL)) for s in samples]
        self._targets = [
            load_labels(s.target, classes) if isinstance(s.target, Path) else s.target
            for s in samples
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """An image UINT8 `[H, W, 3]` and its target: INT64, scalar or `[H, W]`."""
        chance = random.Random(f"{self.seed} {self.epoch} {index}")  # noqa: S311
        image = Image.fromarray(self._images[index])
        view, target = self.view(image, self._targets[index], chance)
        return torch.from_numpy(view), torch.as_tensor(target, dtype=torch.int64)

    def label_shares(self, classes: int) -> Tensor:
        """Each class's share of all labelled pixels, FP32 `[classes]`."""
        counts = np.zeros(classes, np.int64)
        for target in self._targets:
            labels = np.asarray(target)
            counts += np.bincount(labels[labels != IGNORED].ravel(), minlength=classes)
        return torch.from_numpy(counts / max(1, counts.sum())).float()


def classification_view(recipe: Recipe, size: tuple[int, int]) -> View:
    """Crop of random area and aspect ratio, resized; mirrored half of the time; coloured."""
    height, width = size

    def view(image: Image.Image, target: int, chance: random.Random) -> tuple[Any, int]:
        area = image.width * image.height * chance.uniform(*recipe.scale)
        aspect = math.exp(chance.uniform(-1, 1) * math.log(recipe.aspect))
        crop_width = min(image.width, math.sqrt(area * aspect))
        crop_height = min(image.height, math.sqrt(area / aspect))
        left = chance.uniform(0, image.width - crop_width)
        top = chance.uniform(0, image.height - crop_height)
        box = (left, top, left + crop_width, top + crop_height)
        view = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
        return _finish(view, recipe, chance.random() < 0.5, chance), target

    return view


def segmentation_view(recipe: Recipe, size: tuple[int, int]) -> View:
    """The photo enlarged at random, stretched a little, cropped, mirrored, coloured."""
    height, width = size

    def view(
        image: Image.Image, target: npt.NDArray[np.uint8], chance: random.Random
    ) -> tuple[Any, npt.NDArray[np.uint8]]:
        scale = chance.uniform(*recipe.scale)
        stretch = math.exp(chance.uniform(-1, 1) * math.log(recipe.aspect) / 2)
        box_width, box_height = width / scale / stretch, height / scale * stretch
        left = chance.uniform(min(0.0, image.width - box_width), max(0.0, image.width - box_width))
        top = chance.uniform(min(0, image.height - box_height), max(0, image.height - box_height))
        box = (left, top, left + box_width, top + box_height)
        mirrored = chance.random() < 0.5
        photo = _extract(image, (width, height), box, Image.Resampling.BILINEAR, FILL)
        labels = _extract(
            Image.fromarray(target), (width, height), box, Image.Resampling.NEAREST, IGNORED
        )
        ids = np.array(labels)[:, ::-1].copy() if mirrored else np.array(labels)
        return _finish(photo, recipe, mirrored, chance), ids

    return view


def _extract(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    resample: Image.Resampling,
    fill: Any,
) -> Image.Image:
    """The part of an image in a box, resized; what lies outside of the image is `fill`."""
    left, top, right, bottom = box
    margin_x = math.ceil(max(0, -left, right - image.width))
    margin_y = math.ceil(max(0, -top, bottom - image.height))
    if margin_x or margin_y:
        size_padded = (image.width + 2 * margin_x, image.height + 2 * margin_y)
        padded = Image.new(image.mode, size_padded, fill)
        padded.paste(image, (margin_x, margin_y))
        image = padded
    shifted = (left + margin_x, top + margin_y, right + margin_x, bottom + margin_y)
    return image.resize(size, resample, box=shifted)


def _finish(
    image: Image.Image, recipe: Recipe, mirrored: bool, chance: random.Random
) -> npt.NDArray[np.uint8]:
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        factor = 1 + chance.uniform(-recipe.color_jitter, recipe.color_jitter)
        image = enhance(image).enhance(factor)
    return np.array(image)


def batches(samples: Samples, batch_size: int, workers: int, seed: int) -> DataLoader[Any]:
    """One epoch of shuffled batches; the last one is dropped where it is not full."""
    return DataLoader(
        samples,
        batch_size=min(batch_size, len(samples)),
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        generator=torch.Generator().manual_seed(seed + samples.epoch),
        pin_memory=torch.cuda.is_available(),
    )
