"""Each response is sent in one write."""

import asyncio

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.http.server.connections import Connections
from service.http.server.protocol import BoundedProtocol, ConnectionLimits, GatheringTransport


class Recorder:
    def __init__(self) -> None:
        self.calls: list[object] = []
        self.unread = 0
        self.aborted = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append("closed")

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.aborted.set()

    def is_closing(self) -> bool:
        return True

    def get_extra_info(self, _name: str) -> None:
        return None


async def test_writes_of_one_iteration_of_the_loop_are_sent_together():
    recorder = Recorder()
    transport = GatheringTransport(recorder, asyncio.get_running_loop(), 1.0)
    transport.write(b"head ")
    transport.write(b"body")
    assert recorder.calls == []
    await asyncio.sleep(0)
    assert recorder.calls == [b"head body"]
    transport.write(b"more")
    await asyncio.sleep(0)
    assert recorder.calls == [b"head body", b"more"]


async def test_gathered_writes_count_as_unsent():
    recorder = Recorder()
    recorder.unread = 10
    transport = GatheringTransport(recorder, asyncio.get_running_loop(), 1.0)
    transport.write(b"answer")
    assert transport.get_write_buffer_size() == 16
    await asyncio.sleep(0)
    assert transport.get_write_buffer_size() == 10


async def test_closing_sends_the_rest_first_and_once():
    recorder = Recorder()
    transport = GatheringTransport(recorder, asyncio.get_running_loop(), 1.0)
    transport.write(b"last")
    transport.close()
    await asyncio.sleep(0)
    assert recorder.calls == [b"last", "closed"]


async def test_a_closed_connection_whose_client_does_not_read_is_aborted():
    recorder = Recorder()
    recorder.unread = 1
    GatheringTransport(recorder, asyncio.get_running_loop(), 0.0).close()
    await asyncio.wait_for(recorder.aborted.wait(), 20)


async def test_other_methods_are_those_of_the_transport():
    assert GatheringTransport(Recorder(), asyncio.get_running_loop(), 1.0).is_closing()


class Drain:
    """A connection to an application, and a drain that begins when it is told to."""

    def __init__(self) -> None:
        self.has_begun = False
        self.states: asyncio.Queue[dict] = asyncio.Queue()
        self.protocol = BoundedProtocol(
            config=uvicorn.Config(self._answer, interface="asgi3", ws="none", log_config=None),
            server_state=ServerState(),
            app_state={},
            limits=ConnectionLimits(8192, 20, 20),
            port=Connections(8),
            is_draining=lambda: self.has_begun,
            on_drop=lambda _: None,
        )

    async def _answer(self, scope: dict, receive: object, send: object) -> None:
        self.states.put_nowait(scope["state"])


@pytest.mark.parametrize("before", ["request", "connection", "nothing"])
async def test_a_request_states_if_its_connection_was_open_before_the_drain(before: str):
    drain = Drain()
    drain.has_begun = before == "nothing"
    drain.protocol.connection_made(Recorder())
    drain.has_begun |= before == "connection"
    drain.protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert drain.protocol.cycle.keep_alive == (before == "request")
    drain.has_begun = True  # a signal may come before the application is called
    drain.protocol.begin_drain()
    assert not drain.protocol.cycle.keep_alive
    state = await asyncio.wait_for(drain.states.get(), 20)
    assert state == {"came_before_drain": before != "nothing"}
    drain.protocol.connection_lost(None)
