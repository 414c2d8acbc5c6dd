"""Hostile JSON, forms and names get a short response, outside of the event loop."""

import base64
import gzip
import json
import tracemalloc
from typing import Any

import httpx
import numpy as np
import pytest
import structlog

from service.errors import InvalidRequest
from service.images.base64 import decode_base64
from service.open_inference.bounded_json import MAX_JSON_BYTES
from tests.service.clients import error_of
from tests.service.conftest import Running, Start
from tests.service.loop_calls import LoopCalls
from tests.service.photos import GREEN, encode, solid

URL = "/v2/models/colour/infer"
LONG = "x" * 3_000_000
MAX_CALLS = 1000
MAX_SENTENCE_LETTERS = 1000
ERROR_BYTES = MAX_SENTENCE_LETTERS + 100
JPEG = encode(solid(GREEN), "JPEG")


def infer(data: Any = None, **changes: Any) -> dict:
    """The arguments of a request with such data, or other changes of its input."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": data, **changes}
    return {"json": {"inputs": [tensor]}}


def packed(arguments: dict) -> dict:
    body = gzip.compress(json.dumps(arguments["json"]).encode())
    return {"content": body, "headers": {"Content-Encoding": "gzip"}}


SMALL = packed(infer(["a" * 3000, *[""] * 100_000]))
HEAVY: dict[str, tuple[dict, int]] = {
    "415 bytes that would become a gigabyte": (SMALL, 400),
    "a long text and many short ones": (infer(["a" * 5000, *[""] * 100_000]), 400),
    "a text of two megabytes and many short ones": (infer(["a" * 2_000_000, *[""] * 120_000]), 400),
    "empty lists": (infer([[]] * 170_000), 400),
    "more empty lists": ({"content": b'{"inputs": [' + b"[]," * 1_300_000}, 413),
    "deep lists": ({"content": b"[" * MAX_JSON_BYTES}, 413),
    "16 megabytes of lists": ({"content": b"[" * (16 << 20)}, 413),
    "16 megabytes of texts": ({"content": b'{"inputs": [' + b'"",' * 5_000_000}, 413),
    "numbers": (infer([0] * 500_000), 400),
    "16 megabytes of numbers": (infer([100] * 3_300_000), 400),
    "nested numbers": (infer(np.zeros((1, 352, 480, 3), int).tolist()), 400),
    "base64 of spaces": (infer([" ab" * 1_300_000], datatype="BYTES", shape=[1]), 415),
}


async def test_json_is_worked_on_outside_the_event_loop(
    start: Start, loop_calls: LoopCalls
) -> None:
    """`tests/benchmarks/hostile.py` measures how long the loop is held up."""
    assert len(SMALL["content"]) < 1000
    async with start() as service:
        for name, (arguments, status) in HEAVY.items():
            loop_calls.clear()
            response = await service.http.post(URL, **arguments)
            assert response.status_code == status, name
            assert loop_calls.work == set(), name
            assert 0 < loop_calls.count < MAX_CALLS, name


@pytest.mark.parametrize("name", ["415 bytes that would become a gigabyte", "base64 of spaces"])
async def test_json_costs_its_own_size_in_memory(service: Running, name: str) -> None:
    arguments, status = HEAVY[name]
    request = service.http.build_request("POST", URL, **arguments)
    tracemalloc.start()
    try:
        assert (await service.http.send(request)).status_code == status
        assert tracemalloc.get_traced_memory()[1] < 32_000_000
    finally:
        tracemalloc.stop()


def test_base64_may_have_whitespace_anywhere_and_nothing_else() -> None:
    text = base64.encodebytes(JPEG).decode()
    assert decode_base64(0, f"data:image/jpeg;base64,\t{text}\r\n ") == JPEG
    for other in ("\x1c", "\xa0", "*", "é"):
        with pytest.raises(InvalidRequest):
            decode_base64(0, text[:40] + other + text[40:])


def form(name: str) -> dict:
    return {"files": [(name, (None, "3"))]}


LENGTHY: dict[str, tuple[str, dict]] = {
    "a shape": (URL, infer([0], shape=[1] * 1_000_000)),
    "a name": (URL, infer(name=LONG)),
    "a size": (URL, infer(parameters={"binary_data_size": LONG})),
    "a huge size": (URL, infer(parameters={"binary_data_size": 10**4000})),
    "a datatype": (URL, infer(datatype=LONG)),
    "many inputs": (URL, {"json": {"inputs": infer()["json"]["inputs"] * 20_000}}),
    "long inputs": (URL, {"json": {"inputs": infer(name="x" * 256)["json"]["inputs"] * 64}}),
    "an output": (URL, {"json": {**infer()["json"], "outputs": [{"name": LONG}]}}),
    "a known output's size": (
        URL,
        {
            "json": {
                **infer()["json"],
                "outputs": [{"name": "logits", "parameters": {"classification": LONG}}],
            }
        },
    ),
    "an id": (URL, {"json": {**infer()["json"], "id": LONG}}),
    "an encoding": (URL, {"content": b"x", "headers": {"Content-Encoding": LONG[:20_000]}}),
    "a length": (
        URL,
        {"content": b"x", "headers": {"Inference-Header-Content-Length": LONG[:20_000]}},
    ),
    "a model": (f"/v2/models/{LONG[:20_000]}/infer", infer()),
    "a version": (f"/v2/models/colour/versions/{LONG[:20_000]}/infer", infer()),
    "a model of a query": (f"/v1/classify?model={LONG[:20_000]}", {"content": JPEG}),
    "a version of a query": (f"/v1/classify?version={LONG[:20_000]}", {"content": JPEG}),
    "an option": (f"/v1/classify?{LONG[:20_000]}=1", {"content": JPEG}),
    "an option's value": (f"/v1/classify?top_k={LONG[:20_000]}", {"content": JPEG}),
    "a field": ("/v1/classify", form(LONG[:4000])),
    "a key": ("/v1/classify", {"json": {"images": ["QQ=="], LONG: 1}}),
    "a boundary": (
        "/v1/classify",
        {
            "content": b"x",
            "headers": {"Content-Type": f"multipart/form-data; boundary={LONG[:9000]}"},
        },
    ),
    "a request id": ("/v1/classify", {"content": b"x", "headers": {"X-Request-Id": LONG[:20_000]}}),
    "a time": ("/v1/classify", {"content": b"x", "headers": {"X-Request-Timeout-Ms": LONG[:9000]}}),
    "a model to load": (f"/v2/repository/models/{LONG[:20_000]}/load", {}),
    "a parameter of a load": (
        "/v2/repository/models/colour/load",
        {"json": {"parameters": {LONG[:9000]: 1}}},
    ),
    "a policy": (
        "/v2/repository/models/colour/load",
        {"json": {"parameters": {"config": json.dumps({LONG[:9000]: 1})}}},
    ),
    "a path": (f"/{LONG[:20_000]}", {}),
}


@pytest.mark.parametrize("name", LENGTHY)
async def test_neither_response_nor_log_line_repeats_a_long_value(
    service: Running, name: str
) -> None:
    url, arguments = LENGTHY[name]
    with structlog.testing.capture_logs() as lines:
        response = await service.http.post(url, **arguments)
    assert 400 <= response.status_code < 500
    error_of(response)
    assert len(response.content) + sum(map(len, response.headers.values())) < ERROR_BYTES + 1000
    (line,) = [line for line in lines if line["event"] == "request"]
    assert len(json.dumps(line)) < ERROR_BYTES + 1000


def test_a_sentence_that_is_too_long_keeps_its_ends() -> None:
    assert str(InvalidRequest("x" * MAX_SENTENCE_LETTERS)) == "x" * MAX_SENTENCE_LETTERS
    sentence = str(InvalidRequest(f"There is no {LONG}; there are others."))
    assert sentence.startswith("There is no xxx")
    assert sentence.endswith("xxx; there are others.")
    assert len(sentence) < ERROR_BYTES


async def test_the_answer_to_a_long_name_still_lists_the_models(service: Running) -> None:
    response: httpx.Response = await service.http.get(f"/v2/models/{LONG[:20_000]}")
    assert response.status_code == 404
    assert error_of(response).endswith("the models are colour, pixels.")
