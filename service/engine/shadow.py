"""Shadow versions: run copies of some requests on another version, and compare the predictions."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from service.batching.interface import Instance
from service.batching.queue import Urgency
from service.engine.inference import ImageInference, Inferred
from service.images.photo import EncodedOrPrepared, PreparedImage, size_in_bytes
from service.runtime.arrays import Array
from service.schema.shadow_rule import ShadowRule
from service.schema.tasks import TASKS
from service.telemetry.events import ShadowDrop, ShadowEvents
from service.telemetry.timings import Timings

MAX_WAITING = 64
"""Limit on the images that wait for a comparison; beyond it, or a total size, they are dropped."""
MAX_WAITING_BYTES = 32 * 1024 * 1024
TIMEOUT_SECONDS = 30.0

Find = Callable[[str, str], Instance]
"""Return the instance of a model version; raises `ServiceError` if it is not ready."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class _Copy:
    """An image, and the outputs that the serving version returned for it."""

    image: EncodedOrPrepared
    prediction: Array

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.prediction.nbytes + size_in_bytes(self.image)


def _own(image: EncodedOrPrepared) -> EncodedOrPrepared:
    """Return an image that stays as it is: pixels may be in memory that others will use."""
    if not isinstance(image, PreparedImage):
        return image
    return PreparedImage(image.pixels.copy(), image.photo_width, image.photo_height)


class Shadow:
    """Runs copies on the shadow version in the background, while nothing else is waiting.

    Images that cannot be compared are counted and dropped; they never affect a request.
    """

    def __init__(
        self, rule: ShadowRule, find: Find, inference: ImageInference, events: ShadowEvents
    ) -> None:
        self._rule = rule
        self._find = find
        self._inference = inference
        self._events = events
        self._comparable = 0
        self._waiting: deque[_Copy] = deque()
        self._comparison: asyncio.Task[None] | None = None

    def answered(self, instance: Instance, inferred: Inferred) -> None:
        """Copy a request that `instance` has answered, if it is due; never wait."""
        identity = instance.identity
        if identity.name != self._rule.model or identity.version == self._rule.version:
            return
        prediction = instance.contract.prediction
        if prediction in inferred.outputs[0]:  # only predictions are compared
            self._comparable += 1
            if self._rule.is_due(self._comparable):
                self._copy(inferred.images, [each[prediction] for each in inferred.outputs])
        self._compare_next(instance)

    def _copy(self, images: Sequence[EncodedOrPrepared], predictions: Sequence[Array]) -> None:
        copies = [_Copy(_own(image), each) for image, each in zip(images, predictions, strict=True)]
        waiting = len(self._waiting) + len(copies)
        held = sum(each.size for each in [*self._waiting, *copies])
        if waiting > MAX_WAITING or held > MAX_WAITING_BYTES:
            self._drop(len(copies), "busy")
        else:
            self._waiting.extend(copies)

    def _compare_next(self, instance: Instance) -> None:
        """Continue while no image waits for the serving instance."""
        if self._comparison is None and self._waiting and instance.pending == 0:
            self._comparison = asyncio.create_task(self._compare(self._waiting.popleft()))
            self._comparison.add_done_callback(lambda _: self._compared(instance))

    def _compared(self, instance: Instance) -> None:
        self._comparison = None
        self._compare_next(instance)

    async def _compare(self, copy: _Copy) -> None:
        try:
            agreement = await self._agreement(copy)
        except Exception as error:
            self._drop(1, "failed")
            _log.debug("shadow_failed", model=self._rule.model, error=str(error))
        else:
            self._events.shadow_compared(self._rule.model, self._rule.version, agreement)

    async def _agreement(self, copy: _Copy) -> float:
        other = self._find(self._rule.model, self._rule.version)
        deadline = asyncio.get_running_loop().time() + TIMEOUT_SECONDS
        prediction = other.contract.prediction
        urgency = Urgency(deadline, is_background=True)
        other.hold()
        try:
            async with asyncio.timeout_at(deadline):
                inferred = await self._inference.infer(
                    other, [copy.image], [prediction], urgency, Timings()
                )
        finally:
            other.let_go()
        other.telemetry.predicted(inferred.describe(other))
        found = inferred.outputs[0][prediction]
        return TASKS[other.identity.task].agreement([(copy.prediction, found)])

    def _drop(self, images: int, reason: ShadowDrop) -> None:
        self._events.shadow_dropped(self._rule.model, self._rule.version, images, reason)

    async def close(self) -> None:
        """Drop the waiting copies, and stop the running comparison."""
        self._waiting.clear()
        if self._comparison is not None:
            self._comparison.cancel()
            with suppress(asyncio.CancelledError):
                await self._comparison
