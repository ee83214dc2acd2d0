"""Whether two files name one patient."""

from typing import Any

import pytest

from tests.support.dicoms import as_file, dataset
from thinwire.sender.intake.patients import patients_differ
from thinwire.shared.imaging.dicom import read_instance
from thinwire.shared.imaging.header import DicomHeader

ONE: dict[str, Any] = {"PatientID": "0017 a", "PatientName": "PHANTÓM^One^Paul", "PatientBirthDate": "19700101"}


def header(**attributes: Any) -> DicomHeader:
    charset: dict[str, Any] = {"SpecificCharacterSet": "ISO_IR 192"}
    return read_instance(as_file(dataset(**{**charset, **ONE, **attributes}))).header


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"PatientID": " 0017 A"},
        {"PatientID": None, "PatientName": None, "PatientBirthDate": None},
        {"PatientName": "phantom^one^paul^^"},
        {"PatientName": "PHANTÓM^One"},
        {"PatientName": "One Phantóm"},
        {"PatientName": "Phantom^One^Paul=幻影^一"},
        {"PatientBirthDate": ""},
        {"IssuerOfPatientID": "HOSPITAL"},
    ],
)
def test_the_same_patient_written_otherwise(attributes: dict[str, Any]) -> None:
    assert patients_differ([header(), header(**attributes)]) == []


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"PatientID": "0018 a"}, ["Patient ID"]),
        ({"PatientName": "PHANTOM^Two"}, ["name"]),
        ({"PatientBirthDate": "19700102"}, ["birth date"]),
        ({"PatientID": "2", "PatientName": "OTHER^Two"}, ["Patient ID", "name"]),
    ],
)
def test_another_patient(attributes: dict[str, Any], told: list[str]) -> None:
    assert patients_differ([header(), header(PatientID=None, PatientName=None), header(**attributes)]) == told


def test_numbers_with_leading_zeros_are_one_and_two_issuers_are_two_patients() -> None:
    assert patients_differ([header(PatientID="00017"), header(PatientID="17")]) == []
    issued = [header(IssuerOfPatientID=each) for each in ("NORTH", "SOUTH")]
    assert patients_differ(issued) == ["issuer of Patient ID"]


def test_a_date_that_is_none_is_no_date() -> None:
    data = as_file(dataset(**ONE)).replace(b"19700101", b"00000000")
    assert patients_differ([header(), read_instance(data).header]) == []
