"""What every request for predictions goes through: admitted, read, answered, counted."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request, Response
from starlette.background import BackgroundTask

from service.admission import Admission, Deadline
from service.errors import ModelNotReady, Outcome, ServiceError
from service.events import Events
from service.inference import Job
from service.model_instance import ModelInstance
from service.model_version import ModelVersion
from service.preprocessing import EncodedOrPrepared
from service.request_queue import Urgency
from service.routes.request_body import (
    BodyLimits,
    read_body,
    requested_timeout,
    unless_disconnected,
)
from service.shadow import Shadow
from service.stage_timer import StageTimer

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
        shadow: Shadow | None = None,
    ) -> None:
        self._admission = admission
        self._body = body
        self._events = events
        self._shadow = shadow

    async def answer(
        self, request: Request, version: ModelVersion, read: ReadImages, predict: Predict
    ) -> Response:
        """Return what `predict` makes of the images that `read` finds in the body."""
        instance = self._ready_instance(request, version)
        with instance.hold():
            return await self._answer(request, instance, read, predict)

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
            async with self._admission.request(requested_timeout(request)) as deadline:
                instance.check(1, deadline.at)  # before the body is read: a refusal is cheap
                with timer.stage("receive"):
                    images, request_bytes = await self._receive(request, instance, read, deadline)
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

    async def _receive(
        self, request: Request, instance: ModelInstance, read: ReadImages, deadline: Deadline
    ) -> tuple[Images, int]:
        """Return the body's images and its size; the body itself is not kept."""
        body = await read_body(request, self._body)
        return await read(instance, body, deadline), len(body)
