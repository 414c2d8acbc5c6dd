"""The queue of a model, ordered by deadline, priority and arrival."""

import heapq
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from service.images.photo import Photo, PreparedImage
from service.runtime.arrays import Outputs

Group = tuple[tuple[int, ...] | None, tuple[str, ...], bool]
"""Properties that all images of a batch share: shape, requested outputs, and whether they run in
the background. A photo whose shape is not yet known (None) runs alone."""
Rank = tuple[bool, float, float, int]


@dataclass(frozen=True, slots=True)
class Urgency:
    """The deadline of an inference, on the event loop's clock, and its place in the queue.

    The highest `priority` is 1; 0 is lower than any other. Inferences in the background come
    last, and run on as few cores as possible.
    """

    deadline: float
    priority: int = 0
    is_default_deadline: bool = False
    is_background: bool = False


class Run(NamedTuple):
    """Start of an execution, end of its image preparation, and its end, on the monotonic clock."""

    started: float
    prepared: float
    ended: float
    batch_size: int


class Answer(NamedTuple):
    """The outputs of one image, and the execution that computed them."""

    outputs: Outputs
    run: Run


class AnswerFuture(Protocol):
    """The part of an `asyncio.Future` that the queue needs."""

    def done(self) -> bool:
        """Return whether there is a result, or the caller has left."""

    def cancelled(self) -> bool:
        """Return whether the caller has left."""

    def cancel(self) -> bool:
        """Give up the result; return whether there was none yet."""

    def set_result(self, result: Answer, /) -> None:
        """Set the result; only if not done."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Set the error; only if not done."""


@dataclass(eq=False, slots=True)
class PendingInference:
    """A photo that waits for its outputs.

    The future belongs to the caller, who may cancel it at any time. `has_started` is set by the
    thread that runs the photo; a photo whose future is done by then is not run.
    """

    photo: Photo | PreparedImage
    outputs: tuple[str, ...]
    urgency: Urgency
    arrived_at: float
    future: AnswerFuture
    has_started: bool = False


class RequestQueue:
    """Pending inferences by group."""

    def __init__(self) -> None:
        self.waiting: dict[PendingInference, Group] = {}
        """Waiting inferences, in order of arrival."""
        self._heaps: dict[Group, list[tuple[Rank, PendingInference]]] = {}
        self._counts: dict[Group, int] = {}
        self._arrivals = itertools.count()

    @property
    def oldest(self) -> PendingInference | None:
        """The inference that has been waiting longest."""
        return next(iter(self.waiting), None)

    def put(self, inferences: Iterable[PendingInference]) -> None:
        """Add inferences."""
        for inference in inferences:
            group = _group(inference)
            heap = self._heaps.setdefault(group, [])
            heapq.heappush(heap, (_rank(inference.urgency, next(self._arrivals)), inference))
            self._counts[group] = self._counts.get(group, 0) + 1
            self.waiting[inference] = group

    def discard(self, inference: PendingInference) -> None:
        """Remove an inference if it is still waiting."""
        group = self.waiting.pop(inference, None)
        if group is None:
            return
        self._counts[group] -= 1
        if self._counts[group] == 0:
            del self._counts[group], self._heaps[group]

    def head(self) -> Group | None:
        """Return the group to run next, or None if the queue is empty."""
        for heap in self._heaps.values():
            while heap[0][1] not in self.waiting:
                heapq.heappop(heap)
        return min(self._heaps, key=lambda group: self._heaps[group][0][0], default=None)

    def holds(self, group: Group, count: int) -> bool:
        """Return whether at least `count` inferences of a group are waiting."""
        return self._counts.get(group, 0) >= count

    def take(self, group: Group, count: int) -> list[PendingInference]:
        """Remove and return up to `count` inferences of a group, in order; skip finished ones."""
        heap, taken = self._heaps.get(group, []), list[PendingInference]()
        while heap and len(taken) < count:
            inference = heapq.heappop(heap)[1]
            if inference in self.waiting:
                self.discard(inference)
                if not inference.future.done():
                    taken.append(inference)
        return taken

    def take_all(self) -> list[PendingInference]:
        """Remove and return everything, oldest first."""
        taken = list(self.waiting)
        self.waiting.clear()
        self._heaps.clear()
        self._counts.clear()
        return taken


def _group(inference: PendingInference) -> Group:
    return inference.photo.shape, inference.outputs, inference.urgency.is_background


def _rank(urgency: Urgency, order: int) -> Rank:
    """Return a sort key: by nearest deadline, then highest priority, then arrival.

    Default deadlines count as equal and sort after requested ones. Otherwise they would repeat the
    order of arrival, and the priority would have no effect.
    """
    deadline = math.inf if urgency.is_default_deadline else urgency.deadline
    return urgency.is_background, deadline, urgency.priority or math.inf, order
