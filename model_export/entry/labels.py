"""Label files: one class per line in the order of the logits, with an optional colour."""

import re
from dataclasses import dataclass
from pathlib import Path

from model_export.errors import InvalidData

Color = tuple[int, int, int]
_LINE = re.compile(r"^(?P<label>.+?)(?:\s+#(?P<color>[0-9a-fA-F]{6}))?$")


@dataclass(frozen=True)
class Labels:
    """The names of the classes and their colours in masks."""

    names: tuple[str, ...]
    palette: tuple[Color, ...]


def read_labels(path: Path) -> Labels:
    """Read lines like `road #804080`; blank lines are skipped and the colour may be missing.

    Raises:
        InvalidData: the file is missing, not UTF-8 or empty.

    Two classes may have the same label, like the two cranes of ImageNet: answers carry the index.
    """
    matches = [match for line in _lines(path) if (match := _LINE.match(line))]
    names = tuple(match["label"] for match in matches)
    if not names:
        raise InvalidData(f"{path} contains no labels")
    palette = tuple(
        _parse_color(match["color"]) if match["color"] else default_color(index)
        for index, match in enumerate(matches)
    )
    return Labels(names, palette)


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"{path} cannot be read as a label file: {error}") from error


def _parse_color(digits: str) -> Color:
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


def default_color(index: int) -> Color:
    """The default colour of a class: entry `index + 1` of the PASCAL VOC colour map.

    Every third bit of that number goes to the same channel, lowest bit to highest, so that
    neighbouring classes get very different colours.
    """
    number, channels = index + 1, [0, 0, 0]
    for bit in range(7, -1, -1):
        for channel in range(3):
            channels[channel] |= ((number >> channel) & 1) << bit
        number >>= 3
    red, green, blue = channels
    return red, green, blue
