"""Brings the data folder of an earlier version of the clinic forward. Formats: docs/outbox-format.md#earlier-versions.

Sealed files become blobs and received objects move up, by hard links, which leave the old names. Then one transaction
names them and takes in all state. Then the old files move to DATA/earlier. A power cut before the transaction has
changed nothing, and one after it only leaves files to move: both are repeated by the next start. Rows that are there
already win, so that nothing is taken in twice.

What cannot be read stays in its place and is listed in table `unreadable`; it stops nothing else.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, delete, select
from sqlalchemy.dialects.sqlite import insert as insert_new

from thinwire.sender.outbox.earlier_files import (
    NAME_BYTES,
    Unreadable,
    read_commitment,
    read_ledger,
    read_receipt,
    read_refusal,
    read_state,
    read_usage,
)
from thinwire.sender.outbox.entries import OutboxEntry, Part, PartState
from thinwire.sender.outbox.rows import add_entry
from thinwire.sender.outbox.tables import (
    CLINIC,
    FILE,
    arrivals,
    batches,
    commitments,
    controls,
    epochs,
    ledger,
    parts,
    quarantine,
    receipts,
    studies,
    unreadable,
    usage,
)
from thinwire.sender.outbox.tiers import FORMER_NAMES
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadConfiguration, Retryable, UnreadableDicom
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import DIGEST_BYTES, EPOCH_ID_BYTES, STUDY_KEY_BYTES, Digest, StudyKey
from thinwire.shared.imaging.file_format import dataset_digest
from thinwire.shared.imaging.header import FileLimits, glance
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk, flock
from thinwire.shared.storage.migrations import create_database, found_version, migrate, open_database, rehearse

log = logging.getLogger(__name__)

SAFE_COPY = "earlier"
"""The folder of DATA to which the old files move."""
_COLLECTING, _COMPLETE, _DONE = "", ".judging", ".judged"
"""Suffixes of a study's folder in arrivals."""
_REFUSED = ".refused"
_NEW = ".new-"
_NO_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV))
"""Errors of a file system without hard links: its files are copied."""
_EVERY = 1000
"""Items between two lines of progress."""


@dataclass
class Forwarded:
    """What was brought forward. found: the version of the database before, None without one; copy: its safe copy, if it
    was migrated. The others count what earlier folders held, and what of it cannot be read."""

    found: int | None
    copy: Path | None = None
    studies: int = 0
    objects: int = 0
    refused: int = 0
    unreadable: int = 0


def bring_forward(data: Path, disk: Disk, clock: Clock, again: bool = False) -> Forwarded:
    """Bring a clinic's data folder forward to this version; its database is made if it has none.

    again: also try again what could not be read the last time. Raises BadConfiguration for a newer version, which is
    left as it was, and for a folder that has lost its database; Retryable while another process uses the folder;
    DiskFull, DatabaseBusy. Steps: earlier.*, migrate.*.
    """
    path = data / FILE
    found = found_version(path)
    if found == CLINIC.version and not _left(data, again):
        return Forwarded(found)
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
    done = Forwarded(found)
    try:
        create_database(scratch, CLINIC)
        database = open_database(scratch, CLINIC)
        try:
            with database.write() as connection:
                _Import(data, connection, disk, clock, done, link=False).run()
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
    """Raises BadConfiguration for a folder whose database is gone: a new one would disown all that lies beside it."""
    if (data / SAFE_COPY).exists() or any((data / "blobs").glob("??/*")):
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
    found = _items(data)
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


def _items(data: Path) -> Iterator[Path]:
    """The files of an earlier version; for a study in the outbox, its folder."""
    outbox, arrived = data / "outbox", data / "arrivals"
    yield from _named(outbox, STUDY_KEY_BYTES, "")
    yield from (
        path for path in _entries(outbox) if path.name.startswith(_NEW) or path.name in ("usage.json", "paused")
    )
    yield from _named(outbox / "epochs", EPOCH_ID_BYTES, ".record")
    for suffix in (_COLLECTING, _COMPLETE, _DONE):
        for folder in _named(arrived, NAME_BYTES, suffix):
            objects = list(_named(folder, NAME_BYTES, ".dcm")) if suffix != _DONE else []
            yield from objects or [folder]
    yield from _named(arrived / "ledger", NAME_BYTES, ".json")
    yield from _named(arrived / "commitments", NAME_BYTES, ".json")
    yield from _named(data / "quarantine", DIGEST_BYTES, ".json")


def _take_in(data: Path, database: Database, disk: Disk, clock: Clock, done: Forwarded) -> None:
    with database.write() as connection:
        run = _Import(data, connection, disk, clock, done, link=True)
        run.run()
        run.sync()
        disk.step("earlier.before_commit")
    disk.step("earlier.committed")
    with database.read() as connection:
        _Leftovers(data, connection, disk).move()
    if done.studies or done.objects or done.refused or done.unreadable:
        log.info(
            "brought forward: %d studies, %d objects from modalities, %d refused files; %d could not be read",
            done.studies,
            done.objects,
            done.refused,
            done.unreadable,
        )


class _Import:
    """Takes the files of an earlier version into the database, in the transaction of `connection`. link: also link the
    sealed files and the objects to their new names."""

    def __init__(
        self, data: Path, connection: Connection, disk: Disk, clock: Clock, done: Forwarded, link: bool
    ) -> None:
        self._data = data
        self._connection = connection
        self._disk = disk
        self._clock = clock
        self._done = done
        self._link_files = link
        self._folders: set[Path] = set()
        self._seen = 0

    def run(self) -> None:
        self._connection.execute(
            # The paths of `_items`; those of objects that modalities sent since, and of the safe copy, are others.
            delete(unreadable).where(
                unreadable.c.path.like("outbox/%")
                | unreadable.c.path.like("arrivals/%/%")
                | unreadable.c.path.like("quarantine/%")
            )
        )
        outbox, arrived, refused = self._data / "outbox", self._data / "arrivals", self._data / "quarantine"
        for path in _named(outbox / "epochs", EPOCH_ID_BYTES, ".record"):
            with self._item(path):
                self._epoch(path)
        for path in _named(outbox, STUDY_KEY_BYTES, ""):
            with self._item(path):
                self._study(path)
        with self._item(outbox / "usage.json"):
            self._usage(outbox / "usage.json")
        if (outbox / "paused").exists():
            self._insert(controls, {"name": "paused", "value": ""})
        for suffix in (_COMPLETE, _COLLECTING):
            for folder in _named(arrived, NAME_BYTES, suffix):
                for path in _named(folder, NAME_BYTES, ".dcm"):
                    with self._item(path):
                        self._object(path, bytes.fromhex(folder.stem), suffix == _COMPLETE)
        for path in _named(arrived / "ledger", NAME_BYTES, ".json"):
            with self._item(path):
                self._insert(ledger, read_ledger(_content(path), bytes.fromhex(path.stem)))
        for path in _named(arrived / "commitments", NAME_BYTES, ".json"):
            with self._item(path):
                self._insert(commitments, read_commitment(_content(path)))
        for path in _named(refused, DIGEST_BYTES, ".json"):
            with self._item(path):
                row = read_refusal(_content(path), Digest(bytes.fromhex(path.stem)))
                self._done.refused += self._insert(quarantine, row)
        for path in _named(refused, DIGEST_BYTES, _REFUSED):
            self._without_reason(path)

    def sync(self) -> None:
        """Make the links durable."""
        self._disk.step("earlier.before_folder_fsync")
        for folder in sorted(self._folders):
            self._disk.sync_folder(folder)
        self._disk.step("earlier.linked")

    @contextlib.contextmanager
    def _item(self, path: Path) -> Iterator[None]:
        """One item: if it cannot be read it is listed, and the next one follows."""
        try:
            with self._connection.begin_nested():
                yield
        except Unreadable as error:
            self._list(path, str(error))
        self._seen += 1
        if self._seen % _EVERY == 0:
            log.info("%d files and folders of an earlier version are read", self._seen)

    def _list(self, path: Path, reason: str) -> None:
        name = path.relative_to(self._data).as_posix()
        log.error("%s cannot be brought forward and is kept: %s", name, reason)
        self._insert(unreadable, {"path": name, "reason": reason, "at": micros(self._clock.now())})
        self._done.unreadable += 1

    def _epoch(self, path: Path) -> None:
        announced = path.with_suffix(".announced").exists()
        row = {"epoch": bytes.fromhex(path.stem), "record": _content(path), "announced": announced}
        self._insert(epochs, row)

    def _study(self, folder: Path) -> None:
        study = StudyKey(bytes.fromhex(folder.name))
        if self._connection.execute(select(studies.c.study).where(studies.c.study == study)).first() is not None:
            return
        entry = read_state(_content(folder / "state.json"), study)
        add_entry(self._connection, self._with_bytes(folder, entry))
        for path in sorted((folder / "receipts").glob("*.receipt")):
            try:
                self._insert(receipts, read_receipt(_content(path), study, path.stem))
            except Unreadable as error:
                # It moves with the folder of its study, whose state says that it came.
                self._list(self._data / SAFE_COPY / path.relative_to(self._data), str(error))
        self._done.studies += 1

    def _with_bytes(self, folder: Path, entry: OutboxEntry) -> OutboxEntry:
        """The entry with the sealed files that are here, as blobs. The outbox checks them at its next start."""
        source = folder / "source.sealed"
        if source.is_file():
            name = _digest_of(source)
            self._link(source, _blob(self._data, name))
            entry = replace(entry, source=name)
        for part in entry.parts:
            file = _sealed(folder, part.kind)
            if part.object is not None and file.is_file() and _may_be(file, part):
                self._link(file, _blob(self._data, part.object))
                entry = entry.with_part(replace(part, kept=True))
        return entry

    def _usage(self, path: Path) -> None:
        if not path.exists():
            return
        for row in read_usage(_content(path)):
            new = insert_new(usage).values(row)
            # Never too few.
            larger = (new.excluded.up + new.excluded.down) > (usage.c.up + usage.c.down)
            self._connection.execute(new.on_conflict_do_update(index_elements=["month"], set_=row, where=larger))

    def _object(self, path: Path, study: bytes, complete: bool) -> None:
        name, sop_class = bytes.fromhex(path.stem), ""
        try:
            dataset = dataset_digest(path)
            before = self._connection.execute(select(arrivals.c.dataset).where(arrivals.c.object == name)).scalar()
            if before is not None and before != dataset:
                raise Unreadable("another object with its UID was received before")
            if before is not None:
                return
            sop_class = glance(path, FileLimits()).text("SOPClassUID")
        except UnreadableDicom:
            log.warning("the class of an object in arrivals cannot be read")
        except OSError as error:
            raise Unreadable(_not_read(error)) from error
        self._insert(batches, {"study": study, "complete": complete})
        this = (batches.c.study == study) & (batches.c.complete == complete)
        batch = self._connection.execute(select(batches.c.batch).where(this)).scalar_one()
        row = {"object": name, "batch": batch, "dataset": dataset, "sop_class": sop_class}
        self._insert(arrivals, row)
        self._link(path, self._data / "arrivals" / path.name)
        self._done.objects += 1

    def _without_reason(self, path: Path) -> None:
        """A refused file whose reason a power cut has lost, or that cannot be read."""
        row = {
            "digest": bytes.fromhex(path.stem),
            "size": path.stat().st_size,
            "kept": True,
            "at": 0,
            "error": "",
            "message": "the reason of this refusal was lost",
            "remedy": "Send the study again to see the reason.",
        }
        self._done.refused += self._insert(quarantine, row)

    def _insert(self, table: Table, row: dict[str, Any]) -> int:
        """Insert a row unless it is there; returns the number of new rows."""
        return self._connection.execute(insert_new(table).values(row).on_conflict_do_nothing()).rowcount

    def _link(self, source: Path, target: Path) -> None:
        if not self._link_files:
            return
        if not target.exists():
            self._disk.make_folder(target.parent)
            with self._disk.full_is_an_error():
                try:
                    os.link(source, target)
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    half = target.with_name(f".{target.name}.tmp")
                    shutil.copyfile(source, half)
                    self._disk.adopt(half, target, "earlier.copy")
            self._disk.step("earlier.link")
        self._folders.add(target.parent)


class _Leftovers:
    """The old files, whose content is in the database: sealed ones are removed, the others move to the safe copy."""

    def __init__(self, data: Path, connection: Connection, disk: Disk) -> None:
        self._data = data
        self._connection = connection
        self._disk = disk
        self._unread = set(connection.execute(select(unreadable.c.path)).scalars())

    def move(self) -> None:
        """Nothing here must be durable: what a power cut brings back is moved by the next start."""
        arrived = self._data / "arrivals"
        emptied = (self._data / "outbox" / "epochs", arrived / "ledger", arrived / "commitments")
        for path in _items(self._data):
            if path.relative_to(self._data).as_posix() in self._unread:
                continue
            if path.name.startswith(_NEW) or path.suffix == _DONE:
                shutil.rmtree(path)
            elif path.suffix == ".dcm":
                path.unlink()
                _remove_if_empty(path.parent)
            else:
                if path.parent.name == "outbox" and path.is_dir():
                    self._remove_sealed(path)
                if path.with_suffix(".announced").exists():
                    self._set_aside(path.with_suffix(".announced"))
                self._set_aside(path)
                if path.parent in emptied:
                    _remove_if_empty(path.parent)
            self._disk.step("earlier.moved")
        for folder in emptied:
            _remove_if_empty(folder)

    def _remove_sealed(self, folder: Path) -> None:
        study = bytes.fromhex(folder.name)
        source = self._connection.execute(select(studies.c.source).where(studies.c.study == study)).scalar()
        named = {} if source is None else {folder / "source.sealed": source}
        kept = select(parts.c.kind, parts.c.object).where(parts.c.study == study, parts.c.kept)
        named |= {_sealed(folder, Kind(row.kind)): row.object for row in self._connection.execute(kept)}
        for path, object in named.items():
            if path.exists() and _same_size(path, _blob(self._data, object)):
                path.unlink()
                self._disk.step("earlier.sealed_removed")
        for half in folder.glob(".*.tmp"):
            half.unlink()

    def _set_aside(self, path: Path) -> None:
        target = self._data / SAFE_COPY / path.relative_to(self._data)
        self._disk.make_folder(target.parent)
        number = 1
        while target.exists():  # an earlier version was run again on the folder
            number += 1
            target = target.with_name(f"{path.name}-{number}")
        path.rename(target)


def _named(folder: Path, length: int, suffix: str) -> Iterator[Path]:
    """The entries of a folder whose names are so many bytes in hex before the suffix."""
    name = re.compile(rf"[0-9a-f]{{{2 * length}}}{re.escape(suffix)}")
    return (path for path in _entries(folder) if name.fullmatch(path.name))


def _entries(folder: Path) -> Iterable[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        for each in found:
            yield Path(each.path)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(_not_read(error, path.name)) from error


def _not_read(error: OSError, name: str = "it") -> str:
    return f"{name} cannot be read ({os.strerror(error.errno or 0)})"


def _sealed(folder: Path, kind: Kind) -> Path:
    """The file of a part, under its former name if version 3 made it."""
    path = folder / f"{kind.name.lower()}.sealed"
    if kind in FORMER_NAMES and not path.exists():
        former = folder / f"{FORMER_NAMES[kind]}.sealed"
        return former if former.exists() else path
    return path


def _may_be(file: Path, part: Part) -> bool:
    """Whether a file may be the part's. The outbox hashes those that it needs at each start; bytes of a missing part
    may be damaged ones."""
    if part.state is PartState.MISSING:
        return _digest_of(file) == part.object
    return file.stat().st_size == part.size


def _digest_of(path: Path) -> Digest:
    try:
        with path.open("rb") as file:
            return Digest(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise Unreadable(_not_read(error, path.name)) from error


def _blob(data: Path, name: Digest) -> Path:
    return data / "blobs" / name.hex()[:2] / name.hex()


def _same_size(first: Path, second: Path) -> bool:
    return second.exists() and first.stat().st_size == second.stat().st_size


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
