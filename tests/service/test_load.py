"""Overload, deadlines, clients that leave, hangs and failures, seen by clients."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence

import pytest
import structlog

from service.batching import recovery
from service.engine.call import Call
from service.http.middleware import exchange
from service.schema.model_status import Measurement
from tests.service.clients import classify, error_of
from tests.service.conftest import Running, Start, until
from tests.service.photos import GREEN, encode, solid

PHOTO = encode(solid(GREEN))


def outcomes(service: Running) -> dict[str, float]:
    """Count the requests by outcome."""
    text = service.engine.metrics.render("")[0].decode()
    found = re.findall(r'vt_inference_requests_total{.*outcome="(\w+)".*} (\S+)', text)
    return {outcome: float(count) for outcome, count in found if float(count)}


async def test_a_request_beyond_the_bound_is_refused_before_its_body_is_read(
    start: Start,
) -> None:
    async with start(max_concurrent_requests=1) as service:
        gate = service.gate("colour")
        first = classify(service)
        await gate.begun()
        read = []

        async def body() -> AsyncIterator[bytes]:
            read.append(service.engine.admission.in_flight)
            yield PHOTO

        headers = {"Content-Length": str(len(PHOTO))}
        refused = await classify(service, content=body(), headers=headers)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "The server has 1 requests in flight" in error_of(refused)
        assert read == []
        gate.open()
        assert (await first).status_code == 200
        assert (await classify(service)).status_code == 200
        assert outcomes(service) == {"ok": 2, "rejected_full": 1}


async def test_images_beyond_the_queues_bound_are_refused_at_once(start: Start) -> None:
    async with start(max_queue_size=3) as service:
        gate = service.gate("colour")
        first = classify(service, content=None, files=[("a", ("a", PHOTO))] * 2)
        await gate.begun()
        refused = await classify(service, content=None, files=[("a", ("a", PHOTO))] * 2)
        assert (
            refused.status_code,
            "The model colour has 2 images waiting" in error_of(refused),
        ) == (429, True)
        assert int(refused.headers["retry-after"]) >= 1
        fits = classify(service)
        gate.open()
        assert [(await task).status_code for task in (first, fits)] == [200, 200]


async def test_the_other_model_serves_on_the_other_core_while_one_is_busy(start: Start) -> None:
    async with start(cores=2, intra_op_num_threads=1) as service:
        gate = service.gate("colour")
        waiting = classify(service)
        await gate.begun()
        assert (await service.http.post("/v1/segment", content=PHOTO)).status_code == 200
        gate.open()
        assert (await waiting).status_code == 200


async def test_a_deadline_expires_while_the_model_is_busy_and_drops_the_waiting_images(
    start: Start,
) -> None:
    async with start(default_timeout_seconds=0.3) as service:
        gate = service.gate("colour")
        first, second = classify(service), classify(service)
        await gate.begun()
        for response in (await first, await second):
            assert response.status_code == 504
            assert "within 0.3 s" in error_of(response)
        assert service.engine.admission.in_flight == 0
        gate.open()
        assert (await classify(service)).status_code == 200
        assert gate.batches == [1, 1]  # the second was dropped
        assert outcomes(service) == {"timeout": 2, "ok": 1}


class RawClient:
    """An ASGI client that can disconnect at any time."""

    def __init__(self, service: Running, body: bytes = PHOTO) -> None:
        self.left = asyncio.Event()
        self._messages = [{"type": "http.request", "body": body, "more_body": False}]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/classify",
            "raw_path": b"/v1/classify",
            "query_string": b"",
            "headers": [(b"content-length", str(len(body)).encode())],
            "state": {},
        }
        self.sent: list[dict] = []
        self.answer = asyncio.create_task(service.app(scope, self._receive, self._send))

    async def _receive(self) -> dict:
        if self._messages:
            return self._messages.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict) -> None:
        self.sent.append(message)


async def test_images_of_a_disconnected_client_are_dropped_and_other_requests_are_answered(
    service: Running,
) -> None:
    gate = service.gate("colour")
    running = classify(service)
    await gate.begun()
    leaving, staying = RawClient(service), classify(service)
    instance = service.engine.repository.get("colour").ready_instance()
    await until(lambda: instance.pending == 3)
    leaving.left.set()
    await leaving.answer
    assert leaving.sent[0]["status"] == 499
    assert instance.pending == 2
    gate.open()
    assert [(await task).status_code for task in (running, staying)] == [200, 200]
    assert gate.batches == [1, 1]
    assert outcomes(service) == {"ok": 2, "cancelled": 1}


async def test_a_chunked_body_without_a_length_is_cut_off_at_the_limit(start: Start) -> None:
    async with start(max_body_bytes=1000) as service:
        sent = []

        async def body() -> AsyncIterator[bytes]:
            for n in range(30):
                sent.append(n)
                yield bytes(100)

        response = await classify(service, content=body())
        assert response.status_code == 413
        assert "1,000 bytes" in error_of(response)
        assert response.headers["connection"] == "close"
        assert len(sent) == 30  # read on, so that the client gets to see its answer
        assert (await classify(service)).status_code == 200


async def test_an_endless_body_is_answered_and_not_read_to_the_end(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "LINGER_SECONDS", 0.05)

    async def body() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)
            yield bytes(100)

    async with start(max_body_bytes=1000) as service:
        assert (await classify(service, content=body())).status_code == 413


async def test_a_declared_length_beyond_the_limit_is_refused_without_reading(
    start: Start,
) -> None:
    async with start(max_body_bytes=len(PHOTO)) as service:
        assert (await classify(service)).status_code == 200
        response = await classify(service, content=PHOTO + b"x")
        assert response.status_code == 413
        assert "receive" in response.headers["server-timing"]


async def test_a_body_that_arrives_too_slowly_is_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "LINGER_SECONDS", 0.01)

    async def body() -> AsyncIterator[bytes]:
        yield PHOTO[:10]
        await asyncio.Event().wait()

    async with start(body_timeout_seconds=0.05) as service:
        response = await classify(service, content=body())
        assert response.status_code == 408
        assert "within 0.05 s" in error_of(response)


async def test_a_stopping_server_is_not_ready_and_admits_no_requests(service: Running) -> None:
    gate = service.gate("colour")
    inside = classify(service)
    await gate.begun()
    service.engine.admission.stop()
    assert (await service.http.get("/v2/health/ready")).status_code == 503
    assert (await service.http.get("/v2/health/live")).status_code == 200
    refused = await classify(service)
    assert (refused.status_code, "stopping" in error_of(refused)) == (503, True)
    gate.open()
    assert (await inside).status_code == 200


async def test_a_client_can_shorten_its_timeout_and_gets_504_while_the_model_is_busy(
    service: Running,
) -> None:
    gate = service.gate("colour")
    first = classify(service)
    await gate.begun()
    late = await classify(service, headers={"X-Request-Timeout-Ms": "50"})
    assert (late.status_code, error_of(late)) == (504, "The response was not ready within 0.05 s.")
    gate.open()
    assert (await first).status_code == 200
    assert gate.batches == [1]
    assert outcomes(service) == {"ok": 1, "timeout": 1}


async def test_no_client_gets_more_time_than_the_default(start: Start) -> None:
    async with start(default_timeout_seconds=0.05) as service:
        service.gate("colour")
        response = await classify(service, headers={"X-Request-Timeout-Ms": "60000"})
        assert "within 0.05 s" in error_of(response)


@pytest.mark.parametrize("given", ["0", "-5", "1.5", "soon", "", "9" * 13])
async def test_a_timeout_other_than_a_number_of_milliseconds_is_refused(
    service: Running, given: str
) -> None:
    response = await classify(service, headers={"X-Request-Timeout-Ms": given})
    assert response.status_code == 400
    assert "X-Request-Timeout-Ms must be a whole number" in error_of(response)


async def slow(
    _: object, threads: Sequence[int], max_batch_size: int, _on_cpu: bool
) -> list[Measurement]:
    """Measurements of a model that needs 20 seconds for each image."""
    return [Measurement(threads=count, batch_size=1, seconds=20.0) for count in threads]


async def test_a_wait_beyond_the_deadline_is_refused_before_the_body_is_read(
    start: Start,
) -> None:
    async with start(load={"calibrate": slow}) as service:
        gate = service.gate("colour")
        first = classify(service)
        await gate.begun()
        read = []

        async def body() -> AsyncIterator[bytes]:
            read.append(True)
            yield PHOTO

        headers = {"Content-Length": str(len(PHOTO)), "X-Request-Timeout-Ms": "5000"}
        refused = await classify(service, content=body(), headers=headers)
        assert (refused.status_code, read) == (429, [])
        assert "longer than this request's deadline allows" in error_of(refused)
        assert 37 <= int(refused.headers["retry-after"]) <= 39
        gate.open()
        assert (await first).status_code == 200
        assert outcomes(service) == {"ok": 1, "rejected_deadline": 1}


async def test_requests_share_a_batch_and_each_gets_its_own_answer(start: Start) -> None:
    async with start() as service:
        instance = service.engine.repository.get("colour").ready_instance()
        gate = service.gate("colour")
        first = classify(service)
        await gate.begun()
        colors = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
        others = {
            name: classify(service, content=encode(solid(color))) for name, color in colors.items()
        }
        broken = classify(service, content=b"\xff\xd8\xff broken")
        await until(lambda: instance.pending == 5)
        gate.open()
        assert (await first).status_code == 200
        assert (await broken).status_code == 400
        for name, answer in others.items():
            classes = (await answer).json()["predictions"][0]["classes"]
            assert classes[0]["label"] == name
        assert gate.batches == [1, 3]


async def test_a_model_that_hangs_is_not_ready_and_the_other_serves_on_its_core(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "HANG_SECONDS", 0.05)
    monkeypatch.setattr(recovery, "HANG_FACTOR", 0)
    async with start() as service:
        gate = service.gate("colour")
        response = await classify(service)
        assert response.status_code == 500
        assert error_of(response) == "The model is not responding; try again later."
        monkeypatch.setattr(recovery, "HANG_SECONDS", 60)  # for the batches from now on
        ready = await service.http.get("/v2/health/ready")
        assert ready.status_code == 503
        assert "colour version 1 is unavailable: a batch has been running" in error_of(ready)
        assert (await classify(service)).status_code == 503
        assert (await service.http.post("/v1/segment", content=PHOTO)).status_code == 200
        assert (
            'vt_hung{model="colour",version="1"} 1.0' in (await service.http.get("/metrics")).text
        )
        gate.open()
        instance = service.engine.repository.get("colour").instance
        await until(lambda: instance.outage is None)
        assert (await classify(service)).status_code == 200
        assert (await service.http.get("/v2/health/ready")).status_code == 200


async def test_an_unexpected_failure_is_a_500_without_details_and_is_logged(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("secret /path")

    monkeypatch.setattr(Call, "infer", fail)
    with structlog.testing.capture_logs() as lines:
        response = await classify(service)
    assert response.status_code == 500
    assert error_of(response) == "The server failed; its log says why."
    assert response.headers["x-request-id"]
    (line,) = lines
    assert (line["log_level"], line["status"]) == ("error", 500)
    assert "secret" in str(line["exc_info"])
    assert outcomes(service) == {"error": 1}


async def test_an_unexpected_failure_of_any_route_is_the_same_500(service: Running) -> None:
    def fail() -> None:
        raise RuntimeError("secret /path")

    service.engine.repository.wanted = fail
    with structlog.testing.capture_logs() as lines:
        response = await service.http.get("/v1/models")
    assert response.status_code == 500
    assert error_of(response) == "The server failed; its log says why."
    (line,) = lines
    assert (line["log_level"], line["status"], line["route"]) == ("error", 500, "/v1/models")
    assert "secret" in str(line["exc_info"])


async def test_a_wrong_number_of_results_is_a_500(service: Running) -> None:
    service.replace_runs("colour", lambda *_: [[]])
    response = await classify(service)
    assert response.status_code == 500
    assert "number of results differs" in error_of(response)


async def test_a_request_is_one_log_line_with_its_id(service: Running) -> None:
    with structlog.testing.capture_logs() as lines:
        response = await classify(service, headers={"X-Request-Id": "abc-123"})
        await classify(service, content=b"broken")
    assert response.headers["x-request-id"] == "abc-123"
    good, bad = lines
    assert good.pop("duration_ms") > 0
    assert good == {
        "event": "request",
        "log_level": "info",
        "method": "POST",
        "route": "/v1/classify",
        "status": 200,
        "model": "colour",
        "client": "127.0.0.1",
    }
    assert bad["status"] == 415
    assert "exc_info" not in bad


async def test_the_client_is_logged_except_at_debug_level(service: Running) -> None:
    with structlog.testing.capture_logs() as lines:
        await service.http.get("/v2/health/live")
        await service.http.get("/v2/health/nothing")
    assert [(line["log_level"], line.get("client")) for line in lines] == [
        ("debug", None),
        ("info", "127.0.0.1"),
    ]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "é", '"'])
async def test_an_invalid_request_id_is_replaced(service: Running, given: str) -> None:
    headers = {"X-Request-Id": given.encode("latin-1")}
    response = await service.http.get("/v2/health/live", headers=headers)
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


DECODED_FIRST = ["receive", "decode", "queue", "compute", "encode"]
QUEUED_FIRST = ["receive", "queue", "decode", "compute", "encode"]


@pytest.mark.parametrize(
    ("task", "max_batch_size", "order"),
    [
        ("segment", 4, DECODED_FIRST),
        ("segment", 1, QUEUED_FIRST),
        ("classify", 4, QUEUED_FIRST),
        ("classify", 1, QUEUED_FIRST),
    ],
)
async def test_an_answer_reports_the_time_of_each_stage(
    start: Start, task: str, max_batch_size: int, order: list[str]
) -> None:
    """Photos are decoded before they wait only if it decides which of them share a batch."""
    async with start(max_batch_size=max_batch_size) as service:
        response = await service.http.post(f"/v1/{task}", content=PHOTO)
        stages = re.findall(r"(\w+);dur=\d+\.\d", response.headers["server-timing"])
        assert stages == order


async def test_a_broken_photo_is_named_and_drops_the_other_photos_of_its_request(
    start: Start,
) -> None:
    async with start(max_batch_size=1) as service:
        gate = service.gate("colour")
        first = classify(service)
        await gate.begun()
        files = [("a", ("a", PHOTO)), ("b", ("b", b"\xff\xd8\xff")), ("c", ("c", PHOTO))]
        mixed = classify(service, content=None, files=files)
        gate.open()
        assert (await first).status_code == 200
        response = await mixed
        assert response.status_code == 400
        assert "Image 1 is refused" in error_of(response)
        assert outcomes(service) == {"ok": 1, "bad_input": 1}
        assert (await classify(service)).status_code == 200
