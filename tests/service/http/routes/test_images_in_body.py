import base64
import json

import httpx
import pytest

from service.errors import InvalidRequest, PayloadTooLarge
from service.http.routes.images_in_body import images_in_body, is_raw
from service.images.base64 import decode_base64

FILES = [b"first", b"second\r\n--x", bytes(range(256))]


def form(parts: list) -> tuple[str, bytes]:
    request = httpx.Request("POST", "http://test", files=parts)
    return request.headers["content-type"], request.read()


def as_json(images: list[str]) -> bytes:
    return json.dumps({"images": images}).encode()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "content_type",
    ["", "image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", "nonsense"],
)
def test_any_other_content_type_is_one_raw_image(content_type: str) -> None:
    assert is_raw(content_type, b"\0")
    assert images_in_body(content_type, b"data", 1) == [b"data"]


def test_a_forms_files_keep_their_order_whatever_their_fields() -> None:
    content_type, body = form([(f"field{n}", (f"{n}.jpg", data)) for n, data in enumerate(FILES)])
    assert not is_raw(content_type, b"\0")
    assert images_in_body(content_type, body, 3) == FILES


def test_a_part_without_a_filename_but_with_a_content_type_is_a_file() -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="a"\r\nContent-Type: image/png\r\n\r\nx\r\n'
        b"--B--\r\n"
    )
    assert images_in_body('Multipart/Form-Data; boundary="B"', body, 1) == [b"x"]


def test_a_text_field_is_refused_because_ignoring_an_option_misleads() -> None:
    content_type, body = form([("top_k", (None, "3")), ("image", ("a.jpg", b"x"))])
    with pytest.raises(InvalidRequest, match="'top_k' is not a file"):
        images_in_body(content_type, body, 3)


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        ("multipart/form-data", b"x", "no boundary"),
        ("multipart/form-data; boundary=B", b"x", "not well-formed"),
        ("multipart/form-data; boundary=B", b"--B--\r\n", "no file"),
        (
            "multipart/form-data; boundary=B",
            b'--B\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\nx',
            "truncated",
        ),
        (
            "multipart/form-data; boundary=B",
            b'--B\r\nContent-Disposition: form-data; name="a"; filename=""\r\n\r\n\r\n--B--\r\n',
            "Image 0 is empty",
        ),
    ],
)
def test_a_broken_form_is_the_clients_error(content_type: str, body: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        images_in_body(content_type, body, 3)


def test_json_holds_base64_with_or_without_data_uri_and_line_breaks() -> None:
    text = encoded(FILES[2])
    wrapped = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    body = as_json([text, f"data:image/png;base64,{text}", wrapped])
    assert images_in_body("application/json; charset=utf-8", body, 3) == [FILES[2]] * 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"images": []}',
        b'{"images": "x"}',
        b'{"images": [1]}',
        b'{"images": [null]}',
        b'{"images": ["QQ=="], "top_k": 1}',
        b'{"images": ["\xff"]}',
        b'{"images": ["*"]}',
        b'{"images": ["Q"]}',
        b'{"images": ["\xc3\xa9"]}',
        b'{"images": ["\\ud800"]}',
        b'{"images": [""]}',
        b"[" * 100_000,
    ],
)
def test_broken_json_is_the_clients_error(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        images_in_body("application/json", body, 3)
    assert len(str(caught.value)) < 300


def test_base64_is_decoded_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.images.base64.PIECE_CHARACTERS", 8)
    for length in range(20):
        data = bytes(range(length))
        assert decode_base64(0, " \n".join(encoded(data))) == data
    for text in ("AAAAAA==AAAA", "AAAAAAAAA", "AAAA AAAé"):
        with pytest.raises(InvalidRequest, match="Image 7 is not base64"):
            decode_base64(7, text)


def test_the_index_of_an_image_that_is_not_base64_is_reported() -> None:
    with pytest.raises(InvalidRequest, match="Image 1 is not base64"):
        images_in_body("application/json", as_json([encoded(b"a"), "?"]), 3)


def test_too_many_images_are_too_large_a_payload() -> None:
    images = [encoded(b"a")] * 4
    content_type, body = form([("a", ("a.jpg", b"x"))] * 4)
    for each_type, each in (("application/json", as_json(images)), (content_type, body)):
        assert len(images_in_body(each_type, each, 4)) == 4
        with pytest.raises(PayloadTooLarge, match="more than the 3 images"):
            images_in_body(each_type, each, 3)


def test_a_million_tiny_images_are_refused_before_they_are_parsed() -> None:
    with pytest.raises(PayloadTooLarge):
        images_in_body("application/json", b'{"images": [' + b'"",' * 1_000_000, 64)
