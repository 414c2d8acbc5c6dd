"""Training recipes, as data: schedule, augmentation, regularisation and losses."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from model_export.errors import InvalidModel
from model_export.models.registry import Task

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(gt=0)]
Size = tuple[PositiveInt, PositiveInt]


@dataclass(frozen=True)
class Recipe:
    """Everything except model, data and seed that determines the weights.

    The learning rate rises linearly over `warmup` (a fraction of all steps), then falls to 0 along
    a cosine. `input_sizes` are stages of equal length in epochs: training starts on smaller images,
    which is several times cheaper.
    """

    epochs: PositiveInt
    batch_size: PositiveInt
    """Images in one update of the weights, over all processes and accumulated gradients."""
    learning_rate: Positive
    weight_decay: NotNegative
    input_sizes: tuple[Size, ...]
    scale: tuple[Positive, Positive]
    """Classification: the crop's share of the photo's area. Segmentation: the photo's scale."""
    aspect: Annotated[float, Field(ge=1)]
    """Largest stretch of the aspect ratio, in either direction."""
    color_jitter: Share
    trivial_augment: bool = False
    """One random operation for each image (TrivialAugment); for segmentation, of colours only."""
    random_erasing: Share = 0.0
    """Classification: share of images that lose a rectangle."""
    mixup: NotNegative = 0.0
    """Classification: alpha of mixup's Beta distribution; 0 is off."""
    cutmix: NotNegative = 0.0
    """Classification: alpha of CutMix's Beta distribution. With `mixup`, batches take turns."""
    betas: tuple[Share, Share] = (0.9, 0.99)
    """AdamW's betas; the second is low because the runs are short."""
    warmup: Share = 0.1
    label_smoothing: Share = 0.0
    class_weight_offset: float | None = None
    """Segmentation: class weights `1 / ln(offset + share of pixels)` (ENet, arXiv 1606.02147)."""
    boundary: NotNegative = 0.0
    """Segmentation: additional weight of pixels within two pixels of another class."""
    dice: NotNegative = 0.0
    """Segmentation: weight of the Dice loss beside cross-entropy."""
    lovasz: NotNegative = 0.0
    """Segmentation: weight of the Lovasz loss, a surrogate of the IoU, beside cross-entropy."""
    distillation: Share = 0.8
    """Weight of the teacher's answer against that of the label, if there is a teacher."""
    backbone_learning_rate: NotNegative = 1.0
    """Factor on the learning rate of parameters from a backbone checkpoint."""
    ema_decay: Share = 0.998
    max_gradient_norm: Positive = 5.0

    def input_size(self, epoch: int) -> tuple[int, int]:
        """Height and width of the training crops in an epoch, counted from 0."""
        return self.input_sizes[epoch * len(self.input_sizes) // self.epochs]

    def changed(self, **changes: Any) -> "Recipe":
        """A copy of the recipe with every change that is not None.

        Raises:
            InvalidModel: a field is unknown, or its value is out of range.
        """
        given = {key: value for key, value in changes.items() if value is not None}
        unknown = given.keys() - {field.name for field in dataclasses.fields(self)}
        if unknown:
            raise InvalidModel(
                f"recipes have no {min(unknown)}; see model_export/training/recipes.py"
            )
        return _validated(dataclasses.asdict(self) | given)

    def check_task(self, task: Task) -> None:
        """Raise `InvalidModel` if the recipe uses a field of another task."""
        others = _OF_ONE_TASK["segmentation" if task == "classification" else "classification"]
        wrong = [name for name in others if getattr(self, name)]
        if wrong:
            raise InvalidModel(f"{wrong[0]} does not apply to {task}; leave it out of the recipe")


_OF_ONE_TASK: Mapping[Task, tuple[str, ...]] = {
    "classification": ("random_erasing", "mixup", "cutmix"),
    "segmentation": ("class_weight_offset", "boundary", "dice", "lovasz"),
}


def _validated(values: Mapping[str, Any]) -> Recipe:
    try:
        return TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidModel(f"recipe field {field}: {first['msg']}, not {first['input']}") from error


def learning_rate(recipe: Recipe, done: float) -> float:
    """Linear warm-up, then a cosine to 0; `done` is the completed fraction of all steps."""
    if done < recipe.warmup:
        return recipe.learning_rate * (0.01 + 0.99 * done / recipe.warmup)
    rest = (done - recipe.warmup) / (1 - recipe.warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * rest))


_CLASSIFICATION = Recipe(
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
)
_SEGMENTATION = Recipe(
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
)
RECIPES: Mapping[str, Recipe] = {
    "classification": _CLASSIFICATION,
    "classification-strong": _CLASSIFICATION.changed(
        trivial_augment=True, random_erasing=0.25, mixup=0.2, cutmix=1.0
    ),
    "segmentation": _SEGMENTATION,
    "segmentation-strong": _SEGMENTATION.changed(
        scale=(0.5, 2.0), trivial_augment=True, boundary=1.0, lovasz=1.0
    ),
}
"""The recipe of a task has its name; the `strong` ones are for many epochs on little data."""
