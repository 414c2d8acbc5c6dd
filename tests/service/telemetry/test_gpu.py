"""The shipped models on a GPU; run by `make test-gpu` on a machine that has one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from service.app import create_app
from service.runtime.execution_providers import CUDA, GpuOptions
from service.runtime.io_binding import _cuda_runtime, pinned
from service.runtime.session import Session
from service.schema.files import read_certificate, read_contract
from service.settings import Settings
from service.telemetry.gpu import find_gpus
from tests.service.conftest import Loader, Running

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        CUDA not in onnxruntime.get_available_providers() or not find_gpus(),
        reason="no GPU, or an ONNX Runtime without CUDA",
    ),
]

WEIGHTS = Path(__file__).parents[3] / "weights"
CLASSIFIER, SEGMENTER = "vt_resnet18_imagenette", "vt_fpn_camvid"
ROUTES = {CLASSIFIER: "/v1/classify", SEGMENTER: "/v1/segment?mask=rle"}


@pytest.fixture
async def service() -> AsyncIterator[Running]:
    settings = Settings(model_repository=WEIGHTS, require_provider="cuda")
    loader = Loader()
    running = Running(create_app(settings, load=loader), loader)
    await running.engine.repository.load_all()
    yield running
    await running.close()


def examples(model: str) -> list[bytes]:
    files = sorted((WEIGHTS / model / "examples").iterdir())
    return [file.read_bytes() for file in files if file.suffix in (".jpg", ".webp")]


def graph_of(model: str, precision: str) -> tuple[bytes, dict[str, bytes]]:
    contract = read_contract(WEIGHTS / model)
    version = max(contract.versions, key=int)
    record = read_certificate(WEIGHTS / model, contract, version).precision(precision)
    folder = WEIGHTS / model / version
    data = {file: (folder / file).read_bytes() for file in record.external_data}
    return (folder / record.file).read_bytes(), data


@pytest.mark.parametrize("model", ROUTES)
async def test_the_fp16_graph_runs_on_cuda_alone(service: Running, model: str) -> None:
    detail = (await service.http.get(f"/v1/models/{model}")).json()
    assert (detail["state"], detail["precision"]) == ("READY", "fp16")
    provider = detail["execution_provider"]
    assert (provider["requested"], provider["active"]) == (CUDA, CUDA)
    assert provider["nodes_on_cpu"] == 0


@pytest.mark.parametrize("model", ROUTES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_batch_on_the_gpu_equals_the_same_batch_on_the_cpu(model: str, precision: str) -> None:
    graph, data = graph_of(model, precision)
    contract = read_contract(WEIGHTS / model)
    width, height = contract.preprocessing.common_size
    random = np.random.default_rng(3)
    images = list(random.integers(0, 256, (4, height, width, 3), np.uint8))
    (expected,) = Session(graph, "cpu", 0, data).run(images, [contract.prediction])
    (actual,) = Session(graph, "cuda", 1, data).run(images, [contract.prediction])
    if model == SEGMENTER:
        assert (expected == actual).mean() > 0.99
    else:
        scale = np.abs(expected).max()
        tolerance = 1e-4 if precision == "fp32" else 2e-2
        np.testing.assert_allclose(actual, expected, atol=tolerance * scale)


def test_io_binding_does_not_change_the_outputs() -> None:
    graph, data = graph_of(CLASSIFIER, "fp32")
    session = Session(graph, "cuda", 1, data, GpuOptions())
    width, height = read_contract(WEIGHTS / CLASSIFIER).preprocessing.common_size
    random = np.random.default_rng(4)
    for count in (1, 8, 3):
        images = list(random.integers(0, 256, (count, height, width, 3), np.uint8))
        (bound,) = session.run(images, ["logits"])
        (plain,) = session._session.run(["logits"], {"images": np.stack(images)})
        np.testing.assert_allclose(bound, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ROUTES)
async def test_concurrent_requests_get_their_own_responses(service: Running, model: str) -> None:
    photos = examples(model)

    async def best_class(photo: bytes) -> str:
        response = await service.http.post(ROUTES[model], content=photo)
        assert response.status_code == 200
        (prediction,) = response.json()["predictions"]
        label: str = prediction["classes"][0]["label"]
        return label

    alone = [await best_class(photo) for photo in photos]
    if model == CLASSIFIER:  # street photos may have one best class
        assert len(set(alone)) > 1
    assert await asyncio.gather(*map(best_class, photos * 8)) == alone * 8


def test_memory_for_copies_is_locked() -> None:
    runtime = _cuda_runtime()
    memory = pinned(1 << 20, 0)
    error, attributes = runtime.cudaPointerGetAttributes(memory.ctypes.data)
    assert error == runtime.cudaError_t.cudaSuccess
    assert attributes.type == runtime.cudaMemoryType.cudaMemoryTypeHost


async def test_the_session_on_the_gpu_uses_io_binding(service: Running) -> None:
    (session,) = service.sessions(CLASSIFIER)
    assert session.active_provider == CUDA
    assert session._on_device is not None
