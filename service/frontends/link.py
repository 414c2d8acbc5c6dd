"""A front end's connection to the engine: predictions, the state of the models, and rare calls."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from service.batching.queue import Answer, Urgency
from service.errors import ServerStopping
from service.frontends.calls import Calls
from service.frontends.cells import CellImage
from service.frontends.channel import Channel
from service.frontends.messages import (
    IMAGE,
    INFER_HEAD,
    INLINE,
    NUMBER,
    Flag,
    Kind,
    answers_in,
    failure_in,
    message,
    number_in,
    number_message,
)
from service.frontends.state import RepositoryState
from service.images.photo import PreparedImage

ENGINE_LOST = "The engine has failed; the service restarts."


class _Waiting(NamedTuple):
    """A request in the engine. Its images stay in their cells while this refers to them."""

    future: "asyncio.Future[list[Answer]]"
    images: Sequence[PreparedImage]
    outputs: tuple[str, ...]


class Owner(Protocol):
    """What a connection to the engine is for."""

    async def perform(self, name: str, arguments: dict[str, Any]) -> Any:
        """Perform a call of the engine."""

    def update(self, state: RepositoryState) -> None:
        """Follow a change of the models."""

    def make_room(self, port: int) -> None:
        """Close an idle connection on a port: another front end needs it."""

    def stop(self) -> None:
        """Answer what is admitted, and end; answer nothing more if called again."""

    def lost(self) -> None:
        """End: the engine has ended."""


class Link:
    """Sends requests to the engine, and receives its answers and the state of the models.

    Each request gets one reply: its answers or an error. Until then its cells are in use, even if
    its caller has left.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.channel = Channel(self._handle, self._end)
        self.calls = Calls(self.channel.send, owner.perform)
        self.has_state = asyncio.Event()
        """Set once the state of the models is known, or the engine is lost."""
        self._is_lost = self._is_closing = False
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}

    async def predict(
        self,
        instance: int,
        images: Sequence[PreparedImage],
        outputs: tuple[str, ...],
        bits: int,
        urgency: Urgency,
    ) -> list[Answer]:
        """Return the answers of images; if the caller leaves, those that have not run are dropped.

        `bits` are the places of the outputs in the contract. They come back in that order.
        """
        if self._is_lost:
            raise ServerStopping(ENGINE_LOST)
        number = next(self._numbers)
        future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = _Waiting(future, images, outputs)
        self.channel.send(_infer_message(number, instance, images, bits, urgency))
        try:
            return await future
        except asyncio.CancelledError:
            self.channel.send(number_message(Kind.CANCEL, number))
            raise

    def give_back(self, instance: int) -> None:
        """Tell the engine that no request uses an instance any more."""
        self.channel.send(number_message(Kind.RELEASE, instance))

    def make_room_elsewhere(self, port: int) -> None:
        """Ask for an idle connection of another front end to be closed."""
        self.channel.send(number_message(Kind.MAKE_ROOM, port))

    async def close(self) -> None:
        """End the connection."""
        self._is_closing = True
        await self.channel.close()

    def _handle(self, kind: int, content: memoryview) -> None:
        match kind:
            case Kind.ANSWER:
                self._answer(content)
            case Kind.FAILED:
                self._fail(content)
            case Kind.STATE:
                state = RepositoryState.model_validate_json(bytes(content))
                self._owner.update(state)
                self.has_state.set()
                self.channel.send(number_message(Kind.SEEN, state.sequence))
            case Kind.CALL:
                self.calls.called(content)
            case Kind.REPLY:
                self.calls.replied(content)
            case Kind.MAKE_ROOM:
                self._owner.make_room(number_in(content))
            case Kind.STOP:
                self._owner.stop()

    def _answer(self, content: memoryview) -> None:
        (number,) = NUMBER.unpack_from(content)
        waiting = self._waiting.pop(number)
        if not waiting.future.done():
            cells = [
                each.cell.memory if isinstance(each, CellImage) else None for each in waiting.images
            ]
            waiting.future.set_result(answers_in(content, waiting.outputs, cells))

    def _fail(self, content: memoryview) -> None:
        number, error = failure_in(content)
        waiting = self._waiting.pop(number)
        if not waiting.future.done():
            waiting.future.set_exception(error)

    def _end(self) -> None:
        self._is_lost = True
        error = ServerStopping(ENGINE_LOST)
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(error)
        self._waiting.clear()
        self.calls.close(error)
        self.has_state.set()
        if not self._is_closing:
            self._owner.lost()


def _infer_message(
    number: int, instance: int, images: Sequence[PreparedImage], bits: int, urgency: Urgency
) -> bytes:
    flags = Flag.DEFAULT_DEADLINE if urgency.is_default_deadline else 0
    head = INFER_HEAD.pack(
        number, instance, len(images), flags, urgency.deadline, urgency.priority, bits
    )
    parts, inline = [head], list[bytes]()
    for image in images:
        height, width = image.pixels.shape[:2]
        if isinstance(image, CellImage):
            parts.append(IMAGE.pack(image.cell.offset, image.cell.capacity, height, width))
        else:
            parts.append(IMAGE.pack(INLINE, 0, height, width))
            inline.append(image.pixels.tobytes())
    return message(Kind.INFER, *parts, *inline)
