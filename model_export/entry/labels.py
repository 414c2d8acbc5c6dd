"""Label files: one class a line, in the order of the logits, with a colour if it has one."""

import re
from dataclasses import dataclass
from pathlib import Path

from model_export.errors import InvalidData

Color = tuple[int, int, int]
_LINE = re.compile(r"^(?P<label>.+?)(?:\s+#(?P<color>[0-9a-fA-F]{6}))?$")


@dataclass(frozen=True)
class Labels:
    """The classes' names and, for masks, their colours."""

    names: tuple[str, ...]
    palette: tuple[Color, ...]


def read_labels(path: Path) -> Labels:
    """Read `road #804080` lines; blank lines and missing colours are fine, doubles are not.

    Raises:
        InvalidData: no such file, not UTF-8 text, empty, or the same label twice.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"{path} cannot be read as a label file: {error}") from error
    matches = [match for line in lines if (match := _LINE.match(line))]
    names = tuple(match["label"] for match in matches)
    if not names:
        raise InvalidData(f"{path} holds no labels")
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise InvalidData(f"{path} holds these labels more than once: {', '.join(doubles)}")
    palette = tuple(
        _parse_color(match["color"]) if match["color"] else default_color(index)
        for index, match in enumerate(matches)
    )
    return Labels(names, palette)


def _parse_color(digits: str) -> Color:
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


def default_color(index: int) -> Color:
    """The colour of a class that has none of its own: PASCAL VOC's colour map, from 1.

    Bit k of each channel's upper half comes from every third bit of the class number, so that
    neighbouring classes differ as much as they can.
    """
    number, channels = index + 1, [0, 0, 0]
    for bit in range(7, -1, -1):
        for channel in range(3):
            channels[channel] |= ((number >> channel) & 1) << bit
        number >>= 3
    red, green, blue = channels
    return red, green, blue
