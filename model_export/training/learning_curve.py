"""The learning curve of a training run, as a picture for the model card."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 7.0, 3.2, 110
_ACCURACIES = ("top1", "miou", "pixel_accuracy")
_LOSS_COLOR, _ACCURACY_COLORS = "#9aa5b1", ("#1f6feb", "#2da44e")


def learning_curve(rows: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """A PNG of the training loss and the validation accuracies by epoch.

    `rows` are those of `metrics.csv`; an epoch without evaluation has no accuracy.
    """
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DOTS_PER_INCH, layout="constrained")
    losses = figure.subplots()
    _draw_losses(losses, rows, title)
    _draw_accuracies(losses.twinx(), rows)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw_losses(losses: Any, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    losses.set_title(title, loc="left", fontsize=10)
    losses.set_xlabel("epoch")
    losses.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.set_ylabel("training loss")
    losses.grid(alpha=0.25)
    _plot(losses, rows, "train_loss", _LOSS_COLOR)


def _draw_accuracies(accuracies: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    accuracies.set_ylabel("validation, averaged weights")
    accuracies.set_ylim(0, 1)
    accuracies.yaxis.set_major_formatter(PercentFormatter(1.0))
    measured = [name for name in _ACCURACIES if any(name in row for row in rows)]
    for name, color in zip(measured, _ACCURACY_COLORS, strict=False):
        _plot(accuracies, rows, name, color)


def _plot(axes: Any, rows: Sequence[Mapping[str, Any]], name: str, color: str) -> None:
    points = [(row["epoch"], row[name]) for row in rows if name in row]
    epochs, values = zip(*points, strict=True)
    axes.plot(epochs, values, color=color, marker="." if len(points) < 40 else None, label=name)
