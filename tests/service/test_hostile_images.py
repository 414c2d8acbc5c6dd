"""Hostile images get a correct response or an error, in bounded memory, outside of the event loop.

`tests/benchmarks/hostile.py` measures how long the loop is held up.
"""

import asyncio
import io
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.images.decode import signed_format
from tests.service.clients import error_of
from tests.service.conftest import Start
from tests.service.hostile_images import (
    MAX_PIXELS,
    MUTATIONS_OF_BYTES,
    corpus,
    interlaced_png,
    mutated,
)
from tests.service.loop_calls import LoopCalls
from tests.service.photos import encode, quarters
from tests.service.process import Process
from tests.service.repository_fixture import write_both

EXAMPLES = sorted(Path(__file__).parents[2].glob("weights/*/examples/*"))
ROUTES = ("/v1/classify", "/v1/segment?mask=rle")
EXPECTED = {200, 400, 413, 415}
GROWTH_BYTES = 150_000_000
MAX_CALLS = 1000


def test_the_corpus_is_large_and_its_files_are_small() -> None:
    assert len(corpus()) > 100
    assert max(len(file.data) for file in corpus().values()) < 3_000_000


async def test_every_odd_file_is_answered_and_worked_on_outside_the_event_loop(
    start: Start, loop_calls: LoopCalls
) -> None:
    files = corpus()
    async with start(max_image_pixels=MAX_PIXELS) as service:
        for name, file in files.items():
            for route in ROUTES:
                loop_calls.clear()
                response = await service.http.post(route, content=file.data)
                assert response.status_code == file.status, (name, response.text[:200])
                if response.status_code != 200:
                    error_of(response)
                assert 0 < loop_calls.count < MAX_CALLS, name
                assert loop_calls.work == set(), name


def test_an_interlaced_png_is_the_same_picture() -> None:
    picture = Image.open(io.BytesIO(interlaced_png(quarters())))
    assert picture.info["interlace"] == 1
    assert picture.tobytes() == quarters().tobytes()


async def test_work_in_the_event_loop_would_be_noticed(loop_calls: LoopCalls) -> None:
    photo = encode(quarters())
    loop_calls.clear()
    assert await asyncio.to_thread(signed_format, photo)
    assert loop_calls.modules == set()
    assert signed_format(photo)
    assert (loop_calls.work, loop_calls.count > 0) == ({"service.images.decode"}, True)


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(MUTATIONS_OF_BYTES),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


async def test_mutations_of_photos_are_answered_and_worked_on_outside_the_event_loop(
    start: Start, loop_calls: LoopCalls
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
        for number, body in enumerate(bodies):
            response = await service.http.post(ROUTES[number % 2], content=body)
            assert response.status_code in EXPECTED, response.text
            statuses.add(response.status_code)
    assert statuses >= {200, 400}
    assert loop_calls.work == set()


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
                assert process.ask("POST", route, file.data)[0] == file.status, name
        assert memory_of(process) - before < GROWTH_BYTES
        process.signal()
        assert process.end() == 0
        assert {line["level"] for line in process.lines} == {"info"}
    finally:
        process.kill()
