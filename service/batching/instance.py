"""A loaded model version: its identity, its limits, and inference."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from service.batching.batcher import DynamicBatcher
from service.batching.plan import ExecutionPlan
from service.batching.queue import Answer, PendingInference, Urgency
from service.batching.runner import BatchRunner
from service.errors import DeadlineUnreachable, Outcome, PayloadTooLarge, QueueFull
from service.images.photo import Photo, PreparedImage
from service.runtime.arrays import Outputs
from service.runtime.device import Device
from service.runtime.execution_providers import CPU
from service.runtime.graph_sessions import GraphSessions
from service.schema.certificate import Certificate
from service.schema.contract import Contract
from service.schema.model_status import Batching
from service.schema.open_inference import ModelStatistics
from service.telemetry.events import BatchEvents, ModelBuild, ModelIdentity
from service.telemetry.metrics.inference import VersionTelemetry

WAIT_MARGIN = 1.15
"""Safety factor on the predicted wait, so that admitted requests meet their deadlines."""
CLOSE_SECONDS = 5.0
"""Time limit of `close`; a batch that is still running is left to its thread."""


@dataclass(frozen=True, slots=True)
class Inference:
    """The outputs of each photo in order, the time of each stage, and the largest batch.

    `queue_seconds` ends when the first photo starts; the remaining time is split in proportion to
    the time the executions spent preparing images and running the model.
    """

    outputs: list[Outputs]
    queue_seconds: float
    decode_seconds: float
    compute_seconds: float
    batch_size: int


class ModelInstance:
    """A loaded model version. Belongs to the event loop.

    `outage` is the reason why it cannot serve at present, or None; `on_outage` is called on the
    event loop whenever `outage` changes. `prepare_first` is whether photos should be prepared
    before `infer`. `max_batch_size` is the largest batch allowed; the plan may choose smaller ones.
    """

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
        self.telemetry = telemetry
        """Counts the requests of this instance."""
        self.outage: str | None = None
        self.on_outage: Callable[[], None] = lambda: None
        self.prepare_first = _prepare_first(contract, build, plan)
        self._sessions = sessions
        self._events = events
        self._plan = plan
        self._single_seconds = plan.seconds(plan.widths[0].threads, 1)
        self._max_queue_size = max_queue_size
        self._users = 0
        self._let_go = asyncio.Event()
        self._batcher = DynamicBatcher(
            identity=identity,
            runner=BatchRunner(sessions, device.workers),
            plan=plan,
            device=device,
            events=events,
            statistics=telemetry.statistics,
            is_on_cpu=build.active_provider == CPU,
            outage_changed=self._change_outage,
            rebuilt=self._report_rebuilt,
        )

    @property
    def pending(self) -> int:
        """Number of images admitted and not yet predicted."""
        return self._batcher.in_flight

    @property
    def executing(self) -> int:
        """Number of batches currently running."""
        return self._batcher.executing

    @property
    def oldest_wait_seconds(self) -> float:
        """Time the oldest image in the queue has been waiting; 0 if the queue is empty."""
        oldest = self._batcher.queue.oldest
        return 0.0 if oldest is None else max(0.0, time.monotonic() - oldest.arrived_at)

    @property
    def predicted_wait_seconds(self) -> float:
        """Predicted wait of one more image, at the measured rate."""
        return self._batcher.in_flight * self._batcher.rate.seconds_per_image

    @property
    def batching(self) -> Batching:
        """The description of batching for clients."""
        plan = self._plan
        width, height = self.contract.preprocessing.common_size
        return Batching(
            widths=list(plan.widths),
            max_queue_delay_microseconds=round(plan.max_queue_delay_seconds * 1e6),
            max_queue_size=self._max_queue_size,
            measurements=list(plan.measurements),
            measured_at=(height, width),
        )

    def model_statistics(self) -> ModelStatistics:
        """Return the statistics of this version since it was loaded."""
        return self.telemetry.statistics.wire(self.identity.name, self.identity.version)

    def failures(self) -> dict[Outcome, int]:
        """Count the failed requests by outcome."""
        return self.telemetry.statistics.failures

    def check(self, images: int, deadline: float) -> None:
        """Reject images that cannot be predicted in time; reserve nothing.

        Raises:
            PayloadTooLarge: there are more images than the queue can ever hold.
            QueueFull: the queue has no room for them now.
            DeadlineUnreachable: the queue has room, but the predicted wait is too long.
        """
        pending, limit = self._batcher.in_flight, self._max_queue_size
        if pending + images > limit:
            self._refuse(images)
        if pending:
            wait = pending * self._batcher.rate.seconds_per_image
            left = deadline - asyncio.get_running_loop().time()
            late = WAIT_MARGIN * wait + self._single_seconds - left
            if late > 0:
                raise DeadlineUnreachable(
                    f"The wait for the model {self.identity.name} is {wait:.1f} s, longer than "
                    "this request's deadline allows; try again later.",
                    late,
                )

    def _refuse(self, images: int) -> None:
        name, limit = self.identity.name, self._max_queue_size
        if images > limit:
            raise PayloadTooLarge(f"The model {name} takes at most {limit} images at a time.")
        raise QueueFull(
            f"The model {name} has {self.pending} images waiting; try again later.",
            self.predicted_wait_seconds,
        )

    def reserve(self, images: int, deadline: float) -> None:
        """Reserve room for a request's images until `free`; reject them as `check` does."""
        self.check(images, deadline)
        self._batcher.in_flight += images

    def free(self, images: int) -> None:
        """Free reserved room."""
        self._batcher.in_flight -= images

    async def infer(
        self, photos: Sequence[Photo | PreparedImage], outputs: Sequence[str], urgency: Urgency
    ) -> Inference:
        """Predict any number of photos of any sizes; only the named outputs are computed.

        A photo that is not prepared is prepared in the thread that runs it. If the caller leaves,
        photos that have not started are dropped.
        """
        loop = asyncio.get_running_loop()
        names, now = tuple(outputs), time.monotonic()
        inferences = [
            PendingInference(photo, names, urgency, now, loop.create_future()) for photo in photos
        ]
        self._batcher.submit(inferences)
        try:
            if len(inferences) == 1:
                answers = [await inferences[0].future]
            else:
                answers = await asyncio.gather(*(each.future for each in inferences))
        except BaseException:
            self._batcher.withdraw(inferences)
            raise
        return _inference(answers, now, time.monotonic())

    def hold(self) -> None:
        """Keep the instance loaded until `let_go`; do not await between finding and holding it."""
        self._users += 1

    def let_go(self) -> None:
        """End a `hold`."""
        self._users -= 1
        if self._users == 0:
            self._let_go.set()

    async def drain(self, seconds: float) -> None:
        """Wait until the instance is no longer held, for at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._users:
                    self._let_go.clear()
                    await self._let_go.wait()

    async def close(self) -> None:
        """Fail waiting images, wait for running batches unless they hang, and free the sessions."""
        self._batcher.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if self._batcher.recovery.is_hung else CLOSE_SECONDS):
                await self._batcher.drain()
        self._sessions.close()

    def _change_outage(self, outage: str | None) -> None:
        self.outage = outage
        self.on_outage()

    def _report_rebuilt(self) -> None:
        """Report a new session, which may run on another execution provider."""
        placement = self._sessions.placement
        self.build = replace(
            self.build,
            requested_provider=placement.requested,
            active_provider=placement.active,
            nodes_on_cpu=placement.nodes_on_cpu,
        )
        self._events.session_rebuilt(self.identity, self.build)


def _prepare_first(contract: Contract, build: ModelBuild, plan: ExecutionPlan) -> bool:
    """Return whether batches are worthwhile and need photos that are already prepared.

    On a CPU, the thread that runs a batch also prepares it: preparing a photo in another thread
    would mean waiting for the interpreter lock once more. Photos of varying shapes must be prepared
    before batches can be formed, and a GPU should not wait for photos.
    """
    varies = contract.preprocessing.fixed_shape is None or build.active_provider != CPU
    return varies and any(width.max_batch_size > 1 for width in plan.widths)


def _inference(answers: Sequence[Answer], arrived_at: float, ended_at: float) -> Inference:
    """Combine the results of a request's photos."""
    outputs, began, preparing, executing, batch_size = [], math.inf, 0.0, 0.0, 0
    for output, run in answers:
        outputs.append(output)
        began = min(began, run.started)
        preparing += run.prepared - run.started
        executing += run.ended - run.started
        batch_size = max(batch_size, run.batch_size)
    spent = ended_at - began
    decode = spent * preparing / executing if executing else 0.0
    return Inference(outputs, began - arrived_at, decode, spent - decode, batch_size)
