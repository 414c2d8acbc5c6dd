"""Copies of some requests to another version of their model, whose answers are compared."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import structlog

from service.batching.instance import ModelInstance
from service.batching.queue import Urgency
from service.engine.inference import Job, PhotoInference
from service.images.photo import EncodedOrPrepared
from service.runtime.session import Array
from service.schema.shadow_rule import ShadowRule
from service.schema.vocabulary import Task
from service.telemetry.events import Events, ShadowDrop
from service.telemetry.stage_timer import StageTimer

MAX_WAITING = 64
"""Images that wait to be compared; more, or larger ones in all, are dropped."""
MAX_WAITING_BYTES = 32 * 1024 * 1024
TIMEOUT_SECONDS = 30.0

Find = Callable[[str, str], ModelInstance]
"""Return the instance of a model's version; raises `ServiceError` where it does not serve."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class _Copy:
    """An image, and what the version that was asked made of it."""

    image: EncodedOrPrepared
    prediction: Array

    @property
    def size(self) -> int:
        """Bytes held."""
        image = self.image
        return self.prediction.nbytes + (
            len(image) if isinstance(image, bytes) else image.pixels.nbytes
        )


class Shadow:
    """Asks the other version while nobody waits for the one that answers: one image at a time,
    in the background.

    What cannot be compared is counted and forgotten; no request ever hears of it.
    """

    def __init__(
        self, rule: ShadowRule, find: Find, inference: PhotoInference, events: Events
    ) -> None:
        self._rule = rule
        self._find = find
        self._inference = inference
        self._events = events
        self._comparable = 0
        self._waiting: deque[_Copy] = deque()
        self._comparison: asyncio.Task[None] | None = None

    async def answered(self, instance: ModelInstance, job: Job) -> None:
        """Copy what is due of a request whose answer has left; waits for nothing."""
        identity = instance.identity
        if identity.name != self._rule.model or identity.version == self._rule.version:
            return
        if job.predictions:  # a request for other outputs has nothing to compare
            self._comparable += 1
            if self._rule.is_due(self._comparable):
                self._copy(job)
        self._compare_next(instance)

    def _copy(self, job: Job) -> None:
        copies = list(map(_Copy, job.images, job.predictions))
        images = len(self._waiting) + len(copies)
        held = sum(each.size for each in [*self._waiting, *copies])
        if images > MAX_WAITING or held > MAX_WAITING_BYTES:
            self._drop(len(copies), "busy")
        else:
            self._waiting.extend(copies)

    def _compare_next(self, instance: ModelInstance) -> None:
        """Go on while nobody waits for the instance that answers; its next answer comes back."""
        if self._comparison is None and self._waiting and instance.pending == 0:
            self._comparison = asyncio.create_task(self._compare(self._waiting.popleft()))
            self._comparison.add_done_callback(lambda _: self._compared(instance))

    def _compared(self, instance: ModelInstance) -> None:
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
        job = Job([copy.image], Urgency(deadline, is_background=True), StageTimer())
        other.hold()
        try:
            async with asyncio.timeout_at(deadline):
                await self._inference.infer(other, job)
        finally:
            other.let_go()
        return agreement(other.identity.task, copy.prediction, job.predictions[0])

    def _drop(self, images: int, reason: ShadowDrop) -> None:
        self._events.shadow_dropped(self._rule.model, self._rule.version, images, reason)

    async def close(self) -> None:
        """Forget what waits, and stop what runs."""
        self._waiting.clear()
        if self._comparison is not None:
            self._comparison.cancel()
            with suppress(asyncio.CancelledError):
                await self._comparison


def agreement(task: Task, one: Array, other: Array) -> float:
    """Whether two predictions name the same class (1 or 0), or the share of equal pixels."""
    if task is Task.CLASSIFICATION:
        return float(one.argmax() == other.argmax())
    return float(np.mean(one == other)) if one.shape == other.shape else 0.0
