"""What a request holds is freed when it ends, without the garbage collector."""

import gc
from collections.abc import Iterator

import pytest

from service.engine.call import Call
from service.http.middleware.exchange import Exchange
from service.images.photo import Photo
from tests.service.conftest import Running, until
from tests.service.photos import GREEN, encode, solid

PHOTO = encode(solid(GREEN), "JPEG")
REQUESTS = [
    ("/v1/classify", PHOTO, 200),
    ("/v1/segment", PHOTO, 200),
    ("/v1/segment?overlay=true", PHOTO, 200),
    ("/v1/classify", PHOTO[:300], 400),
    ("/v1/classify?top_k=0", PHOTO, 400),
    ("/v1/classify?model=unknown", PHOTO, 404),
    ("/v2/models/colour/infer", b"{", 400),
]


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize(("path", "body", "status"), REQUESTS)
async def test_nothing_of_a_request_is_left_for_the_collector(
    service: Running, path: str, body: bytes, status: int
) -> None:
    others = set(map(id, of_requests()))  # of earlier tests
    response = await service.http.post(path, content=body)
    assert response.status_code == status
    # The loop's last handle and the worker's thread hold theirs for a moment longer.
    await until(lambda: {id(each) for each in of_requests()} <= others)


def of_requests() -> list[object]:
    """The objects of requests that are in memory."""
    return [each for each in gc.get_objects() if type(each) in (Exchange, Call, Photo)]
