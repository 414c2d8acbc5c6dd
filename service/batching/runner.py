"""Runs batches in the threads of a device."""

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from service.batching.queue import Answer, PendingInference, Run
from service.runtime.graph_sessions import GraphSessions
from service.runtime.worker_threads import WorkerThreads
from service.schema.model_status import Width


class Executed(NamedTuple):
    """The members of a batch that ran, and those whose photos could not be prepared."""

    answers: list[tuple[PendingInference, Answer]]
    refused: list[tuple[PendingInference, Exception]]
    cpu_seconds: float
    """The processor time of the thread that ran the batch."""


@dataclass(eq=False, slots=True)
class Execution:
    """A batch that runs for the first time, or again after a failure."""

    members: list[PendingInference]
    width: Width
    expected_seconds: float
    is_retry: bool = False
    is_hung: bool = False


class BatchRunner:
    """Runs a model's batches, and replaces its sessions, in the threads of its device."""

    def __init__(self, sessions: GraphSessions, workers: WorkerThreads) -> None:
        self._sessions = sessions
        self._workers = workers

    def execute(self, execution: Execution) -> "asyncio.Future[Executed]":
        """Run the members whose callers are still waiting, once a thread is free.

        The future is cancelled if no members are left; it fails as `GraphSessions.run` does.
        """
        return self._workers.run(partial(self._execute, execution))

    def rebuild(self, threads: int) -> "asyncio.Future[None]":
        """Replace the session of a number of threads, as `GraphSessions.rebuild` does.

        It starts before any batch that is executed later.
        """
        return self._workers.run(partial(self._sessions.rebuild, threads))

    def _execute(self, execution: Execution) -> Executed:
        running, images, refused = [], [], []
        started, cpu_started = time.monotonic(), time.thread_time()
        for member in execution.members:
            if member.future.done():
                continue
            member.has_started = True
            try:
                images.append(member.photo.prepare().pixels)
            except Exception as error:  # the error concerns this photo only
                refused.append((member, error))
            else:
                running.append(member)
        if not running:
            if refused:
                return Executed([], refused, time.thread_time() - cpu_started)
            raise asyncio.CancelledError
        prepared = time.monotonic()
        results = self._sessions.run(images, running[0].outputs, execution.width.threads)
        run = Run(started, prepared, time.monotonic(), len(running))
        answers = [
            (member, Answer(outputs, run)) for member, outputs in zip(running, results, strict=True)
        ]
        return Executed(answers, refused, time.thread_time() - cpu_started)
