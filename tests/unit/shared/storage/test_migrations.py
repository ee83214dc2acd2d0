"""Versions of a database: creation, the way forward, refusal of a newer one, and interruptions."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, select

from tests.support.power import PowerCut
from thinwire.shared.errors import BadConfiguration, DiskFull
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import (
    Schema,
    create_database,
    found_version,
    migrate,
    open_database,
    rehearse,
)

REVISION = """
from alembic import op
revision = "{version:04}"
down_revision = {before!r}


def upgrade() -> None:
    {act}
"""
_TABLES = MetaData()
ITEMS = Table("items", _TABLES, Column("number", Integer, primary_key=True), Column("weight", Integer))


def schema(folder: Path, version: int, first: int = 1) -> Schema:
    """Revisions 1 to 3; from 1 to 2 a column is added, from 2 to 3 every row gets a weight."""
    acts = ("pass", "op.execute('ALTER TABLE items ADD weight INTEGER')", "op.execute('UPDATE items SET weight = 7')")
    folder.mkdir(exist_ok=True)
    for number, act in enumerate(acts[:version], start=1):
        before = f"{number - 1:04}" if number > 1 else None
        (folder / f"{number:04}_x.py").write_text(REVISION.format(version=number, before=before, act=act))
    return Schema(_TABLES, version, first, folder, "Run migrate.")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database of version 1, from before `alembic_version`, with one row."""
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript("PRAGMA journal_mode = WAL; CREATE TABLE items (number INTEGER PRIMARY KEY);")
        database.executescript("PRAGMA user_version = 1; INSERT INTO items VALUES (5);")
    return path


def weights(path: Path, now: Schema) -> dict[int, int | None]:
    database = open_database(path, now)
    with database.read() as connection:
        found = {row.number: row.weight for row in connection.execute(select(ITEMS))}
    database.close()
    return found


def test_an_earlier_database_is_brought_forward_after_a_copy(old: Path, tmp_path: Path) -> None:
    now = schema(tmp_path / "revisions", 3)
    done = migrate(old, now, Disk())
    assert done == (1, tmp_path / "old-version-1.db")
    assert weights(old, now) == {5: 7}
    assert found_version(done[1]) == 1
    with closing(sqlite3.connect(done[1])) as copy:
        assert copy.execute("SELECT * FROM items").fetchall() == [(5,)]
    assert migrate(old, now, Disk()) is None


def test_a_database_that_alembic_stamped_is_brought_forward_too(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    create_database(path, schema(tmp_path / "revisions", 2))
    database = open_database(path, schema(tmp_path / "revisions", 2))
    with database.write() as connection:
        connection.execute(insert(ITEMS).values(number=5))
    database.close()
    now = schema(tmp_path / "revisions", 3)
    with pytest.raises(BadConfiguration, match="version 2, this program reads version 3"):
        open_database(path, now)
    assert migrate(path, now, Disk()) == (2, tmp_path / "new-version-2.db")
    assert weights(path, now) == {5: 7}
    with closing(sqlite3.connect(path)) as raw:  # programs from before `alembic_version` read this number
        assert raw.execute("PRAGMA user_version").fetchone() == (3,)


def test_a_newer_and_a_too_old_database_are_refused_and_untouched(old: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(old, isolation_level=None)) as raw:
        raw.execute("PRAGMA user_version = 9")
    newer = old.read_bytes()
    now = schema(tmp_path / "revisions", 3)
    for act in (lambda: migrate(old, now, Disk()), lambda: rehearse(old, now, Disk()), lambda: open_database(old, now)):
        with pytest.raises(BadConfiguration, match="version 9, which is newer than this program"):
            act()
    assert old.read_bytes() == newer
    with closing(sqlite3.connect(old, isolation_level=None)) as raw:
        raw.execute("PRAGMA user_version = 1")
    before = old.read_bytes()
    with pytest.raises(BadConfiguration, match="brings forward version 2 and later"):
        migrate(old, schema(tmp_path / "revisions", 3, first=2), Disk())
    assert old.read_bytes() == before
    assert [each.name for each in tmp_path.glob("*.db")] == ["old.db"]


def test_a_rehearsal_changes_nothing(old: Path, tmp_path: Path) -> None:
    before = old.read_bytes()
    assert rehearse(old, schema(tmp_path / "revisions", 3), Disk()) == 1
    assert old.read_bytes() == before
    assert {each.name for each in tmp_path.iterdir()} == {"old.db", "revisions"}


def test_what_a_killed_rehearsal_left_disturbs_nothing_and_is_removed(old: Path, tmp_path: Path) -> None:
    left = [old.with_name(f".{old.stem}-rehearsal{old.suffix}{end}") for end in ("", "-wal")]
    for act in (rehearse, migrate):
        for each in left:
            each.write_bytes(b"of a killed process")
        act(old, schema(tmp_path / "revisions", 3), Disk())
        assert not any(each.exists() for each in left)
    assert found_version(old) == 3


def test_a_rehearsal_tells_of_a_migration_that_fails(old: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(old, isolation_level=None)) as raw:
        raw.execute("ALTER TABLE items ADD weight INTEGER")
    with pytest.raises(Exception, match="duplicate column"):
        rehearse(old, schema(tmp_path / "revisions", 3), Disk())
    assert {each.name for each in tmp_path.iterdir()} == {"old.db", "revisions"}


def test_an_interrupted_migration_starts_again(old: Path, tmp_path: Path) -> None:
    now = schema(tmp_path / "revisions", 3)
    steps: list[str] = []
    rehearsed = tmp_path / "rehearsed.db"
    rehearsed.write_bytes(old.read_bytes())
    migrate(rehearsed, now, Disk(steps.append))
    assert "migrate.before_commit" in steps
    for cut in steps:

        def stop(name: str, cut: str = cut) -> None:
            if name == cut:
                raise PowerCut

        with pytest.raises(PowerCut):
            migrate(old, now, Disk(stop))
        assert found_version(old) == (3 if cut == "migrate.committed" else 1)
    assert weights(old, now) == {5: 7}


def test_a_full_disk_is_said_before_anything_is_written(old: Path, tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="copy of the database"):
        migrate(old, schema(tmp_path / "revisions", 3), Disk(reserve=1 << 60))
    assert found_version(old) == 1
    assert {each.name for each in tmp_path.iterdir()} == {"old.db", "revisions"}


def test_an_interrupted_creation_is_completed(tmp_path: Path) -> None:
    path, now = tmp_path / "new.db", schema(tmp_path / "revisions", 3)
    path.touch()
    assert found_version(path) is None
    create_database(path, now)
    create_database(path, now)
    assert weights(path, now) == {}
