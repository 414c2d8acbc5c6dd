"""The bounds on the structure of image files."""

import struct

import pytest

from service.errors import PayloadTooLarge
from service.images import structure
from service.images.structure import (
    SEARCH_BYTES,
    check_structure,
    skip_metadata,
)
from tests.service.hostile_images import directory, flooded, with_exif, with_scans, with_text
from tests.service.photos import encode, quarters, solid

MAX_METADATA_BYTES = 4 * 1024 * 1024
MAX_PARTS = 16_384
MAX_SCANS = 100


def test_parts_and_scans_are_counted_up_to_their_limits() -> None:
    few = encode(quarters(), "JPEG", progressive=True)
    check_structure("JPEG", few)
    check_structure("JPEG", with_scans(MAX_SCANS - 11))
    with pytest.raises(PayloadTooLarge, match="100 scans"):
        check_structure("JPEG", with_scans(MAX_SCANS + 1))
    with pytest.raises(PayloadTooLarge, match=f"{MAX_PARTS:,} parts"):
        check_structure("PNG", flooded("PNG", 33, b"\0\0\0\0abCdsum."))


def test_bytes_that_look_like_a_scan_are_not_counted() -> None:
    thumbnail = b"\xff\xda" * (MAX_SCANS * 10)
    exif = encode(quarters(), "JPEG", exif=b"Exif\0\0" + thumbnail)
    check_structure("JPEG", exif)
    check_structure("JPEG", encode(quarters(), "JPEG") + thumbnail)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_half_a_file_has_a_structure_too(name: str) -> None:
    data = encode(quarters(), name)
    for length in range(4, len(data), max(1, len(data) // 50)):
        check_structure(name, data[:length])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_numbers_of_a_directory_are_counted_up_to_their_limit(name: str, order: str) -> None:
    check_structure(name, with_exif(name, directory(MAX_PARTS, order)))
    with pytest.raises(PayloadTooLarge, match=f"{MAX_PARTS:,} numbers"):
        check_structure(name, with_exif(name, directory(MAX_PARTS + 1, order)))


def test_a_long_text_is_one_object_and_a_value_larger_than_the_file_is_not_read() -> None:
    check_structure("TIFF", directory(MAX_PARTS + 1, kind=2))
    check_structure("TIFF", directory(1 << 31, size=100))


def test_a_bigtiff_has_numbers_too() -> None:
    header = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 1 << 16).ljust(1 << 16, b"\0")
    entry = struct.pack("<QHHQQ", 1, 273, 4, MAX_PARTS + 1, 16)
    with pytest.raises(PayloadTooLarge, match="numbers"):
        check_structure("TIFF", header + entry)


def test_a_directory_of_too_many_entries_is_refused() -> None:
    entries = struct.pack("<HHII", 40_000, 1, 1, 0) * (MAX_PARTS + 1)
    head = struct.pack("<2sHIH", b"II", 42, 8, MAX_PARTS + 1)
    with pytest.raises(PayloadTooLarge, match="numbers"):
        check_structure("TIFF", head + entries)


@pytest.mark.parametrize("data", [b"II*\0", b"II*\0" + b"\xff" * 12, b"II+\0" + b"\xff" * 12])
def test_a_missing_directory_has_no_numbers(data: bytes) -> None:
    check_structure("TIFF", data)


def test_metadata_that_are_read_are_measured_up_to_their_limit() -> None:
    most = MAX_METADATA_BYTES
    check_structure("PNG", with_text(b"iCCP", bytes(most)))
    with pytest.raises(PayloadTooLarge, match=f"{most:,} bytes of metadata"):
        check_structure("PNG", with_text(b"iCCP", bytes(most + 1)))
    webp = encode(solid(), "WEBP", lossless=True)
    with pytest.raises(PayloadTooLarge, match="metadata"):
        check_structure("WEBP", webp + b"ICCP" + struct.pack("<I", most + 1) + bytes(most + 1))
    profile = b"\xff\xe2\xff\xffICC_PROFILE\0" + bytes(65_521)
    with pytest.raises(PayloadTooLarge, match="metadata"):
        check_structure("JPEG", b"\xff\xd8" + profile * 65)


def test_other_metadata_are_skipped_whatever_their_size() -> None:
    most = MAX_METADATA_BYTES
    png = with_text(b"tEXt", bytes(most + 1))
    assert skip_metadata(png, check_structure("PNG", png)) == encode(solid())
    check_structure("JPEG", b"\xff\xd8" + (b"\xff\xed\xff\xff" + bytes(65_533)) * 65)
    webp = encode(solid(), "WEBP", lossless=True)
    check_structure("WEBP", webp + b"XMP " + struct.pack("<I", most + 1) + bytes(most + 1))


def test_bytes_without_a_marker_are_searched_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pattern, searched = structure._MARKER, []

    class Recording:
        def search(self, data: bytes, start: int, end: int) -> object:
            searched.append(end - start)
            return pattern.search(data, start, end)

    monkeypatch.setattr(structure, "_MARKER", Recording())
    stuffing = b"\xff" * (3 * SEARCH_BYTES - 2)
    with pytest.raises(PayloadTooLarge, match="scans"):
        check_structure("JPEG", b"\xff\xd8" + (stuffing + b"\xff\xda\0\2") * (MAX_SCANS + 1))
    assert len(searched) > 3 * MAX_SCANS
    assert max(searched) <= SEARCH_BYTES + 1
