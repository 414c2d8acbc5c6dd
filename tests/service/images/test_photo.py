"""Photos on their way to the graph."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.errors import InvalidRequest
from service.images import photo as photo_module
from service.images.photo import Photo, PreparedImage, prepare
from service.schema.preprocessing import Preprocessing
from tests.service.images.decoding import LIMITS, SQUASH, preprocessing
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


GAP = SQUASH.model_copy(update={"jpeg_reducing_gap": 2})


def decoded_size(monkeypatch: pytest.MonkeyPatch, data: bytes, rule: Preprocessing) -> tuple:
    """The size of the image that is resized."""
    sizes, resized = [], photo_module.resize

    def recorded(image: Image.Image, *others: object) -> Image.Image:
        sizes.append(image.size)
        return resized(image, *others)

    monkeypatch.setattr(photo_module, "resize", recorded)
    prepare(data, rule, LIMITS)
    return sizes[0]


@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((512, 512), (64, 64)),
        ((511, 512), (128, 128)),
        ((256, 800), (64, 200)),
        ((130, 400), (65, 200)),
        ((127, 400), (127, 400)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_keeps_twice_the_input(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], scaled: tuple[int, int]
) -> None:
    assert decoded_size(monkeypatch, encode(noise(*size), "JPEG"), GAP) == scaled


def test_a_photo_is_decoded_in_full_without_the_rule_and_in_other_formats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert decoded_size(monkeypatch, encode(noise(512, 512), "JPEG"), SQUASH) == (512, 512)
    assert decoded_size(monkeypatch, encode(noise(512, 512), "WEBP"), GAP) == (512, 512)


@pytest.mark.parametrize(
    ("orientation", "size"), [(1, (512, 256)), (3, (512, 256)), (8, (256, 512))]
)
def test_a_photo_decoded_at_a_scale_keeps_its_own_size(
    orientation: int, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = Photo(encode(noise(512, 256), "JPEG", exif=exif), GAP, LIMITS)
    image = photo.prepare()
    assert (image.photo_width, image.photo_height) == size
    assert photo.upright().size == size


def test_the_photos_own_size_decides_on_the_size_of_the_input() -> None:
    """1021 x 801 pixels are 128 x 101 when decoded at 1/8: of another aspect ratio."""
    sizes = [[32, 40], [34, 44]]
    between = (40 / 32 * 44 / 34) ** 0.5
    assert 128 / 101 < between < 1021 / 801
    rule = preprocessing(mode="buckets", sizes=sizes).model_copy(update={"jpeg_reducing_gap": 2})
    image = prepare(encode(noise(1021, 801), "JPEG"), rule, LIMITS)
    assert image.shape == (34, 44, 3)
