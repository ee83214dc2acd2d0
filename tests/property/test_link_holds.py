"""Whatever comes over the link, in whatever order: the right error or none, nothing false stored, nothing lost."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.soak import TIMES
from tests.support.two_ends import SITE, TwoEnds, samples
from thinwire.sender.outbox.entries import PartState
from thinwire.shared.crypto.envelope import Kind, seal
from thinwire.shared.errors import ProtocolBroken, ThinwireError
from thinwire.shared.identifiers import StudyKey, digest
from thinwire.shared.wire.chunks import VERSION
from thinwire.shared.wire.v1 import link_pb2 as wire

numbers = st.integers(0, 6) | st.integers(0, 2**32 - 1)
offsets = st.integers(0, 200) | st.integers(0, 2**64 - 1)
some_bytes = st.binary(max_size=100)
digests = st.sampled_from([digest(bytes([n])) for n in range(3)]) | some_bytes
heads = some_bytes | some_bytes.map(lambda rest: b"TW\x01" + rest) | some_bytes.map(lambda rest: b"TWE\x01" + rest)

ups = st.one_of(
    st.builds(wire.Hello, version=st.just(VERSION) | numbers).map(lambda m: wire.Up(hello=m)),
    st.builds(wire.Offer, number=numbers, object=digests, size=offsets, urgent=st.booleans(), head=heads).map(
        lambda m: wire.Up(offer=m)
    ),
    st.builds(wire.Chunk, number=numbers, offset=offsets, data=some_bytes).map(lambda m: wire.Up(chunk=m)),
    st.builds(wire.ReceiptTaken, receipt=digests).map(lambda m: wire.Up(receipt_taken=m)),
    st.just(wire.Up()),
)
downs = st.one_of(
    st.builds(wire.Welcome, version=st.just(VERSION) | numbers).map(lambda m: wire.Down(welcome=m)),
    st.builds(wire.Progress, number=numbers, durable=offsets).map(lambda m: wire.Down(progress=m)),
    st.builds(wire.Receipt, signed=some_bytes).map(lambda m: wire.Down(receipt=m)),
    st.builds(
        wire.Refusal,
        number=numbers,
        code=st.integers(0, 12),
        what=st.text(max_size=20),
        remedy=st.text(max_size=20),
        again_after_ms=numbers,
    ).map(lambda m: wire.Down(refusal=m)),
    st.builds(wire.TierRequest, study=some_bytes, kind=numbers).map(lambda m: wire.Down(tier_request=m)),
    st.just(wire.Down()),
)


@settings(max_examples=80 * TIMES, deadline=None)
@given(messages=st.lists(ups, max_size=12))
def test_no_message_of_a_clinic_breaks_the_hub(
    tmp_path_factory: pytest.TempPathFactory, messages: list[wire.Up]
) -> None:
    ends = TwoEnds(tmp_path_factory.mktemp("hub"))
    ingest = ends.ingest()
    ingest.receive(wire.Up(hello=wire.Hello(version=VERSION)))
    for message in messages:
        try:
            ingest.receive(message)
        except ProtocolBroken:
            break
        ingest.tick()
    ingest.close()
    assert ends.parts() == {}


@settings(max_examples=50 * TIMES, deadline=None)
@given(messages=st.lists(downs, max_size=12))
def test_no_message_of_a_hub_loses_a_study(tmp_path_factory: pytest.TempPathFactory, messages: list[wire.Down]) -> None:
    ends = TwoEnds(tmp_path_factory.mktemp("clinic"))
    (study,) = samples(1, size=9_000)
    ends.accept(study)
    ends.make_parts()
    uplink = ends.uplink()
    uplink.hello()
    uplink.receive(wire.Down(welcome=wire.Welcome(version=VERSION)))
    for message in messages:
        while uplink.next():
            pass
        try:
            uplink.receive(message)
        except ThinwireError:
            break
    assert ends.outbox.source(study.study) == study.source
    entry = ends.outbox.entry(study.study)
    assert {part.state for part in entry.parts} <= {PartState.WAITING, PartState.REFUSED, PartState.MISSING}
    ends.outbox.retry(study.study)
    ends.switch_on()
    for part in ends.outbox.entry(study.study).missing:  # only what a hub asked for that was never planned
        ends.outbox.give_up(study.study, part, "not made here")
    for _ in range(2):
        ends.carry()
    assert ends.parts()[study.study, Kind.ORIGINALS] == study.source


@settings(max_examples=25 * TIMES, deadline=None)
@given(scripts=st.lists(st.text("....xdrft", min_size=1, max_size=40), max_size=5))
def test_a_faulty_link_delays_a_study_and_does_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, scripts: list[str]
) -> None:
    ends = TwoEnds(tmp_path_factory.mktemp("faulty"))
    studies = samples(2, size=9_000)
    for sample in studies:
        ends.accept(sample)
    ends.make_parts()
    for script in scripts:
        with contextlib.suppress(ThinwireError):
            ends.carry(script, rate=8_000)
        ends.clock.advance(1)
        for sample in studies:
            ends.outbox.retry(sample.study)
    ends.clock.advance(100)
    ends.carry()
    ends.assert_arrived(studies)


@settings(max_examples=40 * TIMES, deadline=None)
@given(
    plaintext=st.binary(min_size=3_000, max_size=9_000),
    cut=st.integers(0, 9_000),
    flip=st.integers(0, 9_000),
    kind=st.sampled_from([Kind.GRAPH, Kind.ORIGINALS]),
)
def test_an_altered_object_is_never_stored_however_it_is_named(
    tmp_path_factory: pytest.TempPathFactory, plaintext: bytes, cut: int, flip: int, kind: Kind
) -> None:
    """A liar may name the altered bytes by their own digest; the envelope still does not open."""
    ends = TwoEnds(tmp_path_factory.mktemp("altered"))
    epoch = ends.outbox.epochs.current()
    ends.hub.enrolment.admit_epoch(SITE, ends.outbox.epochs.record(epoch.id))
    whole = seal(epoch, kind, StudyKey(b"s" * 16), plaintext, chunk_log2=10)
    altered = bytearray(whole)
    altered[flip % len(altered)] ^= 0x40
    for bad in (bytes(altered), whole[: 1 + cut % (len(whole) - 1)], whole + b"\0"):
        ingest = ends.ingest()
        ingest.receive(wire.Up(hello=wire.Hello(version=VERSION)))
        head = min(45, len(bad))
        downs = ingest.receive(wire.Up(offer=wire.Offer(number=1, object=digest(bad), size=len(bad), head=bad[:head])))
        if head < len(bad):
            downs += ingest.receive(wire.Up(chunk=wire.Chunk(number=1, offset=head, data=bad[head:])))
        codes = [down.refusal.code for down in downs if down.WhichOneof("message") == "refusal"]
        assert len(codes) == 1
        assert codes[0] in (
            wire.REFUSAL_CODE_FORGED,
            wire.REFUSAL_CODE_BAD_FORMAT,
            wire.REFUSAL_CODE_UNKNOWN_EPOCH,
        )
        assert ends.parts() == {}
        assert ends.inbox.objects(SITE) == []
