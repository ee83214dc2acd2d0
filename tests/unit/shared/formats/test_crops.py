"""The crops: stored values bit by bit, rectangle by rectangle, and missing values are marked as missing."""

import struct
from dataclasses import replace

import numpy as np
import pytest

from tests.support.tier_samples import HEIGHT, MEANING, RECTANGLES, WIDTH, sample_crops, shown, stored
from thinwire.shared.errors import BadCrops
from thinwire.shared.formats.crops import CropCodec, Crops, Rectangle, decode, decode_prefix, encode

LIMIT = 1 << 20
HEAD = 75
"""docs/crops-format.md: the bytes before the tone."""
RECORD = 15


def records(data: bytes) -> list[tuple[int, int, int]]:
    """(offset, codec, end) of each record."""
    at = HEAD + struct.unpack_from(">L", data, HEAD - 6)[0]
    found = []
    while at < len(data):
        codec, size = struct.unpack_from(">BL", data, at + 10)
        found.append((at, codec, at + RECORD + size))
        at = found[-1][2]
    return found


def assert_exact(found: Crops, values: np.ndarray, grey: np.ndarray) -> None:
    samples, here = found.canvas()
    np.testing.assert_array_equal(samples.astype(np.int64)[here] + found.least, values[here])
    image = np.full(values.shape, 7, np.uint8)
    found.lay_over(image)
    np.testing.assert_array_equal(image[here], grey[here])
    assert (image[~here] == 7).all()
    assert (samples[~here] == 0).all()


def test_every_rectangle_comes_back_bit_by_bit_and_nothing_else() -> None:
    values = stored()
    found = decode(sample_crops(), LIMIT)
    assert sample_crops() == sample_crops()
    assert found.meaning == MEANING
    assert found.whole
    assert [round(each.share, 2) for each in found.rectangles] == [0.5, 0.25, 0.0]
    assert_exact(found, values, shown(values))
    _, here = found.canvas()
    assert here.sum() == sum(each.area for each in RECTANGLES)
    assert (found.native_height, found.native_width) == (HEIGHT, WIDTH)


def test_each_rectangle_is_of_use_when_it_has_arrived() -> None:
    values, data = stored(), sample_crops()
    ends = [end for _, _, end in records(data)]
    assert decode_prefix(b"", LIMIT) is None
    assert decode_prefix(data[: ends[0] - 1], LIMIT) is None
    for count, (here, until) in enumerate(zip(ends, [*ends[1:], len(data) + 1], strict=True), 1):
        for length in (here, until - 1):
            found = decode_prefix(data[:length], LIMIT)
            assert found is not None
            assert (len(found.rectangles), found.total, found.whole) == (count, 3, count == 3)
            assert_exact(found, values, shown(values))


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16, np.uint16])
def test_values_of_any_kind_come_back(kind: type[np.integer]) -> None:
    low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    values = np.linspace(low, high, 64 * 48).reshape(64, 48).astype(kind)
    grey = np.linspace(0, 255, 64 * 48).reshape(64, 48).astype(np.uint8)
    grey = grey.ravel()[np.unique(values, return_index=True)[1][np.unique(values, return_inverse=True)[1]]]
    grey = grey.reshape(64, 48)
    meaning = replace(MEANING, signed=low < 0, spacing_mm=None, rescale=None)
    found = decode(encode(values, grey, [Rectangle(0, 0, 48, 64, 1.0)], meaning), LIMIT)
    assert found.meaning == meaning
    assert_exact(found, values, grey)


def test_the_smaller_packing_is_taken() -> None:
    drawn = np.tile(np.arange(64, dtype=np.uint16) % 2 * 3000, (64, 1))
    for values, codec in ((stored(64, 64), CropCodec.JPEG_XL), (drawn, CropCodec.ZSTD)):
        data = encode(values, shown(values), [Rectangle(0, 0, 64, 64, 1.0)], MEANING)
        assert [each for _, each, _ in records(data)] == [codec]
        assert_exact(decode(data, LIMIT), values, shown(values))


def test_no_rectangle_is_no_crops() -> None:
    with pytest.raises(ValueError, match="without rectangles"):
        encode(stored(), shown(stored()), [], MEANING)


def test_more_than_the_hub_allows_is_refused_before_it_is_unpacked() -> None:
    area = sum(each.area for each in RECTANGLES)
    assert decode(sample_crops(), 2 * area).whole
    with pytest.raises(BadCrops, match="limit"):
        decode(sample_crops(), 2 * area - 1)


def rewritten(data: bytes, at: int, form: str, *values: object) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, at, *values)
    return bytes(changed)


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (0, ">4s", b"TWPV"),
        (4, ">B", 2),
        (5, ">H", 0),
        (5, ">H", 290),
        (5, ">HH", (65535, 65535)),
        (9, ">B", 17),
        (9, ">B", 0),
        (10, ">B", 2),
        (11, ">B", 3),
        (12, ">d", -0.1),
        (20, ">d", float("inf")),
        (28, ">d", float("nan")),
        (44, ">B", 9),
        (65, ">L", 0),
        (65, ">L", 70_000),
        (65, ">L", 100),
        (69, ">L", 3),
        (73, ">H", 0),
        (73, ">H", 2),
        (73, ">H", 4),
    ],
    ids=str,
)
def test_a_header_that_lies_is_refused(at: int, form: str, value: object) -> None:
    values = value if isinstance(value, tuple) else (value,)
    with pytest.raises(BadCrops):
        decode(rewritten(sample_crops(), at, form, *values), LIMIT)


@pytest.mark.parametrize(
    ("field", "form", "value"),
    [
        (0, ">H", 279),
        (2, ">H", 261),
        (0, ">HH", (50, 40)),
        (4, ">H", 0),
        (4, ">H", 31),
        (8, ">H", 0),
        (10, ">B", 2),
        (11, ">L", 0),
        (11, ">L", 1 << 30),
        (15, ">4s", b"\0\0\0\0"),
    ],
    ids=str,
)
def test_a_rectangle_that_lies_is_refused(field: int, form: str, value: object) -> None:
    values = value if isinstance(value, tuple) else (value,)
    data = sample_crops()
    first = records(data)[0][0]
    with pytest.raises(BadCrops):
        decode(rewritten(data, first + field, form, *values), LIMIT)


def test_one_that_is_cut_short_or_goes_on_is_no_whole_one() -> None:
    data = sample_crops()
    for broken in (b"", data[:40], data[:-1], data + b"\0"):
        with pytest.raises(BadCrops):
            decode(broken, LIMIT)
