"""Whatever image a client sends: a right answer or its own error, in bounded memory, and the
event loop is free meanwhile."""

import asyncio
import io
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import PayloadTooLarge
from service.images import structure as image_structure
from service.images.structure import (
    MAX_METADATA_BYTES,
    MAX_PARTS,
    MAX_SCANS,
    SEARCH_BYTES,
    check_structure,
)
from tests.service.conftest import TURN_SECONDS, Start, Turns
from tests.service.hostile_images import (
    MAX_PIXELS,
    MUTATIONS_OF_BYTES,
    corpus,
    directory,
    flooded,
    interlaced_png,
    mutated,
    with_exif,
    with_scans,
    with_text,
)
from tests.service.http.server.test_server import Process
from tests.service.photos import encode, quarters, solid
from tests.service.repository_fixture import write_both
from tests.service.test_app import error_of

EXAMPLES = sorted(Path(__file__).parents[2].glob("weights/*/examples/*"))
ROUTES = ("/v1/classify", "/v1/segment?mask=rle")
EXPECTED = {200, 400, 413, 415}
GROWTH_BYTES = 150_000_000


def test_the_corpus_holds_what_it_should() -> None:
    assert len(corpus()) > 100
    assert max(len(file.data) for file in corpus().values()) < 3_000_000


async def test_every_odd_file_is_answered_and_the_loop_stays_free(
    start: Start, turns: Turns
) -> None:
    files = corpus()
    async with start(max_image_pixels=MAX_PIXELS) as service:
        turns.longest = 0.0
        for name, file in files.items():
            for route in ROUTES:
                response = await service.http.post(route, content=file.data)
                assert response.status_code in file.statuses, (name, response.text[:200])
                assert response.status_code == 200 or error_of(response)
    assert turns.longest < TURN_SECONDS


def test_an_interlaced_png_is_the_same_picture() -> None:
    picture = Image.open(io.BytesIO(interlaced_png(quarters())))
    assert picture.info["interlace"] == 1
    assert picture.tobytes() == quarters().tobytes()


async def test_a_turn_that_is_too_long_would_be_noticed(turns: Turns) -> None:
    def busy() -> None:
        until = time.thread_time() + TURN_SECONDS
        while time.thread_time() < until:
            pass

    asyncio.get_running_loop().call_soon(busy)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert turns.longest >= TURN_SECONDS


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(MUTATIONS_OF_BYTES),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


async def test_mutations_of_real_photos_are_answered_and_the_loop_stays_free(
    start: Start, turns: Turns
) -> None:
    photos = [path.read_bytes() for path in EXAMPLES]
    assert len(photos) == 14
    bodies: list[bytes] = []

    @given(st.sampled_from(photos), MUTATIONS)
    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def collect(photo: bytes, mutations: list[tuple[str, float, bytes]]) -> None:
        bodies.append(mutated(photo, mutations))

    collect()
    statuses = set()
    async with start(max_image_pixels=MAX_PIXELS) as service:
        turns.longest = 0.0
        for number, body in enumerate(bodies):
            response = await service.http.post(ROUTES[number % 2], content=body)
            assert response.status_code in EXPECTED, response.text
            statuses.add(response.status_code)
    assert statuses >= {200, 400}
    assert turns.longest < TURN_SECONDS


def memory_of(process: Process) -> int:
    """The most memory that the process ever had, in bytes."""
    lines = Path(f"/proc/{process.process.pid}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) * 1024


def test_no_file_makes_the_process_large_or_fail(tmp_path: Path) -> None:
    write_both(tmp_path)
    process = Process("--model-repository", str(tmp_path), VT_MAX_IMAGE_PIXELS=str(MAX_PIXELS))
    try:
        for _ in range(2):
            process.wait_for("model_ready")
        assert process.ask("POST", ROUTES[1], encode(quarters()))[0] == 200
        before = memory_of(process)
        for name, file in corpus().items():
            for route in ROUTES:
                assert process.ask("POST", route, file.data)[0] in file.statuses, name
        assert memory_of(process) - before < GROWTH_BYTES
        process.signal()
        assert process.end() == 0
        assert {line["level"] for line in process.lines} == {"info"}
    finally:
        process.kill()


def test_parts_and_scans_are_counted_up_to_their_limits() -> None:
    few = encode(quarters(), "JPEG", progressive=True)
    check_structure("JPEG", few)
    check_structure("JPEG", with_scans(MAX_SCANS - 11))
    with pytest.raises(PayloadTooLarge, match="100 scans"):
        check_structure("JPEG", with_scans(MAX_SCANS + 1))
    with pytest.raises(PayloadTooLarge, match=f"{MAX_PARTS:,} parts"):
        check_structure("PNG", flooded("PNG", 33, b"\0\0\0\0abCdsum."))


def test_what_only_looks_like_a_scan_is_not_counted() -> None:
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


def test_a_long_text_is_one_object_and_what_is_larger_than_the_file_is_not_read() -> None:
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
def test_a_directory_that_is_not_there_has_no_numbers(data: bytes) -> None:
    check_structure("TIFF", data)


def test_metadata_are_measured_up_to_their_limit() -> None:
    most = MAX_METADATA_BYTES
    check_structure("PNG", with_text(b"tEXt", bytes(most)))
    with pytest.raises(PayloadTooLarge, match=f"{most:,} bytes of metadata"):
        check_structure("PNG", with_text(b"tEXt", bytes(most + 1)))
    webp = encode(solid(), "WEBP", lossless=True)
    with pytest.raises(PayloadTooLarge, match="metadata"):
        check_structure("WEBP", webp + b"XMP " + struct.pack("<I", most + 1) + bytes(most + 1))
    with pytest.raises(PayloadTooLarge, match="metadata"):
        check_structure("JPEG", b"\xff\xd8" + (b"\xff\xed\xff\xff" + bytes(65_533)) * 65)


def test_what_holds_no_marker_is_searched_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, searched = image_structure._MARKER, []

    class Recording:
        def search(self, data: bytes, start: int, end: int) -> object:
            searched.append(end - start)
            return pattern.search(data, start, end)

    monkeypatch.setattr(image_structure, "_MARKER", Recording())
    stuffing = b"\xff" * (3 * SEARCH_BYTES - 2)
    with pytest.raises(PayloadTooLarge, match="scans"):
        check_structure("JPEG", b"\xff\xd8" + (stuffing + b"\xff\xda\0\2") * (MAX_SCANS + 1))
    assert len(searched) > 3 * MAX_SCANS
    assert max(searched) <= SEARCH_BYTES + 1
