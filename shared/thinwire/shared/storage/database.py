"""A transactional database for any number of threads and processes: SQLite in one file, in WAL mode with
synchronous=FULL, or PostgreSQL for any number of machines. Its version and the way to the next one:
`thinwire.shared.storage.migrations`.
"""

import contextlib
import hashlib
import inspect
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    CursorResult,
    Engine,
    Executable,
    bindparam,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import insert as _insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from thinwire.shared.errors import BadConfiguration, DatabaseBusy, DiskFull, StorageFailed

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds that a writer waits for another process, such as the command line beside `serve`."""

MOST_CHECKED = 1 << 30
"""Bytes of a database that is checked at each start, which takes about a second."""
insert_new = _insert
"""INSERT with ON CONFLICT: the two databases write it alike."""
_ALL, _ONE, _USED, _ALONE = range(0x7477, 0x747B)
"""Classes of PostgreSQL's advisory locks: of all writers, and of those with one turn; of every connection, which a
change of the tables excludes; of acts that one process at a time does."""
IDLE = "20s"
"""Time in which a writer to PostgreSQL that does nothing keeps its locks, such as one whose machine is gone."""
POOL = 16
"""Connections to PostgreSQL that a process keeps; as many more for a moment."""
Place = Path | str
"""The place of a database: SQLite's file, or the URL of PostgreSQL."""
PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")


@dataclass
class Told:
    """The changes of a transaction, for those who wait for them."""

    topics: dict[str, bool] = field(default_factory=dict)
    """Such as a site; and whether this process waits for it too."""
    events: set[int] = field(default_factory=set)
    """Numbers of the events that it added."""


class Database:
    """One database, used by any number of threads and processes. path: of SQLite's file; None for PostgreSQL."""

    def __init__(self, path: Path | None, engine: Engine) -> None:
        self.path = path
        self.engine = engine
        self.committed: Callable[[Told], object] = _nobody
        """Called after each commit with what the transaction told by `tell`; it must be quick, and raises nothing."""
        self._turns = Turns()

    @property
    def file(self) -> Path:
        """SQLite's file. Raises ValueError for PostgreSQL."""
        if self.path is None:
            raise ValueError("the database is no file")
        return self.path

    @property
    def shared(self) -> bool:
        """Whether other machines may write to it: PostgreSQL."""
        return self.path is None

    @contextlib.contextmanager
    def write(self, turn: str | Collection[str] | None = None) -> Iterator[Connection]:
        """One transaction, durable when the block ends; nothing of it remains if the block raises.

        turn: for PostgreSQL, what the transaction writes, such as a site, or several sites. Transactions of one turn
        follow each other; those of different turns go on at once; one without a turn is alone. SQLite has one writer at
        a time. Threads of a process write to SQLite in the order in which they came: SQLite itself lets any of them go
        first, so that one that writes without a pause would keep the others waiting.

        Raises DiskFull, StorageFailed, and DatabaseBusy if another process writes for too long, or if the database
        does not answer: the transaction may then have been committed.
        """
        with self._transaction(frozenset([turn]) if isinstance(turn, str) else turn) as connection:
            told = connection.info[_TOLD] = Told()
            yield connection
        self.committed(told)

    @contextlib.contextmanager
    def _transaction(self, turns: Collection[str] | None) -> Iterator[Connection]:
        if not self.shared:
            with self._turns.take(PATIENCE), translated(), self.engine.begin() as connection:
                connection.execution_options(turns=turns)
                yield connection
            return
        with translated(), self.engine.begin() as connection:
            idle = func.set_config("idle_in_transaction_session_timeout", IDLE, True)
            if turns is None:
                connection.execute(select(idle, func.pg_advisory_xact_lock(_ALL, 0)))
            else:
                connection.execution_options(turns=turns)
                connection.execute(select(idle, func.pg_advisory_xact_lock_shared(_ALL, 0)))
                # One after the other in one order, or two transactions may wait for each other.
                for key in sorted(map(_key, turns)):
                    _take(connection, _ONE, key)
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A view of the database at one moment."""
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if self.shared else {}
        with translated(), self.engine.connect().execution_options(reads_only=True, **options) as connection:
            yield connection

    @contextlib.contextmanager
    def alone(self, act: str) -> Iterator[None]:
        """An act that one process of the cluster at a time does. Raises DatabaseBusy where another one that lives does
        it. SQLite: without effect, since a lock of the data folder has it."""
        if not self.shared:
            yield
            return
        with translated(), self.engine.connect() as connection:
            if not connection.scalar(select(func.pg_try_advisory_lock(_ALONE, _key(act)))):
                raise DatabaseBusy("another process of this hub does the same")
            connection.commit()
            try:
                yield
            finally:
                # The lock is the connection's, which must not go back to the pool with it. Its end alone would free the
                # lock too, a moment later.
                with contextlib.suppress(DBAPIError):
                    connection.execute(select(func.pg_advisory_unlock(_ALONE, _key(act))))
                connection.invalidate()

    def faults(self) -> list[str]:
        """The faults of the file that the database itself finds, at most 20 of a kind; empty for a sound one.
        PostgreSQL's server looks after its own files."""
        if self.shared:
            return []
        with self.read() as connection:
            found = [str(each) for each in connection.exec_driver_sql("PRAGMA integrity_check(20)").scalars()]
            rows = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(20)
        lost = [f"a row of {row[0]} refers to none of {row[2]}" for row in rows]
        return [each for each in found if each != "ok"] + list(dict.fromkeys(lost))

    def require_sound(self) -> None:
        """At the start of a process that writes: raises StorageFailed for a file with a damaged page, before a write
        spreads the damage. A file over MOST_CHECKED is left to `faults`, which takes minutes."""
        if self.path is None:
            return
        if self.path.stat().st_size > MOST_CHECKED:
            log.info("the database is too large for a check at each start; `check` reads it whole")
            return
        with self.read() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if found != "ok":
            raise damaged()

    def changes(self) -> "Changes":
        assert self.path is not None
        return Changes(self.path)

    def close(self) -> None:
        self.engine.dispose()


class Prepared:
    """A statement that is built once; call it with a connection and the values. To build a statement and to find its
    text takes SQLAlchemy longer than SQLite takes to execute it, so that this is for what is done with each object."""

    def __init__(self, build: Callable[..., Executable]) -> None:
        self._names = [f"of_{name}" for name in inspect.signature(build).parameters]
        self._build = build

    @cached_property
    def _statement(self) -> Executable:
        return self._build(*map(bindparam, self._names))

    def __call__(self, connection: Connection, *values: Any) -> CursorResult[Any]:
        return connection.execute(self._statement, dict(zip(self._names, values, strict=True)))

    def each(self, connection: Connection, rows: Iterable[Sequence[Any]]) -> None:
        """Once with the values of each row; without rows, nothing."""
        if given := [dict(zip(self._names, values, strict=True)) for values in rows]:
            connection.execute(self._statement, given)


def prepared(build: Callable[..., Executable]) -> Prepared:
    """build: gets a parameter in place of each value."""
    return Prepared(build)


_TOLD = "told"


def tell(connection: Connection, *topics: str, here: bool = True, event: int | None = None) -> None:
    """State the changes of this transaction: those who wait for them hear of them after its commit. here: whether also
    in this process. event: the number of an event that it adds."""
    told: Told = connection.info.setdefault(_TOLD, Told())
    for topic in topics:
        told.topics[topic] = here or told.topics.get(topic, False)
    if event is not None:
        told.events.add(event)


def _nobody(_told: Told) -> None:
    """Nobody waits."""


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


def engine_of(place: Place) -> Engine:
    """Raises BadConfiguration for a URL that is none of PostgreSQL."""
    if isinstance(place, str):
        return _engine_at(place)
    # isolation_level None: sqlite3 opens no transaction of its own; `_begin` does.
    engine = create_engine(
        f"sqlite:///{place}", connect_args={"timeout": PATIENCE, "isolation_level": None, "check_same_thread": False}
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _engine_at(url: str) -> Engine:
    """PostgreSQL at a URL (postgresql+psycopg://USER@HOST/DATABASE). A lost commit is one that its disk lost: the
    server's settings fsync and full_page_writes stay on."""
    options = f"-c synchronous_commit=on -c lock_timeout={PATIENCE:.0f}s -c idle_in_transaction_session_timeout=120s"
    # A machine that is gone, at either end, sends no end of the connection.
    quiet: dict[str, int] = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}
    options += "".join(f" -c tcp_{name}={value}" for name, value in quiet.items())
    quiet["tcp_user_timeout"] = 30_000
    try:
        if (parsed := make_url(url)).drivername != "postgresql+psycopg":
            raise BadConfiguration("the database is no postgresql+psycopg:// URL", _CORRECT)
        engine = create_engine(
            parsed,
            pool_size=POOL,
            max_overflow=POOL,
            pool_timeout=PATIENCE,
            pool_pre_ping=True,
            # An INSERT with ON CONFLICT is asked whether it did anything, as SQLite tells anyway.
            execution_options={"preserve_rowcount": True},
            connect_args={"connect_timeout": 10, "options": options, "application_name": "thinwire", **quiet},
        )
        # Before SQLAlchemy's own first questions, which it cannot read in another encoding.
        event.listen(engine, "connect", _require_utf8, insert=True)
        return engine
    except (ArgumentError, ValueError):
        raise BadConfiguration("the database's URL cannot be read", _CORRECT) from None
    except ImportError:
        raise BadConfiguration("this installation has no driver for PostgreSQL", "Install thinwire[cluster].") from None


_CORRECT = "Correct `database` in config.toml, or THINWIRE_RECEIVER_DATABASE."


def held(engine: Engine, check: Callable[[Any], object]) -> Engine:
    """Every connection to PostgreSQL keeps others from a change of the tables, and is checked when it is made: one that
    was lost and is made anew may find other tables. check: with a cursor of the driver; raises what ends the
    connection."""

    def use(connection: Any, _record: object) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT pg_try_advisory_lock_shared({_USED}, 0)")
                if cursor.fetchone() != (True,):
                    raise DatabaseBusy("the database is being brought forward to another version")
                check(cursor)
            connection.commit()
        except BaseException:
            connection.close()
            raise

    event.listen(engine, "connect", use)
    return engine


def exclude(connection: Connection) -> bool:
    """Keep every other process from PostgreSQL's tables until the transaction ends; False where one uses them."""
    return bool(connection.scalar(select(func.pg_try_advisory_xact_lock(_USED, 0))))


def take_turn(connection: Connection, turn: str) -> None:
    """In a writing transaction of any turn: from here to its end, those that take this turn follow each other. Last in
    the transaction, or two may wait for each other. SQLite: writers follow each other anyway."""
    if is_postgresql(connection):
        _take(connection, _ONE, _key(turn))


def require_turn(connection: Connection, turn: str) -> None:
    """A guard against slips: raises AssertionError in a transaction of another turn."""
    taken = connection.get_execution_options().get("turns")
    assert taken is None or turn in taken, f"the transaction has the turns {sorted(taken)}"


def _take(connection: Connection, of: int, key: int) -> None:
    connection.execute(select(func.pg_advisory_xact_lock(of, key)))


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], signed=True)


def is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def _require_utf8(connection: Any, _record: object) -> None:
    if connection.info.parameter_status("server_encoding") != "UTF8":
        connection.close()
        raise BadConfiguration(
            "the database has another encoding than UTF8",
            "Make one with `createdb --template=template0 --encoding=UTF8`.",
        )


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
    except PoolTimeout as error:
        raise DatabaseBusy("every connection to the database is in use") from error
    except (DBAPIError, sqlite3.DatabaseError) as error:
        original = error.orig if isinstance(error, DBAPIError) else error
        # The errors' own texts may quote a row.
        ours = _of_sqlite(original) if isinstance(original, sqlite3.Error) else _of_postgresql(original)
        if ours is None:
            raise
        raise ours from error


def _of_sqlite(error: sqlite3.Error) -> Exception | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFull("no space for the database")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseBusy("another process writes to the database")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged()
    return StorageFailed("the database cannot be read or written") if code in _UNUSABLE else None


_FULL, _READ_ONLY, _DAMAGED = ("53100",), ("25006", "58030", "42501"), ("XX001", "XX002")
_LOST = ("OperationalError", "InterfaceError", "ConnectionTimeout")
"""The driver's errors without SQLSTATE for a connection that cannot be made or was lost."""
_BUSY = ("08", "25P03", "40", "53", "55P03", "57")
"""SQLSTATEs (PostgreSQL, Appendix A), or the classes with which they begin: no connection, a transaction that did
nothing for too long, a rollback for another's sake, no resources, a lock in use, a server that stops or starts."""


def _of_postgresql(error: BaseException | None) -> Exception | None:
    state = getattr(error, "sqlstate", None)
    if state in _FULL:
        return DiskFull("no space for the database", "Free space on the disk of the PostgreSQL server, then repeat.")
    if state in _DAMAGED:
        return StorageFailed(
            "the database is damaged",
            "Nothing was changed. Stop every process of the hub, keep a copy of the PostgreSQL server's files, and "
            "restore it from its backup.",
        )
    if state in _READ_ONLY:
        return StorageFailed(
            "the database cannot be read or written",
            "See whether PostgreSQL's disk fails, and whether `database` names the primary server (no standby) and a "
            "user who owns the tables; then repeat.",
        )
    if (state is None and type(error).__name__ in _LOST) or str(state).startswith(_BUSY):
        return DatabaseBusy(
            "the database does not answer, or others write to it",
            "Nothing is lost: repeat it. If it lasts, see whether PostgreSQL runs and takes this hub's connections.",
        )
    return None
