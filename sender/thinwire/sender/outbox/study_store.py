"""The studies of the clinic as they are stored: their rows, the blobs that these name, and the only way to change both.

A blob is durable before the transaction that names it, and is removed after the transaction that no longer does.
"""

import contextlib
import fcntl
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, delete, func, insert, select

from thinwire.sender.outbox.deletion import is_secured, may_delete_last_copy, without_unneeded
from thinwire.sender.outbox.entries import OutboxEntry, Part, PartEvent, PartState
from thinwire.sender.outbox.epochs import Epochs
from thinwire.sender.outbox.hub_history import read_history, read_keep
from thinwire.sender.outbox.rows import (
    UnreadableEntry,
    read_entries,
    read_entry,
    remove_entry,
    unsure_studies,
    write_entry,
)
from thinwire.sender.outbox.tables import FILE, parked, parts, studies, unreadable
from thinwire.shared.crypto.envelope import HEADER_BYTES, Kind, open_sealed, peek
from thinwire.shared.errors import BadFormat, Forged, Retryable, UnknownStudy
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import Digest, StudyKey
from thinwire.shared.parked import ParkedItems
from thinwire.shared.storage.blobs import FolderBlobs
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk, flock

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unreadable:
    """Something at the clinic that this version cannot read, and keeps. path: below the data folder."""

    path: str
    reason: str


@dataclass
class Change:
    """A change of one study within a transaction. entry: replaced by the changed one."""

    connection: Connection
    entry: OutboxEntry


class StudyStore:
    """data: the clinic's data folder. Safe from any thread."""

    def __init__(self, data: Path, database: Database, epochs: Epochs) -> None:
        self.folder = data / "outbox"
        """Locks, and the link status for other processes."""
        self.database = database
        self.epochs = epochs
        self.parked = ParkedItems(database, parked, epochs.clock)
        """What the clinic's loops have set aside."""
        self._disk: Disk = epochs.disk
        self._whole: set[Digest] = set()
        """Objects to be sent whose bytes this process made or compared."""
        self._disk.make_folder(self.folder)
        self._blobs = FolderBlobs(data / "blobs", self._disk)

    @contextlib.contextmanager
    def own_link(self) -> Iterator[None]:
        """Hold the lock of the one process that uses the link and repairs the outbox. Raises Retryable."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(flock(self.folder / "link.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise Retryable(
                    "another process already sends from this data folder", "Use that process, or stop it first."
                ) from error
            yield

    @contextlib.contextmanager
    def own_stick(self) -> Iterator[None]:
        """Hold the lock of the one process with an offline transfer; independent of the link. Raises Retryable."""
        try:
            with flock(self.folder / "stick.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield
        except BlockingIOError as error:
            raise Retryable("another export or import is running", "Wait until it ends, then repeat.") from error

    def entry(self, study: StudyKey) -> OutboxEntry:
        """Raises UnknownStudy."""
        with self.database.read() as connection:
            return known_entry(connection, study)

    def is_whole(self, study: StudyKey) -> bool:
        """Whether the outbox has the study, and the bytes from which its missing parts are made."""
        try:
            if self.entry(study).missing:
                self.source(study)
        except UnknownStudy:
            return False
        return True

    def source(self, study: StudyKey) -> bytes:
        """The archive from `accept`, or the originals, which have the same files and text.

        Raises UnknownStudy if neither can be opened: the study must then be sent again.
        """
        entry = self._known(study)
        originals = None if entry is None else entry.part(Kind.ORIGINALS).object
        for name in () if entry is None else (entry.source, originals):
            if name is not None:
                with contextlib.suppress(BadFormat, Forged):
                    return open_sealed(self._blobs.read(name), self.epochs.key)[1]
        raise UnknownStudy(
            f"the bytes of study {study.hex()} are gone or damaged at the clinic", "Send the same study again."
        )

    def plaintext(self, study: StudyKey, kind: Kind) -> bytes | None:
        """The plaintext of a part; None if its bytes are absent or damaged."""
        entry = self._known(study)
        name = None if entry is None else entry.part(kind).object
        if name is not None:
            with contextlib.suppress(BadFormat, Forged):
                header, plaintext = open_sealed(self._blobs.read(name), self.epochs.key)
                return plaintext if (header.kind, header.study) == (kind, study) else None
        return None

    def path(self, study: StudyKey, kind: Kind) -> Path | None:
        """The file with the sealed bytes of a part, or of the source; None if the clinic does not have them."""
        entry = self.entry(study)
        part = entry.part(kind)
        name = entry.source if kind is Kind.SOURCE else part.object if part.kept else None
        return None if name is None else self._blobs.path(name)

    def unreadable(self) -> list[Unreadable]:
        """Everything at the clinic that this version cannot read: rows of the database, and files of an earlier version
        that could not be brought forward. It is kept as it is."""
        with self.database.read() as connection:
            found = [Unreadable(row.path, row.reason) for row in connection.execute(select(unreadable))]
            unsure = read_entries(connection, unsure_studies())
        found += [Unreadable(FILE, str(each)) for each in unsure if isinstance(each, UnreadableEntry)]
        return sorted(found, key=lambda each: (each.path, each.reason))

    def count_unreadable(self) -> int:
        """Number of files that this version cannot read; rows are not examined, so that it is cheap."""
        with self.database.read() as connection:
            return connection.scalar(select(func.count()).select_from(unreadable)) or 0

    def sweep(self) -> list[Digest]:
        """After a start, with `own_link`: remove incomplete files, and blobs that no study has.

        Returns the blobs that stay although no row names them: each may be the last copy of a study, whose row is lost
        when an older copy of the database is restored. They are for `take_back`.
        """
        left: list[Digest] = []
        with contextlib.suppress(BlockingIOError), flock(self.folder / "accept.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            with self.database.read() as connection:
                kept = connection.scalars(select(parts.c.object).where(parts.c.kept))
                sources = connection.scalars(select(studies.c.source).where(studies.c.source.is_not(None)))
                named = {name for name in (*kept, *sources) if name is not None}
            unnamed = (name for page in self._blobs.pages() for name in page if name not in named)
            left = [name for name in unnamed if self._may_be_last_copy(name)]
            self._blobs.sweep(named.union(left))
            self.epochs.sweep()
        return left

    def list_unopened(self, reasons: Mapping[Digest, str]) -> None:
        """List these blobs, which `take_back` could not open, and no others as unreadable."""
        rows = {self._blobs.path(name).relative_to(self.folder.parent).as_posix(): why for name, why in reasons.items()}
        blobs = unreadable.c.path.like("blobs/%")
        with self.database.read() as connection:
            known = {row.path: row.reason for row in connection.execute(select(unreadable).where(blobs))}
        if rows != known:
            at = micros(self.epochs.clock.now())
            with self._transaction("unopened") as connection:
                connection.execute(delete(unreadable).where(blobs))
                for path, reason in rows.items():
                    connection.execute(insert(unreadable).values(path=path, reason=reason, at=at))

    def with_bytes(self) -> list[StudyKey]:
        """The studies of which the clinic has sealed parts."""
        with self.database.read() as connection:
            return [StudyKey(each) for each in connection.scalars(select(parts.c.study).where(parts.c.kept).distinct())]

    def check_stored(self, study: StudyKey) -> None:
        """Compare the stored bytes of a study with its entry: parts with absent or damaged bytes become missing;
        unneeded bytes are removed."""
        with contextlib.suppress(UnknownStudy):
            self._check(study)

    @contextlib.contextmanager
    def _transaction(self, name: str) -> Iterator[Connection]:
        """Steps: name.before_commit, name.committed."""
        with self.database.write() as connection:
            yield connection
            self._disk.step(f"{name}.before_commit")
        self._disk.step(f"{name}.committed")

    @contextlib.contextmanager
    def _change(self, study: StudyKey, name: str, secured: bool = False) -> Iterator[Change]:
        """One change of a study in one transaction; then the bytes that it no longer needs are removed. secured: it
        counts as secured whatever the hub says. Raises UnknownStudy."""
        with self._transaction(name) as connection:
            before = known_entry(connection, study)
            change = Change(connection, before)
            yield change
            secured = secured or _secured(connection, change.entry)
            change.entry, gone = without_unneeded(change.entry, self._holds, secured)
            if change.entry != before:
                write_entry(connection, before, change.entry)
        for each in gone:
            self._blobs.remove(each, "clear.blob")

    def _check(self, study: StudyKey) -> OutboxEntry:
        """Compare the stored bytes with the entry: parts with absent or damaged bytes become missing; unneeded bytes
        are removed."""
        with self.database.read() as connection:
            entry = known_entry(connection, study)
            secured = _secured(connection, entry)
        holds = cache(self._holds)
        here = [part for part in entry.parts if part.state in (PartState.WAITING, PartState.HELD)]
        damaged = [part for part in here if not (part.kept and holds(part))]
        self._whole |= {part.object for part in here if part.object and part.state is PartState.WAITING}
        self._whole -= {part.object for part in damaged}
        if damaged or without_unneeded(entry, holds, secured)[1]:
            with self._change(study, "part") as change:
                for part in damaged:
                    if change.entry.part(part.kind) == part:
                        log.warning(
                            "study %s: its %s file is damaged and is made again", study.hex(), part.kind.name.lower()
                        )
                        lost = replace(part.after(PartEvent.DAMAGED), kept=False)
                        change.entry = change.entry.with_part(lost)
            return change.entry
        return entry

    def _remove(self, study: StudyKey) -> bool:
        """Remove a study with its receipts and bytes, if the clinic may delete its last copy."""
        with self._transaction("purge") as connection:
            entry = known_entry(connection, study)
            # Without bytes there is nothing to keep it for.
            here = entry.source is not None or any(part.kept for part in entry.parts)
            if not may_delete_last_copy(entry, self._holds, secured=not here or _secured(connection, entry)):
                return False
            remove_entry(connection, study)
        for part in entry.parts:
            if part.kept and part.object:
                self._blobs.remove(part.object, "purge.blob")
        return True

    def _holds(self, part: Part) -> bool:
        """Whether the stored bytes are those of the part."""
        return part.object is not None and self._blobs.is_whole(part.object, part.size)

    def _may_be_last_copy(self, name: Digest) -> bool:
        """Whether a blob without a row may hold a study of which nothing else is left."""
        try:
            with self._blobs.path(name).open("rb") as file:
                header = peek(file.read(HEADER_BYTES))
        except Forged:
            return self._blobs.is_whole(name)  # of a later version
        if header.kind not in (Kind.SOURCE, Kind.ORIGINALS):
            return False
        entry = self._known(header.study)
        # At the hub a study loses its name for the blob only when it may lose the blob.
        if entry is not None and may_delete_last_copy(entry, self._holds, secured=True):
            return False
        return not self._can_be_remade(header.study)

    def _can_be_remade(self, study: StudyKey) -> bool:
        with contextlib.suppress(UnknownStudy):
            self.source(study)
            return True
        return False

    def _known(self, study: StudyKey) -> OutboxEntry | None:
        with contextlib.suppress(UnknownStudy):
            return self.entry(study)
        return None


def _secured(connection: Connection, entry: OutboxEntry) -> bool:
    return is_secured(entry, read_keep(connection), read_history(connection))


def known_entry(connection: Connection, study: StudyKey) -> OutboxEntry:
    """Raises UnknownStudy."""
    entry = read_entry(connection, study)
    if entry is None:
        raise UnknownStudy(f"study {study.hex()} is not in this outbox")
    return entry
