"""Whatever overtakes it, an object is sent by the time that the scheduler's documentation names."""

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clock import START
from tests.support.soak import TIMES
from thinwire.sender.outbox.entries import Due
from thinwire.sender.transport.schedule import SHARE, FairShare, Transfer, TransferState, age, rank
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Digest, EpochId, StudyKey, digest

KINDS = (Kind.GRAPH, Kind.MANIFEST, Kind.PREVIEW, Kind.CROPS, Kind.ORIGINALS)
LARGEST = 20_000

arrivals = st.lists(
    st.tuples(st.integers(0, 30_000), st.sampled_from(KINDS), st.integers(1, LARGEST), st.booleans()),
    min_size=1,
    max_size=30,
)
"""(bytes that were sent since the one before, kind, bytes, urgent), in the order of acceptance."""


@settings(max_examples=60 * TIMES, deadline=None)
@given(arrivals=arrivals, chunk=st.sampled_from([1_024, 4_000]))
def test_nothing_waits_longer_than_the_floor_allows(arrivals: list[tuple[int, Kind, int, bool]], chunk: int) -> None:
    coming: list[tuple[int, Due]] = []
    at = 0
    for n, (gap, kind, size, urgent) in enumerate(arrivals):
        at += gap
        name = Digest(digest(bytes([n])))
        accepted = START + timedelta(seconds=n)
        due = Due(name, size, urgent, accepted, EpochId(b"e" * 8), StudyKey(bytes([n]) * 16), kind)
        coming.append((at, due))
    floor, carried = FairShare(), 0
    here: dict[bytes, Due] = {}
    position: dict[bytes, int] = {}
    since: dict[bytes, int] = {}
    allowed: dict[bytes, float] = {}
    while coming or here:
        while coming and (coming[0][0] <= carried or not here):
            due = coming.pop(0)[1]
            here[due.object], position[due.object], since[due.object] = due, 0, carried
            older = sum(each.size - position[each.object] for each in here.values())
            allowed[due.object] = (older + 2 * max(chunk, 4096)) / SHARE
        under_way: dict[bytes, Transfer] = {
            each.object: Transfer(1, each, TransferState.SENDING, position[each.object])
            for each in here.values()
            if position[each.object]
        }
        piece = floor.choose(
            sorted(here.values(), key=rank), sorted(here.values(), key=age), under_way, 4 * chunk, chunk
        )
        assert piece is not None
        floor.sent(piece)
        carried += piece.length
        position[piece.due.object] = piece.offset + piece.length
        if position[piece.due.object] == piece.due.size:
            assert carried - since[piece.due.object] <= allowed[piece.due.object]
            del here[piece.due.object]
