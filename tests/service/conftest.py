import asyncio
import gc
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import structlog
from fastapi import FastAPI

from service.api_keys import new_key
from service.app import Parts, create_app
from service.batching.instance import ModelInstance
from service.repository.calibration import CalibrationCache
from service.repository.entry import LoadVersion
from service.repository.loading import LoadOptions, load_instance
from service.runtime.device import Devices
from service.schema.model_status import Measurement
from service.settings import Settings
from service.telemetry.events import Events
from tests.service.repository_fixture import write_both


def pytest_configure(config: pytest.Config) -> None:
    # As the package of images does for the process; pytest resets the filters for each test.
    config.addinivalue_line("filterwarnings", r"ignore:::PIL\..*")


PREDICT, PREDICT_LINES = new_key("shop", ["predict"])
ADMIN, ADMIN_LINES = new_key("ops", ["admin"])
LIMITED, LIMITED_LINES = new_key("slow", ["predict", "admin"])


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """Three keys; the limited one may be used twice."""
    path = tmp_path / "keys.toml"
    limits = "requests_per_second = 0.001\nburst = 2\n"
    path.write_text(PREDICT_LINES + ADMIN_LINES + LIMITED_LINES + limits)
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_both(tmp_path / "weights")


class Running:
    """An application with its models loaded, and a client that talks to it in the process."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.parts: Parts = app.state.parts
        local_key = self.parts.local_key
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://test",
            timeout=20,
            headers={"X-API-Key": local_key.token} if local_key else None,
        )

        self.gates: list[Gate] = []

    def gate(self, model: str, version: str | None = None) -> "Gate":
        """Hold the model's next runs until they are released."""
        sessions = sessions_of(self.parts.repository.get(model, version).ready_instance())
        gate = Gate(next(iter(sessions.values())))
        sessions.update(dict.fromkeys(sessions, gate))
        self.gates.append(gate)
        return gate

    async def close(self) -> None:
        for gate in self.gates:
            gate.open()
        await self.http.aclose()
        await asyncio.to_thread(self.parts.pool.close)
        await self.parts.repository.close()


async def measured(_: object, threads: Sequence[int], max_batch_size: int) -> list[Measurement]:
    """What a machine might measure on which batches pay."""
    singles = [Measurement(threads=count, batch_size=1, seconds=1e-6 / count) for count in threads]
    larger = [Measurement(threads=threads[0], batch_size=n, seconds=1.2e-6) for n in (2, 4)]
    return [*singles, *(row for row in larger if row.batch_size <= max_batch_size)]


def version_loader(events: Events, precision: str = "auto") -> LoadVersion:
    """Loads versions on one core of the CPU."""
    return partial(
        load_instance,
        options=LoadOptions("cpu", precision),
        devices=Devices(1),
        calibrations=CalibrationCache(None),
        events=events,
    )


def sessions_of(instance: ModelInstance) -> dict[int, object]:
    """The sessions by number of threads; what is put in their place will be run."""
    return instance._sessions._sessions


@contextmanager
def held(instance: ModelInstance) -> Iterator[None]:
    """Keep an instance loaded, as a request does."""
    instance.hold()
    try:
        yield
    finally:
        instance.let_go()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


class Gate:
    """A session that says when a run begins, and ends it when it is told to."""

    def __init__(self, session: object) -> None:
        self._session = session
        self._open = threading.Event()
        self._begun = threading.Semaphore(0)
        self.batches: list[int] = []
        self.first_pixels: list[int] = []

    def run(self, images: list, outputs: list) -> list:
        self.batches.append(len(images))
        self.first_pixels.append(int(images[0].flat[0]))
        self._begun.release()
        assert self._open.wait(20)
        return self._session.run(images, outputs)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._begun.acquire, timeout=20)

    def open(self) -> None:
        self._open.set()


Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def start(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start the application on the tiny models, with settings by name, by default on one core.

    What calibration would measure is fixed: batches of four pay, and all cores for one image.
    """
    monkeypatch.setattr("service.repository.loading.calibrate", measured)

    @asynccontextmanager
    async def started(cores: int = 1, **settings: object) -> AsyncIterator[Running]:
        monkeypatch.setattr("service.app.usable_cores", lambda: cores)
        settings = {"model_repository": repository, "image_threads": 2, **settings}
        running = Running(create_app(Settings(**settings)))
        await running.parts.repository.load_all()
        try:
            yield running
        finally:
            await running.close()

    return started


@pytest.fixture
async def service(start: Start) -> AsyncIterator[Running]:
    async with start() as running:
        yield running


@pytest.fixture
def restored_log() -> Iterator[None]:
    """For tests that configure the log: what it writes to is gone after them."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os  # noqa: PLC0415

    for name in [name for name in os.environ if name.startswith("VT_")]:
        monkeypatch.delenv(name)


TURN_SECONDS = 0.05


class Turns:
    """How much of the processor's time the longest turn of the event loop took, in its thread."""

    def __init__(self) -> None:
        self.longest = 0.0


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    """Measure; what other tests left in memory is no business of this loop's garbage collector."""
    measuring, run = Turns(), asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        before = time.thread_time()
        run(handle)
        measuring.longest = max(measuring.longest, time.thread_time() - before)

    gc.collect()
    gc.freeze()
    monkeypatch.setattr(asyncio.Handle, "_run", measured)
    yield measuring
    gc.unfreeze()
