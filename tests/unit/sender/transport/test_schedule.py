from datetime import timedelta

import pytest

from tests.support.clock import START
from thinwire.sender.outbox.entries import Due
from thinwire.sender.transport.schedule import (
    MOST_UNDER_WAY,
    MOST_URGENT,
    SHARE,
    SMALL,
    TRANSITIONS,
    FairShare,
    Transfer,
    TransferEvent,
    TransferState,
    age,
    choose,
    fits,
    rank,
)
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Digest, EpochId, StudyKey, digest
from thinwire.shared.wire.chunks import HEAD

WINDOW = 32_000
CHUNK = 2_000


def due(name: str, kind: Kind | None = Kind.GRAPH, size: int = 700, urgent: bool = False, minute: int = 0) -> Due:
    object = Digest(digest(name.encode()))
    at = START + timedelta(minutes=minute)
    return Due(object, size, urgent, at, EpochId(b"e" * 8), StudyKey(name.encode().ljust(16)), kind)


def under_way(*transfers: Transfer) -> dict[bytes, Transfer]:
    return {each.due.object: each for each in transfers}


def sending(what: Due, position: int) -> Transfer:
    return Transfer(1, what, TransferState.SENDING, position, position)


def test_urgent_first_then_by_kind_then_the_oldest() -> None:
    in_order = [
        due("record", None, urgent=True, minute=5),
        due("urgent graph", urgent=True, minute=9),
        due("urgent originals", Kind.ORIGINALS, urgent=True, minute=9),
        due("old graph", minute=1),
        due("new graph", minute=2),
        due("manifest", Kind.MANIFEST),
        due("preview", Kind.PREVIEW),
        due("crops", Kind.CROPS),
        due("old originals", Kind.ORIGINALS, minute=1),
        due("new originals", Kind.ORIGINALS, minute=2),
    ]
    assert sorted(in_order[::-1], key=rank) == in_order


def test_a_small_object_goes_whole_with_its_offer_and_a_large_one_says_what_it_is() -> None:
    graph, originals = due("graph", size=3_000), due("originals", Kind.ORIGINALS, 90_000)
    piece = choose([graph], {}, WINDOW, CHUNK)
    assert piece is not None
    assert (piece.transfer, piece.offset, piece.length) == (None, 0, 3_000)
    piece = choose([originals], {}, WINDOW, CHUNK)
    assert piece is not None
    assert piece.length == HEAD


def test_an_urgent_graph_overtakes_between_two_chunks() -> None:
    originals = due("originals", Kind.ORIGINALS, 90_000)
    bulk = sending(originals, 10_000)
    piece = choose([originals], under_way(bulk), WINDOW, CHUNK)
    assert piece is not None
    assert (piece.transfer, piece.offset, piece.length) == (bulk, 10_000, CHUNK)
    urgent = due("urgent", urgent=True)
    piece = choose([urgent, originals], under_way(bulk), WINDOW, CHUNK)
    assert piece is not None
    assert piece.due is urgent


def test_an_offer_without_an_answer_does_not_hold_up_others() -> None:
    first, second = due("first", Kind.ORIGINALS, 90_000), due("second", Kind.ORIGINALS, 90_000, minute=1)
    offered = Transfer(1, first, TransferState.OFFERED, HEAD)
    piece = choose([first, second], under_way(offered), WINDOW, CHUNK)
    assert piece is not None
    assert piece.due is second


def test_the_next_large_object_is_offered_while_the_rest_of_the_last_fits_the_window() -> None:
    first, second = due("first", Kind.ORIGINALS, 90_000), due("second", Kind.ORIGINALS, 90_000, minute=1)
    far = choose([first, second], under_way(sending(first, 20_000)), WINDOW, CHUNK)
    near = choose([first, second], under_way(sending(first, 70_000)), WINDOW, CHUNK)
    assert far is not None
    assert near is not None
    assert far.due is first
    assert near.due is second


def test_the_last_chunk_is_what_is_left() -> None:
    originals = due("originals", Kind.ORIGINALS, 90_000)
    piece = choose([originals], under_way(sending(originals, 89_500)), WINDOW, CHUNK)
    assert piece is not None
    assert piece.length == 500


def test_nothing_to_send() -> None:
    graph = due("graph")
    assert choose([], {}, WINDOW, CHUNK) is None
    sent = Transfer(1, graph, TransferState.SENT, 700)
    assert choose([graph], under_way(sent), WINDOW, CHUNK) is None


def test_so_many_objects_are_under_way_and_a_few_more_urgent_ones() -> None:
    many = [due(f"graph {n}") for n in range(MOST_URGENT)]
    urgent = due("urgent", urgent=True)
    full = under_way(*(Transfer(n, each, TransferState.SENT, 700) for n, each in enumerate(many[:MOST_UNDER_WAY])))
    assert choose([many[-1]], full, WINDOW, CHUNK) is None
    assert choose([urgent, many[-1]], full, WINDOW, CHUNK) is not None
    fuller = under_way(*(Transfer(n, each, TransferState.SENT, 700) for n, each in enumerate(many)))
    assert choose([urgent], fuller, WINDOW, CHUNK) is None


def test_what_fits() -> None:
    graph, urgent = due("graph"), due("urgent", urgent=True)
    large = due("large", Kind.ORIGINALS, SMALL + 1, urgent=True)

    def fit(what: Due, in_flight: int) -> bool:
        piece = choose([what], {}, WINDOW, SMALL * 2)
        assert piece is not None
        return fits(piece, 1_000 - in_flight, in_flight)

    assert fit(graph, 300)
    assert not fit(graph, 301)
    assert fit(graph, 0)
    assert fit(urgent, 100_000)
    assert not fit(large, 100_000)
    assert fit(large, 0)


def test_a_transfer_changes_as_the_table_says_and_in_no_other_way() -> None:
    for state in TransferState:
        for event in TransferEvent:
            transfer = Transfer(1, due("graph"), state)
            if (state, event) in TRANSITIONS:
                transfer.on(event)
                assert transfer.state is TRANSITIONS[state, event]
            else:
                with pytest.raises(ValueError, match=f"a transfer that is {state} cannot be {event}"):
                    transfer.on(event)


def carried(queue: list[Due], floor: FairShare, most: int) -> dict[bytes, int]:
    """Send pieces, each answered at once, until so many bytes have gone; the bytes of each object that went."""
    sent: dict[bytes, int] = {}
    transfers: dict[bytes, Transfer] = {}
    while sum(sent.values()) < most:
        left = [each for each in queue if sent.get(each.object, 0) < each.size]
        piece = floor.choose(sorted(left, key=rank), sorted(left, key=age), transfers, WINDOW, CHUNK)
        if piece is None:
            break
        floor.sent(piece)
        done = piece.offset + piece.length
        sent[piece.due.object] = done
        transfers[piece.due.object] = sending(piece.due, done)
        if done == piece.due.size:
            del transfers[piece.due.object]
    return sent


def test_what_is_oldest_has_its_share_though_all_else_is_urgent() -> None:
    old = due("old originals", Kind.ORIGINALS, 40_000)
    urgent = [due(f"urgent {n}", Kind.ORIGINALS, 60_000, urgent=True, minute=1 + n) for n in range(20)]
    sent = carried([old, *urgent], FairShare(), 600_000)
    assert sent[old.object] == pytest.approx(SHARE * 600_000, abs=2 * CHUNK)


def test_an_urgent_object_that_overtakes_a_bulk_transfer_waits_for_no_piece_of_it() -> None:
    originals, floor = due("originals", Kind.ORIGINALS, 90_000), FairShare()
    bulk = under_way(sending(originals, 10_000))
    for _ in range(30):
        piece = floor.choose([originals], [originals], bulk, WINDOW, CHUNK)
        assert piece is not None
        floor.sent(piece)
    urgent = due("urgent", urgent=True, minute=1)
    piece = floor.choose([urgent, originals], [originals, urgent], bulk, WINDOW, CHUNK)
    assert piece is not None
    assert piece.due is urgent


def test_what_cannot_go_has_no_share() -> None:
    old, new = due("old", Kind.ORIGINALS, 90_000), due("new", Kind.ORIGINALS, 90_000, urgent=True, minute=1)
    offered = under_way(Transfer(1, old, TransferState.OFFERED, HEAD), sending(new, 0))
    floor = FairShare(saved=1e6)
    piece = floor.choose([new, old], [old, new], offered, WINDOW, CHUNK)
    assert piece is not None
    assert piece.due is new
    floor.sent(piece)
    assert floor.saved == 0
