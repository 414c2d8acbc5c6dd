"""The path of one image stays short: how many Python calls a warm request makes in `service/`."""

import http.client
import itertools
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

import service
from service.app import create_app
from service.http.server.server import Server, bind
from service.settings import Settings
from tests.service.photos import GREEN, encode, solid
from tests.service.process import wait_until
from tests.service.repository_fixture import write_classifier

FOLDER = str(Path(service.__file__).parent)
PHOTO = encode(solid(GREEN, (64, 64)), "JPEG")
REQUESTS = 20
MAX_CALLS = 190


class Calls:
    """Notes each call of a function of the service, in any thread."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(FOLDER):
            self.names.append(frame.f_code.co_qualname)


@pytest.fixture
def calls() -> Iterator[Calls]:
    """Of the threads that are started from now on."""
    noted = Calls()
    threading.setprofile(noted.profile)
    yield noted
    threading.setprofile(None)


def test_a_warm_classification_makes_few_calls(tmp_path: Path, calls: Calls) -> None:
    write_classifier(tmp_path)
    settings = Settings(model_repository=tmp_path, local_key_file=tmp_path / "local.key")
    listener = bind("127.0.0.1", 0)
    app = create_app(settings)
    engine = app.state.engine
    server = Server(app.asgi, engine.admission, engine.metrics.server, settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    connection = http.client.HTTPConnection(*listener.getsockname(), timeout=20)
    try:
        wait_until(lambda: ask(connection) == 200)  # the model loads
        for _ in range(REQUESTS):
            ask(connection)
        calls.names.clear()
        for _ in range(REQUESTS):
            assert ask(connection) == 200
    finally:
        connection.close()
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()
    # The client waits for each response, so a request is what lies between two of these.
    begins = [at for at, name in enumerate(calls.names) if name.endswith(".data_received")]
    counts = [end - begin for begin, end in itertools.pairwise(begins)]
    assert len(counts) >= REQUESTS - 1
    assert statistics.median(counts) <= MAX_CALLS


def ask(connection: http.client.HTTPConnection) -> int:
    connection.request("POST", "/v1/classify", PHOTO)
    response = connection.getresponse()
    response.read()
    return response.status
