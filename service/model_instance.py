"""One loaded model version: its session on a thread of its own, and the bound on what waits."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from service.contract import Contract
from service.errors import InferenceFailed, PayloadTooLarge, QueueFull
from service.events import Events, ModelBuild, ModelIdentity
from service.moving_average import MovingAverage
from service.preprocessing import ImageArray
from service.session import Array, Session

Outputs = Mapping[str, Array]

WARM_UP_PHOTO = (640, 480)


@dataclass(frozen=True)
class Inference:
    """Each image's outputs, in the order of the images, and the seconds the graph ran."""

    outputs: list[Outputs]
    compute_seconds: float


class ModelInstance:
    """A model version that can be asked."""

    def __init__(
        self,
        *,
        identity: ModelIdentity,
        contract: Contract,
        build: ModelBuild,
        session: Session,
        max_queue_size: int,
        events: Events,
    ) -> None:
        self.identity = identity
        self.contract = contract
        self.build = build
        self._session = session
        self._max_queue_size = max_queue_size
        self._events = events
        self._pending = 0
        self._image_seconds = MovingAverage()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=identity.name)

    @contextmanager
    def reserve(self, images: int) -> Iterator[None]:
        """Hold room for a request's images, or refuse it at once."""
        self._refuse(images)
        self._change_pending(images)
        try:
            yield
        finally:
            self._change_pending(-images)

    async def infer(self, images: Sequence[ImageArray], outputs: Sequence[str]) -> Inference:
        """Run images of any shapes, those of one shape together; only `outputs` are computed.

        A batch that has not started when the caller leaves is never run.
        """
        loop = asyncio.get_running_loop()
        results: dict[int, Outputs] = {}
        compute_seconds = 0.0
        for batch in _batches(images, self.contract.max_batch_size):
            members = [images[index] for index in batch]
            rows, seconds = await loop.run_in_executor(
                self._executor, self._execute, members, outputs
            )
            results.update(zip(batch, rows, strict=True))
            compute_seconds += seconds
            self._image_seconds.add(seconds / len(batch))
        return Inference([results[index] for index in range(len(images))], compute_seconds)

    def warm_up(self) -> None:
        """Run the graph once, blocking, as it will be run for a common photo."""
        width, height = self.contract.preprocessing.input_size(*WARM_UP_PHOTO)
        blank = np.zeros((height, width, 3), np.uint8)
        self._execute([blank], [output.name for output in self.contract.outputs])

    def replay(self, images: Sequence[ImageArray]) -> list[Array]:
        """Run images one by one, blocking; return the output that answers the task."""
        prediction = self.contract.prediction
        return [self._execute([image], [prediction])[0][0][prediction] for image in images]

    def close(self) -> None:
        """Drop what waits, and wait for the batch that runs."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _execute(
        self, images: Sequence[ImageArray], outputs: Sequence[str]
    ) -> tuple[list[Outputs], float]:
        started = time.perf_counter()
        results = self._session.run({self.contract.inputs[0].name: np.stack(images)}, outputs)
        seconds = time.perf_counter() - started
        if [len(result) for result in results] != [len(images)] * len(outputs):
            raise InferenceFailed("The model returned another number of results than images.")
        return [dict(zip(outputs, row, strict=True)) for row in zip(*results, strict=True)], seconds

    def _refuse(self, images: int) -> None:
        name, limit = self.identity.name, self._max_queue_size
        if images > limit:
            raise PayloadTooLarge(f"The model {name} takes at most {limit} images at a time.")
        if self._pending + images > limit:
            raise QueueFull(
                f"The model {name} has {self._pending} images waiting; try again later.",
                self._image_seconds.retry_after_seconds(self._pending),
            )

    def _change_pending(self, images: int) -> None:
        self._pending += images
        self._events.queue_changed(self.identity, self._pending)


def _batches(images: Sequence[ImageArray], max_batch_size: int) -> list[list[int]]:
    """Group images of one shape, by index, into batches."""
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        by_shape[image.shape].append(index)
    return [
        members[start : start + max_batch_size]
        for members in by_shape.values()
        for start in range(0, len(members), max_batch_size)
    ]
