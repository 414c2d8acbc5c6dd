"""The input sizes that a network accepts."""

from model_export.errors import InvalidModel
from model_export.models.registry import Dimensions

STRIDE = 32


def check_input_size(dimensions: Dimensions, size: tuple[int, int]) -> None:
    """Check a height and width; raises `InvalidModel` if the network cannot take them."""
    if dimensions.task == "segmentation" and any(side < 1 or side % STRIDE for side in size):
        raise InvalidModel(
            f"height and width must be multiples of {STRIDE} for segmentation, not {size}"
        )
    if min(size) < STRIDE:
        raise InvalidModel(f"height and width must be at least {STRIDE}, not {size}")
