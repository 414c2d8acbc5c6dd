"""Debian's Chromium, driven by Playwright, that may talk to the server only."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, Route, sync_playwright

ARGUMENTS = [
    "--disable-dev-shm-usage",
    "--no-sandbox",  # tests may run as root in a container
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=ARGUMENTS, env={**os.environ}
        )
        yield browser
        browser.close()


class Opened:
    """A page, the addresses that it wanted elsewhere, and what its console complained about."""

    def __init__(self, browser: Browser, base: str, **options: Any) -> None:
        self.context = browser.new_context(base_url=base, **options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.elsewhere: list[str] = []
        self.complaints: list[str] = []
        self._base = base
        self.context.route("**/*", self._only_the_server)
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _only_the_server(self, route: Route) -> None:
        if route.request.url.startswith((self._base, "blob:", "data:")):
            route.continue_()
        else:
            self.elsewhere.append(route.request.url)
            route.abort()

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def close(self) -> None:
        self.context.close()
