"""The examples of docs/masks.md, and the lines that read a mask in docs/api.md, run as written."""

import asyncio
import base64
import io
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pycocotools.mask
import pytest
import shapely
from PIL import Image
from pycocotools.coco import COCO

from service.app import create_app
from service.settings import Settings
from tests.service.photos import encode, quarters
from tests.service.repository_fixture import write_segmenter

DOCS = Path(__file__).parents[1] / "docs"
SETUP, *_ = BLOCKS = re.findall(r"```python\n(.+?)```", (DOCS / "masks.md").read_text(), re.DOTALL)
TITLES = re.findall(r"^## (.+)$", (DOCS / "masks.md").read_text(), re.MULTILINE)
READ_BY = dict(
    re.findall(r"^\| `(\w+)` \| .+? \| `(.+)` \|$", (DOCS / "api.md").read_text(), re.MULTILINE)
)
NEEDS = {"CVAT": "datumaro", "Label Studio": "label_studio_sdk"}
EXAMPLES = [
    pytest.param(
        title,
        marks=pytest.mark.skipif(
            title in NEEDS and find_spec(NEEDS[title]) is None,
            reason=f"{NEEDS.get(title)} is not installed; it is too large for the extra dev",
        ),
    )
    for title in TITLES
]

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' own


async def ask(repository: Path, path: str, body: bytes | None) -> bytes:
    app = create_app(Settings(model_repository=repository))
    await app.state.engine.repository.load_all()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.request("GET" if body is None else "POST", path, content=body)
    await app.state.engine.close()
    return response.raise_for_status().content


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """Stand in for `urllib.request.urlopen`: the responses of a tiny model with its name."""
    repository = tmp_path_factory.mktemp("weights")
    write_segmenter(repository, "vt_fpn_camvid")

    @cache
    def answer(url: str, body: bytes | None = None) -> bytes:
        parts = urllib.parse.urlsplit(url)
        return asyncio.run(ask(repository, f"{parts.path}?{parts.query}", body))

    return lambda *request: io.BytesIO(answer(*request))


@pytest.fixture
def example(
    answers: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], dict]:
    """Run the example of a section in a folder with a photo; return its variables."""
    (tmp_path / "photo.jpg").write_bytes(encode(quarters(96, 64), "JPEG"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(urllib.request, "urlopen", answers)

    def run(title: str) -> dict:
        variables: dict = {}
        for code in (SETUP, BLOCKS[1 + TITLES.index(title)]):
            exec(code, variables)  # noqa: S102
        return variables

    return run


def labels_of(variables: dict) -> np.ndarray:
    mask = variables["segment"]("photo.jpg", mask="png")["mask"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(mask["data"]))))


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_runs(example: Callable[[str], dict], title: str) -> None:
    example(title)
    assert len([*Path.cwd().iterdir()]) > 1, "it writes a file"


def test_coco_reads_the_annotation_file(example: Callable[[str], dict]) -> None:
    labels = labels_of(example("COCO annotation file"))
    data = COCO("annotations.json")
    annotations = data.loadAnns(data.getAnnIds())
    assert [data.cats[each["category_id"]]["name"] for each in annotations] == [
        "red",
        "green",
        "blue",
    ]
    for each in annotations:
        assert np.array_equal(data.annToMask(each), labels == each["category_id"] - 1)
        assert each["area"] == (labels == each["category_id"] - 1).sum()


def test_the_polygons_of_supervisely_cover_the_photo(example: Callable[[str], dict]) -> None:
    example("Supervisely")
    objects = json.loads(Path("photo.jpg.json").read_text())["objects"]
    shapes = [shapely.Polygon(*each["points"].values()) for each in objects]
    assert {each["classTitle"] for each in objects} == {"red", "green", "blue"}
    assert sum(shape.area for shape in shapes) == pytest.approx(96 * 64)


@pytest.mark.parametrize("form", ["png", "grey", "rle", "polygons"])
def test_each_form_is_read_by_its_line(example: Callable[[str], dict], form: str) -> None:
    variables = example("Supervisely")
    needed = {"np": np, "Image": Image, "io": io, "base64": base64, "shapely": shapely}
    if "cv2" in READ_BY[form]:
        needed["cv2"] = pytest.importorskip("cv2", reason="OpenCV is not installed")
    mask = variables["segment"]("photo.jpg", mask=form)["mask"]
    read = eval(READ_BY[form], {**needed, "pycocotools": pycocotools, "mask": mask})  # noqa: S307
    labels = labels_of(variables)
    if form in ("png", "grey"):
        assert np.array_equal(read, labels)
    elif form == "rle":
        assert np.array_equal(read, labels == mask["classes"][0]["index"])
    else:
        assert sum(shape.area for shape in read) == (labels == mask["classes"][0]["index"]).sum()
