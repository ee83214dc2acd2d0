"""Brings the data folder of an earlier version of the clinic forward. Formats: docs/outbox-format.md#earlier-versions.

Sealed files become blobs and received objects move up, by hard links, which leave the old names. Then one transaction
names them and takes in all state. Then the old files move to DATA/earlier. A power cut before the transaction has
changed nothing, and one after it only leaves files to move: both are repeated by the next start. Rows that are there
already win, so that nothing is taken in twice.

What cannot be read stays in its place and is listed in table `unreadable`; it stops nothing else.
"""

import contextlib
import fcntl
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select

from thinwire.sender.outbox.earlier_folder import SAFE_COPY, Leftovers, items
from thinwire.sender.outbox.earlier_rows import Forwarded, Import
from thinwire.sender.outbox.tables import CLINIC, FILE, unreadable
from thinwire.shared.clock import Clock
from thinwire.shared.errors import BadConfiguration, Retryable
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk, flock
from thinwire.shared.storage.migrations import create_database, found_version, migrate, open_database, rehearse

log = logging.getLogger(__name__)


def bring_forward(data: Path, disk: Disk, clock: Clock, again: bool = False) -> Forwarded:
    """Bring a clinic's data folder forward to this version; its database is made if it has none.

    again: also try again what could not be read the last time. Raises BadConfiguration for a newer version, which is
    left as it was, and for a folder that has lost its database; Retryable while another process uses the folder;
    DiskFull, DatabaseBusy. Steps: earlier.*, migrate.*.
    """
    path = data / FILE
    found = found_version(path)
    if found == CLINIC.version and not _left(data, again):
        return Forwarded(found, needed=False)
    if found is not None and found > CLINIC.version:
        open_database(path, CLINIC)  # refuses it
    with _alone(data, disk):
        if found is None:
            _refuse_lost(data)
            create_database(path, CLINIC)
            disk.sync_folder(data)
        done = Forwarded(found)
        if found is not None and found != CLINIC.version:
            migrated = migrate(path, CLINIC, disk)
            done.copy = migrated[1] if migrated else None
        database = open_database(path, CLINIC)
        try:
            _take_in(data, database, disk, clock, done)
        finally:
            database.close()
    return done


def rehearse_forward(data: Path, disk: Disk, clock: Clock) -> Forwarded:
    """What `bring_forward` would do; nothing is changed, and other processes may go on. Raises as it does."""
    found = found_version(data / FILE)
    if found is None:
        _refuse_lost(data)
    else:
        rehearse(data / FILE, CLINIC, disk)
    scratch = data / f".{FILE}.rehearsal"
    done = Forwarded(found, found != CLINIC.version or _left(data))
    try:
        create_database(scratch, CLINIC)
        database = open_database(scratch, CLINIC)
        try:
            with database.write() as connection:
                Import(data, connection, disk, clock, done, link=False).run()
        finally:
            database.close()
    finally:
        for each in data.glob(scratch.name + "*"):
            each.unlink()
    return done


def require_forward(data: Path) -> None:
    """Raises BadConfiguration for a folder that is of an earlier version and was not brought forward."""
    if found_version(data / FILE) is None:
        _refuse_lost(data)
    if found_version(data / FILE) is None or _left(data):
        raise BadConfiguration("the data folder is of an earlier version of thinwire", CLINIC.remedy)


def _refuse_lost(data: Path) -> None:
    """Raises BadConfiguration for a folder whose database is gone: a new one would disown all that lies beside it.

    An earlier version makes no folder of blobs; this one makes it after the database."""
    if (data / SAFE_COPY).exists() or (data / "blobs").exists():
        raise BadConfiguration(
            f"{FILE} is missing in the data folder", "Restore it from a backup. Nothing was changed."
        )


@contextlib.contextmanager
def _alone(data: Path, disk: Disk) -> Iterator[None]:
    """Hold the locks of all that may use the folder, in this version and in earlier ones. Raises Retryable."""
    outbox = data / "outbox"
    disk.make_folder(outbox)
    with contextlib.ExitStack() as held:
        try:
            for name in ("link.lock", "stick.lock", "accept.lock"):
                held.enter_context(flock(outbox / name, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise Retryable(
                "the data folder is of an earlier version, and another process uses it",
                "Stop `thinwire-sender run`, and wait for other commands, then repeat.",
            ) from error
        yield


def _left(data: Path, again: bool = False) -> bool:
    """Whether files of an earlier version are still to be taken in. again: also those that are listed as unreadable."""
    found = items(data)
    if again or found_version(data / FILE) != CLINIC.version:
        return any(found)
    first = next(found, None)
    if first is None:
        return False
    database = open_database(data / FILE, CLINIC)
    try:
        with database.read() as connection:
            listed = set(connection.execute(select(unreadable.c.path)).scalars())
    finally:
        database.close()
    return any(path.relative_to(data).as_posix() not in listed for path in itertools.chain((first,), found))


def _take_in(data: Path, database: Database, disk: Disk, clock: Clock, done: Forwarded) -> None:
    with database.write() as connection:
        run = Import(data, connection, disk, clock, done, link=True)
        run.run()
        run.sync()
        disk.step("earlier.before_commit")
    disk.step("earlier.committed")
    with database.read() as connection:
        Leftovers(data, connection, disk).move()
    if done.studies or done.objects or done.refused or done.unreadable:
        log.info(
            "brought forward: %d studies, %d objects from modalities, %d refused files; %d could not be read",
            done.studies,
            done.objects,
            done.refused,
            done.unreadable,
        )
