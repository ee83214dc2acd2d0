"""`backup`: a copy of the hub in another folder, and its restore. Layout and use: docs/administration.md.

A backup has the form of a hub with SQLite and a folder, whatever the hub runs on, and may be restored to either. Its
database names only blobs that are in the backup: it replaces the one before it when all of them are durable
there. Blobs are added, so that a backup that was killed leaves the one before it whole, and the next one goes on with
the blobs that are there. Those of studies that the hub removed are removed when the new database is in place.
"""

import contextlib
import fcntl
import logging
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, delete, update

from thinwire.receiver.config import FILE, Settings, load_settings, settings_of, with_state
from thinwire.receiver.hub import DATABASE, blobs_of, objects_of, offline_lock, place_of, serving_lock
from thinwire.receiver.operations.database_copy import empty, read_file, reading, write_file, write_rows
from thinwire.receiver.sites.keyring import Keyring, load_keyring
from thinwire.receiver.sites.rotation import require_own
from thinwire.receiver.store.bucket_owner import claim
from thinwire.receiver.store.erasure import erase
from thinwire.receiver.store.history import begin_generation, positions_before, record_backup, site_positions
from thinwire.receiver.store.removed_blobs import RemovedBlob
from thinwire.receiver.store.tables import HUB, invitations, partials, pieces, sessions, tokens
from thinwire.receiver.store.tombstones import is_erased
from thinwire.shared.clock import Clock
from thinwire.shared.errors import BadConfiguration, BadFormat, HubBusy, StorageFailed
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import Digest, SiteName, StudyKey
from thinwire.shared.storage.blobs import Blobs, FolderBlobs
from thinwire.shared.storage.database import Database, Place, translated
from thinwire.shared.storage.durable import Disk, flock, sweep
from thinwire.shared.storage.migrations import (
    alone_in,
    excluding,
    found_version,
    has_unfinished,
    is_unfinished,
    migrate,
    replacing,
    version_of,
)

log = logging.getLogger(__name__)

BUNDLES = "bundles"
LOCK = "backup.lock"
REPLACED = "replaced"
"""DATA/replaced: the database that a restore replaced."""
PAGE = 500
"""Blobs whose names are in memory at a time."""
COPY = "copy"
"""The act, alone in the cluster, of whoever fills a database."""
_NEXT = "next.db"
_RESTORED = "restored.db"
_LOGS = ("-wal", "-shm")

Also = Callable[[Connection], object]
"""Called in the transaction that records a backup or begins a generation."""
Progress = Callable[[str, int, int], None]
"""(what is copied, copied so far, their number)"""


@dataclass
class Copied:
    """The blobs of a backup or a restore."""

    copied: int = 0
    copied_bytes: int = 0
    there: int = 0
    """Here already."""
    damaged: list[Digest] = field(default_factory=list)
    """Named by the database, and missing or damaged at the source."""


def back_up(
    database: Database,
    blobs: Blobs,
    data: Path,
    folder: Path,
    disk: Disk,
    clock: Clock,
    also: Also,
    progress: Progress,
) -> Copied:
    """Bring the backup in `folder` up to date, durably; `serve` may go on. data: the hub's folder.

    What a damaged blob held is not counted as backed up. Raises BadConfiguration for a folder that cannot be one,
    HubBusy while another backup uses it, BadFormat if the copied database is damaged, DiskFull: the backup before it
    stays.
    """
    _refuse_own(data, folder)
    disk.make_folder(folder)
    with _alone(folder):
        sweep(folder)
        following, taken_at = folder / _NEXT, clock.now()
        write_file(database, following, disk, "backup.database", progress)
        done = Copied()
        with reading(following) as copy:
            _refuse_damaged(copy)
            copy_blobs(copy, blobs, FolderBlobs(folder / "blobs", disk), done, progress)
            held = _held(copy, done.damaged)
        _copy_settings(data, folder, disk, replace=True)
        disk.move(following, folder / DATABASE, "backup.whole")
        with reading(folder / DATABASE) as copy:
            _remove_blobs(copy, FolderBlobs(folder / "blobs", disk))
    _record(database, taken_at, held, clock, also)
    return done


def record_taken(database: Database, taken_at: datetime, clock: Clock, also: Also) -> None:
    """Record a backup that another program took. taken_at: when it began. Raises BadConfiguration for a later time."""
    if taken_at > clock.now():
        raise BadConfiguration("the backup's time is in the future", "Give the time at which it began, with its zone.")
    with database.read() as connection:
        held = positions_before(connection, taken_at)
    _record(database, taken_at, held, clock, also)


def restore(data: Path, folder: Path | None, disk: Disk, clock: Clock, also: Also, progress: Progress) -> Copied:
    """Replace the database of the hub in `data` by that of a backup, with every blob that it names, and begin a new
    generation. None for a folder that was put back by other means: the generation alone.

    The database that was there is kept in DATA/replaced, as an SQLite file. A restore that was killed is repeated. The
    settings of the hub, if it has any, tell whether it runs on PostgreSQL and an object store. Raises BadConfiguration
    while the hub is in use, or for a folder without a backup; BadFormat for a damaged one.
    """
    done = Copied()
    disk.make_folder(data)
    settings = _settings(data)
    place, keys, objects = place_of(data, settings), load_keyring(data / "keys"), objects_of(settings, disk)
    with serving_lock(data), offline_lock(data), alone_in(place, COPY):
        if objects is not None:
            claim(objects, keys.signing)
        if folder is None:
            migrate(place, HUB, disk)
            with excluding(place) as connection:
                _begin(connection, clock, also, from_backup=False)
            _end_log(place)
            return done
        _refuse_own(data, folder)
        if not (folder / DATABASE).is_file():
            raise BadConfiguration("the folder holds no backup", "Name the folder that `backup` wrote.")
        if isinstance(place, str):
            with excluding(place):
                pass  # before the long copy
        restored = data / _RESTORED
        for each in data.glob(f"{Path(_RESTORED).stem}*"):
            each.unlink()
        for end in ("", _LOGS[0]):
            if (source := folder / (DATABASE + end)).is_file():
                with disk.full_is_an_error():
                    shutil.copyfile(source, data / (_RESTORED + end))
                (data / (_RESTORED + end)).chmod(0o600)
        with translated(), contextlib.closing(sqlite3.connect(restored)) as copy:
            copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            _refuse_damaged(copy)
        migrated = migrate(restored, HUB, disk)
        if migrated is not None and migrated[1] is not None:
            migrated[1].unlink()
        with excluding(restored) as connection:
            require_own(keys, connection)
        with reading(restored, immutable=False) as copy:
            copy_blobs(copy, FolderBlobs(folder / "blobs", disk), blobs_of(objects, data, disk), done, progress)
        _copy_settings(folder, data, disk, replace=False)
        keep = _settings(data).retention.signed_reports == "keep"

        def begin(replaced: Path | None) -> None:
            with excluding(restored) as connection:
                _begin(connection, clock, also, from_backup=True)
                if replaced is not None:
                    _erase_again(connection, replaced, keep)
            _end_log(restored)

        if isinstance(place, Path):
            begin(data / DATABASE)
            set_aside(data, disk, clock)
            disk.adopt(restored, place, "restore.database")
        else:
            if not is_unfinished(place) and found_version(place) is not None:
                migrate(place, HUB, disk)
            with replacing(place, HUB, empty) as connection:
                begin(_write_aside(connection, data, keys, disk, clock, progress))
                disk.step("restore.before_emptied")
            disk.step("restore.emptied")
            read_file(restored, place, lambda _: None, progress)
            restored.unlink()
        for end in _LOGS:
            (data / (_RESTORED + end)).unlink(missing_ok=True)
    return done


def _settings(data: Path) -> Settings:
    """Of a hub in `data`; of a new disk, those of the environment."""
    return load_settings(data) if (data / FILE).exists() else settings_of({})


def _write_aside(
    connection: Connection, data: Path, keys: Keyring, disk: Disk, clock: Clock, progress: Progress
) -> Path | None:
    """Write what is in PostgreSQL to a file in DATA/replaced; returns the file of the last hub that was there, or None.
    A restore that was killed has written it before it emptied the database."""
    if not has_unfinished(connection) and version_of(connection) is not None:
        require_own(keys, connection)
        aside = data / REPLACED / f"{clock.now():%Y%m%dT%H%M%S%f}"
        disk.make_folder(aside)
        write_rows(connection, aside / DATABASE, disk, "restore.aside", progress)
    return max((data / REPLACED).glob(f"*/{DATABASE}"), default=None)


def _erase_again(connection: Connection, replaced: Path, keep_reports: bool) -> None:
    """Remove what was removed from the hub since the backup, by the tombstones of the database that is replaced. One
    that cannot be read has none: a person repeats the removals."""
    if not replaced.is_file():
        return
    try:
        with reading(replaced, immutable=False) as before:
            for site, study, rule, at in before.execute("SELECT site, study, rule, at FROM tombstones"):
                name, key = SiteName(site), StudyKey(study)
                if not is_erased(connection, name, key):
                    erase(connection, name, key, rule, moment(at), keep_reports)
    except (StorageFailed, sqlite3.Error) as error:  # also one of an earlier version, without the table
        log.warning("the replaced database tells of no removed study: %s", type(error).__name__)


def _record(database: Database, taken_at: datetime, held: dict[SiteName, int], clock: Clock, also: Also) -> None:
    """The sessions of `serve` see it and tell the clinics."""
    with database.write(turn="backup") as connection:
        record_backup(connection, taken_at, held, clock.now())
        also(connection)


def _begin(connection: Connection, clock: Clock, also: Also, from_backup: bool) -> None:
    begin_generation(connection, "restored", clock.now())
    if from_backup:
        # The backup is still there, and holds all that was restored from it.
        record_backup(connection, clock.now(), site_positions(connection), clock.now())
        # Objects in transfer start again: what the object store had of them is not in the backup.
        connection.execute(delete(pieces))
        connection.execute(delete(partials))
    _end_access(connection, clock)
    also(connection)


def _end_log(place: Place) -> None:
    """Bring the log of an SQLite file into it."""
    if isinstance(place, Path):
        with translated(), contextlib.closing(sqlite3.connect(place)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _end_access(connection: Connection, clock: Clock) -> None:
    """End what was valid at the time of the backup and may have been used or ended since: join tokens, one-time links
    and sessions."""
    now = micros(clock.now())
    connection.execute(update(tokens).where(tokens.c.expires_at > now).values(expires_at=now))
    connection.execute(delete(invitations))
    connection.execute(delete(sessions))


def set_aside(data: Path, disk: Disk, clock: Clock) -> None:
    """Move the present database away with its log, which would damage another database."""
    names = [name for name in (DATABASE, *(DATABASE + end for end in _LOGS)) if (data / name).exists()]
    if not names:
        return
    aside = data / REPLACED
    if DATABASE in names:
        aside = aside / f"{clock.now():%Y%m%dT%H%M%S%f}"
    else:  # a restore was killed between the database and its log
        aside = max((aside).iterdir(), default=aside / "log")
    disk.make_folder(aside)
    for name in names:
        disk.move(data / name, aside / name, "restore.aside")


def copy_blobs(copy: sqlite3.Connection, source: Blobs, target: Blobs, done: Copied, progress: Progress) -> None:
    """Copy every blob that a database names and the target lacks."""
    number, last = 0, b""
    total = copy.execute("SELECT count(DISTINCT blob) FROM objects").fetchone()[0]
    query = "SELECT blob, max(plain_size) FROM objects WHERE blob > ? GROUP BY blob ORDER BY blob LIMIT ?"
    while page := copy.execute(query, (last, PAGE)).fetchall():
        for blob, size in page:
            name = Digest(blob)
            if target.has(name, size):
                done.there += 1
            elif (found := target.copy_from(source, name, "backup.blob")) is None:
                done.damaged.append(name)
            else:
                done.copied += 1
                done.copied_bytes += found
            number += 1
            progress("parts", number, total)
        last = page[-1][0]


def _remove_blobs(copy: sqlite3.Connection, blobs: Blobs) -> None:
    """Remove the blobs that the hub removed with their studies; its database names none of them."""
    last = b""
    query = (
        "SELECT blob FROM removed_blobs WHERE state = ? AND blob > ? AND blob NOT IN (SELECT blob FROM objects) "
        "ORDER BY blob LIMIT ?"
    )
    while page := copy.execute(query, (RemovedBlob.GONE, last, PAGE)).fetchall():
        for (blob,) in page:
            blobs.remove(Digest(blob), "backup.removed")
        last = page[-1][0]


def _held(copy: sqlite3.Connection, damaged: list[Digest]) -> dict[SiteName, int]:
    """The position of every site up to which the backup holds all."""
    held = {
        SiteName(site): last for site, last in copy.execute("SELECT site, max(position) FROM positions GROUP BY site")
    }
    first = (
        "SELECT objects.site, min(positions.position) FROM objects JOIN positions "
        "ON positions.site = objects.site AND positions.object = objects.object WHERE objects.blob = ? "
        "GROUP BY objects.site"
    )
    for blob in damaged:
        for site, position in copy.execute(first, (blob,)):
            held[SiteName(site)] = min(held[SiteName(site)], position - 1)
    return held


def _copy_settings(source: Path, target: Path, disk: Disk, replace: bool) -> None:
    """The configuration and the bundles. replace: also where the target has another content."""
    found = [source / FILE, *sorted((source / BUNDLES).rglob("*"))]
    for path in found:
        beside = target / path.relative_to(source)
        hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
        if hidden or not path.is_file() or (beside.exists() and not replace):
            continue
        data = path.read_bytes()
        if path.name == FILE:
            # A backup is restored to wherever the restored hub is to be; and the URL may have a password.
            data = with_state(data.decode()).encode()
        if not beside.exists() or beside.read_bytes() != data:
            disk.make_folder(beside.parent)
            disk.write(beside, data, "backup.settings")


def _refuse_own(data: Path, folder: Path) -> None:
    one, other = data.resolve(), folder.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise BadConfiguration(
            "a backup cannot be in the hub's own folder", "Choose a folder on another disk, best at another place."
        )


def _refuse_damaged(copy: sqlite3.Connection) -> None:
    with translated():
        found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise BadFormat("the copied database is damaged", "Run `thinwire-receiver check`, or use another backup.")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with flock(folder / LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except BlockingIOError:
        raise HubBusy("another backup to this folder goes on", "Let it end, then repeat.") from None
