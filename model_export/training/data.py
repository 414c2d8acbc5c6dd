"""Random views of labelled images, in batches for training."""

import math
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model_export.errors import InvalidModel
from model_export.preprocessing import open_image, to_rgb
from model_export.samples import IGNORED, Sample, load_labels
from model_export.training.augmentation import FILL
from model_export.training.interruption import SIGNALS
from model_export.training.processes import Processes
from model_export.training.recipes import Recipe

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of an image."""
View = Callable[[Image.Image, Any, random.Random], tuple[npt.NDArray[np.uint8], Any]]


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Random views of samples, which are decoded once and kept in memory.

    A view depends only on seed, epoch and index, not on the worker.
    """

    def __init__(self, samples: list[Sample], view: View, classes: int, seed: int) -> None:
        self.samples = samples
        self.view = view
        self.seed = seed
        self.epoch = 0
        with ThreadPoolExecutor() as threads:
            self._images = list(threads.map(_pixels, samples))
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
        """The share of each class in all labelled pixels, FP32 `[classes]`."""
        counts = np.zeros(classes, np.int64)
        for target in self._targets:
            labels = np.asarray(target)
            counts += np.bincount(labels[labels != IGNORED].ravel(), minlength=classes)
        return torch.from_numpy(counts / max(1, counts.sum())).float()


def _pixels(sample: Sample) -> npt.NDArray[np.uint8]:
    return np.asarray(to_rgb(open_image(sample.image), FILL))


def classification_view(recipe: Recipe, size: tuple[int, int]) -> View:
    """A crop of random area and aspect ratio, resized, randomly mirrored and colour-jittered."""
    height, width = size

    def view(image: Image.Image, target: int, chance: random.Random) -> tuple[Any, int]:
        box = _random_crop(image, recipe, chance)
        view = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
        return _finish(view, recipe, chance.random() < 0.5, chance), target

    return view


def _random_crop(image: Image.Image, recipe: Recipe, chance: random.Random) -> Box:
    """A box inside the image, of random area and aspect ratio."""
    area = image.width * image.height * chance.uniform(*recipe.scale)
    aspect = math.exp(chance.uniform(-1, 1) * math.log(recipe.aspect))
    width = min(image.width, math.sqrt(area * aspect))
    height = min(image.height, math.sqrt(area / aspect))
    left = chance.uniform(0, image.width - width)
    top = chance.uniform(0, image.height - height)
    return left, top, left + width, top + height


def segmentation_view(recipe: Recipe, size: tuple[int, int]) -> View:
    """The photo randomly scaled, stretched, cropped, mirrored and colour-jittered."""
    height, width = size

    def view(
        image: Image.Image, target: npt.NDArray[np.uint8], chance: random.Random
    ) -> tuple[Any, npt.NDArray[np.uint8]]:
        box = _random_box(image, size, recipe, chance)
        mirrored = chance.random() < 0.5
        photo = _extract(image, (width, height), box, Image.Resampling.BILINEAR, FILL)
        labels = _extract(
            Image.fromarray(target), (width, height), box, Image.Resampling.NEAREST, IGNORED
        )
        ids = np.array(labels)[:, ::-1].copy() if mirrored else np.array(labels)
        return _finish(photo, recipe, mirrored, chance), ids

    return view


def _random_box(
    image: Image.Image, size: tuple[int, int], recipe: Recipe, chance: random.Random
) -> Box:
    """A box of a size `(height, width)`, scaled and stretched; it may exceed a small image."""
    scale = chance.uniform(*recipe.scale)
    stretch = math.exp(chance.uniform(-1, 1) * math.log(recipe.aspect) / 2)
    width, height = size[1] / scale / stretch, size[0] / scale * stretch
    left = chance.uniform(min(0.0, image.width - width), max(0.0, image.width - width))
    top = chance.uniform(min(0.0, image.height - height), max(0.0, image.height - height))
    return left, top, left + width, top + height


def _extract(
    image: Image.Image,
    size: tuple[int, int],
    box: Box,
    resample: Image.Resampling,
    fill: Any,
) -> Image.Image:
    """The part of an image in a box, resized; `fill` outside the image."""
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


class Batches:
    """The shuffled indices of an epoch, for one process, in parts of a batch.

    Every batch is divided over the processes and, in each of them, into `accumulate` parts, which
    come one after the other. An incomplete last batch is dropped.

    Raises:
        InvalidModel: a batch cannot be divided into parts of equal size.
    """

    def __init__(
        self, samples: int, batch_size: int, processes: Processes, accumulate: int
    ) -> None:
        self._samples, self._rank = samples, processes.rank
        self._count, self._accumulate = processes.count, accumulate
        self._parts = processes.count * accumulate
        self.batch_size = min(batch_size, samples)
        if self.batch_size % self._parts:
            raise InvalidModel(
                f"a batch of {self.batch_size} images cannot be divided into {self._parts} equal "
                "parts (processes x --accumulate); choose another --batch-size"
            )
        self.updates = samples // self.batch_size

    def parts(self, seed: int, epoch: int, start: int) -> list[list[int]]:
        """The indices of every part, from the batch `start` on."""
        order = np.random.default_rng([seed, epoch]).permutation(self._samples).tolist()
        parts = []
        for update in range(start, self.updates):
            batch = order[update * self.batch_size : (update + 1) * self.batch_size]
            mine = batch[self._rank :: self._count]
            parts += [mine[part :: self._accumulate] for part in range(self._accumulate)]
        return parts


def load(samples: Samples, parts: list[list[int]], workers: int) -> Iterator[list[Tensor]]:
    """Views and targets of each part, prepared by worker processes."""
    return iter(
        DataLoader(
            samples,
            batch_sampler=parts,
            num_workers=workers,
            generator=torch.Generator(),  # which leaves the global one alone
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_signals,
        )
    )


def _ignore_signals(_worker: int) -> None:
    """Ctrl-C reaches the workers, too, but it is the main process that stops, after saving."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
