import pytest

from tests.service.conftest import Running

URL = "/docs/docs.js"


async def test_a_file_comes_compressed_to_those_who_accept_it(service: Running) -> None:
    for accepted, encoding in (("gzip, br", "gzip"), ("br", None), ("gzip;q=0", None)):
        response = await service.http.get(URL, headers={"Accept-Encoding": accepted})
        assert response.headers.get("content-encoding") == encoding
        assert response.headers["vary"] == "Accept-Encoding"
        assert response.headers["content-type"] == "text/javascript; charset=utf-8"
        assert "SwaggerUIBundle(" in response.text


async def test_a_file_that_has_not_changed_is_not_sent_again(service: Running) -> None:
    first = await service.http.get(URL)
    again = await service.http.get(URL, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    other = await service.http.get(URL, headers={"If-None-Match": 'W/"other"'})
    assert (other.status_code, other.content) == (200, first.content)


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fdocs.js", "%2e%2e/docs.js", "docs.py"])
async def test_only_listed_files_are_served(service: Running, name: str) -> None:
    response = await service.http.get(f"/docs/{name}")
    assert response.status_code == 404
    assert list(response.json()) == ["error"]
