import resource
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.support.dicoms import (
    BASIC_TEXT_SR,
    BIG,
    DEFLATED,
    DX_RAW,
    EIGHT_BITS_ONLY,
    ENCODERS,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    JPEG_LOSSLESS_SV1,
    JPEG_LS,
    JPEG_XL,
    LOSSY,
    RLE,
    Array,
    as_file,
    chest,
    dataset,
    dicom,
)
from tests.support.real_data import REAL_DATA, needs
from thinwire.sender.intake.dicom import DEFAULT_LIMITS, Radiograph, radiograph, read_instance
from thinwire.sender.intake.normalise import normalise
from thinwire.sender.intake.projection import View
from thinwire.shared.errors import NotChestRadiograph, UnreadableDicom
from thinwire.shared.graph import FloatArray

EXACT = [s for s in (IMPLICIT, EXPLICIT, BIG, DEFLATED, RLE, *ENCODERS) if s not in LOSSY]
CASES = [(s, bits) for s, bits in product(EXACT, (8, 10, 12, 16)) if bits == 8 or s not in EIGHT_BITS_ONLY]


def read(data: bytes) -> Radiograph:
    return radiograph(read_instance(data))


def seen(values: Array | FloatArray) -> FloatArray:
    """What values look like once their scale is normalised."""
    return normalise(values.astype(np.float32))


def item(**attributes: object) -> Dataset:
    found = Dataset()
    for keyword, value in attributes.items():
        setattr(found, keyword, value)
    return found


def lut(first: int, entries: list[int], bits: int = 16) -> Dataset:
    found = item(LUTDescriptor=[len(entries), first, bits], LUTData=entries)
    found["LUTDescriptor"].VR = found["LUTData"].VR = "US"
    return found


# --- transfer syntaxes and depths


@pytest.mark.parametrize(("syntax", "bits"), CASES)
def test_every_lossless_syntax_gives_the_same_pixels(syntax: str, bits: int) -> None:
    samples = chest(97, 113, bits)  # odd sides: padding bytes
    assert np.array_equal(read(dicom(samples, syntax, BitsStored=bits)).pixels, seen(samples))


@pytest.mark.parametrize("syntax", sorted(LOSSY))
def test_every_lossy_syntax_gives_nearly_the_same_pixels(syntax: str) -> None:
    bits = 8 if syntax in EIGHT_BITS_ONLY else 12
    samples = chest(97, 113, bits)
    assert abs(read(dicom(samples, syntax, BitsStored=bits)).pixels - seen(samples)).mean() < 0.02


@pytest.mark.parametrize("syntax", [IMPLICIT, BIG, RLE, JPEG_LOSSLESS_SV1, JPEG_LS])
def test_signed_values_keep_their_order(syntax: str) -> None:
    signed = chest(bits=12).astype(np.int16) - 2048
    stored = signed.astype(np.uint16) & 0x0FFF  # two's complement in the twelve bits stored
    data = dicom(stored, syntax, BitsStored=12, PixelRepresentation=1)
    assert np.array_equal(read(data).pixels, seen(signed))


def test_fragments_of_a_frame_are_joined() -> None:
    samples = chest()
    assert np.array_equal(read(dicom(samples, JPEG_LS, fragments=5)).pixels, seen(samples))


@pytest.mark.parametrize("syntax", [EXPLICIT, RLE])
def test_overlays_in_unused_bits_are_masked(syntax: str) -> None:
    samples = chest(bits=12)
    data = dicom(samples | np.uint16(0xA000), syntax, BitsStored=12)
    assert np.array_equal(read(data).pixels, seen(samples))


def test_values_at_the_top_of_their_word_are_brought_down() -> None:
    samples = chest(bits=12)
    assert np.array_equal(read(dicom(samples << 4, BitsStored=12, HighBit=15)).pixels, seen(samples))


def test_bytes_in_big_endian_words_are_put_in_order() -> None:
    samples = chest(bits=8)
    swapped = samples.reshape(-1, 2)[:, ::-1].reshape(samples.shape)
    data = dicom(swapped, BIG)
    marker = data.rindex(b"\x7f\xe0\x00\x10OB") + 4
    assert np.array_equal(read(data[:marker] + b"OW" + data[marker + 2 :]).pixels, seen(samples))


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_a_file_without_preamble_is_read(syntax: str) -> None:
    samples = chest()
    assert np.array_equal(read(dicom(samples, syntax, preamble=False)).pixels, seen(samples))


# --- grey scale


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


# --- colour


@pytest.mark.parametrize(("syntax", "planar"), [(EXPLICIT, 0), (EXPLICIT, 1), (RLE, 1), (JPEG_LS, 0)])
def test_grey_in_rgb_is_grey(syntax: str, planar: int) -> None:
    samples = chest(bits=8)
    colour = np.repeat(samples[:, :, None], 3, axis=2)
    shown = colour.transpose(2, 0, 1).reshape(colour.shape) if planar and syntax == EXPLICIT else colour
    found = read(dicom(shown, syntax, PlanarConfiguration=planar))
    assert np.array_equal(found.pixels, seen(samples))
    assert not any("colour" in note for note in found.warnings)


def test_grey_in_ybr_is_its_luma() -> None:
    samples = chest(bits=8)
    ybr = np.stack([samples, np.full_like(samples, 128), np.full_like(samples, 128)], axis=2)
    assert np.array_equal(read(dicom(ybr, PhotometricInterpretation="YBR_FULL")).pixels, seen(samples))


def test_grey_in_subsampled_ybr_is_its_luma() -> None:
    samples = chest(bits=8)
    pairs = samples.reshape(-1, 2)
    packed = np.concatenate([pairs, np.full_like(pairs, 128)], axis=1).tobytes()
    data = dicom(samples, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0)
    plain = samples.tobytes()
    length = len(plain).to_bytes(4, "little")
    data = data.replace(length + plain, len(packed).to_bytes(4, "little") + packed)
    assert np.array_equal(read(data).pixels, seen(samples))


def test_a_jpeg_of_ybr_is_its_luma() -> None:
    samples = chest(bits=8)
    colour = np.repeat(samples[:, :, None], 3, axis=2)
    found = read(dicom(colour, JPEG, PhotometricInterpretation="YBR_FULL_422"))
    assert abs(found.pixels - seen(samples)).mean() < 0.02


def test_colour_is_told() -> None:
    colour = np.stack([chest(bits=8, seed=n) // (n + 1) for n in range(3)], axis=2)
    assert any("colour" in note for note in read(dicom(colour)).warnings)


# --- what else a header says


@pytest.mark.parametrize(
    ("attributes", "spacing", "told"),
    [
        ({"PixelSpacing": ["0.15", "0.2"]}, (0.15, 0.2), ""),
        ({"PixelSpacing": ["0", "0"]}, None, "PixelSpacing"),
        ({"PixelSpacing": ["0.15"]}, None, "PixelSpacing"),
        ({"PixelSpacing": ["0", "0"], "ImagerPixelSpacing": ["0.2", "0.2"]}, (0.2, 0.2), "at the detector"),
        ({"ImagerPixelSpacing": ["0.22", "0.22"], "EstimatedRadiographicMagnificationFactor": "1.1"}, (0.2, 0.2), ""),
        ({"NominalScannedPixelSpacing": ["0.1", "0.1"]}, (0.1, 0.1), ""),
        ({}, None, "no pixel spacing"),
    ],
)
def test_spacing(attributes: dict[str, object], spacing: tuple[float, float] | None, told: str) -> None:
    found = read(dicom(**attributes))
    assert found.spacing_mm == (None if spacing is None else pytest.approx(spacing))
    assert (told in " ".join(found.warnings)) if told else not found.warnings


def test_an_unreadable_number_is_left_out_and_named() -> None:
    data = dicom(PixelSpacing=["0.15", "0.15"]).replace(b"0.15\\0.15", b"0,15\\0,15")
    found = read(data)
    assert found.spacing_mm is None
    assert any("PixelSpacing" in note for note in found.warnings)


@pytest.mark.parametrize(
    ("attributes", "position"),
    [
        ({"ViewPosition": "PA"}, "PA"),
        ({"ViewPosition": "AP"}, "AP"),
        ({"ViewPosition": "AP_SUPINE"}, "AP"),
        ({"ViewPosition": None}, ""),
        ({"ViewPosition": None, "SeriesDescription": "Chest AP portable"}, "AP"),
        ({"ViewPosition": None, "SeriesDescription": "PA and lateral"}, ""),
        ({"ViewPosition": None, "ViewCodeSequence": [item(CodeValue="R-10214", CodeMeaning="")]}, "PA"),
    ],
)
def test_view_position(attributes: dict[str, object], position: str) -> None:
    assert read(dicom(**attributes)).view_position == position


def test_burned_in_annotation_is_carried() -> None:
    assert read(dicom(BurnedInAnnotation="YES")).burned_in == "YES"
    assert read(dicom()).burned_in == ""


@pytest.mark.parametrize(
    "attributes",
    [
        {"BodyPartExamined": None},
        {"BodyPartExamined": "UNKNOWN"},
        {"BodyPartExamined": "HAND", "AnatomicRegionSequence": [item(CodeValue="T-D3000", CodeMeaning="Chest")]},
        {"PatientOrientation": ["H", "L"]},
        {"PhotometricInterpretation": "MONOCHROME1"},
    ],
)
def test_doubts_are_told(attributes: dict[str, object]) -> None:
    told = len(read(dicom(PixelSpacing=["0.1", "0.1"])).warnings)
    assert told == 0
    assert len(read(dicom(PixelSpacing=["0.1", "0.1"], **attributes)).warnings) == 1


@pytest.mark.parametrize("words", ["CHEST", "THORAX", "THORAX PA", "TORAX", "LUNG", "CXR", "CHESTABDOMEN"])
def test_words_for_the_chest(words: str) -> None:
    read(dicom(BodyPartExamined=words))


# --- refusals


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Modality": "CT"}, "modality is CT"),
        ({"Modality": None}, "modality is unstated"),
        ({"BodyPartExamined": "HAND"}, "not the chest"),
        (
            {"BodyPartExamined": None, "AnatomicRegionSequence": [item(CodeValue="1", CodeMeaning="Hand")]},
            "not the chest",
        ),
        ({"ViewPosition": "LL"}, "lateral"),
        ({"ViewPosition": "LATERAL"}, "lateral"),
        ({"ViewPosition": "RLD"}, "lateral"),
        ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, "lateral"),
        ({"ViewPosition": None, "ViewCodeSequence": [item(CodeValue="399173006", CodeMeaning="")]}, "lateral"),
        ({"ViewPosition": None, "SeriesDescription": "view: LATERAL"}, "lateral"),
        ({"NumberOfFrames": "2"}, "2 frames"),
    ],
)
def test_what_is_no_frontal_chest_is_refused(attributes: dict[str, object], reason: str) -> None:
    with pytest.raises(NotChestRadiograph, match=reason):
        read(dicom(**attributes))


def test_a_thumbnail_is_refused() -> None:
    with pytest.raises(NotChestRadiograph, match="too small"):
        read(dicom(chest(40, 200)))


def test_a_report_holds_no_image() -> None:
    with pytest.raises(NotChestRadiograph, match="no image"):
        read(as_file(dataset(BASIC_TEXT_SR)))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "photometric"),
        ({"BitsAllocated": 32}, "8 or 16 bits"),
        ({"BitsStored": 14, "HighBit": 20}, "contradict"),
        ({"Rows": 200}, "cut short"),
        ({"Rows": 65535, "Columns": 65535}, "over the limit"),
    ],
)
def test_a_header_that_lies_is_refused(attributes: dict[str, object], reason: str) -> None:
    with pytest.raises(UnreadableDicom, match=reason):
        read(dicom(**attributes))


@pytest.mark.parametrize("syntax", sorted(ENCODERS))
def test_a_stream_of_another_size_is_refused(syntax: str) -> None:
    bits = 8 if syntax in EIGHT_BITS_ONLY else 12
    with pytest.raises(UnreadableDicom):
        read(dicom(chest(bits=bits), syntax, BitsStored=bits, Rows=97))


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED, RLE, *sorted(ENCODERS)])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_was_cut_is_refused(syntax: str, share: float) -> None:
    bits = 8 if syntax in EIGHT_BITS_ONLY else 12
    data = dicom(chest(bits=bits), syntax, BitsStored=bits)
    with pytest.raises((UnreadableDicom, NotChestRadiograph)):
        read(data[: int(len(data) * share)])


@pytest.mark.parametrize("syntax", sorted(set(ENCODERS) - {JPEG_XL}))
def test_a_stream_that_was_cut_is_refused_though_the_file_is_whole(syntax: str) -> None:
    bits = 8 if syntax in EIGHT_BITS_ONLY else 12
    whole = bytes(ENCODERS[syntax](chest(bits=bits)))  # without a JPEG XL whose codes cannot tell zeros from pixels
    half = whole[: len(whole) // 2]
    data = dicom(chest(bits=bits), syntax, BitsStored=bits)
    at = data.rindex(whole[:64])
    padded = half + bytes(len(whole) - len(half))
    with pytest.raises(UnreadableDicom):
        read(data[:at] + padded + data[at + len(whole) :])


def test_a_damaged_jpeg_scan_is_refused() -> None:
    data = bytearray(dicom(chest(bits=8), JPEG, BitsStored=8))
    scan = data.rindex(b"\xff\xda")
    del data[scan + 300 : scan + 400]
    data += b"\0" * 100
    with pytest.raises(UnreadableDicom):
        read(bytes(data))


def test_a_deflated_bomb_is_refused() -> None:
    limits = replace(DEFAULT_LIMITS, file_bytes=1 << 20)
    bomb = dicom(np.zeros((2000, 2000), np.uint16), DEFLATED)
    assert len(bomb) < limits.file_bytes
    with pytest.raises(UnreadableDicom, match="inflates"):
        read_instance(bomb, limits)


def test_a_blank_image_is_refused() -> None:
    with pytest.raises(UnreadableDicom, match="blank"):
        read(dicom(np.full((96, 96), 7, np.uint16)))


def test_an_unknown_transfer_syntax_is_refused_with_advice() -> None:
    data = dicom(syntax=JPEG_LS).replace(b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.99")
    with pytest.raises(UnreadableDicom, match="transfer syntax") as refused:
        read(data)
    assert "uncompressed" in refused.value.remedy


@pytest.mark.parametrize("data", [b"", b"\0" * 200, b"%PDF-1.7 " + b"x" * 500, b"DICM", b"a,b\n1,2\n" * 40])
def test_what_is_not_dicom_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableDicom, match=r"not a DICOM file|cut short"):
        read_instance(data)


def test_refusals_and_representations_quote_no_patient() -> None:
    data = dicom(PixelSpacing=["0.15", "0.15"], PatientBirthDate="19700101").replace(b"19700101", b"DOE^JANE")
    instance = read_instance(data)
    assert instance.header.text("PatientBirthDate") in ("", "DOE^JANE")
    assert "SYNTHETIC" not in repr(instance)
    with pytest.raises(UnreadableDicom) as refused:
        read_instance(data[: data.index(b"SYNTHETIC^ONE") + 5])
    assert "SYNTH" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_an_instance_says_what_its_file_says() -> None:
    instance = read_instance(dicom(ImageLaterality="L"))
    assert (instance.modality, instance.view, instance.laterality) == ("DX", View.PA, "L")
    assert (instance.rows, instance.columns, instance.frames) == (96, 112, 1)
    assert instance.transfer_syntax == EXPLICIT


# --- real files


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("CR_mono1_10bit_chest.dcm", 440, 440),
        ("CR_rg1_15bit_jpegls.dcm", 1955, 1841),
        ("DX_966_12bit_j2k.dcm", 2128, 2000),
        ("DX_proscan_16bit.dcm", 1416, 1420),
        ("nih_1.3.6.1.4.1.11129.5.5.110503645592756492463169821050252582267888.dcm", 1024, 1024),
        ("rsna_1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm", 1024, 1024),
        ("rsna_c64d5667-a776-4f95-9e21-bfabafb07740.dcm", 1024, 1024),
        ("odd/Fake_MONOHR1.dcm", 1024, 1024),
    ],
)
def test_real_files_go_through(name: str, rows: int, columns: int) -> None:
    found = read((REAL_DATA / "dicom" / name).read_bytes())
    assert found.pixels.shape == (rows, columns)
    assert (found.pixels.min(), found.pixels.max()) == (0.0, 1.0)
    # Both of these are stored against their own headers, which have the last word.
    against = name in ("DX_proscan_16bit.dcm", "odd/Fake_MONOHR1.dcm")
    assert any("inverted" in note for note in found.warnings) is against


def test_the_broken_real_file_is_refused() -> None:
    with pytest.raises(UnreadableDicom, match="JPEG 2000 stream is broken"):
        read((REAL_DATA / "dicom" / "odd" / "966.dcm").read_bytes())


for _test in (test_real_files_go_through, test_the_broken_real_file_is_refused):
    for _mark in needs("dicom"):
        _mark(_test)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from Linux")
def test_a_large_image_is_read_in_little_memory() -> None:
    """3000 x 3000 of 16 bits: 18 MB of file, 36 MB of float32."""
    data = dicom(np.tile(chest(300, 300, 16), (10, 10)), PixelPaddingValue=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read(data).pixels.shape == (3000, 3000)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 200
