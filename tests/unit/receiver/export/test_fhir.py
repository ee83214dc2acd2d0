"""A study as FHIR R4: valid, the same each time, preliminary by the machine and final by a reader."""

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from fhir.resources.R4B.imagingstudy import ImagingStudy
from fhir.resources.R4B.observation import Observation
from fhir.resources.R4B.task import Task

from tests.support.clock import START
from tests.support.machine_results import BUNDLE, PREDICTION, STUDY, header_of, image_file, kept, later
from thinwire.receiver.export.fhir import FhirStudy, Written, fhir_bundle
from thinwire.shared.formats.manifest import Manifest
from thinwire.shared.identifiers import Digest, SiteName, Urgency, digest

IDENTITY = {
    "StudyInstanceUID": "1.2.826.0.1.3680043.10.1.1",
    "PatientID": "SYNTHETIC-1",
    "AccessionNumber": "A-1",
    "StudyDate": "20260304",
}


@dataclass(frozen=True)
class Words:
    state: str
    text: str
    reader_name: str
    at: datetime


def study(written: Written | None = None, **identity: str) -> FhirStudy:
    manifest = Manifest(STUDY, SiteName("north-valley"), START, BUNDLE, (), ((digest(b""), 1),), identity or IDENTITY)
    return FhirStudy(kept(), PREDICTION, manifest, written or Written())


def resources(found: FhirStudy, *files: bytes) -> dict[str, dict[str, Any]]:
    made = json.loads(fhir_bundle(found, [header_of(data) for data in files]))
    Bundle.model_validate(made)
    assert made["type"] == "transaction"
    return {entry["resource"]["resourceType"]: entry["resource"] for entry in made["entry"]}


def test_the_machine_s_word_is_preliminary_and_says_what_it_is() -> None:
    found = resources(study(), image_file(), image_file(SOPInstanceUID="1.2.9"))
    report = DiagnosticReport.model_validate(found["DiagnosticReport"])
    assert report.status == "preliminary"
    assert report.conclusion is not None
    assert "not for diagnosis" in report.conclusion
    assert "effusion: 0.80 (95 % 0.70 to 0.90), present" in report.conclusion
    assert report.resultsInterpreter is None
    effusion = found["DiagnosticReport"]["contained"][0]
    Observation.model_validate(effusion)
    assert effusion["code"]["coding"][0]["code"] == "60046008"
    assert effusion["component"][1]["valueRange"]["low"]["value"] == 0.7
    images = found["ImagingStudy"]
    ImagingStudy.model_validate(images)
    assert (images["status"], images["series"][0]["numberOfInstances"]) == ("available", 2)
    assert images["started"] == "2026-03-04"
    assert images["subject"]["identifier"]["value"] == "SYNTHETIC-1"
    task = Task.model_validate(found["Task"])
    assert (task.status, task.priority) == ("requested", "asap")


def test_a_signed_report_is_final_and_ends_the_task() -> None:
    signed = Words("final", "No pneumothorax.", "Dr Example", START + timedelta(hours=1))
    found = resources(study(Written(signed)))
    report = found["DiagnosticReport"]
    assert (report["status"], report["conclusion"]) == ("final", "No pneumothorax.")
    assert report["resultsInterpreter"] == [{"display": "Dr Example"}]
    assert {each["status"] for each in report["contained"]} == {"preliminary"}
    assert found["Task"]["status"] == "completed"
    assert found["ImagingStudy"]["status"] == "registered"


def test_a_reader_s_own_draft_is_not_given_out_and_the_machine_s_is_marked() -> None:
    own = Words("draft", "Maybe something.", "Dr Example", START)
    found = resources(study(Written(own, ("heart is large.", "no effusion."))))
    assert found["DiagnosticReport"]["status"] == "preliminary"
    said = found["DiagnosticReport"]["conclusion"]
    assert "Maybe" not in said
    assert said.endswith("Draft written by a machine:\nheart is large.\nno effusion.")


def test_a_repeat_is_the_same_request_and_each_resource_is_updated_under_its_identifier() -> None:
    made = fhir_bundle(study(), [])
    assert made == fhir_bundle(study(), [])
    entries = {entry["resource"]["resourceType"]: entry for entry in json.loads(made)["entry"]}
    assert entries["ImagingStudy"]["request"] == {
        "method": "PUT",
        "url": "ImagingStudy?identifier=urn%3Adicom%3Auid%7Curn%3Aoid%3A1.2.826.0.1.3680043.10.1.1",
    }
    assert entries["Task"]["resource"]["focus"]["reference"] == entries["ImagingStudy"]["fullUrl"]
    signed = fhir_bundle(study(Written(Words("final", "x", "Dr Example", START))), [])
    urls = [[entry["request"]["url"] for entry in json.loads(each)["entry"]] for each in (made, signed)]
    assert urls[0] == urls[1]


def test_whatever_changes_what_is_said_is_another_version() -> None:
    base = study()
    others = [
        study(Written(Words("preliminary", "a", "Dr Example", START))),
        study(Written(Words("final", "a", "Dr Example", START))),
        study(Written(draft=("a",))),
        replace(base, prediction=later(PREDICTION, urgency=Urgency.IMMEDIATE)),
        replace(base, study=replace(base.study, sealed_sizes={})),
    ]
    versions: set[Digest] = {each.version for each in (base, *others)}
    assert len(versions) == 1 + len(others)
    assert study(Written(Words("draft", "a", "Dr Example", START))).version == base.version


def test_a_patient_whom_the_clinic_does_not_name_and_a_study_without_a_uid() -> None:
    found = resources(study(PatientSex="F"))
    assert found["ImagingStudy"]["subject"]["display"] == "not named by the clinic"
    assert found["ImagingStudy"]["identifier"][0]["value"].startswith("urn:uuid:")
