"""The hub's database as an SQLite file, whichever engine it runs on, and the way back into PostgreSQL."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import Connection, MetaData, delete, text

from thinwire.receiver.store import full_text
from thinwire.receiver.store.tables import HUB, TABLES, generations
from thinwire.shared.errors import BadFormat
from thinwire.shared.storage.database import Database, Place, translated
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import (
    copy_database,
    finish_copy,
    found_version,
    is_unfinished,
    open_database,
    replacing,
    unfinished_copy,
)
from thinwire.shared.storage.rows import Progress, copy_rows, different_table


def write_file(database: Database, path: Path, disk: Disk, name: str, progress: Progress) -> None:
    """A durable copy of the database at one moment, as an SQLite file; other processes may go on. Steps: name.*.
    Raises DiskFull, DatabaseBusy."""
    if database.path is not None:
        copy_database(database.path, path, disk, name)
        return
    with database.read() as source:
        # It holds nobody up, and waits while SQLite writes, at last for minutes while it indexes all words.
        source.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        write_rows(source, path, disk, name, progress)


def write_rows(source: Connection, path: Path, disk: Disk, name: str, progress: Progress) -> None:
    """As `write_file`, for the rows that one transaction of PostgreSQL sees."""
    beside = path.with_name(f".{path.name}.tmp")
    for each in path.parent.glob(beside.name + "*"):
        each.unlink()
    disk.step(f"{name}.before_write")
    with unfinished_copy(beside, HUB, empty) as copy, disk.full_is_an_error():
        copy_rows(source, copy, TABLES, progress)
        _finish(copy, lambda _: None)
    with translated(), contextlib.closing(sqlite3.connect(beside)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    disk.adopt(beside, path, name)


def read_file(path: Path, place: str, also: Callable[[Connection], object], progress: Progress) -> int:
    """Copy every row of an SQLite file, which no process changes meanwhile, into an empty PostgreSQL database, and
    compare every row; returns the rows that were copied. A repeat goes on where an interrupted copy stopped. also:
    called in the last transaction, after which processes may open the database.

    Raises BadConfiguration for a database with a hub, BadFormat if rows differ after a second copy.
    """
    copied = 0
    source = open_database(path, HUB)
    try:
        for last in (False, True):
            with source.read() as rows, unfinished_copy(place, HUB, empty) as copy:
                copied = copy_rows(rows, copy, TABLES, progress)
                with copy.read() as found:
                    different = different_table(rows, found, TABLES, progress)
                if different is None:
                    _finish(copy, also)
                    return copied
            # The file was written between two attempts.
            with replacing(place, HUB, empty):
                pass
            if last:
                break
        raise BadFormat(f"the copied rows of table {different} differ", "Repeat the command.")
    finally:
        source.close()


def is_copied(path: Path, place: Place) -> bool:
    """Whether a database that processes may open is the copy of an SQLite file, to which nothing but bundles and
    messages of the audit log was added: every other row is compared."""
    if is_unfinished(place) or found_version(place) is None:
        return False
    source, copy = open_database(path, HUB), open_database(place, HUB)
    same = MetaData()
    for table in TABLES.sorted_tables:
        if not table.name.startswith(("audit", "bundle")):
            table.to_metadata(same)
    try:
        with source.read() as rows, copy.read() as found:
            return different_table(rows, found, same, lambda *_: None) is None
    finally:
        source.close()
        copy.close()


def _finish(copy: Database, also: Callable[[Connection], object]) -> None:
    with copy.write() as connection:
        if not copy.shared:
            full_text.rebuild(connection)
        also(connection)
        finish_copy(connection)


def empty(connection: Connection) -> None:
    """Remove the rows that new tables have."""
    connection.execute(delete(generations))


@contextlib.contextmanager
def reading(path: Path, immutable: bool = True) -> Iterator[sqlite3.Connection]:
    """An SQLite file. immutable: nothing writes to it, and it has no log beside it; SQLite then makes none."""
    uri = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' * immutable}"
    with translated(), contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        yield connection
