"""Take the README's picture of the playground: `python -m tests.screenshot [FILE]`."""

import sys
from pathlib import Path

from playwright.sync_api import expect

from tests.service.browser import Opened, chromium
from tests.service.process import ROOT, running

TARGET = ROOT / "docs" / "images" / "playground.png"
SIZE = {"width": 1180, "height": 760}


def main(target: Path) -> None:
    """Serve the shipped models and show the tokens of one photo."""
    with running(ROOT / "weights") as server, chromium() as browser:
        opened = Opened(browser, f"http://127.0.0.1:{server.port}", viewport=SIZE)
        page = opened.page
        page.goto("/")
        expect(page.locator("#result .class").first).to_be_visible()
        expect(page.locator("#timing")).to_be_visible()
        page.wait_for_function("[...document.images].every((image) => image.naturalWidth > 0)")
        page.screenshot(path=target)
        opened.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
