from datetime import UTC, time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.two_ends import HUB_SIGNING, SITE, TwoEnds, samples, sealed_file
from thinwire.sender.outbox.entries import PartState
from thinwire.sender.outbox.tiers import Hours, TierPolicy, When
from thinwire.sender.transport.session import LONGEST_STALL, STALL_SECONDS, UplinkSession
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.crypto.keys import new_signing_key
from thinwire.shared.errors import Forged, LinkLost, NotEnrolled, ProtocolBroken
from thinwire.shared.formats.audit_head import AuditHead, sign_head, signed_head
from thinwire.shared.formats.receipts import Receipt, StudyStatus, sign_receipt
from thinwire.shared.identifiers import Digest, digest
from thinwire.shared.wire.chunks import VERSION
from thinwire.shared.wire.v1 import link_pb2 as wire

WELCOME = wire.Down(welcome=wire.Welcome(version=VERSION))
(STUDY,) = samples(1, size=50_000)


@pytest.fixture
def made(tmp_path: Path) -> TwoEnds:
    """One study's parts, made by this process and never offered."""
    ends = TwoEnds(tmp_path)
    ends.accept(STUDY)
    ends.make_parts()
    return ends


@pytest.fixture
def ends(made: TwoEnds) -> TwoEnds:
    """The same as after a restart: the hub's parts of them are unknown here."""
    for due in made.outbox.due():
        assert made.outbox.first_offer(due)
    return made


@pytest.fixture
def uplink(ends: TwoEnds) -> UplinkSession:
    uplink = ends.uplink()
    assert uplink.hello().hello.version == VERSION
    return uplink


def offers(uplink: UplinkSession) -> list[wire.Offer]:
    """The offers before the hub's first message: the record, the graph, the manifest and the originals."""
    out = []
    while up := uplink.next():
        assert up.WhichOneof("message") == "offer"
        out.append(up.offer)
    return out


def progress(number: int, durable: int) -> wire.Down:
    return wire.Down(progress=wire.Progress(number=number, durable=durable))


def refusal(number: int, code: wire.RefusalCode, again_ms: int = 0) -> wire.Down:
    return wire.Down(
        refusal=wire.Refusal(number=number, code=code, what="no", remedy="Do it.", again_after_ms=again_ms)
    )


def test_the_first_flight_needs_no_answer(ends: TwoEnds, uplink: UplinkSession) -> None:
    record, graph, manifest, originals = offers(uplink)
    assert record.head.startswith(b"TWE")
    assert [len(each.head) == each.size for each in (record, graph, manifest, originals)] == [True, True, True, False]
    assert [each.number for each in (record, graph, manifest, originals)] == [1, 2, 3, 4]
    assert digest(graph.head) == graph.object
    assert not graph.urgent
    assert len(uplink.transfers) == 4
    assert {crossing.kind for crossing in uplink.transfers} == {None, Kind.GRAPH, Kind.MANIFEST, Kind.ORIGINALS}


def test_no_byte_of_a_damaged_object_is_offered_after_a_restart(ends: TwoEnds) -> None:
    sealed_file(ends.outbox, STUDY.study, Kind.ORIGINALS).write_bytes(b"damaged")
    ends.switch_on()  # nothing is compared at the start
    uplink = ends.uplink()
    uplink.hello()
    _, graph, manifest = offers(uplink)
    entry = ends.outbox.entry(STUDY.study)
    assert {graph.object, manifest.object} == {entry.part(kind).object for kind in (Kind.GRAPH, Kind.MANIFEST)}
    assert entry.missing == (Kind.ORIGINALS,)


def test_the_bytes_of_an_object_are_compared_once(ends: TwoEnds) -> None:
    ends.switch_on()
    (graph,) = (due for due in ends.outbox.due() if due.kind is Kind.GRAPH)
    assert ends.outbox.may_offer(graph)
    sealed_file(ends.outbox, STUDY.study, Kind.GRAPH).write_bytes(b"damaged")
    assert ends.outbox.may_offer(graph)
    # The hub says that it is damaged: it is compared again, and made again.
    assert not ends.outbox.check(graph)
    assert not ends.outbox.may_offer(graph)
    ends.make_parts()
    assert ends.outbox.may_offer(graph)


def test_it_goes_on_from_where_the_hub_is(uplink: UplinkSession) -> None:
    *_, originals = offers(uplink)
    uplink.receive(WELCOME)
    uplink.receive(progress(originals.number, 30_000))
    up = uplink.next()
    assert up is not None
    assert (up.chunk.number, up.chunk.offset) == (originals.number, 30_000)


def test_what_the_hub_cannot_have_follows_its_offer_at_once_and_once_alone(made: TwoEnds) -> None:
    uplink = made.uplink()
    uplink.hello()
    _, _, _, originals, first, *more = iter(uplink.next, None)
    assert (first.chunk.number, first.chunk.offset) == (originals.offer.number, len(originals.offer.head))
    assert more[0].chunk.offset == first.chunk.offset + len(first.chunk.data)
    sent = more[-1].chunk.offset + len(more[-1].chunk.data)
    uplink.receive(WELCOME)
    uplink.receive(progress(originals.offer.number, sent))
    following = uplink.next()
    assert following is not None
    assert following.chunk.offset == sent
    # Another stream cannot know which bytes of it arrived.
    again = made.uplink()
    again.hello()
    assert {up.WhichOneof("message") for up in iter(again.next, None)} == {"offer"}


def test_where_the_hub_has_more_than_was_thought_it_goes_on_from_there(made: TwoEnds) -> None:
    uplink = made.uplink()
    uplink.hello()
    sent = list(iter(uplink.next, None))
    uplink.receive(WELCOME)
    uplink.receive(progress(sent[3].offer.number, 40_000))  # a stick was there before
    up = uplink.next()
    assert up is not None
    assert up.chunk.offset == 40_000


def test_an_announced_epoch_is_not_offered_again(ends: TwoEnds, uplink: UplinkSession) -> None:
    record, *_ = offers(uplink)
    uplink.receive(WELCOME)
    uplink.receive(progress(record.number, record.size))
    again = ends.uplink()
    again.hello()
    assert not any(offer.head.startswith(b"TWE") for offer in offers(again))


def test_a_receipt_is_taken_once_it_is_durable(ends: TwoEnds, uplink: UplinkSession) -> None:
    _, graph, *_ = offers(uplink)
    uplink.receive(WELCOME)
    signed = sign_receipt(
        Receipt(STUDY.study, SITE, digest(graph.head), StudyStatus.STORED, ends.clock.now()), HUB_SIGNING
    )
    assert graph.object in [crossing.object for crossing in uplink.transfers]
    (answer,) = uplink.receive(wire.Down(receipt=wire.Receipt(signed=signed)))
    assert answer.receipt_taken.receipt == digest(signed)
    assert ends.outbox.entry(STUDY.study).part(Kind.GRAPH).state is PartState.STORED
    assert graph.object not in [crossing.object for crossing in uplink.transfers]
    uplink.receive(progress(graph.number, graph.size))  # was on its way: means nothing any more


def test_a_message_that_could_not_be_recorded_is_asked_for_with_a_new_stream(
    ends: TwoEnds, uplink: UplinkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    triaged = Receipt(STUDY.study, SITE, None, StudyStatus.TRIAGED, ends.clock.now())
    down = wire.Down(receipt=wire.Receipt(signed=sign_receipt(triaged, HUB_SIGNING)))

    def full(_: bytes) -> None:
        raise OSError("no space left")

    uplink.receive(WELCOME)
    with monkeypatch.context() as broken:
        broken.setattr(ends.outbox, "record_receipt", full)
        assert uplink.receive(down) == []
    uplink.refresh()
    ends.outbox.parked.retry()
    with pytest.raises(LinkLost):
        uplink.refresh()
    again = ends.uplink()
    again.hello()
    again.receive(WELCOME)
    (answer,) = again.receive(down)
    assert answer.HasField("receipt_taken")
    again.refresh()
    assert ends.outbox.parked.items() == []


@pytest.mark.parametrize(
    "code",
    [
        wire.REFUSAL_CODE_FORGED,
        wire.REFUSAL_CODE_BAD_FORMAT,
        wire.REFUSAL_CODE_UNKNOWN_BUNDLE,
        wire.REFUSAL_CODE_FINAL,
        999,
    ],
)
def test_what_is_refused_for_good_is_kept_and_not_offered_again(
    ends: TwoEnds, uplink: UplinkSession, code: wire.RefusalCode
) -> None:
    _, graph, *_ = offers(uplink)
    uplink.receive(WELCOME)
    uplink.receive(refusal(graph.number, code))
    part = ends.outbox.entry(STUDY.study).part(Kind.GRAPH)
    assert (part.state, part.reason) == (PartState.REFUSED, "no. Do it.")
    ends.clock.advance(1000)
    uplink.refresh()
    assert uplink.next() is None


def test_what_cannot_be_taken_now_is_offered_again_later(ends: TwoEnds, uplink: UplinkSession) -> None:
    _, graph, *_ = offers(uplink)
    uplink.receive(WELCOME)
    uplink.receive(refusal(graph.number, wire.REFUSAL_CODE_DISK_FULL, 30_000))
    assert uplink.pauses[digest(graph.head)].reason == "no. Do it."
    ends.clock.advance(29)
    assert uplink.next() is None
    ends.clock.advance(1)
    (again,) = offers(uplink)
    assert again.object == graph.object
    assert again.number > graph.number


@pytest.mark.parametrize(("limit", "others_wait"), [("studies", True), ("partials", False)])
def test_a_limit_of_this_clinic_s_share_is_shown_and_not_tried_with_every_object(
    ends: TwoEnds, uplink: UplinkSession, limit: str, others_wait: bool
) -> None:
    def offered() -> list[bytes]:
        return [up.offer.object for up in iter(uplink.next, None) if up.HasField("offer")]

    _, graph, *_ = offers(uplink)
    uplink.receive(WELCOME)
    down = refusal(graph.number, wire.REFUSAL_CODE_BUSY, 300_000)
    down.refusal.limit = limit
    uplink.receive(down)
    assert uplink.pauses[digest(graph.head)].reason == "no. Do it."
    (more,) = samples(2, size=60_000)[1:]
    ends.accept(more)
    ends.make_parts()
    uplink.refresh()
    assert (offered() == []) is others_wait
    ends.clock.advance(300)
    assert graph.object in offered()
    assert ends.outbox.entry(STUDY.study).part(Kind.GRAPH).state is PartState.WAITING


def test_an_urgent_graph_finds_room_where_originals_do_not(ends: TwoEnds, uplink: UplinkSession) -> None:
    *_, originals = offers(uplink)
    uplink.receive(WELCOME)
    down = refusal(originals.number, wire.REFUSAL_CODE_BUSY, 300_000)
    down.refusal.limit = "bytes"
    uplink.receive(down)
    (more,) = samples(2, size=60_000)[1:]
    ends.accept(more)
    ends.make_parts()
    ends.outbox.make_urgent(more.study)
    uplink.refresh()
    entry = ends.outbox.entry(more.study)
    offered = {up.offer.object for up in iter(uplink.next, None) if up.HasField("offer")}
    assert entry.part(Kind.GRAPH).object in offered
    assert entry.part(Kind.ORIGINALS).object not in offered
    ends.clock.advance(300)
    offered = {up.offer.object for up in iter(uplink.next, None) if up.HasField("offer")}
    assert {originals.object, entry.part(Kind.ORIGINALS).object} & offered


def test_a_study_that_the_hub_has_a_part_of_goes_on_at_the_limit_of_studies(
    ends: TwoEnds, uplink: UplinkSession
) -> None:
    _, graph, *rest = offers(uplink)
    uplink.receive(WELCOME)
    stored = Receipt(STUDY.study, SITE, digest(graph.head), StudyStatus.STORED, ends.clock.now())
    uplink.receive(wire.Down(receipt=wire.Receipt(signed=sign_receipt(stored, HUB_SIGNING))))
    for offer in rest:
        down = refusal(offer.number, wire.REFUSAL_CODE_BUSY, 1_000)
        down.refusal.limit = "studies"
        uplink.receive(down)
    ends.clock.advance(0.9)
    assert uplink.next() is None
    uplink.pauses.clear()
    assert {offer.object for offer in offers(uplink)} == {offer.object for offer in rest}


def test_the_newest_head_of_the_hub_s_audit_log_is_kept_and_told(ends: TwoEnds, uplink: UplinkSession) -> None:
    def head(number: int, key: Ed25519PrivateKey = HUB_SIGNING) -> bytes:
        made = AuditHead(number, Digest(bytes([number]) * 32), ends.clock.now())
        return signed_head(made, sign_head(made, key))

    uplink.receive(wire.Down(welcome=wire.Welcome(version=VERSION, audit_head=head(5))))
    heads = ends.outbox.audit_heads
    assert heads.kept() == head(5)
    for other in (b"", head(4), head(9, new_signing_key()), b"no head"):
        heads.keep(other)
        assert ends.uplink().hello().hello.audit_head == head(5)
    heads.keep(head(6))
    assert ends.uplink().hello().hello.audit_head == head(6)


def test_studies_go_while_nothing_that_the_hub_tells_of_itself_can_be_recorded(
    ends: TwoEnds, uplink: UplinkSession
) -> None:
    """As on a disk that is full."""
    head = AuditHead(5, Digest(bytes(32)), ends.clock.now())
    signed = signed_head(head, sign_head(head, HUB_SIGNING))
    store = wire.Store(generation=bytes(16), position=1)
    with ends.outbox.database.write() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON controls BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    uplink.receive(wire.Down(welcome=wire.Welcome(version=VERSION, audit_head=signed, store=store)))
    uplink.receive(wire.Down(store=store))
    assert uplink.welcomed
    assert len(offers(uplink)) == 4
    assert {each.item for each in ends.outbox.parked.items()} == {"welcome", "audit head", "hub history"}
    with ends.outbox.database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER full")
    again = ends.uplink()
    again.hello()
    again.receive(wire.Down(welcome=wire.Welcome(version=VERSION, audit_head=signed, store=store)))
    assert ends.outbox.audit_heads.kept() == signed
    assert ends.outbox.parked.items() == []


def test_a_hub_that_refuses_on_and_on_is_asked_ever_more_rarely(ends: TwoEnds, uplink: UplinkSession) -> None:
    _, offer, *_ = offers(uplink)
    uplink.receive(WELCOME)
    pauses = []
    for _ in range(10):
        uplink.receive(refusal(offer.number, wire.REFUSAL_CODE_DAMAGED))
        pause = uplink.pauses[digest(offer.head)].until - ends.clock.monotonic()
        pauses.append(pause)
        ends.clock.advance(pause)
        (offer,) = offers(uplink)
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_an_epoch_that_the_hub_lost_is_told_again(ends: TwoEnds, uplink: UplinkSession) -> None:
    record, graph, *_ = offers(uplink)
    uplink.receive(WELCOME)
    uplink.receive(progress(record.number, record.size))
    uplink.receive(refusal(graph.number, wire.REFUSAL_CODE_UNKNOWN_EPOCH))
    again = offers(uplink)
    assert [offer.object for offer in again] == [record.object, graph.object]


def test_an_epoch_record_that_is_refused_holds_its_objects_back(ends: TwoEnds, uplink: UplinkSession) -> None:
    record, graph, *_ = offers(uplink)
    uplink.receive(WELCOME)
    uplink.receive(refusal(record.number, wire.REFUSAL_CODE_FORGED))
    uplink.receive(refusal(graph.number, wire.REFUSAL_CODE_UNKNOWN_EPOCH))
    assert uplink.next() is None
    ends.clock.advance(60)
    assert [offer.object for offer in offers(uplink)] == [record.object, graph.object]
    assert ends.outbox.entry(STUDY.study).part(Kind.GRAPH).state is PartState.WAITING


def test_a_damaged_part_is_made_anew(ends: TwoEnds, uplink: UplinkSession) -> None:
    _, graph, *_ = offers(uplink)
    uplink.receive(WELCOME)
    sealed_file(ends.outbox, STUDY.study, Kind.GRAPH).write_bytes(b"rotten")
    uplink.receive(refusal(graph.number, wire.REFUSAL_CODE_DAMAGED))
    assert ends.outbox.entry(STUDY.study).missing == (Kind.GRAPH,)
    assert uplink.next() is None


def test_a_part_that_is_gone_is_not_offered(ends: TwoEnds, uplink: UplinkSession) -> None:
    sealed_file(ends.outbox, STUDY.study, Kind.GRAPH).unlink()
    assert len(offers(uplink)) == 3
    assert ends.outbox.entry(STUDY.study).missing == (Kind.GRAPH,)


def test_a_reader_asks(ends: TwoEnds, uplink: UplinkSession) -> None:
    offers(uplink)
    uplink.receive(WELCOME)
    uplink.receive(wire.Down(tier_request=wire.TierRequest(study=STUDY.study, kind=Kind.ORIGINALS)))
    assert ends.outbox.entry(STUDY.study).part(Kind.ORIGINALS).requested
    uplink.receive(wire.Down(tier_request=wire.TierRequest(study=b"?" * 16, kind=Kind.ORIGINALS)))


def test_what_a_reader_asks_for_goes_first_and_is_not_called_urgent(ends: TwoEnds) -> None:
    ends.outbox.request(STUDY.study, Kind.ORIGINALS)
    uplink = ends.uplink()
    uplink.hello()
    sent = offers(uplink)
    assert sent[1].object == ends.outbox.entry(STUDY.study).part(Kind.ORIGINALS).object
    assert [offer.urgent for offer in sent] == [False] * 4


def test_a_stream_of_another_version_ends(uplink: UplinkSession) -> None:
    with pytest.raises(ProtocolBroken, match="version"):
        uplink.receive(wire.Down(welcome=wire.Welcome(version=VERSION + 1)))


@pytest.mark.parametrize(
    "down",
    [
        WELCOME,
        wire.Down(),
        progress(99, 1),
        progress(0, 1),
        progress(4, 10**9),
        refusal(99, wire.REFUSAL_CODE_BUSY),
        wire.Down(tier_request=wire.TierRequest(study=STUDY.study, kind=Kind.SOURCE)),
        wire.Down(tier_request=wire.TierRequest(study=STUDY.study, kind=77)),
        wire.Down(store=wire.Store(generation=b"short")),
        wire.Down(store=wire.Store(generation=bytes(16), position=1 << 63)),
        wire.Down(store=wire.Store(generation=bytes(16), past=[wire.Past(generation=b"g" * 16, position=1 << 63)])),
    ],
)
def test_a_hub_that_departs_from_the_protocol_ends_the_stream(uplink: UplinkSession, down: wire.Down) -> None:
    offers(uplink)
    uplink.receive(WELCOME)
    with pytest.raises(ProtocolBroken):
        uplink.receive(down)


def test_an_offset_that_goes_back_or_runs_ahead_ends_the_stream(uplink: UplinkSession) -> None:
    *_, originals = offers(uplink)
    uplink.receive(WELCOME)
    uplink.receive(progress(originals.number, 1_000))
    for durable in (999, 2_000):
        with pytest.raises(ProtocolBroken):
            uplink.receive(progress(originals.number, durable))


def test_the_hub_speaks_first_of_its_version(uplink: UplinkSession) -> None:
    with pytest.raises(ProtocolBroken, match="in the wrong order"):
        uplink.receive(progress(1, 0))


def test_a_forged_receipt_ends_the_stream(ends: TwoEnds, uplink: UplinkSession) -> None:
    uplink.receive(WELCOME)
    with pytest.raises(Forged):
        uplink.receive(wire.Down(receipt=wire.Receipt(signed=b"?" * 100)))
    assert len(ends.outbox.due()) == 3


def test_a_hub_that_is_silent_while_bytes_are_on_their_way(ends: TwoEnds, uplink: UplinkSession) -> None:
    def stalled(seconds: float = 0.0) -> bool:
        ends.clock.advance(seconds)
        return uplink.stalled

    assert not stalled(1000)  # nothing is on its way
    record, *_ = offers(uplink)
    assert not stalled()
    uplink.receive(WELCOME)
    assert not stalled(STALL_SECONDS - 1)
    assert stalled(2)  # nothing is known of the link
    uplink.receive(progress(record.number, record.size))
    assert not stalled(LONGEST_STALL - 1)  # a link as slow as this one seems to be is given its time
    assert stalled(2)


def test_a_hub_may_be_silent_while_nothing_is_on_its_way(ends: TwoEnds) -> None:
    idle = TierPolicy({**TierPolicy().when, Kind.ORIGINALS: When.IN_WINDOW}, Hours(time(18), time(19)), UTC)
    uplink = UplinkSession(ends.outbox, ends.clock, ends.disk, idle)
    uplink.hello()
    ends.clock.advance(10_000)
    assert not uplink.stalled


def test_what_waits_by_policy_is_not_offered_until_it_goes(ends: TwoEnds) -> None:
    evening = TierPolicy({**TierPolicy().when, Kind.ORIGINALS: When.IN_WINDOW}, Hours(time(18), time(19)), UTC)
    uplink = UplinkSession(ends.outbox, ends.clock, ends.disk, evening)
    uplink.hello()
    assert len(offers(uplink)) == 3
    ends.clock.advance(6 * 3600)
    uplink.refresh()
    (originals,) = offers(uplink)
    assert originals.object == ends.outbox.entry(STUDY.study).part(Kind.ORIGINALS).object


def test_a_transfer_stops_when_the_budget_is_used_up_and_a_reader_lets_it_go_on(ends: TwoEnds) -> None:
    used = [0]
    uplink = UplinkSession(ends.outbox, ends.clock, ends.disk, TierPolicy(budget=100_000), lambda: used[0])
    uplink.hello()
    *_, originals = offers(uplink)
    uplink.receive(WELCOME)
    uplink.receive(progress(originals.number, 10_000))
    used[0] = 90_000
    uplink.refresh()
    assert uplink.next() is None
    uplink.receive(wire.Down(tier_request=wire.TierRequest(study=STUDY.study, kind=Kind.ORIGINALS)))
    up = uplink.next()
    assert up is not None
    assert up.chunk.offset == 10_000


def test_a_study_that_becomes_urgent_late_is_told_until_the_hub_knows(ends: TwoEnds, uplink: UplinkSession) -> None:
    _, graph, *_ = offers(uplink)
    uplink.receive(WELCOME)
    ends.outbox.accept(STUDY.study, STUDY.source, TierPolicy().plan, urgent=True)
    uplink.refresh()
    assert uplink.next() is None  # nothing of it is at the hub: its offers say it
    signed = sign_receipt(
        Receipt(STUDY.study, SITE, digest(graph.head), StudyStatus.STORED, ends.clock.now()), HUB_SIGNING
    )
    uplink.receive(wire.Down(receipt=wire.Receipt(signed=signed)))
    uplink.refresh()
    up = uplink.next()
    assert up is not None
    assert up.escalate.study == STUDY.study
    assert uplink.next() is None
    again = ends.uplink()
    again.hello()
    again.receive(WELCOME)
    assert again.next() == up
    again.receive(wire.Down(escalated=wire.Escalated(study=STUDY.study)))
    again.receive(wire.Down(escalated=wire.Escalated(study=b"?" * 16)))
    ends.switch_on()
    assert ends.outbox.pending_escalations() == []


def test_an_epoch_whose_record_is_gone_holds_back_its_own_studies_alone(ends: TwoEnds) -> None:
    ends.outbox.epochs.current()
    with ends.outbox.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM epochs")
    other, _ = samples(2, size=100)
    ends.accept(other)
    ends.outbox.add(other.study, Kind.GRAPH, b"graph")
    uplink = ends.uplink()
    uplink.hello()
    uplink.refresh()
    record, graph = offers(uplink)
    assert (record.head[:3], digest(graph.head)) == (
        b"TWE",
        ends.outbox.entry(other.study).part(Kind.GRAPH).object,
    )


@pytest.mark.parametrize("welcomed", [False, True])
def test_a_stream_that_is_refused_ends_with_the_hubs_own_reason(uplink: UplinkSession, welcomed: bool) -> None:
    if welcomed:
        uplink.receive(WELCOME)
    with pytest.raises(NotEnrolled, match="the hub refuses: no") as refused:
        uplink.receive(refusal(0, wire.REFUSAL_CODE_NOT_ENROLLED))
    assert refused.value.remedy == "Do it."
