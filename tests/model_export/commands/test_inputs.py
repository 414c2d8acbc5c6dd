"""Task and input size determine the preprocessing."""

import pytest

from model_export.commands.inputs import preprocessing_for
from model_export.errors import InvalidModel
from model_export.models.registry import dimensions_of
from model_export.preprocessing import Buckets, Crop, Squash


@pytest.mark.parametrize(
    ("model", "size", "crop_from", "expected"),
    [
        ("vt_resnet18", None, None, Squash(224, 224)),
        ("vt_resnet18", (96, 128), None, Squash(96, 128)),
        ("vt_resnet18", None, 256, Crop(256, 224, 224)),
        ("vt_resnet18", (96, 128), 128, Crop(128, 96, 128)),
        ("fpn_resnet18", None, None, Buckets.around(512)),
        ("fpn_resnet18", (320, 416), None, Buckets.around(320)),
    ],
)
def test_the_preprocessing_follows_from_task_and_size(model, size, crop_from, expected):
    assert preprocessing_for(dimensions_of(model), size, crop_from).resize == expected


def test_a_segmenters_size_must_be_a_multiple_of_32():
    with pytest.raises(InvalidModel, match="multiples of 32"):
        preprocessing_for(dimensions_of("fpn_resnet18"), (100, 100))


def test_a_crop_is_not_larger_than_what_it_is_cut_from():
    with pytest.raises(InvalidModel, match="short side of 200 is less than the crop 224x224"):
        preprocessing_for(dimensions_of("vt_resnet18"), (224, 224), 200)
