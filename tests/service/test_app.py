import base64
import gzip
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import structlog
from PIL import Image
from pycocotools import mask as coco

from tests.service.clients import error_of
from tests.service.conftest import Running, Start, until
from tests.service.photos import BLUE, GREEN, RED, encode, noise, png_header, quarters, solid
from tests.service.repository_fixture import write_classifier

PHOTO = encode(solid(GREEN), "JPEG")


def top(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [row["classes"][0]["label"] for row in response.json()["predictions"]]


def png_of(prediction: dict) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(prediction["mask"]["data"])))


async def test_a_photo_gets_its_classes(service: Running) -> None:
    response = await service.http.post("/v1/classify?top_k=2", content=PHOTO)
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert (body["model"], body["version"], len(body["predictions"])) == ("colour", "1", 1)
    first, second = body["predictions"][0]["classes"]
    assert (first["label"], first["index"]) == ("green", 1)
    assert 0.99 < first["score"] < 1
    assert second["score"] < 0.01


@pytest.mark.parametrize(("top_k", "count"), [("", 3), ("?top_k=1", 1), ("?top_k=999", 3)])
async def test_top_k_is_bounded_by_the_classes(service: Running, top_k: str, count: int) -> None:
    response = await service.http.post(f"/v1/classify{top_k}", content=PHOTO)
    assert len(response.json()["predictions"][0]["classes"]) == count


@pytest.mark.parametrize(
    "content_type", [None, "image/jpeg", "text/plain", "application/x-www-form-urlencoded"]
)
async def test_the_body_is_the_photo_whatever_its_content_type(
    service: Running, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await service.http.post("/v1/classify", content=PHOTO, headers=headers)
    assert top(response) == ["green"]


async def test_a_form_and_json_carry_several_photos_in_order(service: Running) -> None:
    colors = np.random.default_rng(3).integers(0, 3, 23)
    photos = [encode(solid([RED, GREEN, BLUE][color])) for color in colors]
    names = [["red", "green", "blue"][color] for color in colors]
    form = [("photo", (f"{n}.png", photo)) for n, photo in enumerate(photos)]
    assert top(await service.http.post("/v1/classify", files=form)) == names
    body = {"images": [base64.b64encode(photo).decode() for photo in photos]}
    assert top(await service.http.post("/v1/classify", json=body)) == names


async def test_a_street_photo_gets_areas_and_a_mask_of_its_own_size(service: Running) -> None:
    response = await service.http.post("/v1/segment", content=encode(quarters(96, 64)))
    body = response.json()
    assert (body["model"], body["version"]) == ("pixels", "1")
    (prediction,) = body["predictions"]
    assert (prediction["width"], prediction["height"]) == (96, 64)
    assert [area["label"] for area in prediction["classes"]] == ["red", "green", "blue"]
    assert [area["pixels"] for area in prediction["classes"]] == [3072, 1536, 1536]
    assert [area["fraction"] for area in prediction["classes"]] == [0.5, 0.25, 0.25]
    mask = png_of(prediction)
    assert (mask.mode, mask.size) == ("P", (96, 64))
    assert mask.getpalette()[:9] == [255, 0, 0, 0, 255, 0, 0, 0, 255]
    labels = np.asarray(mask)
    assert (labels[5, 5], labels[5, 90], labels[60, 5], labels[60, 90]) == (0, 1, 2, 0)


async def test_the_mask_is_upright_like_the_photo(service: Running) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    photo = encode(quarters(60, 30), "PNG", exif=exif)
    (prediction,) = (await service.http.post("/v1/segment", content=photo)).json()["predictions"]
    labels = np.asarray(png_of(prediction))
    assert labels.shape == (prediction["height"], prediction["width"]) == (60, 30)
    assert [labels[5, 5], labels[5, 25], labels[55, 5], labels[55, 25]] == [2, 0, 0, 1]


async def test_run_lengths_are_the_same_mask(service: Running) -> None:
    photo = encode(noise(33, 21))
    png, rle = [
        (await service.http.post(f"/v1/segment?mask={mask}", content=photo)).json()["predictions"][
            0
        ]
        for mask in ("png", "rle")
    ]
    labels = np.asarray(png_of(png))
    assert rle["mask"]["format"] == "rle"
    assert rle["classes"] == png["classes"]
    for each in rle["mask"]["classes"]:
        assert each["size"] == [21, 33]
        expected = coco.encode(np.asfortranarray(labels == each["index"]))["counts"].decode()
        assert each["counts"] == expected


async def test_without_a_mask_there_are_areas_only(service: Running) -> None:
    response = await service.http.post("/v1/segment?mask=none", content=PHOTO)
    assert list(response.json()["predictions"][0]) == ["width", "height", "classes"]


async def test_accept_png_answers_with_the_mask_itself(service: Running) -> None:
    response = await service.http.post(
        "/v1/segment", content=encode(quarters()), headers={"Accept": "image/png"}
    )
    assert response.headers["content-type"] == "image/png"
    mask = Image.open(io.BytesIO(response.content))
    assert (mask.mode, mask.size, mask.getpixel((60, 4))) == ("P", (64, 48), 1)


async def test_overlay_answers_with_the_photo_under_its_mask(service: Running) -> None:
    photo = encode(solid((200, 100, 100)))
    response = await service.http.post("/v1/segment?overlay=true", content=photo)
    assert response.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(response.content))
    assert (picture.mode, picture.size) == ("RGB", (40, 30))
    assert picture.getpixel((20, 15)) == pytest.approx((227, 50, 50), abs=1)


PNG = encode(solid((200, 100, 100)))
LONG = encode(solid((200, 100, 100), (16_400, 1)), "JPEG")


@pytest.mark.parametrize(
    ("photo", "query", "accept", "expected"),
    [
        (PNG, "", "*/*", "png"),
        (PHOTO, "", "*/*", "jpeg"),
        (PHOTO, "&format=png", "image/webp", "png"),
        (PNG, "&format=jpeg", "*/*", "jpeg"),
        (PHOTO, "", "image/avif,image/webp,image/png;q=0.8", "webp"),
        (PHOTO, "", "image/png, image/jpeg;q=0.5", "png"),
        (LONG, "", "image/webp", "jpeg"),
    ],
)
async def test_an_overlay_has_the_wanted_format(
    service: Running, photo: bytes, query: str, accept: str, expected: str
) -> None:
    response = await service.http.post(
        f"/v1/segment?overlay=true{query}", content=photo, headers={"Accept": accept}
    )
    assert response.headers["content-type"] == f"image/{expected}"
    assert Image.open(io.BytesIO(response.content)).format == expected.upper()


async def test_an_overlay_that_cannot_have_the_wanted_format_is_a_400(service: Running) -> None:
    response = await service.http.post("/v1/segment?overlay=true&format=webp", content=LONG)
    assert response.status_code == 400
    assert "ask for format=png" in error_of(response)


@pytest.mark.parametrize(
    ("query", "accept"), [("overlay=true", "*/*"), ("", "image/png"), ("mask=png", "image/png")]
)
async def test_a_png_answer_shows_one_photo(service: Running, query: str, accept: str) -> None:
    files = [("a", ("a.png", PHOTO))] * 2
    response = await service.http.post(
        f"/v1/segment?{query}", files=files, headers={"Accept": accept}
    )
    assert response.status_code == 400
    assert "one photo" in error_of(response)


BAD_QUERIES = [
    "/v1/classify?top_k=0",
    "/v1/classify?top_k=many",
    "/v1/classify?top_k=" + "9" * 5000,
    "/v1/classify?topk=3",
    "/v1/classify?version=",
    "/v1/classify?model=",
    "/v1/classify?mask=png",
    "/v1/segment?mask=jpeg",
    "/v1/segment?overlay=perhaps",
    "/v1/segment?overlay=true&confidence=png",
    "/v1/segment?edges=rough",
    "/v1/segment?edges=smooth",
    "/v1/segment?confidence=png",
    "/v1/segment?classes=red,violet",
    "/v1/segment?classes=",
    "/v1/segment?tolerance=-1",
    "/v1/segment?tolerance=nan",
    "/v1/segment?coordinates=metres",
    "/v1/segment?overlay=true&mask=rle",
    "/v1/segment?overlay=true&format=bmp",
    "/v1/segment?format=png",
    "/v1/classify?model=pixels",
]


@pytest.mark.parametrize("url", BAD_QUERIES)
async def test_an_invalid_query_is_reported_in_one_sentence(service: Running, url: str) -> None:
    response = await service.http.post(url, content=PHOTO)
    assert response.status_code == 400
    assert len(error_of(response)) < 200


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("POST", "/v1/classify?model=other", 404),
        ("POST", "/v1/classify?version=7", 404),
        ("POST", "/v1/classify/", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v1/classify", 405),
        ("DELETE", "/v2", 405),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/colour/versions/2", 404),
        ("GET", "/v2/models/colour/versions/2/ready", 404),
        ("GET", "/v2/nothing", 404),
    ],
)
async def test_every_error_has_the_same_body(
    service: Running, method: str, url: str, status: int
) -> None:
    response = await service.http.request(method, url, content=PHOTO)
    assert response.status_code == status
    error_of(response)
    assert ("allow" in response.headers) == (status == 405)


async def test_one_of_two_models_of_a_task_must_be_named(start: Start, repository: Path) -> None:
    write_classifier(repository, "hue")
    async with start() as service:
        response = await service.http.post("/v1/classify", content=PHOTO)
        assert response.status_code == 400
        assert "colour, hue" in error_of(response)
        named = await service.http.post("/v1/classify?model=hue&version=1", content=PHOTO)
        assert named.json()["model"] == "hue"


GZIP = {"Content-Encoding": "gzip"}
BAD_BODIES = {
    "empty": (b"", {}, 400, "body is empty"),
    "no image": (b"hello", {}, 415, "Image 0 is refused: it is not a JPEG"),
    "truncated": (encode(noise(90, 90), "JPEG")[:3000], {}, 400, "the file is truncated"),
    "damaged": (encode(noise(9, 9))[:30] + bytes(99), {}, 400, "Image 0 is refused"),
    "huge": (png_header(50_000, 50_000), {}, 413, "50000 x 50000 pixels"),
    "not json": (b"{", {"Content-Type": "application/json"}, 400, "The JSON body must be"),
    "no form": (b"x", {"Content-Type": "multipart/form-data"}, 400, "boundary"),
    "half a gzip": (gzip.compress(PHOTO)[:-9], GZIP, 400, "one whole gzip"),
    "no gzip": (PHOTO, GZIP, 400, "well-formed gzip"),
    "gzip without a word": (gzip.compress(PHOTO), {}, 415, "not a JPEG"),
    "a bomb": (gzip.compress(bytes(1 << 25)), GZIP, 413, "more than the 16,777,216 bytes"),
    "brotli": (PHOTO, {"Content-Encoding": "br"}, 415, "use gzip or deflate"),
}


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_compressed_bodies_are_decompressed(
    service: Running, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    listed = json.dumps({"images": [base64.b64encode(PHOTO).decode()]}).encode()
    for body, content_type in ((PHOTO, "image/jpeg"), (listed, "application/json")):
        headers = {"Content-Encoding": encoding, "Content-Type": content_type}
        response = await service.http.post("/v1/classify", content=compress(body), headers=headers)
        assert top(response) == ["green"]


@pytest.mark.parametrize("case", BAD_BODIES)
@pytest.mark.parametrize("route", ["classify", "segment"])
async def test_a_bad_body_is_the_clients_error(service: Running, route: str, case: str) -> None:
    body, headers, status, sentence = BAD_BODIES[case]
    response = await service.http.post(f"/v1/{route}", content=body, headers=headers)
    assert (response.status_code, sentence in error_of(response)) == (status, True)


async def test_the_broken_one_of_several_photos_is_named(service: Running) -> None:
    files = [("a", ("a", PHOTO)), ("b", ("b", PHOTO[:200])), ("c", ("c", PHOTO))]
    response = await service.http.post("/v1/classify", files=files)
    assert response.status_code == 400
    assert error_of(response).startswith("Image 1 is refused: it cannot be decoded")


async def test_sixty_five_photos_are_one_too_many(service: Running) -> None:
    files = [("a", ("a.png", encode(solid(size=(2, 2)))))] * 65
    response = await service.http.post("/v1/classify", files=files)
    assert response.status_code == 413
    assert "64 images" in error_of(response)
    assert len(top(await service.http.post("/v1/classify", files=files[:64]))) == 64


async def test_the_limits_on_images_can_be_set(start: Start) -> None:
    async with start(max_image_pixels=1199, max_images_per_request=1, max_queue_size=1) as service:
        response = await service.http.post("/v1/classify", content=PHOTO)  # 40 x 30
        assert (response.status_code, "1,199" in error_of(response)) == (413, True)
        files = [("a", ("a.png", PHOTO))] * 2
        response = await service.http.post("/v1/classify", files=files)
        assert (response.status_code, "1 images" in error_of(response)) == (413, True)


async def test_a_failed_background_task_is_logged_at_once_and_the_sessions_are_closed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise RuntimeError

    async with start() as service:
        assert service.sessions("colour")
        instance = service.engine.repository.get("colour").ready_instance()
        monkeypatch.setattr(service.engine.repository, "load_all", fail)
        with structlog.testing.capture_logs() as lines:
            async with service.app.router.lifespan_context(service.app):
                await until(lambda: any(line["log_level"] == "error" for line in lines))
        errors = [line["event"] for line in lines if line["log_level"] == "error"]
        assert errors == ["background_task_failed"]
        await until(lambda: service.loader.sessions(instance) == [])
