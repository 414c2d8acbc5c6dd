"""A prediction request, from its admission until its outcome is counted."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Self

from service.batching.interface import Instance
from service.batching.queue import Urgency
from service.engine.admission import Admission
from service.engine.inference import ImageInference, Inferred
from service.engine.shadow import Shadow
from service.errors import InvalidRequest, ModelNotReady, Outcome, PayloadTooLarge, ServiceError
from service.images.photo import EncodedOrPrepared
from service.repository.version import ModelVersion
from service.telemetry.events import InferenceEvents
from service.telemetry.timings import Timings


@dataclass(frozen=True, slots=True)
class CallParts:
    """Parts of the engine that every call uses."""

    admission: Admission
    inference: ImageInference
    events: InferenceEvents
    shadow: Shadow | None
    max_images: int


class Call:
    """A prediction request: `async with` admits it, and counts its outcome.

    It holds its model version until it ends. At the deadline, which is on the event loop's clock,
    the block is cancelled and `DeadlineExceeded` is raised.

    A transport reads the body inside the block: it calls `take_bytes` for each part, and
    `take_place` at its end.
    """

    __slots__ = (
        *("deadline", "instance", "is_default_deadline", "outcome", "response_bytes"),
        *(
            "timings",
            "version",
            "warnings",
            "_allowed",
            "_body_bytes",
            "_came_before_drain",
            "_inferred",
        ),
        *("_parts", "_placed_at", "_started", "_timeout"),
    )

    instance: Instance
    """The model version that runs the request, once it is admitted."""

    def __init__(
        self,
        parts: CallParts,
        version: ModelVersion,
        timeout_seconds: float | None = None,
        *,
        came_before_drain: bool = False,
    ) -> None:
        """Prepare a call; a request may shorten the default timeout, but not extend it."""
        default = parts.admission.timeout_seconds
        self.version = version
        self.timings = Timings()
        self.outcome: Outcome | None = None
        self.is_default_deadline = timeout_seconds is None
        self.warnings: list[str] = []
        """Doubts about images that the client should know of."""
        self.response_bytes: int | None = None
        """Size of the response's body, if the transport has one."""
        self._parts = parts
        self._allowed = default if timeout_seconds is None else min(timeout_seconds, default)
        self._started = asyncio.get_running_loop().time()
        self.deadline = self._started + self._allowed
        self._timeout = asyncio.Timeout(self.deadline)
        self._came_before_drain = came_before_drain
        self._body_bytes = 0
        self._placed_at: float | None = None
        self._inferred: Inferred | None = None

    async def __aenter__(self) -> Self:
        """Hold the version's instance and admit the request, or reject it.

        Raises:
            ModelNotReady: the version is not ready.
            QueueFull: a limit is reached.
            DeadlineUnreachable: not even one image would be predicted in time.
            ServerStopping: the server is draining.
        """
        parts = self._parts
        try:
            self.instance = self.version.ready_instance()
        except ModelNotReady as error:
            self.outcome = error.outcome
            version = self.version
            parts.events.inference_unavailable(version.name, version.version, version.task)
            raise
        self.instance.hold()
        try:
            parts.admission.enter(self._timeout, came_before_drain=self._came_before_drain)
            self.instance.check(1, self.deadline)
        except ServiceError as error:
            self._end(error)
            raise
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count the outcome of the call, and release what it held."""
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            late = self._parts.admission.late(self._allowed)
            self._end(late)
            raise late from None
        self._end(error)

    def shorten(self, seconds: float) -> None:
        """Shorten the timeout to a total of `seconds`, unless it is shorter already."""
        if seconds < self._allowed:
            self._allowed, self.is_default_deadline = seconds, False
            self.deadline = self._started + seconds
            self._timeout.reschedule(self.deadline)

    def take_bytes(self, size: int) -> None:
        """Reserve room for a part of the body; raises `QueueFull` if there is not enough."""
        self._parts.admission.take_bytes(size)
        self._body_bytes += size

    def take_place(self) -> None:
        """Put the call in flight once its body has arrived; raises `QueueFull` at the limit."""
        self._parts.admission.take_place()
        self._placed_at = monotonic()

    async def infer(
        self,
        images: Sequence[EncodedOrPrepared],
        names: Sequence[str] | None = None,
        *,
        priority: int = 0,
        stacked: bool = False,
    ) -> Inferred:
        """Return the named outputs of each image; by default, the prediction."""
        if not images:
            raise InvalidRequest("The request contains no image.")
        if len(images) > self._parts.max_images:
            raise PayloadTooLarge.images(self._parts.max_images)
        if names is None:
            names = (self.instance.contract.prediction,)
        urgency = Urgency(self.deadline, priority, self.is_default_deadline)
        self._inferred = await self._parts.inference.infer(
            self.instance, images, names, urgency, self.timings, stacked=stacked
        )
        for index, photo in enumerate(self._inferred.photos):
            if photo.prepared is not None and photo.prepared.warning is not None:
                self.warnings.append(f"image {index}: {photo.prepared.warning}")
        return self._inferred

    def _end(self, error: BaseException | None) -> None:
        parts, instance = self._parts, self.instance
        self.outcome = outcome = _outcome(error)
        seconds = None if self._placed_at is None else monotonic() - self._placed_at
        parts.admission.leave(self._timeout, self._body_bytes, seconds)
        inferred, self._inferred = self._inferred if outcome == "ok" else None, None
        try:
            instance.telemetry.finished(
                outcome,
                self.timings,
                0 if inferred is None else len(inferred.images),
                request_bytes=self._body_bytes,
                response_bytes=self.response_bytes,
                predictions=() if inferred is None else inferred.describe(instance),
            )
            if parts.shadow is not None and inferred is not None:
                parts.shadow.answered(instance, inferred)
        finally:
            instance.let_go()


def _outcome(error: BaseException | None) -> Outcome:
    if error is None:
        return "ok"
    if isinstance(error, ServiceError):
        return error.outcome
    return "error" if isinstance(error, Exception) else "cancelled"
