"""A database of several connections: transactions, and the look for changes."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, insert, select
from sqlalchemy.exc import IntegrityError

from thinwire.shared.errors import DatabaseBusy, StorageFailed
from thinwire.shared.storage import database as module
from thinwire.shared.storage.database import Database, Turns, engine_of
from thinwire.shared.storage.migrations import found_version

ITEMS = Table("items", MetaData(), Column("number", Integer, primary_key=True))


def insert_twice(connection: Connection) -> None:
    for _ in range(2):
        connection.execute(insert(ITEMS).values(number=1))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    found = Database(tmp_path / "x.db", engine_of(tmp_path / "x.db"))
    with found.write() as connection:
        ITEMS.create(connection)
    return found


def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as connection:
        insert_twice(connection)
    with database.read() as connection:
        assert connection.execute(select(ITEMS)).all() == []


def test_a_change_is_seen_once_from_every_connection(database: Database) -> None:
    changes = database.changes()
    assert not changes.seen()
    with database.write() as connection:
        connection.execute(insert(ITEMS).values(number=1))
    assert changes.seen()
    assert not changes.seen()
    with sqlite3.connect(database.file) as other:  # as of another process
        other.execute("INSERT INTO items VALUES (2)")
    assert changes.seen()
    with database.read() as connection:
        assert len(connection.execute(select(ITEMS)).all()) == 2
    assert not changes.seen()
    changes.close()


def test_a_writer_that_waits_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    database = Database(tmp_path / "x.db", engine_of(tmp_path / "x.db"))
    with database.write() as connection:
        ITEMS.create(connection)
    with database.write(), pytest.raises(DatabaseBusy), database.write():
        pass


def test_a_process_waits_until_its_transactions_are_on_the_disk(tmp_path: Path) -> None:
    """In a process of its own: here SQLite does not wait (tests/conftest.py)."""
    code = (
        "import sys, pathlib; from thinwire.shared.storage.database import engine_of\n"
        "with engine_of(pathlib.Path(sys.argv[1])).connect() as connection:\n"
        "    for pragma in ('journal_mode', 'synchronous', 'foreign_keys'):\n"
        "        print(connection.exec_driver_sql(f'PRAGMA {pragma}').scalar())"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.db"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["wal", "2", "1"]


@pytest.mark.parametrize("kept", [0, 100, 4096])
def test_a_damaged_file_is_told_with_a_remedy(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.db"
    database = Database(path, engine_of(path))
    with database.write() as connection:
        ITEMS.create(connection)
        connection.execute(insert(ITEMS), [{"number": number} for number in range(5000)])
    database.close()
    content = path.read_bytes()
    path.write_bytes(content[:kept] + b"\xff" * (len(content) - kept))
    with (
        pytest.raises(StorageFailed, match="damaged") as found,
        Database(path, engine_of(path)).read() as connection,
    ):
        connection.execute(select(ITEMS)).all()
    assert "backup" in found.value.remedy
    if kept < 4096:
        with pytest.raises(StorageFailed):
            found_version(path)


@pytest.mark.parametrize("damage", [lambda data: data[:4096], lambda data: bytes(len(data)), lambda data: data[::-1]])
def test_a_damaged_file_is_told_and_left_as_it_is(database: Database, damage: Callable[[bytes], bytes]) -> None:
    database.close()  # which moves the log into the file
    database.file.write_bytes(damage(database.file.read_bytes()))
    before = database.file.read_bytes()
    with pytest.raises(StorageFailed, match="damaged") as told, database.read() as connection:
        connection.execute(select(ITEMS)).all()
    assert "backup" in told.value.remedy
    assert database.file.read_bytes() == before


def test_a_file_that_cannot_be_opened_is_told(database: Database) -> None:
    database.close()
    database.file.unlink()
    database.file.mkdir()
    with pytest.raises(StorageFailed, match="cannot be read or written"), database.write():
        pass


def test_threads_have_their_turns_in_the_order_in_which_they_came() -> None:
    turns, order = Turns(), list[int]()
    threads = []
    with turns.take(60):
        for number in range(5):

            def act(number: int = number) -> None:
                with turns.take(60):
                    order.append(number)

            threads.append(threading.Thread(target=act))
            threads[-1].start()
            while len(turns._waiting) <= number:
                pass
        with pytest.raises(DatabaseBusy), turns.take(0.0):
            pass
        assert order == []
    for thread in threads:
        thread.join(60)
    assert order == list(range(5))
    with pytest.raises(RuntimeError), turns.take(0.0):
        raise RuntimeError
    with turns.take(0.0):
        pass
