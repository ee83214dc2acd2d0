"""Preview and crops of version 1. If one of these fails, the format has changed: give it a new version.

Codecs may find shorter streams in a later release, so the golden files are read; the framing of the streams is fixed.
"""

import struct
from pathlib import Path

import numpy as np

from tests.support.tier_samples import (
    HEIGHT,
    MEANING,
    RECTANGLES,
    WIDTH,
    WINDOW,
    sample_crops,
    sample_preview,
    shown,
    stored,
)
from thinwire.shared.formats import crops, preview
from thinwire.shared.formats.crops import CropCodec, Photometric
from thinwire.shared.formats.window import Function

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / name).read_text())


LINEAR_2048_4096 = "02 40a0000000000000 40b0000000000000"
"""LINEAR, centre 2048, width 4096."""


def test_a_preview_s_header_as_the_document_spells_it() -> None:
    spelled = (
        "54575056"  # TWPV
        "01"  # version
        "012c"  # 300 high
        "0118" + LINEAR_2048_4096 + "02"  # 280 wide  # layers
        "0080 0077"  # 128 x 119
    )
    head = bytes.fromhex(spelled.replace(" ", ""))
    for data in (golden("preview-1.hex"), sample_preview()):
        assert data.startswith(head)
        first, rows, columns, last = struct.unpack_from(">LHHL", data, 31)
        assert (rows, columns) == (HEIGHT, WIDTH)
        assert 43 + first + last == len(data)


def test_the_golden_preview_is_read() -> None:
    found = preview.decode(golden("preview-1.hex"))
    assert (found.native_height, found.native_width, found.window) == (HEIGHT, WIDTH, WINDOW)
    assert (found.layer, found.layers) == (2, 2)
    assert abs(found.image.astype(np.int32) - shown(stored())).mean() < 3


def test_the_crops_header_and_record_as_the_document_spells_them() -> None:
    inside = [stored()[each.place] for each in RECTANGLES]
    least, most = min(int(each.min()) for each in inside), max(int(each.max()) for each in inside)
    spelled = (
        "54574556"  # TWEV
        "01"  # version
        "012c"  # 300 high
        "0118"  # 280 wide
        "0c"  # 12 bits stored
        "00"  # not signed
        "01"  # MONOCHROME1
        "3fc1eb851eb851ec 3fc1eb851eb851ec"  # 0.14 mm, 0.14 mm
        "3ff0000000000000 0000000000000000"  # slope 1, intercept 0
        + LINEAR_2048_4096
        + f"{least:08x} {most - least + 1:08x}"
    )
    record = "008c 0064 001e 0028 8000 01"  # x 140, y 100, 30 x 40, share 0.5, JPEG XL
    for data in (golden("crops-1.hex"), sample_crops()):
        assert data.startswith(bytes.fromhex(spelled.replace(" ", "")))
        tone, count = struct.unpack_from(">LH", data, 69)
        assert count == 3
        assert data[75 + tone :].startswith(bytes.fromhex(record.replace(" ", "")))


def test_the_golden_crops_are_read() -> None:
    found = crops.decode(golden("crops-1.hex"), 1 << 20)
    assert found.meaning == MEANING
    assert [(each.x, each.y) for each in found.rectangles] == [(140, 100), (40, 30), (0, 260)]
    values, here = found.canvas()
    np.testing.assert_array_equal(values[here].astype(np.int64) + found.least, stored()[here])
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    found.lay_over(image)
    np.testing.assert_array_equal(image[here], shown(stored())[here])


def test_names_have_their_numbers() -> None:
    assert [each.value for each in (CropCodec.ZSTD, CropCodec.JPEG_XL)] == [0, 1]
    assert [each.name for each in Photometric] == ["MONOCHROME2", "MONOCHROME1", "LUMINANCE"]
    assert [each.name for each in Function] == ["PERCENTILES", "LUT", "LINEAR", "LINEAR_EXACT", "SIGMOID"]
