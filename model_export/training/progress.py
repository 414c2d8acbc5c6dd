"""Progress of a training: a bar in a terminal, otherwise a line every half minute."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TextIO

from tqdm import tqdm

from model_export.errors import InvalidModel
from model_export.training.recipes import Recipe

LINE_SECONDS = 30.0


class Progress:
    """Loss, images per second and the time left, on standard error.

    The time left assumes that the time of an image is proportional to its pixels; evaluation does
    not count.
    """

    def __init__(
        self,
        recipe: Recipe,
        updates: int,
        *,
        shown: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recipe, self._updates = recipe, updates
        self._shown = shown
        self._stream = stream or sys.stderr
        self._clock = clock
        self._pixels = self._seconds = 0.0
        self._epoch = 0
        self._before = self._line_at = clock()
        self._images = 0  # since the last line

    @contextmanager
    def epoch(self, epoch: int, start: int) -> Iterator[None]:
        """Report an epoch, counted from 0, of which `start` updates are done already."""
        self._epoch, self._before = epoch, self._clock()
        self._line_at, self._images = self._before + LINE_SECONDS, 0
        with tqdm(
            desc=f"epoch {epoch + 1}/{self._recipe.epochs}",
            initial=start * self._recipe.batch_size,
            total=self._updates * self._recipe.batch_size,
            unit="image",
            file=self._stream,
            disable=not (self._shown and self._stream.isatty()),
        ) as self._bar:
            yield

    def advance(self, update: int, loss: float) -> None:
        """Report that `update` updates of the epoch are done, the last of them with this loss."""
        images, now = self._recipe.batch_size, self._clock()
        self._pixels += images * _area(self._recipe, self._epoch)
        self._seconds += now - self._before
        self._before = now
        self._images += images
        left = timedelta(seconds=round(self._seconds / self._pixels * self._pixels_left(update)))
        self._bar.set_postfix(loss=f"{loss:.3f}", left=str(left), refresh=False)
        self._bar.update(images)
        if self._shown and self._bar.disable and now >= self._line_at:
            self._print_line(update, loss, left, now)

    def _print_line(self, update: int, loss: float, left: timedelta, now: float) -> None:
        rate = self._images / (now - self._line_at + LINE_SECONDS)
        print(
            f"epoch {self._epoch + 1}/{self._recipe.epochs}, {update / self._updates:.0%}: "
            f"loss {loss:.3f}, {rate:.1f} images/s, {left} left",
            file=self._stream,
            flush=True,
        )
        self._line_at, self._images = now + LINE_SECONDS, 0

    def _pixels_left(self, update: int) -> float:
        later = sum(_area(self._recipe, e) for e in range(self._epoch + 1, self._recipe.epochs))
        here = (self._updates - update) * _area(self._recipe, self._epoch)
        return (here + self._updates * later) * self._recipe.batch_size


def _area(recipe: Recipe, epoch: int) -> int:
    height, width = recipe.input_size(epoch)
    return height * width


class Scalars(Protocol):
    """A log of numbers over the updates of a training."""

    def write(self, values: Mapping[str, float], update: int) -> None:
        """Add values, by name, after an update."""

    def close(self) -> None:
        """Write what is buffered."""


class NoScalars:
    """No log."""

    def write(self, values: Mapping[str, float], update: int) -> None:
        """Ignore the values."""

    def close(self) -> None:
        """Do nothing."""


class TensorBoard:
    """Scalars as TensorBoard reads them."""

    def __init__(self, folder: Path, first_update: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
        except ImportError as error:
            raise InvalidModel(
                "--log tensorboard needs the package tensorboard: "
                "pip install -c constraints.txt -e '.[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=first_update)

    def write(self, values: Mapping[str, float], update: int) -> None:
        """Add values, by name, after an update."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()
