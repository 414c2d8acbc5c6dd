import io
import struct
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.errors import InvalidRequest, PayloadTooLarge, ServiceError, UnsupportedMediaType
from service.images.decode import ImageLimits, decode
from service.images.photo import prepare
from service.schema.preprocessing import Preprocessing
from tests.service.photos import encode, noise, png_chunk, png_header, quarters, solid

LIMITS = ImageLimits(max_pixels=1_000_000)
GREY = (128, 128, 128)


def rules(mode: str = "squash", **sizes: object) -> Preprocessing:
    options = {"filter": "bilinear", "fill": [255, 255, 255], **sizes}
    resize = {"mode": mode, **{key: options.pop(key) for key in list(options) if key in SIZES}}
    return Preprocessing.model_validate(
        {"color_space": "RGB", "exif_orientation": True, "resize": resize, **options}
    )


SIZES = {"height", "width", "short_side", "sizes"}
SQUASH = rules(height=32, width=32)


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, SQUASH, LIMITS))


def middle(data: bytes) -> list[int]:
    pixels = decoded(data)
    return pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].tolist()


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format_on_the_list_is_decoded(name: str) -> None:
    assert np.abs(np.subtract(middle(encode(solid((200, 40, 90)), name)), (200, 40, 90))).max() < 6


@pytest.mark.parametrize("name", ["PPM", "ICO", "TGA", "PCX", "EPS", "PDF"])
def test_other_formats_that_pillow_knows_are_not_opened(name: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="not a JPEG, PNG"):
        decoded(encode(solid(), name))


@pytest.mark.parametrize("data", [b"", b"x", b"<svg/>", b"RIFF....WAVE", bytes(1000)])
def test_bytes_of_no_format_are_an_unsupported_media_type(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        decoded(data)


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


def test_broken_exif_does_not_make_a_photo_unreadable() -> None:
    data = encode(solid(GREY), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert middle(data) == list(GREY)


def mode_cases() -> dict[str, tuple[bytes, list[int]]]:
    half = Image.new("RGBA", (9, 9), (0, 0, 0, 51))  # 20 % black over the white fill
    palette = solid((10, 200, 30)).quantize(4)
    return {
        "1": (encode(Image.new("1", (9, 9), 1)), [255, 255, 255]),
        "L": (encode(Image.new("L", (9, 9), 77)), [77, 77, 77]),
        "P": (encode(palette), [10, 200, 30]),
        "P with transparency": (encode(palette, transparency=0), [255, 255, 255]),
        "LA": (encode(Image.new("LA", (9, 9), (0, 51))), [204, 204, 204]),
        "RGBA": (encode(half), [204, 204, 204]),
        "RGBA WebP": (encode(half, "WEBP", lossless=True), [204, 204, 204]),
        "RGB with a transparent colour": (
            encode(solid((1, 2, 3)), transparency=(1, 2, 3)),
            [255, 255, 255],
        ),
        "I;16": (encode(Image.fromarray(np.full((9, 9), 40 * 257, np.uint16))), [40, 40, 40]),
        "I;16 TIFF": (
            encode(Image.fromarray(np.full((9, 9), 65535, np.uint16)), "TIFF"),
            [255, 255, 255],
        ),
        "I;16B TIFF": (big_endian_tiff(300), [1, 1, 1]),
        "CMYK": (encode(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "TIFF"), [255, 0, 0]),
        "YCbCr": (encode(Image.new("YCbCr", (9, 9), (128, 128, 128)), "TIFF"), list(GREY)),
    }


def big_endian_tiff(value: int) -> bytes:
    tags = [(256, 4, 9), (257, 4, 9), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 200)]
    tags += [(277, 3, 1), (278, 4, 9), (279, 4, 162)]
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1) + struct.pack(">I" if kind == 4 else ">Hxx", number)
        for tag, kind, number in tags
    )
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(200, b"\0") + struct.pack(">81H", *[value] * 81)


@pytest.mark.parametrize(("data", "color"), mode_cases().values(), ids=mode_cases().keys())
def test_every_mode_becomes_rgb(data: bytes, color: list[int]) -> None:
    assert middle(data) == color


def test_lab_is_converted() -> None:
    white = middle(encode(Image.new("LAB", (9, 9), (255, 128, 128)), "TIFF"))
    assert min(white) > 250


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    red = middle(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert red[0] > 240
    assert max(red[1:]) < 20


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(-5, 7, 256, dtype=np.float32).reshape(16, 16),
        np.arange(-1000, 1560, 10, dtype=np.int32).reshape(16, 16),
    ],
    ids=["F", "I"],
)
def test_wide_grey_is_scaled_from_its_own_range(values: np.ndarray) -> None:
    grey = decoded(encode(Image.fromarray(values), "TIFF"))[..., 0].reshape(-1)
    assert np.array_equal(grey, np.arange(256))


def test_numbers_that_are_not_finite_do_not_break_the_range() -> None:
    values = np.array([[0, 1, np.nan], [np.inf, -np.inf, 0.5]], np.float32)
    grey = decoded(encode(Image.fromarray(values), "TIFF"))[..., 0]
    assert grey.tolist() == [[0, 255, 0], [255, 0, 128]]


@pytest.mark.parametrize("fill", [0.25, np.nan])
def test_a_constant_wide_grey_image_is_black(fill: float) -> None:
    image = Image.fromarray(np.full((4, 4), fill, np.float32))
    assert decoded(encode(image, "TIFF")).max() == 0


def test_the_first_frame_of_an_animation_is_used() -> None:
    frames = [solid((0, 255, 0)), solid((0, 0, 255))]
    for name in ("GIF", "WEBP", "TIFF", "PNG"):
        data = encode(solid((255, 0, 0)), name, save_all=True, append_images=frames)
        assert np.abs(np.subtract(middle(data), (255, 0, 0))).max() < 6


def test_squash_ignores_the_aspect_ratio() -> None:
    assert prepare(encode(noise(90, 30)), SQUASH, LIMITS).pixels.shape == (32, 32, 3)


@pytest.mark.parametrize(("width", "height"), [(90, 61), (61, 90), (40, 40), (33, 500), (16, 17)])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_crop_equals_scaling_the_whole_and_cutting_the_centre(
    width: int, height: int, resample: str
) -> None:
    crop = rules("crop", short_side=40, height=32, width=36, filter=resample)
    image = noise(width, height)
    scale = 40 / min(width, height)
    scaled = image.resize(
        (max(40, int(width * scale + 0.5)), max(40, int(height * scale + 0.5))),
        Image.Resampling[resample.upper()],
    )
    left, top = (scaled.width - 36) // 2, (scaled.height - 32) // 2
    expected = np.asarray(scaled.crop((left, top, left + 36, top + 32)))
    assert np.array_equal(prepare(encode(image), crop, LIMITS).pixels, expected)


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
    assert rules("buckets", sizes=BUCKETS).input_size(*photo) == size


def test_of_buckets_that_are_equally_near_the_first_is_taken() -> None:
    assert rules("buckets", sizes=[[64, 64], [32, 32]]).input_size(10, 10) == (64, 64)
    assert rules("buckets", sizes=[[32, 32], [64, 64]]).input_size(10, 10) == (32, 32)


def test_a_strip_does_not_become_a_huge_image_before_it_is_cropped() -> None:
    crop = rules("crop", short_side=256, height=224, width=224)
    for size in ((60_000, 1), (1, 60_000)):
        pixels = prepare(encode(solid(size=size)), crop, LIMITS).pixels
        assert pixels.shape == (224, 224, 3)
        assert pixels.reshape(-1, 3).min(axis=0).tolist() == [255, 0, 0]


def test_a_photo_of_the_right_size_is_not_touched() -> None:
    image = noise(32, 32)
    crop = rules("crop", short_side=32, height=32, width=32)
    for preprocessing in (SQUASH, crop):
        pixels = prepare(encode(image), preprocessing, LIMITS).pixels
        assert np.array_equal(pixels, np.asarray(image))


@pytest.mark.parametrize(
    ("width", "height"), [(1001, 1000), (100_000, 1), (1, 100_000), (2**31 - 1, 2**31 - 1)]
)
def test_huge_dimensions_in_a_tiny_file_are_refused_before_decoding(
    width: int, height: int
) -> None:
    tracemalloc.start()
    with pytest.raises(ServiceError) as caught:
        decoded(png_header(width, height))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert caught.value.status == 413


def test_a_gif_frame_larger_than_its_screen_is_refused() -> None:
    data = bytearray(encode(solid(size=(4, 4)), "GIF"))
    at = data.index(b",\0\0\0\0")
    data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises(PayloadTooLarge):
        decoded(bytes(data))


def test_a_tiff_with_an_enormous_tile_is_refused() -> None:
    tags = [(256, 4, 1), (257, 4, 1), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    tags += [(322, 4, 30_000), (323, 4, 30_000), (324, 4, 200), (325, 4, 900_000)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    data = head.ljust(200, b"\0") + zlib.compress(bytes(900_000_00))
    with pytest.raises(PayloadTooLarge, match="tiles"):
        decoded(data)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_compressed_bomb_in_a_png_is_the_clients_error_or_ignored(kind: bytes) -> None:
    data = encode(solid())
    bomb = png_chunk(kind, b"name\0\0" + zlib.compress(bytes(80_000_000), 9))
    with suppress(InvalidRequest):
        decoded(data[:33] + bomb + data[33:])


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_the_clients_error(name: str, share: float) -> None:
    data = encode(noise(200, 150), name)
    with pytest.raises(ServiceError) as caught:
        decoded(data[: max(8, int(len(data) * share))])
    assert caught.value.status in (400, 415)


def test_the_sentence_says_that_a_file_is_truncated() -> None:
    data = encode(noise(200, 150), "JPEG")
    with pytest.raises(InvalidRequest, match="the file is truncated"):
        decoded(data[: len(data) // 2])


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_mutated_files_raise_nothing_but_refusals(name: str) -> None:
    random = np.random.default_rng(7)
    original = np.frombuffer(encode(noise(40, 30), name), np.uint8)
    for _ in range(150):
        data = original.copy()
        at = random.integers(0, min(len(data), 400), 6)
        data[at] = random.integers(0, 256, at.size, np.uint8)
        with suppress(InvalidRequest, PayloadTooLarge, UnsupportedMediaType):
            decoded(data.tobytes())


def test_a_webp_of_more_pixels_than_pillow_copies_quickly_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.images.decode.MAX_WEBP_PIXELS", 1200)
    for name in ("WEBP", "PNG"):
        assert decoded(encode(solid(size=(40, 30)), name)).shape == (30, 40, 3)
    assert decoded(encode(solid(size=(41, 30)))).shape == (30, 41, 3)
    with pytest.raises(PayloadTooLarge, match="41 x 30 pixels; 1,200 are allowed"):
        decoded(encode(solid(size=(41, 30)), "WEBP"))
