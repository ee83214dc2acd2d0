"""Takes the state of a clinic's data folder of an earlier version into the database."""

import contextlib
import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, delete, select

from thinwire.sender.outbox.earlier_files import (
    Unreadable,
    read_commitment,
    read_ledger,
    read_receipt,
    read_refusal,
    read_state,
    read_usage,
)
from thinwire.sender.outbox.earlier_folder import (
    COLLECTING,
    COMPLETE,
    NAME_BYTES,
    SAFE_COPY,
    blob_file,
    named,
    sealed_file,
)
from thinwire.sender.outbox.entries import OutboxEntry, Part, PartState
from thinwire.sender.outbox.quarantine import without_reason
from thinwire.sender.outbox.rows import add_entry
from thinwire.sender.outbox.tables import (
    arrivals,
    batches,
    commitments,
    controls,
    epochs,
    ledger,
    quarantine,
    receipts,
    studies,
    unreadable,
    usage,
)
from thinwire.shared.clock import Clock
from thinwire.shared.errors import UnreadableDicom, reason_of
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import DIGEST_BYTES, EPOCH_ID_BYTES, STUDY_KEY_BYTES, Digest, StudyKey
from thinwire.shared.imaging.file_format import dataset_digest
from thinwire.shared.imaging.header import FileLimits, glance
from thinwire.shared.storage.database import insert_new
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)

_REFUSED = ".refused"
_NO_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV))
"""Errors of a file system without hard links: its files are copied."""
_EVERY = 1000
"""Items between two lines of progress."""


@dataclass
class Forwarded:
    """What was brought forward. found: the version of the database before, None without one; needed: whether anything
    was to be done; copy: the safe copy of a database that was migrated. The others count what earlier folders held, and
    what of it cannot be read."""

    found: int | None
    needed: bool = True
    copy: Path | None = None
    studies: int = 0
    objects: int = 0
    refused: int = 0
    unreadable: int = 0


class Import:
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
            # The paths of `items`; those of objects that modalities sent since, and of the safe copy, are others.
            delete(unreadable).where(
                unreadable.c.path.like("outbox/%")
                | unreadable.c.path.like("arrivals/%/%")
                | unreadable.c.path.like("quarantine/%")
            )
        )
        outbox, arrived, refused = self._data / "outbox", self._data / "arrivals", self._data / "quarantine"
        for path in named(outbox / "epochs", EPOCH_ID_BYTES, ".record"):
            with self._item(path):
                self._epoch(path)
        for path in named(outbox, STUDY_KEY_BYTES, ""):
            with self._item(path):
                self._study(path)
        with self._item(outbox / "usage.json"):
            self._usage(outbox / "usage.json")
        if (outbox / "paused").exists():
            self._insert(controls, {"name": "paused", "value": ""})
        for suffix in (COMPLETE, COLLECTING):
            for folder in named(arrived, NAME_BYTES, suffix):
                for path in named(folder, NAME_BYTES, ".dcm"):
                    with self._item(path):
                        self._object(path, bytes.fromhex(folder.stem), suffix == COMPLETE)
        for path in named(arrived / "ledger", NAME_BYTES, ".json"):
            with self._item(path):
                self._insert(ledger, read_ledger(_content(path), bytes.fromhex(path.stem)))
        for path in named(arrived / "commitments", NAME_BYTES, ".json"):
            with self._item(path):
                self._insert(commitments, read_commitment(_content(path)))
        for path in named(refused, DIGEST_BYTES, ".json"):
            with self._item(path):
                row = read_refusal(_content(path), Digest(bytes.fromhex(path.stem)))
                self._done.refused += self._insert(quarantine, row)
        for path in named(refused, DIGEST_BYTES, _REFUSED):
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
            self._link(source, blob_file(self._data, name))
            entry = replace(entry, source=name)
        for part in entry.parts:
            file = sealed_file(folder, part.kind)
            if part.object is not None and file.is_file() and _may_be(file, part):
                self._link(file, blob_file(self._data, part.object))
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
        row = without_reason(Digest(bytes.fromhex(path.stem)), path.stat().st_size)
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


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(_not_read(error, path.name)) from error


def _not_read(error: OSError, name: str = "it") -> str:
    return f"{name} cannot be read ({reason_of(error)})"


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
