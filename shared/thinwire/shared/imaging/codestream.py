"""Pixel data to samples: one frame of a common transfer syntax, decoded by imagecodecs completely or not at all.

The header of a stream is compared with the file's header before a codec runs, since a codec allocates the stated size.
A walk over the stream's markers finds truncation, which libjpeg and OpenJPH fill with grey.
"""

import contextlib
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from thinwire.shared.errors import OverLimits, UnreadableDicom
from thinwire.shared.formats.expansion import most_plain
from thinwire.shared.imaging.file_format import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE

Samples = NDArray[np.integer]

CODEC_ERRORS = (RuntimeError, ValueError, TypeError, MemoryError, OverflowError, struct.error, IndexError)
"""The exceptions of imagecodecs for a broken stream; its own errors are RuntimeErrors."""

MAX_TILES = 16384
"""Limit of tiles: OpenJPEG allocates state for every tile that a stream states."""

MAX_SCANS = 32
"""Limit of scans: a progressive JPEG has about ten."""

_ITEM = struct.Struct("<HHL")
_SIZ = struct.Struct(">HHHHLLLLLLLLH")
_SOT = struct.Struct(">HHHL")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_JPEG_FRAMES = frozenset((0xC0, 0xC1, 0xC3))  # baseline, extended, lossless; progressive ones are retired in DICOM
PLAIN_JPEG_FRAMES = _JPEG_FRAMES | {0xC2}
_JPEG_LS_FRAME = 0xF7
_ANY_FRAME = frozenset((*range(0xC0, 0xD0), _JPEG_LS_FRAME)) - {0xC4, 0xC8, 0xCC}  # tables share the range
_RESTARTS = frozenset(range(0xD0, 0xD8))


@dataclass(frozen=True)
class FrameShape:
    """The frame by the file's header."""

    rows: int
    columns: int
    samples: int
    """1 grey, 3 colour."""
    bits_allocated: int
    """8, 16 or 32."""
    planar: bool
    """Colour by plane rather than by pixel (C.7.6.3.1.3)."""
    luma: bool
    """Colour as luma and chroma (YBR) in the stream."""
    subsampled: bool
    """YBR_FULL_422 uncompressed: two lumas, then their two chromas."""

    @property
    def bytes(self) -> int:
        per_pixel = 2 if self.subsampled else self.samples
        return self.rows * self.columns * per_pixel * (self.bits_allocated // 8)


class CodestreamInfo(NamedTuple):
    """The frame by the header of the compressed stream."""

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool
    end: int
    """Bytes up to the end of its last marker; padding may follow."""
    marker: int


class Decoded(NamedTuple):
    """samples: integers [H, W] or [H, W, 3]. bits: low bits of a sample that are in use; native pixel data, and a codec
    that was given whole words, may hold other bits beside the stored values."""

    samples: Samples
    bits: int


def decode(pixel_data: bytes, syntax: str, shape: FrameShape, swapped: bool = False) -> Decoded:
    """Samples of one frame.

    pixel_data: the value of Pixel Data (7FE0,0010). swapped: 8-bit samples are in big-endian words (PS3.5 8.1.1).
    Raises UnreadableDicom; OverLimits before anything of the image's size is made.
    """
    if syntax in _NATIVE:
        return Decoded(_native(pixel_data, shape, _NATIVE[syntax], swapped), shape.bits_allocated)
    if syntax not in _CODECS:
        raise UnreadableDicom(
            "its transfer syntax is not supported",
            "Export the study uncompressed (Explicit VR Little Endian).",
        )
    require_room(shape.bytes, len(pixel_data))
    decoded = _CODECS[syntax](b"".join(fragments(pixel_data)), shape)
    expected = (shape.rows, shape.columns) if shape.samples == 1 else (shape.rows, shape.columns, shape.samples)
    if decoded.samples.shape != expected:
        raise UnreadableDicom("its pixels decode to another size than its header says")
    return decoded


def require_room(plain: int, packed: int) -> None:
    """Refuse pixels that become more than `most_plain`, in bytes. Raises OverLimits."""
    if plain > most_plain(packed):
        raise OverLimits(f"{packed} bytes of compressed pixels claim to be {plain} bytes, over the limit")


def fragments(pixel_data: bytes) -> list[bytes]:
    """The fragments of encapsulated pixel data after the Basic Offset Table (PS3.5 A.4). Raises UnreadableDicom."""
    found = []
    at = 0
    while at + _ITEM.size <= len(pixel_data):
        group, element, length = _ITEM.unpack_from(pixel_data, at)
        at += _ITEM.size
        if (group, element) == (0xFFFE, 0xE0DD):
            break
        if (group, element) != (0xFFFE, 0xE000) or at + length > len(pixel_data):
            raise UnreadableDicom("its compressed pixels are cut short or not in items")
        found.append(pixel_data[at : at + length])
        at += length
    if found and not _allowed(found[0]):  # some devices leave out even the empty table
        found = found[1:]
    if not found:
        raise UnreadableDicom("it holds no compressed pixels")
    return found


def _native(pixel_data: bytes, shape: FrameShape, order: str, swapped: bool) -> Samples:
    if len(pixel_data) < shape.bytes:
        raise UnreadableDicom("its pixel data is cut short")
    flat = np.frombuffer(pixel_data, f"{order}u{shape.bits_allocated // 8}", shape.bytes // (shape.bits_allocated // 8))
    if swapped:
        even = np.frombuffer(pixel_data, np.uint8, len(pixel_data) & ~1)
        flat = even.reshape(-1, 2)[:, ::-1].ravel()[: shape.bytes]
        if len(flat) < shape.bytes:
            raise UnreadableDicom("its pixel data is cut short")
    if shape.subsampled:  # two lumas, then their two chromas, which a grey image does not use
        if len(flat) % 4:
            raise UnreadableDicom("its colours are those of pairs of pixels, and it has an odd number of pixels")
        return flat.reshape(-1, 4)[:, :2].reshape(shape.rows, shape.columns)
    return _arranged(flat, shape, shape.planar)


def _arranged(flat: Samples, shape: FrameShape, planar: bool) -> Samples:
    """[H, W] or [H, W, 3] from samples in file order."""
    if shape.samples == 1:
        return flat.reshape(shape.rows, shape.columns)
    if planar:
        return flat.reshape(shape.samples, shape.rows, shape.columns).transpose(1, 2, 0)
    return flat.reshape(shape.rows, shape.columns, shape.samples)


def _uncompressed(frame: bytes, shape: FrameShape) -> Decoded:
    """Encapsulated Uncompressed Explicit VR Little Endian (PS3.5 A.4.11)."""
    return Decoded(_native(frame, shape, "<", swapped=False), shape.bits_allocated)


def _rle(frame: bytes, shape: FrameShape) -> Decoded:
    """PS3.5 Annex G: planes of bytes, the most significant first."""
    out = bytearray(shape.bytes)
    with _broken("RLE"):
        done = len(imagecodecs.dicomrle_decode(frame, np.dtype(f"<u{shape.bits_allocated // 8}"), out=out))
    if done != len(out):
        raise UnreadableDicom("its RLE pixels are cut short")
    flat = np.frombuffer(out, f"<u{shape.bits_allocated // 8}")
    return Decoded(_arranged(flat, shape, planar=True), shape.bits_allocated)


def _jpeg(frame: bytes, shape: FrameShape) -> Decoded:
    stream = jpeg_stream(frame, _JPEG_FRAMES)
    _agree(stream, shape)
    if stream.marker == 0xC0 and stream.samples == 1:
        # libjpeg decodes a damaged scan in part; libjxl's transcoder reads every code and refuses the scan.
        with _broken("JPEG"):
            imagecodecs.jpegxl_encode_jpeg(frame[: stream.end])
    space = None if stream.samples == 1 else ("YCBCR" if shape.luma else "RGB")
    with _broken("JPEG"):
        samples = imagecodecs.jpeg8_decode(frame[: stream.end], colorspace=space, outcolorspace=space)
    return Decoded(np.asarray(samples), stream.precision)


def _jpeg_ls(frame: bytes, shape: FrameShape) -> Decoded:
    stream = jpeg_stream(frame, frozenset((_JPEG_LS_FRAME,)))
    _agree(stream, shape)
    with _broken("JPEG-LS"):
        return Decoded(np.asarray(imagecodecs.jpegls_decode(frame[: stream.end])), stream.precision)


def _jpeg_2000(frame: bytes, shape: FrameShape) -> Decoded:
    """JPEG 2000 and High-Throughput JPEG 2000, both by OpenJPEG in strict mode."""
    stream = _jpeg_2000_stream(frame)
    _agree(stream, shape)
    with _broken("JPEG 2000"):
        return Decoded(np.asarray(imagecodecs.jpeg2k_decode(frame)), stream.precision)


def _jpeg_xl(frame: bytes, shape: FrameShape) -> Decoded:
    """JPEG XL; libjxl compares the stream's size with the buffer before it decodes."""
    size = (shape.rows, shape.columns) if shape.samples == 1 else (shape.rows, shape.columns, shape.samples)
    room = np.empty(size, np.uint8 if shape.bits_allocated == 8 else np.uint16)
    with _broken("JPEG XL"):
        return Decoded(np.asarray(imagecodecs.jpegxl_decode(frame, out=room)), room.itemsize * 8)


def jpeg_stream(frame: bytes, allowed: frozenset[int]) -> CodestreamInfo:
    """Walk the markers of a JPEG or JPEG-LS stream (ITU-T T.81 B.1, T.87 C.1) to its end.

    allowed: start-of-frame markers. Raises UnreadableDicom for a broken, truncated or other stream; OverLimits for more
    than MAX_SCANS scans, each of which a progressive decoder applies to the whole image.
    """
    broken = UnreadableDicom("its JPEG stream is broken or cut short")
    # In scan data FF is followed by 00 (JPEG) or by a bit 0 (JPEG-LS); anything else is a marker.
    marker_in_scan = re.compile(
        rb"\xff[\x80-\xcf\xd8-\xfe]" if _JPEG_LS_FRAME in allowed else rb"\xff[\x01-\xcf\xd8-\xfe]"
    )
    if frame[:2] != b"\xff\xd8":
        raise broken
    at, found, scans = 2, None, 0
    while True:
        if frame[at : at + 1] != b"\xff" or at + 2 > len(frame):
            raise broken
        marker = frame[at + 1]
        at += 1 if marker == 0xFF else 2  # FF before a marker is fill
        if marker == 0xFF:
            continue
        if marker == _EOI:
            if found is None:
                raise broken
            return found._replace(end=at)
        if at + 2 > len(frame) or marker in _RESTARTS or marker == _SOI or marker < 0xC0:
            raise broken
        (length,) = struct.unpack_from(">H", frame, at)
        if marker in allowed and found is None and length >= 8 and at + length <= len(frame):
            precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, at + 2)
            found = CodestreamInfo(rows, columns, samples, precision, False, 0, marker)
        elif marker in _ANY_FRAME:
            raise UnreadableDicom("its JPEG stream is of a kind that its transfer syntax does not allow")
        at += length
        if marker == _SOS:
            scans += 1
            if scans > MAX_SCANS:
                raise OverLimits(f"its JPEG stream has more than {MAX_SCANS} scans")
            after = marker_in_scan.search(frame, at)
            if after is None or found is None:
                raise broken
            at = after.start()


def _jpeg_2000_stream(frame: bytes) -> CodestreamInfo:
    """The image size of a JPEG 2000 codestream (ITU-T T.800 A.5.1), bare or in a JP2 file, and its end."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    with _broken("JPEG 2000"):
        x1, y1, x0, y0, tile_x, tile_y, _, _, samples = _SIZ.unpack_from(frame, max(start, 0))[4:]
        depths = {frame[start + _SIZ.size + 3 * n : start + _SIZ.size + 3 * n + 3] for n in range(samples)}
        (depth, *steps) = depths.pop() if depths else b""  # a stream may claim no samples
        tiles = -(-x1 // tile_x) * -(-y1 // tile_y) if tile_x and tile_y else MAX_TILES + 1
        if start < 0 or depths or steps != [1, 1] or tiles > MAX_TILES:
            raise ValueError
        at, seen = start + 2, set()
        while frame[at : at + 2] != b"\xff\xd9":  # the main header's segments, then from tile-part to tile-part
            marker, length, tile, part = _SOT.unpack_from(frame, at)
            if marker == 0xFF90:  # a part of length 0 reaches to the end of the codestream
                length = part - 2 if part else len(frame.rstrip(b"\0")) - 4 - at
                seen.add(tile)
            if marker >> 8 != 0xFF or length < 2:
                raise ValueError
            at += length + 2
        if seen != set(range(tiles)):  # OpenJPEG leaves a missing tile black
            raise ValueError
    return CodestreamInfo(y1 - y0, x1 - x0, samples, (depth & 0x7F) + 1, bool(depth & 0x80), at + 2, 0)


def _agree(stream: CodestreamInfo, shape: FrameShape) -> None:
    """Raises UnreadableDicom for a stream whose header contradicts the file's header."""
    if (stream.rows, stream.columns, stream.samples) != (shape.rows, shape.columns, shape.samples):
        raise UnreadableDicom("its compressed pixels have another size than its header says")
    if not 2 <= stream.precision <= 16:
        raise UnreadableDicom(f"its compressed pixels have {stream.precision} bits")


@contextlib.contextmanager
def _broken(codec: str) -> Iterator[None]:
    """Turn a codec's error into an UnreadableDicom that names the codec."""
    try:
        yield
    except CODEC_ERRORS as error:
        raise UnreadableDicom(f"its {codec} stream is broken") from error


def stream_syntax(pixel_data: bytes, stated: str) -> str:
    """The transfer syntax of encapsulated pixel data by its codestream: `stated` if it allows the stream, else one
    that does; `stated` for an unknown kind of stream."""
    try:
        first = next((each for each in fragments(pixel_data) if each), b"")
    except UnreadableDicom:
        return stated
    allowed = _allowed(first)
    return stated if stated in allowed or not allowed else allowed[0]


def _allowed(stream: bytes) -> tuple[str, ...]:
    """Transfer syntaxes of streams with this beginning, the most likely first."""
    if stream.startswith(b"\xff\xd8\xff"):
        return _JPEG_FAMILY.get(_first_frame(stream), ())
    if stream.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP")):
        at = max(0, stream.find(b"\xff\x4f\xff\x51", 0, 4096))
        length = int.from_bytes(stream[at + 4 : at + 6], "big")
        high_throughput = stream[at + 4 + length : at + 6 + length] == b"\xff\x50"  # CAP (ITU-T T.814)
        return _HTJ2K if high_throughput else _JPEG_2000
    if stream.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return _JPEG_XL
    segments, first = struct.unpack_from("<LL", stream) if len(stream) >= 64 else (0, 0)
    return (RLE,) if 1 <= segments <= 15 and first == 64 else ()


def _first_frame(stream: bytes) -> int:
    """The start-of-frame marker of a JPEG or JPEG-LS stream; 0 for none."""
    at = 2
    while stream[at : at + 1] == b"\xff" and at + 4 <= len(stream):
        if stream[at + 1] in _ANY_FRAME:
            return stream[at + 1]
        at += 1 if stream[at + 1] == 0xFF else 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return 0


def _numbered(*numbers: int) -> tuple[str, ...]:
    return tuple(f"1.2.840.10008.1.2.4.{n}" for n in numbers)


RLE = "1.2.840.10008.1.2.5"
_JPEG_2000, _HTJ2K, _JPEG_XL = _numbered(90, 91), _numbered(201, 202, 203), _numbered(110, 111, 112)
_JPEG_FAMILY = {
    0xC0: _numbered(50, 51),  # a decoder of the extended process reads baseline
    0xC1: _numbered(51),
    0xC3: _numbered(57, 70),
    _JPEG_LS_FRAME: _numbered(80, 81),
}
_NATIVE = {IMPLICIT_LITTLE: "<", EXPLICIT_LITTLE: "<", DEFLATED: "<", EXPLICIT_BIG: ">"}
_CODECS: dict[str, Callable[[bytes, FrameShape], Decoded]] = {
    RLE: _rle,
    "1.2.840.10008.1.2.1.98": _uncompressed,
    **dict.fromkeys(_numbered(50, 51, 57, 70), _jpeg),
    **dict.fromkeys(_numbered(80, 81), _jpeg_ls),
    **dict.fromkeys(_JPEG_2000 + _HTJ2K, _jpeg_2000),
    **dict.fromkeys(_JPEG_XL, _jpeg_xl),
}
SYNTAXES = (*_NATIVE, *_CODECS)
"""Supported transfer syntaxes."""
COMPRESSED = tuple(_CODECS)
LOSSY = frozenset(_numbered(50, 51, 81, 91, 203, 112))
