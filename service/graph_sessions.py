"""The sessions of one graph, one for each number of threads, and a batch through them."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import structlog

from service.errors import InferenceFailed, InvalidEntry
from service.preprocessing import ImageArray
from service.session import Array, Outputs

_log = structlog.get_logger()


class Runnable(Protocol):
    """A session, or several of which any will do."""

    def run(self, images: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        """Run the graph, as `Session.run` does."""


class SessionGroup:
    """Sessions on several devices; each batch runs on the one that has the fewest."""

    def __init__(self, sessions: Sequence[Runnable]) -> None:
        self._sessions = list(sessions)
        self._running = [0] * len(sessions)
        self._lock = threading.Lock()

    def run(self, images: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        """Run the graph on the least busy device."""
        with self._lock:
            index = self._running.index(min(self._running))
            self._running[index] += 1
        try:
            return self._sessions[index].run(images, outputs)
        finally:
            with self._lock:
                self._running[index] -= 1


class GraphSessions:
    """Runs batches, blocking; may be used by several threads at once."""

    def __init__(
        self, sessions: Mapping[int, Runnable], open_session: Callable[[int], Runnable]
    ) -> None:
        self._sessions = dict(sessions)
        self._open_session = open_session

    @property
    def threads(self) -> list[int]:
        """The numbers of threads to choose from, in ascending order."""
        return sorted(self._sessions)

    def keep(self, threads: Collection[int]) -> None:
        """Close the sessions of other numbers of threads."""
        self._sessions = {count: self._sessions[count] for count in threads}

    def close(self) -> None:
        """Close every session; their memory is free once what runs has ended."""
        self._sessions.clear()

    def run(
        self, images: Sequence[ImageArray], outputs: Sequence[str], threads: int
    ) -> list[Outputs]:
        """Return each image's outputs; the images are of one shape.

        Raises:
            OutOfMemory: the device has no room for so many.
            InferenceFailed: the graph did not run, or returned another number of results.
        """
        results = self._sessions[threads].run(images, outputs)
        if [len(result) for result in results] != [len(images)] * len(outputs):
            raise InferenceFailed("The model returned another number of results than images.")
        return [dict(zip(outputs, row, strict=True)) for row in zip(*results, strict=True)]

    def rebuild(self, threads: int) -> bool:
        """Replace a session that a failed allocation may have left unusable, where possible."""
        try:
            self._sessions[threads] = self._open_session(threads)
        except InvalidEntry as error:
            _log.error("session_not_rebuilt", threads=threads, exc_info=error)
            return False
        return True
