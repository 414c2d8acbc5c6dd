import asyncio
import logging
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI

from service.api_keys import new_key
from service.app import create_app
from service.batching.instance import ModelInstance
from service.engine.engine import Engine
from service.repository.calibration import CalibrationCache
from service.repository.load_options import LoadOptions
from service.repository.loading import LoadInstance, load_instance
from service.repository.opening import OpenSession
from service.repository.swap import LoadVersion
from service.runtime.device import Devices
from service.runtime.session import Session
from service.schema.model_status import Measurement
from service.settings import Settings
from service.telemetry.metrics import PrometheusMetrics
from tests.service.loop_calls import LoopCalls
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

    def __init__(self, app: FastAPI, loader: "Loader") -> None:
        self.app = app
        self.loader = loader
        self.engine: Engine = app.state.engine
        local_key = app.state.access.local_key
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://test",
            timeout=20,
            headers={"X-API-Key": local_key.token} if local_key else None,
        )

        self.gates: list[Gate] = []

    def sessions(self, model: str, version: str | None = None) -> list[Any]:
        """The sessions that serve a version of a model."""
        instance = self.engine.repository.get(model, version).ready_instance()
        return self.loader.sessions(instance)

    def replace_runs(self, model: str, run: "Run", version: str | None = None) -> None:
        """Answer a model's runs with this function."""
        for session in self.sessions(model, version):
            session.run_instead = run

    def gate(self, model: str, version: str | None = None) -> "Gate":
        """Hold a model's next runs until the gate is opened."""
        gate = Gate(self.sessions(model, version)[0].run_graph)
        self.replace_runs(model, gate.run, version)
        self.gates.append(gate)
        return gate

    async def close(self) -> None:
        for gate in self.gates:
            gate.open()
        await self.http.aclose()
        await asyncio.to_thread(self.engine.image_threads.close)
        await self.engine.repository.close()


async def measured(
    _: object, threads: Sequence[int], max_batch_size: int, _on_cpu: bool
) -> list[Measurement]:
    """What a machine might measure on which batches pay."""
    singles = [Measurement(threads=count, batch_size=1, seconds=1e-6 / count) for count in threads]
    larger = [Measurement(threads=threads[0], batch_size=n, seconds=1.2e-6) for n in (2, 4)]
    return [*singles, *(row for row in larger if row.batch_size <= max_batch_size)]


Run = Callable[[list, list], list]


class ReplaceableSession(Session):
    """A session whose runs a test can answer."""

    run_instead: Run | None = None

    def run(self, images: list, outputs: list) -> list:
        return (self.run_instead or self.run_graph)(images, outputs)

    def run_graph(self, images: list, outputs: list) -> list:
        return super().run(images, outputs)


class Loader:
    """Loads instances as the service does, and knows the open sessions of each."""

    def __init__(self, open_session: OpenSession = ReplaceableSession, **overrides: Any) -> None:
        self._open_session = open_session
        self._overrides = overrides
        self._opened: dict[ModelInstance, list[weakref.ref]] = {}

    async def __call__(self, *arguments: Any, **options: Any) -> ModelInstance:
        opened = []

        def open_session(*arguments: Any) -> Any:
            session = self._open_session(*arguments)
            opened.append(weakref.ref(session))
            return session

        options |= {"open_session": open_session, **self._overrides}
        instance = await load_instance(*arguments, **options)
        self._opened[instance] = opened
        return instance

    def sessions(self, instance: ModelInstance) -> list[Any]:
        """The sessions of an instance that are in memory, in the order of their opening."""
        sessions = [session() for session in self._opened[instance]]
        return [session for session in sessions if session is not None]


def version_loader(
    metrics: PrometheusMetrics, precision: str = "auto", load: LoadInstance = load_instance
) -> LoadVersion:
    """Loads versions on one core of the CPU."""
    return partial(
        load,
        options=LoadOptions("cpu", precision),
        devices=Devices(1),
        calibrations=CalibrationCache(None),
        metrics=metrics,
    )


@contextmanager
def held(instance: ModelInstance) -> Iterator[None]:
    """Keep an instance loaded, as a request does."""
    instance.hold()
    try:
        yield
    finally:
        instance.let_go()


async def until(condition: Callable[[], bool]) -> None:
    """Run the event loop until a condition is true; fail if it never becomes true."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the condition never became true"
        await asyncio.sleep(0)


class Gate:
    """Shows when a run begins, and holds it until the gate is opened."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._open = threading.Event()
        self._begun = threading.Semaphore(0)
        self.batches: list[int] = []
        self.first_pixels: list[int] = []

    def run(self, images: list, outputs: list) -> list:
        self.batches.append(len(images))
        self.first_pixels.append(int(images[0].flat[0]))
        self._begun.release()
        assert self._open.wait(20)
        return self._run(images, outputs)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._begun.acquire, timeout=20)

    def open(self) -> None:
        self._open.set()


Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def start(repository: Path) -> Start:
    """Start the application on the tiny models, with settings by name, by default on one core.

    What calibration would measure is fixed: batches of four pay, and all cores for one image.
    `load` overrides arguments of `load_instance`.
    """

    @asynccontextmanager
    async def started(
        cores: int = 1, load: dict[str, Any] | None = None, **settings: object
    ) -> AsyncIterator[Running]:
        loader = Loader(**{"calibrate": measured, **(load or {})})
        settings = {"model_repository": repository, "image_threads": 2, **settings}
        chosen = Settings(**settings)
        engine = Engine.from_settings(chosen, cores=cores, load_instance=loader)
        running = Running(create_app(chosen, engine), loader)
        await running.engine.repository.load_all()
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
    """Restore the log after a test that configures it."""
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


@pytest.fixture
async def loop_calls() -> AsyncIterator[LoopCalls]:
    """The calls of the service in this thread, which is the event loop's."""
    calls = LoopCalls()
    sys.setprofile(calls.profile)
    yield calls
    sys.setprofile(None)
