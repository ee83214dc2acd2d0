"""The worklist's queries read ranges of indices: no table is scanned, and no list is sorted."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert

from tests.support.forwarded_hub import next_due, next_plan
from tests.support.hub_folder import Clinic, StudyParts
from tests.support.worklist_histories import SELECTIONS
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub
from thinwire.receiver.operations.metrics import Counts
from thinwire.receiver.store.tables import TABLES, sites
from thinwire.receiver.store.worklist_order import Position, Selection
from thinwire.shared.formats.positional import LAST_MOMENT
from thinwire.shared.identifiers import Digest, SiteName

NEWEST_FIRST = re.compile(r"ORDER BY \w+\.number DESC\s+LIMIT")
"""It ends at the first row that is old enough: it reads the rows of the last minutes."""
LARGE = {table.name for table in TABLES.sorted_tables} - {"sites", "worklist_counts", "worklist_vocabulary"}
"""Tables that grow with the number of studies."""
INDICES = (
    "worklist_order",
    "worklist_state",
    "worklist_site_order",
    "worklist_site_state",
    "worklist_study",
    "worklist_drafted",
)

Statement = tuple[str, object]


@pytest.fixture(params=["sqlite"])
def engine(request: pytest.FixtureRequest) -> str:
    """The plans here are SQLite's."""
    return str(request.param)


@pytest.fixture
def filled(hub: Hub, clinic: Clinic, parts: StudyParts) -> Hub:
    pipeline = hub.pipeline()
    for part in (parts.graph, parts.manifest):
        pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)
    pipeline.predict_waiting()
    return hub


@contextmanager
def statements() -> Iterator[list[Statement]]:
    """What is asked of any database meanwhile."""
    asked: list[Statement] = []

    def note(_c: object, _cursor: object, statement: str, parameters: object, _context: object, _many: bool) -> None:
        asked.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def slow(hub: Hub, asked: list[Statement]) -> list[str]:
    """Steps of the plans that take longer, the more studies there are."""
    found = []
    with hub.database.read() as connection:
        for statement, parameters in asked:
            if not statement.startswith("SELECT"):
                continue
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
            steps = [str(row[3]) for row in plan]
            lists = "UNION ALL" in statement
            continued = "(worklist.received_at, " in statement
            for step in steps:
                if continued and step.startswith("SEARCH worklist") and "(received_at," not in step:
                    found.append(f"not from the position on: {step}: {statement}")
                if "worklist.drafted = " in statement and step.startswith("SEARCH worklist") and "drafted=" not in step:
                    found.append(f"not of the undrafted alone: {step}: {statement}")
                if NEWEST_FIRST.search(statement):
                    continue
                scan = re.match(r"SCAN (\w+?)(_\d+)?( |$)", step)
                if (scan and scan[1] in LARGE) or (lists and "TEMP B-TREE" in step):
                    found.append(f"{step}: {statement}")
    return found


def everything(hub: Hub) -> dict[str, Callable[[], object]]:
    now, worklist = hub.clock.now(), hub.worklist
    study = next(hub.store.studies())
    places = [Position(LAST_MOMENT, 1, 0, study.site, study.study), Position(0, 2, 1, study.site, study.study)]
    assert study.patient is not None
    patient = study.patient
    counts = Counts(hub.database, queue_of(hub), hub.data, hub.disk, hub.clock, hub.store.parked)
    return {
        "pages": lambda: [worklist.page(each, now, 2) for each in SELECTIONS],
        "deep pages": lambda: [
            worklist.page(each, now, 2, **{side: at})
            for each in SELECTIONS
            for side in ("after", "before")
            for at in places
        ],
        "counts": lambda: worklist.counts(now),
        "beside": lambda: worklist.beside(study.site, study.study, now),
        "search": lambda: [worklist.search(query, now, 9) for query in ("routine pa", "3f3f pa", "PHANTOM-1")],
        "find": lambda: (hub.store.find(study.study.hex()[:6]), hub.store.find(study.study.hex(), study.site)),
        "of patient": lambda: hub.store.of_patient(study.site, patient),
        "untriaged": lambda: hub.store.untriaged(),
        "undrafted": lambda: hub.store.undrafted(8),
        "unplanned": lambda: next_plan(queue_of(hub), "pacs", study.site),
        "metrics": lambda: [*counts._studies(), *counts.totals.metrics(hub.database)],
        "last event": lambda: hub.store.event_stamp(),
        "sessions": lambda: hub.accounts.open_sessions(["a", "b"]),
    }


def test_no_query_reads_all_studies(filled: Hub) -> None:
    for name, ask in everything(filled).items():
        with statements() as asked:
            ask()
        assert asked, name
        assert slow(filled, asked) == [], name


@pytest.mark.parametrize("engine", ["postgresql"])
@pytest.mark.parametrize("without", ["", "worklist_order"])
def test_no_query_of_postgresql_reads_all_studies(filled: Hub, without: str) -> None:
    """Where scans and sorts are forbidden, those that are left have no index that would do."""
    if without:
        with filled.database.write() as connection:
            connection.exec_driver_sql(f"DROP INDEX {without}")
    with statements() as asked:
        for ask in everything(filled).values():
            ask()
    found = []
    with filled.database.read() as connection:
        for setting in ("seqscan", "hashjoin", "mergejoin", "material", "hashagg"):
            connection.exec_driver_sql(f"SET LOCAL enable_{setting} = off")
        for statement, parameters in dict(reversed(asked)).items():
            if not re.match(r"SELECT.*\sFROM\s", statement, re.DOTALL) or NEWEST_FIRST.search(statement):
                continue
            connection.exec_driver_sql(f"SET LOCAL enable_sort = {'off' if 'UNION ALL' in statement else 'on'}")
            ((plan,),) = connection.exec_driver_sql(f"EXPLAIN (FORMAT json) {statement}", parameters)  # type: ignore[arg-type]
            found += [f"{step}: {statement}" for step in unbounded(plan[0]["Plan"], "UNION ALL" in statement)]
    assert (found == []) is not bool(without), found


def unbounded(step: dict[str, Any], lists: bool, sorted_: bool = False) -> Iterator[str]:
    """The steps that read a large table whole, and in lists those that sort more than the first rows of a range."""
    kind = step["Node Type"]
    sorted_ = kind != "Limit" and (sorted_ or (lists and "Sort" in kind))
    if step.get("Relation Name") in LARGE and (sorted_ or not ("Index Cond" in step or "Recheck Cond" in step)):
        yield f"{kind} {step['Relation Name']}"
    for each in step.get("Plans", []):
        yield from unbounded(each, lists, sorted_)


@pytest.mark.parametrize("index", INDICES)
def test_without_an_index_a_query_reads_more(filled: Hub, index: str) -> None:
    with filled.database.write() as connection:
        connection.exec_driver_sql(f"DROP INDEX {index}")
    with statements() as asked:
        for ask in everything(filled).values():
            ask()
    assert slow(filled, asked)


def test_a_change_of_a_study_reads_its_own_rows(filled: Hub) -> None:
    study = next(filled.store.studies())
    with statements() as asked:
        filled.store.escalate(study.site, study.study)
        filled.store.record_opened(study.site, study.study)
    assert slow(filled, asked) == []


def test_a_long_queue_of_deliveries_is_not_read_for_the_next_one(filled: Hub) -> None:
    study, queue = next(filled.store.studies()), queue_of(filled)
    queue.enter(["pacs"])
    queue.plan("pacs", None, [((study.site, study.study), [("sr", Digest(bytes(32))), ("capture", Digest(bytes(32)))])])
    with statements() as asked:
        assert [each.item for each in next_due(queue, "pacs")] == ["sr", "capture"]
    with filled.database.read() as connection:
        next_site, first, same = (
            [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]  # type: ignore[arg-type]
            for statement, parameters in asked
            if statement.startswith("SELECT") and "FROM deliveries" in statement
        )
    assert not any("TEMP B-TREE" in step for step in next_site + first)
    for steps in (next_site, first):
        assert any("deliveries_turn (target=? AND state=? AND site=? AND due_at<?)" in step for step in steps)
    assert any("deliveries_identity" in step for step in same)


def test_work_in_turns_asks_as_much_of_many_sites_as_of_one(filled: Hub) -> None:
    queue = queue_of(filled)
    queue.enter(["pacs"])
    with filled.database.write() as connection:
        connection.execute(insert(sites), [{"name": f"silent-{number:03}", "enrolled_at": 0} for number in range(300)])
    with statements() as asked:
        assert len(filled.store.undrafted(8)) == 1
        filled.store.untriaged()
        fresh = next_plan(queue, "pacs", SiteName("silent-150"))
        assert fresh is not None
        assert len(fresh.studies) == 1
        queue.plan("pacs", (fresh.site, fresh.upto), [])
        assert next_plan(queue, "pacs", fresh.site) is None
        assert next_due(queue, "pacs", SiteName("silent-150")) == []
    assert len(asked) < 30


def test_one_page_is_a_handful_of_queries(filled: Hub) -> None:
    with statements() as asked:
        filled.worklist.page(Selection(), filled.clock.now(), 40)
        filled.worklist.counts(filled.clock.now())
    assert len(asked) < 20
