"""The clinic's DICOM port against a machine that pynetdicom plays, and against DCMTK where it is installed."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from sqlalchemy import select

from tests.support.clinic import PORT, Clinic
from tests.support.dicoms import (
    BASIC_TEXT_SR,
    BIG,
    CR,
    DEFLATED,
    DX,
    IMPLICIT,
    JPEG_2000,
    JPEG_LOSSLESS_SV1,
    JPEG_LS,
    RLE,
    STUDY_UID,
    as_file,
    chest,
    dataset,
    dicom,
)
from tests.support.programs import until
from tests.support.xray_machine import Machine
from thinwire.sender.config import DicomSettings
from thinwire.sender.config import Machine as MachineSettings
from thinwire.sender.modality.arrivals import ObjectState, ReceivedObject
from thinwire.sender.modality.port import FULL, MISMATCH, REFUSED, SUCCESS
from thinwire.sender.outbox.tables import commitments
from thinwire.sender.service import Accepted, accept_files
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import digest

INSTANCE = f"{STUDY_UID}.1.1"


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


@pytest.fixture
def machine(clinic: Clinic) -> Iterator[Machine]:
    """Of the clinic whose port is open."""
    yield Machine(clinic.port.open(), over=partial(ended, clinic))
    clinic.port.close()


def view(number: int, **attributes: Any) -> bytes:
    return dicom(chest(seed=number), SOPInstanceUID=f"{STUDY_UID}.1.{number}", **attributes)


def pixels_of(files: list[bytes]) -> set[bytes]:
    return {file[file.index(b"\xe0\x7f\x10\x00") :] for file in files}


def raw_store(opened: Association, sop_class: str, dataset: bytes) -> int:
    """C-STORE of any bytes as an object of a class; its status."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 0
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, INSTANCE
    request.DataSet = BytesIO(dataset)
    context = next(each.context_id for each in opened.accepted_contexts if each.abstract_syntax == sop_class)
    opened._reactor_checkpoint.clear()
    opened.dimse.send_msg(request, context)
    _, answer = opened.dimse.get_msg(block=True)
    opened._reactor_checkpoint.set()
    return int(answer.Status)


def ended(clinic: Clinic) -> None:
    """Every association of a machine is over."""
    for thread in list(clinic.port._open):
        thread.join(30)


def test_the_views_of_a_study_become_one_study_though_each_comes_by_itself(clinic: Clinic, machine: Machine) -> None:
    first, second = view(1), view(2, ViewPosition="LL")
    assert [status.Status for status in machine.send(first)] == [SUCCESS]
    clinic.clock.advance(5)
    clinic.service.accept_arrived(clinic.port)
    assert [status.Status for status in machine.send(second)] == [SUCCESS]
    clinic.clock.advance(6)
    clinic.service.accept_arrived(clinic.port)
    assert clinic.outbox.entries() == []
    clinic.settle()
    (files,) = clinic.files()
    assert pixels_of(files) == pixels_of([first, second])
    assert clinic.arrivals.waiting() == 0


def test_an_open_association_holds_its_study_back(clinic: Clinic, machine: Machine) -> None:
    file = view(1)
    with machine.association([file]) as opened:
        assert opened.send_c_store(dcmread(BytesIO(file))).Status == SUCCESS
        clinic.settle()
        assert clinic.outbox.entries() == []
    ended(clinic)
    clinic.settle()
    assert len(clinic.outbox.entries()) == 1


def test_a_study_does_not_wait_for_the_end_of_an_association_that_brings_other_patients(
    clinic: Clinic, machine: Machine
) -> None:
    files = [dicom(chest(seed=n), StudyInstanceUID=f"1.2.{n}", SOPInstanceUID=f"1.2.{n}.1") for n in (1, 2)]
    with machine.association(files) as opened:
        for file in files:
            assert opened.send_c_store(dcmread(BytesIO(file))).Status == SUCCESS
        clinic.settle()
        assert pixels_of(*clinic.files()) == pixels_of(files[:1])


def test_an_association_that_broke_in_its_last_object_holds_no_study_back(clinic: Clinic) -> None:
    path = clinic.arrivals.incoming / "1"
    path.write_bytes(view(1))
    request = SimpleNamespace(AffectedSOPClassUID=DX, AffectedSOPInstanceUID=INSTANCE)
    event = SimpleNamespace(assoc=object(), dataset_path=path, request=request)
    assert clinic.port._store(event).Status == SUCCESS
    assert not clinic.port.under_way
    clinic.settle()
    assert len(clinic.outbox.entries()) == 1


def test_a_refused_object_stays_until_the_quarantine_can_take_it(clinic: Clinic, machine: Machine) -> None:
    machine.send(view(1, ViewPosition="LL"))
    ended(clinic)
    clinic.quarantine._folder.write_bytes(b"")  # a disk that refuses
    clinic.settle()
    assert clinic.arrivals.waiting() == 1
    assert len(list(clinic.arrivals.folder.glob("*.dcm"))) == 1
    (parked,) = clinic.outbox.parked.items()
    assert parked.due is not None
    clinic.quarantine._folder.unlink()
    clinic.clock.advance(60)
    clinic.settle()
    assert clinic.arrivals.waiting() == 0
    assert clinic.quarantine.count() == 1


def test_a_version_that_was_accepted_while_its_object_waited_does_not_take_the_place_of_the_first(
    clinic: Clinic, machine: Machine, tmp_path: Path
) -> None:
    first, later = view(1), view(1, PatientName="Corrected")
    machine.send(later)
    ended(clinic)
    (tmp_path / "1.dcm").write_bytes(first)
    (one,) = accept_files(clinic.pipeline, clinic.quarantine, [tmp_path / "1.dcm"])
    clinic.settle()
    known = clinic.pipeline.ledger.known(INSTANCE)
    assert isinstance(one, Accepted)
    assert known is not None
    assert (known.study, known.file) == (one.study.key, digest(first))
    assert len(clinic.outbox.entries()) == 2


@pytest.mark.parametrize(
    "syntax", [IMPLICIT, BIG, DEFLATED, RLE, JPEG_LOSSLESS_SV1, JPEG_LS, JPEG_2000], ids=lambda uid: uid[-6:]
)
def test_what_intake_reads_comes_as_it_was_encoded(clinic: Clinic, machine: Machine, syntax: str) -> None:
    assert [status.Status for status in machine.send(dicom(syntax=syntax))] == [SUCCESS]
    clinic.settle()
    (entry,) = clinic.outbox.entries()
    assert clinic.pipeline.open(entry.study).study.frontal.pixels.shape == (96, 112)


def test_the_same_object_again_does_nothing_before_and_after_it_was_taken_over(
    clinic: Clinic, machine: Machine
) -> None:
    for _ in range(2):
        assert [s.Status for s in machine.send(view(1), view(1))] == [SUCCESS, SUCCESS]
        clinic.settle()
    assert len(clinic.outbox.entries()) == 1
    assert clinic.quarantine.reasons() == []


@pytest.mark.parametrize("taken", [False, True])
def test_other_content_under_a_known_uid_is_kept_and_told(clinic: Clinic, machine: Machine, taken: bool) -> None:
    first, other = view(1), view(1, PatientName="CORRECTED^NAME")
    machine.send(first)
    if taken:
        clinic.settle()
    assert machine.send(other)[0].Status == SUCCESS
    assert machine.send(other)[0].Status == SUCCESS  # a repeat
    clinic.settle()
    assert len([file for files in clinic.files() for file in files]) == 2
    base, *more = clinic.outbox.entries()
    assert [each.adds_to for each in more] == ([base.study] if taken else [])
    told = " ".join(warning for entry in clinic.outbox.entries() for warning in entry.warnings)
    assert ("PatientName differs" if taken else "one SOP Instance UID") in told
    assert clinic.quarantine.reasons() == []


def test_two_studies_with_one_study_uid_stay_two(clinic: Clinic, machine: Machine) -> None:
    machine.send(view(1))
    clinic.settle()
    machine.send(view(2))
    clinic.settle()
    assert len(clinic.outbox.entries()) == 2


def test_another_modality_is_refused_at_once_and_kept(clinic: Clinic, machine: Machine) -> None:
    (status,) = machine.send(dicom(Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2"))
    assert (status.Status, status.ErrorComment) == (REFUSED, "its modality is CT, not CR, DX or RG")
    (reason,) = clinic.quarantine.reasons()
    assert reason["error"] == "NotChestRadiograph"


def test_a_study_that_is_no_chest_goes_to_quarantine_with_its_reason(clinic: Clinic, machine: Machine) -> None:
    assert machine.send(dicom(BodyPartExamined="HAND"))[0].Status == SUCCESS
    clinic.settle()
    assert clinic.outbox.entries() == []
    assert "body part" in str(clinic.quarantine.reasons()[0]["what"])
    assert clinic.arrivals.state_of(INSTANCE) is ObjectState.REFUSED
    assert clinic.arrivals.waiting() == 0


def test_a_report_that_comes_beside_the_image_guides_the_graph(clinic: Clinic, machine: Machine) -> None:
    report = as_file(dataset(BASIC_TEXT_SR, f"{STUDY_UID}.2.1", Modality="SR", BodyPartExamined=None))
    assert [s.Status for s in machine.send(dicom(), report)] == [SUCCESS, SUCCESS]
    clinic.settle()
    (files,) = clinic.files()
    assert len(files) == 2


def test_a_scanned_page_comes_beside_the_image_and_is_refused_alone(clinic: Clinic, machine: Machine) -> None:
    capture = "1.2.840.10008.5.1.4.1.1.7"
    page = view(2, SOPClassUID=capture, Modality="OT", ConversionType="SD", ViewPosition=None)
    alone = view(
        3, SOPClassUID=capture, Modality="OT", ConversionType="SD", ViewPosition=None, StudyInstanceUID="1.2.9"
    )
    assert [s.Status for s in machine.send(page, view(1), alone)] == [SUCCESS] * 3
    clinic.settle()
    (files,) = clinic.files()
    assert len(files) == 2
    (entry,) = clinic.outbox.entries()
    assert clinic.pipeline.open(entry.study).study.sop_instance_uid == f"{STUDY_UID}.1.1"
    (reason,) = clinic.quarantine.reasons()
    assert "scanned page or film" in str(reason["what"])


def test_a_damaged_object_is_refused(clinic: Clinic, machine: Machine) -> None:
    with machine.association([dicom()]) as opened:
        status = raw_store(opened, DX, b"\x08\x00\x05\x00XX\xff\xff" * 40)
    assert status in (REFUSED, MISMATCH)
    assert len(clinic.quarantine.reasons()) == 1


def test_an_object_that_is_not_what_was_announced_is_refused(clinic: Clinic, machine: Machine) -> None:
    file = dicom()
    with machine.association([file, dicom(SOPClassUID=CR)]) as opened:
        status = raw_store(opened, CR, file[144 + int.from_bytes(file[140:144], "little") :])
    assert status == MISMATCH


def test_a_large_object_is_refused_without_being_held_in_memory(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, PORT.model_copy(update={"most_bytes": 1 << 20}))
    machine = Machine(clinic.port.open(), over=partial(ended, clinic))
    try:
        (status,) = machine.send(dicom(chest(1024, 1024)))
    finally:
        clinic.port.close()
    assert status.Status == REFUSED
    assert "over the limit" in status.ErrorComment
    (reason,) = clinic.quarantine.reasons()
    assert reason["kept"] is True
    assert clinic.files() == []


def test_a_full_disk_says_so_and_takes_the_object_later(clinic: Clinic, machine: Machine) -> None:
    clinic.disk.left = 130 << 10
    large = dicom(chest(512, 512))
    (status,) = machine.send(large)
    assert status.Status == FULL
    assert clinic.arrivals.waiting() == 0
    clinic.disk.left = None
    assert machine.send(large)[0].Status == SUCCESS


def test_a_transfer_that_would_fill_the_disk_is_ended_and_leaves_nothing(clinic: Clinic, machine: Machine) -> None:
    clinic.disk.left = 0
    large = dicom(chest(512, 512))
    with machine.association([large]) as opened:
        assert "Status" not in opened.send_c_store(dcmread(BytesIO(large)))
    ended(clinic)
    assert list(clinic.arrivals.incoming.iterdir()) == []


def test_a_stranger_gets_no_association(machine: Machine) -> None:
    with Machine(machine.port, "STRANGER").association() as opened:
        assert opened.is_rejected


def test_a_machine_at_another_address_gets_no_association(tmp_path: Path) -> None:
    elsewhere = DicomSettings(port=0, bind="127.0.0.1", machines={"XRAY1": MachineSettings(address="192.0.2.7")})
    clinic = Clinic(tmp_path, elsewhere)
    machine = Machine(clinic.port.open(), over=partial(ended, clinic))
    try:
        with machine.association() as opened:
            assert not opened.is_established
    finally:
        clinic.port.close()


def test_echo(clinic: Clinic, machine: Machine) -> None:
    with machine.association() as opened:
        assert opened.send_c_echo().Status == SUCCESS


def test_commitment_is_answered_on_the_open_association_once_the_study_was_judged(
    clinic: Clinic, machine: Machine
) -> None:
    machine.send(view(1), view(2, BodyPartExamined="CHEST"))
    asked = [(DX, f"{STUDY_UID}.1.1"), (DX, f"{STUDY_UID}.1.2")]
    with machine.association() as opened:
        assert machine.ask(opened, asked) == SUCCESS
        assert clinic.port.commitments.answer() == 0
        clinic.settle()
        assert clinic.port.commitments.answer() == 1
    ((event, report),) = machine.reports
    assert event == 1
    assert {str(each.ReferencedSOPInstanceUID) for each in report.ReferencedSOPSequence} == {uid for _, uid in asked}
    assert "FailedSOPSequence" not in report
    assert clinic.port.commitments.answer() == 0


def test_commitment_names_what_is_not_here_and_why(tmp_path: Path) -> None:
    machine = Machine(0)
    with machine.listening() as report_port:
        known = MachineSettings(address="127.0.0.1", report_port=report_port)
        clinic = Clinic(tmp_path, DicomSettings(port=0, bind="127.0.0.1", machines={"XRAY1": known}))
        machine.port, machine.over = clinic.port.open(), partial(ended, clinic)
        try:
            machine.send(view(1), view(3, StudyInstanceUID="1.2.9", BodyPartExamined="HAND"))
            clinic.settle()
            objects = [(DX, f"{STUDY_UID}.1.1"), (CR, f"{STUDY_UID}.1.1"), (DX, f"{STUDY_UID}.1.3"), (DX, "1.2.3")]
            with machine.association() as opened:
                assert machine.ask(opened, objects) == SUCCESS
            assert clinic.port.commitments.answer() == 1
        finally:
            clinic.port.close()
    ((event, report),) = machine.reports
    assert event == 2
    assert len(report.ReferencedSOPSequence) == 1
    failed = [(str(e.ReferencedSOPInstanceUID), int(e.FailureReason)) for e in report.FailedSOPSequence]
    assert failed == [(f"{STUDY_UID}.1.1", 0x0119), (f"{STUDY_UID}.1.3", 0x0110), ("1.2.3", 0x0112)]


def test_a_machine_that_is_away_is_asked_again_and_forgotten_after_a_week(clinic: Clinic, machine: Machine) -> None:
    with machine.association() as opened:
        machine.ask(opened, [(DX, "1.2.3")])
    ended(clinic)
    assert clinic.port.commitments.answer() == 0
    clinic.clock.advance(61)
    with machine.association():
        assert clinic.port.commitments.answer() == 1
    with machine.association() as opened:
        machine.ask(opened, [(DX, "1.2.3")])
    ended(clinic)
    clinic.clock.advance(8 * 86400)
    assert clinic.port.commitments.answer() == 0
    with clinic.database.read() as connection:
        assert connection.execute(select(commitments)).all() == []


def test_names_on_disk_and_log_lines_tell_no_uid_and_no_patient(
    clinic: Clinic, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    machine.send(view(1), dicom(chest(seed=4), SOPInstanceUID=f"{STUDY_UID}.1.1"))
    clinic.settle()
    names = " ".join(str(path.relative_to(clinic.arrivals.folder)) for path in clinic.arrivals.folder.rglob("*"))
    for secret in (STUDY_UID, "SYNTHETIC"):
        assert secret not in names
        assert secret not in caplog.text
        assert secret not in repr(ReceivedObject(DX, INSTANCE, STUDY_UID))


@pytest.mark.process
@pytest.mark.skipif(shutil.which("dcmsend") is None, reason="needs DCMTK (apt-get install dcmtk)")
def test_dcmtk_sends_and_asks(clinic: Clinic, machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "view.dcm"
    path.write_bytes(dicom(syntax=JPEG_LOSSLESS_SV1))
    where = ["127.0.0.1", str(machine.port)]
    names = ["-aet", "XRAY1", "-aec", "THINWIRE"]
    subprocess.run(["/usr/bin/echoscu", *names, *where], check=True, timeout=60)
    done = subprocess.run(
        ["/usr/bin/storescu", "-v", "-xs", *names, *where, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    until(lambda: not clinic.port.under_way)
    clinic.settle()
    (files,) = clinic.files()
    assert pixels_of(files) == pixels_of([path.read_bytes()])
    refused = subprocess.run(["/usr/bin/echoscu", "-aet", "OTHER", *where], capture_output=True, timeout=60)
    assert refused.returncode != 0


def test_the_parts_of_a_study_that_came_by_dicom_are_made(clinic: Clinic, machine: Machine) -> None:
    machine.send(view(1))
    clinic.settle()
    (entry,) = clinic.outbox.entries()
    clinic.service.pipeline.make(entry.study, Kind.PREVIEW)
    assert clinic.outbox.entry(entry.study).part(Kind.PREVIEW).size > 0
