"""Radiographs with marks planted wherever a file has place: each mark is another, and none may leave the clinic."""

import itertools
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from pydicom.datadict import DicomDictionary, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from tests.support.dicoms import (
    BIG,
    DEFLATED,
    EIGHT_BITS_ONLY,
    ENCODERS,
    EXPLICIT,
    HTJ2K,
    HTJ2K_LOSSY,
    HTJ2K_RPCL,
    IMPLICIT,
    JPEG_2000,
    JPEG_2000_LOSSY,
    JPEG_LOSSLESS_SV1,
    JPEG_XL,
    JPEG_XL_LOSSY,
    JPEG_XL_OF_JPEG,
    LOSSY,
    RLE,
    Array,
    as_file,
    chest,
    dataset,
    dicom,
)

MARK = re.compile(rb"ZQ\d{6}K|917355\d{5}")
"""A mark as text, and one of digits for what looks like a number, a date or a UID."""


class Mode(Enum):
    TEXT = "the mark alone, in any VR"
    AFTER = "after a valid value"
    SECOND = "as a second value"
    DIGITS = "digits alone"
    UNKNOWN = "the mark alone, the VR UN"


@dataclass(frozen=True)
class Planted:
    name: str
    data: bytes = field(repr=False)
    marks: int
    """Marks that are found in its bytes, or were put where a search of bytes does not find them."""
    samples: Array | None = field(default=None, repr=False)
    """The stored values of the image, where they are known to the last bit."""


class Marks:
    """Marks, counted."""

    def __init__(self) -> None:
        self.count = 0

    def text(self) -> bytes:
        self.count += 1
        return b"ZQ%06dK" % self.count

    def digits(self) -> bytes:
        self.count += 1
        return b"917355%05d" % self.count


_SIZES = {
    **dict.fromkeys(("US", "SS", "OW"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "AT", "OF", "OL"), 4),
    **dict.fromkeys(("FD", "SV", "UV", "OD", "OV"), 8),
}
_LONG = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_VALID = {
    **{"DA": b"20260304", "TM": b"101112", "DT": b"20260304101112", "AS": b"045Y", "DS": b"1.5", "IS": b"12"},
    **{"UI": b"1.2.3.4", "CS": b"YES", "PN": b"A^B", "AE": b"AET"},
}
VRS = (
    *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "OB", "OD", "OF", "OL", "OV", "OW"),
    *("PN", "SH", "SL", "SS", "ST", "SV", "TM", "UC", "UI", "UL", "UN", "UR", "US", "UT", "UV"),
)
_TRUE = frozenset(
    tag_for_keyword(keyword)
    for keyword in (
        *("SOPClassUID", "Modality", "SpecificCharacterSet", "SamplesPerPixel", "PhotometricInterpretation", "Rows"),
        *("Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    )
)
"""Without these the file is no radiograph."""


def vr_of(tag: int) -> str:
    """The dictionary's VR, the first of several."""
    return str(DicomDictionary[tag][0]).split(" or ")[0]


class Writer:
    """Elements in one transfer syntax, with any bytes as a value."""

    def __init__(self, syntax: str, marks: Marks) -> None:
        self.implicit, self.order = syntax == IMPLICIT, ">" if syntax == BIG else "<"
        self.marks = marks

    def element(self, tag: int, vr: str, value: bytes, undefined: bool = False) -> bytes:
        head = struct.pack(f"{self.order}HH", tag >> 16, tag & 0xFFFF)
        length = 0xFFFFFFFF if undefined else len(value)
        if self.implicit:
            return head + struct.pack(f"{self.order}L", length) + value
        if vr in _LONG:
            return head + vr.encode() + b"\0\0" + struct.pack(f"{self.order}L", length) + value
        return head + vr.encode() + struct.pack(f"{self.order}H", length) + value

    def value(self, vr: str, mode: Mode) -> bytes:
        mark = self.marks.digits() if mode is Mode.DIGITS else self.marks.text()
        valid = _VALID.get(vr, b"\1" * _SIZES.get(vr, 1))
        if mode is Mode.AFTER:
            mark = valid + (b" " if vr in _VALID else b"") + mark
        elif mode is Mode.SECOND:
            mark = valid + (b"\\" if vr in _VALID else b"") + mark
        size = max(2, _SIZES.get(vr, 2))
        return mark + b" " * (-len(mark) % size)

    def sequence(self, tag: int, mode: Mode, depth: int) -> bytes:
        """An item with an element of every VR, and a sequence in it, so many levels deep."""
        inside = b"".join(
            self.element(place, vr, self.value(vr, mode))
            for place, vr in sorted({tag: vr_of(tag) for tag in _OF_EACH_VR}.items())
        )
        if depth > 1:
            inside += self.sequence(0x00400275, mode, depth - 1)
        undefined = bool(depth % 2)
        item = struct.pack(f"{self.order}HHL", 0xFFFE, 0xE000, 0xFFFFFFFF if undefined else len(inside)) + inside
        if undefined:
            item += struct.pack(f"{self.order}HHL", 0xFFFE, 0xE00D, 0)
            item += struct.pack(f"{self.order}HHL", 0xFFFE, 0xE0DD, 0)
        return self.element(tag, "SQ", item, undefined)

    def block(self, group: int, mode: Mode) -> dict[int, bytes]:
        """A private creator and an element of each VR (PS3.5 7.8)."""
        found = {group << 16 | 0x10: self.element(group << 16 | 0x10, "LO", self.value("LO", mode))}
        for n, vr in enumerate(VRS):
            found[group << 16 | 0x1000 | n] = self.element(group << 16 | 0x1000 | n, vr, self.value(vr, mode))
        tag = group << 16 | 0x10FF
        return {**found, tag: self.sequence(tag, mode, 2)}


def _first_of_each_vr() -> tuple[int, ...]:
    found: dict[str, int] = {}
    for tag in sorted(DicomDictionary):
        if 0x0008_0000 < tag < 0x0040_0000 and tag not in _TRUE:
            found.setdefault(vr_of(tag), tag)
    return tuple(tag for vr, tag in found.items() if vr in VRS)


_OF_EACH_VR = _first_of_each_vr()


def of_dictionary(syntax: str, mode: Mode, depth: int = 3) -> Planted:
    """Every attribute of PS3.6 with a mark, private blocks, overlays and curves, preamble, meta information, and bytes
    after the pixels."""
    marks = Marks()
    write = Writer(EXPLICIT if syntax == DEFLATED else syntax, marks)
    samples = chest(80, 72)
    base = dataset(**_image(samples))
    elements = {int(each.tag): _encoded(each.tag, base, write) for each in base}
    for tag in DicomDictionary:
        if not 0x0008_0000 < tag < 0x7FE0_0000 or tag in _TRUE:
            continue
        vr = vr_of(tag)
        if vr == "SQ":
            elements[tag] = write.sequence(tag, mode, depth if tag in _KEPT_SEQUENCES else 1 + tag % 2)
        elif vr in VRS:
            stated = "UN" if mode is Mode.UNKNOWN and not write.implicit else vr
            elements[tag] = write.element(tag, stated, write.value(vr, mode))
    for group in (0x0009, 0x0019, 0x0029, 0x7FE1):
        elements |= write.block(group, mode)
    for group in (0x5000, 0x6000, 0x601E):  # curves and overlays (repeating groups)
        for element, vr in ((0x0022, "LO"), (0x1500, "LO"), (0x3000, "OW")):
            elements[group << 16 | element] = write.element(group << 16 | element, vr, write.value(vr, mode))
    pixels = samples.astype(f"{write.order}u2").tobytes() + marks.text() + marks.digits() + b" "
    elements[0x7FE00010] = write.element(0x7FE00010, "OW", pixels + b" " * (len(pixels) % 2))
    elements[0xFFFCFFFC] = write.element(0xFFFCFFFC, "OB", write.value("OB", mode))
    body = b"".join(value for _, value in sorted(elements.items())) + marks.text()
    if syntax == DEFLATED:
        squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = squeeze.compress(body) + squeeze.flush() + marks.text()
    meta = _meta(base, syntax, marks)
    preamble = (marks.text() * 15)[:128].ljust(128, b" ")
    name = f"{mode.name.lower()} in {syntax}"
    return Planted(name, preamble + b"DICM" + meta + body, marks.count, samples)


_KEPT_SEQUENCES = frozenset(
    tag_for_keyword(each)
    for each in ("AnatomicRegionSequence", "ViewCodeSequence", "VOILUTSequence", "ModalityLUTSequence")
)


def _image(samples: Array) -> dict[str, Any]:
    return {
        **{"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"},
        **{"Rows": samples.shape[0], "Columns": samples.shape[1], "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11},
        "PixelRepresentation": 0,
    }


def _encoded(tag: int, base: Dataset, write: Writer) -> bytes:
    alone, out = Dataset(), DicomBytesIO()
    alone.add(base[tag])
    out.is_implicit_VR, out.is_little_endian = write.implicit, write.order == "<"
    write_dataset(out, alone)
    return bytes(out.getvalue())


def _meta(base: Dataset, syntax: str, marks: Marks) -> bytes:
    """Group 0002, always explicit little endian."""
    write = Writer(EXPLICIT, marks)

    def text(value: str) -> bytes:
        return value.encode() + b"\0" * (len(value) % 2)

    parts = [
        write.element(0x00020001, "OB", b"\0\1"),
        write.element(0x00020002, "UI", text(str(base.SOPClassUID))),
        write.element(0x00020003, "UI", text(str(base.SOPInstanceUID))),
        write.element(0x00020010, "UI", text(syntax)),
        write.element(0x00020012, "UI", b"1.2." + marks.digits() + b" "),
        write.element(0x00020013, "SH", write.value("SH", Mode.TEXT)),
        *(write.element(tag, "AE", write.value("AE", Mode.TEXT)) for tag in (0x00020016, 0x00020017, 0x00020018)),
        write.element(0x00020100, "UI", b"1.2." + marks.digits() + b" "),
        write.element(0x00020102, "OB", write.value("OB", Mode.TEXT)),
    ]
    rest = b"".join(parts)
    return write.element(0x00020000, "UL", struct.pack("<L", len(rest))) + rest


def in_pixels() -> Iterator[Planted]:
    """Marks in the pixel data of every transfer syntax: unused bits, padding, segments, comments, fragments, tables."""
    yield from _unused_bits()
    for syntax, encode in ENCODERS.items():
        samples = chest(72, 64, bits=8 if syntax in EIGHT_BITS_ONLY else 12, seed=1)
        stream = bytes(encode(samples))
        whole = None if syntax in LOSSY else samples
        for place, plant in _places(syntax).items():
            marks = Marks()
            data = _encapsulated(samples, syntax, *plant(stream, marks))
            yield Planted(f"{place} of {syntax}", data, marks.count, whole)
    samples, marks = chest(72, 64), Marks()
    rle = _after_pixels(dicom(samples, RLE, BitsStored=12), marks)
    yield Planted("after the segments of RLE", rle, marks.count, samples)


def _unused_bits() -> Iterator[Planted]:
    samples = chest(88, 96)
    name = np.unpackbits(np.frombuffer(b"ZQ000001K" * 40, np.uint8))
    flat = np.zeros(samples.size, np.uint16)
    flat[: name.size] = name
    plane = flat.reshape(samples.shape)
    for bit in range(12, 16):
        overlay = {"OverlayRows": 88, "OverlayColumns": 96, "OverlayBitPosition": bit, "OverlayBitsAllocated": 16}
        for about in ({}, overlay):
            found = dataset(**{**_image(samples)})
            found.PixelData = (samples | (plane << bit)).astype("<u2").tobytes()
            found["PixelData"].VR = "OW"
            for keyword, value in about.items():
                found.add_new(0x60000000 | (tag_for_keyword(keyword) or 0) & 0xFFFF, "US", value)
            yield Planted(f"bit {bit}, {'an' if about else 'no'} overlay", as_file(found), 40, samples)
    for syntax in (EXPLICIT, BIG, RLE, "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"):
        yield Planted(f"bit 14 of {syntax}", dicom(samples | (plane << 14), syntax, BitsStored=12), 40, samples)
    low = (samples << 4) | (plane * 9)
    yield Planted("below left-justified bits", dicom(low, BitsStored=12, HighBit=15), 40, samples)
    wide = samples.astype(np.uint32)
    wide.ravel()[:90] |= np.frombuffer(b"ZQ" * 90, "<u2").astype(np.uint32) << 16
    yield Planted("the upper half of 32 bits", dicom(wide, BitsStored=12), 1, samples)
    signed = samples.astype(np.int16) - 2048
    dirty = ((signed.view(np.uint16) & 0x0FFF) | (plane << 13)).view(np.int16)
    yield Planted("above the sign", dicom(dirty, BitsStored=12), 40, signed)
    odd = dicom(chest(65, 67, bits=8))
    yield Planted("the byte that pads", odd[:-1] + b"Z", 1, chest(65, 67, bits=8))
    colour = np.repeat(chest(72, 64, bits=8)[:, :, None], 3, axis=2)
    colour[0, :9, 2] = np.frombuffer(b"ZQ000001K", np.uint8)
    yield Planted("the blue samples, by plane", _by_plane(colour), 1)


def _by_plane(colour: Array) -> bytes:
    planes = np.ascontiguousarray(colour.transpose(2, 0, 1))
    found = dataset(
        **{**_image(colour), "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "BitsAllocated": 8},
    )
    found.BitsStored, found.HighBit, found.PlanarConfiguration = 8, 7, 1
    found.PixelData = planes.tobytes()
    found["PixelData"].VR = "OB"
    return as_file(found)


Plant = Callable[[bytes, Marks], tuple[list[bytes], bytes]]
"""From a stream to the fragments and the Basic Offset Table that hold marks."""


def _places(syntax: str) -> dict[str, Plant]:
    def pad(data: bytes) -> bytes:
        return data + b"\0" * (len(data) % 2)

    found: dict[str, Plant] = {
        "after the end": lambda stream, marks: ([pad(stream + marks.text())], b""),
        "the offset table": lambda stream, marks: ([pad(stream)], b"\0\0\0\0" + pad(marks.text()) + b"\0\0"),
        "another fragment": lambda stream, marks: ([pad(stream), pad(marks.text())], b""),
    }
    if syntax in (JPEG_XL, JPEG_XL_LOSSY, JPEG_XL_OF_JPEG):
        found["a box"] = lambda stream, marks: ([pad(_boxed(stream, marks))], b"")
    elif syntax in (JPEG_2000, JPEG_2000_LOSSY, HTJ2K, HTJ2K_RPCL, HTJ2K_LOSSY):
        found["a comment"] = lambda stream, marks: ([pad(_commented(stream, marks))], b"")
    else:
        found["segments"] = lambda stream, marks: ([pad(_segmented(stream, marks))], b"")
    return found


def _segmented(stream: bytes, marks: Marks) -> bytes:
    added = b""
    for marker in (*range(0xE1, 0xF0), 0xFE):
        mark = marks.text()
        added += bytes((0xFF, marker)) + struct.pack(">H", 2 + len(mark)) + mark
    return stream[:2] + added + stream[2:]


def _commented(stream: bytes, marks: Marks) -> bytes:
    at = 4 + int.from_bytes(stream[4:6], "big")
    if stream[at : at + 2] == b"\xff\x50":  # CAP comes before all others
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    mark = marks.text()
    return stream[:at] + b"\xff\x64" + struct.pack(">HH", 4 + len(mark), 1) + mark + stream[at:]


def _boxed(stream: bytes, marks: Marks) -> bytes:
    mark = marks.text()
    xml = struct.pack(">L4s", 8 + len(mark), b"xml ") + mark
    if not stream.startswith(b"\xff\x0a"):
        return stream + xml
    signature = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
    return signature + struct.pack(">L4s", 8 + len(stream), b"jxlc") + stream + xml


def _encapsulated(samples: Array, syntax: str, fragments: list[bytes], table: bytes) -> bytes:
    found = dataset(**{**_image(samples), "BitsAllocated": samples.itemsize * 8})
    found.BitsStored = 8 if samples.itemsize == 1 else 12
    found.HighBit = found.BitsStored - 1
    items = [table, *fragments]
    found.PixelData = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<L", len(each)) + each for each in items)
    found["PixelData"].VR = "OB"
    found["PixelData"].is_undefined_length = True
    return as_file(found, syntax)


def _after_pixels(file: bytes, marks: Marks) -> bytes:
    """The last fragment longer by a mark and its padding."""
    end = file.rindex(b"\xfe\xff\xdd\xe0")
    start = file.rindex(b"\xfe\xff\x00\xe0", 0, end)
    stream = file[start + 8 : end] + marks.text() + b"\0"
    return file[: start + 4] + struct.pack("<L", len(stream)) + stream + file[end:]


def in_tables() -> Iterator[Planted]:
    """Text as the entries of a LUT."""
    for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
        marks, samples, item = Marks(), chest(72, 80), Dataset()
        words = b"".join(marks.text() + b" " for _ in range(400))[:4096]
        item.add_new("LUTDescriptor", "US", [len(words) // 2, 0, 16])
        item.add_new("LUTData", "OW", words)
        item.LUTExplanation = marks.text().decode()
        luts: dict[str, Any] = {keyword: [item]}
        data = dicom(samples, BitsStored=12, **luts)
        yield Planted(keyword, data, marks.count, samples)


def one_of_each_kind() -> Iterator[Planted]:
    """A file of the dictionary, a table, unused bits, a codestream."""
    yield of_dictionary(EXPLICIT, Mode.TEXT)
    yield next(in_tables())
    yield from itertools.islice(in_pixels(), 2)
    samples, marks = chest(72, 64), Marks()
    stream = _segmented(bytes(ENCODERS[JPEG_LOSSLESS_SV1](samples)), marks)
    data = _encapsulated(samples, JPEG_LOSSLESS_SV1, [stream + b"\0" * (len(stream) % 2)], b"")
    yield Planted("segments", data, marks.count, samples)


def sample_files(every: bool) -> Iterator[Planted]:
    """every: each combination, not a choice of them."""
    syntaxes = (EXPLICIT, IMPLICIT, BIG, DEFLATED)
    for syntax, mode in itertools.product(syntaxes, Mode):
        if every or syntax == EXPLICIT or mode is Mode.TEXT:
            for depth in (1, 2, 3, 5) if every else (3,):
                yield of_dictionary(syntax, mode, depth)
    yield from in_tables()
    yield from in_pixels()
