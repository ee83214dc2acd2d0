"""The originals archive of version 1, byte for byte. If a test here fails, the format needs a new version.

Codecs may find shorter streams in a later release, so the golden archive is read, and only what holds no codec's own
choice is also written.
"""

import hashlib
from pathlib import Path

import imagecodecs
import numpy as np

from tests.support.dicoms import BIG, IMPLICIT, dicom
from thinwire.shared.formats.originals import Member, PieceCodec, pack, unpack

GOLDEN = Path(__file__).parent / "golden" / "originals-1.hex"


def ramp(kind: str) -> np.ndarray:
    """Values that no generator of random numbers may change: 32 x 34."""
    y, x = np.mgrid[0:32, 0:34]
    values: np.ndarray = ((x * y * 7 + x * 31) % 1021).astype(kind)
    return values


def members() -> list[Member]:
    """One member for each codec and layout."""
    eight = (ramp("u2") // 4).astype("u1")
    return [
        Member("0000.dcm", _file(eight, IMPLICIT)),
        Member("0001.dcm", _file(ramp("u2"), BIG)),
        Member("0002.dcm", _file(ramp("i2") - 500, IMPLICIT)),
        Member("0003.dcm", _file(ramp("i2") - 500, BIG)),
        Member("0004.dcm", _file(ramp("u2"), IMPLICIT)),
        Member("0005.jpg", _jpeg()),
        Member("empty.txt", b""),
        Member("short.bin", bytes(range(8))),
        Member("text.txt", b"before the pixels, " * 5 + b"after"),
    ]


def _file(samples: np.ndarray, syntax: str) -> bytes:
    """A DICOM without what the library that writes it says of itself."""
    data = dicom(samples, syntax)
    return data[:128] + data[144 + int.from_bytes(data[140:144], "little") :]


def _jpeg() -> bytes:
    """A JPEG as it was encoded once; another release may encode it otherwise."""
    return bytes.fromhex((GOLDEN.parent / "originals-jpeg-1.hex").read_text())


def test_the_stored_form_as_the_document_spells_it() -> None:
    data = bytes(range(8))
    spelled = b"".join(
        (
            b"TWPX",  # magic
            b"\x01",  # version
            b"\x00\x00\x00\x37",  # bytes of the index
            b"\x91",  # fields: the members
            b"\x91",  # one of them
            b"\x94",  # its name, size, digest and pieces
            b"\xa8text.txt",
            b"\x08",
            b"\xc4\x20" + hashlib.sha256(data).digest(),
            b"\x91",  # one piece
            b"\x96\x00\x08\x08\x00\x00\x00",  # stored, 8 bytes packed, 8 plain, no image
            data,
        )
    )
    assert pack([Member("text.txt", data)], "fast") == spelled
    assert pack([Member("text.txt", data)], "small") == spelled
    assert unpack(spelled, 8) == [Member("text.txt", data)]


def test_the_golden_archive_is_read() -> None:
    packed = bytes.fromhex(GOLDEN.read_text())
    assert unpack(packed, 1 << 20) == members()


def test_the_golden_archive_has_every_codec() -> None:
    """Its pieces' first two numbers, a small codec and a packed size, follow the array's own byte."""
    packed = bytes.fromhex(GOLDEN.read_text())
    index = packed[9 : 9 + int.from_bytes(packed[5:9], "big")]
    assert all(bytes((0x96, codec)) in index for codec in PieceCodec)


def test_codecs_have_their_numbers() -> None:
    assert [(codec.name, codec.value) for codec in PieceCodec] == [
        ("STORED", 0),
        ("ZSTD", 1),
        ("JPEG_XL", 2),
        ("JPEG_XL_OF_JPEG", 3),
    ]
    assert imagecodecs.JPEGXL.available
