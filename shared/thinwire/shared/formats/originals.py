"""The originals tier: an archive of a study's files, lossless byte for byte.

Format: docs/originals-format.md. Packing does not parse DICOM: it guesses the position of the pixel data. A wrong
guess costs size only, since each member has its digest and is restored once while it is packed.
"""

import hashlib
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from thinwire.shared.errors import BadArchive
from thinwire.shared.formats.expansion import ALWAYS, most_plain
from thinwire.shared.formats.pixel_layout import MAX_PIXELS, ImagePlace, Layout, find_image, find_jpeg, jpeg_xl_size
from thinwire.shared.formats.positional import Fields
from thinwire.shared.formats.positional import pack as positional
from thinwire.shared.identifiers import DIGEST_BYTES

Effort = Literal["fast", "quick", "small"]

MAGIC = b"TWPX"
VERSION = 1
MAX_MEMBERS = 4096
MAX_PIECES = 4
MAX_SIZE = 1 << 40
MAX_INDEX = 1 << 20

HEADER = struct.Struct(">4sBL")

SMALL_IMAGE = 2 << 20
"""Bytes of samples up to which a higher effort makes the archive smaller."""
_GAIN, _SECONDS_A_BYTE, _SECONDS = 0.01, 0.25e-6, 0.1
"""The saving of "small" over "quick" as a share of the plain bytes; its extra time: seconds a byte, and seconds."""
_ZSTD_LEVEL: dict[Effort, int] = {"fast": 3, "quick": 3, "small": 9}
_ZSTD_SMALL_PART = 19
_THREADS = 2
"""Threads of libjxl; the bytes do not depend on it."""

MOST_BLANK = 4 * ALWAYS
"""Bytes that any archive may unpack to: a study of several blank images."""
_TOO_LARGE = "No study of radiographs is that large or that compressible. Send its images as several studies."

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\.[a-z0-9]{1,8}")
CODEC_ERRORS = (RuntimeError, ValueError, TypeError, MemoryError, OverflowError, struct.error)


class PieceCodec(IntEnum):
    """The codec of one piece of a member."""

    STORED = 0
    ZSTD = 1
    JPEG_XL = 2
    """Grey samples, losslessly."""
    JPEG_XL_OF_JPEG = 3
    """A JPEG stream, of which JPEG XL restores every byte (ISO/IEC 18181-2)."""


_SIGN_BIT = np.uint16(0x8000)  # flipped, so that neighbours around zero are neighbours in code


@dataclass(frozen=True)
class Member:
    """One file. name: neutral, such as "0000.dcm" or "text.txt"; never its own."""

    name: str
    data: bytes = field(repr=False)


class Piece(NamedTuple):
    """A run of a member's bytes and its codec."""

    codec: PieceCodec
    packed: bytes
    plain_size: int
    rows: int = 0
    columns: int = 0
    layout: Layout = Layout.BYTES


def pack(members: Sequence[Member], effort: Effort) -> bytes:
    """The members as one archive; the same members and effort give the same bytes with the same codec libraries.

    effort: "fast" (zstd alone, tens of milliseconds), "quick" (tenths of a second an image) or "small" (seconds).
    Raises ValueError: a name that is not neutral or comes twice.
    """
    names = [member.name for member in members]
    if len(set(names)) != len(names) or len(names) > MAX_MEMBERS or not all(map(_NAME.fullmatch, names)):
        raise ValueError("members need distinct neutral names, such as 0000.dcm")
    packed = [(member, _pieces(member.data, effort)) for member in members]
    if not _moderate((piece.plain_size, len(piece.packed)) for _, pieces in packed for piece in pieces):
        packed = [(each, [Piece(PieceCodec.STORED, each.data, len(each.data))]) for each in members]
    index = positional([_entry(member, pieces) for member, pieces in packed])
    bodies = (piece.packed for _, pieces in packed for piece in pieces)
    return b"".join((HEADER.pack(MAGIC, VERSION, len(index)), index, *bodies))


def effort_for(size: int, rate: float | None) -> Effort:
    """The effort with the shortest time until the study is at the hub. size: plain bytes; rate: bytes a second."""
    slow = rate is None or _GAIN * size / rate > _SECONDS + _SECONDS_A_BYTE * size
    return "small" if slow else "quick"


def jpeg_xl_efforts(effort: Effort, size: int) -> tuple[int, ...]:
    """The efforts of libjxl to try; the smallest stream is used. size: bytes of the image's samples.

    Effort 7 makes a small X-ray smaller than 5 does, by up to a thirtieth; a large one is not smaller after three
    times the seconds. `benchmarks.bench_pixels --efforts` shows seconds and bytes of each.
    """
    if effort == "small":
        return (3, 7) if size <= SMALL_IMAGE else (3, 5)
    return (3,) if effort == "quick" else ()


def unpack(archive: bytes, max_bytes: int) -> list[Member]:
    """The members of an archive.

    max_bytes: limit of all members together. Raises BadArchive: any departure from the format.
    """
    return list(each_member(archive, max_bytes))


def each_member(archive: bytes, max_bytes: int) -> Iterator[Member]:
    """As `unpack`, one member at a time. All sizes are checked before the first member is unpacked: each piece by
    `most_plain`, the sum by it, MOST_BLANK and `max_bytes`."""
    index, at = _index(archive)
    total = sum(size for _, size, _, _ in index)
    if total > max_bytes:
        raise BadArchive(f"the archive unpacks to more than the limit of {max_bytes} bytes", _TOO_LARGE)
    if not _moderate((piece.plain_size, packed) for *_, pieces in index for piece, packed in pieces):
        raise BadArchive("the archive unpacks to many times its size, over the limit", _TOO_LARGE)
    for name, _, sha, pieces in index:
        parts = []
        for piece, packed_size in pieces:
            parts.append(_restored(piece._replace(packed=archive[at : at + packed_size])))
            at += packed_size
        data = b"".join(parts)
        if hashlib.sha256(data).digest() != sha:
            raise BadArchive("a member does not unpack to its digest")
        yield Member(name, data)


def _moderate(sizes: Iterable[tuple[int, int]]) -> bool:
    """Whether no piece, and not their sum, expands too much. sizes: plain and packed bytes of each piece."""
    known = list(sizes)
    plain, packed = (sum(each) for each in zip((0, 0), *known, strict=True))
    return plain <= max(MOST_BLANK, most_plain(packed)) and all(one <= most_plain(other) for one, other in known)


def _entry(member: Member, pieces: Sequence[Piece]) -> list[object]:
    return [
        member.name,
        len(member.data),
        hashlib.sha256(member.data).digest(),
        [[p.codec, len(p.packed), p.plain_size, p.rows, p.columns, p.layout] for p in pieces],
    ]


def _index(archive: bytes) -> tuple[list[tuple[str, int, bytes, list[tuple[Piece, int]]]], int]:
    """Name, size, digest and pieces (with their packed sizes) of each member, and where the bodies begin."""
    if len(archive) < HEADER.size:
        raise BadArchive("the archive is shorter than its header")
    magic, version, length = HEADER.unpack_from(archive)
    if magic != MAGIC or version != VERSION:
        raise BadArchive("not an archive of this version")
    start = HEADER.size + length
    if length > MAX_INDEX or start > len(archive):
        raise BadArchive("the archive's index is cut short or too large")
    fields = Fields.of(archive[HEADER.size : start], 1, MAX_INDEX, BadArchive, "archive index", MAX_MEMBERS)
    found, entries, held = [], [], start
    for entry in fields.arrays("members", 0, MAX_MEMBERS, 4):
        name = entry.text("name", 64)
        size = entry.integer("size", 0, MAX_SIZE)
        sha = entry.data("digest", DIGEST_BYTES, DIGEST_BYTES)
        pieces = [_piece(each) for each in entry.arrays("pieces", 0, MAX_PIECES, 6)]
        if not _NAME.fullmatch(name) or sum(piece.plain_size for piece, _ in pieces) != size:
            raise BadArchive("a member's name or size is not valid")
        held += sum(packed for _, packed in pieces)
        found.append((name, size, sha, pieces))
        entries.append([name, size, sha, [[p.codec, n, p.plain_size, p.rows, p.columns, p.layout] for p, n in pieces]])
    if len({name for name, *_ in found}) != len(found) or held != len(archive):
        raise BadArchive("the archive's parts do not add up")
    if positional(entries) != archive[HEADER.size : start]:
        raise BadArchive("the archive's index is not in canonical form")
    return found, start


def _piece(entry: Fields) -> tuple[Piece, int]:
    codec = PieceCodec(entry.integer("codec", 0, max(PieceCodec)))
    packed = entry.integer("packed size", 0, MAX_SIZE)
    piece = Piece(
        codec,
        b"",
        entry.integer("plain size", 0, MAX_SIZE),
        entry.integer("rows", 0, 65535),
        entry.integer("columns", 0, 65535),
        Layout(entry.integer("layout", 0, max(Layout))),
    )
    image = ImagePlace(0, piece.rows, piece.columns, piece.layout)
    if codec is not PieceCodec.JPEG_XL:
        if image != ImagePlace(0, 0, 0, Layout.BYTES):
            raise BadArchive("a piece that is not an image has an image's size")
    elif image.size != piece.plain_size or not 0 < piece.rows * piece.columns <= MAX_PIXELS:
        raise BadArchive("an image's size is not valid")
    return piece, packed


def _pieces(data: bytes, effort: Effort) -> list[Piece]:
    """The pieces of one member, by the codec with the fewest bytes."""
    if not data:
        return []
    for middle in (_as_image(data, effort), _as_jpeg(data)) if effort != "fast" else ():
        if middle is None:
            continue
        start, pieces = middle
        parts = (data[:start], data[start + sum(piece.plain_size for piece in pieces) :])
        head, tail = ([_compressed(part, _ZSTD_SMALL_PART)] if part else [] for part in parts)
        split = [*head, *pieces, *tail]
        # Few images are smaller with zstd (drawn test images); its fast level shows which.
        if _size(split) < _size([_compressed(data, _ZSTD_LEVEL["fast"])]) and _holds(split, data):
            return split
    return [_compressed(data, _ZSTD_LEVEL[effort])]


def _holds(pieces: Sequence[Piece], data: bytes) -> bool:
    """Whether the pieces restore the member, tested once while its bytes are in memory."""
    try:
        return b"".join(_restored(each) for each in pieces) == data
    except BadArchive:
        return False


def _size(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.packed) for piece in pieces)


def _compressed(data: bytes, level: int) -> Piece:
    packed = bytes(imagecodecs.zstd_encode(data, level=level))
    return (
        Piece(PieceCodec.ZSTD, packed, len(data))
        if len(packed) < len(data)
        else Piece(PieceCodec.STORED, data, len(data))
    )


def _as_image(data: bytes, effort: Effort) -> tuple[int, list[Piece]] | None:
    """A file's grey samples as JPEG XL, and their offset; None if none are found."""
    image = find_image(data)
    if image is None:
        return None
    samples = np.frombuffer(data, image.layout.dtype, image.rows * image.columns, image.start)
    samples = samples.reshape(image.rows, image.columns).astype(np.uint8 if image.layout is Layout.BYTES else np.uint16)
    if image.layout.signed:
        samples ^= _SIGN_BIT
    efforts = jpeg_xl_efforts(effort, image.size)
    # Effort 7 models a small image in one thread; two halves take two threads, for a thousandth more bytes.
    halves = image.size <= SMALL_IMAGE and effort == "small" and image.rows > 1
    strips = [samples[: image.rows // 2], samples[image.rows // 2 :]] if halves else [samples]
    try:
        with ThreadPoolExecutor(len(strips)) as threads:
            packed = list(threads.map(lambda strip: _jpeg_xl(strip, efforts, _THREADS // len(strips)), strips))
    except CODEC_ERRORS:
        return None
    each_size = image.size // image.rows
    return image.start, [
        Piece(PieceCodec.JPEG_XL, each, len(strip) * each_size, len(strip), image.columns, image.layout)
        for each, strip in zip(packed, strips, strict=True)
    ]


def _jpeg_xl(samples: NDArray[np.integer], efforts: Sequence[int], threads: int) -> bytes:
    """The smallest stream of these efforts."""
    tried = (
        bytes(imagecodecs.jpegxl_encode(samples, lossless=True, effort=each, numthreads=threads)) for each in efforts
    )
    return min(tried, key=len)


def _as_jpeg(data: bytes) -> tuple[int, list[Piece]] | None:
    """A file's one JPEG stream as JPEG XL, and its offset; None if none is found."""
    place = find_jpeg(data)
    if place is None:
        return None
    start, length = place
    try:
        packed = bytes(imagecodecs.jpegxl_encode_jpeg(data[start : start + length]))
        rows, columns = jpeg_xl_size(packed)
    except CODEC_ERRORS:
        return None
    return (start, [Piece(PieceCodec.JPEG_XL_OF_JPEG, packed, length)]) if rows * columns <= MAX_PIXELS else None


def _restored(piece: Piece) -> bytes:
    """A piece's plain bytes. Raises BadArchive."""
    try:
        match piece.codec:
            case PieceCodec.STORED:
                plain = piece.packed
            case PieceCodec.ZSTD:
                # Into a buffer of the size in the index, whatever size the frame states.
                plain = bytes(imagecodecs.zstd_decode(piece.packed, out=piece.plain_size))
            case PieceCodec.JPEG_XL:
                kind = np.uint8 if piece.layout is Layout.BYTES else np.uint16
                samples = np.empty((piece.rows, piece.columns), kind)  # libjxl checks the size first
                imagecodecs.jpegxl_decode(piece.packed, index=0, out=samples, numthreads=_THREADS)
                if piece.layout.signed:
                    samples ^= _SIGN_BIT
                plain = samples.astype(piece.layout.dtype, copy=False).tobytes()
            case PieceCodec.JPEG_XL_OF_JPEG:
                rows, columns = jpeg_xl_size(piece.packed)
                if rows * columns > MAX_PIXELS:
                    raise BadArchive("a JPEG has more pixels than the limit")
                plain = bytes(
                    imagecodecs.jpegxl_decode_jpeg(piece.packed, numthreads=1, out=bytearray(piece.plain_size))
                )
    except CODEC_ERRORS as error:
        raise BadArchive(f"a piece does not unpack ({piece.codec.name.lower()})") from error
    if len(plain) != piece.plain_size:
        raise BadArchive("a piece does not unpack to its size")
    return plain
