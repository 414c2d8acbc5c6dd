"""Models on two fake GPUs that run on the CPU; either may fall back to the CPU."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service.batching import recovery
from service.errors import OutOfMemory
from service.repository.calibration import CalibrationCache
from service.runtime.arrays import Array
from service.runtime.execution_providers import CPU, CUDA, TENSORRT, GpuOptions
from service.runtime.session import Session
from tests.service.conftest import Running, Start
from tests.service.photos import GREEN, encode, solid
from tests.service.repository_fixture import (
    Precision,
    accuracy,
    classification_config,
    classification_graph,
    write_entry,
)

PHOTO = encode(solid(GREEN))
ELSEWHERE = "it would run on CPUExecutionProvider, but VT_REQUIRE_PROVIDER is cuda"


class Machine:
    """Two GPUs: what was opened and run on each, and the provider of the next session there."""

    def __init__(self) -> None:
        self.providers = {0: CUDA, 1: CUDA}
        self.opened: list[GpuOptions] = []
        self.runs: set[tuple[int, int, int, int]] = set()
        self.errors: list[Exception] = []

    def open(
        self, graph: bytes, wanted: str, threads: int, data: Any, gpu: GpuOptions
    ) -> "GpuSession":
        self.opened.append(gpu)
        return GpuSession(self, graph, threads, data, gpu.device_id)


class GpuSession(Session):
    """A session on the CPU that claims to be on a GPU if the machine does."""

    def __init__(
        self, machine: Machine, graph: bytes, threads: int, data: Any, device_id: int
    ) -> None:
        super().__init__(graph, "cpu", threads, data)
        self.requested_provider, self.active_provider = CUDA, machine.providers[device_id]
        self._machine, self._device_id = machine, device_id

    def run(self, images: list[Array], outputs: list[str]) -> list[Array]:
        self._machine.runs.add((self._device_id, len(images), *images[0].shape[:2]))
        if self._machine.errors:
            raise self._machine.errors.pop()
        return super().run(images, outputs)


Gpus = Callable[..., Any]


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def start_on_gpus(start: Start, machine: Machine) -> Gpus:
    return partial(
        start,
        load={"open_session": machine.open, "expected_provider": lambda _: CUDA},
        execution_providers="cuda",
        gpu_devices=(0, 1),
        max_batch_size=2,
    )


async def detail_of(service: Running, model: str = "colour") -> dict:
    return (await service.http.get(f"/v1/models/{model}")).json()


async def as_requested(service: Running, active: str) -> float | None:
    labels = {"model": "colour", "version": "1", "requested": CUDA, "active": active}
    registry = service.engine.metrics.registry
    return registry.get_sample_value("vt_provider_requested_active", labels)


async def test_a_model_runs_on_every_gpu(start_on_gpus: Gpus, machine: Machine) -> None:
    async with start_on_gpus(require_provider="cuda") as service:
        detail = await detail_of(service)
        assert (detail["state"], detail["execution_provider"]["active"]) == ("READY", CUDA)
        assert await as_requested(service, CUDA) == 1
    assert {gpu.device_id for gpu in machine.opened} == {0, 1}


async def test_no_gpu_may_fall_back_to_the_cpu_if_one_is_required(
    start_on_gpus: Gpus, machine: Machine
) -> None:
    machine.providers[1] = CPU
    async with start_on_gpus(require_provider="cuda") as service:
        detail = await detail_of(service)
        assert (detail["state"], detail["reason"]) == ("UNAVAILABLE", ELSEWHERE)
        assert (await service.http.get("/v2/health/ready")).status_code == 503


async def test_a_gpu_that_fell_back_to_the_cpu_is_reported_if_none_is_required(
    start_on_gpus: Gpus, machine: Machine
) -> None:
    machine.providers[1] = CPU
    async with start_on_gpus() as service:
        detail = await detail_of(service)
        assert (detail["state"], detail["execution_provider"]["active"]) == ("READY", CPU)
        assert await as_requested(service, CPU) == 0
        assert await as_requested(service, CUDA) is None


async def test_each_gpu_is_tested_and_warmed_for_every_shape_before_a_model_is_ready(
    start_on_gpus: Gpus, machine: Machine
) -> None:
    async with start_on_gpus() as service:
        contracts = [
            service.engine.repository.get(name).ready_instance().contract
            for name in ("colour", "pixels")
        ]
    sizes = [size for each in contracts for size in each.preprocessing.input_sizes]
    shapes = {(count, height, width) for width, height in sizes for count in (1, 2)}
    golden = (1, 32, 32)  # the segmenter's; nothing else has this size
    assert machine.runs == {(gpu, *shape) for gpu in (0, 1) for shape in {*shapes, golden}}


def reported(service: Running, name: str) -> asyncio.Event:
    """Set an event when something is reported to the metrics."""
    metrics, happened = service.engine.metrics.batches, asyncio.Event()
    report = getattr(metrics, name)
    setattr(metrics, name, lambda *arguments: (report(*arguments), happened.set()))
    return happened


async def run_out_of_memory(service: Running, machine: Machine) -> None:
    machine.errors = [OutOfMemory("no")]
    assert (await service.http.post("/v1/classify", content=PHOTO)).status_code == 500


async def test_a_reopened_session_is_not_used_on_a_provider_that_is_not_allowed(
    start_on_gpus: Gpus, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "REOPEN_SECONDS", 0.01)
    async with start_on_gpus(require_provider="cuda") as service:
        lost, recovered = reported(service, "session_lost"), reported(service, "session_recovered")
        machine.providers[1] = CPU
        await run_out_of_memory(service, machine)
        await asyncio.wait_for(lost.wait(), 20)
        response = await service.http.post("/v1/classify", content=PHOTO)
        assert response.status_code == 503
        assert "its session could not be reopened" in response.json()["error"]
        assert (await detail_of(service))["state"] == "UNAVAILABLE"
        machine.providers[1] = CUDA
        await asyncio.wait_for(recovered.wait(), 20)
        assert (await service.http.post("/v1/classify", content=PHOTO)).status_code == 200
        assert (await detail_of(service))["execution_provider"]["active"] == CUDA


async def test_the_provider_of_a_reopened_session_is_reported(
    start_on_gpus: Gpus, machine: Machine
) -> None:
    async with start_on_gpus() as service:
        rebuilt = reported(service, "session_rebuilt")
        machine.providers[1] = CPU
        await run_out_of_memory(service, machine)
        await asyncio.wait_for(rebuilt.wait(), 20)
        assert (await detail_of(service))["execution_provider"]["active"] == CPU
        assert await as_requested(service, CPU) == 0
        assert (await service.http.post("/v1/classify", content=PHOTO)).status_code == 200


async def test_measurements_of_one_provider_are_not_used_for_another(
    start_on_gpus: Gpus, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, read = [], CalibrationCache.read

    def recorded(self: CalibrationCache, key: dict) -> Any:
        keys.append(key)
        return read(self, key)

    monkeypatch.setattr(CalibrationCache, "read", recorded)
    for provider in (CUDA, TENSORRT):
        machine.providers = {0: provider, 1: provider}
        async with start_on_gpus():
            pass
    on_cuda, _, on_tensorrt, _ = keys
    assert on_cuda != on_tensorrt
    assert on_cuda["precision"] == "fp32"


async def test_tensorrt_gets_the_precision_that_serves(
    start_on_gpus: Gpus, machine: Machine, repository: Path
) -> None:
    fp16 = Precision(
        classification_graph(),
        limits={"agreement_with_fp32": 0.99},
        accuracy={CPU: accuracy(agreement_with_fp32=1.0)},
    )
    write_entry(repository, classification_config("colour"), classification_graph(), fp16=fp16)
    async with start_on_gpus() as service:
        assert (await detail_of(service))["precision"] == "fp16"
    assert [gpu.precision for gpu in machine.opened] == ["fp16", "fp16", "fp32", "fp32"]
