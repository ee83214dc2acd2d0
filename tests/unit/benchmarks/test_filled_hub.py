"""The benchmark's filled hub has the rows that a hub's own transactions write."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from benchmarks.load.filled_hub import fill
from tests.support.clock import FakeClock
from tests.support.tiny_bundle import tiny_bundle
from tests.support.worklist_histories import SELECTIONS, defined, selected
from thinwire.receiver.hub import Hub, make_hub, open_hub
from thinwire.receiver.store.tables import worklist, worklist_counts, worklist_vocabulary
from thinwire.receiver.store.worklist_rows import keep
from thinwire.shared.storage.durable import Disk

STUDIES = 600
"""Of five hours: some are overdue."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    clock = FakeClock()
    make_hub(tmp_path / "hub", tiny_bundle(tmp_path / "tiny").folder, Disk(), clock)
    clock.advance(timedelta(days=1).total_seconds())
    fill(tmp_path / "hub", STUDIES, [number % 3 != 0 for number in range(STUDIES)], clock.now())
    with open_hub(tmp_path / "hub", clock) as opened:
        yield opened


def rows(hub: Hub) -> list[list[tuple[object, ...]]]:
    tables = (worklist, worklist_counts, worklist_vocabulary)
    with hub.database.read() as connection:
        return [sorted(map(tuple, connection.execute(select(table))), key=repr) for table in tables]


def test_its_worklist_is_the_one_of_the_definition(hub: Hub) -> None:
    now, listed = hub.clock.now(), defined(hub, hub.settings.cap)
    assert len(listed) == STUDIES
    assert 0 < hub.worklist.counts(now).overdue.studies < STUDIES
    for selection in SELECTIONS:
        found = [entry for page in hub.worklist.stream(selection, now, 500) for entry in page]
        assert found == [entry for entry in listed if selected(selection, entry)]
    wanted = [entry for entry in listed if entry.study.site == "clinic-07"]
    assert list(hub.worklist.search("clinic-07", now, STUDIES).entries) == wanted


def test_its_rows_are_those_that_the_hub_would_keep(hub: Hub) -> None:
    with hub.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    before = rows(hub)
    with hub.database.write() as connection:
        for entry in defined(hub, hub.settings.cap):
            keep(connection, entry.study.site, entry.study.study)
    assert rows(hub) == before
