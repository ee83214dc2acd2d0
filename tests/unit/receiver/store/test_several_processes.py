"""Several processes on one PostgreSQL database: what each relies on while the others write."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import Connection, select, update

from tests.support.clock import START, FakeClock
from tests.support.forwarded_hub import next_plan
from tests.support.hub_folder import Clinic, join, study_parts
from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub
from thinwire.receiver.operations.metrics import Totals
from thinwire.receiver.store.claims import AGAIN, PREDICT
from thinwire.receiver.store.events import StudyEvent, add_event
from thinwire.receiver.store.tables import audit_anchors, parked, worklist, worklist_vocabulary
from thinwire.receiver.store.worklist_rows import keep
from thinwire.shared import parked as parked_module
from thinwire.shared.errors import DatabaseBusy
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.parked import COMPARED, ParkedItems

PATIENCE = 60.0


@pytest.fixture(params=["postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    """SQLite has one writer at a time."""
    return str(request.param)


def waits_for_a_lock(hub: Hub) -> bool:
    """Whether a transaction waits for another one."""
    with hub.database.read() as connection:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        return bool(connection.exec_driver_sql(query).scalar())


@pytest.fixture
def aside() -> Iterator[Callable[[Callable[[], object]], threading.Thread]]:
    """Runs an act in a thread, as of another process."""
    with ExitStack() as stack:

        def run(act: Callable[[], object]) -> threading.Thread:
            thread = threading.Thread(target=act)
            thread.start()
            stack.callback(thread.join, PATIENCE)
            return thread

        yield run


def until(holds: Callable[[], bool]) -> None:
    """The database alone knows when a transaction waits."""
    for _ in range(100_000):
        if holds():
            return
    raise AssertionError("it does not come true")


Aside = Callable[[Callable[[], object]], threading.Thread]


def test_writers_of_two_sites_go_on_at_once_and_those_of_one_follow_each_other(hub: Hub, aside: Aside) -> None:
    done: list[str] = []

    def write(turn: str | None) -> Callable[[], None]:
        def act() -> None:
            with hub.database.write(turn=turn):
                done.append(str(turn))

        return act

    with hub.database.write(turn="north"):
        write("south")()
        assert done == ["south"]
        same, alone = aside(write("north")), aside(write(None))
        until(lambda: waits_for_a_lock(hub))
        assert done == ["south"]
    same.join()
    alone.join()
    assert sorted(done) == ["None", "north", "south"]


def test_an_event_of_a_site_is_added_in_its_turn_alone(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    study = study_parts(clinic, bundle).study
    with pytest.raises(AssertionError, match="turn"), hub.database.write(turn="another") as connection:
        add_event(connection, clinic.site, study, StudyEvent.ADDED, START)


def test_no_reader_misses_an_event_that_is_committed_after_a_later_one(hub: Hub, bundle: Bundle) -> None:
    """Numbers are given before the commit: the lower one of two sites may be committed last."""
    first, second = join(hub, "north-valley"), join(hub, "south-ridge")
    parts = [study_parts(each, bundle, seed) for seed, each in enumerate((first, second))]
    pipeline, totals, queue = hub.pipeline(), Totals(), queue_of(hub)
    for clinic, each in zip((first, second), parts, strict=True):
        pipeline.put(clinic.site, each.originals.object, each.originals.header, each.originals.plaintext, False)
    queue.enter(["pacs"])
    totals.metrics(hub.database)
    while (found := next_plan(queue, "pacs")) is not None:
        queue.plan("pacs", (found.site, found.upto), [])
    before = hub.store.event_stamp()
    with hub.database.write(turn=first.site) as early:
        low = add_event(early, first.site, parts[0].study, StudyEvent.PREDICTED, START)
        with hub.database.write(turn=second.site) as late:
            high = add_event(late, second.site, parts[1].study, StudyEvent.PREDICTED, START)
        assert low < high
        between = hub.store.event_stamp()
        found = next_plan(queue, "pacs")
        assert found is not None
        assert (found.site, found.upto) == (second.site, high)
        queue.plan("pacs", (found.site, found.upto), [])
        assert next_plan(queue, "pacs") is None
    found = next_plan(queue, "pacs")
    assert found is not None
    assert (found.site, found.upto) == (first.site, low)
    assert len({before, between, hub.store.event_stamp()}) == 3


def test_the_metrics_count_each_event_once(hub: Hub, bundle: Bundle) -> None:
    first, second = join(hub, "north-valley"), join(hub, "south-ridge")
    parts = [study_parts(each, bundle, seed) for seed, each in enumerate((first, second))]
    for clinic, each in zip((first, second), parts, strict=True):
        hub.pipeline().put(clinic.site, each.manifest.object, each.manifest.header, each.manifest.plaintext, False)
    totals, counted = Totals(), []

    def scrape() -> None:
        triage = totals.metrics(hub.database)[2]
        counted.append(next(each.value for each in triage.samples if each.name.endswith("_count")))

    with hub.database.write(turn=first.site) as early:
        add_event(early, first.site, parts[0].study, StudyEvent.PREDICTED, START)
        with hub.database.write(turn=second.site) as late:
            add_event(late, second.site, parts[1].study, StudyEvent.PREDICTED, START)
        scrape()
    scrape()
    scrape()
    assert counted == [1, 2, 2]


def test_messages_of_the_audit_log_follow_each_other_whoever_appends_them(hub: Hub, aside: Aside) -> None:
    def view(name: str, connection: Connection) -> None:
        hub.audit.append(connection, Message(Act.VIEWED, START, name))

    def act() -> None:
        with hub.database.write(turn="south") as later:
            view("second", later)

    with hub.database.write(turn="north") as connection:
        view("first", connection)
        appending = aside(act)
        until(lambda: waits_for_a_lock(hub))
    appending.join(PATIENCE)
    assert hub.audit.verify().number == 2
    assert ["first" in each.message for each in hub.audit.newest(None, 2)] == [False, True]


def test_a_head_that_the_log_has_is_recorded_while_another_writes_to_the_log(hub: Hub) -> None:
    clinic = join(hub)
    hub.audit.record(Message(Act.VIEWED, START, "first"))
    head = hub.audit.signed_head()
    with hub.database.write(turn="audit") as connection:
        hub.audit.record_anchor(clinic.site, head, START)
        assert connection.scalar(select(audit_anchors.c.site)) == clinic.site


def test_a_graph_whose_row_another_transaction_held_is_soon_looked_for_again(hub: Hub, bundle: Bundle) -> None:
    clinic, claims = join(hub), hub.store.claims
    part = study_parts(clinic, bundle).graph
    hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, False)
    with hub.database.write(turn=clinic.site) as connection:
        connection.execute(update(worklist).values(words=worklist.c.words))
        with hub.store.take_untriaged(32, set()) as claim:
            assert claim.pieces == []
    assert claims.seconds(PREDICT, 30.0) <= AGAIN
    with hub.store.take_untriaged(32, set()) as claim:
        assert len(claim.pieces) == 1
    assert claims.seconds(PREDICT, 30.0) == 30.0


def test_two_sites_may_teach_the_same_words_at_once(hub: Hub, bundle: Bundle, aside: Aside) -> None:
    first, second = join(hub, "north-valley"), join(hub, "south-ridge")
    parts = [study_parts(each, bundle, seed) for seed, each in enumerate((first, second))]
    pipeline = hub.pipeline()
    for clinic, each in zip((first, second), parts, strict=True):
        pipeline.put(clinic.site, each.graph.object, each.graph.header, each.graph.plaintext, False)
    with hub.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM worklist_vocabulary")
        connection.exec_driver_sql("UPDATE worklist SET words = ''")

    def keep_second() -> None:
        with hub.database.write(turn=second.site) as later:
            keep(later, second.site, parts[1].study)

    with hub.database.write(turn=first.site) as connection:
        keep(connection, first.site, parts[0].study)
        keeping = aside(keep_second)
        until(lambda: waits_for_a_lock(hub))
    keeping.join(PATIENCE)
    with hub.database.read() as connection:
        words = set(connection.scalars(select(worklist_vocabulary.c.word)))
    assert {"north", "south", "ridge", "valley", "pa"} <= words


def test_an_item_that_another_process_parked_is_released(hub: Hub, clock: FakeClock) -> None:
    here, there = (ParkedItems(hub.database, parked, clock) for _ in range(2))
    there.park("receiving", "north-valley/ab", OSError())
    here.release("receiving", "north-valley/ab")
    clock.advance(COMPARED)
    here.release("receiving", "north-valley/cd")
    assert there.items() == []


def test_a_loop_that_another_process_parked_stays_parked(hub: Hub, clock: FakeClock) -> None:
    here, there = (ParkedItems(hub.database, parked, clock) for _ in range(2))
    there.park("inference", "", OSError())
    assert here.waits("inference") == set()
    for item in ("", "north-valley/ab"):
        clock.advance(COMPARED)
        here.release("inference", item)
    assert [each.item for each in here.items()] == [""]
    there.release("inference", "")
    assert here.items() == []


def test_what_is_parked_anew_after_a_success_stays(hub: Hub, clock: FakeClock) -> None:
    here = ParkedItems(hub.database, parked, clock)
    here.release("receiving", "north-valley/ab")
    here.park("receiving", "north-valley/ab", OSError())
    clock.advance(COMPARED)
    here.release("receiving", "north-valley/cd")
    assert [each.item for each in here.items()] == ["north-valley/ab"]


def test_a_process_keeps_a_limited_number_of_parked_items_and_releases_all(
    hub: Hub, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked_module, "MOST_KNOWN", 2)
    here = ParkedItems(hub.database, parked, clock)
    for each in "abc":
        here.park("receiving", each, OSError())
    assert len(here._known) == 2
    assert len(here.items()) == 3
    clock.advance(COMPARED)
    for each in "bca":
        here.release("receiving", each)
    assert here.items() == []


def test_an_act_of_one_process_at_a_time_ends_with_its_process(hub: Hub) -> None:
    with hub.database.alone("import"):
        with pytest.raises(DatabaseBusy), hub.database.alone("import"):
            pass
        with hub.database.alone("backup"):
            pass
    with hub.database.alone("import"):
        pass
