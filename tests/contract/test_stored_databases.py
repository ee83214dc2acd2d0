"""Databases of the versions in between: each is brought forward to the same rows as the earlier folder it came from."""

import lzma
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.contract.test_stored_clinic import content, copied, forward
from tests.contract.test_stored_hub import as_it_was
from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.hub import DATABASE, bring_forward, open_hub
from thinwire.receiver.operations.check import Checked, check
from thinwire.receiver.store.tables import HUB, TABLES
from thinwire.sender.outbox.tables import CLINIC, FILE
from thinwire.shared.clock import SystemClock
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import found_version, migrate, open_database

SAMPLES = Path(__file__).parent / "samples"


def put(sample: str, path: Path, version: int) -> None:
    """The stored database in the place of the present one."""
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    path.write_bytes(lzma.decompress((SAMPLES / sample).read_bytes()))
    assert found_version(path) == version


def rows(path: Path) -> dict[str, Any]:
    database = open_database(path, HUB)
    with database.read() as connection:
        found = {
            table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for table in TABLES.sorted_tables
            if table.name != "generations"  # its identity is random
        }
    database.close()
    return found


@pytest.mark.parametrize("version", [8, 12])
def test_a_hub_of_an_earlier_version_loses_no_row(tmp_path: Path, version: int) -> None:
    direct, between = (as_it_was(tmp_path / name) for name in ("direct", "between"))
    put(f"hub-{version}.db.xz", between / DATABASE, version)
    for data in (direct, between):
        bring_forward(data)
    assert rows(between / DATABASE) == rows(direct / DATABASE)
    with open_hub(between, SystemClock()) as hub:
        hub.audit.record(Message(Act.STARTED, hub.clock.now(), "serve"))  # it signs the log of an earlier version
        assert list(check(hub, Checked(), lambda *_: None)) == []


def test_a_clinic_s_database_of_version_1_loses_no_row(tmp_path: Path) -> None:
    data = copied(tmp_path / "clinic")
    forward(data)
    direct = content(data)
    put("clinic-db-1.db.xz", data / FILE, 1)
    migrate(data / FILE, CLINIC, Disk())
    after = content(data)
    assert {key: value for key, value in after.items() if key != "files"} == {
        key: value for key, value in direct.items() if key != "files"
    }


@pytest.mark.parametrize(
    ("sample", "schema"), [("hub-8.db.xz", HUB), ("hub-12.db.xz", HUB), ("clinic-db-1.db.xz", CLINIC)]
)
def test_a_copy_of_the_earlier_database_stays(tmp_path: Path, sample: str, schema: Any) -> None:
    path = tmp_path / "some.db"
    before = lzma.decompress((SAMPLES / sample).read_bytes())
    path.write_bytes(before)
    found = migrate(path, schema, Disk())
    assert found is not None
    assert found[1] is not None
    assert found_version(found[1]) == found[0]
