"""Recovery of a model: batches without memory, sessions that are lost, executions that hang."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

import structlog

from service.batching.queue import PendingInference, RequestQueue
from service.batching.runner import BatchRunner, Execution
from service.errors import InferenceFailed, ModelNotReady, OutOfMemory, clear_frames
from service.runtime.device import Device
from service.telemetry.events import BatchEvents, ModelIdentity

HANG_SECONDS = 30.0
HANG_FACTOR = 50
"""An execution hangs after this many times its expected duration, at least `HANG_SECONDS`."""
REOPEN_SECONDS = 10.0
"""Time between two attempts to reopen a session."""

HUNG = "a batch has been running for too long"
NO_SESSION = "its session could not be reopened after it ran out of memory"
NOT_RESPONDING = "The model is not responding; try again later."

_log = structlog.get_logger()


class Recovery:
    """Deals with the executions of a model that fail for lack of memory, or hang.

    While a session is missing or an execution hangs, the model serves nothing, and `outage` says
    why. `retries` are executions to be repeated, in batches of at most `largest_batch`. `dispatch`
    is the batcher's subscription to the device; `rebuilt` is called after a session was replaced.
    """

    def __init__(
        self,
        *,
        identity: ModelIdentity,
        runner: BatchRunner,
        device: Device,
        queue: RequestQueue,
        events: BatchEvents,
        largest_batch: int,
        dispatch: Callable[[], None],
        outage_changed: Callable[[str | None], None],
        rebuilt: Callable[[], None],
    ) -> None:
        self.outage: str | None = None
        self.largest_batch = largest_batch
        self.retries: deque[Execution] = deque()
        self.is_closing = False
        self.watched: dict[Execution, tuple[float, float]] = {}
        """Running executions, when each counts as hung, and after how many seconds."""
        self._identity = identity
        self._runner = runner
        self._device = device
        self._queue = queue
        self._events = events
        self._dispatch = dispatch
        self._outage_changed = outage_changed
        self._rebuilt = rebuilt
        self._check: asyncio.TimerHandle | None = None
        self._checks_at = math.inf
        self._hung = 0
        self._lost: set[int] = set()
        self._rebuilding: dict[int, asyncio.Future[None]] = {}

    @property
    def is_hung(self) -> bool:
        """Whether an execution hangs."""
        return self._hung > 0

    def refusal(self) -> ModelNotReady:
        """Return the error for inferences that come during an outage."""
        return ModelNotReady(NOT_RESPONDING) if self._hung else ModelNotReady.without_session()

    def fail_waiting(self, error: Exception) -> None:
        """Fail everything that waits, including retries."""
        fail(self._queue.take_all(), error)
        while self.retries:
            fail(self.retries.popleft().members, error)

    def watch(self, execution: Execution) -> None:
        """Treat an execution as hung if it is still in `watched` after too long.

        One timer serves all executions: it is set for the first, and seldom fires.
        """
        limit = max(HANG_SECONDS, HANG_FACTOR * execution.expected_seconds)
        hangs_at = time.monotonic() + limit
        self.watched[execution] = hangs_at, limit
        if hangs_at < self._checks_at:
            self._check_at(hangs_at)

    def stop_watching(self) -> None:
        """Cancel the timer; no execution is left."""
        self._check_at(math.inf)

    def _check_at(self, when: float) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None
        self._checks_at = when
        if when < math.inf:
            seconds = when - time.monotonic()
            self._check = asyncio.get_running_loop().call_later(seconds, self._check_watched)

    def _check_watched(self) -> None:
        now = time.monotonic()
        hung = [each for each, (hangs_at, _) in self.watched.items() if hangs_at <= now]
        limits = [self.watched.pop(execution)[1] for execution in hung]
        self._check_at(min((hangs_at for hangs_at, _ in self.watched.values()), default=math.inf))
        for execution, limit in zip(hung, limits, strict=True):
            self.hang(execution, limit)

    def hang(self, execution: Execution, seconds: float) -> None:
        """Fail all that wait for the model, and give its slots to the other models."""
        execution.is_hung = True
        self._hung += 1
        error = InferenceFailed(NOT_RESPONDING)
        fail(execution.members, error)
        self.fail_waiting(error)
        self._device.workers.add()
        self._device.give_back(execution.width.threads, by=self._dispatch)
        self._update_outage()
        if not self.is_closing:  # nothing is reported of a model that is being unloaded
            self._events.execution_hung(self._identity, seconds)

    def hang_ended(self) -> None:
        """Serve again, unless another execution hangs or a session is missing."""
        self._hung -= 1
        self._device.workers.remove()
        self._update_outage()
        if not (self._hung or self.is_closing):
            self._events.execution_recovered(self._identity)
            if self._lost:
                self._events.session_lost(self._identity)

    def ran_out_of_memory(
        self, execution: Execution, error: OutOfMemory
    ) -> "asyncio.Future[None] | None":
        """Repeat an execution in smaller batches; if it cannot be halved again, fail it.

        Then its session, which may be unusable, is replaced; return the future of that.
        """
        size = len(execution.members)
        self.largest_batch = max(1, min(self.largest_batch, size // 2))
        self._events.ran_out_of_memory(self._identity, self.largest_batch)
        if size > 1 and not execution.is_retry:
            self._retry_in_parts(execution)
            return None
        fail(execution.members, error)
        clear_frames(error)
        return self._rebuild(execution.width.threads)

    def _retry_in_parts(self, execution: Execution) -> None:
        members, size = execution.members, self.largest_batch
        for start in range(0, len(members), size):
            part = members[start : start + size]
            self.retries.append(
                Execution(part, execution.width, execution.expected_seconds, is_retry=True)
            )

    def _rebuild(self, threads: int) -> "asyncio.Future[None]":
        """Replace a session, once for all batches that ran out of memory on it."""
        rebuilding = self._rebuilding.get(threads)
        if rebuilding is None:
            rebuilding = self._rebuilding[threads] = self._runner.rebuild(threads)
            rebuilding.add_done_callback(partial(self._rebuild_ended, threads))
        return rebuilding

    def _rebuild_ended(self, threads: int, rebuilding: "asyncio.Future[None]") -> None:
        """Continue on the new session; without one, refuse everything and try again later."""
        del self._rebuilding[threads]
        error = None if rebuilding.cancelled() else rebuilding.exception()
        if error is not None:
            model, version = self._identity.name, self._identity.version
            _log.error("session_not_rebuilt", model=model, version=version, exc_info=error)
        if self.is_closing:
            return
        if error is None and not rebuilding.cancelled():
            self._found(threads)
        else:
            self._lose(threads)

    def _found(self, threads: int) -> None:
        was_lost = bool(self._lost)
        self._lost.discard(threads)
        self._update_outage()
        self._rebuilt()
        if was_lost and self.outage is None:
            self._events.session_recovered(self._identity)

    def _lose(self, threads: int) -> None:
        was_lost = bool(self._lost)
        self._lost.add(threads)
        self.fail_waiting(ModelNotReady.without_session())
        self._update_outage()
        asyncio.get_running_loop().call_later(REOPEN_SECONDS, self._try_again, threads)
        if not was_lost:
            self._events.session_lost(self._identity)

    def _try_again(self, threads: int) -> None:
        if not self.is_closing:
            self._rebuild(threads)

    def _update_outage(self) -> None:
        outage = HUNG if self._hung else NO_SESSION if self._lost else None
        if outage != self.outage:
            self.outage = outage
            self._outage_changed(outage)


def fail(members: Iterable[PendingInference], error: BaseException) -> None:
    """Set an error as the result of those members that have none."""
    for member in members:
        if not member.future.done():
            member.future.set_exception(error)
