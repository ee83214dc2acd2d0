"""Files that come after their study was accepted, at a whole clinic without a hub."""

from pathlib import Path

import pytest
from sqlalchemy import update

from tests.support.clinic import Clinic
from tests.support.dicoms import STUDY_UID, chest, dicom
from thinwire.sender.intake.deidentify import KEY_BYTES, Deidentifier, Options
from thinwire.sender.outbox.tables import ledger
from thinwire.sender.service import Accepted, RefusedStudy, accept_files
from thinwire.shared.identifiers import StudyKey


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


def frontal(**attributes: str) -> bytes:
    return dicom(chest(seed=1), SOPInstanceUID=f"{STUDY_UID}.1", ViewPosition="PA", **attributes)


def lateral(**attributes: str) -> bytes:
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
    folder = clinic.data / "originals"
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
