"""The instance of a model version, as requests use it: in this process or in another one."""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from service.batching.queue import Answer, Urgency
from service.errors import DeadlineUnreachable, PayloadTooLarge, QueueFull
from service.images.photo import Photo, PreparedImage
from service.runtime.arrays import Outputs
from service.schema.certificate import Certificate
from service.schema.contract import Contract
from service.schema.model_status import Batching
from service.schema.token_head import TokenHead
from service.telemetry.events import ModelBuild, ModelIdentity
from service.telemetry.metrics.inference import VersionTelemetry

WAIT_MARGIN = 1.15
"""Safety factor on the predicted wait, so that admitted requests meet their deadlines."""


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


def combine(answers: Sequence[Answer], arrived_at: float, ended_at: float) -> Inference:
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


class Instance(Protocol):
    """A loaded model version. Belongs to the event loop.

    `outage` is the reason why it cannot serve at present, or None; `on_outage` is called on the
    event loop whenever `outage` changes. `prepare_first` is whether photos should be prepared
    before `infer`. `max_batch_size` is the largest batch allowed; the plan may choose smaller ones.
    `telemetry` counts the requests of this instance. `head` is the layer behind the tokens of a
    classifier, if its version has one.
    """

    identity: ModelIdentity
    contract: Contract
    certificate: Certificate
    head: TokenHead | None
    build: ModelBuild
    max_batch_size: int
    bounds: "QueueBounds"
    telemetry: VersionTelemetry
    outage: str | None
    on_outage: Callable[[], None]
    prepare_first: bool

    @property
    def pending(self) -> int:
        """Number of images admitted and not yet predicted."""

    @property
    def batching(self) -> Batching:
        """The description of batching for clients."""

    def check(self, images: int, deadline: float) -> None:
        """Reject images that cannot be predicted in time, as `QueueBounds.check` does."""

    def reserve(self, images: int, deadline: float) -> None:
        """Reserve room for a request's images until `free`; reject them as `check` does."""

    def free(self, images: int) -> None:
        """Free reserved room."""

    async def infer(
        self, photos: Sequence[Photo | PreparedImage], outputs: Sequence[str], urgency: Urgency
    ) -> Inference:
        """Predict any number of photos of any sizes; only the named outputs are computed.

        If the caller leaves, photos that have not started are dropped.
        """

    def hold(self) -> None:
        """Keep the instance loaded until `let_go`; do not await between finding and holding it."""

    def let_go(self) -> None:
        """End a `hold`."""

    async def drain(self, seconds: float) -> None:
        """Wait until the instance is no longer held, for at most `seconds`."""

    async def close(self) -> None:
        """Fail what waits, and free the memory."""


class Held:
    """Counts those that hold an object, and waits until nobody does."""

    def __init__(self) -> None:
        self._users = 0
        self._let_go = asyncio.Event()

    @property
    def is_held(self) -> bool:
        """Whether anybody holds the object."""
        return self._users > 0

    def hold(self) -> None:
        """Keep the object until `let_go`; do not await between finding and holding it."""
        self._users += 1

    def let_go(self) -> None:
        """End a `hold`."""
        self._users -= 1
        if self._users == 0:
            self._let_go.set()

    async def drain(self, seconds: float) -> None:
        """Wait until the object is no longer held, for at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._users:
                    self._let_go.clear()
                    await self._let_go.wait()


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """Which images a queue takes.

    At most `max_queue_size` images are admitted and not yet predicted; `single_seconds` is the
    expected duration of one image's execution.
    """

    model: str
    max_queue_size: int
    single_seconds: float

    def check(
        self, images: int, pending: int, seconds_per_image: float, seconds_left: float
    ) -> None:
        """Reject images that cannot be predicted in time; `pending` ones are before them.

        Raises:
            PayloadTooLarge: there are more images than the queue can ever hold.
            QueueFull: the queue has no room for them now.
            DeadlineUnreachable: the queue has room, but the predicted wait is too long.
        """
        wait = pending * seconds_per_image
        if pending + images > self.max_queue_size:
            raise self._refusal(images, pending, wait)
        late = WAIT_MARGIN * wait + self.single_seconds - seconds_left
        if pending and late > 0:
            raise DeadlineUnreachable(
                f"The wait for the model {self.model} is {wait:.1f} s, longer than "
                "this request's deadline allows; try again later.",
                late,
            )

    def _refusal(self, images: int, pending: int, wait: float) -> QueueFull | PayloadTooLarge:
        name, limit = self.model, self.max_queue_size
        if images > limit:
            return PayloadTooLarge(f"The model {name} takes at most {limit} images at a time.")
        return QueueFull(f"The model {name} has {pending} images waiting; try again later.", wait)
