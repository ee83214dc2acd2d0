"""Versions of a database: a new one, one of this version, one of an earlier version that is brought forward.

The version is the name of the last Alembic revision in table `alembic_version`: four digits, ascending. SQLite's
`PRAGMA user_version` has the same number, so that programs from before this table refuse a newer database. A migration
is one transaction: an interrupted one has changed nothing and starts again. Of SQLite's file a durable copy is written
before; of PostgreSQL, which has its own tools for that, the administrator keeps one.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, MetaData, create_engine, inspect, text

from thinwire.shared.errors import BadConfiguration, DatabaseBusy, DiskFull
from thinwire.shared.storage.columns import make_alike
from thinwire.shared.storage.database import (
    Database,
    Place,
    damaged,
    engine_of,
    exclude,
    held,
    is_postgresql,
    translated,
)
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)

_ENVIRONMENT = Path(__file__).parent / "alembic_env"


@dataclass(frozen=True)
class Schema:
    """The tables of one end. version: of `tables`, the last of the revisions in the folder `revisions`. first: the
    earliest version that can be brought forward. remedy: how a person brings a database forward."""

    tables: MetaData
    version: int
    first: int
    revisions: Path
    remedy: str


def create_database(place: Place, schema: Schema) -> None:
    """A new database with its tables; the folder of a file, or PostgreSQL's database, must exist. An empty one of an
    interrupted creation is completed. Raises DiskFull, DatabaseBusy, BadConfiguration."""
    if isinstance(place, Path):
        place.touch(mode=0o600)
    engine = engine_of(place)
    with _closed(engine), translated(), engine.begin() as connection:
        if version_of(connection) is None and _excluded(connection):
            schema.tables.create_all(connection)
            _alembic(command.stamp, connection, schema)
            _number(connection, schema.version)


@contextlib.contextmanager
def unfinished_copy(place: Place, schema: Schema, empty: Callable[[Connection], object]) -> Iterator[Database]:
    """A new database into which rows are copied, or one of an interrupted copy with the rows that it has. Until
    `finish_copy` no process opens it as a database. empty: called once on the new tables. Raises BadConfiguration where
    a finished database is."""
    if isinstance(place, Path):
        place.touch(mode=0o600)
    engine = engine_of(place)
    with _closed(engine):
        with translated(), engine.begin() as connection:
            if not has_unfinished(connection):
                if version_of(connection) is not None:
                    raise BadConfiguration("the database already holds a hub", "Name an empty database.")
                _excluded(connection)
                _begin_copy(connection, schema, empty)
            elif connection.scalar(_VERSION) != f"{schema.version:04}":
                raise BadConfiguration(
                    "another version of thinwire began the copy into this database", "Empty the database, then repeat."
                )
        yield Database(place if isinstance(place, Path) else None, engine)


def finish_copy(connection: Connection) -> None:
    """In the last transaction of a copy: the database is one like any other from its commit on."""
    connection.execute(text(f"DROP TABLE {_UNFINISHED}"))


def is_unfinished(place: Place) -> bool:
    """Whether rows were copied into a database and `finish_copy` was not reached."""
    engine = engine_of(place)
    with _closed(engine), translated(), engine.connect() as connection:
        return has_unfinished(connection)


def has_unfinished(connection: Connection) -> bool:
    """As `is_unfinished`."""
    return inspect(connection).has_table(_UNFINISHED)


@contextlib.contextmanager
def alone_in(place: Place, act: str) -> Iterator[None]:
    """As `Database.alone`, also for a PostgreSQL database without tables."""
    if isinstance(place, Path):
        yield
        return
    engine = engine_of(place)
    with _closed(engine), Database(None, engine).alone(act):
        yield


@contextlib.contextmanager
def excluding(place: Place) -> Iterator[Connection]:
    """One transaction of a database while no other process uses PostgreSQL; from SQLite's file the caller's lock keeps
    them. Raises BadConfiguration where one does."""
    engine = engine_of(place)
    with _closed(engine), translated(), engine.begin() as connection:
        if _excluded(connection) and is_postgresql(connection):
            # The caller may do other work between two statements.
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield connection


@contextlib.contextmanager
def replacing(place: str, schema: Schema, empty: Callable[[Connection], object]) -> Iterator[Connection]:
    """As `excluding`, for what is read before a PostgreSQL database is replaced: when the block ends, the same
    transaction makes it an unfinished copy without rows, so that no process finds it empty, or in use, in between."""
    with excluding(place) as connection:
        yield connection
        schema.tables.drop_all(connection)
        for name in ("alembic_version", _UNFINISHED):
            connection.execute(text(f"DROP TABLE IF EXISTS {name}"))
        _begin_copy(connection, schema, empty)


def _begin_copy(connection: Connection, schema: Schema, empty: Callable[[Connection], object]) -> None:
    connection.execute(text(f"CREATE TABLE {_UNFINISHED} (version INTEGER)"))
    schema.tables.create_all(connection)
    empty(connection)
    _alembic(command.stamp, connection, schema)
    _number(connection, schema.version)


def open_database(place: Place, schema: Schema) -> Database:
    """A database of this version. Raises BadConfiguration for one that is missing or of another version, DatabaseBusy.
    Every later connection to PostgreSQL raises the same, also for tables that are not those of the first one: a process
    that lost its connections knows of no restore."""
    _require(_found(place, schema), schema)
    engine = engine_of(place)
    if isinstance(place, Path):
        return Database(place, engine)
    first: list[int] = []

    def check(cursor: Any) -> None:
        query = f"SELECT version_num, tableoid::bigint, to_regclass('{_UNFINISHED}') IS NULL FROM alembic_version"
        version, table, is_finished = cursor.execute(query).fetchone()
        if not is_finished:
            raise _unfinished()
        _require(int(version), schema)
        first.append(table)
        if table != first[0]:
            raise BadConfiguration("the hub's database was restored since this process started", "Start it again.")

    return Database(None, held(engine, check))


def found_version(place: Place) -> int | None:
    """The version of the database in a place; None without one. It is only read."""
    if isinstance(place, Path):
        if not place.is_file() or place.stat().st_size == 0:
            return None
        engine = create_engine(f"sqlite:///{place}")  # without the pragmas of `engine_of`, which write
    else:
        engine = engine_of(place)
    try:
        with _closed(engine), translated(), engine.connect() as connection:
            return version_of(connection)
    except DatabaseBusy as error:
        if not isinstance(place, Path):
            # For the administrator at a start; clinics are told the error alone. It names no password.
            log.warning("PostgreSQL: %s", str(getattr(error.__cause__, "orig", "")).partition("\n")[0])
        raise


def version_of(connection: Connection) -> int | None:
    """None for a database without tables. Raises StorageFailed."""
    names = inspect(connection).get_table_names()
    if _UNFINISHED in names:
        raise _unfinished()
    if "alembic_version" in names:
        number = connection.scalar(_VERSION)
        if not str(number).isdecimal():
            raise damaged("the database has lost its version")
        return int(str(number))
    if names and is_postgresql(connection):
        raise BadConfiguration("the database has tables of another program", "Make a database for the hub alone.")
    return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one()) if names else None


def _unfinished() -> BadConfiguration:
    return BadConfiguration(
        "the database holds an unfinished copy of a hub", "Let the `move` or `restore` end, or repeat it."
    )


_UNFINISHED = "unfinished_copy"
"""The table that a database has while rows are copied into it."""
_VERSION = text("SELECT version_num FROM alembic_version")


def migrate(place: Place, schema: Schema, disk: Disk) -> tuple[int, Path | None] | None:
    """Bring a database forward to the program's version; None if it has this version already.

    Returns the version that it had and the path of its copy, which is beside it and durable before the first change;
    None for PostgreSQL. The caller holds the lock that keeps other processes, also of earlier versions, from SQLite's
    file. Steps: migrate.copy.*, migrate.before_commit, migrate.committed. Raises BadConfiguration for a newer version,
    for one before `schema.first`, and where a process uses the PostgreSQL database: it is then as it was; DiskFull,
    DatabaseBusy.
    """
    found = _found(place, schema)
    if found == schema.version:
        return None
    copy = None
    if isinstance(place, Path):
        _remove(_rehearsal(place))
        copy = place.with_name(f"{place.stem}-version-{found}{place.suffix}")
        copy_database(place, copy, disk, "migrate.copy")
    _bring_forward(place, found, schema, disk)
    log.info("the database is now of version %d", schema.version)
    return found, copy


def rehearse(place: Place, schema: Schema, disk: Disk) -> int:
    """Bring a copy forward, then remove it; of PostgreSQL, bring it forward in a transaction that is rolled back.
    Returns the version found. Raises as `migrate` does, and whatever a migration that fails raises."""
    found = _found(place, schema)
    if found == schema.version:
        return found
    if not isinstance(place, Path):
        _bring_forward(place, found, schema, disk, keep=False)
        return found
    copy = _rehearsal(place)
    # A rehearsal that was killed leaves its log, which would be taken for that of the new copy.
    _remove(copy)
    try:
        copy_database(place, copy, disk, "migrate.copy")
        _bring_forward(copy, found, schema, disk)
    finally:
        _remove(copy)
    return found


def _found(place: Place, schema: Schema) -> int:
    found = found_version(place)
    if found is None:
        raise BadConfiguration("there is no database", "Create one with `init` (hub) or `join` (clinic).")
    _refuse_foreign(found, schema)
    return found


def _require(found: int, schema: Schema) -> None:
    _refuse_foreign(found, schema)
    if found != schema.version:
        raise BadConfiguration(
            f"the database has version {found}, this program reads version {schema.version}", schema.remedy
        )


def _rehearsal(path: Path) -> Path:
    return path.with_name(f".{path.stem}-rehearsal{path.suffix}")


def _remove(database: Path) -> None:
    """Remove a database with its log."""
    for each in database.parent.glob(database.name + "*"):
        each.unlink()


def _bring_forward(place: Place, found: int, schema: Schema, disk: Disk, keep: bool = True) -> None:
    """keep: else it is rolled back."""
    engine = engine_of(place)
    with _closed(engine), translated(), engine.connect() as connection, connection.begin() as transaction:
        # Another process may have done it since.
        if _excluded(connection) and version_of(connection) == found:
            if not inspect(connection).has_table("alembic_version"):
                _alembic(command.stamp, connection, schema, found)
            _alembic(command.upgrade, connection, schema)
            if is_postgresql(connection):
                make_alike(connection)
            _number(connection, schema.version)
        disk.step("migrate.before_commit")
        if not keep:
            transaction.rollback()
    disk.step("migrate.committed")


def _excluded(connection: Connection) -> bool:
    """Keep other processes from PostgreSQL's tables; from SQLite's file the caller's lock does. Raises
    BadConfiguration."""
    if is_postgresql(connection) and not exclude(connection):
        raise BadConfiguration(
            "other processes of this hub use the database",
            "Stop every `serve`, `work` and other command of this hub on all machines; then repeat.",
        )
    return True


def _refuse_foreign(found: int, schema: Schema) -> None:
    if found > schema.version:
        raise BadConfiguration(
            f"the database has version {found}, which is newer than this program (version {schema.version})",
            "Nothing was changed. Install the version of thinwire that wrote it, or a later one.",
        )
    if found < schema.first:
        raise BadConfiguration(
            f"the database has version {found}; this program brings forward version {schema.first} and later",
            "Nothing was changed. Run the version of thinwire that wrote it.",
        )


def copy_database(path: Path, copy: Path, disk: Disk, name: str) -> None:
    """A durable copy of the whole database at one moment, also of its log; other processes may go on. Steps: name.*.
    Raises DiskFull."""
    size = sum(each.stat().st_size for each in path.parent.glob(path.name + "*"))
    if disk.free(copy.parent) < 2 * size:
        # A migration itself may write as much again.
        raise DiskFull("no space for a copy of the database")
    beside = copy.with_name(f".{copy.name}.tmp")
    beside.unlink(missing_ok=True)
    beside.touch(mode=0o600)
    disk.step(f"{name}.before_write")
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(beside)) as target,
        disk.full_is_an_error(),
        translated(),
    ):
        source.backup(target)
    disk.adopt(beside, copy, name)


def _alembic(
    act: Callable[[Config, str], None], connection: Connection, schema: Schema, version: int | None = None
) -> None:
    """Run an Alembic command in the connection's transaction."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_ENVIRONMENT))
    config.set_main_option("version_locations", str(schema.revisions))
    config.set_main_option("path_separator", "os")
    act(config, "head" if version is None else f"{version:04}")


def _number(connection: Connection, version: int) -> None:
    if not is_postgresql(connection):
        connection.exec_driver_sql(f"PRAGMA user_version = {version}")


@contextlib.contextmanager
def _closed(engine: Engine) -> Iterator[None]:
    try:
        yield
    finally:
        engine.dispose()
