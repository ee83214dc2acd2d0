"""A study, its prediction and its report as FHIR R4: ImagingStudy, DiagnosticReport and Task in one transaction.

Built and validated with fhir.resources' R4B, in which these three equal R4. Each entry is a conditional update
(https://hl7.org/fhir/R4/http.html#cond-update): a repeat is idempotent, and a final report replaces the preliminary
one. Patients are referred to by their identifier; none is created.
"""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import quote

from fhir.resources.R4B.bundle import Bundle
from pydicom.dataset import Dataset

from thinwire.receiver.export.best_image import StudyImages
from thinwire.receiver.export.machine_result import NOT_FOR_DIAGNOSIS, finding_code, text_of
from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.store.records import StoredFinding, StoredPrediction, StoredStudy
from thinwire.shared.formats.manifest import Manifest
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import Digest, SiteName, StudyKey, Tier, Urgency, digest
from thinwire.shared.imaging.grammar import day, written

_NAMESPACE = uuid.UUID("0b6c2c0e-8a59-5f0e-93b7-0f9a3f5b7d11")
_URI = "urn:ietf:rfc:3986"
_DICOM = "http://dicom.nema.org/resources/ontology/DCM"
_SYSTEMS = {"SCT": "http://snomed.info/sct"}
_PRIORITY = {
    Urgency.IMMEDIATE: "stat",
    Urgency.URGENT: "asap",
    Urgency.UNCERTAIN: "urgent",
    Urgency.ROUTINE: "routine",
}
"""FHIR's request-priority by urgency; in FHIR, `asap` is above `urgent`."""
_LISTED = ("SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
"""The attributes without which an object is not listed."""
_OUTCOME_TEXT = {
    PredictionSet.YES: "present",
    PredictionSet.NO: "absent",
    PredictionSet.EITHER: "neither suspected nor excluded",
}


class WrittenReport(Protocol):
    """The facts of a reader's report."""

    @property
    def state(self) -> str:
        """ "draft" is not released; "preliminary" and "final" are."""
        ...

    @property
    def text(self) -> str: ...

    @property
    def reader_name(self) -> str: ...

    @property
    def at(self) -> datetime: ...


@dataclass(frozen=True)
class Written:
    """The texts on a study."""

    report: WrittenReport | None = None
    """The newest version of the reader's report."""
    draft: tuple[str, ...] = ()
    """Sentences of the machine's draft."""


WrittenOf = Callable[[SiteName, StudyKey], Written]


def nothing_written(site: SiteName, study: StudyKey) -> Written:
    """For a hub without reports and drafts."""
    del site, study
    return Written()


@dataclass(frozen=True)
class FhirStudy:
    study: StoredStudy
    prediction: StoredPrediction
    manifest: Manifest = field(repr=False)
    written: Written = field(repr=False)

    @property
    def released(self) -> WrittenReport | None:
        """The reader's report, if it is preliminary or final."""
        report = self.written.report
        return None if report is None or report.state == "draft" else report

    @property
    def version(self) -> Digest:
        """A digest of the content of the resources."""
        report, prediction = self.released, self.prediction
        facts = [
            [prediction.bundle.hex(), micros(prediction.at), str(prediction.urgency)],
            self.study.sealed_sizes.get(Tier.ORIGINALS),
            micros(self.manifest.created),
            None if report is None else [str(report.state), report.text, report.reader_name, micros(report.at)],
            list(self.written.draft),
            *([self.study.taken] if self.study.taken else []),
        ]
        return digest(json.dumps(facts).encode())


def fhir_study(study: StoredStudy, study_images: StudyImages, written: WrittenOf) -> FhirStudy | None:
    """None without a prediction, or without the manifest, which has the patient. Raises BadManifest, BadFormat."""
    manifest = study_images.manifest(study.site, study.study)
    if study.prediction is None or manifest is None:
        return None
    return FhirStudy(study, study.prediction, manifest, written(study.site, study.study))


def fhir_bundle(found: FhirStudy, headers: Sequence[Dataset | None]) -> bytes:
    """The transaction as JSON in UTF-8; the same study gives the same bytes.

    headers: one for each of the study's files, if they are received; None for a file that is not DICOM.
    """
    images, report, task = (_imaging_study(found, headers), _diagnostic_report(found), _task(found))
    bundle = Bundle.model_validate(
        {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [_entry(found, resource) for resource in (images, report, task)],
        }
    )
    return str(bundle.model_dump_json(indent=1)).encode()


def _entry(found: FhirStudy, resource: dict[str, Any]) -> dict[str, Any]:
    identifier = resource["identifier"][0]
    token = quote(f"{identifier['system']}|{identifier['value']}", safe="")
    kind = resource["resourceType"]
    return {
        "fullUrl": _name(found, kind),
        "resource": resource,
        "request": {"method": "PUT", "url": f"{kind}?identifier={token}"},
    }


def _name(found: FhirStudy, of: str) -> str:
    return f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{of} {found.study.site} {found.study.study.hex()}')}"


def _subject(found: FhirStudy) -> dict[str, Any]:
    number = _identity(found, "PatientID")
    if not number:
        return {"type": "Patient", "display": "not named by the clinic"}
    return {"type": "Patient", "identifier": {"value": number}}


def _identity(found: FhirStudy, keyword: str) -> str:
    """A value of the study's identity as text for FHIR; empty without one, or if it has control characters."""
    return written("UT", found.manifest.identity.get(keyword, "").strip())


def _imaging_study(found: FhirStudy, headers: Sequence[Dataset | None]) -> dict[str, Any]:
    uid, accession = _identity(found, "StudyInstanceUID"), _identity(found, "AccessionNumber")
    identifiers: list[dict[str, Any]] = [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}]
    if not uid:
        identifiers = [{"system": _URI, "value": _name(found, "ImagingStudy")}]
    if accession:
        kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}
        identifiers.append({"type": kind, "value": accession})
    modality = written("CS", found.study.modality or "").strip()
    started = day(_identity(found, "StudyDate"))
    made: dict[str, Any] = {
        "resourceType": "ImagingStudy",
        "identifier": identifiers,
        "status": "available" if headers else "registered",
        "subject": _subject(found),
        "modality": [{"system": _DICOM, "code": modality}] if modality else None,
        "description": "Chest radiograph",
        "series": _series(headers) or None,
        "started": None if started is None else started.isoformat(),
    }
    return _stated(made)


def _series(headers: Sequence[Dataset | None]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for header in headers:
        if header is None or not all(text_of(header, keyword) for keyword in _LISTED):
            continue
        uid = text_of(header, "SeriesInstanceUID")
        coding = {"system": _DICOM, "code": text_of(header, "Modality") or "OT"}
        series = found.setdefault(uid, {"uid": uid, "modality": coding, "instance": []})
        sop_class = {"system": _URI, "code": f"urn:oid:{text_of(header, 'SOPClassUID')}"}
        series["instance"].append({"uid": text_of(header, "SOPInstanceUID"), "sopClass": sop_class})
    return [{**series, "numberOfInstances": len(series["instance"])} for _, series in sorted(found.items())]


def _diagnostic_report(found: FhirStudy) -> dict[str, Any]:
    report = found.released
    observations = [
        _observation(found, n, name, each) for n, (name, each) in enumerate(sorted(found.prediction.findings.items()))
    ]
    made = {
        "resourceType": "DiagnosticReport",
        "contained": observations,
        "identifier": [{"system": _URI, "value": _name(found, "DiagnosticReport")}],
        "status": "preliminary" if report is None else str(report.state),
        "category": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}]},
        ],
        "code": {"coding": [{"system": "http://loinc.org", "code": "30745-4"}], "text": "Chest radiograph"},
        "subject": _subject(found),
        "imagingStudy": [{"reference": _name(found, "ImagingStudy")}],
        "result": [{"reference": f"#{each['id']}"} for each in observations],
        "issued": _instant(found.prediction.at if report is None else report.at),
        "performer": [{"display": f"thinwire hub, bundle {found.prediction.bundle.hex()} (machine)"}],
        "conclusion": _machine_text(found) if report is None else report.text,
        "resultsInterpreter": None if report is None else [{"display": report.reader_name}],
    }
    return _stated(made)


def _observation(found: FhirStudy, number: int, name: str, each: StoredFinding) -> dict[str, Any]:
    """A predicted finding: never final, even after a reader signs a report."""
    code = finding_code(name)
    coding = {"code": code.value, "display": code.meaning}
    if code.scheme_designator in _SYSTEMS:
        coding["system"] = _SYSTEMS[code.scheme_designator]
    return {
        "resourceType": "Observation",
        "id": f"finding-{number}",
        "status": "preliminary",
        "code": {"coding": [coding], "text": name},
        "subject": _subject(found),
        "interpretation": [{"text": _OUTCOME_TEXT[each.outcome]}],
        "note": [{"text": f"By a machine. {NOT_FOR_DIAGNOSIS}."}],
        "component": [
            {
                "code": {"coding": [{"system": _DICOM, "code": "122157"}], "text": "Probability"},
                "valueQuantity": _number(each.probability),
            },
            {
                "code": {"text": "95 % interval of the probability"},
                "valueRange": {"low": _number(each.low), "high": _number(each.high)},
            },
        ],
    }


def _machine_text(found: FhirStudy) -> str:
    prediction = found.prediction
    lines = [
        f"Machine reading, signed by nobody. {NOT_FOR_DIAGNOSIS}.",
        f"Urgency {prediction.urgency}: {prediction.reason}.",
    ]
    if prediction.unfamiliar:
        lines.append("The image is unlike the training images: probabilities mean little.")
    for name, each in sorted(prediction.findings.items(), key=lambda pair: (-pair[1].probability, pair[0])):
        lines.append(
            f"{name}: {each.probability:.2f} (95 % {each.low:.2f} to {each.high:.2f}), {_OUTCOME_TEXT[each.outcome]}."
        )
    if found.written.draft:
        lines += ["Draft written by a machine:", *found.written.draft]
    return "\n".join(lines)


def _task(found: FhirStudy) -> dict[str, Any]:
    """The reader's task: requested after triage, completed with a signed report."""
    report = found.released
    done = report is not None and report.state == "final"
    return _stated(
        {
            "resourceType": "Task",
            "identifier": [{"system": _URI, "value": _name(found, "Task")}],
            "status": "completed" if done else "requested",
            "intent": "order",
            "priority": _PRIORITY[found.prediction.urgency],
            "description": f"Read a chest radiograph; {found.prediction.urgency}: {found.prediction.reason}",
            "focus": {"reference": _name(found, "ImagingStudy")},
            "for": _subject(found),
            "authoredOn": _instant(found.prediction.at),
            "output": [{"type": {"text": "report"}, "valueReference": {"reference": _name(found, "DiagnosticReport")}}],
        }
    )


def _number(value: float) -> Mapping[str, Any]:
    return {"value": round(value, 4), "system": "http://unitsofmeasure.org", "code": "1"}


def _instant(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def _stated(resource: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resource.items() if value is not None}
