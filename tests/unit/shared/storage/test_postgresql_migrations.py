"""Versions of a PostgreSQL database: no process of another version works on it, and a migration is whole or nothing."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from tests.support.postgresql import server
from tests.support.power import PowerCut
from tests.unit.shared.storage.test_migrations import ITEMS, schema
from thinwire.shared.errors import BadConfiguration, DatabaseBusy
from thinwire.shared.storage.database import engine_of
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import create_database, found_version, migrate, open_database, rehearse


@pytest.fixture
def name() -> Iterator[str]:
    """A database without tables."""
    with server().database() as made:
        yield made


@pytest.fixture
def url(name: str) -> str:
    return server().url(name)


@pytest.fixture
def old(url: str, tmp_path: Path) -> str:
    """A database of version 2 with one row."""
    assert found_version(url) is None
    before = schema(tmp_path / "revisions", 2)
    create_database(url, before)
    database = open_database(url, before)
    with database.write() as connection:
        connection.execute(insert(ITEMS).values(number=5))
    database.close()
    return url


def test_a_database_is_brought_forward_in_one_transaction(old: str, tmp_path: Path) -> None:
    now = schema(tmp_path / "revisions", 3)
    with pytest.raises(BadConfiguration, match="version 2, this program reads version 3"):
        open_database(old, now)
    assert rehearse(old, now, Disk()) == 2
    assert found_version(old) == 2

    def cut(step: str) -> None:
        if step == "migrate.before_commit":
            raise PowerCut

    with pytest.raises(PowerCut):
        migrate(old, now, Disk(cut))
    assert found_version(old) == 2
    assert migrate(old, now, Disk()) == (2, None)
    assert migrate(old, now, Disk()) is None
    database = open_database(old, now)
    with database.read() as connection:
        assert connection.execute(select(ITEMS)).all() == [(5, 7)]
    database.close()
    with pytest.raises(BadConfiguration, match="version 3, which is newer than this program"):
        open_database(old, schema(tmp_path / "revisions", 2))


def test_a_process_of_the_earlier_version_keeps_the_migration_away(old: str, tmp_path: Path) -> None:
    earlier, now = schema(tmp_path / "revisions", 2), schema(tmp_path / "revisions", 3)
    serving = open_database(old, earlier)
    with serving.read() as connection:
        connection.execute(select(ITEMS.c.number))
    for act in (migrate, rehearse):
        with pytest.raises(BadConfiguration, match="other processes") as caught:
            act(old, now, Disk())
        assert "Stop" in caught.value.remedy
    serving.close()
    assert migrate(old, now, Disk()) is not None


def test_no_process_begins_while_a_migration_goes_on(old: str, tmp_path: Path) -> None:
    earlier, now = schema(tmp_path / "revisions", 2), schema(tmp_path / "revisions", 3)
    found = []

    def look(step: str) -> None:
        if step == "migrate.before_commit":
            database = open_database(old, earlier)
            with pytest.raises(DatabaseBusy, match="brought forward"), database.read():
                pass
            found.append(step)

    migrate(old, now, Disk(look))
    assert found


def test_a_process_that_lost_its_connections_sees_the_migration(name: str, old: str, tmp_path: Path) -> None:
    earlier, now = schema(tmp_path / "revisions", 2), schema(tmp_path / "revisions", 3)
    serving = open_database(old, earlier)
    with serving.read() as connection:
        connection.execute(select(ITEMS.c.number))
    server().sql(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'")
    assert migrate(old, now, Disk()) is not None
    for act in (serving.read, serving.write):
        with pytest.raises(BadConfiguration, match="version 3, which is newer"), act():
            pass
    serving.close()


def test_columns_that_a_revision_adds_mean_what_they_mean_in_sqlite(old: str, tmp_path: Path) -> None:
    now = schema(tmp_path / "revisions", 3)
    (tmp_path / "revisions" / "0003_x.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = '0003', '0002'\n\n\n"
        "def upgrade():\n    op.create_table('more', sa.Column('name', sa.String(3)), sa.Column('n', sa.Integer()))\n"
    )
    migrate(old, now, Disk())
    engine = engine_of(old)
    with engine.begin() as connection:
        for each in ("B", "a", "longer than three", "\u00e4", "A b", "A-b"):
            connection.execute(text("INSERT INTO more VALUES (:name, 9223372036854775807)").bindparams(name=each))
        names = list(connection.scalars(text("SELECT name FROM more ORDER BY name")))
    engine.dispose()
    assert names == sorted(names, key=str.encode)


def test_a_database_that_is_not_for_the_hub_is_refused(name: str, url: str, tmp_path: Path) -> None:
    server().sql("CREATE TABLE theirs (x int)", name)
    with pytest.raises(BadConfiguration, match="another program"):
        create_database(url, schema(tmp_path / "revisions", 2))
    other = f"{name}_ascii"
    server().sql(f"CREATE DATABASE {other} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    try:
        with pytest.raises(BadConfiguration, match="UTF8") as caught:
            create_database(server().url(other), schema(tmp_path / "revisions", 2))
        assert "createdb" in caught.value.remedy
    finally:
        server().sql(f"DROP DATABASE {other} WITH (FORCE)")


def test_a_wrong_url_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        "mysql://hub:secret@db/x",
        "postgresql://hub:secret@db/x",
        "secret",
        "postgresql+psycopg://hub:secret@db:x/y",
    ):
        with pytest.raises(BadConfiguration) as caught:
            engine_of(wrong)
        assert "secret" not in f"{caught.value} {caught.value.remedy}"
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(BadConfiguration) as caught:
        engine_of("postgresql+psycopg://hub:secret@db/x")
    assert "thinwire[cluster]" in caught.value.remedy
