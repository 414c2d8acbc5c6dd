"""The calls that the service makes in the thread of the event loop: they must be few and short."""

from pathlib import Path
from types import FrameType

import PIL

import service

PACKAGES = {Path(package.__file__).parent: package.__name__ for package in (service, PIL)}


class LoopCalls:
    """Profiles one thread: which modules of the service run in it, and how many calls they make."""

    def __init__(self) -> None:
        self._names: dict[str, str | None] = {}
        self.modules: set[str] = set()
        self.count = 0

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """Count a call by a module, of a function in Python or in C."""
        if event in ("call", "c_call"):
            path = frame.f_code.co_filename
            if path not in self._names:
                self._names[path] = _module(Path(path))
            name = self._names[path]
            if name is not None:
                self.modules.add(name)
                self.count += 1

    def clear(self) -> None:
        """Forget the calls so far."""
        self.modules.clear()
        self.count = 0

    @property
    def work(self) -> set[str]:
        """The modules whose work grows with what a client sends: they belong in other threads."""
        return {name for name in self.modules if name.startswith(WORK)} - SHORT


WORK = ("PIL", "service.images", "service.open_inference", "service.http.content_encoding")
SHORT = {"service.images.photo", "service.images.classes"}
"""A photo is only held there; its classes are as many as the model has."""


def _module(path: Path) -> str | None:
    for folder, package in PACKAGES.items():
        if path.is_relative_to(folder):
            return ".".join((package, *path.relative_to(folder).with_suffix("").parts))
    return None
