"""Take the README's picture of the playground: `python -m tests.screenshot [FILE]`."""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect

from tests.service.browser import Opened, chromium
from tests.service.process import ROOT, running

TARGET = ROOT / "docs" / "images" / "playground.webp"
SIZE = {"width": 1300, "height": 860}
PHOTO = "chain saw"


def main(target: Path) -> None:
    """Serve the shipped models and show the tokens of one photo."""
    with running(ROOT / "weights") as server, chromium() as browser:
        opened = Opened(browser, f"http://127.0.0.1:{server.port}", viewport=SIZE)
        page = opened.page
        page.goto("/")
        page.get_by_text("classification").click()
        page.get_by_role("tab", name="Tokens").click()
        page.get_by_role("button", name=f"Example: {PHOTO}").click()
        expect(page.locator("#result .token").first).to_be_visible()
        page.wait_for_function("[...document.images].every((image) => image.naturalWidth > 0)")
        page.mouse.move(0, 0)
        expect(page.locator("#work")).to_have_attribute("aria-busy", "false")
        taken = Image.open(io.BytesIO(page.screenshot(animations="disabled")))
        opened.close()
    taken.convert("RGB").save(target, quality=90, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
