"""A loaded model version: its identity, its limits, and inference."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from service.batching.batcher import DynamicBatcher
from service.batching.interface import Held, Inference, QueueBounds, combine
from service.batching.plan import ExecutionPlan
from service.batching.queue import Answer, PendingInference, Urgency
from service.batching.runner import BatchRunner
from service.batching.token_sampler import TokenSampler
from service.images.photo import Photo, PreparedImage
from service.runtime.device import Device
from service.runtime.execution_providers import CPU
from service.runtime.graph_sessions import GraphSessions
from service.schema.certificate import Certificate
from service.schema.contract import Contract
from service.schema.model_status import Batching
from service.schema.token_head import TokenHead
from service.telemetry.events import BatchEvents, ModelBuild, ModelIdentity
from service.telemetry.metrics.inference import VersionTelemetry

CLOSE_SECONDS = 5.0
"""Time limit of `close`; a batch that is still running is left to its thread."""


class ModelInstance(Held):
    """A loaded model version that runs in this process; see `Instance`."""

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
        head: TokenHead | None = None,
        tokens: TokenSampler | None = None,
    ) -> None:
        super().__init__()
        self.identity = identity
        self.contract = contract
        self.certificate = certificate
        self.build = build
        self.head = head
        self.max_batch_size = max_batch_size
        self.telemetry = telemetry
        """Counts the requests of this instance."""
        self.outage: str | None = None
        self.on_outage: Callable[[], None] = lambda: None
        self.prepare_first = _prepare_first(contract, build, plan)
        self._sessions = sessions
        self.tokens = tokens
        """Samples the visual tokens, if the model has any."""
        self._events = events
        self._plan = plan
        single_seconds = plan.seconds(plan.widths[0].threads, 1)
        self.bounds = QueueBounds(identity.name, max_queue_size, single_seconds)
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
        self.submit = self._batcher.submit
        """Start or queue inferences without waiting; their futures are set later."""
        self.withdraw = self._batcher.withdraw
        """Drop inferences whose caller has left; running ones are not interrupted."""

    @property
    def pending(self) -> int:
        """Number of images admitted and not yet predicted."""
        return self._batcher.in_flight

    @property
    def executing(self) -> int:
        """Number of batches currently running."""
        return self._batcher.executing

    @property
    def seconds_per_image(self) -> float:
        """The measured rate at which the queue empties."""
        return self._batcher.rate.seconds_per_image

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
            max_queue_size=self.bounds.max_queue_size,
            measurements=list(plan.measurements),
            measured_at=(height, width),
        )

    def check(self, images: int, deadline: float) -> None:
        """Reject images that cannot be predicted in time, as `QueueBounds.check` does."""
        left = deadline - asyncio.get_running_loop().time()
        rate = self._batcher.rate.seconds_per_image
        self.bounds.check(images, self._batcher.in_flight, rate, left)

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
        names, now, sampler = tuple(outputs), time.monotonic(), self.tokens
        is_sampled = sampler is not None and now >= sampler.due_at
        fetched = sampler.extend(names, now) if sampler is not None and is_sampled else names
        futures: list[asyncio.Future[Answer]] = [loop.create_future() for _ in photos]
        inferences = [
            PendingInference(photo, fetched, urgency, now, future)
            for photo, future in zip(photos, futures, strict=True)
        ]
        self.submit(inferences)
        try:
            if len(futures) == 1:
                answers = [await futures[0]]
            else:
                answers = await asyncio.gather(*futures)
        except BaseException:
            self.withdraw(inferences)
            raise
        ended_at = time.monotonic()
        if sampler is not None and is_sampled:
            sampler.describe(answers[0][0])
            answers = [
                Answer({name: outputs[name] for name in names}, run) for outputs, run in answers
            ]
        return combine(answers, now, ended_at)

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
