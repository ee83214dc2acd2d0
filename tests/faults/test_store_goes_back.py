"""A hub whose store goes back in time: what came since is offered again, each object once, and nothing is lost."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.support.journeys import (
    again,
    assert_once,
    backed_up,
    bring_back,
    close_hub,
    copied,
    deliver,
    no_message,
    put_back,
    quiet,
)
from tests.support.power import Cutoff, PowerCut
from tests.support.two_ends import HUB_SIGNING, SITE, TwoEnds, blobs_of, samples
from thinwire.receiver.operations.backup import back_up, record_taken, restore
from thinwire.receiver.store.history import history_of
from thinwire.receiver.store.tables import generations, positions
from thinwire.sender.outbox import followed_store
from thinwire.sender.outbox.entries import Due, PartState
from thinwire.sender.outbox.hub_history import KeepUntil
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadConfiguration, HubBusy
from thinwire.shared.formats.receipts import Place, Receipt, StudyStatus, place_detail, sign_receipt
from thinwire.shared.identifiers import Generation
from thinwire.shared.storage.durable import Disk
from thinwire.shared.wire.chunks import VERSION
from thinwire.shared.wire.v1 import link_pb2 as wire


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoEnds:
    # The free space of this machine decides nothing.
    monkeypatch.setattr(followed_store, "MOST_FREE", 0)
    return TwoEnds(tmp_path)


def hello(receipt: bytes = b"", seen: bool = True) -> wire.Up:
    return wire.Up(hello=wire.Hello(version=VERSION, seen=wire.Seen(receipt=receipt) if seen else None))


def offer(ends: TwoEnds, number: int, due: Due) -> wire.Up:
    head = ends.outbox.read(due, 0, due.size)
    return wire.Up(offer=wire.Offer(number=number, object=due.object, size=due.size, head=head))


def reasons(ends: TwoEnds) -> list[str]:
    with ends.hub.database.read() as connection:
        return list(connection.scalars(select(generations.c.reason).order_by(generations.c.number)))


def test_a_restored_backup_gets_back_what_came_after_it(ends: TwoEnds) -> None:
    first, second, third = some = samples(3)
    deliver(ends, first)
    backup = backed_up(ends)
    deliver(ends, second, third)
    bring_back(ends, backup)
    assert {study for study, _ in ends.parts()} == {first.study}

    assert again(ends) == 6
    assert_once(ends, some)
    assert reasons(ends) == ["first", "restored"]
    assert again(ends) == 0


def test_what_is_kept_for_a_backup_can_still_be_sent_after_weeks(ends: TwoEnds) -> None:
    """Its epoch, too, is newer than the backup: the clinic keeps the epoch as long as the bytes."""
    backup = backed_up(ends)
    (sample,) = samples(1)
    deliver(ends, sample)
    ends.clock.advance(20 * 86400)
    assert ends.outbox.purge(ends.clock.now()) == 0
    bring_back(ends, backup)
    assert again(ends) == 3
    assert_once(ends, [sample])


def test_a_folder_put_back_in_silence_is_found_by_the_hub_s_own_receipt(ends: TwoEnds) -> None:
    first, second = some = samples(2)
    backed_up(ends)
    deliver(ends, first)
    copy = copied(ends)
    deliver(ends, second)
    put_back(ends, copy)

    assert again(ends) == 3
    assert_once(ends, some)
    assert reasons(ends) == ["first", "behind"]
    (message,) = [each for each in ends.hub.audit.newest(None, 50) if "store-went-back" in each.message]
    assert SITE in message.message
    assert again(ends) == 0


def test_objects_of_a_stick_that_came_first_do_not_hide_the_step_back(ends: TwoEnds) -> None:
    """The hub stored other objects at the same positions before the clinic's next stream."""
    first, second, third = some = samples(3)
    backed_up(ends)
    deliver(ends, first)
    copy = copied(ends)
    deliver(ends, second)
    put_back(ends, copy)
    ends.accept(third)
    ends.make_parts()
    stick = ends.ingest()
    stick.receive(hello())
    for number, due in enumerate((each for each in ends.outbox.due() if each.study == third.study), start=1):
        stick.receive(offer(ends, number, due))

    ends.carry()
    ends.outbox.follow()
    ends.carry()
    assert_once(ends, some)
    assert reasons(ends) == ["first", "behind"]


def test_two_steps_back_are_two_generations(ends: TwoEnds) -> None:
    first, second, third = some = samples(3)
    deliver(ends, first)
    backup = backed_up(ends)
    deliver(ends, second)
    bring_back(ends, backup)
    assert again(ends) == 3
    deliver(ends, third)
    bring_back(ends, backup)
    assert again(ends) == 6
    assert_once(ends, some)


def test_a_generation_that_the_put_back_folder_does_not_know_is_found(ends: TwoEnds) -> None:
    first, second = some = samples(2)
    deliver(ends, first)
    backup, copy = backed_up(ends), copied(ends)
    bring_back(ends, backup)
    deliver(ends, second)
    put_back(ends, copy)
    assert again(ends) == 3
    assert_once(ends, some)
    assert reasons(ends) == ["first", "lost", "behind"]
    assert again(ends) == 0
    assert reasons(ends) == ["first", "lost", "behind"]


def test_the_clinic_keeps_a_study_until_a_backup_holds_it(ends: TwoEnds) -> None:
    first, second = samples(2)
    deliver(ends, first)
    assert not blobs_of(ends)  # the hub has no backup at all
    backed_up(ends)
    deliver(ends, second)
    assert len(blobs_of(ends)) == 3
    backed_up(ends)
    ends.carry()
    ends.outbox.follow()
    assert not blobs_of(ends)


def test_a_backup_is_told_on_an_open_stream(ends: TwoEnds) -> None:
    backed_up(ends)
    uplink, ingest = ends.uplink(), ends.ingest()
    (sample,) = samples(1)
    ends.accept(sample)
    ends.make_parts()
    ends.carry_on(uplink, ingest)
    assert len(blobs_of(ends)) == 3
    backed_up(ends)
    for down in ingest.new_history():
        uplink.receive(down)
    assert ingest.new_history() == []
    ends.outbox.follow()
    assert not blobs_of(ends)


def test_by_the_word_stored_nothing_is_kept(ends: TwoEnds) -> None:
    backed_up(ends)
    ends.outbox.keep_until(KeepUntil.STORED)
    deliver(ends, *samples(1))
    assert not blobs_of(ends)


def test_a_study_without_backup_is_purged_only_when_one_holds_it(ends: TwoEnds) -> None:
    backed_up(ends)
    (sample,) = samples(1)
    deliver(ends, sample)
    ends.clock.advance(100 * 86400)
    assert ends.outbox.purge(ends.clock.now()) == 0
    backed_up(ends)
    ends.carry()
    ends.outbox.follow()
    assert ends.outbox.purge(ends.clock.now()) == 1


def test_a_nearly_full_disk_does_not_wait_for_a_backup(ends: TwoEnds, monkeypatch: pytest.MonkeyPatch) -> None:
    backed_up(ends)
    first, second = samples(2)
    deliver(ends, first)
    ends.clock.advance(60)
    deliver(ends, second)
    monkeypatch.setattr(followed_store, "MOST_FREE", 1 << 30)
    free = iter([0, 0, 1 << 40, 1 << 40])
    monkeypatch.setattr(ends.disk, "free", lambda _folder: next(free))
    assert ends.outbox.relieve() == 1
    assert ends.outbox.path(first.study, Kind.ORIGINALS) is None
    assert ends.outbox.path(second.study, Kind.ORIGINALS) is not None


def test_a_study_whose_files_the_disk_refuses_does_not_hold_the_others_back(ends: TwoEnds) -> None:
    first, second = samples(2)
    backed_up(ends)
    copy = copied(ends)
    deliver(ends, first)
    deliver(ends, second)
    put_back(ends, copy)
    ends.carry()
    path = ends.outbox.path(first.study, Kind.ORIGINALS)
    assert path is not None
    aside = path.rename(path.with_suffix(".aside"))
    path.symlink_to(aside / "x")  # the system refuses it, as it does a file of another user
    with pytest.raises(NotADirectoryError):
        ends.outbox.follow()
    states = {part.state for part in ends.outbox.entry(second.study).parts}
    assert PartState.WAITING in states
    assert PartState.STORED not in states
    path.unlink()
    aside.rename(path)
    ends.outbox.follow()
    ends.carry()
    assert_once(ends, [first, second])


def test_what_nobody_has_any_more_is_said_and_the_same_study_may_be_sent_again(ends: TwoEnds) -> None:
    (sample,) = samples(1)
    copy = copied(ends)
    deliver(ends, sample)  # at a hub without backups the clinic keeps nothing
    put_back(ends, copy)
    ends.carry()
    assert ends.outbox.follow() == 3
    entry = ends.outbox.entry(sample.study)
    assert {part.state for part in entry.parts} == {PartState.MISSING}
    assert all("lost it" in part.reason for part in entry.parts)
    deliver(ends, sample)
    assert_once(ends, [sample])


def test_another_clinic_that_moved_on_does_not_disturb_the_count(ends: TwoEnds) -> None:
    """Positions are of each site: those of others say nothing about this one."""
    first, second = some = samples(2)
    deliver(ends, first)
    backup = backed_up(ends)
    deliver(ends, second)
    bring_back(ends, backup)
    with ends.hub.database.write() as connection:
        connection.exec_driver_sql("INSERT INTO sites (name, enrolled_at) VALUES ('ridge', 0)")
        for position in range(1, 40):
            row = {"site": "ridge", "position": position, "object": bytes(32), "at": 0}
            connection.execute(positions.insert().values(row))
    assert again(ends) == 3
    with ends.hub.database.read() as connection:
        mine = select(func.count()).select_from(positions).where(positions.c.site == SITE)
        assert connection.scalar(mine) == 6
    ends.hub.database.close()
    assert {study for study, _ in ends.parts()} == {each.study for each in some}


def test_an_older_receipt_from_a_stick_does_not_undo_the_loss(ends: TwoEnds) -> None:
    (sample,) = samples(1)
    backed_up(ends)
    copy = copied(ends)
    deliver(ends, sample)
    receipts = ends.outbox.receipts(sample.study, StudyStatus.STORED)
    put_back(ends, copy)
    ends.carry()
    ends.outbox.follow()
    for receipt in receipts:
        ends.outbox.record_receipt(sign_receipt(receipt, HUB_SIGNING))
    assert {part.state for part in ends.outbox.entry(sample.study).parts} == {PartState.WAITING}
    ends.carry()
    assert_once(ends, [sample])


def test_a_clinic_without_a_link_is_told_by_a_statement(ends: TwoEnds) -> None:
    assert ends.store.history_statement(SITE) is None
    backup = backed_up(ends)
    (sample,) = samples(1)
    deliver(ends, sample)
    before = ends.store.history_statement(SITE)
    bring_back(ends, backup)
    now = ends.store.history_statement(SITE)
    assert before
    assert now
    ends.outbox.record_receipt(now)
    told = ends.outbox.history()
    ends.outbox.record_receipt(before)  # on a stick that was forgotten in a drawer
    assert ends.outbox.history() == told
    assert ends.outbox.follow() == 3
    ends.carry()
    assert_once(ends, [sample])


def test_a_clinic_put_back_offers_again_and_nothing_is_twice(ends: TwoEnds) -> None:
    first, second = some = samples(2)
    ends.accept(first)
    ends.accept(second)
    ends.make_parts()
    ends.outbox.database.close()
    before = shutil.copytree(ends.folder / "clinic", ends.folder / "clinic-before")
    ends.carry()
    ends.outbox.database.close()
    shutil.rmtree(ends.folder / "clinic")
    shutil.copytree(before, ends.folder / "clinic")
    ends.switch_on()
    assert ends.outbox.due()
    ends.carry()
    assert_once(ends, some)
    assert reasons(ends) == ["first"]


def test_a_clinic_of_an_earlier_version_is_told_nothing_of_it(ends: TwoEnds) -> None:
    session = ends.ingest()
    (welcome,) = session.receive(hello(seen=False))
    assert not welcome.welcome.HasField("store")
    backed_up(ends)
    assert session.new_messages() == []


def test_a_receipt_of_another_hub_or_site_changes_nothing(ends: TwoEnds) -> None:
    place = Place(Generation(b"g" * 16), 7)
    object = samples(1)[0].study * 2
    told = Receipt(samples(1)[0].study, SITE, object, StudyStatus.STORED, ends.clock.now(), place_detail(place))  # type: ignore[arg-type]
    for forged in (b"", b"no receipt", sign_receipt(told, HUB_SIGNING)[:-1]):
        ends.ingest().receive(hello(forged))
    assert reasons(ends) == ["first"]


def test_a_power_cut_while_the_clinic_follows_leaves_nothing_out(tmp_path: Path) -> None:
    some = samples(2)
    for cut in range(0, 40, 3):
        ends = TwoEnds(tmp_path / str(cut))
        backed_up(ends)
        copy = copied(ends)
        deliver(ends, *some)
        put_back(ends, copy)
        ends.carry()
        ends.switch_on(Cutoff(cut))
        try:
            ends.outbox.follow()
            finished = True
        except PowerCut:
            finished = False
        ends.switch_on()
        ends.outbox.recover()
        ends.outbox.follow()
        ends.carry()
        assert_once(ends, some)
        if finished:
            return
    raise AssertionError("it never finished")


def cuts(ends: TwoEnds, act: object) -> Iterator[int]:
    """Every number of steps at which `act` is cut, until it ends by itself."""
    for cut in range(200):
        try:
            act(Disk(Cutoff(cut), reserve=0))  # type: ignore[operator]
        except PowerCut:
            yield cut
        else:
            return


def test_a_backup_that_is_killed_leaves_the_one_before_it(ends: TwoEnds) -> None:
    first, second = samples(2)
    deliver(ends, first)
    folder = backed_up(ends)
    deliver(ends, second)

    def act(disk: Disk) -> None:
        back_up(ends.hub.database, ends.hub.blobs, ends.folder / "hub", folder, disk, ends.clock, no_message, quiet)

    for _ in cuts(ends, act):
        assert_whole(folder)
    assert_whole(folder)
    assert len(blob_names(folder)) == 6


def test_a_restore_that_is_killed_is_repeated(ends: TwoEnds) -> None:
    first, second = some = samples(2)
    deliver(ends, first)
    folder = backed_up(ends)
    deliver(ends, second)
    shutil.rmtree(close_hub(ends) / "blobs")

    def act(disk: Disk) -> None:
        restore(ends.folder / "hub", folder, disk, ends.clock, no_message, quiet)

    for _ in cuts(ends, act):
        ends.clock.advance(1)
    assert_whole(ends.folder / "hub")
    assert again(ends) == 3
    assert_once(ends, some)
    assert list((ends.folder / "hub" / "replaced").rglob("thinwire.db"))


def test_a_damaged_part_is_in_no_backup_and_its_clinic_keeps_it(ends: TwoEnds) -> None:
    backed_up(ends)
    (sample,) = samples(1)
    deliver(ends, sample)
    (path,) = [
        each for each in (ends.folder / "hub" / "blobs").glob("??/*") if each.stat().st_size == len(sample.source)
    ]
    path.write_bytes(b"damaged" * 3)
    done = back_up(
        ends.hub.database,
        ends.hub.blobs,
        ends.folder / "hub",
        ends.folder / "backup",
        Disk(reserve=0),
        ends.clock,
        no_message,
        quiet,
    )
    assert [each.hex() for each in done.damaged] == [path.name]
    ends.carry()
    ends.outbox.follow()
    assert ends.outbox.path(sample.study, Kind.ORIGINALS) is not None


def test_a_snapshot_of_another_program_counts_from_its_beginning(ends: TwoEnds) -> None:
    first, second = samples(2)
    deliver(ends, first)
    ends.clock.advance(60)
    at = ends.clock.now()
    ends.clock.advance(60)
    deliver(ends, second)
    record_taken(ends.hub.database, at, ends.clock, no_message)
    with ends.hub.database.read() as connection:
        assert history_of(connection, SITE).backed_up == 3
    with pytest.raises(BadConfiguration, match="future"):
        record_taken(ends.hub.database, ends.clock.now().replace(year=2100), ends.clock, no_message)


def test_a_folder_that_cannot_be_a_backup_is_refused(ends: TwoEnds) -> None:
    hub, disk = ends.folder / "hub", Disk(reserve=0)
    for folder in (hub, hub / "blobs" / "backup", ends.folder):
        with pytest.raises(BadConfiguration, match="own folder"):
            back_up(ends.hub.database, ends.hub.blobs, hub, folder, disk, ends.clock, no_message, quiet)
    (ends.folder / "empty").mkdir()
    with pytest.raises(BadConfiguration, match="no backup"):
        restore(close_hub(ends), ends.folder / "empty", disk, ends.clock, no_message, quiet)


def test_one_backup_at_a_time(ends: TwoEnds) -> None:
    folder, raised = ends.folder / "backup", []

    def meanwhile(_name: str, _done: int, _total: int) -> None:
        with pytest.raises(HubBusy) as error:
            back_up(
                ends.hub.database,
                ends.hub.blobs,
                ends.folder / "hub",
                folder,
                Disk(reserve=0),
                ends.clock,
                no_message,
                quiet,
            )
        raised.append(error)

    deliver(ends, *samples(1))
    back_up(
        ends.hub.database,
        ends.hub.blobs,
        ends.folder / "hub",
        folder,
        Disk(reserve=0),
        ends.clock,
        no_message,
        meanwhile,
    )
    assert raised


def blob_names(folder: Path) -> set[str]:
    return {each.name for each in (folder / "blobs").glob("??/*") if not each.name.startswith(".")}


def assert_whole(folder: Path) -> None:
    """Every row of the database has its blob."""
    with closing(sqlite3.connect(folder / "thinwire.db")) as database:
        named = {blob.hex() for (blob,) in database.execute("SELECT blob FROM objects")}
    assert named <= blob_names(folder)
