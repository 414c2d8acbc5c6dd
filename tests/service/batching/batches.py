"""Images to be batched, and what runs them when a test says so."""

import asyncio
from collections.abc import Sequence

import numpy as np

from service.batching.batcher import DynamicBatcher
from service.batching.plan import ExecutionPlan
from service.batching.queue import Answer, PendingInference, Run, Urgency
from service.batching.runner import Executed, Execution
from service.errors import InvalidEntry, InvalidRequest
from service.images.photo import PreparedImage
from service.runtime.device import Device
from service.schema.model_status import Width
from service.schema.vocabulary import Task
from service.telemetry.events import ModelIdentity
from service.telemetry.statistics import Statistics

FOREVER = 1e12
MODEL = ModelIdentity("model", "1", Task.CLASSIFICATION)


def width(threads: int, max_batch_size: int) -> Width:
    return Width(threads=threads, max_batch_size=max_batch_size)


class GatedRunner:
    """Answers each image with its own first byte, once it has a permit."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[int] = []
        self.permits = asyncio.Semaphore(0)
        self.begun = asyncio.Semaphore(0)
        self.errors: list[Exception | None] = []
        self.rebuilt: list[int] = []
        self.rebuilds = True
        self.image_cpu_seconds = 1.0
        self.refuses: set[int] = set()
        """Marks of the images that cannot be prepared."""
        self.held = asyncio.Event()
        self.held.set()

    def rebuild(self, threads: int) -> asyncio.Future[None]:
        self.rebuilt.append(threads)
        rebuilding = asyncio.get_running_loop().create_future()
        if self.rebuilds:
            rebuilding.set_result(None)
        else:
            rebuilding.set_exception(InvalidEntry("the file is gone"))
        return rebuilding

    def execute(self, execution: Execution) -> asyncio.Future[Executed]:
        return asyncio.ensure_future(self._execute(execution))

    async def _execute(self, execution: Execution) -> Executed:
        await self.held.wait()
        running = [member for member in execution.members if not member.future.done()]
        if not running:
            raise asyncio.CancelledError
        for member in running:
            member.has_started = True
        marks = [int(member.photo.prepare().pixels.flat[0]) for member in running]
        self.batches.append(marks)
        self.threads.append(execution.width.threads)
        self.begun.release()
        await self.permits.acquire()
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        run = Run(0.0, 0.0, 1.0, len(running))
        refused = [
            (member, InvalidRequest("it is damaged"))
            for member, mark in zip(running, marks, strict=True)
            if mark in self.refuses
        ]
        answers = [
            (member, mark)
            for member, mark in zip(running, marks, strict=True)
            if mark not in self.refuses
        ]
        return Executed(
            [(each, Answer({"mark": np.array(mark)}, run)) for each, mark in answers],
            refused,
            self.image_cpu_seconds * len(running),
        )

    def open(self, times: int = 1000) -> None:
        for _ in range(times):
            self.permits.release()


class Recorder:
    """Remembers the reported events."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getattr__(self, name: str):
        return lambda *arguments: self.calls.append((name, *arguments))

    def of(self, name: str) -> list[tuple]:
        return [call[2:] for call in self.calls if call[:2] == (name, MODEL)]


def new_batcher(
    runner: GatedRunner, plan: ExecutionPlan, device: Device, events: Recorder, **callbacks
) -> DynamicBatcher:
    return DynamicBatcher(
        identity=MODEL,
        runner=runner,
        plan=plan,
        device=device,
        events=events,
        statistics=Statistics(),
        **callbacks,
    )


def images(
    *marks: int, deadline: float = FOREVER, side: int = 2, is_background: bool = False
) -> list[PendingInference]:
    loop = asyncio.get_running_loop()
    return [
        PendingInference(
            PreparedImage(np.full((side, side, 3), mark, np.uint8), side, side),
            ("mark",),
            Urgency(deadline, is_background=is_background),
            loop.time(),
            loop.create_future(),
        )
        for mark in marks
    ]


async def answers(pending: Sequence[PendingInference]) -> list[object]:
    """Return the marks of the answers, or the types of the errors."""
    results = await asyncio.wait_for(
        asyncio.gather(*(each.future for each in pending), return_exceptions=True), 20
    )
    return [int(r.outputs["mark"]) if isinstance(r, Answer) else type(r) for r in results]
