"""An instance of the engine, as the requests of a front end use it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Protocol

from service.batching.interface import Held, Inference, QueueBounds, combine
from service.batching.queue import Answer, Urgency
from service.errors import ServiceError
from service.frontends.board import Board
from service.frontends.state import InstanceState
from service.images.photo import Photo, PreparedImage
from service.schema.contract import Contract
from service.schema.model_status import Batching
from service.telemetry.events import ModelIdentity
from service.telemetry.metrics.inference import VersionTelemetry


class Predict(Protocol):
    """Sends prepared images to the engine, and returns their answers."""

    async def __call__(
        self,
        instance: int,
        images: Sequence[PreparedImage],
        outputs: tuple[str, ...],
        bits: int,
        urgency: Urgency,
    ) -> list[Answer]:
        """Predict; `outputs` are in the contract's order, and `bits` are their places there."""


class RemoteInstance(Held):
    """Implements `Instance`: it counts on the board, and predicts in the engine."""

    prepare_first = True
    """The engine does not decode."""

    def __init__(
        self,
        state: InstanceState,
        identity: ModelIdentity,
        contract: Contract,
        *,
        board: Board,
        frontend: int,
        predict: Predict,
        telemetry: VersionTelemetry,
    ) -> None:
        super().__init__()
        self.number = state.number
        self.identity = identity
        self.contract = contract
        self.telemetry = telemetry
        self.certificate = state.certificate
        self.head = None if state.head is None else state.head.head
        self.max_batch_size = state.max_batch_size
        self.bounds = QueueBounds(
            identity.name, state.batching.max_queue_size, state.single_seconds
        )
        self.on_outage: Callable[[], None] = lambda: None
        self._retired: Callable[[], None] | None = None
        self._slot = state.slot
        self._board = board
        self._frontend = frontend
        self._predict = predict
        self._outputs = cache(partial(_chosen, [each.name for each in contract.outputs]))
        self.update(state)

    def update(self, state: InstanceState) -> None:
        """Follow a change in the engine."""
        self.outage = state.outage
        self.build = state.build
        self._batching = state.batching

    @property
    def pending(self) -> int:
        """Number of images admitted and not yet predicted, over all front ends."""
        return self._board.reserved(self._slot)

    @property
    def batching(self) -> Batching:
        """The description of batching for clients."""
        return self._batching

    def check(self, images: int, deadline: float) -> None:
        """Reject images that cannot be predicted in time, as `QueueBounds.check` does."""
        self._check(images, self.pending, deadline)

    def _check(self, images: int, pending: int, deadline: float) -> None:
        left = deadline - asyncio.get_running_loop().time()
        rate = self._board.seconds_per_image(self._slot)
        self.bounds.check(images, pending, rate, left)

    def reserve(self, images: int, deadline: float) -> None:
        """Reserve room for a request's images until `free`; reject them as `check` does.

        It counts before it checks, so that two front ends cannot both take the last room.
        """
        self._board.reserve(self._slot, self._frontend, images)
        try:
            self._check(images, self.pending - images, deadline)
        except ServiceError:
            self.free(images)
            raise

    def free(self, images: int) -> None:
        """Free reserved room."""
        self._board.reserve(self._slot, self._frontend, -images)

    async def infer(
        self, photos: Sequence[Photo | PreparedImage], outputs: Sequence[str], urgency: Urgency
    ) -> Inference:
        """Predict photos in the engine; see `Instance.infer`."""
        arrived_at = time.monotonic()
        names, bits = self._outputs(tuple(outputs))
        images = [photo.prepare() for photo in photos]
        answers = await self._predict(self.number, images, names, bits, urgency)
        return combine(answers, arrived_at, time.monotonic())

    def retire(self, retired: Callable[[], None]) -> None:
        """Call `retired` as soon as no request holds the instance."""
        if self.is_held:
            self._retired = retired
        else:
            retired()

    def let_go(self) -> None:
        """End a `hold`."""
        super().let_go()
        if self._retired is not None and not self.is_held:
            self._retired()

    async def close(self) -> None:
        """Do nothing: the engine frees the memory."""


def _chosen(names: list[str], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """Return the wanted names in the contract's order, and a bit for the place of each."""
    bits = sum(1 << index for index, name in enumerate(names) if name in wanted)
    return tuple(name for name in names if name in wanted), bits
