"""`POST /v2/models/{model}/infer` as it is on the wire, well-formed and not."""

import asyncio
import base64
import gzip
import json
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from service.open_inference.bounded_json import MAX_JSON_BYTES
from service.schema.open_inference import InferenceRequest
from tests.service.clients import error_of
from tests.service.conftest import Running, Start, until
from tests.service.loop_calls import LoopCalls
from tests.service.photos import BLUE, GREEN, RED, encode, quarters, solid

URL = "/v2/models/colour/infer"
PIXELS = np.stack([np.full((8, 8, 3), color, np.uint8) for color in (RED, BLUE)])
JPEG = encode(solid(GREEN), "JPEG")
JSON_BYTES = "Inference-Header-Content-Length"


def tensor(**changes: Any) -> dict:
    """An input of one green picture in JSON."""
    data = np.full((1, 8, 8, 3), GREEN, np.uint8).tolist()
    return {
        "name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": data, **changes
    }  # fmt: skip


def files(*names: bytes, **changes: Any) -> dict:
    data = [base64.b64encode(each).decode() for each in names]
    return tensor(datatype="BYTES", shape=[len(names)], data=data, **changes)


def binary(header: dict, data: bytes, json_bytes: int | None = None) -> dict:
    """The arguments of a request with data behind its JSON."""
    text = json.dumps(header).encode()
    stated = len(text) if json_bytes is None else json_bytes
    return {"content": text + data, "headers": {JSON_BYTES: str(stated)}}


def following(size: Any, **changes: Any) -> dict:
    """An input whose data follow the JSON."""
    changes = {"parameters": {"binary_data_size": size}, **changes}
    return {key: value for key, value in tensor(**changes).items() if key != "data"}


def elements(*files: bytes) -> bytes:
    return b"".join(len(each).to_bytes(4, "little") + each for each in files)


def split(response: httpx.Response) -> tuple[dict, bytes]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    size = int(response.headers[JSON_BYTES])
    return json.loads(response.content[:size]), response.content[size:]


async def test_json_is_answered_with_json(service: Running) -> None:
    body = {"id": "a", "inputs": [tensor()], "outputs": [{"name": "tokens"}, {"name": "logits"}]}
    response = await service.http.post(URL, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert JSON_BYTES not in response.headers
    assert "compute;dur=" in response.headers["server-timing"]
    tokens, logits = response.json().pop("outputs")
    assert tokens == {"name": "tokens", "datatype": "FP32", "shape": [1, 1, 3], "data": [0, 255, 0]}
    assert (logits["name"], logits["shape"]) == ("logits", [1, 3])
    assert logits["data"] == pytest.approx([0, 12.75, 0])
    assert {k: v for k, v in response.json().items() if k != "outputs"} == {
        "id": "a",
        "model_name": "colour",
        "model_version": "1",
    }


@pytest.mark.parametrize("name", ["inputs", "outputs"])
def test_of_many_mistakes_only_the_firsts_are_described(name: str) -> None:
    with pytest.raises(ValidationError) as one:
        InferenceRequest.model_validate({"inputs": [], name: [{}]})
    with pytest.raises(ValidationError) as many:
        InferenceRequest.model_validate({"inputs": [], name: [{}] * 100})
    assert many.value.error_count() == one.value.error_count()


async def test_flat_data_are_as_good_as_nested(service: Running) -> None:
    flat = tensor(data=np.full((8, 8, 3), BLUE, np.uint8).ravel().tolist())
    response = await service.http.post(
        "/v2/models/colour/versions/1/infer", json={"inputs": [flat]}
    )
    assert response.json()["outputs"][0]["data"] == pytest.approx([0, 0, 12.75])


async def test_binary_data_follow_the_json_both_ways(service: Running) -> None:
    header = {
        "inputs": [following(PIXELS.nbytes, shape=[2, 8, 8, 3])],
        "outputs": [{"name": "logits"}, {"name": "tokens", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True},
    }
    response = await service.http.post(URL, **binary(header, PIXELS.tobytes()))
    answer, data = split(response)
    logits, tokens = answer["outputs"]
    assert logits["parameters"] == {"binary_data_size": len(data)}
    assert "data" not in logits
    assert np.frombuffer(data, "<f4").reshape(2, 3).argmax(1).tolist() == [0, 2]
    assert "parameters" not in tokens
    assert tokens["data"] == [255, 0, 0, 0, 0, 255]


async def test_image_files_travel_as_elements_or_as_base64(service: Running) -> None:
    sent = elements(JPEG, encode(solid(BLUE)))
    header = {"inputs": [following(len(sent), datatype="BYTES", shape=[2])]}
    for arguments in (
        binary(header, sent),
        {"json": {"inputs": [files(JPEG, encode(solid(BLUE)))]}},
    ):
        response = await service.http.post(URL, **arguments)
        logits = np.reshape(response.json()["outputs"][0]["data"], (2, 3))
        assert logits.argmax(1).tolist() == [1, 2]


@pytest.mark.parametrize("body", [JPEG, PIXELS[1].tobytes()])
async def test_a_raw_body_is_one_photo_or_one_tensor(service: Running, body: bytes) -> None:
    response = await service.http.post(URL, content=body, headers={JSON_BYTES: "0"})
    answer, data = split(response)
    (logits,) = answer["outputs"]
    assert (logits["name"], logits["shape"]) == ("logits", [1, 3])
    assert np.frombuffer(data, "<f4").argmax() == (1 if body is JPEG else 2)


async def test_more_images_than_a_batch_holds_are_split_and_kept_in_order(
    service: Running,
) -> None:
    colors = [RED, GREEN, BLUE] * 5
    sent = np.stack([np.full((8, 8, 3), color, np.uint8) for color in colors])
    header = {"inputs": [following(sent.nbytes, shape=[15, 8, 8, 3])]}
    response = await service.http.post(URL, **binary(header, sent.tobytes()))
    logits = np.reshape(response.json()["outputs"][0]["data"], (15, 3))
    assert logits.argmax(1).tolist() == [0, 1, 2] * 5


async def test_the_best_classes_are_named(service: Running) -> None:
    asked = [
        {"name": "logits", "parameters": {"classification": 2}},
    ]
    body = {"inputs": [tensor()], "outputs": asked}
    (output,) = (await service.http.post(URL, json=body)).json()["outputs"]
    assert output == {
        "name": "logits",
        "datatype": "BYTES",
        "shape": [1, 2],
        "data": ["12.750000:1:green", "0.000000:0:red"],
    }


@pytest.mark.parametrize(
    ("encoding", "compress", "decompress"),
    [("gzip", gzip.compress, gzip.decompress), ("deflate", zlib.compress, zlib.decompress)],
)
async def test_bodies_may_be_compressed(
    service: Running, encoding: str, compress: Any, decompress: Any
) -> None:
    picture = np.asarray(quarters(128, 64))
    header = {
        "inputs": [following(picture.nbytes, shape=[1, 64, 128, 3])],
        "parameters": {"binary_data_output": True},
    }
    arguments = binary(header, picture.tobytes())
    arguments["content"] = compress(arguments["content"])
    arguments["headers"] |= {"Content-Encoding": encoding, "Accept-Encoding": encoding}
    async with service.http.stream("POST", "/v2/models/pixels/infer", **arguments) as response:
        sent = b"".join([chunk async for chunk in response.aiter_raw()])
        assert response.headers["content-encoding"] == encoding
        assert response.headers["vary"] == "Accept-Encoding"
    body = decompress(sent)
    labels = np.frombuffer(body[int(response.headers[JSON_BYTES]) :], np.uint8)
    assert len(sent) < len(body) / 4
    assert (labels.reshape(64, 128) == picture.argmax(2)).all()


async def test_a_small_answer_is_not_compressed(service: Running) -> None:
    response = await service.http.post(
        URL, json={"inputs": [tensor()]}, headers={"Accept-Encoding": "gzip"}
    )
    assert "content-encoding" not in response.headers


BAD_HEADERS = {
    "not a number": {JSON_BYTES: "many"},
    "negative": {JSON_BYTES: "-1"},
    "not ascii": {JSON_BYTES: "²"},
    "longer than the body": {JSON_BYTES: "100000"},
    "too long a number": {JSON_BYTES: "9" * 40},
}


@pytest.mark.parametrize("name", BAD_HEADERS)
async def test_a_lying_header_is_refused(service: Running, name: str) -> None:
    headers = {key: value.encode() for key, value in BAD_HEADERS[name].items()}
    body = json.dumps({"inputs": [tensor()]})
    response = await service.http.post(URL, content=body, headers=headers)
    assert response.status_code == 400
    assert JSON_BYTES in error_of(response)


def request(**changes: Any) -> dict:
    return {"json": {"inputs": [tensor()], **changes}}


MISTAKES: dict[str, tuple[dict, str]] = {
    "no json": ({"content": b"{"}, "inference request is not JSON"),
    "nested too deeply": ({"content": b'{"inputs":' * 1000}, "not JSON: recursion limit exceeded"),
    "a list": ({"content": b"[]"}, "not valid"),
    "no inputs": ({"json": {}}, "inputs: Field required"),
    "an empty list of inputs": (request(inputs=[]), "has none"),
    "another input": (request(inputs=[tensor(name="pictures")]), "takes one input, images"),
    "two inputs": (request(inputs=[tensor(), tensor()]), "has images, images"),
    "an unknown datatype": (request(inputs=[tensor(datatype="TEXT")]), "datatype"),
    "another datatype": (request(inputs=[tensor(datatype="FP32")]), "not FP32"),
    "a negative side": (request(inputs=[tensor(shape=[-1, 8, 8, 3])]), "shape"),
    "no shape": (request(inputs=[tensor(shape=[])]), "is not the model's"),
    "no shape of files": (request(inputs=[files(JPEG) | {"shape": []}]), "the shape [batch]"),
    "no batch": (request(inputs=[tensor(shape=[224, 224, 3])]), "[batch, height, width, 3]"),
    "no image, and data": (request(inputs=[tensor(shape=[0, 8, 8, 3])]), "must be flat or have"),
    "another size": (request(inputs=[tensor(shape=[1, 8, 9, 3])]), "one of 8x8"),
    "two dimensions": (request(inputs=[tensor(shape=[1, 192])]), "is not the model's"),
    "too few numbers": (request(inputs=[tensor(data=[1, 2])]), "must be flat or have"),
    "nested otherwise": (
        request(inputs=[tensor(data=np.zeros((1, 3, 8, 8), int).tolist())]),
        "must be flat or have",
    ),
    "nested unevenly": (
        request(inputs=[tensor(data=[[[[1, 2, 3]] * 8] * 7 + [[[1, 2]] * 8]])]),
        "must be flat or have",
    ),
    "nested in part": (
        request(inputs=[tensor(data=[[[[1, 2, 3]] * 8] * 7 + [1]])]),
        "must be flat",
    ),
    "lists among numbers": (request(inputs=[tensor(data=[1, [1]] * 96)]), "must be flat or have"),
    "a long text among short ones": (
        request(inputs=[tensor(data=["x" * 1_000_000, *[""] * 191])]),
        "from 0 to 255",
    ),
    "a text where a list should be": (
        request(inputs=[tensor(data=["x" * 1_000_000])]),
        "from 0 to 255",
    ),
    "more inputs than any model has": (request(inputs=[tensor()] * 65), "at most 64"),
    "numbers too large": (request(inputs=[tensor(data=[256] * 192)]), "from 0 to 255"),
    "huge numbers": (request(inputs=[tensor(data=[1 << 80] * 192)]), "from 0 to 255"),
    "negative numbers": (request(inputs=[tensor(data=[-1] * 192)]), "from 0 to 255"),
    "fractions": (request(inputs=[tensor(data=[0.5] * 192)]), "from 0 to 255"),
    "truths": (request(inputs=[tensor(data=[True] * 192)]), "from 0 to 255"),
    "texts": (request(inputs=[tensor(data=["1"] * 192)]), "from 0 to 255"),
    "nothings": (request(inputs=[tensor(data=[None] * 192)]), "from 0 to 255"),
    "neither data nor a size": (request(inputs=[tensor(data=None)]), "either data or"),
    "data and a size": (
        request(inputs=[tensor(parameters={"binary_data_size": 192})]),
        "either data or",
    ),
    "shared memory": (
        request(inputs=[tensor(parameters={"shared_memory_region": "x"})]),
        "Shared memory is not supported",
    ),
    "too small a size": (binary({"inputs": [following(100)]}, bytes(192)), "JSON have 192 bytes"),
    "too large a size": (binary({"inputs": [following(193)]}, bytes(192)), "JSON have 192 bytes"),
    "a size that is no number": (
        binary({"inputs": [following("192")]}, bytes(192)),
        "binary_data_size must be a whole number",
    ),
    "a size that is a truth": (
        binary({"inputs": [following(True)]}, b"x"),
        "binary_data_size must be a whole number",
    ),
    "a size that is not the shape's": (
        binary({"inputs": [following(191)]}, bytes(191)),
        "[1, 8, 8, 3] has 192 bytes, not 191",
    ),
    "data beyond the declared inputs": (
        binary({"inputs": [tensor()]}, bytes(5)),
        "JSON have 5 bytes",
    ),
    "elements that are cut short": (
        binary(
            {"inputs": [following(9, datatype="BYTES", shape=[1])]},
            (99).to_bytes(4, "little") + b"abcde",
        ),
        "exactly 1 elements",
    ),
    "too few elements": (
        binary({"inputs": [following(5, datatype="BYTES", shape=[2])]}, elements(b"a")),
        "exactly 2 elements",
    ),
    "too many elements": (
        binary({"inputs": [following(10, datatype="BYTES", shape=[1])]}, elements(b"a", b"b")),
        "exactly 1 elements",
    ),
    "half a length": (
        binary({"inputs": [following(2, datatype="BYTES", shape=[1])]}, b"ab"),
        "exactly 1 elements",
    ),
    "an empty element": (
        binary({"inputs": [following(4, datatype="BYTES", shape=[1])]}, elements(b"")),
        "Image 0 is empty",
    ),
    "files in a grid": (request(inputs=[files(JPEG) | {"shape": [1, 2]}]), "the shape [batch]"),
    "no base64": (request(inputs=[files() | {"shape": [1], "data": ["?"]}]), "not base64"),
    "no texts": (request(inputs=[files() | {"shape": [1], "data": [1]}]), "one string per image"),
    "too few texts": (request(inputs=[files(JPEG) | {"shape": [2]}]), "there are 2"),
    "a damaged file": (request(inputs=[files(JPEG[:99])]), "Image 0 is refused: it cannot be"),
    "an unknown output": (request(outputs=[{"name": "scores"}]), "it has logits, tokens"),
    "an output twice": (request(outputs=[{"name": "logits"}] * 2), "requested twice"),
    "classes of what has none": (
        request(outputs=[{"name": "tokens", "parameters": {"classification": 1}}]),
        "has no classes",
    ),
    "classes that are no number": (
        request(outputs=[{"name": "logits", "parameters": {"classification": "2"}}]),
        "classification must be",
    ),
    "an output in shared memory": (
        request(outputs=[{"name": "logits", "parameters": {"shared_memory_region": "x"}}]),
        "Shared memory",
    ),
    "binary or not": (request(parameters={"binary_data_output": 1}), "must be true or false"),
    "a sequence": (request(parameters={"sequence_id": 1}), "sequence_id is not supported"),
    "a negative priority": (request(parameters={"priority": -1}), "priority must be"),
    "a timeout that is text": (request(parameters={"timeout": "1"}), "timeout must be"),
    "too long an id": (request(id="x" * 1025), "id"),
    "an empty body": ({"content": b""}, "body is empty"),
    "no gzip": ({"content": b"{}", "headers": {"Content-Encoding": "gzip"}}, "well-formed gzip"),
    "half a gzip": (
        {"content": gzip.compress(b"{}" * 99)[:-9], "headers": {"Content-Encoding": "gzip"}},
        "one whole gzip",
    ),
    "very many gzips": (
        {"content": gzip.compress(b"") * 1025, "headers": {"Content-Encoding": "gzip"}},
        "at most 1024 members",
    ),
    "two deflates": (
        {"content": zlib.compress(b"{}") * 2, "headers": {"Content-Encoding": "deflate"}},
        "one whole deflate",
    ),
    "binary data without the header": (
        {"content": binary({"inputs": [following(192)]}, bytes(192))["content"]},
        "trailing characters at line 1 column 118. Without Inference-Header-Content-Length",
    ),
    "a photo without the header": (
        {"content": JPEG},
        "if the body is one photo or tensor, set it to 0",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_a_mistake_is_a_400_with_a_sentence(service: Running, name: str) -> None:
    arguments, sentence = MISTAKES[name]
    response = await service.http.post(URL, **arguments)
    assert response.status_code == 400, response.text
    assert sentence in error_of(response)
    assert (await service.http.post(URL, json={"inputs": [tensor()]})).status_code == 200


async def test_a_request_that_is_too_large_is_a_413(start: Start) -> None:
    async with start(max_images_per_request=2, max_body_bytes=MAX_JSON_BYTES + 1024) as service:

        async def refused(sentence: str, **arguments: Any) -> None:
            response = await service.http.post(URL, **arguments)
            assert response.status_code == 413, response.text
            assert sentence in error_of(response)

        await refused("more than the 2 images", json={"inputs": [files(JPEG, JPEG, JPEG)]})
        header = {"inputs": [following(0, shape=[10**12, 8, 8, 3])]}
        await refused("more than the 2 images", **binary(header, b""))
        header = {"inputs": [following(0, shape=[3], datatype="BYTES")]}
        await refused("more than the 2 images", **binary(header, b""))
        long = b" " * MAX_JSON_BYTES + json.dumps({"inputs": [tensor()]}).encode()
        await refused("send tensors as binary data", content=long)
        bomb = gzip.compress(bytes(64 * 1024 * 1024))
        assert len(bomb) < 100_000
        encoded = {"Content-Encoding": "gzip"}
        await refused("more than the 16,778,240 bytes", content=bomb, headers=encoded)


async def test_an_unsupported_encoding_is_a_415(service: Running) -> None:
    encoded = {"Content-Encoding": "br"}
    response = await service.http.post(URL, content=b"{}", headers=encoded)
    assert response.status_code == 415
    assert "use gzip or deflate" in error_of(response)
    raw = {JSON_BYTES: "0"}
    for url, sentence in (
        (URL, "Inference-Header-Content-Length is 0. It has 12 bytes and is not a JPEG, PNG, WebP"),
        (URL, "a tensor of this model has the shape [1, 8, 8, 3], 192 bytes."),
        ("/v2/models/pixels/infer", "tensors of several sizes, so their shape must be stated"),
    ):
        response = await service.http.post(url, content=b"what is this", headers=raw)
        assert response.status_code == 415
        assert sentence in error_of(response)


@pytest.mark.parametrize("max_batch_size", [1, 4])
async def test_photos_of_different_shapes_are_refused_before_any_is_queued(
    start: Start, max_batch_size: int
) -> None:
    wide, square = encode(quarters(128, 64)), encode(quarters(64, 64))
    async with start(max_batch_size=max_batch_size) as service:
        gate = service.gate("pixels")
        gate.open()
        url = "/v2/models/pixels/infer"
        response = await service.http.post(url, json={"inputs": [files(wide, wide, square)]})
        assert response.status_code == 400
        assert "image 0 as 64x128 and image 2 as 64x64" in error_of(response)
        assert gate.batches == []
        response = await service.http.post(url, json={"inputs": [files(wide, wide)]})
        assert response.json()["outputs"][0]["shape"] == [2, 64, 128]


async def test_no_images_are_answered_with_outputs_of_none(service: Running) -> None:
    header = {
        "inputs": [following(0, shape=[0, 8, 8, 3])],
        "outputs": [
            {"name": "token_attention"},
            {"name": "logits", "parameters": {"classification": 2, "binary_data": False}},
        ],
        "parameters": {"binary_data_output": True},
    }
    answer, data = split(await service.http.post(URL, **binary(header, b"")))
    attention, classes = answer["outputs"]
    assert (attention["shape"], attention["datatype"], data) == ([0, 1, 1, 1, 3], "FP32", b"")
    assert attention["parameters"] == {"binary_data_size": 0}
    assert (classes["shape"], classes["datatype"], classes["data"]) == ([0, 2], "BYTES", [])
    for tensor_ in (tensor(shape=[0, 8, 8, 3], data=[]), files(), files() | {"shape": [0, 1]}):
        response = await service.http.post(URL, json={"inputs": [tensor_]})
        (logits,) = response.json()["outputs"]
        assert (logits["shape"], logits["data"]) == ([0, 3], [])
    response = await service.http.post("/v2/models/pixels/infer", json={"inputs": [files()]})
    assert response.json()["outputs"][0]["shape"] == [0, 0, 0]


async def test_null_is_absent(service: Running) -> None:
    nothing = {"binary_data_size": None, "binary_data_output": None, "priority": None}
    body = {"inputs": [tensor(parameters=nothing)], "outputs": None, "parameters": nothing}
    response = await service.http.post(URL, json=body)
    assert response.status_code == 200, response.text
    body = {"inputs": [tensor(parameters=None)], "outputs": None, "parameters": None}
    assert (await service.http.post(URL, json=body)).json() == response.json()


PARSING = {f"service.open_inference.{name}" for name in ("bounded_json", "decode", "json_numbers")}


async def test_a_large_tensor_in_json_is_parsed_outside_the_event_loop(
    start: Start, loop_calls: LoopCalls
) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (64, 8, 8, 3), np.uint8)
    async with start() as service:
        for data in (pixels.tolist(), pixels.ravel().tolist()):
            body = json.dumps({"inputs": [tensor(shape=pixels.shape, data=data)]})
            loop_calls.clear()
            response = await service.http.post(URL, content=body)
            assert loop_calls.modules.isdisjoint(PARSING)
            assert 0 < loop_calls.count < pixels.size
            logits = np.reshape(response.json()["outputs"][0]["data"], (64, 3))
            np.testing.assert_allclose(logits, pixels.mean((1, 2)) * 0.05, rtol=1e-5)


async def test_a_request_may_ask_for_a_nearer_deadline(service: Running) -> None:
    gate = service.gate("colour")
    body = {"inputs": [tensor()], "parameters": {"timeout": 20_000}}
    response = await service.http.post(URL, json=body)
    assert response.status_code == 504
    assert "within 0.02 s" in error_of(response)
    response = await service.http.post(URL, json={**body, "parameters": {"timeout": 1}})
    gate.open()
    assert response.status_code == 504
    assert "within 0.000001 s." in error_of(response)


async def test_the_highest_priority_goes_first(start: Start) -> None:
    async with start(max_batch_size=1) as service:
        gate = service.gate("colour")
        instance = service.engine.repository.get("colour").ready_instance()

        async def ask(priority: int) -> None:
            image = tensor(data=[priority] * 192)
            body = {"inputs": [image], "parameters": {"priority": priority}}
            assert (await service.http.post(URL, json=body)).status_code == 200

        tasks = [asyncio.create_task(ask(9)), asyncio.create_task(ask(9))]
        await gate.begun()  # one runs, one is lined up behind it
        await until(lambda: instance.pending == 2)
        for priority in (0, 3, 1, 2):
            tasks.append(asyncio.create_task(ask(priority)))
            await until(lambda: instance.pending == len(tasks))
        gate.open()
        await asyncio.gather(*tasks)
    assert gate.first_pixels == [9, 9, 1, 2, 3, 0]


async def test_infer_is_counted_like_any_prediction(service: Running) -> None:
    await service.http.post(URL, json={"inputs": [tensor()]})
    await service.http.post(URL, json={"inputs": [tensor(data=[])]})
    text = (await service.http.get("/metrics")).text
    labels = 'model="colour",outcome="{}",task="classification",version="1"'
    for outcome in ("ok", "bad_input"):
        assert f"vt_inference_requests_total{{{labels.format(outcome)}}} 1.0" in text
    assert 'route="/v2/models/{model}/infer"' in text
