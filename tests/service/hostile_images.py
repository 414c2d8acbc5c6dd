"""Odd and hostile image files that tests make themselves, by name."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.service.photos import encode, noise, png_chunk, png_header, quarters, solid

MAX_PIXELS = 1_000_000
ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


BROKEN = {
    "PNG without its end": 200,
    "WEBP with its middle gone": 200,
    "BMP with its middle gone": 200,
    "PNG cut at 4": 415,
    "WEBP cut at 4": 415,
    "a GIF that is a script": 413,
    "a BMP of negative width": 413,
}
"""The broken files that are not a 400: some can be decoded, some are refused for another reason."""


class HostileFile(NamedTuple):
    """A file, and the status of its response."""

    data: bytes
    status: int


@cache
def corpus() -> dict[str, HostileFile]:
    """Every file, by what is odd about it."""
    whole = dict(_whole())
    sections = (
        (whole.items(), 200),
        (_broken(whole), 400),
        (_no_images(), 415),
        (_bombs(), 413),
        (_inflating(), 400),
    )
    return {
        name: HostileFile(data, BROKEN.get(name, status))
        for files, status in sections
        for name, data in files
    }


def _whole() -> Iterator[tuple[str, bytes]]:
    photo, grey = quarters(), quarters().convert("L")
    wide = Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21)
    palette = photo.quantize(8)
    for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        yield f"plain {name}", encode(photo, name)
        yield f"one pixel {name}", encode(solid(size=(1, 1)), name)
        yield f"a strip {name}", encode(solid(size=(5000, 1)), name)
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        image = wide if mode == "I;16" else photo.convert(mode)
        yield f"PNG {mode}", encode(image)
    yield "PNG with a transparent palette", encode(palette, transparency=bytes(range(8)))
    yield "PNG with a transparent colour", encode(photo, transparency=(255, 0, 0))
    yield "PNG interlaced", interlaced_png(photo)
    yield "PNG zTXt that inflates", with_text(b"zTXt", b"k\0\0" + deflated(50_000_000))
    yield "PNG in 1-byte chunks", split_png(encode(photo))
    yield "APNG", encode(photo, save_all=True, append_images=[solid(size=(64, 48))])
    yield "GIF animated", encode(photo, "GIF", save_all=True, append_images=[solid()] * 30)
    yield (
        "WebP animated",
        encode(photo, "WEBP", save_all=True, append_images=[solid(size=(64, 48))] * 5),
    )
    yield "WebP lossless with alpha", encode(photo.convert("RGBA"), "WEBP", lossless=True)
    yield "JPEG progressive", encode(photo, "JPEG", progressive=True)
    yield "JPEG grey", encode(grey, "JPEG")
    yield "JPEG CMYK", encode(photo.convert("CMYK"), "JPEG")
    yield "JPEG with restart markers", encode(photo, "JPEG", restart_marker_blocks=1)
    for mode in ("CMYK", "LAB", "YCbCr", "F", "I"):
        yield (
            f"TIFF {mode}",
            encode((grey if mode in "FI" else photo).convert(mode), "TIFF"),
        )
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        image = photo.convert("1") if compression == "group4" else photo
        yield f"TIFF {compression}", encode(image, "TIFF", compression=compression)
    yield "BMP with a palette", encode(palette, "BMP")
    yield "BMP top down", top_down_bmp()
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"EXIF {orientation}", encode(photo, "JPEG", exif=exif)
    yield "broken EXIF", encode(photo, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    yield "broken ICC profile", encode(photo, "JPEG", icc_profile=b"no profile" * 100)
    yield "JPEG, then ZIP", encode(photo, "JPEG") + b"PK\x03\x04" + bytes(500)
    yield (
        "PNG with a page in it",
        encode(photo)[:33] + png_chunk(b"tEXt", b"x\0<script>") + encode(photo)[33:],
    )


def _broken(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        data = whole[f"plain {name}"]
        yield f"{name} cut at 4", data[:4]
        yield f"{name} cut at 12", data[:12]
        yield f"{name} cut in half", data[: len(data) // 2]
        yield f"{name} without its end", data[:-3]
        yield f"{name} with its middle gone", data[:40] + bytes(len(data) - 60) + data[-20:]
        yield f"{name} in ones", data[:40] + b"\xff" * 2000
    script = b"GIF89a=1;/*" + whole["plain GIF"][11:] + b"*/alert(1)"
    yield "a GIF that is a script", script
    yield "a PNG that says JPEG", b"\xff\xd8\xff" + whole["plain PNG"]
    yield "a JPEG that says PNG", whole["plain PNG"][:8] + whole["plain JPEG"]
    yield "a PNG with wrong sums", whole["plain PNG"][:29] + b"\0\0\0\0" + whole["plain PNG"][33:]
    yield "nothing but a signature", b"\x89PNG\r\n\x1a\n"
    yield "no pixels", png_header(0, 0)
    yield "a WebP of no picture", b"RIFF\x04\0\0\0WEBP"
    yield "a BMP of negative width", whole["plain BMP"][:18] + b"\xff" * 4 + whole["plain BMP"][22:]


def _no_images() -> Iterator[tuple[str, bytes]]:
    yield "zeros", bytes(1000)
    yield "a page", b"<html><script>alert(1)</script>"
    yield "an SVG", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
    yield "a ZIP", b"PK\x03\x04" + bytes(100)
    yield "a program", b"\x7fELF" + bytes(100)


def _bombs() -> Iterator[tuple[str, bytes]]:
    yield "PNG of 2.5 gigapixels", png_header(50_000, 50_000)
    yield "PNG of the largest numbers", png_header(2**31 - 1, 2**31 - 1)
    yield "PNG just over", encode(Image.new("1", (1001, 1000)))
    yield "GIF of 65535 squared", gif_header(65_535, 65_535)
    yield "BMP of 4 gigapixels", bmp_header(65_535, 65_535)
    yield "WebP of 16383 squared", webp_header(16_383, 16_383)
    yield "TIFF of 4 gigapixels", tiff_header(65_535, 65_535)
    yield "JPEG of 65500 squared", jpeg_header(65_500, 65_500)
    yield "JPEG of 5000 scans", with_scans(5000)
    yield "JPEG of 200,000 comments", flooded("JPEG", 2, b"\xff\xfe\0\2")
    yield "PNG of 200,000 chunks", flooded("PNG", 33, png_chunk(b"abCd", b""))
    yield "GIF of 200,000 comments", flooded("GIF", 13, b"\x21\xfe\x01a\0")
    for name in ("JPEG", "PNG", "WEBP", "TIFF"):
        yield f"{name} of 200,000 numbers", with_exif(name, directory(200_000))


def _inflating() -> Iterator[tuple[str, bytes]]:
    yield "PNG iCCP that inflates", with_text(b"iCCP", b"k\0\0" + deflated(50_000_000))


def interlaced_png(image: Image.Image) -> bytes:
    """Adam7: Pillow reads it and writes none."""
    pixels = np.asarray(image)
    rows = (
        b"\0" + row.tobytes()
        for left, top, right, down in ADAM7
        for row in pixels[top::down, left::right]
    )
    header = struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 1)
    data = png_chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + data + png_chunk(b"IEND", b"")


def deflated(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def split_png(data: bytes) -> bytes:
    """The same PNG, with a chunk for every byte of its pixels."""
    at = data.index(b"IDAT") - 4
    length = int.from_bytes(data[at : at + 4])
    pixels = data[at + 8 : at + 8 + length]
    chunks = b"".join(png_chunk(b"IDAT", pixels[n : n + 1]) for n in range(length))
    return data[:at] + chunks + data[at + 12 + length :]


def with_text(kind: bytes, text: bytes) -> bytes:
    data = encode(solid())
    return data[:33] + png_chunk(kind, text) + data[33:]


def with_scans(count: int) -> bytes:
    """A JPEG whose last scan, of a few bytes, comes again and again."""
    data = encode(Image.new("L", (1000, 1000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def flooded(name: str, at: int, part: bytes) -> bytes:
    """A file with so many parts that every one of them costs."""
    data = encode(Image.new("1", (8, 8)) if name == "GIF" else solid(), name)
    if name == "GIF":
        at += 3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0
    return data[:at] + part * 200_000 + data[at:]


def directory(count: int, order: str = "<", kind: int = 3, size: int | None = None) -> bytes:
    """What a TIFF file and EXIF begin with: one entry, the orientation, of so many numbers."""
    mark = {"<": b"II", ">": b"MM"}[order]
    head = struct.pack(order + "2sHIH", mark, 42, 8, 1)
    entry = struct.pack(order + "HHIII", 0x0112, kind, count, 26, 0)
    return head + entry + bytes(2 * count if size is None else size)


def with_exif(name: str, exif: bytes) -> bytes:
    """A whole file of a format with this EXIF, in as many pieces as the format needs."""
    data = encode(solid(), name)
    match name:
        case "JPEG":
            pieces = (exif[at : at + 60_000] for at in range(0, len(exif), 60_000))
            segments = (
                b"\xff\xe1" + struct.pack(">H", len(each) + 8) + b"Exif\0\0" + each
                for each in pieces
            )
            return data[:2] + b"".join(segments) + data[2:]
        case "PNG":
            return data[:33] + png_chunk(b"eXIf", exif) + data[33:]
        case "WEBP":
            body = data + b"EXIF" + struct.pack("<I", len(exif)) + exif
            return body[:4] + struct.pack("<I", len(body) - 8) + body[8:]
        case _:
            return exif


def top_down_bmp() -> bytes:
    data = bytearray(encode(quarters(), "BMP"))
    data[22:26] = struct.pack("<i", -48)
    return bytes(data)


def gif_header(width: int, height: int) -> bytes:
    data = encode(solid().convert("P"), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def bmp_header(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def webp_header(width: int, height: int) -> bytes:
    sides = struct.pack("<I", (width - 1) | (height - 1) << 14)
    chunk = b"VP8L" + struct.pack("<I", 5) + b"\x2f" + sides + b"\0"
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def tiff_header(width: int, height: int) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (278, height)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def jpeg_header(width: int, height: int) -> bytes:
    data = encode(noise(8, 8), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


MUTATIONS_OF_BYTES = ("set", "cut", "drop", "double", "insert")


def mutated(data: bytes, mutations: Sequence[tuple[str, float, bytes]]) -> bytes:
    """Change bytes: how, at which part of them, and with what."""
    for kind, where, piece in mutations:
        at = int(where * len(data))
        match kind:
            case "set":
                data = data[:at] + piece + data[at + len(piece) :]
            case "cut":
                data = data[: max(at, 16)]
            case "drop":
                data = data[:at] + data[at + 50 * len(piece) :]
            case "double":
                data = data[:at] + data[at : at + 500] * 2 + data[at + 500 :]
            case "insert":
                data = data[:at] + piece + data[at:]
    return data
