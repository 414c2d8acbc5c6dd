"""What waits for a model: images of any requests, ordered by deadline, priority and arrival."""

import asyncio
import heapq
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from service.images.photo import Photo, PreparedImage
from service.runtime.session import Outputs

Group = tuple[tuple[int, ...] | None, tuple[str, ...], bool]
"""What must be equal within a batch: the image's shape, the outputs that are computed, and
whether it runs in the background.

The shape of a photo that is not prepared is not known: it shares a batch with nobody."""
Rank = tuple[bool, float, float, int]

_arrivals = itertools.count()


@dataclass(frozen=True)
class Urgency:
    """By when an inference must end, on the event loop's clock, and who goes before whom.

    The highest `priority` is 1; 0 is lower than all that are stated. What runs in the background
    goes last, on as few cores as it can.
    """

    deadline: float
    priority: int = 0
    is_default_deadline: bool = False
    is_background: bool = False


@dataclass(eq=False)
class PendingInference:
    """One photo that waits for its outputs; times are of the monotonic clock, in seconds.

    That is the event loop's clock too, but the loop looks at it once a turn only. The future
    belongs to the caller, who may cancel it at any time. `batch_size` counts the images that it
    ran with, itself included.
    """

    photo: Photo | PreparedImage
    outputs: tuple[str, ...]
    urgency: Urgency
    arrived_at: float
    future: "asyncio.Future[Outputs]"
    started_at: float | None = None
    ended_at: float | None = None
    batch_size: int = 1
    order: int = field(default_factory=lambda: next(_arrivals))

    def __post_init__(self) -> None:
        self.prepared_in_run = self.photo.prepared is None
        """Whether its execution includes its preparation."""

    @property
    def deadline(self) -> float:
        """By when it must end."""
        return self.urgency.deadline

    @property
    def group(self) -> Group:
        """With whom it may share a batch."""
        image = self.photo.prepared
        shape = None if image is None else image.pixels.shape
        return shape, self.outputs, self.urgency.is_background

    @property
    def rank(self) -> Rank:
        """The least goes first: the nearest deadline, the highest priority, the oldest.

        Default deadlines count as equal, and come after those that somebody asked for: they only
        repeat the order of arrival, and would leave the priority nothing to decide.
        """
        wants = self.urgency
        deadline = math.inf if wants.is_default_deadline else wants.deadline
        return wants.is_background, deadline, wants.priority or math.inf, self.order


class RequestQueue:
    """Pending inferences by group. Those whose caller left count no more, and are never taken."""

    def __init__(self) -> None:
        self._heaps: dict[Group, list[tuple[Rank, PendingInference]]] = {}
        self._waiting: dict[int, PendingInference] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest(self) -> PendingInference | None:
        """Who has waited longest."""
        return next(iter(self._waiting.values()), None)

    def put(self, inferences: Iterable[PendingInference]) -> None:
        """Take inferences in; a cancelled one leaves at once."""
        for inference in inferences:
            heap = self._heaps.setdefault(inference.group, [])
            heapq.heappush(heap, (inference.rank, inference))
            self._waiting[inference.order] = inference
            inference.future.add_done_callback(partial(self._forget, inference))

    def head(self) -> Group | None:
        """Return the group that goes first; None where nobody waits."""
        self._drop_the_gone()
        return min(self._heaps, key=lambda each: self._heaps[each][0][0], default=None)

    def holds(self, group: Group, count: int) -> bool:
        """Whether at least so many of a group wait."""
        alive = (each.order in self._waiting for _, each in self._heaps.get(group, []))
        return count <= 1 or sum(itertools.islice(filter(None, alive), count)) >= count

    def take(self, group: Group, count: int) -> list[PendingInference]:
        """Remove and return up to `count` of a group, in order."""
        heap, taken = self._heaps.get(group, []), list[PendingInference]()
        while heap and len(taken) < count:
            inference = heapq.heappop(heap)[1]
            if self._waiting.pop(inference.order, None) is not None:
                taken.append(inference)
        if not heap:
            self._heaps.pop(group, None)
        return taken

    def take_all(self) -> list[PendingInference]:
        """Remove and return everything, the oldest first."""
        taken = list(self._waiting.values())
        self._waiting.clear()
        self._heaps.clear()
        return taken

    def _drop_the_gone(self) -> None:
        for group, heap in list(self._heaps.items()):
            while heap and heap[0][1].order not in self._waiting:
                heapq.heappop(heap)
            if not heap:
                del self._heaps[group]

    def _forget(self, inference: PendingInference, _: "asyncio.Future[Outputs]") -> None:
        self._waiting.pop(inference.order, None)
