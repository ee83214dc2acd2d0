from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from tests.support.dicoms import BASIC_TEXT_SR, as_file, dataset, dicom
from thinwire.sender.intake.text import MAX_TEXT_BYTES, decode_text, read_text, text_of_study
from thinwire.shared.errors import UnreadableText
from thinwire.shared.identifiers import TextSource
from thinwire.shared.imaging.dicom import read_instance
from thinwire.shared.imaging.header import DicomHeader


def header(**attributes: Any) -> DicomHeader:
    return read_instance(dicom(**attributes)).header


def coded(meaning: str, value: str = "1") -> Dataset:
    found = Dataset()
    found.CodeValue, found.CodingSchemeDesignator, found.CodeMeaning = value, "DCM", meaning
    return found


def content(value_type: str, name: Dataset, text: str = "", inside: list[Dataset] | None = None) -> Dataset:
    found = Dataset()
    found.RelationshipType, found.ValueType, found.ConceptNameCodeSequence = "CONTAINS", value_type, [name]
    if text:
        found.TextValue = text
    if inside:
        found.ContentSequence = inside
    return found


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"No effusion.", "No effusion."),
        (b"\xef\xbb\xbfNo effusion.\r\nHeart normal.\r", "No effusion.\nHeart normal."),
        ("Épanchement à droite".encode(), "Épanchement à droite"),
        ("Épanchement à droite".encode("utf-16"), "Épanchement à droite"),
        ("Épanchement à droite".encode("cp1252"), "Épanchement à droite"),
        (b"  one\ttwo \n", "one\ttwo"),
    ],
)
def test_text_is_read_in_the_encodings_that_people_have(data: bytes, text: str) -> None:
    assert decode_text(data) == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t ", "empty"),
        (b"nodule\0", "not text"),
        (b"nodule \x1b[2J", "not text"),
        (b"%PDF-1.7\n\x90\x81\x8d\x8f", "not text"),
        (b"\xff\xfea", "not text"),
        (b"x" * (MAX_TEXT_BYTES + 1), "more than"),
    ],
)
def test_what_is_no_text_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableText, match=reason):
        decode_text(data)


def test_text_comes_from_a_file_or_the_standard_input(tmp_path: Path) -> None:
    (tmp_path / "note").write_bytes(b"cough")
    assert read_text(tmp_path / "note") == "cough"
    assert read_text("-", BytesIO(b"fever")) == "fever"


def test_a_missing_file_is_refused_without_its_name(tmp_path: Path) -> None:
    with pytest.raises(UnreadableText) as refused:
        read_text(tmp_path / "Doe_Jane.txt")
    assert "Doe" not in str(refused.value)


def test_without_words_the_text_is_generated() -> None:
    assert text_of_study([header()]) == (None, TextSource.GENERATED)


def test_the_indication_is_joined_from_its_attributes_in_order() -> None:
    request = Dataset()
    request.ReasonForTheRequestedProcedure = "Cough for 3 weeks"
    found = header(
        AdditionalPatientHistory="Smoker.\r\nCOPD.",
        ReasonForTheRequestedProcedure="Cough for 3 weeks",
        ReasonForRequestedProcedureCodeSequence=[coded("Pneumonia")],
        RequestAttributesSequence=[request],
    )
    assert text_of_study([found]) == ("Cough for 3 weeks\nSmoker.\nCOPD.\nPneumonia", TextSource.INDICATION)


@pytest.mark.parametrize(
    "keyword",
    ["ImageComments", "PatientComments", "StudyDescription", "SeriesDescription", "RequestedProcedureDescription"],
)
def test_comments_and_descriptions_are_noise(keyword: str) -> None:
    assert text_of_study([header(**{keyword: "SYNTHETIC pneumonia"})]) == (None, TextSource.GENERATED)


def test_a_structured_report_gives_its_findings_and_impression() -> None:
    report = dataset(BASIC_TEXT_SR, Modality="SR", BodyPartExamined=None, ViewPosition=None)
    report.ContentSequence = [
        content("TEXT", coded("History", "121060"), "Cough"),
        content(
            "CONTAINER", coded("Findings", "121070"), inside=[content("TEXT", coded("Finding", "121071"), "Opacity.")]
        ),
        content("TEXT", coded("Impression", "121073"), "Pneumonia."),
        content("PNAME", coded("Observer", "121008")),
    ]
    headers = [header(AdditionalPatientHistory="Smoker"), read_instance(as_file(report)).header]
    assert text_of_study(headers) == ("Opacity.\nPneumonia.", TextSource.REPORT)


def test_control_characters_of_a_dicom_become_space() -> None:
    assert text_of_study([header(AdditionalPatientHistory="a\x07b")])[0] == "a b"
