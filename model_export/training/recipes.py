"""Training recipes, as data: one for classification, one for segmentation."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from model_export.models.registry import Task


@dataclass(frozen=True)
class Recipe:
    """Everything except model, data and seed that determines the weights.

    The learning rate rises linearly over `warmup` (a fraction of all steps), then falls to 0 along
    a cosine. `input_sizes` are stages of equal length in epochs: training starts on smaller images,
    which is several times cheaper.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    input_sizes: tuple[tuple[int, int], ...]
    scale: tuple[float, float]
    """Classification: the crop's share of the photo's area. Segmentation: the photo's scale."""
    aspect: float
    """Largest stretch of the aspect ratio, in either direction."""
    color_jitter: float
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's betas; the second is low because the runs are short."""
    warmup: float = 0.1
    label_smoothing: float = 0.0
    class_weight_offset: float | None = None
    """Segmentation: class weights `1 / ln(offset + share of pixels)` (ENet, arXiv 1606.02147)."""
    backbone_learning_rate: float = 1.0
    """Factor on the learning rate of parameters from a backbone checkpoint."""
    ema_decay: float = 0.998
    max_gradient_norm: float = 5.0

    def input_size(self, epoch: int) -> tuple[int, int]:
        """Height and width of the training crops in an epoch, counted from 0."""
        return self.input_sizes[epoch * len(self.input_sizes) // self.epochs]

    def changed(self, **changes: Any) -> "Recipe":
        """A copy of the recipe with every change that is not None."""
        given = {key: value for key, value in changes.items() if value is not None}
        return dataclasses.replace(self, **given)


RECIPES: dict[Task, Recipe] = {
    "classification": Recipe(
        epochs=32,
        batch_size=64,
        learning_rate=2e-3,
        weight_decay=0.05,
        input_sizes=((64, 64), (96, 96), (128, 128), (160, 160)),
        scale=(0.3, 1.0),
        aspect=1.67,
        color_jitter=0.3,
        label_smoothing=0.1,
        backbone_learning_rate=0.5,
    ),
    "segmentation": Recipe(
        epochs=60,
        batch_size=8,
        learning_rate=1e-3,
        weight_decay=0.05,
        input_sizes=((256, 320),),
        scale=(0.6, 1.8),
        aspect=1.15,
        color_jitter=0.3,
        class_weight_offset=1.02,
        backbone_learning_rate=0.5,
        ema_decay=0.995,
    ),
}
