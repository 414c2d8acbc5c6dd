"""Colour profiles (ICC.1:2004) that tests make themselves."""

import struct

import numpy as np
from PIL import ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DISPLAY_P3 = {
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}
"""The primaries, adapted to D50; the tone curve is that of sRGB."""


def tag_positions(profile: bytes) -> dict[bytes, int]:
    """Where the entries of a profile's table of tags start."""
    (count,) = struct.unpack_from(">I", profile, 128)
    return {profile[at : at + 4]: at for at in range(132, 132 + 12 * count, 12)}


def display_p3() -> bytes:
    """The profile of a phone's photos."""
    profile = bytearray(SRGB)
    for tag, xyz in DISPLAY_P3.items():
        (at,) = struct.unpack_from(">I", profile, tag_positions(SRGB)[tag] + 4)
        struct.pack_into(">3i", profile, at + 8, *(round(value * 65_536) for value in xyz))
    return bytes(profile)


def exchanged_primaries() -> bytes:
    """A profile by which red is green and green is red."""
    profile, at = bytearray(SRGB), tag_positions(SRGB)
    profile[at[b"rXYZ"] : at[b"rXYZ"] + 4] = b"gXYZ"
    profile[at[b"gXYZ"] : at[b"gXYZ"] + 4] = b"rXYZ"
    return bytes(profile)


def grey(gamma: float) -> bytes:
    """A profile of grey with this gamma."""
    curve = b"curv" + struct.pack(">4xIH", 1, round(gamma * 256)) + bytes(2)
    return _profile(b"GRAY", {b"kTRC": curve})


def inverted_cmyk() -> bytes:
    """A profile by which no ink is black and all ink is white."""
    nodes = np.zeros((2, 2, 2, 2, 3), np.uint8)
    for index in np.ndindex(2, 2, 2, 2):
        nodes[index] = (255 if sum(index) == 4 else 0, 128, 128)
    identity = struct.pack(">9i", *(65_536 if n in (0, 4, 8) else 0 for n in range(9)))
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity
    return _profile(b"CMYK", {b"A2B0": table + ramp * 4 + nodes.tobytes() + ramp * 3}, b"Lab ")


def _profile(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    white = b"XYZ " + struct.pack(">4x3i", 63_190, 65_536, 54_061)
    tags = {b"wtpt": white, **tags}
    at = 132 + 12 * len(tags)
    table, contents = struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        table += tag + struct.pack(">II", at + len(contents), len(data))
        contents += data + bytes(-len(data) % 4)
    header = bytearray(128)
    struct.pack_into(">I", header, 0, 128 + len(table) + len(contents))
    header[8:12] = b"\x02\x40\0\0"
    header[12:24] = (b"prtr" if space == b"CMYK" else b"mntr") + space + connection
    header[36:40] = b"acsp"
    struct.pack_into(">3i", header, 68, 63_190, 65_536, 54_061)
    return bytes(header) + table + contents
