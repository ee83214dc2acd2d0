"""Stored values: which bits of a word they are, and the warnings where a header contradicts itself."""

import struct
from typing import Any

import numpy as np
import pytest

from tests.support.dicoms import (
    BIG,
    EXPLICIT,
    JPEG,
    JPEG_2000,
    JPEG_2000_LOSSY,
    JPEG_LOSSLESS,
    JPEG_LS,
    JPEG_LS_NEAR,
    JPEG_XL,
    JPEG_XL_LOSSY,
    RLE,
    chest,
    dicom,
)
from tests.support.radiographs import read, seen

TWELVE = chest(bits=12)


def told(data: bytes) -> str:
    return "\n".join(read(data).warnings)


@pytest.mark.parametrize("syntax", [EXPLICIT, RLE, JPEG_LOSSLESS, JPEG_LS, JPEG_2000, JPEG_XL])
@pytest.mark.parametrize("representation", [0, 1])
def test_values_at_the_top_of_their_words(syntax: str, representation: int) -> None:
    stored = TWELVE.astype(np.int16) - 2048 * representation
    found = read(
        dicom((stored << 4).view(np.uint16), syntax, BitsStored=12, HighBit=15, PixelRepresentation=representation)
    )
    assert np.array_equal(found.stored, stored)
    assert not any("High Bit" in each or "bits" in each for each in found.warnings)


def test_values_that_only_claim_to_be_at_the_top_of_their_words() -> None:
    found = read(dicom(TWELVE, BitsStored=12, HighBit=15))
    assert np.array_equal(found.stored, TWELVE)
    assert any("High Bit" in each for each in found.warnings)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"BitsStored": 14, "HighBit": 20}, "contradict"),
        ({"BitsStored": 12, "HighBit": 7}, "contradict"),
        ({"BitsStored": 20}, "more than the 16 bits"),
        ({"BitsStored": 0}, ""),
        ({"BitsStored": None, "HighBit": None}, ""),
        ({"BitsStored": 12, "HighBit": None}, ""),
        ({"BitsAllocated": None}, "Bits Allocated"),
        ({"BitsAllocated": 12}, "Bits Allocated"),
        ({"SamplesPerPixel": None}, ""),
        ({"SamplesPerPixel": 3}, "Samples per Pixel"),
        ({"PhotometricInterpretation": None}, "Photometric Interpretation is absent"),
        ({"PhotometricInterpretation": "RGB"}, "Samples per Pixel"),
        ({"PhotometricInterpretation": "monochrome2"}, ""),
        ({"PhotometricInterpretation": "MONOCHROME 2"}, ""),
    ],
)
def test_a_header_that_contradicts_itself_is_told_and_the_image_read(attributes: dict[str, Any], words: str) -> None:
    data = dicom(TWELVE, **{"BitsStored": 12, "HighBit": 11, **attributes})
    found = read(data)
    assert np.array_equal(found.stored, TWELVE)
    assert np.array_equal(found.pixels, seen(TWELVE))
    assert (words in told(data)) if words else len(found.warnings) == 1  # that of the spacing


@pytest.mark.parametrize("bits", [9, 10, 11])
@pytest.mark.parametrize("syntax", [EXPLICIT, BIG, RLE, JPEG_LOSSLESS, JPEG_LS, JPEG_2000, JPEG_2000_LOSSY, JPEG_XL])
def test_bits_stored_that_is_too_small_is_told_and_the_image_read(syntax: str, bits: int) -> None:
    data = dicom(TWELVE, syntax, BitsStored=bits)
    found = read(data)
    assert "Bits Stored is too small" in told(data)
    assert abs(found.stored.astype(int) - TWELVE).mean() < (20 if syntax == JPEG_2000_LOSSY else 1e-9)
    assert found.display.bits_stored == 12


def test_an_embedded_overlay_is_told() -> None:
    drawn = TWELVE.copy()
    drawn[10:20, 10:40] |= 0x8000
    # Overlay Rows, Columns, Bits Allocated, Bit Position
    elements = ((0x0010, 96), (0x0011, 112), (0x0100, 16), (0x0102, 15))
    overlay = b"".join(struct.pack("<HH2sHH", 0x6000, element, b"US", 2, value) for element, value in elements)
    data = dicom(drawn, BitsStored=12)
    assert "without a declared overlay" in told(data)
    assert np.array_equal(read(data).stored, TWELVE)
    with_overlay = data.replace(b"\xe0\x7f\x10\x00OW", overlay + b"\xe0\x7f\x10\x00OW")
    assert "an overlay in unused bits" in told(with_overlay)
    assert np.array_equal(read(with_overlay).stored, TWELVE)


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG, RLE, JPEG_LS, JPEG_2000])
def test_a_sign_drawn_through_unused_bits_is_no_doubt(syntax: str) -> None:
    stored = TWELVE.astype(np.int16) - 2048
    found = read(dicom(stored.view(np.uint16), syntax, BitsStored=12, PixelRepresentation=1))
    assert np.array_equal(found.stored, stored)
    assert len(found.warnings) == 1


def test_a_signed_codestream_is_read_by_the_header() -> None:
    stored = TWELVE.astype(np.int16) - 2048
    signed = dicom(stored, JPEG_2000, BitsStored=16, PixelRepresentation=1)
    assert np.array_equal(read(signed).stored, stored)
    unsigned = dicom(stored, JPEG_2000, BitsStored=16, PixelRepresentation=0)
    assert np.array_equal(read(unsigned).stored, stored.view(np.uint16))


@pytest.mark.parametrize("syntax", [JPEG_2000_LOSSY, JPEG_LS_NEAR, JPEG_XL_LOSSY])
def test_what_a_lossy_codec_overshoots_does_not_wrap(syntax: str) -> None:
    random = np.random.default_rng(0)
    stored = np.where(random.random((96, 112)) < 0.5, 4095, 4000 + random.integers(0, 90, (96, 112))).astype(np.uint16)
    assert read(dicom(stored, syntax, BitsStored=12)).stored.min() > 3000


def test_words_of_32_bits_are_read_where_they_hold_16() -> None:
    data = dicom(TWELVE.astype(np.uint32), BitsStored=12)
    assert np.array_equal(read(data).stored, TWELVE)
    assert np.array_equal(read(dicom(TWELVE.astype(np.uint32), BIG, BitsStored=12)).stored, TWELVE)


def test_a_jpeg_that_is_called_rgb_and_holds_ybr() -> None:
    samples = chest(bits=8)
    colour = np.repeat(samples[:, :, None], 3, axis=2)
    found = read(dicom(colour, JPEG, PhotometricInterpretation="RGB"))
    assert abs(found.pixels - seen(samples)).mean() < 0.02
    assert any("confuses" in each for each in found.warnings)


def test_rgb_that_is_called_ybr() -> None:
    samples = chest(bits=8)
    found = read(dicom(np.repeat(samples[:, :, None], 3, axis=2), PhotometricInterpretation="YBR_FULL"))
    assert np.array_equal(found.pixels, seen(samples))
    assert any("confuses" in each for each in found.warnings)


def test_a_window_does_not_apply_to_colour() -> None:
    samples = chest(bits=8)
    found = read(
        dicom(np.repeat(samples[:, :, None], 3, axis=2), WindowCenter="10", WindowWidth="5", RescaleSlope="-1")
    )
    assert np.array_equal(found.pixels, seen(samples))


@pytest.mark.parametrize("syntax", [JPEG, RLE, JPEG_LS])
def test_a_frame_without_an_offset_table_is_read(syntax: str) -> None:
    samples = chest(bits=8)
    data = dicom(samples, syntax)
    table = b"\xfe\xff\x00\xe0\x04\x00\x00\x00\x00\x00\x00\x00"
    assert table in data
    assert np.array_equal(read(data).stored, read(data.replace(table, b"", 1)).stored)
