"""The processes of a service with front ends: what remains when one of them is killed."""

import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.photos import GREEN, encode, solid
from tests.service.process import Process, ask_on, running, scraped, wait_until
from tests.service.repository_fixture import (
    classification_config,
    looping_graph,
    write_both,
    write_entry,
)

PHOTO = encode(solid(GREEN), "JPEG")
SLOW = "/v1/classify?model=slow"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
FAST = "/v1/classify?model=colour"
TURNS = 300_000
"""The slow model takes a third of a second, and its requests wait for each other."""
EACH = 4
"""Number of requests to each front end that are in flight when a process is killed."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_both(tmp_path_factory.mktemp("weights"))
    write_entry(folder, classification_config("slow"), looping_graph(TURNS))
    return folder


@contextmanager
def service(repository: Path, **settings: str) -> Iterator[Process]:
    """A service with two front ends, ready."""
    with running(repository, VT_FRONTENDS="2", **settings) as process:
        wait_until(lambda: process.ask("GET", "/v2/health/ready")[0] == 200)
        yield process


def processes(service: Process, name: str) -> set[int]:
    """The ids of the processes with this name: `engine` or `front_end`."""
    pid = service.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {
        int(each)
        for each in children
        if Path(f"/proc/{each}/cmdline").read_text().rstrip("\0").endswith(f"\0{name}")
    }


def connect(service: Process, count: int = EACH) -> dict[int, list[http.client.HTTPConnection]]:
    """So many connections to each front end."""
    found: dict[int, list[http.client.HTTPConnection]] = {
        pid: [] for pid in processes(service, "front_end")
    }

    def are_complete() -> bool:
        connection = service.connect()
        assert ask_on(connection, "GET", "/v2/health/live")[0] == 200
        mine = found[owner_of(service, connection)]
        if len(mine) < count:
            mine.append(connection)
        else:
            connection.close()
        return all(len(each) == count for each in found.values())

    wait_until(are_complete)
    return found


def owner_of(service: Process, connection: http.client.HTTPConnection) -> int:
    """The process at the other end of a connection, by its open files."""
    port = connection.sock.getsockname()[1]
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    ends = f":{service.port:04X}", f":{port:04X}"
    inode = next(fields[9] for fields in lines if (fields[1][-5:], fields[2][-5:]) == ends)
    for pid in processes(service, "front_end"):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            if str(file.readlink()) == f"socket:[{inode}]":
                return pid
    raise LookupError("the connection belongs to no front end")


class Asked(threading.Thread):
    """Sends a request on a connection, and keeps what comes back: a status, or None."""

    def __init__(self, connection: http.client.HTTPConnection, url: str) -> None:
        super().__init__()
        self.status: int | None = None
        self.body: dict = {}
        self._connection = connection
        self._url = url
        self.start()

    def run(self) -> None:
        try:
            self._connection.request("POST", self._url, PHOTO)
            response = self._connection.getresponse()
            self.status, self.body = response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException):
            self.status = None
        finally:
            self._connection.close()


def ask_slowly(service: Process) -> dict[int, list[Asked]]:
    """Requests to each front end that are all in flight."""
    asked = {
        pid: [Asked(each, SLOW) for each in connections]
        for pid, connections in connect(service).items()
    }
    wait_until(lambda: scraped(service, "vt_requests_in_flight") == 2 * EACH)
    return asked


def statuses(asked: list[Asked]) -> list[int | None]:
    for each in asked:
        each.join()
    return [each.status for each in asked]


def test_a_killed_front_end_fails_only_its_requests_and_is_replaced(repository: Path) -> None:
    with service(repository) as server:
        (killed, lost), (other, kept) = ask_slowly(server).items()
        os.kill(killed, signal.SIGKILL)
        server.wait_for("front_end_ended")
        assert statuses(lost) == [None] * EACH
        assert statuses(kept) == [200] * EACH
        wait_until(lambda: scraped(server, "vt_requests_in_flight") == 0)
        assert len(processes(server, "front_end") - {killed, other}) == 1
        for connection, *_ in connect(server, 1).values():  # the new one too
            assert ask_on(connection, "POST", FAST, PHOTO)[0] == 200
            connection.close()


def test_a_front_end_that_does_not_read_is_ended_and_blocks_nobody(repository: Path) -> None:
    with service(repository) as server:
        (stopped, lost), (_, kept) = ask_slowly(server).items()
        os.kill(stopped, signal.SIGSTOP)
        assert statuses(kept) == [200] * EACH
        os.kill(stopped, signal.SIGCONT)
        assert statuses(lost) == [200] * EACH


def test_without_its_engine_the_service_answers_503_and_fails(repository: Path) -> None:
    left = set(SHARED_MEMORY.iterdir())
    with service(repository) as server:
        asked = ask_slowly(server)
        (engine,) = processes(server, "engine")
        os.kill(engine, signal.SIGKILL)
        assert [statuses(each) for each in asked.values()] == [[503] * EACH] * 2
        assert server.end() == 1
        for each in (engine, *asked):
            wait_until(lambda pid=each: not Path(f"/proc/{pid}").exists())
    assert set(SHARED_MEMORY.iterdir()) <= left


def test_a_signal_drains_every_front_end(repository: Path) -> None:
    with service(repository) as server:
        asked = ask_slowly(server)
        server.signal()
        assert [statuses(each) for each in asked.values()] == [[200] * EACH] * 2
        assert server.end() == 0
        assert not server.local_key_file.exists()


def test_the_front_ends_end_with_the_supervisor(repository: Path) -> None:
    with service(repository) as server:
        everything = processes(server, "engine") | processes(server, "front_end")
        server.signal(signal.SIGKILL)
        assert server.end() == -signal.SIGKILL
        for each in everything:
            wait_until(lambda pid=each: not Path(f"/proc/{pid}").exists())


def test_an_invalid_configuration_ends_the_service_with_its_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    server = Process("--model-repository", str(tmp_path / "empty"), VT_FRONTENDS="1")
    try:
        assert server.process.wait(60) == 2
    finally:
        server.kill()
