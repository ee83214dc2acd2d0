"""The crops tier: the kept patches and their surroundings, losslessly, at native resolution and bit depth.

Format and reasons: docs/crops-format.md. Rectangles are in order of attention, highest first; each can be
shown as soon as it has arrived. Samples are stored values (PS3.3 C.7.6.3), before any VOI transform, so that a reader
can choose the window.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from thinwire.shared.errors import BadCrops
from thinwire.shared.formats.graph import BoolArray
from thinwire.shared.formats.originals import CODEC_ERRORS
from thinwire.shared.formats.pixel_layout import MAX_PIXELS
from thinwire.shared.formats.window import WINDOW_BYTES, Window

Grey = NDArray[np.uint8]
Samples = NDArray[np.integer]

MAGIC = b"TWEV"
VERSION = 1
MAX_RECTANGLES = 4096
MAX_VALUES = 1 << 16
MAX_CROPS = 60 << 20
"""Bytes; beyond them the rectangles with the least attention are left out. The hub's limit for the sealed object is
higher."""

_HEAD = struct.Struct(f">4sBHHBBBdddd{WINDOW_BYTES}slLLH")
_RECORD = struct.Struct(">HHHHHBL")
_FULL_SHARE = 65535
_JPEG_XL_EFFORT = 5
_ZSTD_LEVEL = 19


class Photometric(IntEnum):
    """Photometric Interpretation (0028,0004) of the stored values."""

    MONOCHROME2 = 0
    MONOCHROME1 = 1
    LUMINANCE = 2
    """The luminance of a colour image; grey is bright where it is high."""


class CropCodec(IntEnum):
    """How the samples of one rectangle are packed."""

    ZSTD = 0
    JPEG_XL = 1


@dataclass(frozen=True)
class Meaning:
    """The interpretation of stored values (PS3.3 C.7.6.3, C.11)."""

    bits_stored: int
    """1 to 16."""
    signed: bool
    photometric: Photometric
    spacing_mm: tuple[float, float] | None
    """Between rows, between columns; None where the file does not say."""
    rescale: tuple[float, float] | None
    """Slope and intercept to the modality's values; None for a Modality LUT."""
    window: Window
    """The VOI transform of the grey levels in `Crops.tone`."""


@dataclass(frozen=True)
class Rectangle:
    """A part of the image in native pixels."""

    x: int
    y: int
    width: int
    height: int
    share: float
    """Share of the image's attention on the kept patches in the rectangle, 0 to 1."""

    @property
    def place(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    @property
    def area(self) -> int:
        return self.width * self.height


@dataclass(frozen=True)
class Crops:
    """The rectangles of a crops object that have arrived."""

    native_height: int
    native_width: int
    meaning: Meaning
    least: int
    """The stored value of sample 0."""
    tone: Grey = field(repr=False)
    """uint8 [n]: the grey level, bone bright, of each stored value from `least` up, as in the preview."""
    rectangles: tuple[Rectangle, ...]
    samples: tuple[Samples, ...] = field(repr=False)
    """uint8 or uint16 [h, w] of each rectangle: stored values less `least`."""
    total: int
    """Rectangles of the whole object."""

    @property
    def whole(self) -> bool:
        return len(self.rectangles) == self.total

    def canvas(self) -> tuple[NDArray[np.uint16], BoolArray]:
        """uint16 [H, W], stored values minus `least`, 0 outside the rectangles; bool [H, W], True inside them."""
        values = np.zeros((self.native_height, self.native_width), np.uint16)
        here = np.zeros(values.shape, np.bool_)
        for rectangle, samples in zip(self.rectangles, self.samples, strict=True):
            values[rectangle.place] = samples
            here[rectangle.place] = True
        return values, here

    def lay_over(self, image: Grey) -> None:
        """Write the grey levels of the rectangles into a native-size image, uint8 [H, W]."""
        for rectangle, samples in zip(self.rectangles, self.samples, strict=True):
            image[rectangle.place] = self.tone[samples]


def encode(stored: Samples, shown: Grey, rectangles: Sequence[Rectangle], meaning: Meaning) -> bytes:
    """The crops of an image. The same arguments give the same bytes with the same codec libraries.

    stored: integers [H, W] of at most 16 bits, the stored values. shown: uint8 [H, W], the grey level of each pixel,
    a function of its stored value. rectangles: disjoint, inside the image, at least one (ValueError). Rectangles beyond
    MAX_CROPS or MAX_RECTANGLES are left out, those with the least attention first.
    """
    if not rectangles:
        raise ValueError("crops without rectangles")
    ordered = sorted(rectangles, key=_order)[:MAX_RECTANGLES]
    parts = [stored[each.place] for each in ordered]
    least = min(int(part.min()) for part in parts)
    span = max(int(part.max()) for part in parts) - least + 1
    tone = _tone(parts, [shown[each.place] for each in ordered], least, span)
    records: list[bytes] = []
    held = _HEAD.size + len(tone)
    for rectangle, part in zip(ordered, parts, strict=True):
        record = _record(rectangle, (part.astype(np.int32) - least).astype(_kind(span)))
        held += len(record)
        if records and held > MAX_CROPS:
            break
        records.append(record)
    height, width = stored.shape
    head = _HEAD.pack(
        MAGIC,
        VERSION,
        height,
        width,
        meaning.bits_stored,
        meaning.signed,
        meaning.photometric,
        *(meaning.spacing_mm or (0.0, 0.0)),
        *(meaning.rescale or (0.0, 0.0)),
        meaning.window.to_bytes(),
        least,
        span,
        len(tone),
        len(records),
    )
    return b"".join((head, tone, *records))


def decode(data: bytes, max_bytes: int) -> Crops:
    """A whole crops object. max_bytes: limit of its samples. Raises BadCrops: any departure from the format."""
    found = _read(data, max_bytes)
    if found is None or not found[0].whole:
        raise BadCrops("the crops end too early")
    crops, end = found
    if end != len(data):
        raise BadCrops("the crops continue after the last rectangle")
    return crops


def decode_prefix(data: bytes, max_bytes: int) -> Crops | None:
    """The rectangles that are complete in the first bytes of a crops object; None before the first. Raises BadCrops."""
    found = _read(data, max_bytes)
    return None if found is None or not found[0].rectangles else found[0]


def _order(rectangle: Rectangle) -> tuple[int, int, int]:
    return -round(rectangle.share * _FULL_SHARE), rectangle.y, rectangle.x


def _kind(span: int) -> np.dtype[Any]:
    return np.dtype("<u1" if span <= 256 else "<u2")


def _tone(parts: Sequence[Samples], shown: Sequence[Grey], least: int, span: int) -> bytes:
    """The grey level of each stored value, packed; a value without a pixel gets the level of the next lower one."""
    table = np.zeros(span, np.uint8)
    known = np.zeros(span, np.intp)
    for part, grey in zip(parts, shown, strict=True):
        at = part.astype(np.int32) - least
        table[at] = grey
        known[at] = at
    return _packed(table[np.maximum.accumulate(known)].tobytes())


def _packed(plain: bytes) -> bytes:
    return bytes(imagecodecs.zstd_encode(plain, level=_ZSTD_LEVEL))


def _record(rectangle: Rectangle, samples: Samples) -> bytes:
    by_codec = {
        CropCodec.ZSTD: _packed(samples.tobytes()),
        CropCodec.JPEG_XL: bytes(
            imagecodecs.jpegxl_encode(samples, lossless=True, effort=_JPEG_XL_EFFORT, numthreads=1)
        ),
    }
    codec = min(by_codec, key=lambda each: (len(by_codec[each]), each))
    x, y, width, height = rectangle.x, rectangle.y, rectangle.width, rectangle.height
    share = round(rectangle.share * _FULL_SHARE)
    return _RECORD.pack(x, y, width, height, share, codec, len(by_codec[codec])) + by_codec[codec]


class _Record(NamedTuple):
    rectangle: Rectangle
    codec: CropCodec
    packed: bytes


def _read(data: bytes, max_bytes: int) -> tuple[Crops, int] | None:
    """The complete rectangles, and the end of the last of them; None where the header is incomplete."""
    if not MAGIC.startswith(data[: len(MAGIC)]):
        raise BadCrops("not a crops file")
    if len(data) < _HEAD.size:
        return None
    magic, version, height, width, bits, signed, photometric, *numbers = _HEAD.unpack_from(data)
    *scales, window, least, span, tone_size, total = numbers
    if (magic, version) != (MAGIC, VERSION) or not 1 <= total <= MAX_RECTANGLES:
        raise BadCrops("crops of another version, or without rectangles")
    if not 0 < height * width <= MAX_PIXELS:
        raise BadCrops("the image of the crops has no pixels, or more than the limit")
    if not 1 <= bits <= 16 or signed > 1 or photometric > max(Photometric) or not 1 <= span <= MAX_VALUES:
        raise BadCrops("the display facts of the crops are not valid")
    meaning = Meaning(
        bits,
        bool(signed),
        Photometric(photometric),
        _pair(scales[:2]),
        _pair(scales[2:]),
        Window.from_bytes(window, BadCrops),
    )
    if meaning.spacing_mm is not None and min(meaning.spacing_mm) <= 0:
        raise BadCrops("the spacing of the crops is not positive")
    start = _HEAD.size + tone_size
    if len(data) < start:
        return None
    tone = np.frombuffer(_unpacked(data[_HEAD.size : start], span), np.uint8)
    records, end = _records(data, start, total, (height, width), max_bytes)
    samples = tuple(_samples(record, span) for record in records)
    rectangles = tuple(record.rectangle for record in records)
    return Crops(height, width, meaning, least, tone, rectangles, samples, total), end


def _pair(values: Sequence[float]) -> tuple[float, float] | None:
    """Two numbers; None for two zeros."""
    if not all(map(math.isfinite, values)):
        raise BadCrops("a scale of the crops is not a number")
    return (values[0], values[1]) if any(values) else None


def _records(data: bytes, at: int, total: int, shape: tuple[int, int], max_bytes: int) -> tuple[list[_Record], int]:
    """The complete records, checked before any is unpacked, and the end of the last of them."""
    found: list[_Record] = []
    taken = np.zeros(shape, np.bool_)
    area = 0
    for record, end in _walk(data, at, total):
        rectangle = record.rectangle
        if not rectangle.area or rectangle.y + rectangle.height > shape[0] or rectangle.x + rectangle.width > shape[1]:
            raise BadCrops("a rectangle is empty or outside the image")
        if taken[rectangle.place].any() or (found and _order(found[-1].rectangle) >= _order(rectangle)):
            raise BadCrops("rectangles overlap or are out of order")
        taken[rectangle.place] = True
        area += rectangle.area
        if 2 * area > max_bytes:
            raise BadCrops(f"the crops unpack to more than the limit of {max_bytes} bytes")
        found.append(record)
        at = end
    return found, at


def _walk(data: bytes, at: int, total: int) -> Iterator[tuple[_Record, int]]:
    for _ in range(total):
        if at + _RECORD.size > len(data):
            return
        x, y, width, height, share, codec, size = _RECORD.unpack_from(data, at)
        if codec > max(CropCodec) or not size:
            raise BadCrops("a rectangle has an unknown codec")
        start, at = at + _RECORD.size, at + _RECORD.size + size
        if at > len(data):
            return
        yield _Record(Rectangle(x, y, width, height, share / _FULL_SHARE), CropCodec(codec), data[start:at]), at


def _samples(record: _Record, span: int) -> Samples:
    shape, kind = (record.rectangle.height, record.rectangle.width), _kind(span)
    if record.codec is CropCodec.ZSTD:
        plain = _unpacked(record.packed, record.rectangle.area * kind.itemsize)
        samples: Samples = np.frombuffer(plain, kind).reshape(shape)
    else:
        samples = np.empty(shape, kind)  # libjxl checks the size first
        try:
            imagecodecs.jpegxl_decode(record.packed, index=0, numthreads=1, out=samples)
        except CODEC_ERRORS as error:
            raise BadCrops("a rectangle does not unpack to its size") from error
    if int(samples.max()) >= span:
        raise BadCrops("a rectangle has values beyond the tone table")
    return samples


def _unpacked(packed: bytes, size: int) -> bytes:
    """`size` plain bytes, whatever size a frame states. Raises BadCrops."""
    try:
        plain = bytes(imagecodecs.zstd_decode(packed, out=size))
    except CODEC_ERRORS as error:
        raise BadCrops("a part of the crops does not unpack") from error
    if len(plain) != size:
        raise BadCrops("a part of the crops does not unpack to its size")
    return plain
