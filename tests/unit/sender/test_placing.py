"""Files that come after their study was accepted, at a whole clinic without a hub."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from tests.support.clinic import Clinic
from tests.support.dicoms import STUDY_UID, chest, dicom
from thinwire.sender.intake.deidentify import IDENTIFIED, KEY_BYTES, Deidentifier, Options
from thinwire.sender.outbox.tables import ledger
from thinwire.sender.service import Accepted, RefusedStudy, SendOptions, StudyText, accept_files
from thinwire.shared.identifiers import StudyKey, TextSource, digest


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


def frontal(**attributes: Any) -> bytes:
    return dicom(chest(seed=1), SOPInstanceUID=f"{STUDY_UID}.1", ViewPosition="PA", **attributes)


def lateral(**attributes: Any) -> bytes:
    return dicom(chest(seed=2), SOPInstanceUID=f"{STUDY_UID}.2", ViewPosition="LL", **attributes)


def take(clinic: Clinic, *files: bytes) -> list[Accepted | RefusedStudy]:
    folder = clinic.data.parent / f"in-{sum(1 for _ in clinic.data.parent.iterdir())}"
    folder.mkdir()
    for number, data in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(data)
    return list(accept_files(clinic.pipeline, clinic.quarantine, [folder]))


def accepted(clinic: Clinic, *files: bytes) -> StudyKey:
    (outcome,) = take(clinic, *files)
    assert isinstance(outcome, Accepted)
    return outcome.study.key


def deidentified(clinic: Clinic) -> None:
    folder = clinic.data / IDENTIFIED
    clinic.pipeline.deidentifier = Deidentifier(b"k" * KEY_BYTES, Options(), folder, clinic.disk)


def of_an_earlier_version(clinic: Clinic) -> None:
    """The ledger as version 2 of the database had it."""
    with clinic.database.write() as connection:
        connection.execute(update(ledger).values(of_study=None, file=None))


@pytest.mark.parametrize("again", [frontal, lateral])
def test_a_part_of_a_deidentified_study_that_comes_again_is_not_sent_twice(clinic: Clinic, again: object) -> None:
    assert callable(again)
    deidentified(clinic)
    study = accepted(clinic, frontal(), lateral())
    assert accepted(clinic, again()) == study
    assert accepted(clinic, frontal(), lateral()) == study
    assert len(clinic.outbox.entries()) == 1
    assert clinic.quarantine.count() == 0


def test_a_repeat_with_a_late_view_adds_to_a_study_that_was_accepted_before_an_update(clinic: Clinic) -> None:
    study = accepted(clinic, frontal())
    of_an_earlier_version(clinic)
    outcomes = take(clinic, frontal(), lateral())
    assert [type(each) for each in outcomes] == [Accepted, Accepted]
    (added,) = [each for each in clinic.outbox.entries() if each.study != study]
    assert added.adds_to == study
    assert clinic.quarantine.count() == 0


@pytest.mark.parametrize("before", [True, False])
def test_files_with_identity_do_not_join_a_study_without_it_nor_the_reverse(clinic: Clinic, before: bool) -> None:
    """Together at the hub they would tell whose pseudonym it is."""
    if before:
        deidentified(clinic)
    accepted(clinic, frontal())
    if before:
        clinic.pipeline.deidentifier = None
    else:
        deidentified(clinic)
    (outcome,) = take(clinic, lateral())
    assert isinstance(outcome, RefusedStudy)
    assert "another setting of identity" in str(outcome.error)
    assert len(clinic.outbox.entries()) == 1
    assert clinic.quarantine.count() == 1


def test_a_person_adds_a_late_view_to_a_study_that_the_clinic_has_forgotten(clinic: Clinic) -> None:
    study = accepted(clinic, frontal())
    of_an_earlier_version(clinic)
    (refused,) = take(clinic, lateral())
    assert isinstance(refused, RefusedStudy)
    assert "--add-to" in refused.error.remedy
    path = clinic.quarantine.path(digest(lateral()))
    assert path is not None
    (outcome,) = accept_files(clinic.pipeline, clinic.quarantine, [path], None, SendOptions(add_to=study))
    assert isinstance(outcome, Accepted)
    assert outcome.entry.adds_to == study
    assert clinic.quarantine.count() == 0
    assert len(take(clinic, lateral())) == 1
    assert len(clinic.outbox.entries()) == 2


def test_what_belongs_to_a_study_already_is_not_added_to_another(clinic: Clinic) -> None:
    study = accepted(clinic, frontal())
    other = StudyKey(bytes(16))
    folder = clinic.data.parent / "again"
    folder.mkdir()
    (folder / "0.dcm").write_bytes(frontal())
    (outcome,) = accept_files(clinic.pipeline, clinic.quarantine, [folder], None, SendOptions(add_to=other))
    assert isinstance(outcome, Accepted)
    assert outcome.study.key == study


def test_a_late_file_that_cannot_be_written_without_identity_keeps_no_other_back(clinic: Clinic) -> None:
    deidentified(clinic)
    study = accepted(clinic, frontal())
    broken = dicom(chest(seed=3), SOPInstanceUID=f"{STUDY_UID}.3", ViewPosition="LL", NumberOfFrames="2")
    (outcome,) = take(clinic, lateral(), broken)
    assert isinstance(outcome, Accepted)
    assert outcome.entry.adds_to == study
    assert any(each.startswith("1 of 2 files") for each in outcome.study.warnings)
    assert clinic.quarantine.count() == 0


def test_a_file_that_stays_at_the_clinic_comes_again_without_effect(clinic: Clinic) -> None:
    deidentified(clinic)
    page = dicom(chest(seed=3), SOPInstanceUID=f"{STUDY_UID}.3", NumberOfFrames="2")
    study = accepted(clinic, frontal(), page)
    assert accepted(clinic, page) == study
    assert clinic.quarantine.count() == 0


def test_a_repeat_with_another_text_is_refused_and_the_study_stays_accepted(clinic: Clinic) -> None:
    study = accepted(clinic, frontal())
    folder = clinic.data.parent / "again"
    folder.mkdir()
    (folder / "0.dcm").write_bytes(frontal())
    words = StudyText("Left effusion.", TextSource.REPORT)
    (refused,) = accept_files(clinic.pipeline, clinic.quarantine, [folder], words)
    assert isinstance(refused, RefusedStudy)
    (outcome,) = take(clinic, lateral())
    assert isinstance(outcome, Accepted)
    assert outcome.entry.adds_to == study


def test_a_study_that_was_accepted_with_identity_is_not_sent_again_without_it(clinic: Clinic) -> None:
    study = accepted(clinic, frontal())
    deidentified(clinic)
    assert accepted(clinic, frontal()) == study
    assert len(clinic.outbox.entries()) == 1
