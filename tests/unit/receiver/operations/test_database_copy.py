"""A hub's database goes to PostgreSQL and back, and is the same."""

from pathlib import Path

import pytest
from sqlalchemy import delete, event, func, insert, select

from tests.contract.test_stored_databases import rows
from tests.contract.test_stored_hub import as_it_was
from tests.support.postgresql import server
from thinwire.receiver.hub import DATABASE, bring_forward
from thinwire.receiver.operations.database_copy import read_file, write_file
from thinwire.receiver.store.events import StudyEvent
from thinwire.receiver.store.tables import HUB, drafts, events, generations
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.storage import rows as module
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import found_version, open_database, unfinished_copy


def silent(*_: object) -> None:
    """No progress."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    data = as_it_was(tmp_path / "hub")
    bring_forward(data)
    return data / DATABASE


def test_there_and_back(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 3)
    back = tmp_path / "back.db"
    with server().database() as name:
        url = server().url(name)
        assert read_file(file, url, silent, silent) > 20
        with pytest.raises(BadConfiguration, match="already holds a hub"):
            read_file(file, url, silent, silent)
        database = open_database(url, HUB)
        write_file(database, back, Disk(reserve=0), "test", silent)
        with database.write() as connection:  # the numbers are counted on
            last = connection.scalar(select(func.max(events.c.number)))
            row = connection.execute(select(events).limit(1)).one()._mapping
            new = {**row, "number": None, "event": str(StudyEvent.SAVED)}
            new.pop("number")
            assert connection.execute(insert(events).values(new)).inserted_primary_key == (last + 1,)
        database.close()
    assert rows(back) == rows(file)
    assert found_version(back) == HUB.version


def test_postgresql_waits_for_a_slow_file(file: Path, tmp_path: Path) -> None:
    waited = list[object]()

    def slow(*_: object) -> None:
        if not waited:
            waited.append(server().sql("SELECT pg_sleep(0.2)"))

    with server().database() as name:
        read_file(file, server().url(name), silent, silent)
        database = open_database(server().url(name), HUB)
        limit = "SET LOCAL idle_in_transaction_session_timeout = '50ms'"
        event.listen(database.engine, "begin", lambda connection: connection.exec_driver_sql(limit))
        write_file(database, tmp_path / "back.db", Disk(reserve=0), "test", slow)
        database.close()
    assert waited


def test_an_interrupted_copy_is_no_database_and_goes_on(file: Path) -> None:
    calls = []

    def cut(what: str, done: int, _total: int) -> None:
        calls.append(what)
        if what == "rows of objects" and len(set(calls)) > 3:
            raise KeyboardInterrupt

    with server().database() as name:
        url = server().url(name)
        with pytest.raises(KeyboardInterrupt):
            read_file(file, url, silent, cut)
        with pytest.raises(BadConfiguration, match="unfinished"):
            open_database(url, HUB)
        # The file has changed since: the rows that are there are not those of its beginning.
        source = open_database(file, HUB)
        with source.write() as connection:
            connection.execute(delete(drafts))
        source.close()
        read_file(file, url, silent, silent)
        database = open_database(url, HUB)
        with database.read() as connection:
            assert connection.scalar(select(func.count()).select_from(drafts)) == 0
            assert connection.scalar(select(func.count()).select_from(generations)) == 1
        database.close()


def test_a_row_that_differs_is_found(file: Path) -> None:
    with server().database() as name:
        url = server().url(name)
        source = open_database(file, HUB)
        with source.read() as found, unfinished_copy(url, HUB, silent) as copy:
            with copy.write() as connection:
                connection.execute(delete(generations))
            module.copy_rows(found, copy, HUB.tables, silent)
            with copy.write() as connection:
                connection.execute(drafts.update().values(at=7))
            with copy.read() as other:
                assert module.different_table(found, other, HUB.tables, silent) == "drafts"
        source.close()
