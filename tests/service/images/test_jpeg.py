"""JPEGs are accepted if all their pixels are there, and refused if any are missing."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from service.errors import InvalidRequest, UnsupportedMediaType
from tests.service.images.decoding import decoded
from tests.service.photos import encode, noise, quarters

BASELINE = encode(noise(200, 150), "JPEG", quality=90)
KINDS = {
    "baseline": {},
    "optimized": {"optimize": True},
    "subsampled": {"subsampling": 2},
    "full": {"subsampling": 0},
    "restarts": {"restart_marker_blocks": 3},
    "progressive": {"progressive": True},
}
FILES = {name: encode(noise(200, 150), "JPEG", **options) for name, options in KINDS.items()}
FILES["grey"] = encode(noise(200, 150).convert("L"), "JPEG")
FILES["CMYK"] = encode(noise(200, 150).convert("CMYK"), "JPEG")
END = b"\xff\xd9"


def plain(data: bytes) -> np.ndarray:
    """What Pillow makes of a whole file."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_has_the_pixels_that_pillow_gives_it(name: str) -> None:
    np.testing.assert_array_equal(decoded(FILES[name]), plain(FILES[name]))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", FILES)
def test_a_part_of_a_file_is_truncated_even_if_it_has_an_end(name: str, share: float) -> None:
    part = FILES[name][: int(len(FILES[name]) * share)]
    ends = [b""] if name == "progressive" and share > 0.5 else [b"", END, b"\xff\xd8\xff"]
    for end in ends:
        with pytest.raises(InvalidRequest, match="the file is truncated"):
            decoded(part + end)


@pytest.mark.parametrize("name", [name for name in FILES if name != "progressive"])
def test_a_file_that_lacks_only_its_end_is_accepted(name: str) -> None:
    for missing in (1, 2):
        np.testing.assert_array_equal(decoded(FILES[name][:-missing]), plain(FILES[name]))


def test_at_most_the_last_block_of_pixels_may_be_missing() -> None:
    refused = 0
    for cut in range(3, 60):
        try:
            found = decoded(BASELINE[:-cut] + END)
        except InvalidRequest:
            refused += 1
        else:
            different = np.argwhere((found != plain(BASELINE)).any(axis=-1))
            assert (different >= (150 - 16 - 6, 200 - 16 - 8)).all()
    assert refused > 20


def test_bytes_overwritten_in_the_middle_are_damage_if_the_decoder_runs_out_of_data() -> None:
    refused = 0
    for seed in range(20):
        at, random = len(BASELINE) // 3 + 97 * seed, np.random.default_rng(seed)
        data = BASELINE[:at] + random.bytes(400) + BASELINE[at + 400 :]
        try:
            decoded(data)
        except InvalidRequest:
            refused += 1
    assert refused > 5


def test_what_follows_the_picture_is_ignored() -> None:
    for rest in (b"PK\x03\x04" + bytes(500), BASELINE, END):
        np.testing.assert_array_equal(decoded(BASELINE + rest), plain(BASELINE))


def test_a_photo_with_a_second_picture_is_read(tmp_path) -> None:
    file = io.BytesIO()
    quarters().save(file, "MPO", save_all=True, append_images=[noise(20, 20)])
    assert decoded(file.getvalue()).shape == (48, 64, 3)


def segment(marker: int, contents: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(contents) + 2) + contents


def test_megabytes_of_metadata_are_skipped_unread() -> None:
    xmp = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000))
    comments = segment(0xFE, bytes(65_000)) + segment(0xED, b"Photoshop 3.0\0" + bytes(65_000))
    data = BASELINE[:2] + xmp * 80 + comments * 20 + BASELINE[2:]
    assert len(data) > 7_000_000
    np.testing.assert_array_equal(decoded(data), plain(BASELINE))


def with_frame(marker: int, precision: int, components: int) -> bytes:
    head = struct.pack(">BHHB", precision, 8, 8, components)
    frame = segment(marker, head + b"\x01\x11\0" * components)
    return b"\xff\xd8" + frame + segment(0xDA, b"\x01\x01\0\0\x3f\0") + bytes(50) + END


@pytest.mark.parametrize(
    ("marker", "precision", "components", "kind"),
    [
        (0xC3, 8, 3, "lossless JPEGs"),
        (0xC5, 8, 3, "hierarchical JPEGs"),
        (0xC1, 12, 3, "JPEGs of 12 bits per sample"),
        (0xC0, 8, 2, "JPEGs of 2 components"),
    ],
)
def test_kinds_that_are_not_supported_are_named(
    marker: int, precision: int, components: int, kind: str
) -> None:
    with pytest.raises(UnsupportedMediaType, match=f"{kind} are not supported"):
        decoded(with_frame(marker, precision, components))


@pytest.mark.parametrize("length", [4, 8, 12, 100])
def test_a_header_that_ends_early_is_a_refusal(length: int) -> None:
    for data in (with_frame(0xC0, 8, 3), with_frame(0xC2, 8, 3)):
        with pytest.raises(InvalidRequest):
            decoded(data[:length])
