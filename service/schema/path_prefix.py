"""The path prefix below which a proxy publishes the service, for example `/vt`."""

import re

_PREFIX = re.compile(r"(/(?!\.+(/|$))[\w.~-]+)*", re.ASCII)


def parse_path_prefix(text: str) -> str:
    """Return a prefix without its last slash; raises `ValueError` if it is not one."""
    prefix = text.rstrip("/")
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("it is not a path such as /vt")
    return prefix
