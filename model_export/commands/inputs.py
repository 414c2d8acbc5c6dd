"""Photos, samples and preprocessing, as the command line names them."""

from pathlib import Path

from model_export.errors import InvalidData, InvalidModel
from model_export.files import files_in
from model_export.models.input_size import check_input_size
from model_export.models.registry import Dimensions, Task
from model_export.preprocessing import Buckets, Crop, Preprocessing, Squash
from model_export.samples import Sample, image_folder, image_label_pairs

DEFAULT_INPUT_SIZES = {"classification": (224, 224), "segmentation": (512, 512)}


def preprocessing_for(
    dimensions: Dimensions, size: tuple[int, int] | None, short_side: int | None = None
) -> Preprocessing:
    """The preprocessing for an input size `(height, width)`.

    A classifier gets photos squashed to the size or, with `short_side`, cropped from photos with
    that short side. A segmentation model gets buckets around its own short side.
    """
    height, width = size or DEFAULT_INPUT_SIZES[dimensions.task]
    check_input_size(dimensions, (height, width))
    if dimensions.task == "segmentation":
        return Preprocessing(Buckets.around(min(height, width)))
    if short_side is None:
        return Preprocessing(Squash(height, width))
    if short_side < max(height, width):
        raise InvalidModel(f"a short side of {short_side} is less than the crop {height}x{width}")
    return Preprocessing(Crop(short_side, height, width))


def photos_in(folder: Path) -> list[Path]:
    """The files of a folder, all of them assumed to be photos; at least one."""
    photos = files_in(folder)
    if not photos:
        raise InvalidData(f"{folder} contains no photos")
    return photos


def samples_in(folder: Path, task: Task) -> tuple[list[Sample], list[str]]:
    """The samples of a data set; for classification also the names of the class folders."""
    return image_folder(folder) if task == "classification" else (image_label_pairs(folder), [])
