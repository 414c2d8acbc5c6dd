"""What every request for predictions goes through: admitted, read, answered, counted."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import Request, Response
from starlette.background import BackgroundTask

from service.batching.instance import ModelInstance
from service.batching.queue import Urgency
from service.engine.admission import Admission, Admitted, Deadline
from service.engine.inference import Job
from service.engine.shadow import Shadow
from service.errors import ModelNotReady, Outcome, ServiceError
from service.http.routes.content_encoding import decompress
from service.http.routes.request_body import (
    BodyLimits,
    read_body,
    requested_timeout,
    unless_disconnected,
)
from service.images.photo import EncodedOrPrepared
from service.repository.version import ModelVersion
from service.runtime.image_threads import ImageThreads
from service.telemetry.events import Events
from service.telemetry.stage_timer import StageTimer

Images = Sequence[EncodedOrPrepared]
ReadImages = Callable[[ModelInstance, bytes, Deadline], Awaitable[Images]]
Predict = Callable[[ModelInstance, Job], Coroutine[Any, Any, Response]]


class Serving:
    """The life of a request for predictions, whatever its body and its answer are like."""

    def __init__(
        self,
        admission: Admission,
        body: BodyLimits,
        events: Events,
        pool: ImageThreads,
        shadow: Shadow | None = None,
    ) -> None:
        self._admission = admission
        self._body = body
        self._events = events
        self._pool = pool
        self._shadow = shadow

    async def answer(
        self, request: Request, version: ModelVersion, read: ReadImages, predict: Predict
    ) -> Response:
        """Return what `predict` makes of the images that `read` finds in the body."""
        instance = self._ready_instance(request, version)
        instance.hold()
        try:
            return await self._answer(request, instance, read, predict)
        finally:
            instance.let_go()

    def _ready_instance(self, request: Request, version: ModelVersion) -> ModelInstance:
        """Return what serves a version; who asks for one that does not serve is counted."""
        try:
            return version.ready_instance()
        except ModelNotReady as error:
            state = request.state
            state.model, state.version = version.name, version.version
            state.outcome = error.outcome
            self._events.inference_unavailable(version.name, version.version, version.task)
            raise

    async def _answer(
        self, request: Request, instance: ModelInstance, read: ReadImages, predict: Predict
    ) -> Response:
        timer = StageTimer()
        state, model = request.state, instance.identity
        state.model, state.version, state.stages = model.name, model.version, timer
        outcome: Outcome = "cancelled"
        images: Images = []
        try:
            async with self._admit(request) as admitted:
                deadline = admitted.deadline
                instance.check(1, deadline.at)  # before the body is read: a refusal is cheap
                with timer.stage("receive"):
                    images, request_bytes = await self._receive(request, instance, read, admitted)
                urgency = Urgency(deadline.at, is_default_deadline=deadline.is_default)
                job = Job(images, urgency, timer)
                response = await unless_disconnected(request, predict(instance, job))
            outcome = "ok"
            self._events.bodies_exchanged(model, request_bytes, len(response.body))
            if self._shadow is not None:
                response.background = BackgroundTask(self._shadow.answered, instance, job)
        except Exception as error:
            outcome = error.outcome if isinstance(error, ServiceError) else "error"
            raise
        finally:
            state.outcome = outcome
            predicted = len(images) if outcome == "ok" else 0
            instance.statistics.answered(outcome, predicted, timer.seconds)
            self._events.inference_finished(model, outcome, predicted, timer.seconds)
        return response

    def _admit(self, request: Request) -> AbstractAsyncContextManager[Admitted]:
        """Let a request in; while the server drains, those whose connection was there before."""
        came_before_drain = request.scope["state"].get("came_before_drain", False)
        return self._admission.request(
            requested_timeout(request), came_before_drain=came_before_drain
        )

    async def _receive(
        self, request: Request, instance: ModelInstance, read: ReadImages, admitted: Admitted
    ) -> tuple[Images, int]:
        """Return the body's images and its size; the body itself is not kept."""
        body = await read_body(request, self._body, admitted.take_bytes)
        admitted.take_place()
        decoded = await self._decoded(request, body)
        return await read(instance, decoded, admitted.deadline), len(body)

    async def _decoded(self, request: Request, body: bytes) -> bytes:
        """Return a body as it was before it was compressed, within the same limit."""
        encoding = request.headers.get("content-encoding")
        if encoding is None:
            return body
        return await self._pool.run(decompress, body, encoding, self._body.max_bytes)
