"""Whatever image a client sends: a right answer or its own error, in bounded memory, and the
event loop is free meanwhile."""

import asyncio
import io
import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.service.clients import error_of
from tests.service.conftest import TURN_SECONDS, Start, Turns
from tests.service.hostile_images import (
    MAX_PIXELS,
    MUTATIONS_OF_BYTES,
    corpus,
    interlaced_png,
    mutated,
)
from tests.service.photos import encode, quarters
from tests.service.process import Process
from tests.service.repository_fixture import write_both

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
