"""One answer, one write."""

import asyncio

from service.http_protocol import GatheringTransport


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


async def test_what_is_written_in_one_turn_leaves_together():
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


async def test_what_waits_for_the_end_of_the_turn_is_still_to_be_sent():
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


async def test_what_is_not_read_after_closing_is_given_up():
    recorder = Recorder()
    recorder.unread = 1
    GatheringTransport(recorder, asyncio.get_running_loop(), 0.0).close()
    await asyncio.wait_for(recorder.aborted.wait(), 20)


async def test_everything_else_is_the_transports_own():
    assert GatheringTransport(Recorder(), asyncio.get_running_loop(), 1.0).is_closing()
