"""From stored values to values that mean the same: polarity, rescaling, tables, windows, padding."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.support.dicoms import BIG, DX_RAW, IMPLICIT, Array, chest, dicom
from tests.support.radiographs import item, read, seen
from thinwire.shared.imaging.normalise import normalise
from thinwire.shared.imaging.radiograph import open_radiograph


def lut(first: int, entries: list[int], bits: int = 16) -> Dataset:
    found = item(LUTDescriptor=[len(entries), first, bits], LUTData=entries)
    found["LUTDescriptor"].VR = found["LUTData"].VR = "US"
    return found


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
        ("MONOCHROME1", "IDENTITY", True, True),
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


def ramp() -> Array:
    """12 bits, each value once in order: what a window does to it can be read off."""
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
def test_the_tone_is_the_image(attributes: dict[str, object]) -> None:
    samples = chest()
    samples[:30] = attributes.get("PixelPaddingValue", 0)
    found = open_radiograph(dicom(samples, **attributes))
    assert np.array_equal(found.tone[found.stored - found.least], found.shown)
    assert len(found.tone) == int(samples.max()) - int(samples.min()) + 1
    assert (found.display.padding is None) is ("PixelPaddingValue" not in attributes)
    assert found.display.padding is None or not found.shown[:30].any()
