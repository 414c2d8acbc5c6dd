"""Files of every format, and broken ones, as upright RGB images."""

import struct
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest

from service.errors import InvalidRequest, PayloadTooLarge, ServiceError, UnsupportedMediaType
from service.images import decode
from tests.service.images.decoding import GREY, LIMITS, SQUASH, decoded, middle
from tests.service.photos import encode, noise, png_chunk, png_header, solid


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_supported_format_is_decoded(name: str) -> None:
    assert np.abs(np.subtract(middle(encode(solid((200, 40, 90)), name)), (200, 40, 90))).max() < 6


@pytest.mark.parametrize("name", ["PPM", "ICO", "TGA", "PCX", "EPS", "PDF"])
def test_other_formats_that_pillow_knows_are_not_opened(name: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="not a JPEG, PNG"):
        decoded(encode(solid(), name))


@pytest.mark.parametrize("data", [b"", b"x", b"<svg/>", b"RIFF....WAVE", bytes(1000)])
def test_bytes_of_no_format_are_an_unsupported_media_type(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        decoded(data)


def test_broken_exif_does_not_make_a_photo_unreadable() -> None:
    data = encode(solid(GREY), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert middle(data) == list(GREY)


def test_the_first_frame_of_an_animation_is_used() -> None:
    frames = [solid((0, 255, 0)), solid((0, 0, 255))]
    for name in ("GIF", "WEBP", "TIFF", "PNG"):
        data = encode(solid((255, 0, 0)), name, save_all=True, append_images=frames)
        assert np.abs(np.subtract(middle(data), (255, 0, 0))).max() < 6


@pytest.mark.parametrize(
    ("width", "height"), [(1001, 1000), (100_000, 1), (1, 100_000), (2**31 - 1, 2**31 - 1)]
)
def test_huge_dimensions_in_a_tiny_file_are_refused_before_decoding(
    width: int, height: int
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            decoded(png_header(width, height))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


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
def test_a_compressed_bomb_in_a_png_takes_little_memory(kind: bytes) -> None:
    data = encode(solid())
    bomb = png_chunk(kind, b"name\0\0" + zlib.compress(bytes(80_000_000), 9))
    tracemalloc.start()
    try:
        if kind == b"zTXt":  # skipped unread
            assert decoded(data[:33] + bomb + data[33:]).shape == (30, 40, 3)
        else:
            with pytest.raises(InvalidRequest):
                decoded(data[:33] + bomb + data[33:])
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_the_clients_error(name: str, share: float) -> None:
    data = encode(noise(200, 150), name)
    with pytest.raises(ServiceError) as caught:
        decoded(data[: max(8, int(len(data) * share))])
    assert caught.value.status == 400


def test_a_truncated_file_is_reported_as_truncated() -> None:
    data = encode(noise(200, 150), "JPEG")
    with pytest.raises(InvalidRequest, match="the file is truncated"):
        decoded(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("name", "some_are_decoded"),
    [("JPEG", True), ("PNG", False), ("WEBP", True), ("BMP", True), ("GIF", True), ("TIFF", True)],
)
def test_mutated_files_raise_nothing_but_refusals(name: str, some_are_decoded: bool) -> None:
    """A PNG has check sums: no mutation of it is decoded."""
    random = np.random.default_rng(7)
    original = np.frombuffer(encode(noise(40, 30), name), np.uint8)
    decoded_files = refused_files = 0
    for _ in range(150):
        data = original.copy()
        at = random.integers(0, min(len(data), 400), 6)
        data[at] = random.integers(0, 256, at.size, np.uint8)
        try:
            decoded(data.tobytes())
            decoded_files += 1
        except (InvalidRequest, PayloadTooLarge, UnsupportedMediaType):
            refused_files += 1
    assert (decoded_files > 0, refused_files > 0) == (some_are_decoded, True)


def test_mutated_jpegs_are_refused_or_decoded_at_a_scale() -> None:
    scaled = SQUASH.model_copy(update={"jpeg_reducing_gap": 1})
    random = np.random.default_rng(7)
    original = np.frombuffer(encode(noise(160, 120), "JPEG", quality=50), np.uint8)
    sizes = set()
    for _ in range(150):
        data = original.copy()
        at = random.integers(0, min(len(data), 700), 4)
        data[at] = random.integers(0, 256, at.size, np.uint8)
        with suppress(InvalidRequest, PayloadTooLarge, UnsupportedMediaType):
            image, _ = decode.decode_scaled(data.tobytes(), scaled, LIMITS)
            sizes.add(image.size)
    assert (80, 60) in sizes


def test_a_webp_of_more_pixels_than_pillow_copies_quickly_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode, "MAX_WEBP_PIXELS", 1200)
    for name in ("WEBP", "PNG"):
        assert decoded(encode(solid(size=(40, 30)), name)).shape == (30, 40, 3)
    assert decoded(encode(solid(size=(41, 30)))).shape == (30, 41, 3)
    with pytest.raises(PayloadTooLarge, match="41 x 30 pixels; 1,200 are allowed"):
        decoded(encode(solid(size=(41, 30)), "WEBP"))
