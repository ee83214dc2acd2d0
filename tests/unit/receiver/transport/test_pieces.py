"""The inbox of several replicas: pieces in an object store and rows, two replicas at once, dead processes."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.support.object_store import Fault, faulty_bucket
from tests.support.power import Fuse, PowerCut
from tests.support.two_ends import SITE, TwoEnds, samples, until_whole
from thinwire.receiver.store.tables import pieces
from thinwire.receiver.transport.inbox import STALE
from thinwire.receiver.transport.partial_reader import PartialReader
from thinwire.receiver.transport.pieces import OBJECT_BYTES, SWEEP_AFTER, WAIT, PieceInbox, PiecePartial
from thinwire.sender.outbox.entries import PartState
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import HubBusy, LimitReached, ObjectStoreBusy
from thinwire.shared.identifiers import Digest, digest
from thinwire.shared.storage.object_store import SILENCE

SIZE = 3 * OBJECT_BYTES + 100
CONTENT = bytes(range(256)) * (SIZE // 256) + bytes(SIZE % 256)
OBJECT = digest(CONTENT)


@pytest.fixture
def ends(tmp_path: Path) -> TwoEnds:
    ends = TwoEnds(tmp_path, objects=f"file://{tmp_path}/bucket")
    ends.hub  # noqa: B018 - enrols the site
    return ends


def begin(ends: TwoEnds, object: Digest = OBJECT, most: int = 64) -> PiecePartial:
    """An object as a new process of the hub begins or continues it."""
    inbox = ends.new_inbox()
    assert isinstance(inbox, PieceInbox)
    return inbox.open(SITE, object, SIZE, lambda _: 0, most)


def stored(ends: TwoEnds) -> list[Path]:
    return sorted(path for path in (ends.folder / "bucket" / "pieces").rglob("*") if path.is_file())


def rows(ends: TwoEnds) -> list[tuple[int, int, bool]]:
    """(start, size, whether it is an object) of every piece."""
    with ends.hub.database.read() as connection:
        found = connection.execute(select(pieces).order_by(pieces.c.start)).all()
    return [(row.start, row.size, row.name is not None) for row in found]


def add(partial: PiecePartial, size: int) -> None:
    partial.append(CONTENT[partial.length : partial.length + size])
    partial.sync()


def content(partial: PiecePartial) -> bytes:
    with partial.content() as data:
        return bytes(data)


def test_another_replica_goes_on_where_the_bytes_are_durable(ends: TwoEnds) -> None:
    partial = begin(ends)
    add(partial, 1_000)
    add(partial, OBJECT_BYTES)
    add(partial, 70)
    partial.append(b"never durable")
    assert rows(ends) == [(0, 1_000 + OBJECT_BYTES, True), (1_000 + OBJECT_BYTES, 70, False)]
    again = begin(ends)
    assert (again.length, again.durable, again.unsynced) == (1_070 + OBJECT_BYTES,) * 2 + (0,)
    add(again, OBJECT_BYTES)
    again.append(CONTENT[again.length :])
    assert again.whole
    assert content(again) == CONTENT
    assert len(stored(ends)) == 2
    again.discard()
    assert (stored(ends), rows(ends), again.inbox.objects(SITE)) == ([], [], [])


def test_small_pieces_become_one_object_before_they_are_many(ends: TwoEnds) -> None:
    partial = begin(ends)
    for _ in range(100):
        add(partial, SIZE // 101)
    found = rows(ends)
    assert [is_object for _, _, is_object in found].count(True) == 2
    assert len(found) < 2 + 101 / 3
    partial.append(CONTENT[partial.length :])
    assert content(partial) == CONTENT


def test_of_two_replicas_one_receives_an_object(ends: TwoEnds) -> None:
    first = begin(ends)
    add(first, 1_000)
    second = begin(ends)
    add(second, OBJECT_BYTES)
    for size in (500, OBJECT_BYTES):
        with pytest.raises(HubBusy, match="another stream"):
            add(first, size)
    first.append(CONTENT[first.length :])
    with pytest.raises(HubBusy, match="another stream"):
        content(first)
    second.append(CONTENT[second.length :])
    assert content(second) == CONTENT
    assert len(stored(ends)) == 1


def test_an_object_that_another_replica_ended_is_not_begun_again(ends: TwoEnds) -> None:
    first = begin(ends)
    add(first, 1_000)
    begin(ends).discard()
    with pytest.raises(HubBusy):
        add(first, 1_000)
    first.close()
    assert rows(ends) == []


def test_an_object_whose_piece_is_gone_is_sent_again_as_a_whole(ends: TwoEnds) -> None:
    partial = begin(ends)
    add(partial, OBJECT_BYTES)
    stored(ends)[0].unlink()
    partial.append(CONTENT[partial.length :])
    with pytest.raises(HubBusy, match="are gone"):
        content(partial)
    assert begin(ends).durable == 0


def test_what_a_dead_process_left_is_swept_after_a_day(ends: TwoEnds) -> None:
    partial = begin(ends)
    add(partial, OBJECT_BYTES)
    kept = stored(ends)
    ends.fuse.at = ("inbox.piece.before_commit", 2)
    with pytest.raises(PowerCut):
        add(partial, OBJECT_BYTES)
    ends.switch_on()
    assert len(stored(ends)) == 2
    assert isinstance(ends.inbox, PieceInbox)
    ends.clock.advance((kept[0].stat().st_mtime - ends.clock.now().timestamp()) + SWEEP_AFTER.total_seconds() - 60)
    assert ends.inbox.sweep() == 0
    ends.clock.advance(120)
    assert ends.inbox.sweep() == 1
    assert stored(ends) == kept


def test_limits_count_rows(ends: TwoEnds) -> None:
    add(begin(ends), 1_000)
    add(begin(ends, digest(b"another")), 300)
    assert ends.inbox.size(SITE, but=OBJECT) == 300
    with pytest.raises(LimitReached):
        begin(ends, digest(b"third"), most=2)
    ends.clock.advance(STALE.total_seconds() + 1)
    add(begin(ends, digest(b"another")), 300)
    begin(ends, digest(b"third"), most=2)
    assert set(ends.inbox.objects(SITE)) == {digest(b"another"), digest(b"third")}


def test_few_bytes_wait_for_more_unless_the_clinic_asks(ends: TwoEnds) -> None:
    partial = begin(ends)
    assert partial.wait(asked=True) == 0
    assert partial.wait(asked=False) == WAIT


def test_a_reader_sees_what_has_arrived(ends: TwoEnds) -> None:
    (sample,) = samples(1, size=2_000_000)
    ends.accept(sample)
    ends.make_parts()
    ends.carry("." * 30 + "x", rate=100_000)
    reader = PartialReader(ends.new_inbox(), ends.hub.enrolment)
    seen = reader.prefix(SITE, sample.study, Kind.ORIGINALS)
    assert 0 < len(seen) < len(sample.source)
    assert sample.source.startswith(seen)
    assert reader.prefix(SITE, sample.study, Kind.CROPS) == b""


def arrive(ends: TwoEnds) -> None:
    """Streams in rows and in objects, some of which break, until all is at the hub."""
    until_whole(ends, lambda: ends.carry("." * 25 + "x", rate=300_000))
    ends.carry()  # the last receipts are confirmed


def sent(folder: Path) -> TwoEnds:
    ends = TwoEnds(folder, objects=f"file://{folder}/bucket")
    for sample in samples(1, size=700_000):
        ends.accept(sample)
    ends.make_parts()
    return ends


def test_a_replica_that_dies_at_any_step_loses_nothing(tmp_path: Path) -> None:
    studies, whole = samples(1, size=700_000), sent(tmp_path / "whole")
    whole.switch_on()
    arrive(whole)
    passed = [name for name in whole.fuse.passed if name.startswith(("inbox", "store.blob"))]
    assert len(set(passed)) >= 12
    for name in dict.fromkeys(passed):
        ends = sent(tmp_path / name)
        ends.switch_on(Fuse((name, passed.count(name))))
        with pytest.raises(PowerCut):
            arrive(ends)
        ends.switch_on()
        arrive(ends)
        ends.assert_arrived(studies)
        assert isinstance(ends.inbox, PieceInbox)
        ends.clock.advance(timedelta(days=3650).total_seconds())
        ends.inbox.sweep()
        assert stored(ends) == [], name


def test_a_store_that_fails_in_the_middle_delays_an_object(tmp_path: Path) -> None:
    with faulty_bucket() as proxy:
        ends = TwoEnds(tmp_path, objects=proxy.url)
        assert ends.objects is not None
        ends.objects._monotonic = ends.clock.monotonic
        studies = samples(1, size=700_000)
        ends.accept(studies[0])
        ends.make_parts()
        for fault in (Fault.BUSY, Fault.FULL, Fault.REFUSED, Fault.NOTHING_STORED, Fault.ALTERED):
            proxy.fault = fault
            ends.carry(rate=300_000)
            states = {part.kind: part.state for part in ends.outbox.entry(studies[0].study).parts}
            assert states[Kind.ORIGINALS] is PartState.WAITING, fault
            ends.clock.advance(SILENCE + 60)
        proxy.fault = None
        until_whole(ends, ends.carry)
        ends.assert_arrived(studies)


def test_a_failed_put_leaves_the_bytes_that_were_durable(tmp_path: Path) -> None:
    with faulty_bucket() as proxy:
        ends = TwoEnds(tmp_path, objects=proxy.url)
        partial = begin(ends)
        add(partial, OBJECT_BYTES)
        proxy.fault = Fault.BUSY
        with pytest.raises(ObjectStoreBusy):
            add(partial, OBJECT_BYTES)
        assert (partial.length, partial.durable) == (OBJECT_BYTES, OBJECT_BYTES)
        partial.close()
