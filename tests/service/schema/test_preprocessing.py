import pytest
from pydantic import ValidationError

from service.schema.preprocessing import Preprocessing


def preprocessing(**resize: object) -> Preprocessing:
    return Preprocessing.model_validate(
        {
            "color_space": "RGB",
            "exif_orientation": True,
            "fill": [255, 255, 255],
            "filter": "bilinear",
            "resize": resize,
        }
    )


@pytest.mark.parametrize("options", [{"mode": "squash"}, {"mode": "crop", "short_side": 40}])
def test_a_fixed_size_is_the_only_one(options: dict) -> None:
    fixed = preprocessing(height=20, width=30, **options)
    assert fixed.input_sizes == [(30, 20)]
    assert fixed.common_size == (30, 20)
    assert fixed.input_size(1, 1000) == (30, 20)


def test_buckets_have_several_sizes_of_which_the_nearest_to_four_by_three_is_common() -> None:
    buckets = preprocessing(mode="buckets", sizes=[[64, 64], [64, 96], [96, 64]])
    assert buckets.input_sizes == [(64, 64), (96, 64), (64, 96)]
    assert buckets.common_size == (96, 64)
    assert buckets.input_size(480, 640) == (64, 96)


def test_a_crop_larger_than_the_short_side_is_refused() -> None:
    with pytest.raises(ValidationError, match="short_side is smaller than the crop"):
        preprocessing(mode="crop", short_side=20, height=20, width=30)
