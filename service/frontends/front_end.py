"""A front end, as the engine sees it: its connection, its requests and its instances."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from service.batching.instance import ModelInstance
from service.errors import ModelNotReady, ServerStopping, ServiceError
from service.frontends.calls import Calls
from service.frontends.channel import Channel
from service.frontends.messages import Kind, failed_message, number_in
from service.frontends.remote_request import Bytes, Infer, RemoteRequest
from service.images.photo import PreparedImage
from service.runtime.arrays import Outputs

if TYPE_CHECKING:
    from service.frontends.hub import Hub

STALL_SECONDS = 5.0
"""A front end that reads nothing for so long, although something waits for it, is ended."""
SILENCE_SECONDS = 30.0
"""So is one that does not reply to a call for so long."""

_log = structlog.get_logger()


class FrontEnd:
    """Handles the messages of a front end; `lost` is called when it has ended."""

    def __init__(
        self, hub: "Hub", index: int, arena: Bytes, lost: Callable[["FrontEnd"], None]
    ) -> None:
        self.index = index
        self.seen = 0
        """The last state of the models that the front end knows."""
        self.leases: dict[int, ModelInstance] = {}
        """The instances that are kept for its requests, by number."""
        self.channel = Channel(self._handle, self._end)
        self.calls = Calls(self.channel.send, hub.perform)
        self._hub = hub
        self._lost = lost
        self._arena = arena
        self._requests: dict[int, RemoteRequest] = {}
        self._sent_bytes = 0
        self._progress_at = self._heard_at = time.monotonic()

    def lease(self, number: int, instance: ModelInstance) -> None:
        """Keep an instance until the front end gives it back, or ends."""
        if number not in self.leases:
            self.leases[number] = instance
            instance.hold()

    def is_stuck(self, now: float) -> bool:
        """Return whether the front end neither reads nor replies."""
        if self.channel.sent_bytes != self._sent_bytes or not self.channel.unsent_bytes:
            self._sent_bytes, self._progress_at = self.channel.sent_bytes, now
        stalled, silent = now - self._progress_at, now - self._heard_at
        return stalled > STALL_SECONDS or silent > SILENCE_SECONDS

    async def report(self) -> dict[str, Any]:
        """Return what the front end has counted since its last report."""
        counts: dict[str, Any] = await self.calls.call("report")
        self._heard_at = time.monotonic()
        return counts

    def _handle(self, kind: int, content: memoryview) -> None:
        match kind:
            case Kind.INFER:
                self._infer(content)
            case Kind.CANCEL:
                request = self._requests.get(number_in(content))
                if request is not None:
                    request.fail(ServerStopping("The client disconnected."))
            case Kind.RELEASE:
                self._give_back(number_in(content))
            case Kind.SEEN:
                self.seen = number_in(content)
                self._hub.seen()
            case Kind.CALL:
                self.calls.called(content)
            case Kind.REPLY:
                self.calls.replied(content)
            case Kind.MAKE_ROOM:
                self._hub.make_room(self.index, number_in(content))

    def _infer(self, content: memoryview) -> None:
        infer = Infer(content, self._arena)
        try:
            instance = self.leases.get(infer.instance)
            if instance is None:
                raise ModelNotReady("The model has been unloaded.")
            self._submit(infer, instance)
        except ServiceError as error:
            self.channel.send(failed_message(infer.number, error))

    def _submit(self, infer: Infer, instance: ModelInstance) -> None:
        count = len(infer.images)
        names = self._hub.outputs(infer.instance, instance, infer.bits)
        instance.reserve(count, infer.urgency.deadline)
        request = RemoteRequest(infer, instance, self.channel.send, self._ended)
        self._requests[infer.number] = request
        try:
            request.submit(names, time.monotonic())
        except ServiceError:
            del self._requests[infer.number]
            instance.free(count)
            raise

    def _ended(
        self, infer: Infer, instance: ModelInstance, outputs: Sequence[Outputs] | None
    ) -> None:
        del self._requests[infer.number]
        images: list[PreparedImage] = infer.images
        instance.free(len(images))
        self._hub.ended(instance, images, outputs)

    def _give_back(self, number: int) -> None:
        instance = self.leases.pop(number, None)
        if instance is not None:
            instance.let_go()

    def _end(self) -> None:
        """Drop the requests of a front end that has ended, and give its instances back."""
        error = ServerStopping("The front end has ended.")
        for request in list(self._requests.values()):
            request.fail(error)
        for number in list(self.leases):
            self._give_back(number)
        self.calls.close(error)
        self._lost(self)
