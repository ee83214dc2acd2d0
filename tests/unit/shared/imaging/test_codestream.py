import struct

import numpy as np
import pytest

from tests.support.dicoms import ENCODERS, HTJ2K, JPEG, JPEG_2000, JPEG_LOSSLESS, JPEG_LS, RLE, chest
from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.imaging.codestream import PLAIN_JPEG_FRAMES, FrameShape, decode, fragments, jpeg_stream

SHAPE = FrameShape(96, 112, 1, 16, planar=False, luma=False, subsampled=False)


def items(*fragments_of_frame: bytes) -> bytes:
    """Encapsulated pixel data with an empty offset table."""
    return b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(each)) + each for each in (b"", *fragments_of_frame))


def stream(syntax: str, bits: int = 12) -> bytes:
    return bytes(ENCODERS[syntax](chest(bits=bits)))


def test_fragments_come_without_their_offset_table() -> None:
    assert fragments(items(b"ab", b"cd") + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)) == [b"ab", b"cd"]


@pytest.mark.parametrize(
    "data",
    [b"", items(), items(b"abcd")[:-1], struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF), b"\xff\xd8\xff\xe0" * 4],
)
def test_items_that_do_not_hold_are_refused(data: bytes) -> None:
    with pytest.raises(UnreadableDicom):
        fragments(data)


def test_a_jpeg_says_its_size() -> None:
    found = jpeg_stream(stream(JPEG, 8) + b"\0\0", PLAIN_JPEG_FRAMES)
    assert (found.rows, found.columns, found.samples, found.precision) == (96, 112, 1, 8)
    assert found.end == len(stream(JPEG, 8))


@pytest.mark.parametrize("syntax", [JPEG, JPEG_LOSSLESS])
def test_every_cut_of_a_jpeg_is_seen(syntax: str) -> None:
    whole = stream(syntax, 8)
    for end in range(len(whole)):
        with pytest.raises(UnreadableDicom):
            jpeg_stream(whole[:end], PLAIN_JPEG_FRAMES | {0xC3})


def test_a_jpeg_of_another_process_is_refused() -> None:
    progressive = stream(JPEG, 8).replace(b"\xff\xc0", b"\xff\xc2", 1)
    with pytest.raises(UnreadableDicom, match="kind"):
        decode(items(progressive), JPEG, SHAPE)


@pytest.mark.parametrize("syntax", [JPEG_2000, HTJ2K])
@pytest.mark.parametrize(
    ("at", "value"),
    [
        (8, 0xFFFFFFF0),  # Xsiz: a claim of four billion columns
        (24, 1),  # XTsiz: tiles one column wide
        (24, 0),  # no tiles at all
    ],
)
def test_a_jpeg_2000_that_claims_too_much_is_refused_before_it_is_decoded(syntax: str, at: int, value: int) -> None:
    lying = bytearray(stream(syntax))
    struct.pack_into(">L", lying, at, value)
    if value == 1:
        struct.pack_into(">L", lying, at + 4, 1)
    with pytest.raises(UnreadableDicom):
        decode(items(bytes(lying)), syntax, FrameShape(96, 112, 1, 16, False, False, False))


@pytest.mark.parametrize("part", [0, 1, 2, 13, 0xFFFFFFFF])
def test_a_jpeg_2000_whose_tile_parts_do_not_add_up_is_refused_or_read(part: int) -> None:
    lying = bytearray(stream(JPEG_2000))
    struct.pack_into(">L", lying, lying.index(b"\xff\x90") + 6, part)
    if part == 0:  # "to the end", which is right
        assert np.array_equal(decode(items(bytes(lying)), JPEG_2000, SHAPE)[0], chest())
    else:
        with pytest.raises(UnreadableDicom):
            decode(items(bytes(lying)), JPEG_2000, SHAPE)


def test_a_jpeg_2000_in_a_file_of_boxes_is_read() -> None:
    boxed = struct.pack(">L4s", 12, b"jP  ") + b"\r\n\x87\n" + struct.pack(">L4s", 0, b"jp2c") + stream(JPEG_2000)
    with pytest.raises(UnreadableDicom):  # boxes that OpenJPEG misses, such as the image header
        decode(items(boxed), JPEG_2000, SHAPE)


def test_rle_of_too_few_bytes_is_refused() -> None:
    header = struct.pack("<16L", 2, 64, 66, *[0] * 13)
    with pytest.raises(UnreadableDicom, match="RLE"):
        decode(items(header + b"\x00\x01\x00\x01"), RLE, SHAPE)


def test_a_jpeg_ls_that_ends_early_is_refused_at_once() -> None:
    whole = stream(JPEG_LS)
    with pytest.raises(UnreadableDicom, match="cut short"):
        decode(items(whole[: len(whole) // 2]), JPEG_LS, SHAPE)
