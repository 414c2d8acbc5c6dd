"""The engine's side: joins the front ends to the repository and to its instances."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import structlog

from service.batching.instance import ModelInstance
from service.engine.engine import Engine
from service.engine.inference import Inferred
from service.errors import InferenceFailed, ServiceError
from service.frontends.board import MAX_INSTANCES, Board, Column
from service.frontends.front_end import FrontEnd
from service.frontends.messages import Kind, message, number_message
from service.frontends.remote_request import Bytes
from service.frontends.reports import Reports
from service.frontends.state import Place, describe
from service.images.photo import PreparedImage
from service.repository.version import ModelVersion
from service.runtime.arrays import Outputs
from service.schema.version_policy import VersionPolicy
from service.schema.vocabulary import ModelState

SETTLE_SECONDS = 2.0
"""Time to wait for front ends to follow a change."""
REPORT_SECONDS = 1.0
"""Time to wait for the reports of front ends; what they count later comes with the next."""
WATCH_SECONDS = 1.0

IDLE = (Column.IDLE_CONNECTIONS, Column.IDLE_METRICS_CONNECTIONS)
"""What front ends count for each port."""

_log = structlog.get_logger()


class Hub:
    """Publishes the state of the models, and performs the calls of front ends.

    `end` ends the process of a front end that is stuck.
    """

    def __init__(self, engine: Engine, board: Board, end: Callable[[int], None]) -> None:
        self._engine = engine
        self._board = board
        self._end = end
        self._reports = Reports(engine.metrics)
        self.front_ends: dict[int, FrontEnd] = {}
        """The front ends that are connected, by index."""
        self._sequence = 0
        self._is_settled = False
        self._publishing: asyncio.Handle | None = None
        self._changed = asyncio.Event()
        self._numbers: dict[ModelInstance, Place] = {}
        self._next_number = 1
        self._free_slots = list(range(MAX_INSTANCES))
        self._outputs: dict[tuple[int, int], tuple[str, ...]] = {}
        self._settling: asyncio.Task[None] | None = None
        engine.repository.changed = self._publish_soon

    async def join(self, connection: socket.socket, index: int, arena: Bytes) -> None:
        """Connect a front end that has started."""
        before = self.front_ends.pop(index, None)
        if before is not None:
            before.channel.abort()
        self._board.clear(index)
        front_end = FrontEnd(self, index, arena, self._lost)
        self.front_ends[index] = front_end
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: front_end.channel, sock=connection)
        self._publish()

    async def run(self) -> None:
        """Watch the front ends until cancelled: end those that are stuck, and collect reports."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            for index, front_end in list(self.front_ends.items()):
                if front_end.is_stuck(now):
                    _log.error("front_end_stuck", front_end=index)
                    front_end.channel.abort()
                    self._end(index)
            await self.collect()

    async def stop(self) -> None:
        """Ask all front ends to answer what they have admitted, and wait until they have ended."""
        self.hurry()
        while self.front_ends:
            await self._next_change()

    def abort(self) -> None:
        """End the connections that are left."""
        for front_end in self.front_ends.values():
            front_end.channel.abort()

    def hurry(self) -> None:
        """Ask again: a front end that is asked for the second time answers nothing more."""
        for front_end in self.front_ends.values():
            front_end.channel.send(message(Kind.STOP))

    async def collect(self) -> None:
        """Add what the front ends have counted to the metrics of this process."""
        reports = [asyncio.create_task(self._collect(each)) for each in self.front_ends.values()]
        if reports:
            await asyncio.wait(reports, timeout=REPORT_SECONDS)

    async def _collect(self, front_end: FrontEnd) -> None:
        with suppress(ServiceError):  # it has ended
            report = await front_end.report()
            instances = {place.number: each for each, place in self._numbers.items()}
            self._reports.absorb(front_end.index, report, instances)

    async def perform(self, name: str, arguments: dict[str, Any]) -> Any:
        """Perform a call of a front end."""
        match name:
            case "load":
                policy = arguments["policy"]
                wanted = None if policy is None else VersionPolicy.model_validate(policy)
                await self._change(self._engine.repository.load(arguments["model"], wanted))
            case "unload":
                await self._change(self._engine.repository.unload(arguments["model"]))
            case "statistics":
                await self.collect()
                return self._statistics(arguments["instance"])
            case "metrics":
                await self.collect()
                text, content_type = self._engine.metrics.render(arguments["accept"])
                return text.decode(), content_type
            case _:
                raise InferenceFailed(f"The engine has no call {name}.")
        return None

    async def _change(self, change: Coroutine[Any, Any, None]) -> None:
        """Change the models; return once every front end knows the result."""
        try:
            await change
        finally:
            self._publish()
            await self._settled()

    def _statistics(self, number: int | None) -> list[dict[str, Any]]:
        """Return the statistics of an instance, by default of all."""
        loaded = self._engine.repository.instances()
        return [
            instance.telemetry.model_statistics().model_dump(mode="json")
            for instance, place in self._numbers.items()
            if (number is None and instance in loaded) or place.number == number
        ]

    def seen(self) -> None:
        """Note that a front end has followed a change."""
        self._changed.set()

    def make_room(self, front_end: int, port: int) -> None:
        """Ask the front end with the most idle connections on a port to close one."""
        column = IDLE[port]
        others = [index for index in self.front_ends if index != front_end]
        most = max(others, key=lambda each: self._board.of(column, each), default=None)
        if most is not None:
            self.front_ends[most].channel.send(number_message(Kind.MAKE_ROOM, port))

    def outputs(self, number: int, instance: ModelInstance, bits: int) -> tuple[str, ...]:
        """Return the names of the outputs with these places in the contract."""
        names = self._outputs.get((number, bits))
        if names is None:
            outputs = instance.contract.outputs
            names = tuple(each.name for at, each in enumerate(outputs) if bits >> at & 1)
            self._outputs[number, bits] = names
        return names

    def ended(
        self,
        instance: ModelInstance,
        images: Sequence[PreparedImage],
        outputs: Sequence[Outputs] | None,
    ) -> None:
        """Publish the speed of an instance, and give what it has answered to the shadow."""
        place = self._numbers.get(instance)
        if place is not None:
            self._board.set_seconds_per_image(place.slot, instance.seconds_per_image)
        if outputs is not None and self._engine.shadow is not None:
            self._engine.shadow.answered(instance, Inferred(images, images, outputs))

    def _lost(self, front_end: FrontEnd) -> None:
        """Forget a front end that has ended."""
        if self.front_ends.get(front_end.index) is front_end:
            del self.front_ends[front_end.index]
            self._board.clear(front_end.index)
        self._changed.set()

    def _publish_soon(self) -> None:
        if self._publishing is None:
            self._publishing = asyncio.get_running_loop().call_soon(self._publish)

    def _publish(self) -> None:
        """Send the state of the models to every front end."""
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        self._forget_instances()
        self._sequence += 1
        repository = self._engine.repository
        is_ready = not repository.not_ready()
        self._is_settled &= is_ready
        state = describe(
            repository.entries, self._place, self._sequence, is_settled=self._is_settled
        )
        ready = self._ready_instances()
        for front_end in self.front_ends.values():
            for number, instance in ready.items():
                front_end.lease(number, instance)
            front_end.channel.send(message(Kind.STATE, state))
        if is_ready and not self._is_settled:
            self._settling = asyncio.create_task(self._settle(self._sequence))

    async def _settle(self, sequence: int) -> None:
        """Publish that every front end knows that the models are ready."""
        await self._settled()
        if sequence == self._sequence:
            self._is_settled = True
            self._publish()

    async def _settled(self) -> None:
        """Wait until every front end has followed the changes so far, for a limited time."""
        sequence = self._sequence
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                while any(each.seen < sequence for each in self.front_ends.values()):
                    await self._next_change()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _ready_instances(self) -> dict[int, ModelInstance]:
        ready = {
            version.instance
            for version in self._engine.repository.wanted()
            if version.phase is ModelState.READY
        }
        return {
            place.number: instance for instance, place in self._numbers.items() if instance in ready
        }

    def _place(self, version: ModelVersion) -> Place | None:
        """Return the place of a version's instance; give it one if there is a free one."""
        instance = version.instance
        if not isinstance(instance, ModelInstance):
            return None
        if instance not in self._numbers and self._free_slots:
            self._numbers[instance] = Place(self._next_number, self._free_slots.pop(0))
            self._next_number += 1
        return self._numbers.get(instance)

    def _forget_instances(self) -> None:
        """Free the places of instances that no front end uses any more."""
        kept = {*self._engine.repository.instances()}
        for front_end in self.front_ends.values():
            kept.update(front_end.leases.values())
        for instance in self._numbers.keys() - kept:
            place = self._numbers.pop(instance)
            self._board.clear_slot(place.slot)
            self._free_slots.append(place.slot)
