"""The metrics under Triton's names."""

from tests.service.clients import classify
from tests.service.conftest import Start
from tests.service.telemetry.samples import triton_samples


async def test_tritons_names_count_what_triton_counts(start: Start) -> None:
    async with start(metrics_triton_names=True, max_queue_size=1) as service:
        zero = await triton_samples(service.http)
        assert set(zero.values()) == {0.0}
        gate = service.gate("colour")
        first = classify(service)
        await gate.begun()
        assert (await classify(service)).status_code == 429
        assert (await classify(service, content=b"broken")).status_code == 429
        assert (await triton_samples(service.http))["nv_inference_pending_request_count"] == 1
        gate.open()
        assert (await first).status_code == 200
        assert (await classify(service, content=b"broken")).status_code == 415
        found = await triton_samples(service.http)
    durations = {name: found.pop(name) for name in list(found) if name.endswith("_us")}
    assert found == {
        "nv_inference_request_success": 1,
        "nv_inference_request_failure/REJECTED": 2,
        "nv_inference_request_failure/CANCELED": 0,
        "nv_inference_request_failure/BACKEND": 0,
        "nv_inference_request_failure/OTHER": 1,
        "nv_inference_count": 1,
        "nv_inference_exec_count": 1,
        "nv_inference_pending_request_count": 0,
    }
    whole = durations.pop("nv_inference_request_duration_us")
    assert len(durations) == 4
    assert 0 < sum(durations.values()) <= whole


async def test_tritons_names_are_absent_unless_enabled(start: Start) -> None:
    async with start() as service:
        assert await triton_samples(service.http) == {}
