import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.damage import turned
from tests.support.power import PowerCut
from tests.support.two_ends import HUB_SIGNING, PLAN, SITE, Sample, TwoEnds, blobs_of, samples, sealed_file, until_whole
from thinwire.sender.outbox.entries import EntryState, PartState
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import AlreadyAccepted, Forged, Retryable, UnknownStudy
from thinwire.shared.formats.receipts import Receipt, StudyStatus, sign_receipt
from thinwire.shared.identifiers import SiteName, StudyKey, digest

(STUDY,) = samples(1, size=5_000)


@pytest.fixture
def ends(tmp_path: Path) -> TwoEnds:
    return TwoEnds(tmp_path)


def here(ends: TwoEnds, kind: Kind) -> bool:
    """Whether the clinic has the bytes of a part of STUDY, by its database and on its disk."""
    path = ends.outbox.path(STUDY.study, kind)
    return path is not None and path in blobs_of(ends)


def stored(ends: TwoEnds, kind: Kind, status: StudyStatus = StudyStatus.STORED, site: SiteName = SITE) -> bytes:
    """The hub's receipt for a part."""
    object = ends.outbox.entry(STUDY.study).part(kind).object
    return sign_receipt(Receipt(STUDY.study, site, object, status, ends.clock.now()), HUB_SIGNING)


def test_an_accepted_study_is_there_for_every_other_process(ends: TwoEnds) -> None:
    entry = ends.accept(STUDY)
    assert entry.state is EntryState.ACCEPTED
    assert ends.new_outbox().entries() == [entry]
    assert ends.new_outbox().source(STUDY.study) == STUDY.source
    assert ends.new_outbox().unfinished() == [entry]


def test_nothing_of_a_study_can_be_read_in_the_outbox(ends: TwoEnds) -> None:
    sample = Sample(b"NOBODY^AT ALL" * 100, words=b"chest pain")
    ends.accept(sample)
    ends.make_parts()
    for path in (ends.folder / "clinic").rglob("*"):
        if path.is_file() and "keys" not in path.parts:
            assert b"NOBODY" not in path.read_bytes()
            assert b"chest" not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0


def test_a_repeat_does_nothing(ends: TwoEnds) -> None:
    first = ends.accept(STUDY)
    ends.clock.advance(100)
    assert ends.accept(STUDY) == first
    ends.make_parts()
    assert ends.accept(STUDY).state is EntryState.SENDING
    assert len(ends.outbox.entries()) == 1


def test_a_repeat_can_make_a_study_urgent(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    ends.make_parts()
    assert not any(due.urgent for due in ends.outbox.due())
    ends.accept(Sample(STUDY.source, urgent=True))
    assert all(due.urgent for due in ends.outbox.due())
    ends.accept(STUDY)
    assert all(due.urgent for due in ends.outbox.due())


def test_the_same_files_with_other_words_are_refused(ends: TwoEnds) -> None:
    ends.accept(Sample(STUDY.source, words=b"fever"))
    with pytest.raises(AlreadyAccepted):
        ends.accept(Sample(STUDY.source, words=b"fall"))
    with pytest.raises(AlreadyAccepted):
        ends.accept(STUDY)


def test_parts_are_due_when_they_are_made_and_the_source_goes_with_the_last(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    ends.outbox.add(STUDY.study, Kind.GRAPH, b"graph")
    assert [due.kind for due in ends.outbox.due()] == [Kind.GRAPH]
    originals = ends.outbox.add(STUDY.study, Kind.ORIGINALS, STUDY.source)
    assert here(ends, Kind.SOURCE)
    ends.outbox.add(STUDY.study, Kind.MANIFEST, b"manifest")
    assert not here(ends, Kind.SOURCE)
    assert ends.outbox.source(STUDY.study) == STUDY.source
    assert originals.plain_size == len(STUDY.source)
    (due,) = (due for due in ends.outbox.due() if due.kind is Kind.ORIGINALS)
    sealed = ends.outbox.read(due, 0, due.size)
    assert digest(sealed) == due.object == originals.object
    assert ends.outbox.read(due, due.size - 5, 100) == sealed[-5:]


def test_a_part_is_made_twice_with_the_same_bytes_or_not_at_all(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    first = ends.outbox.add(STUDY.study, Kind.GRAPH, b"graph")
    ends.clock.advance(timedelta(days=3).total_seconds())
    assert ends.outbox.add(STUDY.study, Kind.GRAPH, b"graph") == first
    with pytest.raises(ValueError, match="waiting cannot be added"):
        ends.outbox.add(STUDY.study, Kind.GRAPH, b"another graph")


def test_bytes_go_only_when_the_receipt_is_here(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    ends.make_parts()
    ends.outbox.record_receipt(stored(ends, Kind.GRAPH))
    assert not here(ends, Kind.GRAPH)
    assert here(ends, Kind.ORIGINALS)
    assert ends.outbox.entry(STUDY.study).state is EntryState.SENDING
    for kind in (Kind.ORIGINALS, Kind.MANIFEST):
        ends.outbox.record_receipt(stored(ends, kind))
    entry = ends.new_outbox().entry(STUDY.study)
    assert entry.state is EntryState.ARRIVED
    assert {receipt.object for receipt in ends.outbox.receipts(STUDY.study)} == {part.object for part in entry.parts}
    assert ends.outbox.due() == []


def test_stored_bytes_stay_while_a_part_is_yet_to_be_made(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    ends.outbox.add(STUDY.study, Kind.ORIGINALS, STUDY.source)
    ends.outbox.record_receipt(stored(ends, Kind.ORIGINALS))
    sealed_file(ends.outbox, STUDY.study, Kind.SOURCE).unlink()
    assert ends.outbox.source(STUDY.study) == STUDY.source
    ends.make_parts()
    assert here(ends, Kind.ORIGINALS)
    for kind in (Kind.GRAPH, Kind.MANIFEST):
        ends.outbox.record_receipt(stored(ends, kind))
    assert not here(ends, Kind.ORIGINALS)


def test_the_last_copy_stays_until_the_hub_has_every_part(ends: TwoEnds) -> None:
    """The graph is damaged unseen when the hub's receipt for the originals comes: it is made anew of them."""
    ends.accept(STUDY)
    ends.make_parts()
    sealed_file(ends.outbox, STUDY.study, Kind.GRAPH).write_bytes(b"rotten")
    for kind in (Kind.ORIGINALS, Kind.MANIFEST):
        ends.outbox.record_receipt(stored(ends, kind))
    ends.switch_on()
    (entry,) = ends.outbox.recover()
    assert entry.missing == (Kind.GRAPH,)
    ends.make_parts()
    ends.carry()
    assert ends.parts()[STUDY.study, Kind.GRAPH] == STUDY.parts[Kind.GRAPH]
    assert not blobs_of(ends)


def test_the_source_stays_where_the_originals_made_of_it_are_damaged(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    ends.outbox.add(STUDY.study, Kind.ORIGINALS, STUDY.source)
    sealed_file(ends.outbox, STUDY.study, Kind.ORIGINALS).write_bytes(b"rotten")
    ends.make_parts()
    assert ends.outbox.source(STUDY.study) == STUDY.source


@pytest.mark.parametrize("harm", [False, True])
def test_the_last_copy_goes_when_what_is_held_for_a_request_is_whole(ends: TwoEnds, harm: bool) -> None:
    ends.outbox.accept(STUDY.study, STUDY.source, (*PLAN, Kind.CROPS))
    ends.outbox.add(STUDY.study, Kind.CROPS, b"crops", hold=True)
    ends.make_parts()
    if harm:
        sealed_file(ends.outbox, STUDY.study, Kind.CROPS).write_bytes(b"rotten")
    for kind in PLAN:
        ends.outbox.record_receipt(stored(ends, kind))
    assert here(ends, Kind.ORIGINALS) is harm


def test_the_hubs_furthest_word_counts(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    ends.make_parts()
    ends.outbox.record_receipt(stored(ends, Kind.GRAPH, StudyStatus.TRIAGED))
    assert ends.outbox.entry(STUDY.study).part(Kind.GRAPH).state is PartState.WAITING
    ends.outbox.record_receipt(stored(ends, Kind.GRAPH))
    assert ends.outbox.entry(STUDY.study).status is StudyStatus.TRIAGED


def test_receipts_of_others_are_refused(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    ends.make_parts()
    good = stored(ends, Kind.GRAPH)
    for bad in (stored(ends, Kind.GRAPH, site=SiteName("elsewhere")), good[:-1], turned(good, -1)):
        with pytest.raises(Forged):
            ends.outbox.record_receipt(bad)
    assert len(ends.outbox.due()) == 3
    assert ends.outbox.receipts(STUDY.study) == []


def test_a_receipt_for_a_study_that_is_gone_is_only_read(ends: TwoEnds) -> None:
    other = Receipt(StudyKey(b"o" * 16), SITE, None, StudyStatus.REPORTED, ends.clock.now())
    assert ends.outbox.record_receipt(sign_receipt(other, HUB_SIGNING)) == other
    assert ends.outbox.entries() == []


def test_a_refused_part_is_kept_and_can_be_tried_again(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    ends.make_parts()
    graph = next(due for due in ends.outbox.due() if due.kind is Kind.GRAPH)
    ends.outbox.record_refusal(graph, "unknown bundle")
    part = ends.outbox.entry(STUDY.study).part(Kind.GRAPH)
    assert (part.state, part.reason) == (PartState.REFUSED, "unknown bundle")
    assert here(ends, Kind.GRAPH)
    ends.outbox.retry(STUDY.study)
    assert graph in ends.outbox.due()


def test_a_held_part_goes_when_a_reader_asks(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    ends.outbox.add(STUDY.study, Kind.ORIGINALS, STUDY.source, hold=True)
    assert ends.outbox.due() == []
    ends.outbox.request(STUDY.study, Kind.ORIGINALS)
    (due,) = ends.outbox.due()
    assert due.first
    assert not due.urgent


def test_a_part_that_was_asked_for_before_it_was_made_is_not_held(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    ends.outbox.request(STUDY.study, Kind.PREVIEW)
    assert Kind.PREVIEW in ends.outbox.entry(STUDY.study).missing
    ends.outbox.add(STUDY.study, Kind.PREVIEW, b"preview", hold=True)
    assert [due.kind for due in ends.outbox.due()] == [Kind.PREVIEW]


def test_a_part_that_cannot_be_made_does_not_hold_up_the_study(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    ends.outbox.give_up(STUDY.study, Kind.GRAPH, "the encoder could not run")
    ends.make_parts()
    ends.carry()
    entry = ends.outbox.entry(STUDY.study)
    assert entry.state is EntryState.ARRIVED
    assert entry.part(Kind.GRAPH).reason == "the encoder could not run"


def test_a_receipt_for_a_part_that_was_lost_meanwhile_counts(ends: TwoEnds) -> None:
    """The hub repeats it in every session: an error would end each of them."""
    ends.accept(STUDY)
    ends.make_parts()
    receipt = stored(ends, Kind.GRAPH)
    sealed_file(ends.outbox, STUDY.study, Kind.GRAPH).write_bytes(b"damaged")
    ends.outbox.recover()
    ends.outbox.note_failure(STUDY.study, Kind.GRAPH, "the encoder could not run")
    assert ends.outbox.entry(STUDY.study).part(Kind.GRAPH).reason == "the encoder could not run"
    ends.outbox.give_up(STUDY.study, Kind.GRAPH, "the encoder cannot run")
    ends.outbox.record_receipt(receipt)
    before = ends.outbox.entry(STUDY.study)
    assert before.part(Kind.GRAPH).state is PartState.STORED
    # A worker that began to make it before the receipt came.
    ends.outbox.give_up(STUDY.study, Kind.GRAPH, "too late")
    ends.outbox.note_failure(STUDY.study, Kind.GRAPH, "too late")
    ends.outbox.add(STUDY.study, Kind.GRAPH, b"another graph")
    assert ends.outbox.entry(STUDY.study) == before


@pytest.mark.parametrize("harm", ["removed", "cut short", "altered"])
def test_damaged_parts_are_made_anew(ends: TwoEnds, harm: str) -> None:
    ends.accept(STUDY)
    ends.make_parts()
    path = sealed_file(ends.outbox, STUDY.study, Kind.GRAPH)
    data = path.read_bytes()
    path.unlink()
    if harm != "removed":
        path.write_bytes(data[:-1] if harm == "cut short" else turned(data, -1))
    ends.switch_on()
    (entry,) = ends.outbox.recover()
    assert entry.missing == (Kind.GRAPH,)
    ends.make_parts()
    assert path.read_bytes() == data


def test_a_study_whose_bytes_are_all_damaged_can_be_given_again(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    sealed_file(ends.outbox, STUDY.study, Kind.SOURCE).write_bytes(b"")
    with pytest.raises(UnknownStudy, match="damaged"):
        ends.outbox.source(STUDY.study)
    ends.accept(STUDY)
    assert ends.outbox.source(STUDY.study) == STUDY.source


def alter(ends: TwoEnds, statement: str) -> None:
    """Change the clinic's database by hand."""
    with ends.outbox.database.write() as connection:
        connection.exec_driver_sql(statement)


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE parts SET state = 'teleported'",
        "UPDATE parts SET kind = 77 WHERE kind = 3",
        "UPDATE studies SET status = 'dictated'",
        "UPDATE studies SET effort = 'huge'",
        'UPDATE studies SET overrides = \'{"hologram": "always"}\'',
    ],
)
def test_an_entry_of_an_unknown_form_is_kept_and_named_and_stops_no_other(ends: TwoEnds, harm: str) -> None:
    ends.accept(STUDY)
    ends.make_parts()
    assert ends.outbox.unreadable() == []
    alter(ends, harm)
    before = blobs_of(ends)
    other, _ = samples(2, size=100)
    ends.accept(other)
    for outbox in (ends.outbox, ends.new_outbox()):
        assert [entry.study for entry in outbox.entries()] == [other.study]
        (found,) = outbox.unreadable()
        assert STUDY.study.hex() in found.reason
        with pytest.raises(UnknownStudy, match="does not know"):
            outbox.entry(STUDY.study)
    ends.switch_on()
    ends.outbox.recover()
    ends.make_parts()
    ends.carry()
    assert ends.outbox.entry(other.study).state is EntryState.ARRIVED
    assert set(before) <= set(blobs_of(ends))


def test_unfinished_studies_are_worked_on_by_urgency_and_age(ends: TwoEnds) -> None:
    old, new, urgent = samples(3, size=50)
    for sample in (old, new):
        ends.accept(sample)
        ends.clock.advance(1)
    ends.outbox.accept(urgent.study, urgent.source, PLAN, urgent=True)
    assert [entry.study for entry in ends.outbox.unfinished()] == [urgent.study, old.study, new.study]


def test_one_process_drives_the_link(ends: TwoEnds) -> None:
    with ends.outbox.own_link():
        with pytest.raises(Retryable, match="another process"), ends.new_outbox().own_link():
            pass
        ends.new_outbox().accept(STUDY.study, STUDY.source, PLAN)
    with ends.new_outbox().own_link():
        pass


def test_an_error_while_the_link_is_owned_is_not_taken_for_another_owner(ends: TwoEnds) -> None:
    with pytest.raises(BlockingIOError), ends.outbox.own_link():
        raise BlockingIOError


@pytest.mark.parametrize("step", ["store.blob.done", "accept.before_commit"])
def test_recovery_leaves_a_study_that_is_being_accepted(ends: TwoEnds, step: str) -> None:
    def in_the_middle(passed: str) -> None:
        if passed == step:
            # The writing transaction is open at the second: the other process only looks for bytes without a row.
            ends.outbox.recover() if step == "store.blob.done" else None

    ends.disk.step = in_the_middle
    ends.accept(STUDY)
    ends.disk.step = lambda _: None
    ends.outbox.recover()
    assert ends.outbox.source(STUDY.study) == STUDY.source


def test_recovery_removes_bytes_without_a_row(ends: TwoEnds) -> None:
    def cut(passed: str) -> None:
        if passed == "part.before_commit":
            raise PowerCut

    ends.accept(STUDY)
    ends.disk.step = cut
    with pytest.raises(PowerCut):
        ends.outbox.add(STUDY.study, Kind.ORIGINALS, STUDY.source)
    ends.switch_on()
    assert len(blobs_of(ends)) == 2
    ends.outbox.recover()
    assert len(blobs_of(ends)) == 1
    assert ends.outbox.source(STUDY.study) == STUDY.source


@pytest.mark.parametrize("known", [True, False], ids=["row", "no-row"])
@pytest.mark.parametrize("made", [True, False], ids=["originals-left", "source-left"])
def test_the_last_copy_of_a_study_outlives_the_restoration_of_an_older_database(
    ends: TwoEnds, known: bool, made: bool
) -> None:
    if known:
        ends.accept(STUDY)
    older = [sqlite3.connect(path) for path in (":memory:", ends.outbox.database.file)]
    older[1].backup(older[0])
    ends.accept(STUDY)
    if made:
        ends.make_parts()
    older[0].backup(older[1])
    for each in older:
        each.close()
    ends.switch_on()
    left = ends.outbox.sweep()
    ends.outbox.recover()  # as often as it likes
    assert len(left) == (0 if known and not made else 1)
    for name in left:
        assert ends.outbox.take_back(name, PLAN, lambda _: (STUDY.words, None)) == STUDY.study
    assert ends.outbox.sweep() == []
    assert ends.outbox.source(STUDY.study) == STUDY.source
    assert ends.outbox.entry(STUDY.study).missing == (Kind.GRAPH, Kind.ORIGINALS, Kind.MANIFEST)
    assert len(blobs_of(ends)) == 1
    ends.accept(STUDY)  # with the text that it had
    ends.make_parts()
    until_whole(ends, ends.carry)
    ends.assert_arrived([STUDY])
    assert ends.outbox.sweep() == []


def test_two_processes_accept_the_same_study_at_once(ends: TwoEnds) -> None:
    def in_the_middle(step: str) -> None:
        if step == "store.blob.done":
            ends.disk.step = lambda _: None
            ends.new_outbox().accept(STUDY.study, STUDY.source, PLAN)

    ends.disk.step = in_the_middle
    ends.accept(STUDY)
    assert len(ends.outbox.entries()) == 1
    assert len(blobs_of(ends)) == 1


def test_old_studies_are_forgotten_once_they_arrived(ends: TwoEnds) -> None:
    late, waiting = samples(2, size=50)
    ends.accept(STUDY)
    ends.make_parts()
    ends.carry()
    ends.accept(waiting)
    ends.clock.advance(timedelta(days=10).total_seconds())
    before = ends.clock.now() - timedelta(days=7)
    ends.accept(late)
    assert ends.outbox.purge(before) == 1
    assert {entry.study for entry in ends.outbox.entries()} == {late.study, waiting.study}
    assert ends.outbox.source(waiting.study) == waiting.source


def test_a_study_whose_originals_the_hub_has_not_is_never_forgotten(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    ends.outbox.add(STUDY.study, Kind.ORIGINALS, STUDY.source, hold=True)
    ends.make_parts()
    ends.carry()
    assert ends.outbox.entry(STUDY.study).state is EntryState.ARRIVED
    ends.clock.advance(timedelta(days=100).total_seconds())
    assert ends.outbox.purge(ends.clock.now()) == 0
    assert ends.outbox.source(STUDY.study) == STUDY.source
    ends.outbox.request(STUDY.study, Kind.ORIGINALS)
    ends.carry()
    assert ends.outbox.purge(ends.clock.now()) == 1


def test_an_unknown_study(ends: TwoEnds) -> None:
    for ask in (ends.outbox.entry, ends.outbox.source):
        with pytest.raises(UnknownStudy):
            ask(STUDY.study)
    with pytest.raises(UnknownStudy):
        ends.outbox.add(STUDY.study, Kind.GRAPH, b"graph")


def test_a_damaged_receipt_does_not_hide_the_others(ends: TwoEnds) -> None:
    ends.accept(STUDY)
    ends.make_parts()
    ends.outbox.record_receipt(stored(ends, Kind.GRAPH))
    ends.outbox.record_receipt(stored(ends, Kind.ORIGINALS))
    alter(ends, "UPDATE receipts SET signed = x'00' WHERE rowid = (SELECT min(rowid) FROM receipts)")
    assert len(ends.outbox.receipts(STUDY.study)) == 1
    assert ends.outbox.entry(STUDY.study).part(Kind.GRAPH).state is PartState.STORED
