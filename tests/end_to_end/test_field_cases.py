"""What machines, media and people do, through both ends: a file reaches its place, or a person is told why not.

Each case is an edit of a small synthetic radiograph. The cases of ../shared/cases run too where they are.
"""

import html
import itertools
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from tests.support.dicoms import STUDY_UID, after_meta, as_file, chest, dataset, dicom
from tests.support.real_data import REAL_DATA
from tests.support.tiny_bundle import tiny_bundle
from tests.support.whole import SITE, Whole, whole
from thinwire.receiver.store.additions import Decision
from thinwire.sender.intake.deidentify import Deidentifier, Options
from thinwire.sender.intake.media import DIRECTORY_CLASS
from thinwire.sender.modality.arrivals import ObjectState
from thinwire.sender.modality.port import SUCCESS
from thinwire.sender.outbox.entries import EntryState
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.tiers import TierPolicy
from thinwire.sender.service import Accepted, RefusedStudy
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import digest
from thinwire.shared.imaging.geometry import Sides

CASES = REAL_DATA.parent / "cases"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def ends(tmp_path: Path, bundle: Bundle) -> Iterator[Whole]:
    with whole(tmp_path, bundle) as opened:
        yield opened


def view(number: int = 1, **attributes: Any) -> bytes:
    return dicom(chest(seed=number), sop_uid=f"{STUDY_UID}.1.{number}", **attributes)


LATERAL = {"ViewPosition": "LL"}


def at_hub(ends: Whole) -> list[set[bytes]]:
    """The data sets of each study on the worklist, as the hub exports and forwards them: an X-ray machine has its own
    meta information."""
    images = ends.hub.study_images()
    return [sets(*(each.data for each in images.files(each_.site, each_.study))) for each_ in ends.hub.store.studies()]


def sets(*files: bytes) -> set[bytes]:
    return {after_meta(file) for file in files}


def page(ends: Whole) -> str:
    """The page of the one study, as a reader sees it, without markup."""
    (study,) = ends.hub.store.studies()
    text = ends.room.person("alice").get(f"/studies/{SITE}/{study.study.hex()}")
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def sides_of(ends: Whole) -> Sides | None:
    """The patient's sides at the edges of the one study's image, as the viewer shows them."""
    (study,) = ends.hub.store.studies()
    return ends.room.room.frames.view(study).sides


# --- Late files, by the port


def test_a_view_that_comes_late_joins_its_study_at_the_hub(ends: Whole) -> None:
    first, late = view(1), view(2, **LATERAL)
    with ends.machine() as machine:
        assert machine.send(first)[0].Status == SUCCESS
        ends.settle()
        ends.carry()
        assert machine.send(late)[0].Status == SUCCESS
        ends.settle()
        assert ends.port.arrivals.state_of(f"{STUDY_UID}.1.2") is ObjectState.ACCEPTED
        ends.carry()
    assert at_hub(ends) == [sets(first, late)]
    assert "Added after the study 1 file" in page(ends)
    assert {entry.state for entry in ends.outbox.entries()} == {EntryState.ARRIVED}
    assert ends.quarantine.count() == 0


def test_a_view_that_comes_before_its_frontal_image_joins_it(ends: Whole) -> None:
    early, then = view(2, **LATERAL), view(1)
    with ends.machine() as machine:
        machine.send(early)
        ends.settle()
        assert ends.quarantine.count() == 1
        machine.send(then)
        ends.settle()
    assert ends.quarantine.count() == 0
    ends.carry()
    assert at_hub(ends) == [sets(early, then)]


def test_an_addition_waits_at_the_hub_for_its_study(ends: Whole) -> None:
    first, late = view(1), view(2, **LATERAL)
    with ends.machine() as machine:
        machine.send(first)
        ends.settle()
        (base,) = ends.outbox.entries()
        ends.outbox.pause(base.study)
        machine.send(late)
        ends.settle()
    ends.carry()
    assert at_hub(ends) == []
    ends.outbox.resume(base.study)
    ends.carry()
    assert at_hub(ends) == [sets(first, late)]


def test_a_late_frontal_image_is_read_too(ends: Whole) -> None:
    with ends.machine() as machine:
        for number in (1, 2):
            machine.send(view(number))
            ends.settle()
    ends.carry()
    assert at_hub(ends) == [sets(view(1)), sets(view(2))]
    assert all(study.prediction is not None for study in ends.hub.store.studies())


def test_a_folder_that_is_sent_again_with_one_more_view_sends_that_view(ends: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "1").write_bytes(view(1))
    ends.send(folder)
    (folder / "2").write_bytes(view(2, **LATERAL))
    for _ in range(2):
        assert all(isinstance(each, Accepted) for each in ends.send(folder))
        assert len(ends.outbox.entries()) == 2
    ends.carry()
    assert at_hub(ends) == [sets(view(1), view(2, **LATERAL))]


def test_an_earlier_hub_is_not_sent_an_addition_and_the_clinic_says_so(
    ends: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ends.machine() as machine:
        machine.send(view(1))
        ends.settle()
        machine.send(view(2, **LATERAL))
        ends.settle()
    with monkeypatch.context() as earlier:
        earlier.setattr("thinwire.receiver.transport.ingest.TAKES_ADDITIONS", False)
        ends.carry()
    assert at_hub(ends) == [sets(view(1))]
    _, added = ends.outbox.entries()
    assert added.state is EntryState.SENDING
    policy = CurrentPolicy.at(TierPolicy(), ends.clock.now(), {}, takes_additions=ends.outbox.takes_additions)
    assert set(policy.waits([added]).values()) == {
        "until the hub is updated: its version takes no files after their study"
    }
    ends.carry()
    assert at_hub(ends) == [sets(view(1), view(2, **LATERAL))]
    assert ends.outbox.takes_additions


# --- A corrected header


@pytest.mark.parametrize("by_port", [True, False])
@pytest.mark.parametrize("decision", Decision)
def test_a_corrected_header_waits_for_a_reader(ends: Whole, tmp_path: Path, by_port: bool, decision: Decision) -> None:
    wrong = view(PatientName="WRONG^NAME", PatientOrientation=["L", "F"])
    right = view(PatientName="RIGHT^NAME", PatientID="OTHER-7", PatientOrientation=["R", "F"])
    if by_port:
        with ends.machine() as machine:
            for file in (wrong, right, right):
                assert machine.send(file)[0].Status == SUCCESS
                ends.settle()
    else:
        for name, file in (("1", wrong), ("2", right), ("3", right)):
            (tmp_path / name).write_bytes(file)
            ends.send(tmp_path / name)
    assert len(ends.outbox.entries()) == 2
    ends.carry()
    shown = page(ends)
    assert "WRONG NAME" in shown
    assert "The corrected header names: Patient RIGHT NAME , Number OTHER-7" in shown
    assert "corrected header: PatientName, PatientID, PatientOrientation differ from the first version" in shown
    left = sides_of(ends)
    assert at_hub(ends) == [sets(wrong)]

    (study,) = ends.hub.store.studies()
    address = f"/studies/{SITE}/{study.study.hex()}"
    reader = ends.room.person("bob")
    reader.get(address)
    reader.post(f"{address}/addition", addition=study.additions[0].study.hex(), act=str(decision))
    taken = decision is Decision.TAKEN
    assert at_hub(ends) == [sets(right if taken else wrong)]
    (study,) = ends.hub.store.studies()
    manifest = ends.hub.study_images().manifest(SITE, study.study)
    assert manifest is not None
    assert manifest.identity["PatientName"] == ("RIGHT^NAME" if taken else "WRONG^NAME")
    assert any(f"correction-{'take' if taken else 'keep'}" in message for message in ends.room.audited())
    assert (sides_of(ends) != left) is taken
    graph = ends.room.room.frames.graph(study)
    assert graph is not None
    files = ends.hub.study_images().files(SITE, study.study)
    assert ends.hub.study_images().original(SITE, study.study, graph.grid, files) is not None


def test_another_person_cannot_decide_and_an_unknown_addition_is_refused(ends: Whole, tmp_path: Path) -> None:
    for name in ("WRONG^NAME", "RIGHT^NAME"):
        (tmp_path / "1").write_bytes(view(PatientName=name))
        ends.send(tmp_path / "1")
    ends.carry()
    (study,) = ends.hub.store.studies()
    address = f"/studies/{SITE}/{study.study.hex()}"
    stranger, reader = ends.room.browser(), ends.room.person("carol")
    stranger.post(f"{address}/addition", status=401, addition=study.additions[0].study.hex(), act="taken")
    reader.get(address)
    reader.post(f"{address}/addition", status=404, addition="00" * 16, act="taken")
    reader.post(f"{address}/addition", status=404, addition=study.additions[0].study.hex(), act="else")
    (study,) = ends.hub.store.studies()
    assert study.additions[0].decision is None


def test_two_files_of_another_encoding_are_one_image(ends: Whole, tmp_path: Path) -> None:
    """The same data set in a file with other meta information is a repeat."""
    (tmp_path / "1").write_bytes(view(1))
    (tmp_path / "2").write_bytes(view(1)[:128].replace(b"\0", b"\1") + view(1)[128:])
    ends.send(tmp_path / "1")
    ends.send(tmp_path / "2")
    ends.carry()
    (study,) = ends.hub.store.studies()
    assert study.additions == ()


def test_deidentified_files_are_added_and_corrected_too(ends: Whole, tmp_path: Path) -> None:
    ends.pipeline.deidentifier = Deidentifier(b"k" * 32, Options(), tmp_path / "originals", ends.disk)
    sent = [view(1, PatientName="WRONG^NAME"), view(2, **LATERAL), view(1, PatientName="RIGHT^NAME", ViewPosition="AP")]
    for number, file in enumerate(sent):
        (tmp_path / str(number)).write_bytes(file)
        (outcome,) = ends.send(tmp_path / str(number))
        assert isinstance(outcome, Accepted)
    ends.carry()
    (study,) = ends.hub.store.studies()
    late, corrected = sorted(study.additions, key=lambda each: len(each.corrects))
    assert (late.undecided, corrected.undecided) == (False, True)
    (own, added) = ends.hub.study_images().files(SITE, study.study)
    assert list(corrected.corrects) == [digest(own.data)]
    assert b"NAME" not in own.data + added.data
    assert len(list((tmp_path / "originals").iterdir())) == 3


# --- What a reader is told


@pytest.mark.filterwarnings("ignore:The value length")
@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: [view(SOPInstanceUID="1.2." + "3" * 74)], "SOP Instance UID has 78 characters"),
        (
            lambda: [view(1, PatientID="PAT-A"), view(2, PatientID="PAT-B", **LATERAL)],
            "name different patients (by Patient ID)",
        ),
        (lambda: [view(PatientName="XYZW").replace(b"XYZW", "Xéz".encode())], "its text is UTF-8"),
        (lambda: [view(PatientName="XYZW").replace(b"XYZW", b"X\xe9zw")], "the file states no character set"),
    ],
    ids=["long UID", "two patients", "UTF-8", "Latin-1"],
)
def test_a_doubt_of_intake_is_shown_to_the_reader(
    ends: Whole, tmp_path: Path, made: Callable[[], list[bytes]], told: str
) -> None:
    for number, file in enumerate(made()):
        (tmp_path / f"{number}.dcm").write_bytes(file)
    outcomes = ends.send(*sorted(tmp_path.glob("*.dcm")))
    assert all(isinstance(each, Accepted) for each in outcomes)
    ends.carry()
    assert told in page(ends)


def test_late_files_of_another_patient_are_shown_as_such(ends: Whole, tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(view(1, PatientID="PAT-A", PatientName="A^A"))
    (tmp_path / "2").write_bytes(view(2, PatientID="PAT-B", PatientName="B^B", **LATERAL))
    ends.send(tmp_path / "1")
    ends.send(tmp_path / "2")
    ends.carry()
    assert "These files name another patient or study: Patient B B , Number PAT-B" in page(ends)


# --- Scanned films and media


def film(number: int, **attributes: Any) -> bytes:
    """A digitised film as a Secondary Capture."""
    facts = {"SOPClassUID": CAPTURE, "Modality": "OT", "ConversionType": "DF", **attributes}
    return dicom(chest(bits=8, seed=number), sop_uid=f"{STUDY_UID}.9.{number}", **facts)


def test_a_digitised_film_is_taken_by_its_header(ends: Whole) -> None:
    kinds = list(itertools.product(("DF", "SD", "SI", "WSD"), ("OT", "SC")))
    films = [
        film(n, ConversionType=conversion, Modality=modality, StudyInstanceUID=f"{STUDY_UID}.{n}")
        for n, (conversion, modality) in enumerate(kinds)
    ]
    with ends.machine() as machine:
        assert {each.Status for each in machine.send(*films)} == {SUCCESS}
    ends.settle()
    assert len(ends.outbox.entries()) == len(kinds)


def test_a_film_that_is_no_chest_is_no_error_beside_a_radiograph(ends: Whole) -> None:
    page_ = film(1, ViewPosition=None, BodyPartExamined=None)
    with ends.machine() as machine:
        assert [each.Status for each in machine.send(view(1), page_)] == [SUCCESS] * 2
        ends.settle()
        late = film(2, ViewPosition=None, BodyPartExamined=None)
        assert machine.send(late)[0].Status == SUCCESS
        ends.settle()
    ends.carry()
    assert at_hub(ends) == [sets(view(1), page_, late)]
    assert ends.quarantine.count() == 0


def medium(folder: Path, names: Callable[[str], str]) -> Path:
    """A CD with two views. names: how its names came out of a copy."""
    records = []
    for number in (1, 2):
        path = folder / names("PT000000") / names(f"IM00000{number}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(view(number, **(LATERAL if number == 2 else {})))
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = ["PT000000", f"IM00000{number}"]
        records.append(record)
    listed = dataset(DIRECTORY_CLASS, DirectoryRecordSequence=records)
    (folder / names("DICOMDIR")).write_bytes(as_file(listed))
    return folder


def test_a_medium_is_read_as_a_folder_and_by_its_directory(ends: Whole, tmp_path: Path) -> None:
    keys = set()
    copies: list[Callable[[str], str]] = [
        str,
        str.lower,
        lambda name: name if name == "PT000000" else f"{name}.DCM",
        lambda name: f"{name}.",
    ]
    for number, names in enumerate(copies):
        folder = medium(tmp_path / str(number), names)
        for given in (folder, folder / names("DICOMDIR")):
            (outcome,) = ends.send(given)
            assert isinstance(outcome, Accepted)
            keys.add(outcome.study.key)
    assert len(keys) == len(ends.outbox.entries()) == 1


def test_a_zip_is_read_and_another_format_is_named(ends: Whole, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "portal.zip", "w") as archive:
        archive.writestr("DICOM/IM1", view(1))
        archive.writestr("DICOM/IM2", view(2, **LATERAL))
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    accepted, refused = sorted(
        ends.send(tmp_path / "portal.zip", tmp_path / "photo.heic"), key=lambda e: type(e).__name__
    )
    assert isinstance(accepted, Accepted)
    assert len(accepted.study.files) == 2
    assert isinstance(refused, RefusedStudy)
    assert "HEIC" in str(refused.error)
    ends.carry()
    assert at_hub(ends) == [sets(view(1), view(2, **LATERAL))]


# --- The handed cases

EXPECTED_REFUSALS = {"12-lateral-in-other-words": "lateral", "13-thoracic-spine-as-chest": "body part"}
SENT_ONE_BY_ONE = ("11", "45")


@pytest.mark.real_data
@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")
@pytest.mark.parametrize("case", sorted(each.name for each in CASES.glob("[0-9]*")) if CASES.is_dir() else [])
def test_a_handed_case_reaches_its_place(ends: Whole, case: str) -> None:
    files = sorted(path for path in (CASES / case).rglob("*") if path.is_file() and path.name != "README")
    if not files:
        pytest.skip("the case has no files")
    groups = [[path] for path in files] if case.startswith(SENT_ONE_BY_ONE) else [[CASES / case]]
    if case == "44-portal-zip":
        groups = [files]
    outcomes = [each for group in groups for each in ends.send(*group)]
    refused = [str(each.error) for each in outcomes if isinstance(each, RefusedStudy)]
    if case in EXPECTED_REFUSALS:
        assert refused
        assert all(EXPECTED_REFUSALS[case] in reason for reason in refused)
        return
    assert refused == []
    ends.carry()
    studies = list(ends.hub.store.studies())
    assert studies
    assert all(study.complete and study.prediction is not None for study in studies)
    assert {entry.state for entry in ends.outbox.entries()} == {EntryState.ARRIVED}
    if case.startswith(SENT_ONE_BY_ONE):
        assert len(studies) == 1
        assert len(studies[0].additions) == 1
