"""A request of a front end in the engine."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import structlog

from service.batching.instance import ModelInstance
from service.batching.queue import Answer, PendingInference, Urgency
from service.errors import InferenceFailed, ServiceError, clear_frames
from service.frontends.messages import (
    IMAGE,
    INFER_HEAD,
    INLINE,
    Flag,
    answer_message,
    failed_message,
)
from service.images.photo import PreparedImage
from service.runtime.arrays import Outputs

Bytes = npt.NDArray[np.uint8]
CHANNELS = 3
FAILED = "The server failed; its log says why."

_log = structlog.get_logger()


class Infer:
    """The content of an INFER message; its images are views of the cells, or of the message."""

    __slots__ = ("bits", "cells", "images", "instance", "number", "urgency")

    def __init__(self, content: memoryview, arena: Bytes) -> None:
        head = INFER_HEAD.unpack_from(content)
        self.number, self.instance, count, flags, deadline, priority, self.bits = head
        self.urgency = Urgency(deadline, priority, bool(flags & Flag.DEFAULT_DEADLINE))
        self.images: list[PreparedImage] = []
        self.cells: list[memoryview | None] = []
        inline = INFER_HEAD.size + count * IMAGE.size
        for at in range(INFER_HEAD.size, inline, IMAGE.size):
            offset, capacity, height, width = IMAGE.unpack_from(content, at)
            size = height * width * CHANNELS
            if offset == INLINE:
                pixels = np.frombuffer(content[inline : inline + size], np.uint8)
                self.cells.append(None)
                inline += size
            else:  # views of one array, so that a batch of neighbours is a view as well
                pixels = arena[offset : offset + size]
                self.cells.append(arena.data[offset : offset + capacity])
            shaped = pixels.reshape(height, width, CHANNELS)
            self.images.append(PreparedImage(shaped, width, height))


class RemoteRequest:
    """Waits for the answers of its images, and sends one reply.

    `ended` is called before the reply is sent, with the outputs if there are any: the cells belong
    to the front end from then on.
    """

    __slots__ = (
        "_answers",
        "_ended",
        "_infer",
        "_instance",
        "_left",
        "_pending",
        "_sampled",
        "_send",
    )

    def __init__(
        self,
        infer: Infer,
        instance: ModelInstance,
        send: Callable[[bytes], None],
        ended: Callable[[Infer, ModelInstance, Sequence[Outputs] | None], None],
    ) -> None:
        self._infer = infer
        self._instance = instance
        self._send = send
        self._ended = ended
        self._left = len(infer.images)
        self._answers: list[Answer | None] = [None] * self._left
        self._pending: list[PendingInference] = []
        self._sampled: tuple[str, ...] | None = None

    def submit(self, names: tuple[str, ...], now: float) -> None:
        """Start or queue the images; raises as `ModelInstance.submit` does."""
        sampler = self._instance.tokens
        if sampler is not None and now >= sampler.due_at:
            self._sampled = names
            names = sampler.extend(names, now)
        self._pending = [
            PendingInference(image, names, self._infer.urgency, now, _Promise(self, index))
            for index, image in enumerate(self._infer.images)
        ]
        self._instance.submit(self._pending)

    def answered(self, index: int, answer: Answer) -> None:
        """Take the answer of an image; the last one ends the request."""
        self._answers[index] = answer
        self._left -= 1
        if self._left == 0:
            answers = self._without_samples([each for each in self._answers if each is not None])
            infer = self._infer
            self._ended(infer, self._instance, [each.outputs for each in answers])
            self._send(answer_message(infer.number, answers, infer.cells))
            self._pending.clear()

    def _without_samples(self, answers: list[Answer]) -> list[Answer]:
        """Describe the tokens if they were fetched as a sample, and leave them out."""
        names, sampler = self._sampled, self._instance.tokens
        if names is None or sampler is None:
            return answers
        sampler.describe(answers[0].outputs)
        return [Answer({name: outputs[name] for name in names}, run) for outputs, run in answers]

    def fail(self, error: BaseException) -> None:
        """End the request with an error; images that have not started are dropped."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        self._instance.withdraw(pending)
        self._ended(self._infer, self._instance, None)
        if not isinstance(error, ServiceError):
            _log.error("inference_failed", model=self._instance.identity.name, exc_info=error)
            error = InferenceFailed(FAILED)
        self._send(failed_message(self._infer.number, error))
        clear_frames(error)


class _Promise:
    """The future of one image: passes its answer on to its request."""

    __slots__ = ("_index", "_is_cancelled", "_is_done", "_request")

    def __init__(self, request: RemoteRequest, index: int) -> None:
        self._request = request
        self._index = index
        self._is_done = self._is_cancelled = False

    def done(self) -> bool:
        return self._is_done

    def cancelled(self) -> bool:
        return self._is_cancelled

    def cancel(self) -> bool:
        if self._is_done:
            return False
        self._is_done = self._is_cancelled = True
        return True

    def set_result(self, result: Answer, /) -> None:
        self._is_done = True
        self._request.answered(self._index, result)

    def set_exception(self, exception: BaseException, /) -> None:
        self._is_done = True
        self._request.fail(exception)
