"""Small inputs that claim or become gigabytes, for every codec and container that the hub takes from a clinic.

`python -m tests.support.bombs FOLDER` reads each file of the folder once, in one process under a limit of memory, and
prints a JSON object: by file name, the outcome as text, the growth of the peak memory in bytes, and seconds.
"""

import contextlib
import json
import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from tests.support.dicoms import DEFLATED, JPEG, JPEG_2000, JPEG_LS, JPEG_XL, RLE, chest, dicom
from tests.support.tier_samples import sample_crops, sample_preview
from thinwire.receiver.decoding.copied_header import fields_of
from thinwire.receiver.decoding.dicom_object import dicom_object
from thinwire.receiver.decoding.study_files import examined
from thinwire.shared.errors import ThinwireError
from thinwire.shared.formats import crops, preview
from thinwire.shared.formats.originals import HEADER, MAGIC, VERSION, PieceCodec
from thinwire.shared.formats.pixel_layout import Layout
from thinwire.shared.formats.positional import pack as positional
from thinwire.shared.identifiers import digest, study_key
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS
from thinwire.shared.imaging.header import parse
from thinwire.shared.imaging.radiograph import open_radiograph

Piece = tuple[PieceCodec, bytes, int, int, int, Layout]
Entry = tuple[str, int, bytes, list[Piece]]

LARGEST_STUDY = 2 << 30
_ADDRESS_SPACE = 4 << 30
"""Bytes of the reading process: a bound that is missing ends in MemoryError, not in a machine without memory."""
_BLANK = (6000, 6000)
"""A 16-bit image of this size is more than any input may expand to."""
_PIXELS = b"\xe0\x7f\x10\x00"
_SEQUENCE_END, _ITEM_END = (struct.pack("<HHL", 0xFFFE, element, 0) for element in (0xE0DD, 0xE00D))


def _item(length: int = 0) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, length)


def _sequence(content: bytes, defined: bool) -> bytes:
    """Request Attributes Sequence (0040,0275), explicit VR."""
    head = struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, len(content) if defined else 0xFFFFFFFF)
    return head + content + (b"" if defined else _SEQUENCE_END)


def _nested(depth: int, defined: bool) -> bytes:
    found = b""
    for _ in range(depth):
        item = _item(len(found)) + found if defined else _item(0xFFFFFFFF) + found + _ITEM_END
        found = _sequence(item, defined)
    return found


def _elements(count: int) -> bytes:
    """Empty private elements, explicit VR, in ascending order."""
    return b"".join(struct.pack("<HH2sH", 0x0041 + 2 * (n >> 15), n & 0x7FFF, b"LO", 0) for n in range(count))


def _with(extra: bytes) -> bytes:
    """A chest radiograph with these elements before its pixels."""
    whole = dicom()
    at = whole.index(_PIXELS)
    return whole[:at] + extra + whole[at:]


def _deflated(extra: bytes, zeros: int = 0) -> bytes:
    """A deflated chest radiograph with these elements before its pixels, and pixels of that many zeros."""
    whole = dicom(syntax=DEFLATED)
    start = 144 + int.from_bytes(whole[140:144], "little")
    plain = zlib.decompress(whole[start:], -zlib.MAX_WBITS)
    at = plain.index(_PIXELS)
    head = plain[at : at + 8] + struct.pack("<L", zeros or len(plain) - at - 12)
    squeeze = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    body = squeeze.compress(plain[:at] + extra + head) + squeeze.flush(zlib.Z_FULL_FLUSH)
    if not zeros:
        return whole[:start] + body + squeeze.compress(plain[at + 12 :]) + squeeze.flush()
    # What follows a full flush refers to nothing before it and can be repeated.
    block = squeeze.compress(bytes(16 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return whole[:start] + body + block * (zeros // (16 << 20)) + squeeze.flush()


def deflated_zeros() -> bytes:
    """A deflated DICOM file that inflates to nearly 4 GiB."""
    return _deflated(b"", 0xFF << 24)


def _sized(data: bytes, rows: int, columns: int) -> bytes:
    """The file with other Rows and Columns."""
    for element, value in ((0x10, rows), (0x11, columns)):
        at = data.index(struct.pack("<HH", 0x28, element) + b"US") + 8
        data = data[:at] + struct.pack("<H", value) + data[at + 2 :]
    return data


def _lying(syntax: str, marker: bytes, at: int, form: str, both: bool) -> bytes:
    """A file whose stream, or stream and header, claim 65,535 x 65,535 pixels."""
    data = bytearray(dicom(chest(bits=8), syntax, BitsStored=8))
    struct.pack_into(form, data, data.index(marker, data.index(_PIXELS)) + at, 65535, 65535)
    return _sized(bytes(data), 65535, 65535) if both else bytes(data)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def _png(rows: int, columns: int, depth: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    """A PNG that claims this size and has the pixels of a small one. extra: chunks before them."""
    small = bytes(imagecodecs.png_encode(chest(bits=8)))
    head = _chunk(b"IHDR", struct.pack(">LLBBBBB", columns, rows, depth, colour, 0, 0, 0))
    return small[:8] + head + extra + small[small.index(b"IDAT") - 4 :]


def _text_chunks() -> bytes:
    """Text of 200 times 7.9 MB, each below libpng's limit of one, and a colour profile of 200 MB."""
    profile = _chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(200_000_000), 9))
    return profile + _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(7_900_000), 9)) * 200


def _picture(kind: str, side: int = 96, **options: object) -> bytes:
    out = BytesIO()
    Image.fromarray(chest(side, side, 8)).save(out, kind, **options)
    return out.getvalue()


def _scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = _picture("JPEG", 1000, progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def archive(*members: Entry) -> bytes:
    """An archive by its index, also one that `pack` would not write. A member: name, size, digest and pieces."""
    index = positional(
        [
            [name, size, sha, [[c, len(packed), *rest] for c, packed, *rest in pieces]]
            for name, size, sha, pieces in members
        ]
    )
    bodies = b"".join(piece[1] for *_, pieces in members for piece in pieces)
    return HEADER.pack(MAGIC, VERSION, len(index)) + index + bodies


def _member(number: int, codec: PieceCodec, packed: bytes, size: int, sha: bytes = bytes(32)) -> Entry:
    sides = (*_BLANK, Layout.LITTLE) if codec is PieceCodec.JPEG_XL else (0, 0, Layout.BYTES)
    return f"{number:04}.dcm", size, sha, [(codec, packed, size, *sides)]


def of_file(data: bytes) -> bytes:
    """The archive of one file, compressed once more."""
    return archive(_member(0, PieceCodec.ZSTD, _zstd(data, 19), len(data), digest(data)))


def _zstd(data: bytes, level: int = 3) -> bytes:
    return bytes(imagecodecs.zstd_encode(data, level=level))


@lru_cache
def _jpeg_xl() -> bytes:
    return bytes(imagecodecs.jpegxl_encode(np.zeros(_BLANK, np.uint16), lossless=True, effort=1))


def _rle() -> bytes:
    """An RLE stream of two bytes in a file of the size _BLANK."""
    small = dicom(syntax=RLE)
    start = small.index(_PIXELS) + 12
    stream = struct.pack("<16L", 2, 64, 66, *[0] * 13) + b"\x81\0\x81\0"
    return _sized(small[:start] + _item() + _item(len(stream)) + stream + _SEQUENCE_END, *_BLANK)


def _layer() -> bytes:
    """A preview whose layer has other pixels than its table says."""
    whole = bytearray(sample_preview())
    at = whole.index(b"\xff\x0a")
    return bytes(whole[:at]) + _jpeg_xl()[: len(whole) - at].ljust(len(whole) - at, b"\0")


def _tone() -> bytes:
    """Crops whose tone table unpacks to 256 MB."""
    whole, packed = sample_crops(), _zstd(bytes(256 << 20))
    at = whole.index(b"\x28\xb5\x2f\xfd")
    size = at - 6
    return whole[:size] + struct.pack(">L", len(packed)) + whole[size + 4 : at] + packed + whole[at:]


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "deflated zeros": (deflated_zeros, "OverLimits the file inflates to more than"),
    "deflated elements": (lambda: _deflated(_elements(300_000)), "OverLimits the file has more than 100000 elements"),
    "elements": (lambda: _with(_elements(300_000)), "OverLimits the file has more than 100000 elements"),
    "open items": (lambda: _with(_sequence(_item() * 300_000, False)), "OverLimits the file has more than 100000"),
    "closed items": (
        lambda: _with(_sequence(_item() * 400_000, True)),
        "OverLimits the file has 3200000 bytes and 400000",
    ),
    "a sequence": (
        lambda: _with(_sequence(_item(8 << 20) + bytes(8 << 20), True)),
        "OverLimits the file has 8388616 by",
    ),
    "open sequences in sequences": (lambda: _with(_nested(10_000, False)), "UnreadableDicom its bytes do not parse"),
    "closed sequences in sequences": (lambda: _with(_nested(10_000, True)), "read"),
    "65,535 x 65,535": (lambda: _sized(dicom(), 65535, 65535), "OverLimits it claims 65535 x 65535"),
    "JPEG stream": (lambda: _lying(JPEG, b"\xff\xc0", 5, ">HH", False), "UnreadableDicom its compressed pixels have"),
    "JPEG-LS stream": (
        lambda: _lying(JPEG_LS, b"\xff\xf7", 5, ">HH", False),
        "UnreadableDicom its compressed pixels ha",
    ),
    "JPEG 2000 stream": (
        lambda: _lying(JPEG_2000, b"\xff\x4f\xff\x51", 8, ">LL", False),
        "UnreadableDicom its JPEG 20",
    ),
    "JPEG": (lambda: _lying(JPEG, b"\xff\xc0", 5, ">HH", True), "OverLimits it claims 65535 x 65535"),
    "JPEG-LS": (lambda: _lying(JPEG_LS, b"\xff\xf7", 5, ">HH", True), "OverLimits it claims 65535 x 65535"),
    "JPEG 2000": (lambda: _lying(JPEG_2000, b"\xff\x4f\xff\x51", 8, ">LL", True), "OverLimits it claims 65535 x 65535"),
    "RLE blank": (_rle, "OverLimits 84 bytes of compressed pixels claim to be 72000000"),
    "JPEG-LS blank": (
        lambda: dicom(np.zeros(_BLANK, np.uint16), JPEG_LS),
        "bytes of compressed pixels claim to be 72000000",
    ),
    "JPEG 2000 blank": (
        lambda: dicom(np.zeros(_BLANK, np.uint16), JPEG_2000),
        "bytes of compressed pixels claim to be 72000000",
    ),
    "JPEG XL blank": (
        lambda: dicom(np.zeros(_BLANK, np.uint16), JPEG_XL),
        "bytes of compressed pixels claim to be 72000000",
    ),
    "a length": (
        lambda: _with(b"")[:-20000] + struct.pack("<HH2sHL", 0x0041, 0x1001, b"OB", 0, 0xFFFFFFF0),
        "UnreadableDicom the file is cut short",
    ),
    "frames": (lambda: dicom(NumberOfFrames="2147483647"), "NotChestRadiograph it holds 2147483647 frames"),
    "PNG": (lambda: _png(65535, 65535), "OverLimits it claims 65535 x 65535"),
    "PNG of words and colours": (lambda: _png(7900, 7900, 16, 6), "bytes of compressed pixels claim to be 499280000"),
    "PNG with text": (lambda: _png(96, 112, extra=_text_chunks()), "read"),
    "JPEG scans": (lambda: _scans(200), "OverLimits its JPEG stream has more than 32 scans"),
    "PostScript": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9000 9000\nshowpage\n",
        "UnreadableDicom not a",
    ),
    "PostScript as PNG": (
        lambda: b"\x89PNG\r\n\x1a\n%!PS-Adobe-3.0 EPSF-3.0\nshowpage\n" * 9,
        "UnreadableDicom the PNG is",
    ),
    "PostScript as JPEG": (
        lambda: b"\xff\xd8\xff%!PS-Adobe-3.0 EPSF-3.0\nshowpage\n" * 9,
        "UnreadableDicom its JPEG st",
    ),
    "TIFF": (lambda: _picture("TIFF"), "UnreadableDicom not a DICOM file"),
    "GIF": (lambda: _picture("GIF"), "UnreadableDicom not a DICOM file"),
    "Photoshop": (
        lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HLLHH", 4, 30000, 30000, 16, 3),
        "UnreadableDicom not a",
    ),
}
"""By name: the maker of a file, and words of its outcome."""

ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "deflated zeros": (lambda: of_file(deflated_zeros()), "BadArchive file 1 of the study: the file inflates to more"),
    "a member of zeros": (
        lambda: archive(_member(0, PieceCodec.ZSTD, _zstd(bytes(300 << 20)), 300 << 20)),
        "BadArchive the archive unpacks to many times its size",
    ),
    "members of zeros": (
        lambda: archive(*[_member(n, PieceCodec.ZSTD, _zstd(bytes(60 << 20)), 60 << 20) for n in range(6)]),
        "BadArchive the archive unpacks to many times its size",
    ),
    "a member over the limit": (
        lambda: archive(_member(0, PieceCodec.ZSTD, b"", LARGEST_STUDY + 1)),
        "BadArchive the archive unpacks to more than the limit",
    ),
    "an image": (
        lambda: archive(_member(0, PieceCodec.JPEG_XL, _jpeg_xl(), 72_000_000)),
        "BadArchive the archive unpacks to many times its size",
    ),
    "a JPEG": (
        lambda: archive(_member(0, PieceCodec.JPEG_XL_OF_JPEG, _jpeg_xl(), 1 << 30)),
        "BadArchive the archive unpacks to many times its size",
    ),
}
PREVIEWS: dict[str, tuple[Callable[[], bytes], str]] = {"a layer": (_layer, "BadPreview a layer of a preview does not")}
CROPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a tone table": (_tone, "BadCrops a part of the crops does not unp")
}


def _open_file(data: bytes) -> None:
    try:
        open_radiograph(data)
    finally:
        with contextlib.suppress(ThinwireError):
            fields_of(parse(data, DEFAULT_LIMITS))
        with contextlib.suppress(ThinwireError):
            dicom_object(data)


READERS: dict[str, Callable[[bytes], object]] = {
    "file": _open_file,
    "archive": lambda data: examined(data, study_key([digest(b"")]), LARGEST_STUDY),
    "preview": preview.decode,
    "crops": lambda data: crops.decode(data, LARGEST_STUDY),
}
BOMBS = {"file": FILES, "archive": ARCHIVES, "preview": PREVIEWS, "crops": CROPS}


class PeakMemory:
    """The memory that a process takes from now on, beside that which it has. process: its id, or "self"."""

    def __init__(self, process: int | str = "self") -> None:
        self._folder = Path("/proc") / str(process)
        (self._folder / "clear_refs").write_text("5")  # the peak begins again (proc(5))
        self._before = self._bytes("VmRSS")

    def growth(self) -> int:
        """Bytes."""
        return self._bytes("VmHWM") - self._before

    def _bytes(self, name: str) -> int:
        status = (self._folder / "status").read_text()
        return int(status.split(f"{name}:")[1].split()[0]) << 10


def read_all(folder: Path) -> dict[str, tuple[str, int, float]]:
    """By file name: outcome, bytes of peak memory, seconds. The first half of a name is its reader's."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    found = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        peak, started = PeakMemory(), time.process_time()
        try:
            READERS[path.name.partition(" ")[0]](data)
            outcome = "read"
        except ThinwireError as error:
            outcome = f"{type(error).__name__} {error}"
        found[path.name] = (outcome, peak.growth(), time.process_time() - started)
    return found


if __name__ == "__main__":
    json.dump(read_all(Path(sys.argv[1])), sys.stdout)
