import re
from pathlib import Path

import pytest

from service.settings import Settings
from tests.service.clients import bearer, error_of
from tests.service.conftest import PREDICT, Running, Start
from tests.service.photos import GREEN, encode, solid

FOLDER = Path("service/http/playground")
FILES = sorted(FOLDER.iterdir())
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PHOTO = encode(solid(GREEN))


@pytest.fixture
def repository(repository: Path) -> Path:
    folder = repository / "colour" / "examples"
    folder.mkdir()
    (folder / "green.png").write_bytes(PHOTO)
    (folder / "notes.txt").write_text("not a photo")
    return repository


async def test_browsers_get_the_page_and_programs_the_list(service: Running) -> None:
    page = await service.http.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for accept in ("*/*", "application/json", "application/json, text/html", "text/html;q=0"):
        listed = await service.http.get("/", headers={"Accept": accept})
        assert "POST /v1/classify" in listed.json()
        assert listed.headers["vary"] == "Accept"
    assert page.headers["vary"] == "Accept, Accept-Encoding"
    again = BROWSER | {"If-None-Match": page.headers["etag"]}
    assert (await service.http.get("/", headers=again)).status_code == 304
    head = await service.http.head("/", headers=BROWSER)
    assert (head.content, head.headers["etag"]) == (b"", page.headers["etag"])


async def test_the_page_loads_only_its_own_files_by_relative_addresses(service: Running) -> None:
    page = (await service.http.get("/", headers=BROWSER)).text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    files = {each.removeprefix("playground/") for each in addresses if "/" in each} - {"./"}
    assert files == {"icon.svg", "style.css", "views.css", "page.js"}
    for path in FILES:
        response = await service.http.get(f"/playground/{path.name}")
        assert response.content == path.read_bytes()
        assert "http://" not in response.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in response.text


async def test_nothing_in_the_page_runs_or_styles_inline() -> None:
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page)


async def test_only_photos_among_the_examples_are_served(service: Running) -> None:
    listed = (await service.http.get("/playground/examples")).json()
    assert listed == {"colour": ["green.png"], "pixels": []}
    photo = await service.http.get("/playground/examples/colour/green.png")
    assert (photo.headers["content-type"], photo.content) == ("image/png", PHOTO)
    for path in (
        "colour/notes.txt",
        "colour/missing.png",
        "colour/..%2Fconfig.json",
        "nobody/green.png",
        "..%2F..%2Fcolour/green.png",
    ):
        response = await service.http.get(f"/playground/examples/{path}")
        assert response.status_code == 404
        assert error_of(response)


async def test_the_page_is_open_and_what_it_shows_of_models_follows_the_keys(
    start: Start, keys_file: Path
) -> None:
    async with start(api_keys_file=keys_file, require_key_for_metadata=True) as service:
        for path in ("/", *(f"/playground/{file.name}" for file in FILES)):
            assert (await service.http.get(path, headers=BROWSER)).status_code == 200
        for path in ("/playground/examples", "/playground/examples/colour/green.png"):
            assert (await service.http.get(path)).status_code == 401
            assert (await service.http.get(path, headers=bearer(PREDICT))).status_code == 200


async def test_the_playground_can_be_turned_off(start: Start) -> None:
    assert Settings().playground
    async with start(playground=False) as service:
        response = await service.http.get("/", headers=BROWSER)
        assert "POST /v1/classify" in response.json()
        for path in ("/playground/page.js", "/playground/examples"):
            assert (await service.http.get(path)).status_code == 404
        assert (await service.http.get("/docs")).status_code == 200
