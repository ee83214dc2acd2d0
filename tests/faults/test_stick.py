"""A stick between a clinic and its hub: pulled out, full, forged, mixed up; no study is lost and none counts twice."""

import errno
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.support.damage import turned
from tests.support.power import Fuse, PowerCut
from tests.support.stick_pair import Case, StickPair
from tests.support.tiny_bundle import tiny_bundle
from tests.support.two_ends import sealed_file
from thinwire.receiver.hub import open_hub
from thinwire.receiver.offline import ImportOutcome
from thinwire.receiver.operations.backup import record_taken
from thinwire.receiver.transport.inbox import FolderInbox
from thinwire.receiver.transport.ingest import IngestSession
from thinwire.sender.outbox.entries import EntryState, PartState
from thinwire.shared.crypto.envelope import HEADER_BYTES, Kind, peek
from thinwire.shared.errors import BadInput, DiskFull, Forged, Retryable, StickLost
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.receipts import StudyStatus
from thinwire.shared.identifiers import digest
from thinwire.shared.storage.durable import Disk
from thinwire.shared.wire.chunks import VERSION
from thinwire.shared.wire.v1 import link_pb2 as wire

CASES = [Case(b"frontal view 1" * 40), Case(b"frontal view 2" * 700, urgent=True)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def pair(tmp_path: Path, bundle: Bundle) -> StickPair:
    return StickPair(tmp_path, bundle)


def journey(pair: StickPair, cases: list[Case]) -> None:
    pair.accept(cases)
    pair.export()
    pair.at_hub()
    pair.bring_home()


def assert_arrived(pair: StickPair, cases: list[Case]) -> None:
    """Each study is at the hub once, whole and read once; the clinic knows it and keeps no bytes."""
    outbox = pair.clinic.open(pair)
    with open_hub(pair.hub, pair.clock) as hub:
        kept = {each.study: each for each in hub.store.studies()}
        assert set(kept) == {case.study for case in cases}
        for case in cases:
            assert kept[case.study].complete
            assert kept[case.study].prediction is not None
            assert kept[case.study].urgent_asked is case.urgent
            entry = outbox.entry(case.study)
            assert entry.state is EntryState.ARRIVED
            assert entry.status is StudyStatus.TRIAGED
            said = Counter(receipt.status for receipt in outbox.receipts(case.study))
            assert said == {StudyStatus.STORED: 3, StudyStatus.TRIAGED: 1}
            assert all(outbox.path(case.study, kind) is None for kind in Kind)
    assert not list((pair.hub / "carried").glob("*/*"))


def test_the_hub_s_backups_are_told_by_stick(pair: StickPair) -> None:
    with open_hub(pair.hub, pair.clock) as hub:
        record_taken(hub.database, pair.clock.now(), pair.clock, lambda _: None)
    pair.accept(CASES)
    pair.export()
    pair.at_hub()
    home = pair.bring_home()
    outbox = pair.clinic.open(pair)
    told = outbox.history()
    assert told is not None
    assert told.backed_up == 0
    assert all(receipt.object is not None or receipt.status is not StudyStatus.STORED for receipt in home.receipts)
    assert all(outbox.path(case.study, Kind.ORIGINALS) is not None for case in CASES)


def test_studies_go_by_stick_and_receipts_come_home(pair: StickPair) -> None:
    pair.accept(CASES)
    done = pair.export()
    assert len(done.written) == 6
    assert done.written[0].urgent
    # Two studies of three parts, an epoch record, a waybill; nothing tells whose they are.
    assert len(pair.on_stick()) == 8
    assert b"frontal view" not in b"".join(pair.on_stick().values())
    taken = pair.at_hub()
    assert Counter(each.outcome for each in taken.taken) == {ImportOutcome.STORED: 7}
    assert taken.predicted == 2
    assert taken.receipts == {pair.clinic.site: 8}
    replies = [name for name in pair.on_stick() if name.startswith("receipts/")]
    assert len(replies) == 1
    assert b"urgency" not in pair.on_stick()[replies[0]]  # what the hub read is for the clinic alone
    home = pair.bring_home()
    assert len(home.receipts) == 8
    assert home.cleared == 6
    assert_arrived(pair, CASES)
    # The remaining note tells the hub, by the next journey, that its receipts arrived; then nothing is left.
    (transfer_note,) = [data for data in pair.on_stick().values() if data.startswith(b"TW\x01")]
    assert peek(transfer_note).kind is Kind.TRANSFER_NOTE
    again = pair.at_hub()
    assert again.receipts == {pair.clinic.site: 0}
    with open_hub(pair.hub, pair.clock) as hub:
        assert not hub.store.undelivered_receipts(pair.clinic.site)
    pair.bring_home()
    assert not pair.on_stick()


def test_repeats_do_nothing(pair: StickPair) -> None:
    pair.accept(CASES)
    pair.export()
    before = pair.on_stick()
    again = pair.export()
    assert (len(again.written), len(again.there)) == (0, 6)
    assert pair.on_stick() == before
    pair.at_hub()
    told = pair.on_stick()
    taken = pair.at_hub()
    assert Counter(each.outcome for each in taken.taken) == {ImportOutcome.KNOWN: 7}
    assert taken.predicted == 0
    assert pair.on_stick() == told
    pair.bring_home()
    pair.bring_home()
    assert_arrived(pair, CASES)


def test_the_power_may_go_at_every_step_of_the_journey(tmp_path: Path, bundle: Bundle) -> None:
    ready = StickPair(tmp_path / "ready", bundle)
    ready.accept(CASES[1:])
    one = ready.copy(tmp_path / "undisturbed")
    journey(one, CASES[1:])
    assert_arrived(one, CASES[1:])
    # Cuts between these steps are in the tests of the link: the same code stores the same objects.
    passes = Counter(name for name in one.fuse.passed if name.startswith(("offline.", "receipt.")))
    assert set(passes) >= {
        f"offline.{what}.{step}"
        for what in ("object", "note")
        for step in ("before_write", "before_fsync", "before_rename", "before_folder_fsync", "done")
    }
    for name in sorted(passes):
        one = ready.copy(tmp_path / name)
        one.switch_on(Fuse((name, passes[name])))
        with pytest.raises(PowerCut):
            journey(one, CASES[1:])
        one.switch_on()
        journey(one, CASES[1:])
        try:
            assert_arrived(one, CASES[1:])
        except AssertionError as error:
            raise AssertionError(f"after a power cut at the last {name}: {error}") from error


def test_what_is_half_written_is_never_taken_and_goes_with_the_next_export(pair: StickPair) -> None:
    pair.accept(CASES)
    pair.switch_on(Fuse(("offline.object.before_rename", 3)))
    with pytest.raises(PowerCut):
        pair.export()
    pair.switch_on()
    assert any(".tmp" in name for name in pair.on_stick())
    assert Counter(each.outcome for each in pair.at_hub().taken) == {ImportOutcome.STORED: 3}
    pair.export()
    assert not any(".tmp" in name for name in pair.on_stick())


def test_a_stick_that_shows_a_name_without_its_bytes_is_written_again(pair: StickPair) -> None:
    pair.accept(CASES)
    pair.export()
    (due, *_) = pair.clinic.open(pair).due()
    path = pair.stick / "objects" / f"{due.object.hex()}.sealed"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    assert len(pair.export().written) == 1
    assert path.read_bytes() == whole


def test_forged_cut_renamed_and_foreign_files_each_have_their_outcome(pair: StickPair) -> None:
    pair.accept(CASES)
    pair.export()
    objects = pair.stick / "objects"
    kinds: dict[Kind, list[Path]] = {}
    for path in sorted(objects.iterdir()):
        head = path.read_bytes()[:HEADER_BYTES]
        if head.startswith(b"TW\x01"):
            kinds.setdefault(peek(head).kind, []).append(path)
    cut, altered = kinds[Kind.GRAPH]
    cut.write_bytes(cut.read_bytes()[:-5])
    altered.write_bytes(turned(altered.read_bytes(), -1))
    kinds[Kind.MANIFEST][0].rename(objects / "Copy of a file.bin")
    (objects / "DOE^JANE.dcm").write_bytes(b"DICM" * 100)
    (objects / "empty").write_bytes(b"")
    (objects / "twice.sealed").write_bytes(kinds[Kind.ORIGINALS][0].read_bytes())
    (objects / "link").symlink_to(kinds[Kind.ORIGINALS][0])

    done = pair.at_hub()
    assert Counter(each.outcome for each in done.taken) == {
        ImportOutcome.STORED: 5,
        ImportOutcome.KNOWN: 1,
        ImportOutcome.REFUSED: 4,
    }
    assert all(isinstance(each.error, Forged) for each in done.taken if each.outcome is ImportOutcome.REFUSED)
    assert not any("DOE" in f"{each.error} {each.error.remedy}" for each in done.taken if each.error)
    assert done.missing == {pair.clinic.site: 2}
    pair.bring_home()
    outbox = pair.clinic.open(pair)
    assert len(outbox.due()) == 2  # the two graphs are still here
    pair.export()
    pair.at_hub()
    pair.bring_home()
    assert_arrived(pair, CASES)


def test_clinics_share_a_stick_and_each_takes_its_own(pair: StickPair, tmp_path: Path, bundle: Bundle) -> None:
    other = pair.enrol("south-ridge")
    pair.accept(CASES[:1])
    pair.accept(CASES[1:], other)
    pair.export()
    pair.export(other)
    stranger = StickPair(tmp_path / "elsewhere", bundle)
    stranger.stick = pair.stick
    stranger.accept([Case(b"of another hub" * 30)])
    stranger.export()

    done = pair.at_hub()
    by_site = Counter((each.site, each.outcome) for each in done.taken)
    assert by_site[pair.clinic.site, ImportOutcome.STORED] == by_site[other.site, ImportOutcome.STORED] == 4
    # Its epoch record is signed by nobody that this hub knows, though it claims a name that is.
    assert by_site[None, ImportOutcome.REFUSED] == 5
    home = pair.bring_home()
    assert (home.foreign, home.cleared) == (1, 3)
    assert pair.bring_home(other).cleared == 3
    assert_arrived_at(pair, other.site, CASES[1])
    # The stranger's objects are still there for its own hub.
    assert Counter(each.outcome for each in stranger.at_hub().taken)[ImportOutcome.STORED] == 4


def assert_arrived_at(pair: StickPair, site: str, case: Case) -> None:
    with open_hub(pair.hub, pair.clock) as hub:
        assert [each.study for each in hub.store.studies() if each.site == site] == [case.study]


def test_a_removed_site_is_refused(pair: StickPair) -> None:
    pair.accept(CASES)
    pair.export()
    with open_hub(pair.hub, pair.clock) as hub:
        hub.enrolment.dismiss(pair.clinic.site)
    done = pair.at_hub()
    assert {each.outcome for each in done.taken} == {ImportOutcome.REFUSED}
    with open_hub(pair.hub, pair.clock) as hub:
        assert not list(hub.store.studies())


def test_one_site_cannot_take_another_ones_epoch_for_its_own(pair: StickPair) -> None:
    """Both announce the same epoch id; the tags tell whose an object is."""
    pair.accept(CASES)
    pair.export()
    thief = pair.enrol("a-thief")
    outbox = thief.open(pair)
    (epoch,) = {entry.epoch for entry in pair.clinic.open(pair).entries()}
    thief_epochs = outbox.epochs
    ids = iter([bytes(epoch), bytes(32)])
    object.__setattr__(thief_epochs, "random_bytes", lambda _: next(ids))
    thief_epochs.current()
    (pair.stick / "objects" / "00.sealed").write_bytes(thief_epochs.record(epoch))
    done = pair.at_hub()
    assert Counter(each.site for each in done.taken) == {pair.clinic.site: 7, thief.site: 1}
    pair.bring_home()
    assert_arrived(pair, CASES)


def test_half_of_it_came_by_the_link(pair: StickPair) -> None:
    big = Case(b"".join(digest(bytes([n])) for n in range(256)) * 40)
    pair.accept([big])
    outbox = pair.clinic.open(pair)
    with open_hub(pair.hub, pair.clock, pair.disk) as hub:
        inbox = FolderInbox(hub.data / "inbox", hub.disk, hub.clock)
        pipeline = hub.pipeline()
        session = IngestSession(pair.clinic.site, inbox, pipeline, hub.clock, hub.disk)
        session.receive(wire.Up(hello=wire.Hello(version=VERSION)))
        (entry,) = outbox.entries()
        record = outbox.epochs.record(entry.epoch)
        session.receive(wire.Up(offer=wire.Offer(number=1, object=digest(record), size=len(record), head=record)))
        due = next(each for each in outbox.due() if each.kind is Kind.ORIGINALS)
        first = outbox.read(due, 0, due.size // 2)
        head = first[:HEADER_BYTES]
        session.receive(wire.Up(offer=wire.Offer(number=2, object=due.object, size=due.size, head=head)))
        session.receive(wire.Up(chunk=wire.Chunk(number=2, offset=HEADER_BYTES, data=first[HEADER_BYTES:])))

        pair.export()
        assert pair.at_hub().count(ImportOutcome.STORED) == 3

        not_written = outbox.read(due, len(first), due.size)
        (answer,) = session.receive(wire.Up(chunk=wire.Chunk(number=2, offset=len(first), data=not_written)))
        outbox.record_receipt(answer.receipt.signed)
        session.close()
        assert inbox.objects(pair.clinic.site) == []
    pair.bring_home()
    assert_arrived(pair, [big])


def test_a_receipt_over_the_link_makes_the_stick_a_repeat(pair: StickPair) -> None:
    pair.accept(CASES)
    pair.export()
    with open_hub(pair.hub, pair.clock) as hub:
        pair.at_hub()
        outbox = pair.clinic.open(pair)
        for signed in hub.store.undelivered_receipts(pair.clinic.site):
            outbox.record_receipt(signed)
    assert pair.export().written == []
    assert not any(name.startswith("objects") for name in pair.on_stick() if "sealed" not in name)
    pair.bring_home()
    assert_arrived(pair, CASES)


def test_a_request_comes_by_stick_and_its_part_goes_back(pair: StickPair) -> None:
    pair.accept(CASES[:1])
    outbox = pair.clinic.open(pair)
    study = CASES[0].study
    # A clinic that holds its previews back until somebody asks.
    with open_hub(pair.hub, pair.clock) as hub:
        pair.export()
        pair.at_hub()
        hub.store.request(pair.clinic.site, study, Kind.PREVIEW)
    pair.at_hub()
    assert pair.bring_home().requests == 1
    assert outbox.entry(study).part(Kind.PREVIEW).requested
    assert outbox.entry(study).part(Kind.PREVIEW).state is PartState.MISSING


def test_held_parts_go_when_they_are_asked_for_at_the_clinic(pair: StickPair) -> None:
    outbox = pair.clinic.open(pair)
    case = CASES[0]
    outbox.accept(case.study, case.archive, [Kind.ORIGINALS])
    outbox.add(case.study, Kind.ORIGINALS, case.archive, hold=True)
    assert pair.export().written == []
    assert len(pair.export(held=True).written) == 1
    pair.at_hub()
    pair.bring_home()
    assert outbox.entry(case.study).part(Kind.ORIGINALS).state is PartState.STORED


def test_a_full_stick_takes_the_urgent_ones_and_says_so(pair: StickPair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.accept([*CASES, Case(b"large" + bytes(1000) + digest(b"x") * 3000)])
    real = Disk.write

    def full(disk: Disk, path: Path, data: bytes, name: str, mode: int = 0o600) -> None:
        if name == "offline.object" and len(list(path.parent.glob("*.sealed"))) > 5:
            raise DiskFull("no space")
        real(disk, path, data, name, mode)

    monkeypatch.setattr(Disk, "write", full)
    done = pair.export()
    assert isinstance(done.full, DiskFull)
    assert "stick" in str(done.full)
    assert done.not_written == 4
    monkeypatch.undo()
    assert len(pair.export().written) == 4
    pair.at_hub()
    pair.bring_home()
    assert pair.clinic.open(pair).due() == []


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.ENODEV])
def test_a_stick_that_goes_away_is_said_in_words(pair: StickPair, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.accept(CASES)

    def gone(*_: object, **__: object) -> None:
        raise OSError(code, "gone")

    monkeypatch.setattr(Disk, "write", gone)
    with pytest.raises(StickLost, match=os.strerror(code)):
        pair.export()
    monkeypatch.undo()
    journey(pair, CASES)
    assert_arrived(pair, CASES)


def test_a_folder_without_a_stick_is_refused(pair: StickPair) -> None:
    pair.accept(CASES)
    pair.stick = pair.folder / "media" / "not mounted"
    with pytest.raises(BadInput, match="does not exist"):
        pair.export()
    with pytest.raises(BadInput, match="no offline transfer"):
        pair.at_hub()
    with pytest.raises(BadInput, match="no offline transfer"):
        pair.bring_home()
    assert not pair.stick.parent.exists()


def test_damaged_bytes_at_the_clinic_are_not_carried(pair: StickPair) -> None:
    pair.accept(CASES[:1])
    outbox = pair.clinic.open(pair)
    part = sealed_file(outbox, CASES[0].study, Kind.GRAPH)
    part.write_bytes(turned(part.read_bytes(), -1))
    done = pair.export()
    assert [each.kind for each in done.damaged] == [Kind.GRAPH]
    assert outbox.entry(CASES[0].study).missing == (Kind.GRAPH,)


def test_two_exports_at_once_are_one(pair: StickPair) -> None:
    with pair.clinic.open(pair).own_stick(), pytest.raises(Retryable):
        pair.export()


def test_a_forged_reply_changes_nothing(pair: StickPair) -> None:
    pair.accept(CASES)
    pair.export()
    pair.at_hub()
    (reply,) = (pair.stick / "receipts").iterdir()
    data = reply.read_bytes()
    for broken in (data[:-1], turned(data, 60), b"", b"TW\x01", turned(data, 3)):
        reply.write_bytes(broken)
        done = pair.bring_home()
        assert len(done.refused) == 1
        assert not done.receipts
    assert len(pair.clinic.open(pair).due()) == 6
    pair.at_hub()
    pair.bring_home()
    assert_arrived(pair, CASES)
