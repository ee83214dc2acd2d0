import hashlib
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from tests.support.dicoms import BIG, EXPLICIT, IMPLICIT, JPEG, JPEG_2000, JPEG_LS, RLE, chest, dicom
from tests.support.real_data import REAL_DATA, needs
from thinwire.shared.errors import BadArchive
from thinwire.shared.formats.originals import (
    HEADER,
    MAGIC,
    VERSION,
    Effort,
    Member,
    PieceCodec,
    effort_for,
    pack,
    unpack,
)
from thinwire.shared.formats.pixel_layout import Layout, jpeg_xl_size
from thinwire.shared.formats.positional import pack as positional

PLENTY = 1 << 30


def archive(entries: list[object], *bodies: bytes, magic: bytes = MAGIC, version: int = VERSION) -> bytes:
    index = positional(entries)
    return b"".join((HEADER.pack(magic, version, len(index)), index, *bodies))


def entry(pieces: list[list[int]], data: bytes, name: str = "0000.dcm", size: int | None = None) -> list[object]:
    return [name, len(data) if size is None else size, hashlib.sha256(data).digest(), pieces]


def codecs_of(packed: bytes) -> list[PieceCodec]:
    """The codecs of an archive's one member."""
    import msgpack

    (_, _, length) = HEADER.unpack_from(packed)
    index = msgpack.unpackb(packed[HEADER.size : HEADER.size + length])
    return [PieceCodec(piece[0]) for piece in index[0][0][3]]


@pytest.mark.parametrize("effort", ["fast", "quick", "small"])
def test_members_come_back_in_their_order(effort: Effort) -> None:
    members = [
        Member("0000.dcm", dicom(BitsStored=12)),
        Member("0001.dcm", b""),
        Member("0002.png", bytes(imagecodecs.png_encode(chest(bits=8)))),
        Member("text.txt", "Épanchement".encode()),
    ]
    assert unpack(pack(members, effort), PLENTY) == members


@pytest.mark.parametrize(
    ("size", "rate", "effort"),
    [
        (1 << 20, None, "small"),
        (1 << 20, 8_000, "small"),
        (1 << 20, 64_000, "quick"),
        (10 << 20, 32_000, "small"),
        (10 << 20, 64_000, "quick"),
        (10 << 20, 1_250_000, "quick"),
        (0, 1.0, "quick"),
    ],
)
def test_a_fast_link_does_not_wait_for_few_bytes(size: int, rate: float | None, effort: str) -> None:
    assert effort_for(size, rate) == effort


def test_the_same_members_give_the_same_bytes() -> None:
    members = [Member("0000.dcm", dicom()), Member("text.txt", b"cough")]
    assert pack(members, "small") == pack(members, "small")


def test_an_archive_of_nothing_is_an_archive() -> None:
    assert unpack(pack([], "small"), 0) == []


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_uncompressed_pixels_go_through_jpeg_xl(syntax: str, bits: int, signed: bool) -> None:
    samples = chest(97, 113, bits)
    if signed:
        samples = (samples.astype(np.int32) - 2 ** (bits - 1)).astype(np.int8 if bits == 8 else np.int16)
    data = dicom(samples, syntax, BitsStored=bits)
    small = pack([Member("0000.dcm", data)], "small")
    assert PieceCodec.JPEG_XL in codecs_of(small)
    assert len(small) < len(pack([Member("0000.dcm", data)], "fast"))
    assert unpack(small, len(data))[0].data == data


@pytest.mark.parametrize(
    ("rows", "effort", "images"), [(97, "small", 2), (1, "small", 1), (97, "quick", 1), (1050, "small", 1)]
)
def test_a_small_image_goes_as_two_where_that_is_quicker(rows: int, effort: Effort, images: int) -> None:
    data = dicom(chest(rows, 1000, 12), BitsStored=12)
    packed = pack([Member("0000.dcm", data)], effort)
    assert codecs_of(packed).count(PieceCodec.JPEG_XL) == images
    assert unpack(packed, len(data))[0].data == data


def test_a_jpeg_goes_through_jpeg_xl_exactly() -> None:
    jpeg = bytes(imagecodecs.jpeg8_encode(chest(512, 512, 8), level=95))
    for data in (dicom(chest(512, 512, 8), JPEG), jpeg, jpeg + b"tail"):
        small = pack([Member("0000.dcm", data)], "small")
        assert PieceCodec.JPEG_XL_OF_JPEG in codecs_of(small)
        assert len(small) < len(data)
        assert unpack(small, len(data))[0].data == data


@pytest.mark.parametrize("syntax", [JPEG_2000, JPEG_LS, RLE])
def test_other_streams_stay_as_they_are(syntax: str) -> None:
    data = dicom(syntax=syntax)
    small = pack([Member("0000.dcm", data)], "small")
    assert set(codecs_of(small)) <= {PieceCodec.STORED, PieceCodec.ZSTD}
    assert unpack(small, len(data))[0].data == data


def test_a_header_that_lies_about_its_pixels_costs_size_alone() -> None:
    data = dicom(chest(), Rows=80)
    assert unpack(pack([Member("0000.dcm", data)], "small"), len(data))[0].data == data


@pytest.mark.parametrize(
    "names", [["a.dcm", "a.dcm"], ["DOE_JANE.dcm"], ["../a.dcm"], ["a/b.dcm"], [""], ["x" * 40 + ".dcm"], ["text"]]
)
def test_names_are_neutral_and_distinct(names: list[str]) -> None:
    with pytest.raises(ValueError, match="neutral"):
        pack([Member(name, b"") for name in names], "fast")


def test_the_limit_is_checked_before_anything_unpacks() -> None:
    packed = pack([Member("0000.dcm", bytes(1000)), Member("text.txt", b"x")], "fast")
    assert unpack(packed, 1001)[1].data == b"x"
    with pytest.raises(BadArchive, match="limit"):
        unpack(packed, 1000)


DATA = b"some bytes of a file"
STORED = [PieceCodec.STORED, len(DATA), len(DATA), 0, 0, 0]


def test_the_form_that_the_document_gives_is_read() -> None:
    assert unpack(archive([entry([STORED], DATA)], DATA), PLENTY) == [Member("0000.dcm", DATA)]


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        MAGIC,
        archive([entry([STORED], DATA)], DATA, magic=b"TWPY"),
        archive([entry([STORED], DATA)], DATA, version=2),
        archive([entry([STORED], DATA)], DATA)[:-1],
        archive([entry([STORED], DATA)], DATA + b"x"),
        archive([entry([STORED], DATA)], b"x" * len(DATA)),
        archive([entry([STORED], DATA, size=5)], DATA),
        archive([entry([STORED], DATA, name="../etc.dcm")], DATA),
        archive([entry([STORED], DATA), entry([STORED], DATA)], DATA, DATA),
        archive([entry([[*STORED[:2], 5, 0, 0, 0]], DATA)], DATA),
        archive([entry([[9, *STORED[1:]]], DATA)], DATA),
        archive([entry([[*STORED[:3], 1, 1, 0]], DATA)], DATA),
        archive([entry([STORED] * 5, DATA * 5)], DATA * 5),
        archive([["0000.dcm", 0, b"short", []]]),
        archive([entry([[PieceCodec.ZSTD, *STORED[1:]]], DATA)], DATA),
        archive([entry([[PieceCodec.JPEG_XL, 20, 20, 4, 5, 0]], DATA)], DATA),
        archive([entry([[PieceCodec.JPEG_XL, 20, 20, 5, 5, 0]], DATA)], DATA),
        archive([entry([[PieceCodec.JPEG_XL_OF_JPEG, *STORED[1:]]], DATA)], DATA),
        HEADER.pack(MAGIC, VERSION, 0xFFFFFFFF) + b"x" * 100,
        HEADER.pack(MAGIC, VERSION, 5) + b"\xdd\xff\xff\xff\xff",
    ],
)
def test_what_does_not_hold_is_refused(broken: bytes) -> None:
    with pytest.raises(BadArchive):
        unpack(broken, PLENTY)


def test_a_zstd_bomb_gives_no_more_than_it_names() -> None:
    bomb = bytes(imagecodecs.zstd_encode(bytes(200 << 20), level=3))
    assert len(bomb) < 20000
    with pytest.raises(BadArchive, match="does not unpack"):
        unpack(archive([entry([[PieceCodec.ZSTD, len(bomb), 100, 0, 0, 0]], bytes(100))], bomb), 100)


def test_a_jpeg_xl_bomb_is_refused_before_it_decodes() -> None:
    bomb = bytes(imagecodecs.jpegxl_encode(np.zeros((6000, 6000), np.uint8), lossless=True, effort=1))
    with pytest.raises(BadArchive, match="does not unpack"):
        unpack(archive([entry([[PieceCodec.JPEG_XL, len(bomb), 100, 10, 10, 0]], bytes(100))], bomb), 100)


def test_a_jpeg_of_too_many_pixels_is_refused_before_it_decodes() -> None:
    small = bytes(imagecodecs.jpegxl_encode_jpeg(imagecodecs.jpeg8_encode(chest(bits=8))))
    at = small.index(b"\xff\x0a") + 2
    # SizeHeader: not a multiple of 8, then two sides of 30 bits.
    claim = (3 << 1 | 40000 << 3 | 0 << 33 | 3 << 36 | 40000 << 38).to_bytes(9, "little")
    bomb = small[:at] + claim + small[at + 9 :]
    assert jpeg_xl_size(bomb) == (40001, 40001)
    with pytest.raises(BadArchive, match="more pixels"):
        unpack(archive([entry([[PieceCodec.JPEG_XL_OF_JPEG, len(bomb), 100, 0, 0, 0]], bytes(100))], bomb), 100)


@pytest.mark.parametrize("rows", [1, 8, 96, 97, 256, 257, 1000])
@pytest.mark.parametrize("columns", [8, 96, 113, 256, 512, 1333])
def test_the_size_in_a_jpeg_xl_stream_is_read(rows: int, columns: int) -> None:
    samples = np.zeros((rows, columns), np.uint8)
    for box in (False, True):
        assert jpeg_xl_size(bytes(imagecodecs.jpegxl_encode(samples, effort=1, usecontainer=box))) == (rows, columns)


def test_layouts_have_their_numbers() -> None:
    assert [layout.dtype for layout in Layout] == ["u1", "<u2", ">u2", "<u2", ">u2"]
    assert struct.calcsize(">4sBL") == HEADER.size == 9


def real_files() -> list[Path]:
    return sorted((REAL_DATA / "dicom").rglob("*.dcm"))


@pytest.mark.parametrize("path", real_files(), ids=lambda path: path.stem[:16])
def test_real_files_come_back(path: Path) -> None:
    data = path.read_bytes()
    packed = pack([Member("0000.dcm", data)], "small")
    assert len(packed) <= len(data) + 128
    assert unpack(packed, len(data))[0].data == data


for _mark in needs("dicom"):
    _mark(test_real_files_come_back)
