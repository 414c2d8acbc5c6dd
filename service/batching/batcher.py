"""Forms batches of what waits, runs them on free cores, and delivers to each its own."""

import asyncio
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from service.batching.drain_rate import DrainRate
from service.batching.plan import ExecutionPlan
from service.batching.queue import Group, PendingInference, RequestQueue
from service.errors import (
    DeadlineExceeded,
    InferenceFailed,
    ModelNotReady,
    OutOfMemory,
    ServerStopping,
)
from service.runtime.device import Device
from service.runtime.session import Outputs
from service.schema.model_status import Width
from service.telemetry.events import BatchEvents, DispatchReason, ModelIdentity

HANG_SECONDS = 30.0
HANG_FACTOR = 50
"""An execution hangs after this many times its calibrated duration, `HANG_SECONDS` at least."""
REOPEN_SECONDS = 10.0
"""How long after a session could not be opened anew it is tried again."""
REMEMBERED_DISPATCHES = 8


class BatchRunner(Protocol):
    """What runs the batches."""

    def execute(
        self, members: Sequence[PendingInference], threads: int
    ) -> Awaitable[Sequence[Outputs]]:
        """Return each member's outputs, in order; raises `OutOfMemory`, or whatever it likes.

        Sets `started_at` of the members as soon as they really run. Where all of them left before
        that, nothing is run: raises `asyncio.CancelledError`.
        """

    def rebuild(self, threads: int) -> Awaitable[bool]:
        """Make anew what a failed allocation may have left unusable; return whether it is there.

        It begins before any batch that is executed later.
        """


@dataclass(eq=False)
class Execution:
    """A batch that runs, or is to run once more."""

    members: list[PendingInference]
    width: Width
    is_retry: bool = False
    is_hung: bool = False


class DynamicBatcher:
    """Work-conserving: a free core takes what waits at once, unless the plan says to wait.

    Everything happens on the event loop but what the runner does in its threads. A future is set
    only where its caller is still there; each batch ends in exactly one result or exception per
    member. `in_flight` counts the images that are admitted and not answered, those that are
    still being decoded included: with the mean of it the widths follow the load. `executed` is
    told the size of each batch that ended well, and the seconds that it ran; `rebuilt` is called
    where the runner made something anew.
    """

    def __init__(
        self,
        *,
        identity: ModelIdentity,
        runner: BatchRunner,
        plan: ExecutionPlan,
        device: Device,
        events: BatchEvents,
        in_flight: Callable[[], int] = lambda: 0,
        executed: Callable[[int, float], None] = lambda *_: None,
        rebuilt: Callable[[], None] = lambda: None,
    ) -> None:
        self.queue = RequestQueue()
        self.plan = plan
        self.rate = DrainRate(plan.slot_seconds_per_image / device.slots)
        self._identity = identity
        self._runner = runner
        self._device = device
        self._events = events
        self._in_flight = in_flight
        self._executed = executed
        self._rebuilt = rebuilt
        self._recently_in_flight: deque[int] = deque([1], maxlen=REMEMBERED_DISPATCHES)
        self._executions: set[Execution] = set()
        self._rebuilding: dict[int, asyncio.Future[bool]] = {}
        self._lost: set[int] = set()
        self._retries: deque[Execution] = deque()
        self._largest_batch = max(width.max_batch_size for width in plan.widths)
        self._wake_up: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()
        self._closing = False

    @property
    def single_seconds(self) -> float:
        """What one image takes where many are in flight, by the calibration."""
        return self.plan.seconds(self.plan.widths[0].threads, 1)

    @property
    def executing(self) -> int:
        """How many batches run."""
        return len(self._executions)

    @property
    def is_hung(self) -> bool:
        """Whether an execution does not end."""
        return any(each.is_hung for each in self._executions)

    @property
    def is_lost(self) -> bool:
        """Whether a session could not be made anew, so far."""
        return bool(self._lost)

    def submit(self, inferences: Sequence[PendingInference]) -> None:
        """Queue inferences; their futures will be set. Never waits."""
        if self._closing:
            raise ServerStopping("The model is being unloaded.")
        if self.is_hung:
            raise ModelNotReady("The model does not answer.")
        if self.is_lost:
            raise ModelNotReady.without_session()
        self._device.subscribe(self._dispatch)
        self.queue.put(inferences)
        for inference in inferences:
            inference.future.add_done_callback(partial(self._left, inference))
        self._dispatch()

    async def drain(self) -> None:
        """Take nothing more, and wait until everything that was submitted is answered."""
        self._closing = True
        self._dispatch()
        await self._emptied.wait()

    def abort(self) -> None:
        """Take nothing more and fail whatever waits; what runs goes on."""
        self._closing = True
        error = ServerStopping("The model was unloaded before this image's turn.")
        _fail(self._take_waiting(), error)
        self._note_end()

    def _take_waiting(self) -> list[PendingInference]:
        waiting = [*self.queue.take_all(), *_members(self._retries)]
        self._retries.clear()
        return waiting

    def _left(self, inference: PendingInference, future: "asyncio.Future[Outputs]") -> None:
        if future.cancelled() and inference.started_at is None:
            self._events.images_dropped(self._identity, 1, "cancelled")

    def _dispatch(self) -> None:
        """Start executions while slots are free and somebody waits; line up full batches."""
        self._cancel_wake_up()
        while self._retries and self._device.free >= self._retries[0].width.threads:
            execution = self._retries.popleft()
            self._start(execution, "retry", max(len(execution.members), self._largest_batch))
        while self._device.has_room and (group := self.queue.head()) is not None:
            width = self._choose_width(is_background=group[2])
            if width is None:
                break
            limit = 1 if group[0] is None else min(width.max_batch_size, self._largest_batch)
            reason = self._reason_to_leave(group, limit)
            if reason is None or (reason != "full" and self._device.free < width.threads):
                break
            members = self._in_time(self.queue.take(group, limit), width)
            if members:
                self._start(Execution(members, width), reason, limit)
        self._note_end()

    def _choose_width(self, *, is_background: bool) -> Width | None:
        narrowest = self.plan.widths[0]
        if is_background:
            return narrowest if self._device.free >= narrowest.threads else None
        now = max(len(self.queue), self._in_flight())
        mean = (sum(self._recently_in_flight) + now) / (len(self._recently_in_flight) + 1)
        demand = max(len(self.queue), round(mean))
        width = self.plan.choose(self._device.free, demand)
        if width is None and narrowest.threads == 1 and self._device.may_line_up:
            width = narrowest
        if width is not None:
            self._recently_in_flight.append(now)
        return width

    def _reason_to_leave(self, group: Group, limit: int) -> DispatchReason | None:
        """Why a batch leaves now; None where it waits for company, with a wake-up set."""
        oldest, delay = self.queue.oldest, self.plan.max_queue_delay_seconds
        if self.queue.holds(group, limit):
            return "full"
        if delay <= 0 or self._closing or oldest is None:
            return "idle"
        loop, leaves_at = asyncio.get_running_loop(), oldest.arrived_at + delay
        if loop.time() >= leaves_at:
            return "delay"
        self._wake_up = loop.call_at(leaves_at, self._dispatch)
        return None

    def _in_time(self, members: list[PendingInference], width: Width) -> list[PendingInference]:
        """Fail those whose deadline comes before the end of the run; return the others."""
        expected = self._expected_seconds(members, width)
        if self._device.free < width.threads:
            expected *= 2  # it is lined up behind one like it
        ends_at = asyncio.get_running_loop().time() + expected
        late = [each for each in members if each.deadline < ends_at]
        if late:
            _fail(late, DeadlineExceeded("There was not enough time left to run the model."))
            self._events.images_dropped(self._identity, len(late), "deadline")
        return [each for each in members if each.deadline >= ends_at]

    def _expected_seconds(self, members: list[PendingInference], width: Width) -> float:
        if not members:
            return 0.0
        image = members[0].photo.prepared
        pixels = None if image is None else image.pixels.shape[0] * image.pixels.shape[1]
        return self.plan.seconds(width.threads, len(members), pixels)

    def _start(self, execution: Execution, reason: DispatchReason, room: int) -> None:
        self._device.take(execution.width.threads)
        self._executions.add(execution)
        self._events.batch_dispatched(self._identity, len(execution.members), reason, room)
        future = asyncio.ensure_future(
            self._runner.execute(execution.members, execution.width.threads)
        )
        future.add_done_callback(partial(self._ended, execution, self._watch(execution)))

    def _ended(
        self,
        execution: Execution,
        watchdog: asyncio.TimerHandle,
        future: "asyncio.Future[Sequence[Outputs]]",
    ) -> None:
        watchdog.cancel()
        error = None if future.cancelled() else future.exception()
        if isinstance(error, OutOfMemory):
            if not self._halve(execution):
                self._rebuild(execution, error)
                return
        elif error is not None:
            _fail(execution.members, error)
        elif not future.cancelled():
            self._deliver(execution.members, future.result())
        self._end(execution)

    def _deliver(self, members: list[PendingInference], results: Sequence[Outputs]) -> None:
        if len(results) != len(members):
            error = InferenceFailed("The model returned another number of results than images.")
            _fail(members, error)
            return
        now = time.monotonic()
        began = min((each.started_at for each in members if each.started_at), default=now)
        self._executed(len(members), now - began)
        for member, outputs in zip(members, results, strict=True):
            member.ended_at, member.batch_size = now, len(members)
            if not member.future.done():
                member.future.set_result(outputs)

    def _halve(self, execution: Execution) -> bool:
        """Run smaller batches from now on, and these members once more if that is possible."""
        members, size = execution.members, len(execution.members)
        self._largest_batch = max(1, min(self._largest_batch, size // 2))
        self._events.ran_out_of_memory(self._identity, self._largest_batch)
        if size == 1 or execution.is_retry:
            return False
        for start in range(0, size, self._largest_batch):
            half = members[start : start + self._largest_batch]
            self._retries.append(Execution(half, execution.width, is_retry=True))
        return True

    def _rebuild(self, execution: Execution, error: OutOfMemory) -> None:
        """Fail the members, and make anew what may be unusable before what comes later runs."""
        _fail(execution.members, error)
        _clear_frames(error)
        task = self._make_anew(execution.width.threads)
        task.add_done_callback(lambda _: self._end(execution))

    def _make_anew(self, threads: int) -> "asyncio.Future[bool]":
        """Make a session anew, once for all batches that find it without memory."""
        task = self._rebuilding.get(threads)
        if task is None:
            task = asyncio.ensure_future(self._runner.rebuild(threads))
            self._rebuilding[threads] = task
            task.add_done_callback(partial(self._made_anew, threads))
        return task

    def _made_anew(self, threads: int, task: "asyncio.Future[bool]") -> None:
        """Serve on with a session made anew; without one refuse everybody, and try again."""
        del self._rebuilding[threads]
        if self._closing:
            return
        was_lost = self.is_lost
        is_there = not task.cancelled() and task.exception() is None and task.result()
        if is_there:
            self._lost.discard(threads)
            self._rebuilt()
        else:
            self._lost.add(threads)
            _fail(self._take_waiting(), ModelNotReady.without_session())
            asyncio.get_running_loop().call_later(REOPEN_SECONDS, self._try_again, threads)
        if self.is_lost and not was_lost:
            self._events.session_lost(self._identity)
        if was_lost and not self.is_lost and not self.is_hung:
            self._events.session_recovered(self._identity)

    def _try_again(self, threads: int) -> None:
        if not self._closing:
            self._make_anew(threads)

    def _watch(self, execution: Execution) -> asyncio.TimerHandle:
        expected = self._expected_seconds(execution.members, execution.width)
        limit = max(HANG_SECONDS, HANG_FACTOR * expected)
        return asyncio.get_running_loop().call_later(limit, self._hang, execution, limit)

    def _hang(self, execution: Execution, seconds: float) -> None:
        """Answer whoever waits for the model, and leave the device to the others."""
        execution.is_hung = True
        waiting = [*execution.members, *self._take_waiting()]
        _fail(waiting, InferenceFailed("The model does not answer."))
        self._device.workers.add()
        self._device.give_back(execution.width.threads, by=self._dispatch)
        if not self._closing:  # what is unloaded is not told of any more
            self._events.execution_hung(self._identity, seconds)

    def _end(self, execution: Execution) -> None:
        self._executions.discard(execution)
        others_wait = len(self.queue) > 0
        self.rate.executed(len(execution.members), time.monotonic(), others_wait=others_wait)
        if not execution.is_hung:
            self._device.give_back(execution.width.threads, by=self._dispatch)
            self._note_end()
            return
        self._device.workers.remove()
        if not (self.is_hung or self._closing):
            self._events.execution_recovered(self._identity)
            if self.is_lost:
                self._events.session_lost(self._identity)
        self._dispatch()

    def _note_end(self) -> None:
        if self._closing and not (len(self.queue) or self._retries or self._executions):
            self._emptied.set()
            self._device.unsubscribe(self._dispatch)

    def _cancel_wake_up(self) -> None:
        if self._wake_up is not None:
            self._wake_up.cancel()
            self._wake_up = None


def _members(executions: Iterable[Execution]) -> list[PendingInference]:
    return [member for execution in executions for member in execution.members]


def _clear_frames(error: BaseException | None) -> None:
    """Let go of what the frames of a failure hold: the session whose memory is needed now."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


def _fail(members: Iterable[PendingInference], error: BaseException) -> None:
    for member in members:
        if not member.future.done():
            member.future.set_exception(error)
