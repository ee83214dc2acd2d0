"""From stored values to values that mean the same: polarity, rescaling, tables, windows, padding."""

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.support.dicoms import BIG, DX_RAW, EXPLICIT, IMPLICIT, Array, chest, dicom
from tests.support.radiographs import item, read, seen
from thinwire.shared.formats.window import Function
from thinwire.shared.imaging.normalise import normalise
from thinwire.shared.imaging.radiograph import open_radiograph


def lut(first: int, entries: list[int], bits: int = 16, count: int | None = None) -> Dataset:
    count = len(entries) if count is None else count
    found = item(LUTDescriptor=[count, first, bits], LUTData=entries)
    found["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    found["LUTData"].VR = "US"
    return found


def byte_lut(entries: list[int], syntax: str = EXPLICIT) -> Dataset:
    """Entries of 8 bits, two in a word."""
    words = np.array(entries, "<u2" if syntax == BIG else np.uint8).astype(np.uint8).reshape(-1, 2)
    found = item(LUTDescriptor=[len(entries), 0, 8], LUTData=(words[:, ::-1] if syntax == BIG else words).tobytes())
    found["LUTDescriptor"].VR, found["LUTData"].VR = "US", "OW"
    return found


def told(data: bytes) -> str:
    return "\n".join(read(data).warnings)


def test_monochrome1_is_inverted() -> None:
    samples = chest()
    data = dicom(4095 - samples, PhotometricInterpretation="MONOCHROME1")
    assert abs(read(data).pixels - seen(samples)).max() < 1e-5


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted", "told"),
    [
        ("MONOCHROME1", "INVERSE", True, False),
        ("MONOCHROME2", "IDENTITY", False, False),
        ("MONOCHROME2", "INVERSE", True, True),
        ("MONOCHROME1", "IDENTITY", False, True),
        ("MONOCHROME1", "SIDEWAYS", True, False),
    ],
)
def test_presentation_lut_shape(photometric: str, shape: str, inverted: bool, told: bool) -> None:
    samples = chest()
    found = read(dicom(samples, PhotometricInterpretation=photometric, PresentationLUTShape=shape))
    assert np.array_equal(found.pixels, seen(-samples.astype(np.float32) if inverted else samples))
    assert any("disagree" in note for note in found.warnings) is told


def test_negative_rescale_slope_turns_the_scale_round() -> None:
    samples = chest()
    data = dicom(samples, RescaleSlope="-2", RescaleIntercept="9000")
    assert np.array_equal(read(data).pixels, seen(9000.0 - 2.0 * samples.astype(np.float32)))


def test_a_modality_lut_is_looked_up() -> None:
    samples = chest(bits=8)
    table = [value * value for value in range(256)]
    data = dicom(samples, ModalityLUTSequence=[lut(0, table)])
    assert np.array_equal(read(data).pixels, seen(np.array(table, np.float32)[samples]))


@pytest.mark.parametrize("syntax", [IMPLICIT, BIG])
def test_a_voi_lut_comes_before_a_window_and_clamps_at_its_ends(syntax: str) -> None:
    samples = chest(bits=12)
    table = [int(1000 * np.sqrt(value)) for value in range(3000)]
    data = dicom(samples, syntax, VOILUTSequence=[lut(500, table)], WindowCenter="9", WindowWidth="2")
    expected = np.array(table, np.float32)[np.clip(samples.astype(int) - 500, 0, 2999)]
    assert np.array_equal(read(data).pixels, seen(expected))


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize(
    ("missing", "count", "used"),
    [(0, None, True), (1, None, True), (2, None, False), (4096, None, False), (0, 4000, True), (0, 1, False)],
)
def test_a_lut_that_does_not_fit_its_descriptor(sequence: str, missing: int, count: int | None, used: bool) -> None:
    samples = chest(bits=12)
    table = [4095 - value for value in range(4096)]
    entries = table[: len(table) - missing] or [0]
    attributes: dict[str, Any] = {sequence: [lut(0, entries, count=count or 4096)]}
    data = dicom(samples, BitsStored=12, **attributes)
    expected = np.array(table, np.float32)[np.minimum(samples, max(0, (count or 4096 - missing) - 1))]
    assert np.array_equal(read(data).pixels, seen(expected if used else samples))
    assert ("LUT" in told(data)) is (missing > 0 or not used)


def test_a_lut_of_65536_entries_says_0() -> None:
    samples = chest(bits=16)
    table = [(3 * value) % 65536 if value < 21845 else 65535 for value in range(65536)]
    found = item(LUTDescriptor=[0, 0, 16], LUTData=np.array(table, "<u2").tobytes())
    found["LUTDescriptor"].VR, found["LUTData"].VR = "US", "OW"
    data = dicom(samples // 4, VOILUTSequence=[found])
    assert np.array_equal(read(data).pixels, seen(np.array(table, np.float32)[samples // 4]))


def test_a_lut_may_begin_below_zero() -> None:
    stored = chest(bits=12).astype(np.int16) - 2048
    table = [value // 2 for value in range(4096)][::-1]
    for first in (-2048, 63488):  # the second as a device writes it that knows no signed descriptor
        data = dicom(stored, BitsStored=12, HighBit=11, VOILUTSequence=[lut(first, table, 12)])
        assert np.array_equal(read(data).pixels, seen(np.array(table, np.float32)[stored.astype(int) + 2048]))


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG])
def test_a_lut_of_bytes_in_words(syntax: str) -> None:
    samples = chest(bits=8)
    table = [255 - value // 2 for value in range(256)]
    data = dicom(samples, syntax, VOILUTSequence=[byte_lut(table, syntax)])
    assert np.array_equal(read(data).pixels, seen(np.array(table, np.float32)[samples]))


def test_a_modality_lut_of_one_value_is_not_believed() -> None:
    samples = chest(bits=12)
    data = dicom(samples, ModalityLUTSequence=[lut(0, [7] * 4096)])
    assert np.array_equal(read(data).pixels, seen(samples))
    assert "one value" in told(data)


def test_the_first_believable_transform_is_used() -> None:
    samples = chest(bits=12)
    data = dicom(
        samples,
        VOILUTSequence=[lut(0, [0] * 4096), lut(0, list(range(4096))[::-1])],
        WindowCenter=["40", "2048"],
        WindowWidth=["400", "4096"],
    )
    assert np.array_equal(read(data).pixels, seen(4095 - samples.astype(np.float32)))
    data = dicom(samples, WindowCenter=["40", "2048", "9"], WindowWidth=["400", "4096"])
    found = read(data)
    assert (found.display.window.center, found.display.window.width) == (2048.0, 4096.0)
    assert "nearly nothing" in told(data)
    assert "different numbers" in told(data)


@pytest.mark.parametrize(("function", "warned"), [("", False), ("LINEAR", False), ("GAMMA", True)])
def test_an_unknown_window_function_is_linear(function: str, warned: bool) -> None:
    data = dicom(chest(), WindowCenter="2048", WindowWidth="4096", VOILUTFunction=function)
    assert read(data).display.window.function is Function.LINEAR
    assert ("VOI LUT Function" in told(data)) is warned


@pytest.mark.parametrize("slope", ["1e-12", "1e-5", "1", "1e6", "1e36", ""])
def test_any_slope_leaves_the_picture(slope: str) -> None:
    samples = chest(bits=12)
    found = read(dicom(samples, RescaleSlope=slope, RescaleIntercept="0"))
    assert abs(found.pixels - seen(samples)).max() < 1e-5


def ramp() -> Array:
    """12 bits, each value once in order: the effect of a window can be read off."""
    return np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR", lambda x: np.clip((x - 1999.5) / 999 + 0.5, 0, 1)),
        (None, lambda x: np.clip((x - 1999.5) / 999 + 0.5, 0, 1)),
        ("LINEAR_EXACT", lambda x: np.clip((x - 2000) / 1000 + 0.5, 0, 1)),
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 2000) / 1000))),
    ],
)
def test_windows(function: str | None, expected: object) -> None:
    data = dicom(ramp(), WindowCenter="2000", WindowWidth="1000", VOILUTFunction=function)
    assert callable(expected)
    wanted = seen(expected(ramp().astype(np.float64)))
    assert abs(read(data).pixels - wanted).max() < 1e-5


@pytest.mark.parametrize(("center", "width"), [("60000", "100"), ("2000", "0"), ("2000", "-5"), ("2000", "0.5")])
def test_a_window_that_makes_no_sense_is_left_out(center: str, width: str) -> None:
    samples = chest()
    found = read(dicom(samples, WindowCenter=center, WindowWidth=width))
    assert np.array_equal(found.pixels, seen(samples))
    assert any("window" in note for note in found.warnings)


def test_padding_is_dark_and_takes_no_part() -> None:
    samples = chest(bits=12)
    padded = samples.copy()
    padded[:, :30] = 4095
    padded[:, -10:] = 4090
    data = dicom(padded, PixelPaddingValue=4095, PixelPaddingRangeLimit=4090, BitsStored=12)
    found = read(data)
    inside = padded < 4090
    assert not found.pixels[~inside].any()
    assert np.array_equal(found.pixels, normalise(padded.astype(np.float32), inside))


def test_padding_of_signed_pixels_may_be_written_unsigned() -> None:
    samples = chest(bits=12).astype(np.int16) - 2048
    samples[:20] = -2048
    data = dicom(samples, IMPLICIT, PixelPaddingValue=0)
    at = data.index(b"\x28\x00\x20\x01\x02\x00\x00\x00") + 8
    found = read(data[:at] + (63488).to_bytes(2, "little") + data[at + 2 :])  # -2048 as US
    assert not found.pixels[:20].any()


def test_padding_of_twelve_signed_bits_may_be_written_as_their_pattern() -> None:
    samples = chest(bits=12).astype(np.int16) - 2048
    samples[:20] = -2048
    data = dicom(samples.view(np.uint16) & 0x0FFF, BitsStored=12, PixelRepresentation=1, PixelPaddingValue=2048)
    assert not read(data).pixels[:20].any()


def test_padding_below_zero_is_none_of_unsigned_values() -> None:
    samples = chest(bits=12)
    data = dicom(samples, IMPLICIT, BitsStored=12, PixelPaddingValue=63536)  # -2000 in 16 bits
    assert read(data).display.padding is None


@pytest.mark.parametrize("vr", [b"OW", b"OB", b"UN", b"IS"])
def test_padding_under_another_vr_is_read(vr: bytes) -> None:
    samples = chest(bits=12)
    samples[:20] = 2000
    data = dicom(samples, PixelPaddingValue=2000)
    value = b"2000" if vr == b"IS" else (2000).to_bytes(2, "little")
    length = len(value).to_bytes(2, "little") if vr == b"IS" else b"\0\0" + len(value).to_bytes(4, "little")
    us = b"\x28\x00\x20\x01US\x02\x00" + (2000).to_bytes(2, "little")
    assert not read(data.replace(us, us[:4] + vr + length + value)).pixels[:20].any()


def test_padding_that_would_cover_everything_is_not_believed() -> None:
    samples = chest()
    found = read(dicom(samples, PixelPaddingValue=0, PixelPaddingRangeLimit=4095))
    assert np.array_equal(found.pixels, seen(samples))
    assert any("padding" in note for note in found.warnings)


def test_linear_raw_data_is_read_by_its_logarithm() -> None:
    raw = chest()
    data = dicom(raw, sop_class=DX_RAW, PresentationIntentType="FOR PROCESSING", PixelIntensityRelationship="LIN")
    found = read(data)
    assert abs(found.pixels - seen(np.log(raw + 1.0))).max() < 1e-5
    assert any("For Processing" in note for note in found.warnings)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"PixelPaddingValue": 0},
        {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 3000},
        {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 1000, "PixelPaddingRangeLimit": 1100},
    ],
)
def test_the_tone_is_the_image(attributes: dict[str, Any]) -> None:
    samples = chest()
    samples[:30] = attributes.get("PixelPaddingValue", 0)
    found = open_radiograph(dicom(samples, **attributes))
    assert np.array_equal(found.tone[found.samples], found.shown)
    assert len(found.tone) == int(samples.max()) - int(samples.min()) + 1
    assert (found.display.padding is None) is ("PixelPaddingValue" not in attributes)
    assert found.display.padding is None or not found.shown[:30].any()
