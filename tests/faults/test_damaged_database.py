"""A database with damaged pages is noticed at the start of either end, before a write spreads the damage."""

from pathlib import Path

import pytest

from tests.support.real_link import as_joined
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.hub import make_hub, open_hub
from thinwire.receiver.serve import serve
from thinwire.sender.clinic import open_clinic
from thinwire.sender.config import FILE as CONFIG
from thinwire.sender.outbox.tables import FILE
from thinwire.shared.clock import SystemClock
from thinwire.shared.errors import StorageFailed
from thinwire.shared.storage.database import Database, engine_of
from thinwire.shared.storage.durable import Disk


def damage(path: Path) -> bytes:
    """The first page of the last table or index; returns the file as it is then."""
    database = Database(path, engine_of(path))
    with database.read() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        page = int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
        last = connection.exec_driver_sql("SELECT max(rootpage) FROM sqlite_master").scalar_one()
    database.close()
    data = bytearray(path.read_bytes())
    data[(last - 1) * page : last * page] = b"\xa5" * page
    path.write_bytes(data)
    return bytes(data)


def test_a_hub_says_so_and_stops(tmp_path: Path) -> None:
    make_hub(tmp_path / "hub", tiny_bundle(tmp_path / "tiny").folder, Disk(), SystemClock())
    data = damage(tmp_path / "hub" / "thinwire.db")
    with open_hub(tmp_path / "hub", SystemClock()) as hub, pytest.raises(StorageFailed) as told:
        serve(hub, "127.0.0.1:0", None, lambda *_: None)
    assert "the database is damaged" in str(told.value)
    assert "thinwire-receiver restore" in told.value.remedy
    assert (tmp_path / "hub" / "thinwire.db").read_bytes() == data


def test_a_clinic_says_so_and_stops(tmp_path: Path) -> None:
    as_joined(tmp_path)
    (tmp_path / CONFIG).write_text("")
    data = damage(tmp_path / FILE)
    with pytest.raises(StorageFailed) as told:
        open_clinic(tmp_path, forward=True).run(None)
    assert "the database is damaged" in str(told.value)
    assert "Damaged database" in told.value.remedy
    assert (tmp_path / FILE).read_bytes() == data
