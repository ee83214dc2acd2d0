"""Claims of work: many workers at once have no piece twice, a lease ends by the database's clock, a lost claim stores
nothing."""

import itertools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.support.claimed import end_leases
from tests.support.clock import FakeClock
from tests.support.scripted_peer import ScriptedPeer
from tests.support.worklist_histories import BUNDLE, History
from thinwire.receiver.forward.delivery import DeliveryEvent, DeliveryState
from thinwire.receiver.forward.delivery_content import DeliveryContent
from thinwire.receiver.forward.forwarder import Forwarder
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub, open_hub
from thinwire.receiver.store.claims import LEASE, ClaimLost
from thinwire.receiver.store.records import StoredPrediction
from thinwire.receiver.store.tables import claims, receipts
from thinwire.receiver.targets import FhirTarget
from thinwire.shared.identifiers import Digest, Urgency

GRAPHS, WORKERS = 24, 4
NOTHING: frozenset[str] = frozenset()


def fill(hub: Hub, graphs: int = GRAPHS) -> None:
    history = History(hub, hub.clock)  # type: ignore[arg-type]
    for number in range(graphs):
        history.do("graph", number, 0)


def predicted(hub: Hub) -> StoredPrediction:
    return StoredPrediction({}, Urgency.ROUTINE, "as the test says", False, BUNDLE, hub.clock.now())


def held(hub: Hub) -> int:
    with hub.database.read() as connection:
        return connection.scalar(select(func.count()).select_from(claims)) or 0


def test_many_workers_at_once_have_no_piece_twice_and_each_result_is_told_once(data: Path, hub: Hub) -> None:
    fill(hub)
    mine, lock = Counter[object](), threading.Lock()
    passes = itertools.count()

    def work(_worker: int) -> int:
        done = 0
        with open_hub(data, hub.clock) as other:
            while True:
                with other.store.take_untriaged(3, NOTHING) as claim:
                    if not claim.pieces:
                        return done
                    keys = [(each.site, each.study) for each in claim.pieces]
                    with lock:
                        mine.update(keys)
                        assert max(mine.values()) == 1
                    for each in claim.pieces:
                        # Every fifth one is given back, and another worker has it next.
                        if next(passes) % 5:
                            done += other.store.add_prediction(each, predicted(other), claim)
                    with lock:
                        mine.subtract(keys)

    with ThreadPoolExecutor(WORKERS) as threads:
        counts = list(threads.map(work, range(WORKERS)))
    while work(0):
        pass
    assert hub.store.untriaged() == []
    with hub.database.read() as connection:
        told = select(receipts.c.study, receipts.c.site).where(receipts.c.status == "triaged")
        assert len(connection.execute(told).all()) == GRAPHS
    assert sum(counts) > 0
    assert held(hub) == 0


def test_a_claim_ends_with_its_lease_and_its_result_is_no_second_one(hub: Hub) -> None:
    fill(hub, 2)
    with hub.store.take_untriaged(1, NOTHING) as slow:
        hub.store.claims.renew([slow.holder])
        with hub.store.take_untriaged(9, NOTHING) as rest:
            assert len(rest.pieces) == 1
        assert 0 < hub.store.claims.seconds("predict", 60.0) <= LEASE
        end_leases(hub)
        assert hub.store.claims.seconds("predict", 60.0) == 60.0
        with hub.store.take_untriaged(9, NOTHING) as quick:
            assert {*slow.pieces} < {*quick.pieces}
            for each in quick.pieces:
                assert hub.store.add_prediction(each, predicted(hub), quick)
        assert not hub.store.add_prediction(slow.pieces[0], predicted(hub), slow)
    assert held(hub) == 0


def test_a_clock_that_is_set_back_keeps_no_work_for_long(hub: Hub, clock: FakeClock) -> None:
    if hub.database.shared:
        pytest.skip("the clock is the server's")
    fill(hub, 1)
    with hub.store.take_untriaged(1, NOTHING):
        clock.advance(-3600)
        with hub.store.take_untriaged(1, NOTHING) as claim:
            assert len(claim.pieces) == 1


def test_a_start_leaves_the_claims_of_who_began_at_the_same_time(hub: Hub, clock: FakeClock) -> None:
    if hub.database.shared:
        return  # no process is alone there
    fill(hub, 2)
    with hub.store.take_untriaged(1, NOTHING):  # one that was killed
        clock.advance(1.0)
        began = clock.now()
        clock.advance(1.0)
        with hub.store.take_untriaged(1, NOTHING) as claim:
            hub.store.claims.begin(alone=began)
            with hub.database.read() as connection:
                assert connection.scalars(select(claims.c.holder)).all() == [claim.holder]


def test_a_worker_that_lost_its_claim_changes_no_delivery_and_plans_nothing(hub: Hub) -> None:
    fill(hub, 1)
    queue, (study,) = queue_of(hub), hub.store.studies()
    queue.enter(["pacs"])
    wanted = [((study.site, study.study), [("sr", study.study * 2)])]
    with queue.take_site("pacs", study.site) as claim:
        with queue.take_site("pacs", study.site) as other:
            assert not other.pieces
        assert queue.unplanned_site("pacs") is None
        assert queue.unplanned_site("archive") == study.site
        end_leases(hub)
        with queue.take_site("pacs", study.site) as other:
            assert other.pieces
            with pytest.raises(ClaimLost):
                queue.plan("pacs", (study.site, 1), wanted, claim)  # type: ignore[arg-type]
            assert queue.plan("pacs", (study.site, 1), wanted, other) == 1  # type: ignore[arg-type]
    due = queue.due_study("pacs")
    assert due is not None
    (delivery,) = queue.due("pacs", due)
    with queue.take_study("pacs", due) as claim:
        assert queue.due_study("pacs") is None
        end_leases(hub)
        with queue.take_study("pacs", due) as other:
            with pytest.raises(ClaimLost):
                queue.apply(delivery.number, DeliveryEvent.FAILED, claim=claim)
            assert queue.apply(delivery.number, DeliveryEvent.SENT_AND_ASKED, claim=other).state is DeliveryState.ASKED
            queue.apply(delivery.number, DeliveryEvent.COMMITTED)
            late = queue.apply(delivery.number, DeliveryEvent.NOT_ASKED, claim=other)
            assert late.state is DeliveryState.CONFIRMED
    assert held(hub) == 0


def test_several_forwarders_of_one_target_send_each_object_once(data: Path, hub: Hub) -> None:
    fill(hub)
    target = FhirTarget.model_validate({"kind": "fhir", "name": "records", "url": "http://records"})
    queue_of(hub).enter(["records"])
    peers = [ScriptedPeer() for _ in range(WORKERS)]

    class Items(DeliveryContent):
        """An object of each study, without its files."""

        def items(self, _target: object, key: tuple[str, bytes]) -> list[tuple[str, Digest]]:
            return [("fhir", Digest(key[1] * 2))]

        def make(self, key, deliveries):  # type: ignore[no-untyped-def]
            return [(each, b"%s %s" % (key[0].encode(), key[1])) for each in deliveries]

    def forward(peer: ScriptedPeer) -> None:
        with open_hub(data, hub.clock) as other:
            content = Items(other.study_images(), other.bundles)
            each = Forwarder(target, peer, queue_of(other), content, other.clock)
            while each.work():
                pass

    with ThreadPoolExecutor(WORKERS) as threads:
        list(threads.map(forward, peers))
    forward(peers[0])
    sent = Counter(each for peer in peers for each in peer.given)
    assert len(sent) == GRAPHS
    assert set(sent.values()) == {1}
    assert {each.state for each in queue_of(hub).all()} == {DeliveryState.UNCONFIRMED}
    assert held(hub) == 0
