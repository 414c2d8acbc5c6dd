"""Bodies and responses in one piece are what they would be as messages of ASGI."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.http.server.connections import Connections
from service.http.server.protocol import BoundedProtocol, ConnectionLimits
from service.http.server.whole import EXTENSION, WholeExchange
from tests.service.conftest import until

HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"4")]
App = Callable[[dict, Callable, Callable], Awaitable[None]]


class Transport:
    """Remembers what is written, and whether it was closed."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_closed = False
        self.has_written = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.written += data
        self.has_written.set()

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, _name: str) -> None:
        return None

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Connection:
    """A connection to an application."""

    def __init__(self, app: App) -> None:
        self.transport = Transport()
        state = ServerState()
        state.default_headers = [(b"date", b"today")]
        self.protocol = BoundedProtocol(
            config=uvicorn.Config(app, interface="asgi3", ws="none", log_config=None),
            server_state=state,
            app_state={},
            limits=ConnectionLimits(8192, 20, 20),
            port=Connections(8),
            is_draining=lambda: False,
            on_drop=lambda _: None,
        )
        self.protocol.connection_made(self.transport)

    async def ask(self, *pieces: bytes) -> bytes:
        """Send the pieces of a request; return the response."""
        self.transport.written.clear()
        self.transport.has_written.clear()
        for piece in pieces:
            self.protocol.data_received(piece)
        await asyncio.wait_for(self.transport.has_written.wait(), 20)
        return bytes(self.transport.written)

    def lose(self) -> None:
        self.protocol.connection_lost(None)


def whole_of(scope: dict) -> WholeExchange:
    whole: WholeExchange = scope["extensions"][EXTENSION]
    return whole


async def respond_whole(scope: dict, receive: Callable, send: Callable) -> None:
    assert whole_of(scope).respond(200, HEADERS, b"body")


async def respond_by_messages(scope: dict, receive: Callable, send: Callable) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"body"})


@pytest.mark.parametrize(
    ("request_", "is_closed"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", False),
        (b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", True),
        (b"POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n", True),
    ],
)
async def test_a_whole_response_has_the_bytes_of_one_by_messages(
    request_: bytes, is_closed: bool
) -> None:
    responses = []
    for app in (respond_whole, respond_by_messages):
        connection = Connection(app)
        responses.append(await connection.ask(request_))
        assert connection.transport.is_closed is is_closed
        connection.lose()
    assert responses[0] == responses[1]
    assert responses[0].startswith(b"HTTP/1.1 200 OK\r\ndate: today\r\n")


async def test_a_connection_is_kept_for_the_next_request() -> None:
    connection = Connection(respond_whole)
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    assert await connection.ask(request) == await connection.ask(request)
    await connection.ask(request + request)
    await until(lambda: bytes(connection.transport.written).count(b"HTTP/1.1 200") == 2)
    connection.lose()


async def test_a_response_is_not_sent_twice_or_to_a_client_that_has_left() -> None:
    sent: asyncio.Queue[bool] = asyncio.Queue()

    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        await respond_by_messages(scope, receive, send)
        sent.put_nowait(whole_of(scope).respond(200, HEADERS, b"body"))

    connection = Connection(app)
    response = await connection.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert response.count(b"HTTP/1.1") == 1
    assert await sent.get() is False

    async def late(scope: dict, receive: Callable, send: Callable) -> None:
        connection.lose()
        sent.put_nowait(whole_of(scope).respond(200, HEADERS, b"body"))

    connection = Connection(late)
    connection.protocol.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert await sent.get() is False
    assert connection.transport.written == b""


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"], b"hi"),
        ([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n", b"hi"], b"hi"),
        ([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"], b""),
        ([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nh"], None),
        (
            [b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi"],
            None,
        ),
    ],
)
async def test_a_body_is_taken_only_if_all_of_it_has_arrived(
    pieces: list[bytes], body: bytes | None
) -> None:
    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        taken.append(whole_of(scope).take_body())
        await respond_whole(scope, receive, send)

    taken: list[bytes | None] = []
    connection = Connection(app)
    await connection.ask(*pieces)
    assert taken == [body]
    connection.lose()


async def test_after_its_body_was_taken_a_request_receives_the_disconnect() -> None:
    messages: asyncio.Queue[str] = asyncio.Queue()

    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        assert whole_of(scope).take_body() == b"hi"
        messages.put_nowait("taken")
        messages.put_nowait((await receive())["type"])

    connection = Connection(app)
    connection.protocol.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
    assert await messages.get() == "taken"
    connection.lose()
    assert await messages.get() == "http.disconnect"


async def test_a_request_that_has_ended_is_freed_without_the_collector() -> None:
    cycles: list[weakref.ref] = []

    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        await respond_whole(scope, receive, send)
        del scope["extensions"]  # as the boundary does

    connection = Connection(app)
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            await connection.ask(request)
            cycles.append(weakref.ref(connection.protocol.cycle))
            await asyncio.sleep(0)  # the request's task ends
        assert [cycle() is None for cycle in cycles] == [True, True, False]
    finally:
        gc.enable()
    connection.lose()
