"""Forms batches of waiting images, runs them on free slots, and delivers their outputs."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from service.batching.drain_rate import DrainRate
from service.batching.moving_average import MovingAverage
from service.batching.plan import ExecutionPlan
from service.batching.queue import Group, PendingInference, RequestQueue
from service.batching.recovery import Recovery, fail
from service.batching.runner import BatchRunner, Executed, Execution
from service.errors import DeadlineExceeded, OutOfMemory, ServerStopping
from service.runtime.device import Device
from service.schema.model_status import Width
from service.telemetry.events import BatchEvents, DispatchReason, ModelIdentity
from service.telemetry.statistics import Statistics

REMEMBERED_DISPATCHES = 8
LIGHT_SECONDS = 1e-3
"""An image that takes less processor time than this is light: see `DynamicBatcher`."""


class DynamicBatcher:
    """A work-conserving batcher: a free slot takes waiting images at once.

    The plan may delay batches to fill them. Everything happens on the event loop, except what the
    runner does in its threads. Every batch ends in one result or error per member; a future is set
    only if its caller is still waiting. `in_flight` is the number of admitted images without a
    result, including those that are being decoded. The caller updates it; the chosen widths follow
    its mean.

    On a CPU, a core takes its share of the waiting images, so that none is idle while another has
    a long batch. Executions of light images take turns there. Side by side they would spend more
    time on the interpreter's lock and on changes of threads than on the images. Images that arrive
    meanwhile form the next batch.
    """

    def __init__(
        self,
        *,
        identity: ModelIdentity,
        runner: BatchRunner,
        plan: ExecutionPlan,
        device: Device,
        events: BatchEvents,
        statistics: Statistics,
        is_on_cpu: bool = False,
        outage_changed: Callable[[str | None], None] = lambda _: None,
        rebuilt: Callable[[], None] = lambda: None,
    ) -> None:
        self.queue = RequestQueue()
        self.rate = DrainRate(plan.slot_seconds_per_image / device.slots)
        self.in_flight = 0
        self.recovery = Recovery(
            identity=identity,
            runner=runner,
            device=device,
            queue=self.queue,
            events=events,
            largest_batch=max(width.max_batch_size for width in plan.widths),
            dispatch=self._dispatch,
            outage_changed=outage_changed,
            rebuilt=rebuilt,
        )
        self._identity = identity
        self._runner = runner
        self._plan = plan
        self._device = device
        self._events = events
        self._statistics = statistics
        self._recently_in_flight: deque[int] = deque([1], maxlen=REMEMBERED_DISPATCHES)
        self._executions: set[Execution] = set()
        self._is_on_cpu = is_on_cpu
        self._image_cpu_seconds = MovingAverage()
        self._takes_turns = False
        self._wake_up: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()
        self._closing = False
        device.subscribe(self._dispatch)

    @property
    def executing(self) -> int:
        """Number of batches currently running."""
        return len(self._executions)

    def submit(self, inferences: Sequence[PendingInference]) -> None:
        """Start or queue inferences without waiting; their futures are set later."""
        if self._closing:
            raise ServerStopping("The model is being unloaded.")
        if self.recovery.outage is not None:
            raise self.recovery.refusal()
        if not self._start_at_once(inferences):
            self.queue.put(inferences)
            self._dispatch()

    def withdraw(self, inferences: Sequence[PendingInference]) -> None:
        """Drop inferences whose caller has left; running ones are not interrupted."""
        for inference in inferences:
            self.queue.discard(inference)
            inference.future.cancel()
            if inference.future.cancelled() and not inference.has_started:
                self._events.images_dropped(self._identity, 1, "cancelled")
        if self._closing:
            self._note_end()

    async def drain(self) -> None:
        """Accept no more inferences, and wait until all submitted ones have ended."""
        self._close()
        self._dispatch()
        await self._emptied.wait()

    def abort(self) -> None:
        """Accept no more inferences and fail the waiting ones; running batches continue."""
        self._close()
        error = ServerStopping("The model was unloaded before it processed this image.")
        self.recovery.fail_waiting(error)
        self._note_end()

    def _close(self) -> None:
        self._closing = self.recovery.is_closing = True

    def _start_at_once(self, inferences: Sequence[PendingInference]) -> bool:
        """Start a single image as `_dispatch` would, if nothing waits and a slot is free."""
        if (
            len(inferences) > 1
            or self.queue.waiting
            or self._must_wait()
            or self.recovery.retries
            or self._plan.max_queue_delay_seconds > 0
            or not self._device.has_free_slot
        ):
            return False
        inference = inferences[0]
        width = self._choose_width(1, is_background=inference.urgency.is_background)
        if width is None:
            return False
        has_shape = inference.photo.shape is not None
        limit = min(width.max_batch_size, self.recovery.largest_batch) if has_shape else 1
        self._start_in_time([inference], width, "idle" if limit > 1 else "full", limit)
        return True

    def _dispatch(self) -> None:
        """Start executions while slots are free and images are waiting; line up full batches."""
        queue, retries, device = self.queue, self.recovery.retries, self._device
        if self._wake_up is not None:
            self._wake_up.cancel()
            self._wake_up = None
        while retries and device.free >= retries[0].width.threads:
            execution = retries.popleft()
            room = max(len(execution.members), self.recovery.largest_batch)
            self._start(execution, "retry", room)
        while queue.waiting and device.has_room and not self._must_wait() and self._start_next():
            pass
        if self._closing:
            self._note_end()

    def _must_wait(self) -> bool:
        return self._takes_turns and bool(self._executions)

    def _start_next(self) -> bool:
        """Start the next batch; return whether another one may follow."""
        group = self.queue.head()
        if group is None:
            return False
        width = self._choose_width(len(self.queue.waiting), is_background=group[2])
        if width is None:
            return False
        has_shape = group[0] is not None
        limit = min(width.max_batch_size, self.recovery.largest_batch) if has_shape else 1
        count = min(limit, self._share())
        reason = self._reason_to_leave(group, count, limit)
        if reason is None or (reason != "full" and self._device.free < width.threads):
            return False
        self._start_in_time(self.queue.take(group, count), width, reason, limit)
        return True

    def _share(self) -> int:
        """Return how many of the waiting images one execution may take."""
        waiting = len(self.queue.waiting)
        if not self._is_on_cpu or self._takes_turns or self._plan.max_queue_delay_seconds > 0:
            return waiting
        return math.ceil(waiting / self._device.slots)

    def _choose_width(self, waiting: int, *, is_background: bool) -> Width | None:
        free, narrowest = self._device.free, self._plan.widths[0]
        if is_background:
            return narrowest if free >= narrowest.threads else None
        recent, now = self._recently_in_flight, max(waiting, self.in_flight)
        mean = (sum(recent) + now) / (len(recent) + 1)
        width = self._plan.choose(free, max(waiting, round(mean)))
        if width is None and narrowest.threads == 1 and self._device.may_line_up:
            width = narrowest
        if width is not None:
            recent.append(now)
        return width

    def _reason_to_leave(self, group: Group, count: int, limit: int) -> DispatchReason | None:
        """Return the reason to dispatch a batch now; None, with a timer set, if it can wait."""
        oldest, delay = self.queue.oldest, self._plan.max_queue_delay_seconds
        if count == limit and self.queue.holds(group, limit):
            return "full"
        if delay <= 0 or self._closing or oldest is None:
            return "idle"
        loop, leaves_at = asyncio.get_running_loop(), oldest.arrived_at + delay
        if loop.time() >= leaves_at:
            return "delay"
        self._wake_up = loop.call_at(leaves_at, self._dispatch)
        return None

    def _start_in_time(
        self, members: list[PendingInference], width: Width, reason: DispatchReason, room: int
    ) -> None:
        """Start a batch of the members that can meet their deadlines; fail the others."""
        expected = self._expected_seconds(members, width)
        queued = self._device.free < width.threads  # lined up behind an execution like it
        ends_at = asyncio.get_running_loop().time() + expected * (1 + queued)
        in_time, late = list[PendingInference](), list[PendingInference]()
        for each in members:
            (late if each.urgency.deadline < ends_at else in_time).append(each)
        if late:
            fail(late, DeadlineExceeded("Too little time was left to run the model."))
            self._events.images_dropped(self._identity, len(late), "deadline")
        if in_time:
            self._start(Execution(in_time, width, expected), reason, room)

    def _expected_seconds(self, members: list[PendingInference], width: Width) -> float:
        shape = members[0].photo.shape if members else None
        pixels = None if shape is None else shape[0] * shape[1]
        return self._plan.seconds(width.threads, len(members), pixels)

    def _start(self, execution: Execution, reason: DispatchReason, room: int) -> None:
        self._device.take(execution.width.threads)
        self._executions.add(execution)
        self._events.batch_dispatched(self._identity, len(execution.members), reason, room)
        self.recovery.watch(execution)
        self._runner.execute(execution).add_done_callback(partial(self._ended, execution))

    def _ended(self, execution: Execution, future: "asyncio.Future[Executed]") -> None:
        self.recovery.watched.pop(execution, None)
        error = None if future.cancelled() else future.exception()
        if isinstance(error, OutOfMemory):
            rebuilding = self.recovery.ran_out_of_memory(execution, error)
            if rebuilding is not None:  # the slots stay taken until the execution ends
                rebuilding.add_done_callback(lambda _: self._end(execution))
                return
        elif error is not None:
            fail(execution.members, error)
        elif future.cancelled():  # no members are left, or the threads were closed
            fail(execution.members, ServerStopping("The server stopped before it ran the model."))
        else:
            self._deliver(future.result())
        self._end(execution)

    def _deliver(self, executed: Executed) -> None:
        for member, error in executed.refused:
            fail([member], error)
        if not executed.answers:
            return
        run = executed.answers[0][1].run
        self._statistics.executed(run.batch_size, run.ended - run.started)
        if self._is_on_cpu:
            self._image_cpu_seconds.add(executed.cpu_seconds / run.batch_size)
            self._takes_turns = self._image_cpu_seconds.seconds < LIGHT_SECONDS
        for member, answer in executed.answers:
            if not member.future.done():
                member.future.set_result(answer)

    def _end(self, execution: Execution) -> None:
        """Give the slots back, unless a hang has already done so."""
        self._executions.discard(execution)
        others_wait = bool(self.queue.waiting)
        self.rate.executed(len(execution.members), time.monotonic(), others_wait=others_wait)
        if execution.is_hung:
            self.recovery.hang_ended()
            self._dispatch()
        else:
            self._device.give_back(execution.width.threads, by=self._dispatch)
            if self._closing:
                self._note_end()

    def _note_end(self) -> None:
        if not (self.queue.waiting or self.recovery.retries or self._executions):
            self._emptied.set()
            self._device.unsubscribe(self._dispatch)
            self.recovery.stop_watching()
