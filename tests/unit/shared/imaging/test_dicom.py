"""An instance's attributes beside its pixels, and real files."""

from typing import Any

import pytest

from tests.support.dicoms import EXPLICIT, dicom
from tests.support.radiographs import item, read
from tests.support.real_data import REAL_DATA, needs
from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.imaging.dicom import read_instance
from thinwire.shared.imaging.projection import Projection


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
def test_view_position(attributes: dict[str, Any], position: str) -> None:
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
def test_doubts_are_told(attributes: dict[str, Any]) -> None:
    told = len(read(dicom(ImagerPixelSpacing=["0.1", "0.1"])).warnings)
    assert told == 0
    assert len(read(dicom(ImagerPixelSpacing=["0.1", "0.1"], **attributes)).warnings) == 1


@pytest.mark.parametrize("words", ["CHEST", "THORAX", "THORAX PA", "TORAX", "LUNG", "CXR", "CHESTABDOMEN"])
def test_words_for_the_chest(words: str) -> None:
    read(dicom(BodyPartExamined=words))


def test_an_instance_says_what_its_file_says() -> None:
    instance = read_instance(dicom(ImageLaterality="L"))
    assert (instance.modality, instance.view, instance.laterality) == ("DX", Projection.PA, "L")
    assert (instance.rows, instance.columns, instance.frames) == (96, 112, 1)
    assert instance.transfer_syntax == EXPLICIT


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
