"""The log never blocks the server and never raises, whatever happens to its reader."""

import os
from collections.abc import Iterator

import pytest

from service.telemetry.log_output import MAX_WAITING_BYTES, LogOutput, LogText

LINE = b"x" * 999 + b"\n"


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.output = LogOutput(self.writer)
        self.dropped = 0
        self.output.on_drop = self.count

    def count(self) -> None:
        self.dropped += 1

    def read(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            received += os.read(self.reader, size - len(received))
        return received


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reader)
    pipe.output.finish(20)
    os.close(pipe.writer)


def test_lines_are_written_at_once(pipe: Pipe) -> None:
    pipe.output.write(b"one\n")
    LogText(pipe.output).write("zwölf \udcff\n")
    assert pipe.read(18) == "one\nzwölf \\udcff\n".encode()


def test_lines_wait_for_a_slow_reader_and_arrive_in_order(pipe: Pipe) -> None:
    lines = [b"%d " % number + LINE for number in range(300)]
    for line in lines:
        pipe.output.write(line)
    whole = b"".join(lines)
    assert pipe.read(len(whole)) == whole
    assert pipe.dropped == 0


def test_a_long_line_arrives_whole(pipe: Pipe) -> None:
    line = bytes(500_000)
    pipe.output.write(line)
    assert pipe.read(len(line)) == line


def test_beyond_a_limit_lines_are_dropped_and_counted(pipe: Pipe) -> None:
    for _ in range(MAX_WAITING_BYTES // len(LINE) + 1000):
        pipe.output.write(LINE)
    assert pipe.dropped > 500


def test_without_a_reader_lines_are_dropped_and_counted() -> None:
    pipe = Pipe()
    os.close(pipe.reader)
    for _ in range(3):
        pipe.output.write(LINE)
    assert pipe.dropped == 3
    os.close(pipe.writer)


def test_on_a_full_disk_lines_are_dropped_and_counted() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    output, dropped = LogOutput(full), []
    output.on_drop = lambda: dropped.append(1)
    output.write(LINE)
    assert dropped == [1]
    os.close(full)


def test_lines_that_wait_when_the_reader_leaves_are_dropped(pipe: Pipe) -> None:
    for _ in range(300):
        pipe.output.write(LINE)
    os.close(pipe.reader)
    pipe.output.finish(20)
    assert pipe.dropped > 100
    pipe.reader = os.open(os.devnull, os.O_RDONLY)
