"""Targets: messages of the link at both ends, answers of PACS and FHIR servers, and what a browser sends."""

import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from google.protobuf.message import DecodeError

from tests.fuzz.target import Target, both
from tests.support.client_hello import client_hello
from tests.support.hostile_dicom import associate_request
from tests.support.two_ends import TwoEnds, samples
from thinwire.receiver.forward import fhir_peer, stow
from thinwire.receiver.forward.web import Answer
from thinwire.receiver.store.worklist_query import Worklist
from thinwire.receiver.transport.client_hello import RECORD_BYTES, offers_tls_1_3, record_bytes
from thinwire.receiver.web.rows import filter_of
from thinwire.sender.transport.session import UplinkSession
from thinwire.shared.errors import ThinwireError
from thinwire.shared.identifiers import SiteName
from thinwire.shared.listening.dicom import with_plain_titles
from thinwire.shared.wire.v1 import link_pb2 as wire

_SITES = [SiteName("north-valley"), SiteName("south-ridge")]


def _framed(messages: list[bytes]) -> bytes:
    return b"".join(len(each).to_bytes(2, "big") + each for each in messages)


def _messages(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 2 <= len(data):
        length = int.from_bytes(data[at : at + 2], "big")
        yield data[at + 2 : at + 2 + length]
        at += 2 + length


class _Ends:
    """Both ends on folders; the clinic's is made anew when an input has changed what it will send."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="thinwire-fuzz-"))
        self.ends = TwoEnds(self.folder / "ends")
        for each in samples(2, 3000):
            self.ends.accept(each)
        self.ends.make_parts()
        self.due = len(self.ends.outbox.due())
        self.up = [self.ends.uplink().hello()]
        link = self.ends.carry()
        self.up, self.down = link.sent_up, [each for each in link.arrived if isinstance(each, wire.Down)]

    def uplink(self) -> UplinkSession:
        if len(self.ends.outbox.due()) != self.due:
            shutil.rmtree(self.folder / "ends")
            self.ends = TwoEnds(self.folder / "ends")
            for each in samples(2, 3000):
                self.ends.accept(each)
            self.ends.make_parts()
        return self.ends.uplink()


_ends = cache(_Ends)


def _up(data: bytes) -> None:
    session = _ends().ends.ingest()
    try:
        if data[:1] != b"\0":
            session.receive(wire.Up(hello=wire.Hello(version=1)))
        for each in _messages(data[1:]):
            session.receive(wire.Up.FromString(each))
            session.tick()
    finally:
        session.close()


def _down(data: bytes) -> None:
    session = _ends().uplink()
    session.hello()
    if data[:1] != b"\0":
        session.receive(wire.Down(welcome=wire.Welcome(version=1)))
    for each in _messages(data[1:]):
        while session.next():
            pass
        session.receive(wire.Down.FromString(each))
    session.refresh()


def _ups() -> list[bytes]:
    spoken = [each.SerializeToString() for each in _ends().up if each.ByteSize() < 5000]
    return [b"\0" + _framed(spoken), b"\1" + _framed(spoken[1:])]


def _downs() -> list[bytes]:
    kinds = [
        wire.Down(refusal=wire.Refusal(number=1, code=wire.REFUSAL_CODE_BUSY, what="busy", again_after_ms=1000)),
        wire.Down(progress=wire.Progress(number=1, durable=100)),
        wire.Down(tier_request=wire.TierRequest(study=bytes(16), kind=3)),
        wire.Down(escalated=wire.Escalated(study=bytes(16))),
    ]
    answers = _ends().down
    return [
        bytes([at]) + _framed([each.SerializeToString() for each in some])
        for at, some in ((0, answers), (1, kinds), (1, answers[1:]))
    ]


def _answer(data: bytes) -> Answer:
    """A status, headers and a body, by lines."""
    status, _, rest = data.partition(b"\n")
    kind, _, body = rest.partition(b"\n")
    code = (int.from_bytes(status[:2], "big") % 500) + 100
    return Answer(code, bytes(each for each in kind if 32 <= each < 127).decode(), body)


def _stow_answer(data: bytes) -> None:
    answer = _answer(data)
    stow._refused(answer)
    answer.json()
    stow._first_part(answer)


def _answers() -> list[bytes]:
    failed = b'{"00081198":{"vr":"SQ","Value":[{"00081197":{"vr":"US","Value":[49442]}}]}}'
    part = b"--b\r\nContent-Type: application/dicom\r\n\r\nDICM\r\n--b--\r\n"
    ok = (200 - 100).to_bytes(2, "big")
    return [
        ok + b"\napplication/dicom+json\n" + failed,
        ok + b'\nmultipart/related; type="application/dicom"; boundary=b\n' + part,
        ok + b'\napplication/fhir+json\n{"resourceType":"Bundle","entry":[{"response":{"status":"201 Created"}}]}',
    ]


@cache
def _worklist() -> Worklist:
    return Worklist(_ends().ends.hub.database, timedelta(minutes=240))


def _search(data: bytes) -> None:
    _worklist().search(data.decode("utf-8", "replace")[:200], datetime(2026, 3, 4, tzinfo=UTC), 50)


def _filter(data: bytes) -> None:
    words = data.decode("utf-8", "replace").split("\n")[:5]
    state, urgency, site, after, before = [*words, *[""] * (5 - len(words))]
    chosen = filter_of(state, urgency, site, after, before, _SITES)
    _worklist().page(chosen.selection, datetime(2026, 3, 4, tzinfo=UTC), 50, chosen.after, chosen.before)


TARGETS = {
    "messages_up": Target(_up, _ups, refusals=(ThinwireError, DecodeError), longest=16000, weight=0.3),
    "messages_down": Target(_down, _downs, refusals=(ThinwireError, DecodeError), longest=2000, weight=0.2),
    "pacs_answer": Target(
        both(_stow_answer, lambda b: fhir_peer._statuses(_answer(b))), _answers, longest=2048, weight=1
    ),
    "search": Target(_search, lambda: [b"effusion north", b"3fa9", b"PHANTOM-1"], longest=200, weight=0.2),
    "list_address": Target(
        _filter,
        lambda: [b"waiting\nurgent\nnorth-valley\n1.2.3.north-valley." + b"0" * 32 + b"\n"],
        longest=400,
        weight=0.3,
    ),
    "first_bytes": Target(
        both(offers_tls_1_3, lambda data: record_bytes(data[:RECORD_BYTES].ljust(RECORD_BYTES)), with_plain_titles),
        lambda: [client_hello(), associate_request()[6:]],
        longest=1024,
        weight=0.2,
    ),
}
