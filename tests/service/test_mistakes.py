"""Mistakes of ordinary users: the answer says what happened and what to do."""

import base64
import json

import numpy as np
import pytest
import structlog
from PIL import Image

from tests.service.clients import error_of
from tests.service.conftest import Running
from tests.service.images.tiff_writer import write_tiff
from tests.service.photos import BLUE, GREEN, RED, encode, png_chunk, solid

PHOTO = encode(solid(GREEN))
LINES = "application/x-www-form-urlencoded"
TEXT = base64.b64encode(PHOTO).decode()


def form(disposition: str, contents: bytes = PHOTO) -> dict[str, object]:
    body = f"--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()
    content_type = {"Content-Type": "multipart/form-data; boundary=b"}
    return {"content": body + contents + b"\r\n--b--\r\n", "headers": content_type}


def images(*texts: str) -> dict[str, object]:
    return {"json": {"images": texts}}


MISTAKES = {
    "curl -d": (
        "/v1/classify",
        {"content": PHOTO.translate(None, b"\0\r\n"), "headers": {"Content-Type": LINES}},
        (400, "--data-binary @photo.jpg"),
    ),
    "JSON of another type": (
        "/v1/classify",
        {"content": json.dumps({"images": [TEXT]}).encode()},
        (415, "Content-Type: application/json"),
    ),
    "a URL": ("/v1/classify", images("https://x.example/y.jpg"), (400, "URLs are not fetched")),
    "no base64": ("/v1/classify", images("not base64!"), (400, "Image 0 is not base64")),
    "a forgotten @": (
        "/v1/classify",
        form('name="image"', b"photo.jpg"),
        (400, "the @ is missing: -F 'image=@photo.jpg'"),
    ),
    "a misspelt option": (
        "/v1/classify?topk=3",
        {"content": PHOTO},
        (400, "did you mean top_k? The parameters are version, model, frame, top_k."),
    ),
    "an option of a path without any": ("/v1/models?x=1", {}, (400, "this path has none")),
    "a missing version": (
        "/v1/classify?version=2",
        {"content": PHOTO},
        (404, "The model colour has no version 2; its versions are 1."),
    ),
    "no JSON": (
        "/v2/repository/models/colour/load",
        {"content": b"{"},
        (400, "The request is not valid: Invalid JSON"),
    ),
    "a frame too far": ("/v1/classify?frame=1", {"content": PHOTO}, (400, "it has no frame 1")),
    "a kind that is not read": (
        "/v1/classify",
        {"content": write_tiff(np.zeros((4, 4, 3), np.float32), 2, "f", 32)},
        (415, "TIFFs of 32-bit float RGB are not supported"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_a_mistake_is_answered_with_its_remedy(service: Running, name: str) -> None:
    url, arguments, (status, words) = MISTAKES[name]
    if url == "/v1/models?x=1":
        response = await service.http.get(url)
    else:
        response = await service.http.post(url, **arguments)
    assert response.status_code == status
    assert words in error_of(response)


@pytest.mark.parametrize(
    "text", [TEXT.rstrip("="), TEXT.replace("+", "-").replace("/", "_"), f"data:x;base64,{TEXT}"]
)
async def test_base64_without_padding_and_for_urls_is_accepted(service: Running, text: str) -> None:
    assert (await service.http.post("/v1/classify", **images(text))).status_code == 200


async def test_a_part_with_an_extended_file_name_is_a_file(service: Running) -> None:
    part = form("name=\"image\"; filename*=UTF-8''%C3%BC.png")
    assert (await service.http.post("/v1/classify", **part)).status_code == 200


async def test_curl_with_its_default_content_type_may_send_a_photo(service: Running) -> None:
    headers = {"Content-Type": LINES}
    response = await service.http.post("/v1/classify", content=PHOTO, headers=headers)
    assert response.status_code == 200


async def test_a_frame_is_chosen_by_the_query(service: Running) -> None:
    frames = [solid(color) for color in (GREEN, BLUE)]
    data = encode(solid(RED), "GIF", save_all=True, append_images=frames)
    for frame, label in ((None, "red"), (1, "green"), (2, "blue")):
        url = "/v1/classify" if frame is None else f"/v1/classify?frame={frame}"
        body = (await service.http.post(url, content=data)).json()
        assert body["predictions"][0]["classes"][0]["label"] == label


async def test_a_dark_16_bit_image_is_answered_with_a_warning(service: Running) -> None:
    data = encode(Image.new("I;16", (8, 8), 4000))
    response = await service.http.post("/v1/classify", content=data)
    assert response.headers["x-image-warning"].startswith("image 0: no value exceeds 4,000")
    stated = data[:33] + png_chunk(b"sBIT", b"\x0c") + data[33:]
    response = await service.http.post("/v1/classify", content=stated)
    assert "x-image-warning" not in response.headers


async def test_the_log_has_the_decoders_reason_and_the_path_of_no_route(service: Running) -> None:
    with structlog.testing.capture_logs() as lines:
        await service.http.post("/v1/classify", content=PHOTO[:60])
        await service.http.get("/nowhere")
    refused, unmatched = [line for line in lines if line["event"] == "request"]
    assert refused["cause"]
    assert unmatched["path"] == "/nowhere"


async def test_without_memory_to_decode_a_photo_the_operator_is_warned(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("service.images.decode.load_frame", fail)
    with structlog.testing.capture_logs() as lines:
        response = await service.http.post("/v1/classify", content=PHOTO)
    assert response.status_code == 503
    assert "too little memory" in error_of(response)
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["log_level"] == "warning"
    metrics = (await service.http.get("/metrics")).text
    assert 'outcome="error"' in metrics
