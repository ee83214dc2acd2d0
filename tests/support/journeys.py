"""Journeys of a hub in time: backups, restores, and folders that are put back, with both ends of `TwoEnds`."""

import shutil
from pathlib import Path

from sqlalchemy import Connection, func, select

from tests.support.two_ends import Sample, TwoEnds
from thinwire.receiver.operations.backup import back_up, restore
from thinwire.receiver.sites.keyring import make_keyring
from thinwire.receiver.store.tables import objects, positions
from thinwire.sender.outbox.entries import EntryState
from thinwire.shared.storage.durable import Disk


def deliver(ends: TwoEnds, *some: Sample) -> None:
    for sample in some:
        ends.accept(sample)
    ends.make_parts()
    ends.carry()
    ends.outbox.follow()


def close_hub(ends: TwoEnds) -> Path:
    if hub := ends.__dict__.pop("hub", None):
        hub.database.close()
    folder = ends.folder / "hub"
    if not (folder / "keys").exists():  # `TwoEnds` has its own in memory, and a restore looks for those of the folder
        make_keyring(folder / "keys", Disk(reserve=0), ends.clock)
    return folder


def copied(ends: TwoEnds, name: str = "copy") -> Path:
    """The hub's folder, copied by the file system."""
    assert ends.store  # made if it is not there
    return shutil.copytree(close_hub(ends), ends.folder / name)


def put_back(ends: TwoEnds, copy: Path) -> None:
    shutil.rmtree(close_hub(ends))
    shutil.copytree(copy, ends.folder / "hub")


def backed_up(ends: TwoEnds) -> Path:
    """A backup by the hub's own command, into the same folder each time."""
    folder = ends.folder / "backup"
    back_up(
        ends.hub.database, ends.hub.blobs, ends.folder / "hub", folder, Disk(reserve=0), ends.clock, no_message, quiet
    )
    return folder


def bring_back(ends: TwoEnds, backup: Path | None) -> None:
    restore(close_hub(ends), backup, Disk(reserve=0), ends.clock, no_message, quiet)


def no_message(_connection: Connection) -> None:
    """No message in the audit log."""


def quiet(_name: str, _done: int, _total: int) -> None:
    """No display."""


def again(ends: TwoEnds) -> int:
    """One stream, what follows from it at the clinic, and another stream; returns the parts that were offered again."""
    ends.carry()
    count = ends.outbox.follow()
    ends.make_parts()
    ends.carry()
    ends.outbox.follow()
    return count


def assert_once(ends: TwoEnds, some: list[Sample]) -> None:
    """Each study is at the hub bit by bit, each object in one row, and the clinic knows it."""
    parts = ends.parts()
    for sample in some:
        for kind, plaintext in sample.parts.items():
            assert parts[sample.study, kind] == plaintext
        assert ends.outbox.entry(sample.study).state is EntryState.ARRIVED
    with ends.hub.database.read() as connection:
        rows = connection.execute(select(objects.c.study, objects.c.kind, func.count()).group_by("study", "kind")).all()
        places = connection.execute(select(positions.c.position)).scalars().all()
    assert {count for _, _, count in rows} <= {1}
    assert len({study for study, _, _ in rows}) == len(some)
    assert len(places) == len(set(places))
