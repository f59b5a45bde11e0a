"""The pictures of a cache: JPEG files of the declared size, told without decoding them.

They may come from a stranger, and what draws them must open nothing else: a PostScript file would
start an interpreter, a picture that is larger than declared would take gigabytes.
"""

from __future__ import annotations

_START, _END = b"\xff\xd8", b"\xff\xd9"
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
# Tables, restart interval, JFIF and Adobe headers, comments. Nothing else is needed to draw, and
# what else there is (EXIF, several pictures in one file) has readers with faults of their own.
_HEADERS = {0xC4, 0xDB, 0xDD, 0xE0, 0xEE, 0xFE}
_SCAN = 0xDA
_HEADER_BYTES = 1 << 16


def picture_limit(size_px: int) -> int:
    """More bytes than a JPEG of size_px² ever has, whatever its quality."""
    return 4 * size_px * size_px + _HEADER_BYTES


def picture_problem(data: bytes, size_px: int) -> str:
    """Why bytes are no colour JPEG of size_px by size_px, or "" where they are one."""
    expected = f"expected a JPEG of {size_px}×{size_px}"
    if data[:2] != _START or data[-2:] != _END:
        return f"{expected}, found other bytes, or a JPEG that is cut"
    if len(data) > picture_limit(size_px):
        return f"{expected}, found {len(data):,} bytes"
    place, found = 2, ""
    while data[place : place + 1] == b"\xff":
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in _FRAMES and not found:
            height, width = (
                int.from_bytes(data[place + at : place + at + 2], "big") for at in (5, 7)
            )
            found = f"{width}×{height}, {data[place + 4]} bits, {data[place + 9]} colours"
            if (width, height, data[place + 4], data[place + 9]) != (size_px, size_px, 8, 3):
                return f"{expected}, found {found}"
        elif marker == _SCAN and found:
            return ""
        elif marker not in _HEADERS or length < 2:
            return f"{expected}, found a JPEG with the marker {marker:#x}"
        place += 2 + length
        if place + 10 > len(data):
            break
    return f"{expected}, found no picture in it"
