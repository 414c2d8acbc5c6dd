import asyncio
import gc
import re
import time

import httpx
import numpy as np
import pytest

from service.errors import ServerStopping
from service.frontends.board import Column
from service.frontends.front_end import SILENCE_SECONDS, STALL_SECONDS
from service.frontends.messages import Kind, message
from tests.service.clients import error_of
from tests.service.conftest import until
from tests.service.frontends.conftest import ARENA_BYTES, FrontEnd, Join, Joined
from tests.service.photos import BLUE, GREEN, RED, encode, quarters, solid
from tests.service.repository_fixture import SIDE

PHOTO = encode(solid(GREEN), "JPEG")
ADMIN = "/v2/repository/models/colour"


def classes(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [row["classes"][0]["label"] for row in response.json()["predictions"]]


def tensor(count: int, color: int = 1) -> dict:
    images = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    images[..., color] = 200
    data = images.ravel().tolist()
    shape = list(images.shape)
    return {"inputs": [{"name": "images", "shape": shape, "datatype": "UINT8", "data": data}]}


async def post(front_end: FrontEnd, photo: bytes = PHOTO, **options: object) -> httpx.Response:
    return await front_end.http.post("/v1/classify", content=photo, **options)


def value(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (.*)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_every_front_end_predicts_as_the_engine_does(joined: Joined) -> None:
    photos = [encode(solid(color)) for color in (RED, GREEN, BLUE)]
    alone = [await joined.running.http.post("/v1/classify", content=each) for each in photos]
    for front_end in joined.front_ends:
        answers = [await post(front_end, each) for each in photos]
        assert [each.json() for each in answers] == [each.json() for each in alone]


async def test_masks_and_all_outputs_of_a_model_come_back(joined: Joined) -> None:
    second = joined.front_ends[1]
    photo = encode(quarters(96, 64))
    for url in ("/v1/segment", "/v1/segment?overlay=true", "/v2/models/colour/infer"):
        names = ["token_attention", "logits", "tokens"]
        body = tensor(3) | {"outputs": [{"name": name} for name in names]}
        sent = {"json": body} if "infer" in url else {"content": photo}
        answer, alone = [
            await each.post(url, **sent) for each in (second.http, joined.running.http)
        ]
        assert (answer.status_code, answer.content) == (200, alone.content)


async def test_pixels_without_a_free_cell_go_through_the_socket(joined: Joined) -> None:
    front_end = joined.front_ends[0]
    cells = front_end.engine.cells
    taken = cells.take(ARENA_BYTES)
    assert taken is not None
    assert classes(await post(front_end)) == ["green"]
    del taken
    assert cells.free_bytes == ARENA_BYTES


async def test_cells_are_free_after_each_request(joined: Joined) -> None:
    front_end = joined.front_ends[0]
    for _ in range(3):
        await post(front_end)
        await front_end.http.post("/v1/segment?mask=none", content=encode(quarters(96, 64)))
        assert (await post(front_end, b"\xff\xd8\xff no photo")).status_code == 400
    assert front_end.engine.cells.free_bytes == ARENA_BYTES


async def test_images_of_several_front_ends_share_a_batch(joined: Joined) -> None:
    gate = joined.running.gate("colour")
    first = asyncio.create_task(post(joined.front_ends[0]))
    await gate.begun()
    others = [asyncio.create_task(post(each)) for each in (*joined.front_ends, *joined.front_ends)]
    instance = joined.engine.repository.get("colour").ready_instance()
    await until(lambda: instance.pending == 5)
    gate.open()
    assert [classes(each) for each in await asyncio.gather(first, *others)] == [["green"]] * 5
    assert gate.batches == [1, 4]


async def test_requests_in_flight_are_limited_over_all_front_ends(join: Join) -> None:
    async with join(max_concurrent_requests=2) as joined:
        gate = joined.running.gate("colour")
        admitted = [asyncio.create_task(post(each)) for each in joined.front_ends]
        await until(lambda: joined.front_ends[0].engine.admission.in_flight == 2)
        for each in joined.front_ends:
            refused = await post(each)
            assert refused.status_code == 429
            assert "2 requests in flight" in error_of(refused)
            assert int(refused.headers["retry-after"]) >= 1
        gate.open()
        assert [each.status_code for each in await asyncio.gather(*admitted)] == [200, 200]
        assert (await post(joined.front_ends[0])).status_code == 200


async def test_the_images_of_all_front_ends_share_the_queue(join: Join) -> None:
    async with join(max_queue_size=2) as joined:
        gate = joined.running.gate("colour")
        admitted = [asyncio.create_task(post(each)) for each in joined.front_ends]
        mirrored = joined.front_ends[0].engine.repository.get("colour").ready_instance()
        await until(lambda: mirrored.pending == 2)
        refused = [await post(each) for each in joined.front_ends]
        assert [each.status_code for each in refused] == [429, 429]
        assert "2 images waiting" in error_of(refused[0])
        gate.open()
        assert [each.status_code for each in await asyncio.gather(*admitted)] == [200, 200]


async def test_a_deadline_passes_in_the_front_end_and_its_image_never_runs(joined: Joined) -> None:
    gate = joined.running.gate("colour")
    running = asyncio.create_task(post(joined.front_ends[0]))
    await gate.begun()
    late = await post(joined.front_ends[1], headers={"X-Request-Timeout-Ms": "50"})
    assert late.status_code == 504
    instance = joined.engine.repository.get("colour").ready_instance()
    await until(lambda: instance.pending == 1)
    gate.open()
    assert classes(await running) == ["green"]
    assert gate.batches == [1]


async def test_an_image_whose_caller_has_left_never_runs(joined: Joined) -> None:
    gate = joined.running.gate("colour")
    running = asyncio.create_task(post(joined.front_ends[0]))
    await gate.begun()
    leaving = asyncio.create_task(post(joined.front_ends[1]))
    instance = joined.engine.repository.get("colour").ready_instance()
    await until(lambda: instance.pending == 2)
    leaving.cancel()
    await until(lambda: instance.pending == 1)
    gate.open()
    assert classes(await running) == ["green"]
    assert gate.batches == [1]
    del leaving
    gc.collect()  # a cancelled task of the client is a cycle that refers to the image
    assert joined.front_ends[1].engine.cells.free_bytes == ARENA_BYTES


async def test_an_error_of_the_engine_reaches_the_client_and_its_cause_the_log(
    joined: Joined,
) -> None:
    def broken(_images: list, _outputs: list) -> list:
        raise ZeroDivisionError("the cause")

    joined.running.replace_runs("colour", broken)
    failed = await post(joined.front_ends[0])
    assert (failed.status_code, error_of(failed)) == (500, "The server failed; its log says why.")
    joined.running.replace_runs("colour", joined.running.sessions("colour")[0].run_graph)
    assert classes(await post(joined.front_ends[0])) == ["green"]


async def test_an_unload_is_known_everywhere_once_it_is_answered(joined: Joined) -> None:
    first, second = joined.front_ends
    assert (await first.http.post(f"{ADMIN}/unload")).status_code == 200
    refused = await post(second)
    assert (refused.status_code, "is unloaded" in error_of(refused)) == (503, True)
    assert (await second.http.post(f"{ADMIN}/load")).status_code == 200
    assert classes(await post(first)) == ["green"]
    missing = await first.http.post("/v2/repository/models/nothing/load")
    assert (missing.status_code, "There is no model nothing" in error_of(missing)) == (404, True)


async def test_a_version_is_kept_until_every_front_end_has_answered(joined: Joined) -> None:
    first, second = joined.front_ends
    gate = joined.running.gate("colour")
    running = asyncio.create_task(post(first))
    await gate.begun()
    unloading = asyncio.create_task(second.http.post(f"{ADMIN}/unload"))
    await until(lambda: not first.engine.repository.get("colour").is_ready)
    assert not unloading.done()
    gate.open()
    assert classes(await running) == ["green"]
    assert (await unloading).status_code == 200
    assert joined.engine.repository.get("colour").instance is None


@pytest.mark.parametrize("url", ["/v1/models", "/v1/models/colour", "/v2/models/pixels/config"])
async def test_front_ends_describe_models_as_the_engine_does(joined: Joined, url: str) -> None:
    alone = await joined.running.http.get(url)
    for each in joined.front_ends:
        assert (await each.http.get(url)).json() == alone.json()


async def test_readiness_is_the_engines(joined: Joined) -> None:
    for each in joined.front_ends:
        await until(lambda each=each: each.engine.repository.is_settled)
        assert (await each.http.get("/v2/health/ready")).status_code == 200
    joined.engine.repository.get("pixels").instance._change_outage("it is lost")
    for each in joined.front_ends:
        await until(lambda each=each: bool(each.engine.not_ready()))
        response = await each.http.get("/v2/health/ready")
        assert (response.status_code, "it is lost" in error_of(response)) == (503, True)


async def test_statistics_are_totals_whichever_front_end_answers(joined: Joined) -> None:
    for each in (*joined.front_ends, joined.front_ends[0]):
        await post(each)
    await post(joined.front_ends[1], b"no photo")
    for each in joined.front_ends:
        (found,) = (await each.http.get("/v2/models/colour/stats")).json()["model_stats"]
        assert (found["inference_count"], found["execution_count"]) == (3, 3)
        assert found["inference_stats"]["success"]["count"] == 3
        assert found["inference_stats"]["fail"]["count"] == 1


async def test_metrics_are_totals_and_do_not_shrink_when_a_front_end_ends(joined: Joined) -> None:
    name = 'vt_inference_requests_total{model="colour",outcome="ok",task="classification",'
    name += 'version="1"}'
    for each in joined.front_ends:
        await post(each)
    first, second = joined.front_ends
    for each in joined.front_ends:
        text = (await each.http.get("/metrics")).text
        assert value(text, name) == 2
        assert value(text, 'vt_stage_duration_seconds_count{model="colour",stage="decode"}') == 2
    await first.engine.close()
    assert value((await second.http.get("/metrics")).text, name) == 2


async def test_a_front_end_that_ends_gives_everything_back(joined: Joined) -> None:
    first, second = joined.front_ends
    gate = joined.running.gate("colour")
    lost = asyncio.create_task(post(first))
    await gate.begun()
    first.engine.abort()  # as if its process were killed
    assert (await lost).status_code == 503
    await until(lambda: list(joined.hub.front_ends) == [1])
    assert second.engine.admission.in_flight == 0
    instance = joined.engine.repository.get("colour").ready_instance()
    assert (instance.pending, instance.is_held) == (0, True)
    gate.open()
    assert classes(await post(second)) == ["green"]
    assert classes(await post(await joined.join(0))) == ["green"]


async def test_open_requests_get_503_if_the_engine_ends(joined: Joined) -> None:
    gate = joined.running.gate("colour")
    lost = [asyncio.create_task(post(each)) for each in joined.front_ends]
    await gate.begun()
    joined.hub.abort()
    for answer in await asyncio.gather(*lost):
        assert answer.status_code == 503
    assert [each.asked for each in joined.front_ends] == [["lost"], ["lost"]]
    with pytest.raises(ServerStopping):
        await joined.front_ends[0].engine.statistics()


async def test_the_drain_is_for_all_front_ends(joined: Joined) -> None:
    stopping = asyncio.create_task(joined.hub.stop())
    await until(lambda: all(each.asked == ["stop"] for each in joined.front_ends))
    assert (await joined.front_ends[0].http.get("/v2/health/ready")).status_code == 503
    for each in joined.front_ends:
        await each.engine.close()
    await asyncio.wait_for(stopping, 20)


async def test_an_idle_connection_of_another_front_end_makes_room(joined: Joined) -> None:
    joined.board.add(Column.IDLE_METRICS_CONNECTIONS, 1, 1)
    joined.front_ends[0].engine.make_room_elsewhere(1)
    await until(lambda: joined.front_ends[1].asked == ["make room on port 1"])
    assert joined.front_ends[0].asked == []


async def test_a_front_end_is_stuck_if_it_does_not_report(joined: Joined) -> None:
    front_end = joined.hub.front_ends[0]
    await joined.hub.collect()
    now = time.monotonic()
    assert not front_end.is_stuck(now + SILENCE_SECONDS - 1)
    assert front_end.is_stuck(now + SILENCE_SECONDS + 1)
    await joined.hub.collect()
    assert not front_end.is_stuck(time.monotonic())


async def test_a_front_end_is_stuck_if_it_reads_nothing_while_something_waits(
    joined: Joined,
) -> None:
    front_end = joined.hub.front_ends[0]
    joined.front_ends[0].engine.link.channel.pause_writing()  # which stops reading
    front_end.channel.send(message(Kind.SEEN, bytes(8 << 20)))
    front_end.channel.flush()
    assert front_end.channel.unsent_bytes > 0
    now = time.monotonic()
    assert not front_end.is_stuck(now)
    assert front_end.is_stuck(now + STALL_SECONDS + 1)
    assert classes(await post(joined.front_ends[1])) == ["green"]
    joined.front_ends[0].engine.abort()
