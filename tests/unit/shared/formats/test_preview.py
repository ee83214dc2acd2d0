"""The preview: the whole image within its bytes, coarse first, refused when anything is amiss."""

import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.support.tier_samples import HEIGHT, WIDTH, WINDOW, sample_preview, shown, stored
from thinwire.shared.errors import BadPreview
from thinwire.shared.formats.preview import COARSE_SIDE, decode, decode_prefix, encode
from thinwire.shared.formats.window import Function, Window

HEAD = 27
"""docs/preview-format.md: the bytes before the layers are listed."""


def lengths(data: bytes) -> list[int]:
    return [struct.unpack_from(">HHL", data, HEAD + 8 * n)[2] for n in range(data[HEAD - 1])]


def away(image: np.ndarray) -> float:
    """Mean difference in greys from the sample."""
    whole = np.asarray(Image.fromarray(image).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
    return float(abs(whole - shown(stored())).mean())


def test_it_is_the_whole_image_within_its_bytes_and_the_same_every_time() -> None:
    data = sample_preview()
    assert len(data) <= 4000
    assert data == sample_preview()
    found = decode(data)
    assert (found.native_height, found.native_width, found.window) == (HEIGHT, WIDTH, WINDOW)
    assert (found.layer, found.layers) == (2, 2)
    assert away(found.image) < 6


def test_more_bytes_show_more() -> None:
    assert away(decode(sample_preview(12_000)).image) < away(decode(sample_preview(2000)).image)


def test_what_is_here_of_it_is_a_whole_image_coarse_first() -> None:
    data = sample_preview()
    coarse_at = HEAD + 16 + lengths(data)[0]
    assert coarse_at < len(data) / 4
    for length in (0, 3, 4, HEAD - 1, HEAD, HEAD + 16, coarse_at - 1):
        assert decode_prefix(data[:length]) is None
    for length in (coarse_at, coarse_at + 100, len(data) - 1):
        coarse = decode_prefix(data[:length])
        assert coarse is not None
        assert (coarse.layer, coarse.layers) == (1, 2)
        assert max(coarse.image.shape) == COARSE_SIDE
        assert away(coarse.image) < 25
    whole = decode_prefix(data)
    assert whole is not None
    np.testing.assert_array_equal(whole.image, decode(data).image)


def test_an_image_that_is_small_is_one_layer_at_its_own_size() -> None:
    found = decode(encode(shown(stored(90, 70)), Window(Function.PERCENTILES), 4000))
    assert (found.layers, found.image.shape) == (1, (90, 70))
    assert found.window == Window(Function.PERCENTILES)


def test_no_room_for_anything_is_an_error() -> None:
    with pytest.raises(ValueError, match="no preview"):
        encode(shown(stored()), WINDOW, 60)


def rewritten(data: bytes, at: int, form: str, *values: float) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, at, *values)
    return bytes(changed)


@pytest.mark.parametrize(
    ("at", "form", "values"),
    [
        (0, ">4s", (b"TWPX",)),
        (4, ">B", (2,)),
        (5, ">H", (0,)),
        (5, ">H", (100,)),
        (9, ">B", (5,)),
        (9, ">B", (0,)),
        (10, ">d", (float("nan"),)),
        (18, ">d", (-1.0,)),
        (26, ">B", (0,)),
        (26, ">B", (5,)),
        (27, ">H", (2049,)),
        (27, ">HH", (127, 128)),
        (31, ">L", (0,)),
        (31, ">L", (1 << 31,)),
        (35, ">HH", (120, 120)),
    ],
    ids=lambda each: str(each),
)
def test_a_header_that_lies_is_refused(at: int, form: str, values: tuple[float, ...]) -> None:
    with pytest.raises(BadPreview):
        decode(rewritten(sample_preview(), at, form, *values))


def test_a_layer_of_another_size_or_depth_is_refused() -> None:
    for image in (np.zeros((64, 64), np.uint8), np.zeros((128, 119), np.uint16), np.zeros((128, 119, 3), np.uint8)):
        packed = bytes(imagecodecs.jpegxl_encode(image, lossless=True))
        head = struct.pack(">4sBHH17sB", b"TWPV", 1, 300, 280, bytes(17), 1)
        with pytest.raises(BadPreview):
            decode(head + struct.pack(">HHL", 128, 119, len(packed)) + packed)


def test_one_that_is_cut_short_or_goes_on_is_no_whole_one() -> None:
    data = sample_preview()
    for broken in (b"", data[:20], data[:-1], data + b"\0"):
        with pytest.raises(BadPreview):
            decode(broken)
