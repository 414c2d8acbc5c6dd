"""Photos on their way to the graph."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.errors import InvalidRequest
from service.images.photo import Photo, PreparedImage, prepare
from tests.service.images.decoding import LIMITS, SQUASH
from tests.service.photos import RED, encode, noise, quarters, solid


def turned(orientation: int) -> Image.Image:
    """The image that must be stored so that it is upright once turned by its orientation."""
    inverse = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    image = quarters()
    exif = image.getexif()
    exif[0x0112] = inverse
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    return ImageOps.exif_transpose(Image.open(file))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright_by_its_exif_orientation(orientation: int, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if name in ("PNG", "TIFF") else {"quality": 100}
    stored = turned(orientation)
    prepared = prepare(encode(stored, name, exif=exif, **options), SQUASH, LIMITS)
    assert (prepared.photo_width, prepared.photo_height) == (64, 48)
    corners = [prepared.pixels[y, x].tolist() for y, x in ((4, 4), (4, 27), (27, 4), (27, 27))]
    expected = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]
    assert np.abs(np.subtract(corners, expected)).max() < 40


def test_a_photo_is_prepared_once() -> None:
    photo = Photo(encode(solid(RED, (90, 30))), SQUASH, LIMITS)
    assert (photo.prepared, photo.shape) == (None, (32, 32, 3))
    image = photo.prepare()
    assert image.pixels.tolist() == [[list(RED)] * 32] * 32
    assert (image.photo_width, image.photo_height) == (90, 30)
    assert photo.prepared is image
    assert photo.prepare() is image


def test_a_prepared_image_needs_no_preparation() -> None:
    image = PreparedImage(np.zeros((8, 8, 3), np.uint8), 8, 8)
    assert image.prepared is image
    assert image.prepare() is image
    assert image.shape == (8, 8, 3)


def test_the_upright_photo_has_its_own_size() -> None:
    photo = Photo(encode(noise(90, 30)), SQUASH, LIMITS)
    photo.prepare()
    assert photo.upright().tobytes() == noise(90, 30).tobytes()


def test_a_refusal_names_the_index_of_the_photo() -> None:
    photo = Photo(encode(noise(90, 30), "JPEG")[:500], SQUASH, LIMITS, index=3)
    with pytest.raises(
        InvalidRequest, match=r"^Image 3 is refused: it cannot be decoded: the file"
    ):
        photo.prepare()
    assert photo.prepared is None
