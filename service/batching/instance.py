"""One loaded model version: what it is, who may wait for it, and how its batches run."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import structlog

from service.batching.batcher import DynamicBatcher
from service.batching.plan import ExecutionPlan
from service.batching.queue import PendingInference, Urgency
from service.errors import DeadlineUnreachable, Outcome, PayloadTooLarge, QueueFull
from service.images.photo import Photo, PreparedImage
from service.runtime.device import Device
from service.runtime.graph_sessions import GraphSessions
from service.runtime.session import Outputs
from service.runtime.worker_threads import WorkerThreads
from service.schema.certificate import Certificate
from service.schema.contract import Contract
from service.schema.model_status import Batching
from service.schema.open_inference import ModelStatistics
from service.telemetry.events import BatchEvents, ModelBuild, ModelIdentity
from service.telemetry.metrics.inference import VersionTelemetry

_log = structlog.get_logger()

WAIT_MARGIN = 1.15
"""A prediction may be off by this much; who is let in should be answered in time."""
CLOSE_SECONDS = 5.0
"""What still runs after this is left to its thread, which ends with the process."""
HUNG = "a batch has been running for far too long"
NO_SESSION = "its session could not be opened anew after it ran out of memory"


@dataclass(frozen=True)
class Inference:
    """Each photo's outputs, in order, where the time went, and the largest batch.

    `queue_seconds` ended when the first photo began; the rest is split by what executions spent.
    """

    outputs: list[Outputs]
    queue_seconds: float
    decode_seconds: float
    compute_seconds: float
    batch_size: int


class ModelInstance:
    """A model version that can be asked. Lives on the event loop but for what runs in threads."""

    def __init__(
        self,
        *,
        identity: ModelIdentity,
        contract: Contract,
        certificate: Certificate,
        build: ModelBuild,
        sessions: GraphSessions,
        plan: ExecutionPlan,
        device: Device,
        max_batch_size: int,
        max_queue_size: int,
        events: BatchEvents,
        telemetry: VersionTelemetry,
    ) -> None:
        self.identity = identity
        self.contract = contract
        self.certificate = certificate
        self.build = build
        self.max_batch_size = max_batch_size
        """How many images a batch may have; how many it has is the plan's to say."""
        self.telemetry = telemetry
        """Counts the requests of this instance."""
        self.on_outage: Callable[[], None] = lambda: None
        """Called on the event loop whenever `outage` has changed."""
        self._sessions = sessions
        self._events = events
        self._max_queue_size = max_queue_size
        self._pending = 0
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._runner = _InThreads(identity, sessions, device.workers)
        self._batcher = DynamicBatcher(
            identity=identity,
            runner=self._runner,
            plan=plan,
            device=device,
            events=events,
            in_flight=lambda: self._pending,
            executed=self.telemetry.statistics.executed,
            rebuilt=self._tell_rebuilt,
        )

    @property
    def pending(self) -> int:
        """Images admitted and not yet predicted."""
        return self._pending

    @property
    def executing(self) -> int:
        """Batches that run."""
        return self._batcher.executing

    @property
    def outage(self) -> str | None:
        """Why it does not answer at present, in a few words; None where it does."""
        if self._batcher.is_hung:
            return HUNG
        return NO_SESSION if self._batcher.is_lost else None

    @property
    def oldest_wait_seconds(self) -> float:
        """How long the oldest image in the queue has waited; 0 where none does."""
        oldest = self._batcher.queue.oldest
        return 0.0 if oldest is None else max(0.0, time.monotonic() - oldest.arrived_at)

    @property
    def predicted_wait_seconds(self) -> float:
        """How long one more image would wait, by the rate measured."""
        return self._pending * self._batcher.rate.seconds_per_image

    @property
    def batching(self) -> Batching:
        """What clients may know of how batches are formed."""
        plan = self._batcher.plan
        width, height = self.contract.preprocessing.common_size
        return Batching(
            widths=list(plan.widths),
            max_queue_delay_microseconds=round(plan.max_queue_delay_seconds * 1e6),
            max_queue_size=self._max_queue_size,
            measurements=list(plan.measurements),
            measured_at=(height, width),
        )

    def model_statistics(self) -> ModelStatistics:
        """Return what this version did since it was loaded."""
        return self.telemetry.statistics.wire(self.identity.name, self.identity.version)

    def failures(self) -> dict[Outcome, int]:
        """Count the requests that did not end well, by how they ended."""
        return self.telemetry.statistics.failures

    @property
    def batches(self) -> bool:
        """Whether batches of several images pay; if so, photos must be prepared before."""
        return any(width.max_batch_size > 1 for width in self._batcher.plan.widths)

    def check(self, images: int, deadline: float) -> None:
        """Refuse images that will not be answered in time; nothing is held.

        Raises:
            PayloadTooLarge: there are more than ever fit.
            QueueFull: there is no room now.
            DeadlineUnreachable: there is room, and too long a wait.
        """
        name, limit = self.identity.name, self._max_queue_size
        if images > limit:
            raise PayloadTooLarge(f"The model {name} takes at most {limit} images at a time.")
        if self._pending + images > limit:
            raise QueueFull(
                f"The model {name} has {self._pending} images waiting; try again later.",
                self.predicted_wait_seconds,
            )
        needed = WAIT_MARGIN * self.predicted_wait_seconds + self._batcher.single_seconds
        late = needed - (deadline - asyncio.get_running_loop().time())
        if self._pending and late > 0:
            raise DeadlineUnreachable(
                f"The wait for the model {name} is {self.predicted_wait_seconds:.1f} s, "
                "more than this request has; try again later.",
                late,
            )

    def reserve(self, images: int, deadline: float) -> None:
        """Hold room for a request's images, or refuse it at once, as `check` does."""
        self.check(images, deadline)
        self._pending += images

    def free(self, images: int) -> None:
        """Give back the room of images."""
        self._pending -= images

    async def infer(
        self, photos: Sequence[Photo | PreparedImage], outputs: Sequence[str], urgency: Urgency
    ) -> Inference:
        """Predict photos of any sizes and number; only `outputs` are computed.

        Those that are not prepared are prepared in the thread that runs them. A photo that has
        not started when the caller leaves never is.
        """
        loop = asyncio.get_running_loop()
        names, now = tuple(outputs), time.monotonic()
        inferences = [
            PendingInference(photo, names, urgency, now, loop.create_future()) for photo in photos
        ]
        futures = [inference.future for inference in inferences]
        try:
            self._batcher.submit(inferences)
            results = [await futures[0]] if len(futures) == 1 else await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()
        return _inference(inferences, results, time.monotonic() - now)

    def hold(self) -> None:
        """Keep the instance loaded until `let_go`."""
        self._users += 1
        self._unused.clear()

    def let_go(self) -> None:
        """End one `hold`."""
        self._users -= 1
        if self._users == 0:
            self._unused.set()

    async def drain(self, seconds: float) -> None:
        """Wait until nobody holds the instance, for so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._unused.wait()

    async def close(self) -> None:
        """Fail what waits, wait for the batches that run, unless they seem to hang; free all."""
        self._batcher.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if self._batcher.is_hung else CLOSE_SECONDS):
                await self._batcher.drain()
        self._sessions.close()

    def _tell_rebuilt(self) -> None:
        """A session made anew may run elsewhere than the one before."""
        placement = self._sessions.placement
        self.build = replace(
            self.build,
            requested_provider=placement.requested,
            active_provider=placement.active,
            nodes_on_cpu=placement.nodes_on_cpu,
        )
        self._events.session_rebuilt(self.identity, self.build)


def _inference(
    inferences: Sequence[PendingInference], outputs: Sequence[Outputs], seconds: float
) -> Inference:
    """Sum up photos that are answered, `seconds` after they were queued."""
    began = min(each.started_at or each.arrived_at for each in inferences)
    queued = began - inferences[0].arrived_at
    executing = sum((each.ended_at or began) - (each.started_at or began) for each in inferences)
    preparing = sum(each.photo.prepare_seconds for each in inferences if each.prepared_in_run)
    decode = (seconds - queued) * min(1.0, preparing / executing) if executing else 0.0
    batch_size = max(each.batch_size for each in inferences)
    return Inference(list(outputs), queued, decode, seconds - queued - decode, batch_size)


class _InThreads:
    """Runs batches in the device's threads."""

    def __init__(
        self,
        identity: ModelIdentity,
        sessions: GraphSessions,
        workers: WorkerThreads,
    ) -> None:
        self._identity = identity
        self._sessions = sessions
        self._workers = workers

    def execute(
        self, members: Sequence[PendingInference], threads: int
    ) -> "asyncio.Future[Sequence[Outputs]]":

        def run() -> Sequence[Outputs]:
            there = [member for member in members if not member.future.cancelled()]
            if not there:
                raise asyncio.CancelledError
            started_at = time.monotonic()
            for member in there:
                member.started_at = started_at
            images = [member.photo.prepare().pixels for member in there]
            results = iter(self._sessions.run(images, members[0].outputs, threads))
            return [next(results) if member in there else {} for member in members]

        return self._workers.run(run)

    def rebuild(self, threads: int) -> Awaitable[bool]:
        return self._rebuilt(self._workers.run(partial(self._sessions.rebuild, threads)))

    async def _rebuilt(self, rebuilding: Awaitable[None]) -> bool:
        try:
            await rebuilding
        except Exception as error:
            identity = self._identity
            _log.error(
                "session_not_rebuilt", model=identity.name, version=identity.version, exc_info=error
            )
            return False
        return True
