"""The sizes and the parts of photos that the graph sees."""

import numpy as np
import pytest
from PIL import Image

from service.images.resize import resize, visible_box
from service.schema.preprocessing import Preprocessing
from tests.service.images.decoding import SQUASH, preprocessing
from tests.service.photos import noise, solid


def test_squash_ignores_the_aspect_ratio() -> None:
    assert resize(noise(90, 30), SQUASH).size == (32, 32)


def gradient(width: int, height: int) -> Image.Image:
    """Each step to the right adds 8 to red, each step down adds 8 to green."""
    rows, columns = np.indices((height, width), np.uint8)
    return Image.fromarray(np.stack([8 * columns, 8 * rows, 0 * rows], axis=2))


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "red", "green"),
    [
        ((16, 8), [48, 56, 64, 72], [24, 32]),
        ((17, 8), [48, 56, 64, 72], [24, 32]),
        ((8, 16), [16, 24, 32, 40], [56, 64]),
        ((32, 16), [100, 116, 132, 148], [52, 68]),
        ((25, 12), [72, 84, 96, 108], [38, 50]),
        ((8, 5), [18, 23, 28, 33], [13, 18]),
    ],
)
def test_crop_scales_the_short_side_and_keeps_the_centre(
    size: tuple[int, int], red: list[int], green: list[int], resample: str
) -> None:
    crop = preprocessing(resample, mode="crop", short_side=8, height=2, width=4)
    pixels = np.asarray(resize(gradient(*size), crop))
    assert pixels.shape == (2, 4, 3)
    assert np.abs(np.subtract(pixels[..., 0], [red] * 2)).max() <= 1
    assert np.abs(np.subtract(pixels[..., 1].T, [green] * 4)).max() <= 1


BUCKETS = [[64, 64], [64, 96], [96, 64]]


@pytest.mark.parametrize(
    ("photo", "size"),
    [
        ((640, 480), (96, 64)),
        ((480, 640), (64, 96)),
        ((60, 50), (64, 64)),
        ((60_000, 1), (96, 64)),
        ((96, 64), (96, 64)),
    ],
)
def test_a_photo_goes_to_the_bucket_of_nearest_aspect_ratio(
    photo: tuple[int, int], size: tuple[int, int]
) -> None:
    assert resize(solid(size=photo), preprocessing(mode="buckets", sizes=BUCKETS)).size == size


@pytest.mark.parametrize("sizes", [[[64, 64], [32, 32]], [[32, 32], [64, 64]]])
def test_of_buckets_that_are_equally_near_the_first_is_taken(sizes: list[list[int]]) -> None:
    buckets = preprocessing(mode="buckets", sizes=sizes)
    assert list(resize(solid(size=(10, 10)), buckets).size) == sizes[0]


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000)])
def test_a_strip_does_not_become_a_huge_image_before_it_is_cropped(size: tuple[int, int]) -> None:
    crop = preprocessing(mode="crop", short_side=256, height=224, width=224)
    pixels = np.asarray(resize(solid(size=size), crop))
    assert pixels.shape == (224, 224, 3)
    assert pixels.reshape(-1, 3).min(axis=0).tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "rules", [SQUASH, preprocessing(mode="crop", short_side=32, height=32, width=32)]
)
def test_a_photo_of_the_right_size_is_not_touched(rules: Preprocessing) -> None:
    assert resize(noise(32, 32), rules).tobytes() == noise(32, 32).tobytes()


CROP = {"mode": "crop", "short_side": 40, "height": 32, "width": 36}


@pytest.mark.parametrize("size", [(120, 90), (91, 160), (40, 40), (700, 30), (20, 900)])
def test_the_visible_box_is_what_the_crop_shows(size: tuple[int, int]) -> None:
    """Resizing only the box gives the same pixels, up to the rounding of the cut."""
    crop, photo = preprocessing("bilinear", **CROP), gradient_to(*size)
    box = visible_box(*size, crop)
    again = np.asarray(photo.resize((36, 32), Image.Resampling.BILINEAR, box), int)
    assert np.abs(again - np.asarray(resize(photo, crop))).max() <= 2


def gradient_to(width: int, height: int) -> Image.Image:
    """Red rises to the right and green downwards, from 0 to 255."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    values = np.stack([255 * columns, 255 * rows, 0 * rows], axis=2)
    return Image.fromarray(values.round().astype(np.uint8))


def test_the_whole_photo_is_visible_unless_it_is_cropped() -> None:
    assert visible_box(90, 30, SQUASH) == (0, 0, 90, 30)
    assert visible_box(90, 30, preprocessing(mode="buckets", sizes=BUCKETS)) == (0, 0, 90, 30)
