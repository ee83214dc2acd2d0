"""The attributes that new objects take over from the header of the image that they refer to.

This is the one place that copies them: each value is decoded by the file's character set, checked by its VR's grammar,
and left out or emptied where it cannot stand. New objects are written in UTF-8.
"""

from typing import Any

from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset

from thinwire.shared.imaging.grammar import written
from thinwire.shared.imaging.header import DicomHeader

UTF_8 = "ISO_IR 192"
_MOST_ITEMS, _DEEPEST = 64, 4
"""Limits of a sequence that is copied."""

_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""Type 2 in SR and Secondary Capture (PS3.3 C.7.1.1, C.7.2.1): always present."""
_OPTIONAL = (
    # the image that is referred to
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "BurnedInAnnotation",
    "TimezoneOffsetFromUTC",
    # Patient module (PS3.3 C.7.1.1)
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthTime",
    "OtherPatientNames",
    "OtherPatientIDsSequence",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    # General Study module (C.7.2.1)
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "ProcedureCodeSequence",
    "PhysiciansOfRecord",
    "RequestingService",
    "ConsultingPhysicianName",
    # Patient Study module (C.7.2.2)
    "AdmittingDiagnosesDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "MedicalAlerts",
    "Allergies",
    "Occupation",
    "AdditionalPatientHistory",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "PatientState",
    # Clinical Trial Subject and Study modules (C.7.1.3, C.7.2.3)
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    # the equipment of the acquisition (C.12.1.1.5)
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DeviceSerialNumber",
    "InstitutionName",
    "InstitutionalDepartmentName",
    "InstitutionAddress",
    "StationName",
    "AcquisitionDateTime",
)
_ENUMERATED = {
    "PatientSex": ("M", "F", "O"),
    "BurnedInAnnotation": ("YES", "NO"),
    "PatientIdentityRemoved": ("YES", "NO"),
}

Fields = dict[str, list[Any]]
"""Text values by keyword; of a sequence, its items as Fields."""


def fields_of(header: DicomHeader) -> Fields:
    """The attributes that new objects may hold, as plain text."""
    found: Fields = {}
    for keyword in (*_MAY_BE_EMPTY, *_OPTIONAL):
        values = _items(header, keyword, 1) if dictionary_VR(keyword) == "SQ" else _values(header, keyword)
        if values:
            found[keyword] = values
    return found


def dataset_of(fields: Fields) -> Dataset:
    """A data set in UTF-8 with these attributes; those of type 2 are present, and empty without a value."""
    found = _dataset(fields)
    found.SpecificCharacterSet = UTF_8
    for keyword in _MAY_BE_EMPTY:
        if keyword not in found:
            setattr(found, keyword, "")
    return found


def _dataset(fields: Fields) -> Dataset:
    found = Dataset()
    for keyword, values in fields.items():
        if dictionary_VR(keyword) == "SQ":
            setattr(found, keyword, [_dataset(each) for each in values])
        else:
            setattr(found, keyword, values[0] if len(values) == 1 else values)
    return found


def _values(header: DicomHeader, keyword: str) -> list[str]:
    """The attribute's values that can stand; none of an attribute that has more values than it may have."""
    vr, text = dictionary_VR(keyword), header.text(keyword)
    several = dictionary_VM(keyword) != "1"
    values = [each.strip() for each in text.split("\\")] if several else [text]
    values = [each.upper() for each in values] if keyword in _ENUMERATED else values
    fit = [form for each in values if (form := written(vr, each))]
    return [each for each in fit if each in _ENUMERATED.get(keyword, (each,))]


def _items(header: DicomHeader, keyword: str, depth: int) -> list[Fields]:
    """The items of a sequence whose every standard attribute can stand: half a code or identifier would be another."""
    found = [_item(each, depth) for each in header.items(keyword)[:_MOST_ITEMS]]
    return [each for each in found if each]


def _item(header: DicomHeader, depth: int) -> Fields | None:
    found: Fields = {}
    for tag in header.tags:
        keyword = keyword_for_tag(tag)
        if not keyword or not header.values(keyword):
            continue
        if dictionary_VR(tag) == "SQ":
            values: list[Any] = _items(header, keyword, depth + 1) if depth < _DEEPEST else []
        else:
            values = _values(header, keyword)
        if not values:
            return None
        found[keyword] = values
    return found
