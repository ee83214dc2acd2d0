"""The text of a study: from a file that a person gives, or from its DICOM files.

Attributes that are used and ignored: docs/intake.md.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from thinwire.shared.errors import UnreadableText, reason_of
from thinwire.shared.identifiers import TextSource
from thinwire.shared.imaging.header import DicomHeader

MAX_TEXT_BYTES = 64 << 10
"""Bytes of a text file; a long report has five thousand."""
MAX_DICOM_CHARACTERS = 16 << 10

INDICATIONS = (
    "ReasonForTheRequestedProcedure",  # (0040,1002)
    "ReasonForVisit",  # (0032,1066)
    "ReasonForStudy",  # (0032,1030), retired and still written
    "AdmittingDiagnosesDescription",  # (0008,1080)
    "AdditionalPatientHistory",  # (0010,21B0)
)
"""Attributes with the reason for the examination, in the order in which their text is joined."""

INDICATION_CODES = (
    "ReasonForRequestedProcedureCodeSequence",  # (0040,100A)
    "ReasonForVisitCodeSequence",  # (0032,1067)
    "AdmittingDiagnosesCodeSequence",  # (0008,1084)
)
"""Their coded forms, of which the code meanings are used."""

_REPORTS = frozenset(f"1.2.840.10008.5.1.4.1.1.88.{n}" for n in (11, 22, 33))  # basic, enhanced, comprehensive SR
_REPORT_SECTIONS = frozenset(("121070", "121071", "121072", "121073", "121076", "121077"))
"""DCM codes of findings, impressions and conclusions (PS3.16 CID 7002), plural and singular."""
_DEEPEST = 16
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def read_text(source: Path | str, standard_input: BinaryIO | None = None) -> str:
    """The text of a file, or of the standard input for "-".

    UTF-8, UTF-16 with its byte order mark, else Windows-1252, the encoding of old word processors. Raises
    UnreadableText: missing, empty, longer than 64 KiB, or not text.
    """
    try:
        if str(source) == "-":
            data = (standard_input or sys.stdin.buffer).read(MAX_TEXT_BYTES + 1)
        else:
            with Path(source).open("rb") as file:
                data = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise UnreadableText(
            f"the text cannot be read ({reason_of(error)})", "Check the path of the text file."
        ) from None
    return decode_text(data)


def decode_text(data: bytes) -> str:
    """Text from its bytes; line ends as \\n, surrounding space removed. Raises UnreadableText."""
    if len(data) > MAX_TEXT_BYTES:
        raise UnreadableText(
            f"the text has more than {MAX_TEXT_BYTES} bytes", "Give only the text of the report or order."
        )
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
    for encoding in (marked,) if marked else ("utf-8", "cp1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if _CONTROL.search(text):
            break
        if not text.strip():
            raise UnreadableText("the text is empty")
        return text.strip()
    raise UnreadableText("the text holds bytes that are not text")


def text_of_study(headers: Sequence[DicomHeader]) -> tuple[str | None, TextSource]:
    """The text of a study's files: a structured report, else the indication, else None.

    headers: of all files of the study, the frontal image's first.
    """
    report = _joined(words for header in headers for words in _report_text(header))
    if report:
        return report, TextSource.REPORT
    indication = _joined(words for header in headers for words in _indication_text(header))
    return (indication, TextSource.INDICATION) if indication else (None, TextSource.GENERATED)


def _indication_text(header: DicomHeader) -> Iterator[str]:
    for each in (header, *header.items("RequestAttributesSequence")):
        yield from (each.text(keyword) for keyword in INDICATIONS)
        for keyword in INDICATION_CODES:
            yield from (item.text("CodeMeaning") for item in each.items(keyword))


def _report_text(header: DicomHeader) -> Iterator[str]:
    """The text of a structured report's findings, impressions and conclusions, in its order."""
    if header.text("SOPClassUID") in _REPORTS:
        yield from _section_text(header, inside=False, depth=0)


def _section_text(node: DicomHeader, inside: bool, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        return
    for item in node.items("ContentSequence"):
        names = {name.text("CodeValue") for name in item.items("ConceptNameCodeSequence")}
        named = inside or bool(names & _REPORT_SECTIONS)
        if named and item.code("ValueType") == "TEXT":
            yield item.text("TextValue")
        yield from _section_text(item, named, depth + 1)


def _joined(parts: Iterator[str]) -> str:
    """Distinct parts, one a line, without control characters."""
    cleaned = (_CONTROL.sub(" ", part.replace("\r\n", "\n").replace("\r", "\n")).strip() for part in parts)
    return "\n".join(dict.fromkeys(part for part in cleaned if part))[:MAX_DICOM_CHARACTERS].strip()
