from typing import Any

import grpc
import pytest

from tests.support.two_ends import HUB_SIGNING, SITE, TwoEnds, samples
from thinwire.receiver.store.damage import forget
from thinwire.receiver.store.erasure import erase
from thinwire.receiver.store.store import Store
from thinwire.receiver.transport import ingest as ingest_module
from thinwire.receiver.transport.ingest import (
    HEAD_SECONDS,
    MOST_TAKEN,
    PROGRESS_SECONDS,
    QUIET_SECONDS,
    IncomingObject,
    IngestSession,
    status_of,
)
from thinwire.receiver.transport.limits import SiteLimits
from thinwire.shared import errors
from thinwire.shared.crypto.envelope import Kind, seal
from thinwire.shared.errors import (
    BadPayload,
    DatabaseBusy,
    DiskFull,
    HubBusy,
    ObjectStoreBusy,
    ProtocolBroken,
    StorageFailed,
    ThinwireError,
    UnknownBundle,
)
from thinwire.shared.formats.receipts import StudyStatus, read_receipt
from thinwire.shared.identifiers import digest
from thinwire.shared.wire.chunks import LARGEST_CHUNK, VERSION
from thinwire.shared.wire.v1 import link_pb2 as wire

HELLO = wire.Up(hello=wire.Hello(version=VERSION))
(STUDY,) = samples(1, size=30_000)


@pytest.fixture
def ingest(ends: TwoEnds) -> IngestSession:
    """A stream on which the epoch was told already."""
    ends.hub.enrolment.admit_epoch(SITE, ends.outbox.epochs.record(ends.outbox.epochs.current().id))
    ingest = ends.ingest()
    ingest.receive(HELLO)
    return ingest


def sealed(ends: TwoEnds, kind: Kind = Kind.ORIGINALS, plaintext: bytes = STUDY.source) -> bytes:
    return seal(ends.outbox.epochs.current(), kind, STUDY.study, plaintext, chunk_log2=12)


def offer(data: bytes, number: int = 1, first: int | None = None, **fields: object) -> wire.Up:
    facts: dict[str, object] = {
        "number": number,
        "object": digest(data),
        "size": len(data),
        "head": data[: 45 if first is None else first],
    }
    return wire.Up(offer=wire.Offer(**(facts | fields)))  # type: ignore[arg-type]


def chunk(data: bytes, start: int, end: int, number: int = 1, ask: bool = True) -> wire.Up:
    return wire.Up(chunk=wire.Chunk(number=number, offset=start, data=data[start:end], ask=ask))


def one(downs: list[wire.Down]) -> wire.Down:
    (down,) = downs
    return down


def test_a_small_object_is_stored_at_once_and_never_in_the_inbox(ends: TwoEnds, ingest: IngestSession) -> None:
    data = sealed(ends, Kind.GRAPH, b"graph")
    down = one(ingest.receive(offer(data, first=len(data), urgent=True)))
    receipt = read_receipt(down.receipt.signed, HUB_SIGNING.public_key())
    assert (receipt.study, receipt.site, receipt.object) == (STUDY.study, SITE, digest(data))
    assert (receipt.status, receipt.at) == (StudyStatus.STORED, ends.clock.now())
    assert ends.parts() == {(STUDY.study, Kind.GRAPH): b"graph"}
    assert not any(step.startswith("inbox") for step in ends.fuse.passed)


def test_a_large_object_comes_in_chunks(ends: TwoEnds, ingest: IngestSession) -> None:
    data = sealed(ends)
    assert one(ingest.receive(offer(data))).progress.durable == 0
    for start in range(45, len(data), 5_000):
        downs = ingest.receive(chunk(data, start, start + 5_000))
    assert one(downs).WhichOneof("message") == "receipt"
    assert ends.parts()[STUDY.study, Kind.ORIGINALS] == STUDY.source
    assert ends.inbox.objects(SITE) == []


def test_progress_says_what_is_durable_when_the_stream_is_quiet(ends: TwoEnds, ingest: IngestSession) -> None:
    data = sealed(ends)
    ingest.receive(offer(data))
    assert ingest.receive(chunk(data, 45, 3_000)) == []
    assert one(ingest.tick()).progress.durable == 3_000
    assert ingest.tick() == []


def test_progress_comes_after_200_ms_and_after_256_kib(ends: TwoEnds, ingest: IngestSession) -> None:
    data = sealed(ends, plaintext=bytes(1 << 20))
    ingest.receive(offer(data))
    assert ingest.receive(chunk(data, 45, 3_000)) == []
    ends.clock.advance(0.2)
    assert one(ingest.receive(chunk(data, 3_000, 4_000))).progress.durable == 4_000
    assert ingest.receive(chunk(data, 4_000, 5_000)) == []
    assert one(ingest.receive(chunk(data, 5_000, 5_000 + LARGEST_CHUNK))).progress.durable == 5_000 + LARGEST_CHUNK


def test_a_clinic_that_does_not_ask_is_told_once_a_second_and_all_is_durable(
    ends: TwoEnds, ingest: IngestSession
) -> None:
    data = sealed(ends, plaintext=bytes(100_000))
    ingest.receive(offer(data))
    for end in range(5_000, 20_000, 5_000):
        assert ingest.receive(chunk(data, end - 5_000 or 45, end, ask=False)) == []
        ends.clock.advance(0.3)
        assert ingest.tick() == []
        assert [each.durable for each in ingest.arriving] == [end]
    ends.clock.advance(0.2)
    assert one(ingest.tick()).progress.durable == 15_000
    ends.clock.advance(PROGRESS_SECONDS)
    assert ingest.tick() == []
    assert ingest.receive(chunk(data, 15_000, 16_000, ask=True)) == []
    assert one(ingest.tick()).progress.durable == 16_000


def test_repeats_do_nothing_and_are_answered_again(ends: TwoEnds, ingest: IngestSession) -> None:
    data = sealed(ends, Kind.GRAPH, b"graph")
    first = one(ingest.receive(offer(data, first=len(data))))
    ends.clock.advance(5)
    again = one(ingest.receive(offer(data, number=2, first=len(data))))
    only_asked = one(ingest.receive(offer(data, number=3)))
    assert first == again == only_asked


def test_a_chunk_that_comes_twice_does_nothing(ends: TwoEnds, ingest: IngestSession) -> None:
    data = sealed(ends)
    ingest.receive(offer(data))
    for start, end in ((45, 9_000), (45, 9_000), (0, 5_000), (4_000, 20_000), (19_999, len(data))):
        downs = ingest.receive(chunk(data, start, end))
    assert one(downs).WhichOneof("message") == "receipt"
    assert ingest.receive(chunk(data, 0, 500)) == []  # it has ended


def test_a_new_stream_goes_on_from_the_old_one(ends: TwoEnds, ingest: IngestSession) -> None:
    data = sealed(ends)
    ingest.receive(offer(data))
    ingest.receive(chunk(data, 45, 9_000))
    ingest.close()
    again = ends.ingest()
    again.receive(HELLO)
    assert one(again.receive(offer(data))).progress.durable == 9_000


def test_receipts_that_were_not_confirmed_come_with_the_next_stream(ends: TwoEnds, ingest: IngestSession) -> None:
    data = sealed(ends, Kind.GRAPH, b"graph")
    signed = one(ingest.receive(offer(data, first=len(data)))).receipt.signed
    again = ends.ingest()
    welcome, receipt = again.receive(HELLO)
    assert welcome.welcome.version == VERSION
    assert receipt.receipt.signed == signed
    assert again.new_messages() == []
    assert again.receive(wire.Up(receipt_taken=wire.ReceiptTaken(receipt=digest(signed)))) == []
    assert len(ends.ingest().receive(HELLO)) == 1


def test_after_a_full_page_of_receipts_the_next_one_follows_the_confirmations(
    ends: TwoEnds, ingest: IngestSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "MOST_RECEIPTS", 2)
    for number in (1, 2, 3):
        data = sealed(ends, Kind.GRAPH, b"graph %d" % number)
        ingest.receive(offer(data, number, first=len(data)))
    again = ends.ingest()
    _welcome, *page = again.receive(HELLO)
    assert len(page) == 2
    for each in page:
        assert again.note(wire.Up(receipt_taken=wire.ReceiptTaken(receipt=digest(each.receipt.signed))))
    assert one(again.tick()).WhichOneof("message") == "receipt"
    assert again.tick() == []


@pytest.mark.parametrize("read", ["receipts_after", "requested_parts", "audit_head"])
def test_news_whose_reading_failed_is_told_by_the_next_attempt(
    ends: TwoEnds, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    ends.hub.enrolment.admit_epoch(SITE, ends.outbox.epochs.record(ends.outbox.epochs.current().id))
    stream, listens = ends.ingest(), ends.ingest()
    stream.receive(HELLO)
    listens.receive(HELLO)
    data = sealed(ends, Kind.GRAPH, b"graph")
    signed = one(stream.receive(offer(data, first=len(data)))).receipt.signed
    ends.store.request(SITE, STUDY.study, Kind.PREVIEW)
    ends.clock.advance(HEAD_SECONDS)

    def fails(*_: object) -> Any:
        raise DatabaseBusy("locked")

    with monkeypatch.context() as once:
        once.setattr(ends.hub.pipeline, read, fails)
        with pytest.raises(DatabaseBusy):
            listens.new_messages()
    receipt, request = listens.new_messages()
    assert receipt.receipt.signed == signed
    assert request.tier_request.kind == Kind.PREVIEW
    assert listens.new_messages() == []


def test_confirmations_that_come_at_once_are_recorded_at_once(
    ends: TwoEnds, ingest: IngestSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts: list[int] = []
    record = Store.record_delivered

    def counted(*given: Any) -> None:
        acts.append(len(given) - 2)
        record(*given)

    monkeypatch.setattr(Store, "record_delivered", counted)
    taken = []
    for number in (1, 2):
        data = sealed(ends, Kind.GRAPH, b"graph %d" % number)
        signed = one(ingest.receive(offer(data, number, first=len(data)))).receipt.signed
        taken.append(wire.Up(receipt_taken=wire.ReceiptTaken(receipt=digest(signed))))
    assert not ingest.note(offer(data))
    assert all(map(ingest.note, taken))
    assert (acts, ingest.due) == ([], QUIET_SECONDS)
    assert ingest.tick() == []
    assert acts == [2]
    assert ends.store.undelivered_receipts(SITE) == []
    # What waits when the stream ends is recorded too; more than a few do not wait.
    assert [ingest.note(taken[0]) for _ in range(MOST_TAKEN + 1)] == [True] * MOST_TAKEN + [False]
    ingest.close()
    assert acts == [2, MOST_TAKEN]


def test_a_reader_asks_once_a_stream(ends: TwoEnds, ingest: IngestSession) -> None:
    data = sealed(ends, Kind.GRAPH, b"graph")
    ingest.receive(offer(data, first=len(data)))
    ends.store.request(SITE, STUDY.study, Kind.PREVIEW)
    down = one(ingest.new_messages())
    assert (down.tier_request.study, down.tier_request.kind) == (STUDY.study, Kind.PREVIEW)
    assert ingest.new_messages() == []
    assert ends.ingest().new_messages() == []  # nothing before hello


def test_a_part_that_is_damaged_at_the_hub_is_requested_again_in_the_same_stream(
    ends: TwoEnds, ingest: IngestSession
) -> None:
    graph, originals = sealed(ends, Kind.GRAPH, b"graph"), sealed(ends)
    ingest.receive(offer(graph, first=len(graph)))
    ends.store.request(SITE, STUDY.study, Kind.ORIGINALS)
    assert one(ingest.new_messages()).tier_request.kind == Kind.ORIGINALS
    first = one(ingest.receive(offer(originals, number=2, first=len(originals)))).receipt.signed
    assert ingest.new_messages() == []
    with ends.hub.database.write() as connection:
        forget(connection, SITE, digest(STUDY.source), ends.clock.now())
    assert one(ingest.new_messages()).tier_request.kind == Kind.ORIGINALS
    ends.clock.advance(1)
    again = one(ingest.receive(offer(originals, number=3, first=len(originals)))).receipt.signed
    assert again != first
    assert ends.parts()[STUDY.study, Kind.ORIGINALS] == STUDY.source


def test_what_was_stored_leaves_no_partial(ends: TwoEnds, ingest: IngestSession) -> None:
    """The power was cut between the store and the removal."""
    data = sealed(ends)
    ingest.receive(offer(data, first=9_000))
    ingest.close()
    with_head = ends.ingest()
    with_head.receive(HELLO)
    path = ends.folder / "hub" / "inbox" / SITE / digest(data).hex()
    ingest_all = with_head.receive(offer(data)) + with_head.receive(chunk(data, 9_000, len(data)))
    assert ingest_all[-1].WhichOneof("message") == "receipt"
    path.write_bytes(data[:100])
    ends.ingest().receive(HELLO)
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"number": 0}, "number"),
        ({"object": b"\x11" * 31}, "identity"),
        ({"size": 0, "head": b""}, "size"),
        ({"head": b"TW"}, "too short"),
        ({"size": 50}, "too long"),
        ({"head": bytes(LARGEST_CHUNK + 1), "size": LARGEST_CHUNK + 2}, "too long"),
    ],
)
def test_an_offer_out_of_its_limits_ends_the_stream(
    ends: TwoEnds, ingest: IngestSession, change: dict[str, Any], why: str
) -> None:
    with pytest.raises(ProtocolBroken, match=why):
        ingest.receive(offer(sealed(ends), **({"head": sealed(ends)[:60]} | change)))


@pytest.mark.parametrize(
    ("start", "end", "number"), [(46, 100, 1), (10**9, 10**9 + 1, 1), (45, 45, 1), (45, 100, 2), (45, 100, 0)]
)
def test_a_chunk_that_does_not_continue_ends_the_stream(
    ends: TwoEnds, ingest: IngestSession, start: int, end: int, number: int
) -> None:
    data = sealed(ends)
    ingest.receive(offer(data))
    with pytest.raises(ProtocolBroken):
        ingest.receive(wire.Up(chunk=wire.Chunk(number=number, offset=start, data=bytes(end - start))))
    assert ends.parts() == {}


def test_a_chunk_past_the_end_or_longer_than_any_ends_the_stream(ends: TwoEnds, ingest: IngestSession) -> None:
    data = sealed(ends, plaintext=bytes(1 << 20))
    ingest.receive(offer(data))
    with pytest.raises(ProtocolBroken):
        ingest.receive(wire.Up(chunk=wire.Chunk(number=1, offset=45, data=bytes(LARGEST_CHUNK + 1))))
    data = sealed(ends)
    ingest.receive(offer(data, 2))
    ingest.receive(chunk(data, 45, 1_000, number=2))
    with pytest.raises(ProtocolBroken):
        ingest.receive(wire.Up(chunk=wire.Chunk(number=2, offset=1_000, data=bytes(len(data) - 999))))


def test_an_object_under_way_is_not_offered_twice_and_not_too_many_are(ends: TwoEnds) -> None:
    ends.limits = SiteLimits(under_way=2)
    ends.hub.enrolment.admit_epoch(SITE, ends.outbox.epochs.record(ends.outbox.epochs.current().id))
    ingest = ends.ingest()
    ingest.receive(HELLO)
    first, second, third = (sealed(ends, plaintext=bytes([n]) * 5_000) for n in range(3))
    ingest.receive(offer(first, 1))
    with pytest.raises(ProtocolBroken):
        ingest.receive(offer(first, 2))
    ingest.receive(offer(second, 3))
    with pytest.raises(ProtocolBroken):
        ingest.receive(offer(third, 4))


@pytest.mark.parametrize("up", [wire.Up(), HELLO, wire.Up(chunk=wire.Chunk(number=1, data=b"x"))])
def test_a_message_out_of_turn_ends_the_stream(ends: TwoEnds, ingest: IngestSession, up: wire.Up) -> None:
    with pytest.raises(ProtocolBroken):
        ingest.receive(up)


def test_hello_comes_first_and_with_this_version(ends: TwoEnds) -> None:
    with pytest.raises(ProtocolBroken, match="in the wrong order"):
        ends.ingest().receive(offer(b"x" * 50))
    with pytest.raises(ProtocolBroken, match="version 2"):
        ends.ingest().receive(wire.Up(hello=wire.Hello(version=2)))


def refused(ingest: IngestSession, up: wire.Up) -> wire.Refusal:
    down = one(ingest.receive(up))
    assert down.WhichOneof("message") == "refusal"
    return down.refusal


def test_a_kind_that_never_crosses_and_sizes_over_the_limit_are_refused(ends: TwoEnds, ingest: IngestSession) -> None:
    source = refused(ingest, offer(sealed(ends, Kind.SOURCE), 1))
    large = refused(ingest, offer(sealed(ends, Kind.GRAPH, bytes((1 << 20) + 1)), 2))
    huge = refused(ingest, offer(sealed(ends), 3, size=(2 << 30) + 1))
    assert {each.code for each in (source, large, huge)} == {wire.REFUSAL_CODE_BAD_FORMAT}
    assert "over the limit" in large.what
    assert ends.inbox.objects(SITE) == []


def test_what_is_no_object_is_refused(ends: TwoEnds, ingest: IngestSession) -> None:
    assert refused(ingest, offer(b"GET / HTTP/1.1" * 10)).code == wire.REFUSAL_CODE_FORGED
    assert refused(ingest, offer(b"TWE" + bytes(200), 2)).code == wire.REFUSAL_CODE_BAD_FORMAT
    assert refused(ingest, offer(b"TWE" + bytes(200), 3, first=203)).code == wire.REFUSAL_CODE_FORGED


@pytest.mark.parametrize(
    ("error", "code", "again"),
    [
        (BadPayload("lying counts"), wire.REFUSAL_CODE_BAD_FORMAT, 0),
        (UnknownBundle("which?"), wire.REFUSAL_CODE_UNKNOWN_BUNDLE, 0),
        (HubBusy("locked"), wire.REFUSAL_CODE_BUSY, 30_000),
    ],
)
def test_what_the_store_refuses(
    ends: TwoEnds, ingest: IngestSession, error: ThinwireError, code: wire.RefusalCode, again: int
) -> None:
    ends.refusals.append(error)
    data = sealed(ends)
    ingest.receive(offer(data))
    refusal = refused(ingest, chunk(data, 45, len(data)))
    assert (refusal.code, refusal.what, refusal.remedy) == (code, str(error), error.remedy)
    assert refusal.again_after_ms == again
    assert bool(ends.inbox.objects(SITE)) == bool(again)
    assert ends.parts() == {}


@pytest.mark.parametrize("error", [HubBusy, DatabaseBusy, ObjectStoreBusy, DiskFull])
def test_what_the_whole_hub_meets_parks_no_object(
    ends: TwoEnds, ingest: IngestSession, error: type[ThinwireError]
) -> None:
    ends.refusals.append(error("not now"))
    data = sealed(ends)
    refused(ingest, offer(data, first=len(data)))
    assert ends.store.parked.items() == []
    ends.refusals[:] = [StorageFailed("of this one")]
    refused(ingest, offer(data, number=2, first=len(data)))
    assert [each.item for each in ends.store.parked.items()] == [f"{SITE}/{digest(data).hex()}"]


def test_every_error_has_a_status() -> None:
    every = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ThinwireError)]
    statuses = {each: status_of(each("what")) for each in every if each is not ThinwireError}
    assert grpc.StatusCode.UNKNOWN not in statuses.values()
    assert statuses[errors.ProtocolBroken] is grpc.StatusCode.INVALID_ARGUMENT
    assert statuses[errors.NotEnrolled] is grpc.StatusCode.PERMISSION_DENIED
    assert statuses[errors.DiskFull] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert statuses[errors.HubBusy] is grpc.StatusCode.UNAVAILABLE
    assert statuses[errors.Forged] is grpc.StatusCode.FAILED_PRECONDITION


def test_an_object_that_began_in_chunks_and_then_comes_whole_leaves_no_partial(
    ends: TwoEnds, ingest: IngestSession
) -> None:
    data = sealed(ends, Kind.GRAPH, b"graph" * 100)
    ingest.receive(offer(data))
    ingest.close()
    again = ends.ingest()
    again.receive(HELLO)
    assert one(again.receive(offer(data, first=len(data)))).WhichOneof("message") == "receipt"
    assert ends.inbox.objects(SITE) == []


def test_a_late_urge_is_answered_once_it_is_durable(ends: TwoEnds, ingest: IngestSession) -> None:
    data = sealed(ends, Kind.GRAPH, b"graph")
    ingest.receive(offer(data, first=len(data)))
    assert not ends.urgent(STUDY.study)
    down = one(ingest.receive(wire.Up(escalate=wire.Escalate(study=STUDY.study))))
    assert down.escalated.study == STUDY.study
    assert ends.urgent(STUDY.study)
    assert one(ingest.receive(wire.Up(escalate=wire.Escalate(study=b"?" * 16)))).escalated.study == b"?" * 16
    with pytest.raises(ProtocolBroken):
        ingest.receive(wire.Up(escalate=wire.Escalate(study=b"short")))


def test_what_is_under_way_can_be_seen(ends: TwoEnds, ingest: IngestSession) -> None:
    data = sealed(ends)
    ingest.receive(offer(data))
    ingest.receive(chunk(data, 45, 5_000))
    ingest.tick()
    assert ingest.arriving == [IncomingObject(STUDY.study, Kind.ORIGINALS, 5_000, len(data))]
    assert ingest.received == 5_000
    ingest.close()
    assert ingest.arriving == []


def test_a_study_that_was_removed_is_refused_before_a_byte_is_taken(ends: TwoEnds, ingest: IngestSession) -> None:
    data = sealed(ends)
    ingest.receive(offer(data))
    with ends.hub.database.write() as connection:
        erase(connection, SITE, STUDY.study, "old", ends.clock.now(), keep_report=True)
    # What was under way is refused when it is whole, and leaves nothing.
    (down,) = [
        down for start in range(45, len(data), 5_000) for down in ingest.receive(chunk(data, start, start + 5_000))
    ][-1:]
    assert down.refusal.code == wire.REFUSAL_CODE_FINAL
    down = one(ingest.receive(offer(data, 2)))
    assert (down.refusal.number, down.refusal.code) == (2, wire.REFUSAL_CODE_FINAL)
    assert "by its retention rule old" in down.refusal.what
    assert (ends.parts(), ends.inbox.objects(SITE)) == ({}, [])
