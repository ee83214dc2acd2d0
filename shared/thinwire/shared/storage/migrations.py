"""Versions of a database: a new one, one of this version, one of an earlier version that is brought forward.

The version is the name of the last Alembic revision in table `alembic_version`: four digits, ascending. `PRAGMA
user_version` has the same number, so that programs from before this table refuse a newer database. A migration is one
transaction after a durable copy: an interrupted one has changed nothing and starts again.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, MetaData, create_engine

from thinwire.shared.errors import BadConfiguration, DiskFull
from thinwire.shared.storage.database import Database, damaged, engine_of, translated
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


def create_database(path: Path, schema: Schema) -> None:
    """A new database with its tables; the file's folder must exist. An empty file of an interrupted creation is
    completed. Raises DiskFull, DatabaseBusy."""
    path.touch(mode=0o600)
    engine = engine_of(path)
    with _closed(engine), translated(), engine.begin() as connection:
        if version_of(connection) is None:
            schema.tables.create_all(connection)
            _alembic(command.stamp, connection, schema)
            _number(connection, schema.version)


def open_database(path: Path, schema: Schema) -> Database:
    """A database of this version. Raises BadConfiguration for a file that is missing or of another version."""
    found = found_version(path)
    if found is None:
        raise BadConfiguration("the folder has no database", "Create one with `init` (hub) or `join` (clinic).")
    _refuse_foreign(found, schema)
    if found != schema.version:
        raise BadConfiguration(
            f"the database has version {found}, this program reads version {schema.version}", schema.remedy
        )
    return Database(path, engine_of(path))


def found_version(path: Path) -> int | None:
    """The version of the database in a file; None without a database. The file is only read."""
    if not path.is_file() or path.stat().st_size == 0:
        return None
    engine = create_engine(f"sqlite:///{path}")  # without the pragmas of `engine_of`, which write
    with _closed(engine), translated(), engine.connect() as connection:
        return version_of(connection)


def version_of(connection: Connection) -> int | None:
    """None for a database without tables. Raises StorageFailed."""
    names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
    if "alembic_version" in names:
        number = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        if not str(number).isdecimal():
            raise damaged("the database has lost its version")
        return int(str(number))
    return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one()) if names else None


def migrate(path: Path, schema: Schema, disk: Disk) -> tuple[int, Path] | None:
    """Bring a database forward to the program's version; None if it has this version already.

    Returns the version that it had and the path of its copy, which is beside it and durable before the first change.
    The caller holds the lock that keeps other processes, also of earlier versions, from the database. Steps:
    migrate.copy.*, migrate.before_commit, migrate.committed. Raises BadConfiguration for a newer version or one before
    `schema.first`: the file is then as it was; DiskFull, DatabaseBusy.
    """
    found = found_version(path)
    if found is None:
        raise BadConfiguration("the folder has no database", "Create one with `init` (hub) or `join` (clinic).")
    _refuse_foreign(found, schema)
    if found == schema.version:
        return None
    _remove(_rehearsal(path))
    copy = path.with_name(f"{path.stem}-version-{found}{path.suffix}")
    copy_database(path, copy, disk, "migrate.copy")
    _bring_forward(path, found, schema, disk)
    log.info("the database is now of version %d; a copy of version %d is in %s", schema.version, found, copy.name)
    return found, copy


def rehearse(path: Path, schema: Schema, disk: Disk) -> int:
    """Bring a copy forward, then remove it; returns the version found. The database is only read. Raises as `migrate`
    does, and whatever a migration that fails raises."""
    found = found_version(path)
    if found is None:
        raise BadConfiguration("the folder has no database", "Create one with `init` (hub) or `join` (clinic).")
    _refuse_foreign(found, schema)
    if found != schema.version:
        copy = _rehearsal(path)
        # A rehearsal that was killed leaves its log, which would be taken for that of the new copy.
        _remove(copy)
        try:
            copy_database(path, copy, disk, "migrate.copy")
            _bring_forward(copy, found, schema, disk)
        finally:
            _remove(copy)
    return found


def _rehearsal(path: Path) -> Path:
    return path.with_name(f".{path.stem}-rehearsal{path.suffix}")


def _remove(database: Path) -> None:
    """Remove a database with its log."""
    for each in database.parent.glob(database.name + "*"):
        each.unlink()


def _bring_forward(path: Path, found: int, schema: Schema, disk: Disk) -> None:
    engine = engine_of(path)
    with _closed(engine), translated(), engine.begin() as connection:
        # Another process may have done it since.
        if version_of(connection) == found:
            if not connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").scalar():
                _alembic(command.stamp, connection, schema, found)
            _alembic(command.upgrade, connection, schema)
            _number(connection, schema.version)
        disk.step("migrate.before_commit")
    disk.step("migrate.committed")


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
    connection.exec_driver_sql(f"PRAGMA user_version = {version}")


@contextlib.contextmanager
def _closed(engine: Engine) -> Iterator[None]:
    try:
        yield
    finally:
        engine.dispose()
