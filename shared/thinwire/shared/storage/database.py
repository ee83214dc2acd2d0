"""A transactional database in one file: SQLite in WAL mode with synchronous=FULL, for any number of threads and
processes. Its version and the way to the next one: `thinwire.shared.storage.migrations`.
"""

import contextlib
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

from thinwire.shared.errors import DatabaseBusy, DiskFull, StorageFailed

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds that a writer waits for another process, such as the command line beside `serve`."""

MOST_CHECKED = 1 << 30
"""Bytes of a database that is checked at each start, which takes about a second."""
PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")


class Database:
    """One database, used by any number of threads and processes."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        self._engine = engine
        self._turns = Turns()

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, durable when the block ends; nothing of it remains if the block raises.

        Threads of this process write in the order in which they came: SQLite itself lets any of them go first, so that
        one that writes without a pause would keep the others waiting.

        Raises DiskFull, StorageFailed, and DatabaseBusy if another process writes for too long.
        """
        with self._turns.take(PATIENCE), translated(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A view of the database at one moment."""
        with translated(), self._engine.connect().execution_options(reads_only=True) as connection:
            yield connection

    def faults(self) -> list[str]:
        """The faults of the file that the database itself finds, at most 20 of a kind; empty for a sound one."""
        with self.read() as connection:
            found = [str(each) for each in connection.exec_driver_sql("PRAGMA integrity_check(20)").scalars()]
            rows = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(20)
        lost = [f"a row of {row[0]} refers to none of {row[2]}" for row in rows]
        return [each for each in found if each != "ok"] + list(dict.fromkeys(lost))

    def require_sound(self) -> None:
        """At the start of a process that writes: raises StorageFailed for a file with a damaged page, before a write
        spreads the damage. A file over MOST_CHECKED is left to `faults`, which takes minutes."""
        if self.path.stat().st_size > MOST_CHECKED:
            log.info("the database is too large for a check at each start; `check` reads it whole")
            return
        with self.read() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if found != "ok":
            raise damaged()

    def changes(self) -> "Changes":
        return Changes(self.path)

    def close(self) -> None:
        self._engine.dispose()


class Turns:
    """A lock that its waiters get in the order in which they came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    @contextlib.contextmanager
    def take(self, patience: float) -> Iterator[None]:
        """Raises DatabaseBusy after so many seconds."""
        with self._lock:
            turn = threading.Event() if self._taken else None
            if turn is not None:
                self._waiting.append(turn)
            self._taken = True
        if turn is not None and not turn.wait(patience):
            with self._lock:
                if not turn.is_set():
                    self._waiting.remove(turn)
                    raise DatabaseBusy("other threads write to the database")
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().set()
                else:
                    self._taken = False


class Changes:
    """Tells whether the database was changed, by any process. A look takes microseconds and reads no row, so that a
    process may look many times a second. For one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, PATIENCE, isolation_level=None, check_same_thread=False)
        self._version = self._look()

    def seen(self) -> bool:
        """Whether a transaction was committed since the last look."""
        before, self._version = self._version, self._look()
        return self._version != before

    def close(self) -> None:
        self._connection.close()

    def _look(self) -> int:
        with translated():
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])


def engine_of(path: Path) -> Engine:
    # isolation_level None: sqlite3 opens no transaction of its own; `_begin` does.
    engine = create_engine(
        f"sqlite:///{path}", connect_args={"timeout": PATIENCE, "isolation_level": None, "check_same_thread": False}
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A writer takes the lock at once: one that first read would otherwise fail where another wrote in between.
    reads = connection.get_execution_options().get("reads_only", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


_UNUSABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM)


def damaged(what: str = "the database is damaged") -> StorageFailed:
    return StorageFailed(
        what,
        "Nothing was changed. Stop thinwire, keep a copy of the data folder, and restore the database from its backup "
        "(hub: `thinwire-receiver restore`; clinic: docs/technician.md, Damaged database).",
    )


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """The database's own errors as ours, which carry a remedy: DiskFull, DatabaseBusy, StorageFailed."""
    try:
        yield
    except (DatabaseError, sqlite3.DatabaseError) as error:
        original = error.orig if isinstance(error, DatabaseError) else error
        code = getattr(original, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DiskFull("no space for the database") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise DatabaseBusy("another process writes to the database") from error
        # The errors' own texts may quote a row.
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise damaged() from error
        if code in _UNUSABLE:
            raise StorageFailed("the database cannot be read or written") from error
        raise
