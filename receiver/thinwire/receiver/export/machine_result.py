"""What the hub read in one study, bound to the DICOM image that was read: the ground of report and capture."""

import json
import re
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.coding import Code
from pydicom.uid import UID

from thinwire.receiver.export.best_image import BestImage
from thinwire.receiver.store.records import StoredPrediction, StoredStudy
from thinwire.shared.errors import BadInput, UnreadableDicom
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.positional import micros
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS
from thinwire.shared.imaging.header import part10
from thinwire.shared.logs import silence_libraries

SCHEME = "99THINWIRE"
"""Designator of our own codes, where no standard has one (PS3.16 8.2: 99 for what is private)."""
NOT_FOR_DIAGNOSIS = "For research; decision support, not for diagnosis"

FINDING_CODES = {
    "consolidation": Code("95436008", "SCT", "Lung consolidation"),
    "effusion": Code("60046008", "SCT", "Pleural effusion"),
    "pneumothorax": Code("36118008", "SCT", "Pneumothorax"),
    "cardiomegaly": Code("8186001", "SCT", "Cardiomegaly"),
    "nodule": Code("786838002", "SCT", "Pulmonary nodule"),
}
"""SNOMED CT by the bundle's word; a finding that is not named here goes under its own word."""

_NAMESPACE = uuid.UUID("6f1d7f2e-3f0e-5b1c-9b59-4d0f0f6a2c11")
_REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
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
"""Type 2 in SR and Secondary Capture (PS3.3 C.7.1.1, C.7.2.1): there, and empty where the clinic's file has none."""


@dataclass(frozen=True)
class MachineResult:
    """One reading with all that is needed to say it in another system's words."""

    study: StoredStudy
    prediction: StoredPrediction
    graph: FusedGraph
    header: Dataset = field(repr=False)
    """The frontal image's own attributes, without its pixels; what type 2 asks for is there."""
    best: BestImage = field(repr=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of the clinic's reading of the file."""
        return () if self.best.original is None else self.best.original.warnings

    def uid(self, of: str) -> str:
        """A UID that follows from what is said: the same result has it again, another never.

        of: what is named, such as "sr".
        """
        prediction = self.prediction
        facts = {
            "site": self.study.site,
            "study": self.study.study.hex(),
            "image": str(self.header.SOPInstanceUID),
            "graph": [int(cell) for cell in self.graph.patches.cell],
            "findings": {name: list(found) for name, found in prediction.findings.items()},
            "urgency": [str(prediction.urgency), prediction.reason, prediction.unfamiliar],
            "bundle": prediction.bundle.hex(),
            "at": micros(prediction.at),
            "warnings": self.warnings,
        }
        return named_uid(of, json.dumps(facts, sort_keys=True))

    @property
    def predicted_at(self) -> datetime:
        """When the graph was read, to the second, naive: in the zone of the image's own times where it says one, else
        in the hub's, which is the hospital's."""
        zone = _zone(text_of(self.header, "TimezoneOffsetFromUTC"))
        return self.prediction.at.astimezone(zone).replace(microsecond=0, tzinfo=None)

    @property
    def series_uid(self) -> str:
        """Of the series that holds everything that the machine says of this study."""
        return named_uid(
            "series", json.dumps([self.study.site, self.study.study.hex(), str(self.header.StudyInstanceUID)])
        )


def finding_code(name: str) -> Code:
    return FINDING_CODES.get(name) or Code(name[:16], SCHEME, name[:64])


def machine_result(study: StoredStudy, graph: FusedGraph, best: BestImage) -> MachineResult | None:
    """None where no reading is here yet, or the file that was read is not here or is no DICOM image.

    graph: the study's. best: of its image; its original is the file to which everything refers.
    """
    silence_libraries()
    header = None if best.original is None else header_of(best.original.member.data)
    if study.prediction is None or header is None or not all(header.get(word) for word in _REQUIRED):
        return None
    return MachineResult(study, study.prediction, graph, _with_type_2(header), best)


def header_of(data: bytes) -> Dataset | None:
    """A file's attributes before its pixels, with or without preamble; None for what is no DICOM file."""
    try:
        return pydicom.dcmread(BytesIO(part10(data, DEFAULT_LIMITS)), stop_before_pixels=True)
    except BadInput:
        return None


def text_of(header: Dataset, keyword: str) -> str:
    """One value as text; empty where there is none."""
    value = header.get(keyword)
    return "" if value is None or isinstance(value, MultiValue) else str(value)


def unusable(error: Exception) -> UnreadableDicom:
    """For a header that is too far from the standard to stand in a new object; the values stay out of the words."""
    return UnreadableDicom(
        f"the header of the study's own image cannot be carried into a new object ({type(error).__name__})",
        "The study itself goes on as it is; its result is on the hub's worklist.",
    )


def _zone(offset: str) -> timezone | None:
    """The zone of an offset such as "+0330" (PS3.3 C.12.1.1.8)."""
    found = re.fullmatch(r"([+-])(\d\d)(\d\d)", offset)
    if found is None:
        return None
    minutes = int(found[2]) * 60 + int(found[3])
    return timezone(timedelta(minutes=minutes if found[1] == "+" else -minutes)) if minutes < 1440 else None


def _with_type_2(header: Dataset) -> Dataset:
    for word in _MAY_BE_EMPTY:
        if word not in header:
            setattr(header, word, "")
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = ""
    if not re.fullmatch(r"\d{3}[DWMY]", text_of(header, "PatientAge")) and "PatientAge" in header:
        del header.PatientAge  # optional, and not to be handed on where it is none (PS3.5 6.2, AS)
    return header


def named_uid(of: str, facts: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) made of a name (RFC 9562, version 5): the same name has it again."""
    return str(UID(f"2.25.{uuid.uuid5(_NAMESPACE, f'{of} {facts}').int}"))
