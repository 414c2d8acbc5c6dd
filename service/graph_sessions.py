"""The sessions of one graph, one for each number of threads, and a batch through them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from queue import SimpleQueue
from typing import Protocol

import numpy as np
import structlog

from service.errors import InferenceFailed, InvalidEntry
from service.preprocessing import ImageArray
from service.session import Array, Outputs, Session

_log = structlog.get_logger()


class Runnable(Protocol):
    """A session, or several of which any will do."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Run the graph, as `Session.run` does."""


class SessionGroup:
    """Sessions on several devices; each runs one batch at a time, on whichever is free."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._free: SimpleQueue[Session] = SimpleQueue()
        for session in sessions:
            self._free.put(session)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Run the graph on a device that is free, once there is one."""
        session = self._free.get()
        try:
            return session.run(inputs, outputs)
        finally:
            self._free.put(session)


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
        batch = images[0][None] if len(images) == 1 else np.stack(images)
        results = self._sessions[threads].run({"images": batch}, outputs)
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
