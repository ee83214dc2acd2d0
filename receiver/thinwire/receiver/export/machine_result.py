"""A prediction with the DICOM image that it refers to: the content of the structured report and secondary capture."""

import json
import re
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from thinwire.receiver.decoding.decoder import Decoder
from thinwire.receiver.export.best_image import BestImage
from thinwire.receiver.store.records import StoredPrediction, StoredStudy
from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.positional import micros
from thinwire.shared.logs import silence_libraries

SCHEME = "99THINWIRE"
"""Coding scheme designator of thinwire's private codes (PS3.16 8.2: 99 and a name)."""
NOT_FOR_DIAGNOSIS = "For research; decision support, not for diagnosis"

FINDING_CODES = {
    "consolidation": Code("95436008", "SCT", "Lung consolidation"),
    "effusion": Code("60046008", "SCT", "Pleural effusion"),
    "pneumothorax": Code("36118008", "SCT", "Pneumothorax"),
    "cardiomegaly": Code("8186001", "SCT", "Cardiomegaly"),
    "nodule": Code("786838002", "SCT", "Pulmonary nodule"),
}
"""SNOMED CT code by the bundle's finding name; other findings get a private code."""

_NAMESPACE = uuid.UUID("6f1d7f2e-3f0e-5b1c-9b59-4d0f0f6a2c11")
_REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


@dataclass(frozen=True)
class MachineResult:
    """One prediction and the study, graph, header and image that its DICOM objects need."""

    study: StoredStudy
    prediction: StoredPrediction
    graph: FusedGraph
    header: Dataset = field(repr=False)
    """The frontal image's attributes that new objects take over, in UTF-8; all type 2 attributes are present."""
    best: BestImage = field(repr=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of intake about the file."""
        return () if self.best.original is None else self.best.original.warnings

    def uid(self, of: str) -> str:
        """A UID computed from the content: the same for the same result, different for any other.

        of: the object, such as "sr".
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
        """The time of the prediction, to the second, naive: in the image's time zone, else in the hub's."""
        zone = _zone(text_of(self.header, "TimezoneOffsetFromUTC"))
        return self.prediction.at.astimezone(zone).replace(microsecond=0, tzinfo=None)

    @property
    def series_uid(self) -> str:
        """The Series Instance UID of the structured reports of this study."""
        return named_uid(
            "series", json.dumps([self.study.site, self.study.study.hex(), str(self.header.StudyInstanceUID)])
        )


def finding_code(name: str) -> Code:
    return FINDING_CODES.get(name) or Code(name[:16], SCHEME, name[:64])


def machine_result(study: StoredStudy, graph: FusedGraph, best: BestImage, decoder: Decoder) -> MachineResult | None:
    """None without a prediction or the originals. graph: the study's. best: its image, to whose file the result refers.

    Raises UnreadableDicom: the reason why no DICOM object can refer to the file.
    """
    if study.prediction is None or best.original is None:
        return None
    silence_libraries()
    header = decoder.header(best.original.member.data)
    if not all(text_of(header, keyword) for keyword in _REQUIRED):
        decoder.dicom_object(best.original.member.data)  # raises the reason
        raise UnreadableDicom("the study's image has no header to which a report could refer")
    return MachineResult(study, study.prediction, graph, header, best)


def text_of(header: Dataset, keyword: str) -> str:
    """An attribute as text; empty if it is absent."""
    return str(header.get(keyword) or "")


def unusable(error: Exception) -> UnreadableDicom:
    """The error for a header that cannot be copied into a new object; its message has no values."""
    return UnreadableDicom(
        f"the header of the study's image cannot be copied into a new object ({type(error).__name__})",
        "The study's files are forwarded unchanged; the prediction is on the hub's worklist.",
    )


def _zone(offset: str) -> timezone | None:
    """The zone of an offset such as "+0330" (PS3.3 C.12.1.1.8)."""
    found = re.fullmatch(r"([+-])(\d\d)(\d\d)", offset)
    if found is None:
        return None
    minutes = int(found[2]) * 60 + int(found[3])
    return timezone(timedelta(minutes=minutes if found[1] == "+" else -minutes)) if minutes < 1440 else None


def named_uid(of: str, facts: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) computed from a name (RFC 9562, version 5): the same for the same name."""
    return str(UID(f"2.25.{uuid.uuid5(_NAMESPACE, f'{of} {facts}').int}"))
