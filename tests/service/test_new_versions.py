"""The commands of docs/operations.md for new versions, run with the settings of the images."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from service.__main__ import main
from tests.deployment.files import DOCKERFILES, ROOT, dockerfile
from tests.service.conftest import Running, Start
from tests.service.photos import GREEN, encode, solid
from tests.service.repository_fixture import write_classifier

PAGE = (ROOT / "docs" / "operations.md").read_text()
SECTION = PAGE.split("## New versions of a model\n")[1].split("\n## ")[0]
IMAGE = dockerfile(DOCKERFILES["cpu"])[1][-1].variables("ENV")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)


def commands() -> list[list[str]]:
    """The words of each command."""
    lines = "\n".join(blocks("sh")).replace("\\\n", "").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def values(words: list[str], flag: str) -> list[str]:
    return [value for word, value in pairwise(words) if word == flag]


def make_keys(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Run what makes the keys; return the keys by their names."""
    keys = {}
    for words in commands():
        if "--new-key" in words:
            end = words.index(">>")
            arguments = words[words.index("vt-serve") + 1 : end]
            assert main(arguments) == 0
            shown = capsys.readouterr()
            path = folder / words[end + 1]
            path.parent.mkdir(exist_ok=True)
            with path.open("a") as file:
                file.write(shown.out)
            keys[arguments[1]] = shown.err.split()[-1]
    return keys


def keys_file(folder: Path) -> Path:
    """Where the command that serves finds the keys, outside of its container."""
    (words,) = (words for words in commands() if "-e" in words)
    environment = dict(each.split("=", 1) for each in values(words, "-e"))
    mounts = dict(each.split(":")[1::-1] for each in values(words, "-v"))
    inside = Path(environment["VT_API_KEYS_FILE"])
    return Path(mounts[str(inside.parent)].replace("$PWD", str(folder))) / inside.name


async def curl(service: Running, words: list[str], key: str) -> httpx.Response:
    headers = dict(each.split(": ", 1) for each in values(words, "-H"))
    headers = {name: value.replace("$ADMIN_KEY", key) for name, value in headers.items()}
    (method,), url = values(words, "-X"), f"http://{words[-1]}"
    return await service.http.request(method, url, headers=headers)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_classifier(tmp_path / "weights", "mine")
    return tmp_path / "weights"


async def test_the_commands_load_and_unload_as_the_image_listens(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = make_keys(tmp_path, capsys)
    curls = [words for words in commands() if words[0] == "curl"]
    assert [words[-1].rsplit("/", 1)[1] for words in curls] == ["load", "unload"]
    async with start(host=IMAGE["VT_HOST"], api_keys_file=keys_file(tmp_path)) as service:
        photo, shop = encode(solid(GREEN)), {"X-API-Key": keys["shop"]}
        for words, after in zip(curls, (200, 503), strict=True):
            assert (await curl(service, words, keys["ops"])).status_code == 200
            answer = await service.http.post("/v1/classify", content=photo, headers=shop)
            assert answer.status_code == after
