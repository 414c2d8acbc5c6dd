"""The engine of another process, as the HTTP interface of a front end uses it."""

import asyncio
import mmap
import socket
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from service.engine.admission import Admission, Tallies
from service.engine.base import AnyEngine
from service.engine.inference import ImageInference
from service.errors import ServiceError
from service.frontends.board import Board, Column, SharedTally
from service.frontends.cells import Cells
from service.frontends.link import Link
from service.frontends.mirror import Mirror
from service.frontends.remote_instance import RemoteInstance
from service.frontends.reports import Report
from service.frontends.state import InstanceState, RepositoryState
from service.images.decode import ImageLimits
from service.repository.version import ModelVersion
from service.runtime.container_limits import usable_cores
from service.runtime.image_threads import ImageThreads
from service.schema.contract import Contract
from service.schema.open_inference import ModelStatistics
from service.settings import Settings
from service.telemetry.events import ModelIdentity
from service.telemetry.loop_lag import watch_loop_lag
from service.telemetry.metrics import PrometheusMetrics


@dataclass(frozen=True)
class Shared:
    """What a front end shares with the engine and the other front ends."""

    frontend: int
    board: Board
    arena: mmap.mmap
    engine: socket.socket


class Process(Protocol):
    """The process of a front end, which serves HTTP."""

    def make_room(self, port: int) -> None:
        """Close an idle connection on a port."""

    def stop(self) -> None:
        """Answer what is admitted, and end; answer nothing more if called again."""

    def lost(self) -> None:
        """Answer that the engine is lost, and end."""


class RemoteEngine(AnyEngine):
    """Decodes in this process and predicts in the engine's; `process` ends with the engine."""

    process: Process

    def __init__(self, settings: Settings, shared: Shared) -> None:
        metrics = PrometheusMetrics()
        threads = settings.image_threads or max(1, usable_cores() // (shared.board.frontends + 1))
        self.cells = Cells(shared.arena)
        limits = ImageLimits(settings.max_image_pixels)
        inference = ImageInference(ImageThreads(threads), limits, self.cells.place)
        super().__init__(
            admission=_admission(settings, shared),
            inference=inference,
            metrics=metrics,
            max_images=settings.max_images_per_request,
        )
        self._shared = shared
        self._report = Report(metrics)
        self.link = Link(self)
        self.repository: Mirror = Mirror(
            self._connect, self.link.calls, self.link.give_back, metrics.models
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        """Connect to the engine; return once the state of the models is known."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self.link.channel, sock=self._shared.engine)
        await self.link.has_state.wait()

    def start(self) -> None:
        """Measure the delay of the event loop; the engine loads the models."""
        lag = watch_loop_lag(self.metrics.server.loop_lagged)
        self._tasks.append(asyncio.create_task(lag))

    async def close(self) -> None:
        """Reject new calls, and end the connection to the engine."""
        self.admission.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.image_threads.close)
        await self.link.close()

    def abort(self) -> None:
        """End the connection to the engine at once."""
        self.link.channel.abort()

    def not_ready(self) -> list[str]:
        """See `AnyEngine.not_ready`."""
        waiting = super().not_ready()
        if not waiting and not self.repository.is_settled:
            return ["not every front end knows the models"]
        return waiting

    async def statistics(self, version: ModelVersion | None = None) -> list[ModelStatistics]:
        """See `AnyEngine.statistics`."""
        number = None if version is None else self._number(version)
        found = await self.link.calls.call("statistics", instance=number)
        return [ModelStatistics.model_validate(each) for each in found]

    async def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """See `AnyEngine.render_metrics`."""
        text, content_type = await self.link.calls.call("metrics", accept=accept)
        return text.encode(), content_type

    def make_room_elsewhere(self, port: int) -> None:
        """Ask for an idle connection of another front end to be closed."""
        self.link.make_room_elsewhere(port)

    def _number(self, version: ModelVersion) -> int | None:
        instance = version.ready_instance()
        return instance.number if isinstance(instance, RemoteInstance) else None

    def _connect(
        self, state: InstanceState, identity: ModelIdentity, contract: Contract
    ) -> RemoteInstance:
        return RemoteInstance(
            state,
            identity,
            contract,
            board=self._shared.board,
            frontend=self._shared.frontend,
            predict=self.link.predict,
            telemetry=self.metrics.inference.of(identity),
        )

    def update(self, state: RepositoryState) -> None:
        """Follow a change of the models."""
        self.repository.update(state)

    async def perform(self, name: str, arguments: dict[str, Any]) -> Any:
        """Perform a call of the engine: there is only one."""
        if name != "report" or arguments:
            raise ServiceError(f"A front end has no call {name}.")
        return self._report.take(self.repository.instances_by_number)

    def make_room(self, port: int) -> None:
        """Close an idle connection on a port: another front end needs it."""
        self.process.make_room(port)

    def stop(self) -> None:
        """Answer what is admitted, and end; answer nothing more if called again."""
        self.process.stop()

    def lost(self) -> None:
        """End: the engine has ended."""
        self.process.lost()


def _admission(settings: Settings, shared: Shared) -> Admission:
    tally = partial(SharedTally, shared.board, frontend=shared.frontend)
    return Admission(
        settings.max_concurrent_requests,
        settings.default_timeout_seconds,
        settings.max_body_bytes,
        Tallies(
            tally(column=Column.ADMITTED),
            tally(column=Column.IN_FLIGHT),
            tally(column=Column.BODY_BYTES),
        ),
    )
