"""The playground in a real browser."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.service.browser import Opened, chromium
from tests.service.conftest import PREDICT, PREDICT_LINES
from tests.service.nginx import nginx
from tests.service.photos import BLUE, GREEN, RED, encode, quarters, solid
from tests.service.process import Process, running
from tests.service.repository_fixture import write_both
from tests.tools import needs

pytestmark = needs("chromium")

GIVE = """
([bytes, name, type]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], name));
    const options = { bubbles: true, cancelable: true };
    document.querySelector("#work").dispatchEvent(type === "drop"
        ? new DragEvent("drop", { dataTransfer: transfer, ...options })
        : new ClipboardEvent("paste", { clipboardData: transfer, ...options }));
}
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_both(tmp_path_factory.mktemp("weights") / "weights")
    for model, photos in {
        "colour": {"blue": solid(BLUE), "red": solid(RED)},
        "pixels": {"quarters": quarters(96, 64)},
    }.items():
        (folder / model / "examples").mkdir()
        for name, photo in photos.items():
            (folder / model / "examples" / f"{name}.png").write_bytes(encode(photo))
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Process]:
    with running(repository) as process:
        yield process


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def opened(browser: Browser, server: Process) -> Iterator[Opened]:
    """The page at work, which must neither want anything elsewhere nor complain."""
    opened = Opened(browser, f"http://127.0.0.1:{server.port}")
    opened.page.goto("/")
    expect(best(opened.page)).to_contain_text("red")
    yield opened
    assert (opened.elsewhere, opened.complaints) == ([], [])
    opened.close()


def best(page: Page) -> Any:
    return page.locator("#result .class").first


def drop(page: Page, content: bytes, name: str = "photo.png") -> None:
    page.evaluate(GIVE, [list(content), name, "drop"])


def test_the_page_predicts_an_example_at_once_and_shows_what_each_model_is(
    opened: Opened,
) -> None:
    page = opened.page
    cards = page.locator("label.model")
    expect(cards).to_have_count(2)
    expect(cards.first).to_contain_text("colour")
    expect(cards.first).to_contain_text("ready")
    for fact in ("classification", "fp32 on CPU"):
        expect(cards.first).to_contain_text(fact)
    expect(page.get_by_role("button", name="Example: red")).to_have_attribute(
        "aria-pressed", "true"
    )
    expect(page.locator("#timing")).to_contain_text("compute")


def test_a_photo_that_is_dropped_pasted_or_chosen_is_predicted(opened: Opened) -> None:
    page = opened.page
    drop(page, encode(solid(GREEN)))
    expect(best(page)).to_contain_text("green")
    expect(page.get_by_role("img", name="photo.png")).to_be_visible()
    page.evaluate(GIVE, [list(encode(solid(BLUE))), "pasted.png", "paste"])
    expect(best(page)).to_contain_text("blue")
    file = {"name": "chosen.png", "mimeType": "image/png", "buffer": encode(solid(RED))}
    page.get_by_label("Choose a photo").set_input_files(file)
    expect(best(page)).to_contain_text("red")
    expect(page.get_by_role("img", name="chosen.png")).to_be_visible()


def test_an_error_is_the_servers_own_sentence(opened: Opened) -> None:
    drop(opened.page, b"not a photo", "notes.txt")
    error = opened.page.get_by_role("alert")
    expect(error).to_contain_text("Image 0 is refused: it is not")
    opened.complaints.clear()  # the browser reports each response that is not ok
    drop(opened.page, encode(solid(GREEN)))
    expect(error).to_be_hidden()
    expect(best(opened.page)).to_contain_text("green")


def test_a_photo_that_the_browser_cannot_show_is_predicted_all_the_same(opened: Opened) -> None:
    drop(opened.page, encode(solid(GREEN), "TIFF"), "photo.tif")
    expect(best(opened.page)).to_contain_text("green")
    expect(opened.page.locator("#stage")).to_contain_text("This browser cannot show this format.")


CENTRES = [(0.25, 0.25, "red"), (0.75, 0.25, "green"), (0.25, 0.75, "blue"), (0.75, 0.75, "red")]


def alpha_at(page: Page, x: float, y: float) -> int:
    return page.evaluate(
        """([x, y]) => {
            const drawn = document.querySelector("#stage .overlay");
            const copy = new OffscreenCanvas(drawn.width, drawn.height).getContext("2d");
            copy.drawImage(drawn, 0, 0);
            const at = [Math.floor(x * drawn.width), Math.floor(y * drawn.height)];
            return copy.getImageData(...at, 1, 1).data[3];
        }""",
        [x, y],
    )


def test_a_mask_names_the_class_below_the_pointer_and_highlights_the_one_in_the_list(
    opened: Opened,
) -> None:
    page = opened.page
    page.get_by_role("radio").nth(1).check(force=True)
    rows = page.locator("#result button.class")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("red")
    expect(rows.first).to_contain_text("50.0 %")
    box = page.locator("#stage .photo").bounding_box()
    for x, y, label in CENTRES:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        expect(page.locator("#stage .tip")).to_have_text(label)
    for _, _, lit in CENTRES:
        rows.filter(has_text=lit).hover()
        bright = [alpha_at(page, x, y) == 255 for x, y, _ in CENTRES]
        assert bright == [label == lit for _, _, label in CENTRES]


@pytest.mark.parametrize(("name", "mode"), [("mask", "P"), ("overlay", "RGB")])
def test_mask_and_overlay_are_downloaded_as_the_service_makes_them(
    opened: Opened, tmp_path: Path, name: str, mode: str
) -> None:
    page = opened.page
    page.get_by_role("radio").nth(1).check(force=True)
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Save {name}").click()
    assert download.value.suggested_filename == f"quarters.{name}.png"
    with Image.open(download.value.path()) as image:
        assert (image.size, image.mode) == ((96, 64), mode)


def test_tokens_show_where_they_look_and_which_of_them_claim_a_pixel(opened: Opened) -> None:
    page = opened.page
    page.get_by_role("tab", name="Tokens").click()
    tokens = page.locator("#result .token")
    expect(tokens).to_have_count(1)
    expect(tokens.first).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#result .facts")).to_contain_text("Share of attention")
    assert alpha_at(page, 0.5, 0.5) > 0
    box = page.locator("#stage .photo").bounding_box()
    for x, share in ((0.2, "100 %"), (0.8, "0 %")):  # its map is the mean of red, green and blue
        page.mouse.move(box["x"] + x * box["width"], box["y"] + 0.5 * box["height"])
        expect(page.locator("#stage .tip")).to_have_text(f"token 0: {share}")
    expect(page.locator("#code")).to_contain_text("/v1/explain?model=colour")


def test_two_dropped_photos_are_compared(opened: Opened) -> None:
    page = opened.page
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#result")).to_contain_text("Choose the second photo.")
    drop(page, encode(solid(RED)), "red.png")
    expect(page.locator("#result .big")).to_have_text("1.000")
    drop(page, encode(solid(GREEN)), "green.png")
    expect(page.locator("#result .big")).to_have_text("0.000")
    expect(page.get_by_role("button", name="The first photo: green.png")).to_be_visible()


def test_everything_is_reached_with_the_keyboard(opened: Opened) -> None:
    page = opened.page
    page.locator("body").press("Tab")
    for _ in range(20):
        if page.evaluate("document.activeElement.name") == "model":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#result button.class")).to_have_count(3)
    page.keyboard.press("ArrowUp")
    expect(best(page)).to_contain_text("red")
    page.get_by_role("button", name="Example: red").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(best(page)).to_contain_text("blue")


@needs("curl")
def test_the_curl_command_on_the_page_gives_the_same_answer(opened: Opened, tmp_path: Path) -> None:
    name = "it's green.png"
    (tmp_path / name).write_bytes(encode(solid(GREEN)))
    drop(opened.page, encode(solid(GREEN)), name)
    expect(best(opened.page)).to_contain_text("green")
    command = opened.page.locator("#code code").first.text_content()
    output = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, capture_output=True, check=True
    ).stdout
    assert json.loads(output)["predictions"][0]["classes"][0]["label"] == "green"


def test_the_camera_predicts_one_frame_at_a_time(opened: Opened) -> None:
    page, flying = opened.page, []
    most = [0]

    def begin(request: Any) -> None:
        if "/v1/" in request.url:
            flying.append(request)
            most[0] = max(most[0], len(flying))

    page.on("request", begin)
    page.on("requestfinished", lambda request: request in flying and flying.remove(request))
    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#stage .badge")).to_contain_text("frames per second")
    page.get_by_role("button", name="Stop camera").click()
    expect(page.locator("#stage .badge")).to_be_hidden()
    assert most == [1]


def test_a_key_that_is_missing_can_be_entered(
    browser: Browser, repository: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(PREDICT_LINES)
    with running(
        repository, VT_API_KEYS_FILE=str(keys), VT_REQUIRE_KEY_FOR_METADATA="true"
    ) as server:
        opened = Opened(browser, f"http://127.0.0.1:{server.port}")
        page = opened.page
        page.goto("/")
        expect(page.get_by_role("alert")).to_contain_text("An API key is needed")
        page.get_by_label("API key, kept").fill(PREDICT)
        page.get_by_role("button", name="Use").click()
        expect(best(page)).to_contain_text("red")
        expect(page.locator("#code")).to_contain_text("X-API-Key: $VT_API_KEY")
        assert PREDICT not in page.locator("#code").text_content()
        opened.close()


@needs("nginx")
def test_the_page_and_the_docs_work_below_a_path_prefix(
    browser: Browser, server: Process, tmp_path: Path
) -> None:
    location = f"""location /vt/ {{
        proxy_pass http://127.0.0.1:{server.port}/;
        proxy_set_header X-Forwarded-Prefix /vt;
    }}"""
    with nginx(tmp_path, location) as port:
        opened = Opened(browser, f"http://127.0.0.1:{port}")
        opened.page.goto("/vt/")
        expect(best(opened.page)).to_contain_text("red")
        expect(opened.page.locator("#code")).to_contain_text(f":{port}/vt/v1/classify")
        opened.page.get_by_role("link", name="API docs").click()
        expect(opened.page.locator(".opblock").first).to_be_visible()
        expect(opened.page.locator(".servers select")).to_have_value("/vt")
        assert (opened.elsewhere, opened.complaints) == ([], [])
        opened.close()
