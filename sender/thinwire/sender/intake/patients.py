"""Comparison of the patients that the files of a study name."""

import itertools
from collections.abc import Callable, Sequence

from thinwire.shared.imaging.header import DicomHeader
from thinwire.shared.imaging.words import fold, words_of

ISSUER = "issuer of Patient ID"
_DATE_DIGITS = 8


def patients_differ(headers: Sequence[DicomHeader]) -> list[str]:
    """The names of the attributes by which two files name different patients; empty for one patient.

    Not a difference: a missing value, case, accents, padding, leading zeros, the order of a name's components, a
    missing component.
    """
    found = []
    for told, value, differ in _COMPARED:
        values = {value(header) for header in headers} - {""}
        if any(differ(*pair) for pair in itertools.combinations(values, 2)):
            found.append(told)
    return found


def _id(header: DicomHeader) -> str:
    found = fold(header.text("PatientID")).replace(" ", "")
    return found.lstrip("0") if found.isdigit() else found


def _issuer(header: DicomHeader) -> str:
    return fold(header.text("IssuerOfPatientID"))


def _name(header: DicomHeader) -> str:
    return fold(words_of(header, "PatientName").split("=")[0])


def _birth_date(header: DicomHeader) -> str:
    digits = "".join(each for each in header.text("PatientBirthDate") if each.isdigit())
    return digits if len(digits) == _DATE_DIGITS and digits.strip("0") else ""


def _unequal(a: str, b: str) -> bool:
    return a != b


def _names_differ(a: str, b: str) -> bool:
    one, other = set(a.split()), set(b.split())
    return not (one <= other or other <= one)


_COMPARED: tuple[tuple[str, Callable[[DicomHeader], str], Callable[[str, str], bool]], ...] = (
    ("Patient ID", _id, _unequal),
    (ISSUER, _issuer, _unequal),
    ("name", _name, _names_differ),
    ("birth date", _birth_date, _unequal),
)
