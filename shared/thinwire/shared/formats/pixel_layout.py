"""A guess at the position of a file's pixel data, from its bytes alone.

A wrong guess makes an archive larger, and has no other effect; so this module does not parse DICOM.
"""

import re
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

MAX_PIXELS = 64_000_000
"""Pixels of one image, packing and unpacking; it bounds the memory of a decoder."""

# The header of Pixel Data (PS3.5 7.1): tag, for an explicit VR two letters and two zero bytes, then 32 bits of length.
_PIXEL_DATA = {
    "<": re.compile(rb"\xe0\x7f\x10\x00(?:O[BW]\x00\x00)?(.{4})", re.DOTALL),
    ">": re.compile(rb"\x7f\xe0\x00\x10(?:O[BW]\x00\x00)(.{4})", re.DOTALL),
}
_UNDEFINED = b"\xff" * 4
_ITEM = b"\xfe\xff\x00\xe0"
_JPEG = b"\xff\xd8\xff"
_CODESTREAM = b"\xff\x0a"
_SMALLEST_IMAGE = 1024


class Layout(IntEnum):
    """The encoding of the samples of a JPEG_XL piece in the file."""

    BYTES = 0
    LITTLE = 1
    BIG = 2
    LITTLE_SIGNED = 3
    BIG_SIGNED = 4

    @property
    def dtype(self) -> str:
        """The numpy dtype of a sample in the file; signed samples as the unsigned number with the same bits."""
        return ("u1", "<u2", ">u2", "<u2", ">u2")[self]

    @property
    def signed(self) -> bool:
        return self in (Layout.LITTLE_SIGNED, Layout.BIG_SIGNED)


class ImagePlace(NamedTuple):
    """The guessed position of a file's uncompressed pixels."""

    start: int
    rows: int
    columns: int
    layout: Layout

    @property
    def size(self) -> int:
        return self.rows * self.columns * (1 if self.layout is Layout.BYTES else 2)


def find_image(data: bytes) -> ImagePlace | None:
    """Uncompressed grey pixels of 8 or 16 bits in a DICOM file whose length agrees with its rows and columns."""
    for order, pattern in _PIXEL_DATA.items():
        rows, columns, allocated = (_unsigned_short(data, order, element) for element in (0x0010, 0x0011, 0x0100))
        if not rows * columns or rows * columns > MAX_PIXELS or allocated not in (8, 16):
            continue
        signed = _unsigned_short(data, order, 0x0103) == 1
        sixteen = {("<", False): Layout.LITTLE, (">", False): Layout.BIG, ("<", True): Layout.LITTLE_SIGNED}
        layout = Layout.BYTES if allocated == 8 else sixteen.get((order, signed), Layout.BIG_SIGNED)
        for match in pattern.finditer(data):
            image = ImagePlace(match.end(), rows, columns, layout)
            (length,) = struct.unpack(f"{order}L", match[1])
            if length - image.size in (0, 1) and _SMALLEST_IMAGE <= length <= len(data) - match.end():
                return image
    return None


def _unsigned_short(data: bytes, order: str, element: int) -> int:
    """The first attribute of group 0028 with this element number; 0 where there is none."""
    tag = struct.pack(f"{order}HH", 0x0028, element)
    lengths = (b"US" + struct.pack(f"{order}H", 2), struct.pack(f"{order}L", 2))
    places = [at + 8 for length in lengths if (at := data.find(tag + length)) >= 0]
    return int(struct.unpack_from(f"{order}H", data, min(places))[0]) if places and min(places) + 2 <= len(data) else 0


def find_jpeg(data: bytes) -> tuple[int, int] | None:
    """(start, length) of the one JPEG stream of a DICOM file's encapsulated pixels, or of a JPEG file."""
    if data.startswith(_JPEG):
        return 0, len(data)
    for match in _PIXEL_DATA["<"].finditer(data):
        items = list(_items(data, match.end())) if match[1] == _UNDEFINED else []
        if len(items) == 2 and data.startswith(_JPEG, items[1][0]):
            return items[1]
    return None


def _items(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """(start, length) of each item of encapsulated pixel data (PS3.5 A.4), as far as they are valid."""
    while data.startswith(_ITEM, at) and at + 8 <= len(data):
        (length,) = struct.unpack_from("<L", data, at + 4)
        if at + 8 + length > len(data):
            return
        yield at + 8, length
        at += 8 + length


class _Bits:
    """Bits of a JPEG XL codestream, lowest first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken


def jpeg_xl_size(data: bytes) -> tuple[int, int]:
    """Rows and columns that a JPEG XL stream states (ISO/IEC 18181-1, SizeHeader), bare or in boxes.

    Raises ValueError, struct.error.
    """
    start = _codestream_start(data)
    if data[start : start + 2] != _CODESTREAM:
        raise ValueError("no codestream")
    bits = _Bits(data[start + 2 : start + 18])
    small = bits.take(1)

    def side() -> int:
        return 8 * (bits.take(5) + 1) if small else bits.take((9, 13, 18, 30)[bits.take(2)]) + 1

    rows = side()
    ratio = bits.take(3)
    if ratio == 0:
        return rows, side()
    numerator, denominator = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return rows, rows * numerator // denominator


def _codestream_start(data: bytes) -> int:
    """Offset of the first codestream box's content (ISO/IEC 18181-2), 0 for a bare codestream."""
    at = 0
    if data.startswith(_CODESTREAM):
        return at
    while True:
        size, kind = struct.unpack_from(">L4s", data, at)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            header = 16
        if kind in (b"jxlc", b"jxlp"):
            return at + header + (4 if kind == b"jxlp" else 0)  # a partial one begins with its number
        if size < header:
            raise ValueError("no codestream")
        at += size
