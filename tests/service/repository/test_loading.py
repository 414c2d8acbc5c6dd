"""Which graph of a version is opened, and when it is refused."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from service.batching.instance import ModelInstance
from service.errors import InvalidEntry
from service.runtime.device import Devices
from service.runtime.session import Session
from service.schema.files import read_contract
from service.telemetry.metrics import PrometheusMetrics
from tests.service.clients import error_of
from tests.service.conftest import Running, Start, version_loader
from tests.service.photos import GREEN, encode, solid
from tests.service.repository_fixture import (
    INT8_SCALE,
    Json,
    accuracy,
    certify,
    classification_config,
    classification_graph,
    externalize,
    golden_arrays,
    write_classifier,
    write_config,
    write_entry,
    write_quantized_classifier,
)

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
PHOTO = encode(solid(GREEN))
BEYOND = {CPU: accuracy(top1=0.8)}
LOSES = "int8 loses 10 points of top1; at most 0.5 are allowed"


def load(folder: Path, precision: str = "auto", **options: Any) -> ModelInstance:
    loader = partial(version_loader(PrometheusMetrics(), precision), **options)
    return asyncio.run(loader(folder, read_contract(folder), "1"))


def refusal(folder: Path, precision: str = "auto") -> str:
    with pytest.raises(InvalidEntry) as caught:
        load(folder, precision)
    return str(caught.value)


def told(lines: list[dict]) -> list[dict]:
    """The log lines above the debug level."""
    return [line for line in lines if line["log_level"] != "debug"]


def flip(path: Path) -> None:
    """Change one bit of a file's last byte."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


async def colour(service: Running) -> dict:
    """The classifier's row of `/v1/models`."""
    models = (await service.http.get("/v1/models")).json()["models"]
    return next(model for model in models if model["name"] == "colour")


async def test_auto_serves_int8_on_the_cpu_with_its_accuracy(
    start: Start, repository: Path
) -> None:
    write_quantized_classifier(repository)
    async with start(execution_providers="cpu") as service:
        status = await colour(service)
        assert (status["state"], status["precision"]) == ("READY", "int8")
        assert status["accuracy"] == {
            "data": "colours/val",
            "images": 100,
            "top1": 0.899,
            "top5": 0.99,
            "miou": None,
            "pixel_accuracy": None,
        }
        assert (await service.http.get("/v2/health/ready")).status_code == 200
        metrics = (await service.http.get("/metrics")).text
        assert 'model="colour",precision="int8"' in metrics
        assert 'model="pixels",precision="fp32"' in metrics


async def test_an_accuracy_of_nan_is_null(start: Start, repository: Path) -> None:
    write_quantized_classifier(repository, accuracy={CPU: accuracy(top1=float("nan"), top5=0.9)})
    async with start(precision="int8") as service:
        told = (await colour(service))["accuracy"]
        assert (told["top1"], told["top5"]) == (None, 0.9)


async def test_the_setting_takes_precedence_over_the_providers_preference(
    start: Start, repository: Path
) -> None:
    write_quantized_classifier(repository)
    async with start(precision="fp32") as service:
        status = await colour(service)
        assert (status["precision"], status["accuracy"]["top1"]) == ("fp32", 0.9)


def test_auto_falls_back_to_fp32_and_logs_the_reason(tmp_path: Path) -> None:
    folder = write_quantized_classifier(tmp_path, accuracy=BEYOND)
    with structlog.testing.capture_logs() as lines:
        assert load(folder).build.precision == "fp32"
    assert told(lines) == [
        {
            "event": "precision_chosen",
            "log_level": "info",
            "model": "colour",
            "precision": "fp32",
            "reason": LOSES,
        }
    ]


def test_a_precision_that_was_set_serves_beyond_its_limits_with_a_warning(
    tmp_path: Path,
) -> None:
    folder = write_quantized_classifier(tmp_path, accuracy=BEYOND)
    with structlog.testing.capture_logs() as lines:
        assert load(folder, "int8").build.precision == "int8"
    (line,) = told(lines)
    assert (line["log_level"], line["precision"], line["reason"]) == ("warning", "int8", LOSES)


@pytest.mark.parametrize("precision", ["auto", "int8", "fp32"])
def test_a_choice_within_its_limits_is_not_logged(tmp_path: Path, precision: str) -> None:
    folder = write_quantized_classifier(tmp_path)
    with structlog.testing.capture_logs() as lines:
        load(folder, precision)
    assert told(lines) == []


async def test_a_model_without_the_precision_that_was_set_is_refused_and_the_others_serve(
    start: Start, repository: Path
) -> None:
    write_quantized_classifier(repository)
    async with start(precision="int8") as service:
        response = await service.http.get("/v2/health/ready")
        assert response.status_code == 503
        assert "pixels version 1 is unavailable: certificate.json lists no int8 graph" in error_of(
            response
        )
        assert (await colour(service))["precision"] == "int8"
        assert (await service.http.post("/v1/classify", content=PHOTO)).status_code == 200


def wrong_outputs(repository: Path) -> None:
    outputs = golden_arrays(classification_config("colour"))
    write_quantized_classifier(repository, golden_outputs=outputs)


def flipped(file: str) -> Callable[[Path], None]:
    return lambda repository: flip(write_quantized_classifier(repository) / "1" / file)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (flipped("model.int8.onnx"), "model.int8.onnx does not have the SHA-256"),
        (flipped("golden.int8.npz"), "golden.int8.npz does not have the SHA-256"),
        (flipped("golden.npz"), "golden.npz does not have the SHA-256"),
        (wrong_outputs, "the self-test failed: an output differs by 1.0e-02"),
    ],
    ids=["altered graph", "altered outputs", "altered inputs", "other outputs"],
)
async def test_a_changed_int8_graph_is_refused_and_not_replaced_by_fp32(
    start: Start, repository: Path, write: Callable[[Path], None], reason: str
) -> None:
    write(repository)
    async with start(execution_providers="cpu") as service:
        status = await colour(service)
        assert (status["state"], status["precision"], status["accuracy"]) == (
            "UNAVAILABLE",
            None,
            None,
        )
        assert reason in status["reason"]
        response = await service.http.get("/v2/health/ready")
        assert (response.status_code, reason in error_of(response)) == (503, True)
        assert (await service.http.post("/v1/classify", content=PHOTO)).status_code == 503
        assert (await service.http.post("/v1/segment", content=PHOTO)).status_code == 200


def test_a_failed_self_test_of_the_chosen_precision_suggests_fp32(tmp_path: Path) -> None:
    wrong_outputs(tmp_path)
    folder = tmp_path / "colour"
    hint = "; try VT_PRECISION=fp32"
    assert refusal(folder).endswith(f"is allowed{hint}")
    assert refusal(folder, "int8").endswith("is allowed")
    assert load(folder, "fp32").build.precision == "fp32"


def test_a_failed_self_test_of_fp32_suggests_nothing(tmp_path: Path) -> None:
    config = classification_config("colour")
    folder = write_entry(tmp_path, config, classification_graph(INT8_SCALE))
    assert refusal(folder).endswith("is allowed")


def test_initializers_are_read_from_certified_files(tmp_path: Path) -> None:
    graph, data = externalize(classification_graph(INT8_SCALE), "weights.bin")
    external = {"weights.bin": data}
    folder = write_quantized_classifier(tmp_path, graph=graph, external_data=external)
    assert load(folder).build.precision == "int8"


def test_a_changed_file_of_initializers_is_refused(tmp_path: Path) -> None:
    graph, data = externalize(classification_graph(INT8_SCALE), "weights.bin")
    external = {"weights.bin": data}
    folder = write_quantized_classifier(tmp_path, graph=graph, external_data=external)
    flip(folder / "1" / "weights.bin")
    assert refusal(folder) == ("weights.bin does not have the SHA-256 that certificate.json states")


def test_a_file_of_initializers_that_is_not_certified_is_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, data = externalize(classification_graph(INT8_SCALE), "weights.bin")
    folder = write_quantized_classifier(tmp_path, graph=graph)
    (folder / "1" / "weights.bin").write_bytes(data)
    monkeypatch.chdir(folder / "1")
    assert refusal(folder) == "ONNX Runtime cannot load the graph"


def test_a_silent_fallback_to_the_cpu_serves_the_cpus_preference(tmp_path: Path) -> None:
    folder = write_quantized_classifier(tmp_path)
    assert load(folder, expected_provider=lambda _: CUDA).build.precision == "int8"


async def test_a_model_that_would_run_on_another_provider_than_required_is_refused(
    start: Start,
) -> None:
    async with start(execution_providers="cpu", require_provider="cuda") as service:
        ready = await service.http.get("/v2/health/ready")
        assert ready.status_code == 503
        reason = (await colour(service))["reason"]
        assert reason == "it would run on CPUExecutionProvider, but VT_REQUIRE_PROVIDER is cuda"
    async with start(execution_providers="cpu", require_provider="cpu") as service:
        assert (await service.http.get("/v2/health/ready")).status_code == 200


async def test_the_self_test_runs_every_golden_input_and_every_session(
    start: Start,
) -> None:
    threads, images = [], []

    class RecordingSession(Session):
        def __init__(self, graph: bytes, provider: str, threads: int, *others: Any) -> None:
            super().__init__(graph, provider, threads, *others)
            self.threads = threads

        def run(self, photos: list, outputs: list) -> list:
            threads.append(self.threads)
            images.append(photos[0].tobytes())
            return super().run(photos, outputs)

    recording = {"open_session": RecordingSession}
    async with start(cores=4, load=recording) as service:
        models = len((await service.http.get("/v1/models")).json()["models"])
    assert threads == [2, 4, 1] * models
    assert len(set(images)) == 2 * models
    threads.clear()
    async with start(cores=1, load=recording):
        assert threads == [1, 1] * models


async def test_closing_the_devices_waits_for_a_model_that_is_being_opened(
    tmp_path: Path,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def held(*arguments: Any) -> Session:
        begun.set()
        assert go_on.wait(20)
        return Session(*arguments)

    folder, devices = write_classifier(tmp_path), Devices(1)
    loader = partial(version_loader(PrometheusMetrics()), devices=devices, open_session=held)
    loading = asyncio.create_task(loader(folder, read_contract(folder), "1"))
    assert await asyncio.to_thread(begun.wait, 20)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert not devices.close(0)
    go_on.set()
    assert devices.close(20)


async def test_on_a_gpu_every_shape_runs_before_the_model_is_ready(start: Start) -> None:
    shapes = set()

    class GpuSession(Session):
        """A session on the CPU that says it is on a GPU."""

        def __init__(self, graph: bytes, _: str, *others: Any) -> None:
            super().__init__(graph, "cpu", *others)
            self.active_provider = CUDA

        def run(self, images: list, outputs: list) -> list:
            shapes.add((len(images), *images[0].shape[:2]))
            return super().run(images, outputs)

    on_gpu = {"open_session": GpuSession, "expected_provider": lambda _: CUDA}
    async with start(load=on_gpu, precision="fp32") as service:
        contract = service.engine.repository.get("pixels").ready_instance().contract
        sizes = contract.preprocessing.input_sizes
        assert len(sizes) == 5
        assert {(n, height, width) for width, height in sizes for n in (1, 2, 4)} <= shapes


def scaling_classifier(repository: Path, **certified: Any) -> Path:
    """A classifier whose contract allows that JPEGs are decoded at a reduced scale."""
    config = classification_config("colour")
    config["preprocessing"]["jpeg_reducing_gap"] = 2
    folder = write_entry(repository, config, classification_graph())
    certify(folder, **certified)
    write_config(folder, config, {"1": (folder / "1/certificate.json").read_bytes()})
    return folder


def scaled_decoding(agreement: float) -> Json:
    facts = {"data": "colours/val", "sha256": "c" * 64, "images": 10, "megapixels": 12}
    return facts | {"agreement": agreement, "limit": 0.995}


def test_jpegs_are_decoded_at_a_scale_within_the_limit_of_the_certificate(tmp_path: Path) -> None:
    instance = load(scaling_classifier(tmp_path, scaled_decoding=scaled_decoding(0.996)))
    assert instance.contract.preprocessing.jpeg_reducing_gap == 2


@pytest.mark.parametrize(
    ("certified", "reason"),
    [
        ({}, "the certificate has no figures"),
        (
            {"scaled_decoding": scaled_decoding(0.99)},
            "99.00 % of the answers stay the same; at least 99.50 % is required",
        ),
    ],
)
def test_otherwise_jpegs_are_decoded_in_full_and_the_reason_is_logged(
    tmp_path: Path, certified: Json, reason: str
) -> None:
    folder = scaling_classifier(tmp_path, **certified)
    with structlog.testing.capture_logs() as lines:
        instance = load(folder)
    assert instance.contract.preprocessing.jpeg_reducing_gap is None
    assert [line["reason"] for line in lines if line["event"] == "decoding_in_full"] == [reason]


async def test_clients_see_the_contract_that_was_read(start: Start, repository: Path) -> None:
    scaling_classifier(repository)
    async with start() as service:
        detail = (await service.http.get("/v1/models/colour")).json()
        assert detail["contract"]["preprocessing"]["jpeg_reducing_gap"] == 2
        key = "/v2/repository/models/colour/load"
        assert (await service.http.post(key)).status_code == 200
