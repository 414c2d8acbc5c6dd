"""An engine and its front ends in one process, joined as they are in several."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.app import Access, create_app
from service.engine.engine import Engine
from service.frontends.board import BOARD_BYTES, Board
from service.frontends.hub import Hub
from service.frontends.memory import create_memory, map_memory
from service.frontends.remote_engine import RemoteEngine, Shared
from service.http.middleware.local_key import LocalKey
from service.settings import Settings
from tests.service.conftest import Loader, Running, measured, until

ARENA_BYTES = 1 << 20
KEY = LocalKey(None, 0, "token")


class FrontEnd:
    """A front end with a client, and what the engine has asked its process."""

    def __init__(self, settings: Settings, shared: Shared) -> None:
        self.engine = RemoteEngine(settings, shared)
        self.engine.process = self
        self.asked: list[str] = []
        self.app = create_app(settings, self.engine, Access(None, KEY))
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url="http://test",
            timeout=20,
            headers={"X-API-Key": KEY.token},
        )

    def make_room(self, port: int) -> None:
        self.asked.append(f"make room on port {port}")

    def stop(self) -> None:
        self.asked.append("stop")
        self.engine.admission.stop()

    def lost(self) -> None:
        self.asked.append("lost")
        self.engine.admission.abort()


class Joined:
    """An engine on one core, and front ends."""

    def __init__(self, settings: Settings, frontends: int) -> None:
        self.loader = Loader(calibrate=measured)
        self.engine = Engine.from_settings(settings, cores=1, load_instance=self.loader)
        self.settings = settings
        self._board = create_memory("board", BOARD_BYTES)
        self.board = Board(self._board, frontends)
        self.ended: list[int] = []
        self.hub = Hub(self.engine, self.board, self.ended.append)
        self.front_ends: list[FrontEnd] = []
        self.running = Running(create_app(settings, self.engine), self.loader)

    async def join(self, index: int) -> FrontEnd:
        """Start a front end, also in place of one that has ended."""
        own, engines = socket.socketpair()
        arena = create_memory("arena", ARENA_BYTES)
        shared = Shared(index, Board(self._board, self.board.frontends), map_memory(arena), own)
        front_end = FrontEnd(self.settings, shared)
        await asyncio.gather(
            self.hub.join(engines, index, np.frombuffer(map_memory(arena), np.uint8)),
            front_end.engine.connect(),
        )
        os.close(arena)
        self.front_ends.append(front_end)
        return front_end

    async def close(self) -> None:
        for gate in self.running.gates:
            gate.open()
        for each in self.front_ends:
            await each.http.aclose()
            await each.engine.close()
        await until(lambda: not self.hub.front_ends)
        await self.running.close()
        os.close(self._board)


Join = Callable[..., AbstractAsyncContextManager[Joined]]


@pytest.fixture
def join(repository: Path) -> Join:
    """Join an engine with two front ends, with settings by name."""

    @asynccontextmanager
    async def joined(frontends: int = 2, **settings: Any) -> AsyncIterator[Joined]:
        chosen = Settings(**{"model_repository": repository, "image_threads": 1, **settings})
        found = Joined(chosen, frontends)
        await found.engine.repository.load_all()
        for index in range(frontends):
            await found.join(index)
        try:
            yield found
        finally:
            await found.close()

    return joined


@pytest.fixture
async def joined(join: Join) -> AsyncIterator[Joined]:
    async with join() as found:
        yield found
