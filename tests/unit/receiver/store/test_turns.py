"""Work in turns of the sites: the flood of one delays another's study by one item."""

from sqlalchemy import func, select

from tests.support.forwarded_hub import next_due, next_plan
from tests.support.hub_folder import Clinic, StudyParts, join, study_parts
from thinwire.receiver.forward.queue import PAGE, queue_of
from thinwire.receiver.hub import Hub
from thinwire.receiver.store.events import StudyEvent, add_event
from thinwire.receiver.store.records import StoredPrediction
from thinwire.receiver.store.tables import claims
from thinwire.receiver.store.worklist_rows import is_kept, miscounted, misindexed
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.receipts import StudyStatus, read_receipt
from thinwire.shared.identifiers import BundleId, Digest, SiteName, Urgency


def stored(hub: Hub, bundle: Bundle, clinic: Clinic, seeds: range, urgent: bool = False) -> list[StudyParts]:
    parts = [study_parts(clinic, bundle, seed) for seed in seeds]
    for each in parts:
        hub.pipeline().put(clinic.site, each.graph.object, each.graph.header, each.graph.plaintext, urgent)
    return parts


def test_graphs_are_predicted_and_drafted_in_turns(hub: Hub, bundle: Bundle) -> None:
    flood, other = join(hub, "north-valley"), join(hub, "south-ridge")
    stored(hub, bundle, flood, range(8), urgent=True)
    (mine,) = stored(hub, bundle, other, range(8, 9), urgent=True)
    (later,) = stored(hub, bundle, other, range(9, 10))
    waiting = hub.store.untriaged()
    assert [each.site for each in waiting[:2]] == ["north-valley", "south-ridge"]
    assert waiting[1].study == mine.study
    assert waiting[-1].study == later.study  # not urgent
    assert hub.store.untriaged(4) == waiting[:4]
    while hub.pipeline().predict_waiting():
        pass
    drafted = hub.store.undrafted(10)
    assert [each.site for each in drafted[:2]] == ["north-valley", "south-ridge"]
    assert len(drafted) == 10


def test_a_batch_of_several_sites_is_stored_without_what_changed_meanwhile(hub: Hub, bundle: Bundle) -> None:
    north, south = join(hub, "north-valley"), join(hub, "south-ridge")
    urged, *calm = stored(hub, bundle, north, range(3))
    calm += stored(hub, bundle, south, range(3, 5))
    found = StoredPrediction({}, Urgency.ROUTINE, "read", False, BundleId(b"b" * 16), hub.clock.now())
    with hub.store.take_untriaged(10, set()) as claim:
        assert hub.store.escalate(north.site, urged.study)
        done = hub.store.add_predictions([(each, found) for each in claim.pieces], claim)
        assert {each.study for each in done} == {each.study for each in calm}
        assert hub.store.add_predictions([(each, found) for each in claim.pieces], claim) == []
        with hub.database.read() as connection:
            assert connection.scalar(select(func.count()).select_from(claims)) == 1
    assert [(each.study, each.urgent_asked) for each in hub.store.untriaged()] == [(urged.study, True)]
    key = hub.keys.signing.public_key()
    for clinic, studies in ((north, calm[:2]), (south, calm[2:])):
        receipts = [read_receipt(each, key) for each in hub.store.undelivered_receipts(clinic.site)]
        assert {each.study for each in receipts if each.status is StudyStatus.TRIAGED} == {e.study for e in studies}
    with hub.database.write() as connection:
        assert all(is_kept(connection, each.site, each.study) for each in hub.store.studies())
        assert not miscounted(connection)
        assert not misindexed(connection)


def test_a_target_is_served_in_turns(hub: Hub, bundle: Bundle) -> None:
    flood, other = join(hub, "north-valley"), join(hub, "south-ridge")
    studies = [(flood.site, each.study) for each in stored(hub, bundle, flood, range(4))]
    studies += [(other.site, each.study) for each in stored(hub, bundle, other, range(4, 5))]
    queue, item = queue_of(hub), [("sr", Digest(bytes(32)))]
    queue.enter(["pacs"])
    queue.plan("pacs", None, [(study, item) for study in studies])
    assert [each.site for each in next_due(queue, "pacs")] == ["north-valley"]
    assert [(each.site, each.study) for each in next_due(queue, "pacs", SiteName("north-valley"))] == [studies[-1]]
    assert [each.site for each in next_due(queue, "pacs", SiteName("south-ridge"))] == ["north-valley"]


def test_events_are_planned_in_turns_and_none_is_left_out(hub: Hub, bundle: Bundle) -> None:
    flood, other = join(hub, "north-valley"), join(hub, "south-ridge")
    flooded = {each.study for each in stored(hub, bundle, flood, range(PAGE + 5))}
    (mine,) = stored(hub, bundle, other, range(PAGE + 5, PAGE + 6))
    queue = queue_of(hub)
    queue.enter(["pacs"])
    last, planned = None, []
    while fresh := next_plan(queue, "pacs", last):
        queue.plan("pacs", (fresh.site, fresh.upto), [])
        last = fresh.site
        planned.append(fresh.studies)
    assert [study for _, study in planned[1]] == [mine.study]
    assert {study for _, study in planned[0] + planned[2]} == flooded
    assert len(planned[0]) == PAGE


def test_events_that_change_nothing_for_a_target_are_read_once(hub: Hub, bundle: Bundle) -> None:
    flood, other = join(hub, "north-valley"), join(hub, "south-ridge")
    (theirs,) = stored(hub, bundle, flood, range(1))
    queue = queue_of(hub)
    queue.enter(["pacs"])
    fresh = next_plan(queue, "pacs")
    assert fresh is not None
    queue.plan("pacs", (fresh.site, fresh.upto), [])
    with hub.database.write() as connection:
        for _ in range(PAGE + 3):
            add_event(connection, flood.site, theirs.study, StudyEvent.FORWARDED, hub.clock.now())
    page = next_plan(queue, "pacs")
    assert page is not None
    assert page.studies == []
    queue.plan("pacs", (page.site, page.upto), [])
    assert next_plan(queue, "pacs", page.site) is None
    (mine,) = stored(hub, bundle, other, range(1, 2))
    assert [each.study for each in stored(hub, bundle, flood, range(2, 3))] == [
        study for _, study in (next_plan(queue, "pacs", SiteName("south-ridge")) or page).studies
    ]
    assert (next_plan(queue, "pacs", flood.site) or page).studies == [(other.site, mine.study)]
