"""The sessions of one graph, one for each number of threads."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from service.errors import InferenceFailed, ModelNotReady
from service.runtime.arrays import Array, Outputs, side_by_side
from service.runtime.execution_providers import Placement, worst


class Runnable(Protocol):
    """A session, or a group of equal sessions."""

    @property
    def placement(self) -> Placement:
        """Placement of the graph; for a group, the worst one."""

    def run(self, images: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        """Run the graph, as `Session.run` does."""


class SessionGroup:
    """Sessions on several devices; each batch runs on the least busy one."""

    def __init__(self, sessions: Sequence[Runnable]) -> None:
        self.sessions = list(sessions)
        self._running = [0] * len(sessions)
        self._lock = threading.Lock()

    @property
    def placement(self) -> Placement:
        """The worst placement of the sessions."""
        return worst([session.placement for session in self.sessions])

    def run(self, images: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        """Run the graph on the least busy device."""
        with self._lock:
            index = self._running.index(min(self._running))
            self._running[index] += 1
        try:
            return self.sessions[index].run(images, outputs)
        finally:
            with self._lock:
                self._running[index] -= 1


class GraphSessions:
    """Runs batches, blocking the calling thread; several threads may use it at once."""

    def __init__(
        self, sessions: Mapping[int, Runnable], open_session: Callable[[int], Runnable]
    ) -> None:
        self._sessions: dict[int, Runnable | None] = dict(sessions)
        self._open_session = open_session
        self._reopening = threading.Lock()
        self._closed = False

    @property
    def threads(self) -> list[int]:
        """The available numbers of threads, in ascending order."""
        return sorted(self._sessions)

    @property
    def placement(self) -> Placement:
        """The worst placement of the sessions; requires at least one session."""
        return worst([session.placement for session in self._sessions.values() if session])

    def each(self) -> list[tuple[int, Runnable]]:
        """List every session with its number of threads, those of a group one by one."""
        return [
            (count, session)
            for count in self.threads
            if (group := self._sessions[count]) is not None
            for session in (group.sessions if isinstance(group, SessionGroup) else [group])
        ]

    def keep(self, threads: Collection[int]) -> None:
        """Close the sessions of other numbers of threads."""
        self._sessions = {count: self._sessions[count] for count in threads}

    def close(self) -> None:
        """Close every session; their memory is freed once running batches have ended."""
        self._closed = True
        self._sessions.clear()

    def run(self, images: Sequence[Array], outputs: Sequence[str], threads: int) -> list[Outputs]:
        """Return each image's outputs; all images have the same shape.

        Raises:
            OutOfMemory: the device does not have enough memory for the batch.
            InferenceFailed: the graph failed, or returned the wrong number of results.
            ModelNotReady: the session is missing, because it could not be reopened.
        """
        with self._reopening:  # a batch that arrives while a session is being reopened waits for it
            session = self._sessions.get(threads)
        if session is None:
            raise ModelNotReady.without_session()
        return run_batch(session, images, outputs)

    def rebuild(self, threads: int) -> None:
        """Replace a session that a failed allocation may have left unusable.

        The old one is closed first, because the device may not have memory for both. If the new
        one cannot be opened, the error is raised, and the session is missing until the next call.
        """
        with self._reopening:
            self._sessions[threads] = None
            self._sessions[threads] = self._open_session(threads)
        if self._closed:
            self._sessions.clear()


def run_batch(session: Runnable, images: Sequence[Array], outputs: Sequence[str]) -> list[Outputs]:
    """Return each image's outputs, as `GraphSessions.run` does."""
    order = side_by_side(images)
    if order is not None:
        answers = run_batch(session, [images[at] for at in order], outputs)
        return [answer for _, answer in sorted(zip(order, answers, strict=True), key=_place)]
    results = session.run(images, outputs)
    if list(map(len, results)) != [len(images)] * len(outputs):
        raise InferenceFailed("The number of results differs from the number of images.")
    return [dict(zip(outputs, row, strict=True)) for row in zip(*results, strict=True)]


def _place(placed: tuple[int, Outputs]) -> int:
    return placed[0]
