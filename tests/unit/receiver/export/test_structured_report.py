"""The reading as DICOM SR and Secondary Capture: what they say, that they are valid, and that a repeat is the same."""

import shutil
import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from highdicom import sr

from tests.support.dicoms import chest, with_uid
from tests.support.machine_results import NAMES, PREDICTION, best_image_of, graph, image_file, kept, later, result
from tests.support.odd_headers import ODD_HEADERS as ODD
from thinwire.receiver.decoding.decoder import Decoder
from thinwire.receiver.decoding.process import RENDERING
from thinwire.receiver.export.best_image import BestImage
from thinwire.receiver.export.machine_result import machine_result
from thinwire.receiver.export.secondary_capture import secondary_capture
from thinwire.receiver.export.structured_report import structured_report
from thinwire.shared.drawing import HEIGHT, IMAGE_AT, WIDTH
from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.identifiers import Urgency

FULL: dict[str, Any] = {
    "PatientName": "Müller^Änne",
    "SpecificCharacterSet": "ISO_IR 192",
    "PatientSex": "F",
    "PatientBirthDate": "19700102",
    "StudyDate": "20260304",
    "StudyTime": "101500",
    "StudyID": "7",
    "AccessionNumber": "A-1",
    "TimezoneOffsetFromUTC": "+0300",
}

DSRDUMP = shutil.which("dsrdump")


def opened(data: bytes) -> sr.ComprehensiveSR:
    return sr.srread(BytesIO(data))


def test_a_report_says_each_finding_with_its_interval_and_what_it_leaves_possible() -> None:
    data = structured_report(result(image_file(**FULL)))
    document = opened(data)
    assert isinstance(document, sr.ComprehensiveSR)
    assert (document.VerificationFlag, document.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert str(document.PatientName) == "Müller^Änne"
    assert (document.StudyInstanceUID, document.AccessionNumber) == (image_header().StudyInstanceUID, "A-1")
    groups = document.content.get_image_measurement_groups()
    said = {group.finding_type.meaning: group for group in groups}
    assert set(said) == {"Pleural effusion", "Pneumothorax", "something else"}
    (probability,) = said["Pleural effusion"].get_measurements()
    assert probability.value == 0.8
    around = {item.name.meaning[0]: float(item.value) for item in probability[0].ContentSequence}
    assert around == {"+": 0.1, "-": 0.1}
    words = {item.name.meaning: item.value.meaning for item in said["Pneumothorax"].get_qualitative_evaluations()}
    assert words["Finding present, by conformal prediction set"] == "Uncertain"
    assert words["Intended use"] == "For Research"
    for said_too in ("not for diagnosis", PREDICTION.bundle.hex(), "effusion suspected", "5 of 64 patches"):
        assert said_too.encode() in data


def test_each_kept_region_lies_where_the_patch_lies_in_the_image_that_was_read() -> None:
    document = opened(structured_report(result()))
    groups = document.content.get_planar_roi_measurement_groups()
    outlines = []
    for group in groups:
        region = group.roi
        assert isinstance(region, sr.ImageRegion)
        source = region.ContentSequence[0].ReferencedSOPSequence[0]
        assert source.ReferencedSOPInstanceUID == image_header().SOPInstanceUID
        outlines.append((tuple(region.value.min(axis=0)), tuple(region.value.max(axis=0))))
        assert np.array_equal(region.value[0], region.value[-1])
    boxes = [graph().grid.native_box(int(cell)) for cell in graph().patches.cell]
    assert outlines == [((x, y), (x + width, y + height)) for x, y, width, height in boxes]
    shares = [group.get_measurements()[0].value for group in groups]
    assert shares == pytest.approx(graph().patches.score.tolist())
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == image_header().SOPInstanceUID


def test_a_repeat_is_the_same_bytes_and_another_reading_is_another_object() -> None:
    first, capture = structured_report(result()), secondary_capture(result(), NAMES)
    assert structured_report(result()) == first
    assert secondary_capture(result(), NAMES) == capture
    other = result(prediction=later(PREDICTION, urgency=Urgency.IMMEDIATE))
    assert opened(structured_report(other)).SOPInstanceUID != opened(first).SOPInstanceUID
    assert opened(structured_report(other)).SeriesInstanceUID == opened(first).SeriesInstanceUID
    assert len({opened(first).SOPInstanceUID, pydicom.dcmread(BytesIO(capture)).SOPInstanceUID}) == 2


def test_the_moment_of_a_reading_is_told_in_the_zone_of_the_image() -> None:
    assert opened(structured_report(result(image_file(**FULL)))).ContentTime == "150000"  # 12:00 UTC


def test_the_capture_shows_the_picture_and_says_what_it_is() -> None:
    made = pydicom.dcmread(BytesIO(secondary_capture(result(image_file(**FULL)), NAMES)))
    assert made.pixel_array.shape == (HEIGHT, WIDTH, 3)
    assert made.pixel_array.std() > 5
    assert made.StudyInstanceUID == image_header().StudyInstanceUID
    assert made.ImageType == ["DERIVED", "SECONDARY"]
    assert "not for diagnosis" in made.SeriesDescription
    assert "not for diagnosis" in made.DerivationDescription
    assert "BurnedInAnnotation" not in made
    box_rows = pydicom.dcmread(BytesIO(secondary_capture(result(image_file(BurnedInAnnotation="YES")), NAMES)))
    assert box_rows.BurnedInAnnotation == "YES"


def test_a_capture_of_another_picture_is_another_object() -> None:
    found = result()
    nothing = replace(found, best=BestImage(None, "nothing yet"))
    drawn = {pydicom.dcmread(BytesIO(secondary_capture(each, NAMES))).SOPInstanceUID for each in (found, nothing)}
    assert len(drawn) == 2


def test_a_file_without_preamble_is_referred_to() -> None:
    """As clinics accept it (PS3.10 7.1 asks for a preamble); its data set names it."""
    whole = image_file(SOPInstanceUID="1.2.3.9")
    start = 132 + 12 + int.from_bytes(whole[140:144], "little")
    report = pydicom.dcmread(BytesIO(structured_report(result(whole[start:]))))
    assert "1.2.3.9" in str(report)


def test_a_picture_without_header_has_no_dicom_result() -> None:
    png = bytes(imagecodecs.png_encode(chest(300, 280)))
    with pytest.raises(UnreadableDicom, match="not a DICOM file"):
        machine_result(kept(), graph(), best_image_of(png), Decoder(RENDERING, 1 << 30))


def test_a_result_that_no_object_can_refer_to_has_its_reason() -> None:
    long = with_uid("SOPInstanceUID", f"1.2.{'3' * 74}", chest(300, 280))
    with pytest.raises(UnreadableDicom, match="its SOP Instance UID has 78 characters"):
        machine_result(kept(), graph(), best_image_of(long), Decoder(RENDERING, 1 << 30))
    assert machine_result(kept(None), graph(), best_image_of(long), Decoder(RENDERING, 1 << 30)) is None


@pytest.mark.parametrize(
    ("stated", "expected"), [("L\\F", ["L", "F"]), ("R\\F", ["R", "F"]), ("", ""), ("L", ""), ("X\\Y", "")]
)
def test_a_capture_lies_as_its_image_says(stated: str, expected: object) -> None:
    attributes: Any = {"PatientOrientation": stated.split("\\")} if stated else {}
    made = pydicom.dcmread(BytesIO(secondary_capture(result(image_file(**attributes)), NAMES)))
    assert (list(made.PatientOrientation) if made.PatientOrientation else "") == expected


def test_the_picture_of_a_capture_marks_the_sides_that_the_image_states() -> None:
    """Of two equal images, one says nothing of its orientation: the capture's pixels differ by the letters alone."""
    data = image_file(PatientOrientation=["L", "F"]), image_file()
    stated, silent = (
        pydicom.dcmread(BytesIO(secondary_capture(result(each), NAMES))).pixel_array.astype(int) for each in data
    )
    letters = np.argwhere((stated != silent).any(axis=-1))
    left, top, right, bottom = IMAGE_AT
    assert len(letters) > 100
    assert ((letters >= (top, left)) & (letters < (bottom, right))).all()


def test_the_warnings_of_intake_stand_in_the_report() -> None:
    data = structured_report(result(warnings=("no view is stated; taken to be frontal",)))
    texts = [element.value for element in opened(data).iterall() if element.keyword == "TextValue"]
    assert "no view is stated; taken to be frontal" in texts


def test_a_header_that_cannot_be_carried_over_is_refused_without_its_values() -> None:
    found = result()
    found.header.StudyDate = ["20260101", "20260102"]
    with pytest.raises(UnreadableDicom) as refused:
        structured_report(found)
    assert "2026" not in str(refused.value)


@pytest.mark.parametrize("form", sorted(ODD))
def test_every_readable_header_gives_a_valid_report_and_capture(form: str, tmp_path: Path) -> None:
    """Whatever the header has: what cannot stand is empty, the rest is in UTF-8."""
    data, expected = ODD[form]
    found = result(data)
    for made in (structured_report(found), secondary_capture(found, NAMES)):
        new = pydicom.dcmread(BytesIO(made))
        assert new.SpecificCharacterSet == "ISO_IR 192"
        copied = {
            keyword: text for keyword, text in expected.items() if new.Modality == "SR" or keyword != "PatientAge"
        }
        assert {keyword: str(new.get(keyword, "-")) for keyword in copied} == copied
        if DSRDUMP is not None and new.Modality == "SR":
            (tmp_path / "sr.dcm").write_bytes(made)
            said = subprocess.run([DSRDUMP, str(tmp_path / "sr.dcm")], capture_output=True, text=True, check=False)
            assert (said.returncode, [line for line in said.stderr.splitlines() if line[:2] in ("E:", "F:")]) == (0, [])


@pytest.mark.skipif(DSRDUMP is None, reason="DCMTK is not installed: apt-get install dcmtk")
@pytest.mark.parametrize("attributes", [{}, FULL])
def test_dcmtk_reads_the_report_without_a_word_of_complaint(tmp_path: Path, attributes: dict[str, Any]) -> None:
    (tmp_path / "sr.dcm").write_bytes(structured_report(result(image_file(**attributes))))
    words = ["dsrdump", str(tmp_path / "sr.dcm")]
    read = subprocess.run(words, capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr
    assert not [line for line in read.stderr.splitlines() if line[:2] in ("E:", "F:")]
    assert "Comprehensive SR Document" in read.stdout
    assert "POLYLINE" in read.stdout


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed: apt-get install dicom3tools")
@pytest.mark.parametrize("attributes", [{}, FULL])
def test_dciodvfy_finds_no_error(tmp_path: Path, attributes: dict[str, Any]) -> None:
    found = result(image_file(**attributes))
    for name, data in (("sr", structured_report(found)), ("capture", secondary_capture(found, NAMES))):
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(data)
        said = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        assert not [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


def image_header() -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(image_file()))
