"""Forged, replayed, truncated, reordered and foreign bytes: the right refusal, and nothing of them is stored."""

import contextlib
import tracemalloc
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.hub_end import enrolled
from tests.support.two_ends import SITE, TwoEnds, samples
from thinwire.receiver.transport.ingest import IngestSession
from thinwire.sender.outbox.entries import EntryState, PartState
from thinwire.shared.crypto.envelope import Kind, new_epoch, seal
from thinwire.shared.errors import Forged, LinkLost, ProtocolBroken, UnknownBundle
from thinwire.shared.identifiers import SiteName, digest
from thinwire.shared.wire.chunks import VERSION
from thinwire.shared.wire.v1 import link_pb2 as wire

OTHER = SiteName("south-ridge")
OTHER_SIGNING = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
HELLO = wire.Up(hello=wire.Hello(version=VERSION))
(STUDY,) = samples(1, size=12_000)


@pytest.fixture
def ends(tmp_path: Path) -> TwoEnds:
    """A study that waits at SITE; the hub serves OTHER as well."""
    ends = TwoEnds(tmp_path)
    enrolled(ends.hub.enrolment, OTHER, OTHER_SIGNING)
    ends.accept(STUDY)
    ends.make_parts()
    return ends


def greeted(ends: TwoEnds, site: SiteName = SITE) -> IngestSession:
    ingest = ends.ingest(site)
    ingest.receive(HELLO)
    return ingest


def codes(downs: list[wire.Down]) -> list[int]:
    return [down.refusal.code for down in downs if down.WhichOneof("message") == "refusal"]


def whole(data: bytes, number: int = 1) -> wire.Up:
    return wire.Up(offer=wire.Offer(number=number, object=digest(data), size=len(data), head=data))


@pytest.mark.parametrize("fault", ["f", "t"], ids=["forged", "truncated"])
def test_every_altered_message_is_refused_and_the_study_arrives_all_the_same(tmp_path: Path, fault: str) -> None:
    """One message of the stream at a time is altered on its way."""
    messages = 24
    for altered in range(messages):
        ends = TwoEnds(tmp_path / str(altered))
        ends.accept(STUDY)
        ends.make_parts()
        for script in ("." * altered + fault, ""):
            with contextlib.suppress(ProtocolBroken, Forged, LinkLost):  # which of them is asked elsewhere
                ends.carry(script, rate=8_000)
            ends.clock.advance(10)
        ends.assert_arrived([STUDY])


def test_a_whole_stream_is_replayed_to_the_same_hub(ends: TwoEnds) -> None:
    link = ends.carry()
    parts = ends.parts()
    ingest = greeted(ends)
    for up in link.sent_up[1:]:
        assert codes(ingest.receive(up)) == []
    assert ends.parts() == parts
    assert ends.inbox.objects(SITE) == []


def test_a_whole_stream_is_replayed_by_another_site(ends: TwoEnds) -> None:
    link = ends.carry()
    ingest = greeted(ends, OTHER)
    refusals = [code for up in link.sent_up[1:] for code in codes(ingest.receive(up))]
    assert refusals[0] == wire.REFUSAL_CODE_FORGED  # the epoch record: signed by another site
    assert set(refusals[1:]) == {wire.REFUSAL_CODE_UNKNOWN_EPOCH}
    assert ends.parts(OTHER) == {}
    assert ends.inbox.objects(OTHER) == []


def test_an_epoch_that_names_a_site_is_signed_by_that_site(ends: TwoEnds) -> None:
    """OTHER signs a record for SITE, and SITE's certificate brings OTHER's record."""
    epochs = ends.outbox.epochs
    _, named = new_epoch(SITE, epochs.hub, OTHER_SIGNING, ends.clock)
    _, others = new_epoch(OTHER, epochs.hub, OTHER_SIGNING, ends.clock)
    for site, record in ((SITE, named), (OTHER, named), (SITE, others)):
        assert codes(greeted(ends, site).receive(whole(record))) == [wire.REFUSAL_CODE_FORGED]
    assert codes(greeted(ends, OTHER).receive(whole(others))) == []


def test_an_object_of_another_sites_epoch_is_refused(ends: TwoEnds) -> None:
    key, record = new_epoch(OTHER, ends.outbox.epochs.hub, OTHER_SIGNING, ends.clock)
    ends.hub.enrolment.admit_epoch(OTHER, record)
    foreign = seal(key, Kind.GRAPH, STUDY.study, b"graph")
    assert codes(greeted(ends).receive(whole(foreign))) == [wire.REFUSAL_CODE_UNKNOWN_EPOCH]
    assert codes(greeted(ends, OTHER).receive(whole(foreign))) == []
    assert ends.parts() == {}


def test_chunks_that_change_places_end_the_stream(ends: TwoEnds) -> None:
    originals = next(due for due in ends.outbox.due() if due.kind is Kind.ORIGINALS)
    data = ends.outbox.read(originals, 0, originals.size)
    ends.hub.enrolment.admit_epoch(SITE, ends.outbox.epochs.record(originals.epoch))
    ingest = greeted(ends)
    offer = wire.Offer(number=1, object=originals.object, size=originals.size, head=data[:45])
    ingest.receive(wire.Up(offer=offer))
    with pytest.raises(ProtocolBroken, match="gap"):
        ingest.receive(wire.Up(chunk=wire.Chunk(number=1, offset=5_000, data=data[5_000:])))
    ingest.close()
    assert ends.parts() == {}
    ends.carry()
    ends.assert_arrived([STUDY])


def test_the_chunks_of_two_objects_are_exchanged(ends: TwoEnds) -> None:
    epoch = ends.outbox.epochs.current()
    ends.hub.enrolment.admit_epoch(SITE, ends.outbox.epochs.record(epoch.id))
    one, two = (seal(epoch, Kind.ORIGINALS, STUDY.study, bytes([n]) * 9_000, chunk_log2=12) for n in range(2))
    ingest = greeted(ends)
    for number, data in enumerate((one, two), 1):
        offer = wire.Offer(number=number, object=digest(data), size=len(data), head=data[:45])
        ingest.receive(wire.Up(offer=offer))
    for number, data in ((1, two), (2, one)):
        downs = ingest.receive(wire.Up(chunk=wire.Chunk(number=number, offset=45, data=data[45:])))
        assert codes(downs) == [wire.REFUSAL_CODE_DAMAGED]
    assert ends.parts() == {}
    assert ends.inbox.objects(SITE) == []


def test_a_head_that_is_not_the_objects_own_is_refused(ends: TwoEnds) -> None:
    """The partial on disk is one kind of object, the head of the second offer says another."""
    epoch = ends.outbox.epochs.current()
    ends.hub.enrolment.admit_epoch(SITE, ends.outbox.epochs.record(epoch.id))
    data = seal(epoch, Kind.ORIGINALS, STUDY.study, STUDY.source)
    crops = seal(epoch, Kind.CROPS, STUDY.study, STUDY.source)
    first = greeted(ends)
    first.receive(wire.Up(offer=wire.Offer(number=1, object=digest(data), size=len(data), head=data[:5_000])))
    first.close()
    second = greeted(ends)
    second.receive(wire.Up(offer=wire.Offer(number=1, object=digest(data), size=len(data), head=crops[:45])))
    downs = second.receive(wire.Up(chunk=wire.Chunk(number=1, offset=5_000, data=data[5_000:])))
    assert codes(downs) == [wire.REFUSAL_CODE_FORGED]
    assert ends.parts() == {}


def test_a_lying_size_takes_no_memory(ends: TwoEnds) -> None:
    data = seal(ends.outbox.epochs.current(), Kind.ORIGINALS, STUDY.study, STUDY.source)
    ends.hub.enrolment.admit_epoch(SITE, ends.outbox.epochs.record(ends.outbox.epochs.current().id))
    ingest = greeted(ends)
    tracemalloc.start()
    ingest.receive(wire.Up(offer=wire.Offer(number=1, object=digest(data), size=2 << 30, head=data[:45])))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert (ends.folder / "hub" / "inbox" / SITE / digest(data).hex()).stat().st_size == 45
    ingest.close()


def test_an_unknown_bundle_is_refused_and_can_be_tried_again_when_the_hub_has_it(ends: TwoEnds) -> None:
    ends.refusals.append(UnknownBundle("the hub does not have bundle 00"))
    ends.carry()
    entry = ends.outbox.entry(STUDY.study)
    assert entry.state is EntryState.REFUSED
    assert {part.state for part in entry.parts} == {PartState.REFUSED}
    assert "thinwire-receiver bundle add" in entry.part(Kind.GRAPH).reason
    assert ends.parts() == {}
    assert ends.outbox.source(STUDY.study) == STUDY.source

    ends.refusals.clear()
    ends.outbox.retry(STUDY.study)
    ends.carry()
    ends.assert_arrived([STUDY])
