"""The hub's tables in PostgreSQL mean what they mean in SQLite, new ones and those of a revision alike."""

import contextlib
import lzma
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, text

from tests.support.clock import FakeClock
from tests.support.hub_folder import join
from tests.support.postgresql import new_database, server
from thinwire.receiver.hub import Hub, make_hub
from thinwire.receiver.store.tables import HUB, TABLES, parked
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.storage.database import engine_of
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import migrate

EARLIER = Path(__file__).parents[3] / "contract" / "samples" / "hub-12.db.xz"


@pytest.fixture(params=["postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def columns(connection: Connection) -> set[tuple[object, ...]]:
    """The columns of all tables, and the indices."""
    query = (
        "SELECT table_name, column_name, data_type, collation_name, is_nullable, character_maximum_length "
        "FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'"
    )
    found = set(map(tuple, connection.execute(text(query))))
    return found | set(
        map(tuple, connection.execute(text("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'")))
    )


def test_numbers_have_64_bits_and_text_the_order_of_its_bytes(hub: Hub) -> None:
    with hub.database.read() as connection:
        rows = [row for row in columns(connection) if len(row) > 1]
    assert {row[2] for row in rows} == {"bigint", "boolean", "bytea", "character varying", "double precision"}
    assert {row[3] for row in rows if row[2] == "character varying"} == {"C"}


def test_a_text_with_a_nul_is_stored(hub: Hub) -> None:
    """Such as the padded reason of a PACS."""
    row = {"loop": "x", "item": "x", "reason": "refused\0", "since": 0, "times": 1, "program": "x"}
    with hub.database.write() as connection:
        connection.execute(insert(parked).values(row))
        assert connection.scalar(select(parked.c.reason)) == "refused\N{REPLACEMENT CHARACTER}"


def earlier_columns(tmp_path: Path) -> dict[str, set[str]]:
    """Of the last version before PostgreSQL, by table."""
    with earlier(tmp_path) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: {row[1] for row in database.execute(f"PRAGMA table_info({name})")} for name in names}


def earlier_indices(tmp_path: Path) -> set[str]:
    with earlier(tmp_path) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}


def earlier(tmp_path: Path) -> contextlib.closing[sqlite3.Connection]:
    path = tmp_path / "earlier.db"
    path.write_bytes(lzma.decompress(EARLIER.read_bytes()))
    return contextlib.closing(sqlite3.connect(path))


@pytest.fixture
def url() -> Iterator[str]:
    with new_database() as made:
        yield made


def test_the_revisions_since_then_make_the_same_tables(url: str, tmp_path: Path) -> None:
    before, indices = earlier_columns(tmp_path), earlier_indices(tmp_path)
    made = engine_of(url)
    with made.begin() as connection:
        expected = columns(connection)
        for table in reversed(TABLES.sorted_tables):
            if table.name not in before:
                connection.execute(text(f"DROP TABLE {table.name} CASCADE"))
                continue
            for column in table.columns:
                if column.name not in before[table.name]:
                    connection.execute(text(f'ALTER TABLE {table.name} DROP COLUMN "{column.name}"'))
            for index in table.indexes:
                if index.name not in indices:
                    connection.execute(text(f"DROP INDEX IF EXISTS {index.name}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0012'"))
        assert columns(connection) != expected
    assert migrate(url, HUB, Disk()) == (12, None)
    with made.begin() as connection:
        assert columns(connection) == expected
    made.dispose()


def test_one_database_is_one_hubs(hub: Hub, tmp_path: Path, bundle: Bundle, clock: FakeClock) -> None:
    database = hub.settings.database
    assert database is not None
    assert database.get_secret_value() not in repr(hub)
    join(hub)
    with pytest.raises(BadConfiguration, match="already holds a hub") as caught:
        make_hub(tmp_path / "other", bundle.folder, Disk(), clock, database.get_secret_value())
    assert "keys" in caught.value.remedy
    assert server().folder.exists()
