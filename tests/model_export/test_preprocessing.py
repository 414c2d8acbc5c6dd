"""A photo becomes the graph's bytes by the rules of `docs/model_repository.md`."""

import contextlib
import hashlib
import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from model_export.errors import InvalidData
from model_export.preprocessing import Buckets, Crop, Preprocessing, Squash, open_image, to_rgb

FILL = (10, 20, 30)
RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)


def quarters(width: int = 8, height: int = 6) -> Image.Image:
    """Red top left, green top right, blue bottom left, black bottom right."""
    image = Image.new("RGB", (width, height))
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    return image


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def saved(tmp_path, image: Image.Image, name: str = "photo.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_squash_ignores_the_aspect_ratio():
    image = noise(50, 30)
    expected = image.resize((16, 24), Image.Resampling.BILINEAR)
    array = Preprocessing(Squash(24, 16))(image)
    assert array.dtype == np.uint8
    assert array.shape == (24, 16, 3)
    assert np.array_equal(array, np.asarray(expected))


def test_the_filter_can_be_bicubic():
    image = noise(50, 30)
    expected = image.resize((16, 24), Image.Resampling.BICUBIC)
    array = Preprocessing(Squash(24, 16), filter="bicubic")(image)
    assert np.array_equal(array, np.asarray(expected))


@pytest.mark.parametrize(
    ("size", "scaled", "corner"),
    [
        pytest.param((60, 40), (30, 20), (7, 2), id="landscape"),
        pytest.param((40, 60), (20, 30), (2, 7), id="portrait"),
        pytest.param((40, 40), (20, 20), (2, 2), id="square"),
        pytest.param((61, 40), (31, 20), (7, 2), id="rounded up"),
        pytest.param((10, 5), (40, 20), (12, 2), id="enlarged"),
    ],
)
def test_crop_scales_the_short_side_and_cuts_the_centre(size, scaled, corner):
    image = noise(*size)
    left, top = corner
    expected = image.resize(scaled, Image.Resampling.BILINEAR).crop(
        (left, top, left + 16, top + 16)
    )
    assert np.array_equal(Preprocessing(Crop(20, 16, 16))(image), np.asarray(expected))


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        pytest.param(480, 360, (416, 320), id="4 to 3"),
        pytest.param(360, 480, (320, 416), id="portrait"),
        pytest.param(320, 320, (320, 320), id="as it is"),
        pytest.param(4032, 2268, (576, 320), id="16 to 9"),
        pytest.param(400, 100, (960, 320), id="a third off"),
        pytest.param(600, 100, (960, 160), id="a strip"),
        pytest.param(5000, 10, (960, 160), id="the longest there is"),
        pytest.param(10, 10, (320, 320), id="enlarged"),
    ],
)
def test_a_photo_goes_to_the_bucket_of_nearest_aspect_ratio(width, height, expected):
    resize = Buckets.around(320)
    assert resize.size(width, height) == expected
    if max(width, height) <= 500:
        array = Preprocessing(resize)(noise(width, height))
        assert array.shape[1::-1] == expected


def test_buckets_are_few_multiples_of_32_whose_ratios_are_at_most_a_third_apart():
    sizes = Buckets.around(352).sizes
    assert len(set(sizes)) == len(sizes) == 15
    assert {side % 32 for size in sizes for side in size} == {0}
    assert {(width, height) for height, width in sizes} == set(sizes)
    ratios = sorted(width / height for height, width in sizes if width < 4 * height)
    steps = [b / a for a, b in itertools.pairwise(ratios) if a >= 1 / 3]
    assert max(steps) < 4 / 3


@pytest.mark.parametrize(
    "resize", [Squash(32, 64), Crop(32, 32, 64), Buckets.around(32)], ids=lambda r: r.mode
)
def test_a_photo_of_the_right_size_is_unchanged(resize):
    image = noise(64, 32)
    assert np.array_equal(Preprocessing(resize)(image), np.asarray(image))


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp", "photo.tif"])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, quarters()),
        (2, quarters().transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        (3, quarters().transpose(Image.Transpose.ROTATE_180)),
        (4, quarters().transpose(Image.Transpose.FLIP_TOP_BOTTOM)),
        (5, quarters().transpose(Image.Transpose.TRANSPOSE)),
        (6, quarters().transpose(Image.Transpose.ROTATE_90)),
        (7, quarters().transpose(Image.Transpose.TRANSVERSE)),
        (8, quarters().transpose(Image.Transpose.ROTATE_270)),
    ],
)
def test_a_photo_is_turned_upright(tmp_path, orientation, stored, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    enlarged = stored.resize((stored.width * 8, stored.height * 8), Image.Resampling.NEAREST)
    path = saved(tmp_path, enlarged, name, exif=exif)
    upright = to_rgb(open_image(path), FILL)
    assert upright.size == (64, 48)
    corners = [np.array(upright.getpixel(at)) for at in ((8, 8), (56, 8), (8, 40), (56, 40))]
    expected = np.array([RED, GREEN, BLUE, BLACK])
    assert np.abs(np.array(corners) - expected).max() < 10


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_photo_with_broken_exif_is_readable(tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\xff\xff\xff\xff"
    path = saved(tmp_path, quarters(64, 48), "photo.jpg", exif=exif)
    assert to_rgb(open_image(path), FILL).size == (64, 48)


def test_sixteen_bit_grey_is_scaled_by_257(tmp_path):
    wide = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    image = open_image(saved(tmp_path, Image.fromarray(wide)))
    assert image.mode.startswith("I;16")
    assert np.asarray(to_rgb(image, FILL))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_wider_numbers_are_scaled_from_their_own_range(tmp_path, kind):
    values = np.array([[-500, 0, 500, 1500]], kind)
    image = open_image(saved(tmp_path, Image.fromarray(values), "photo.tif"))
    assert image.mode in ("I", "F")
    assert np.asarray(to_rgb(image, FILL))[0, :, 1].tolist() == [0, 64, 128, 255]


@pytest.mark.parametrize("value", [0.0, 7.5, np.nan, np.inf])
def test_constant_floats_are_black(value):
    image = Image.fromarray(np.full((2, 2), value, np.float32))
    assert not np.asarray(to_rgb(image, FILL)).any()


def test_nan_and_infinity_do_not_widen_the_range():
    values = np.array([[0, 1, np.nan, np.inf, -np.inf, 0.5]], np.float32)
    array = np.asarray(to_rgb(Image.fromarray(values), FILL))
    assert array[0, :, 0].tolist() == [0, 255, 0, 255, 0, 128]


def mixed(color, alpha) -> list[int]:
    return [round((c * alpha + f * (255 - alpha)) / 255) for c, f in zip(color, FILL, strict=True)]


@pytest.mark.parametrize("alpha", [0, 100, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_over_the_fill(mode, alpha):
    grey = (90, 90, 90)
    image = Image.new("RGBA", (2, 2), (*grey, alpha)).convert(mode)
    pixel = np.asarray(to_rgb(image, FILL))[0, 0]
    assert np.abs(pixel.astype(int) - mixed(grey, alpha)).max() <= 1


def test_premultiplied_transparency_is_composited_too():
    image = Image.new("RGBA", (2, 2), (200, 100, 50, 128)).convert("RGBa")
    pixel = np.asarray(to_rgb(image, FILL))[0, 0]
    assert np.abs(pixel.astype(int) - mixed((200, 100, 50), 128)).max() <= 2


@pytest.mark.parametrize("name", ["photo.png", "photo.gif"])
def test_a_palettes_transparent_colour_becomes_the_fill(tmp_path, name):
    image = Image.new("P", (4, 2), 0)
    image.putpalette([*RED, *GREEN])
    image.paste(1, (2, 0, 4, 2))
    array = np.asarray(to_rgb(open_image(saved(tmp_path, image, name, transparency=1)), FILL))
    assert array[0].tolist() == [[*RED], [*RED], [*FILL], [*FILL]]


def test_a_transparent_colour_of_a_plain_png_becomes_the_fill(tmp_path):
    path = saved(tmp_path, quarters(4, 4), transparency=GREEN)
    array = np.asarray(to_rgb(open_image(path), FILL))
    assert array[0].tolist() == [[*RED], [*RED], [*FILL], [*FILL]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_converted(mode):
    image = Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode)
    array = np.asarray(to_rgb(image, FILL))
    assert array.shape == (4, 4, 3)
    assert array.min() >= 254


def test_cmyk_colours_are_kept(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (16, 16), (255, 255, 0, 0)), "photo.jpg")
    red, green, blue = np.asarray(to_rgb(open_image(path), FILL))[8, 8].astype(int)
    assert blue > 200
    assert max(red, green) < 60


def test_the_first_frame_of_an_animation_is_used(tmp_path):
    frames = [Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), BLUE)]
    path = tmp_path / "photo.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert np.asarray(to_rgb(open_image(path), FILL))[0, 0].tolist() == [*RED]


def test_the_dictionary_is_the_documented_one():
    assert Preprocessing(Squash(224, 224)).as_dict() == {
        "color_profile": "srgb",
        "color_space": "RGB",
        "exif_orientation": True,
        "fill": [255, 255, 255],
        "filter": "bilinear",
        "jpeg_reducing_gap": 2.0,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "resize": {"mode": "squash", "height": 224, "width": 224},
    }


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(Squash(96, 128)),
        Preprocessing(Crop(256, 224, 224), filter="bicubic", fill=(1, 2, 3)),
        Preprocessing(Buckets.around(512), mean=(0.0, 0.1, 0.2), std=(1.0, 2.0, 3.0)),
    ],
    ids=["squash", "crop", "buckets"],
)
def test_preprocessing_survives_a_round_trip_through_json(preprocessing):
    again = Preprocessing.from_dict(json.loads(json.dumps(preprocessing.as_dict())))
    assert again == preprocessing
    assert again.sha256 == preprocessing.sha256


def test_the_hash_is_that_of_the_json_with_sorted_keys_and_no_spaces():
    text = (
        '{"color_profile":"srgb","color_space":"RGB","exif_orientation":true,"fill":[255,255,255],'
        '"filter":"bilinear","jpeg_reducing_gap":2.0,"mean":[0.485,0.456,0.406],"resize":{"height":224,"mode":"squash","width":224},'
        '"std":[0.229,0.224,0.225]}'
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert Preprocessing(Squash(224, 224)).sha256 == digest


def test_different_preprocessings_have_different_hashes():
    hashes = {
        Preprocessing(resize, filter=name).sha256
        for resize in (Squash(224, 224), Squash(224, 225), Crop(256, 224, 224), Buckets.around(224))
        for name in ("bilinear", "bicubic")
    }
    assert len(hashes) == 8


FORMATS = ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]


def encoded(name: str) -> bytes:
    file = io.BytesIO()
    noise(30, 20).save(file, name)
    return file.getvalue()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_photo_is_refused_by_name(tmp_path, name, share):
    content, path = encoded(name), tmp_path / "truncated"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InvalidData, match="truncated cannot be read as an image"):
        open_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", FORMATS)
def test_a_photo_with_random_damage_causes_no_other_error(tmp_path, name):
    """Pillow decodes some damaged files and raises all kinds of errors for the rest."""
    chance, path = np.random.default_rng(0), tmp_path / "damaged"
    refused = 0
    for _ in range(40):
        damaged = bytearray(encoded(name))
        for _ in range(5):
            damaged[int(chance.integers(min(len(damaged), 100)))] = chance.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(InvalidData):
            to_rgb(open_image(path), FILL)
            continue
        refused += 1
    assert refused > 5


@pytest.mark.parametrize("content", [b"", b"plain text", b"<svg/>", b"%PDF-1.7"])
def test_a_file_that_is_not_a_photo_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidData, match="cannot be read as an image"):
        open_image(tmp_path / "file")


def test_a_missing_photo_is_refused(tmp_path):
    with pytest.raises(InvalidData, match="nowhere"):
        open_image(tmp_path / "nowhere.png")
