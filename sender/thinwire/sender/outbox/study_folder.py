"""One study's folder in the outbox: its state, its sealed bytes, its lock."""

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thinwire.sender.outbox.entries import OutboxEntry, Part, PartEvent, PartState
from thinwire.sender.outbox.tiers import FORMER_NAMES
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import UnknownStudy
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyFolder:
    path: Path
    disk: Disk

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def source(self) -> Path:
        return self.path / "source.sealed"

    @property
    def receipts(self) -> Path:
        return self.path / "receipts"

    def part(self, kind: Kind) -> Path:
        """The file of a part, under its former name if an earlier version made it."""
        path = self.path / f"{kind.name.lower()}.sealed"
        if kind in FORMER_NAMES and not path.exists():
            former = self.path / f"{FORMER_NAMES[kind]}.sealed"
            return former if former.exists() else path
        return path

    def read(self) -> OutboxEntry:
        """Raises UnknownStudy, ValueError for a damaged state."""
        try:
            return OutboxEntry.from_json(self.state.read_bytes())
        except FileNotFoundError as error:
            raise UnknownStudy(f"study {self.path.name} is not in this outbox") from error

    def write(self, entry: OutboxEntry, name: str) -> OutboxEntry:
        self.disk.write(self.state, entry.to_json(), name)
        return entry

    @contextlib.contextmanager
    def locked(self) -> Iterator[OutboxEntry]:
        """The entry, with the folder locked against other processes and threads. Raises UnknownStudy."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError as error:
            raise UnknownStudy(f"study {self.path.name} is not in this outbox") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield self.read()
        finally:
            os.close(handle)

    def check_bytes(self, entry: OutboxEntry) -> OutboxEntry:
        """Compare the stored bytes with the entry: parts with absent or damaged bytes become missing; unneeded
        bytes are removed. The caller holds the lock."""
        for part in entry.parts:
            if part.state not in (PartState.WAITING, PartState.HELD):
                continue
            if not self._holds(part):
                log.warning(
                    "study %s: its %s file is damaged and is made again", self.path.name, part.kind.name.lower()
                )
                entry = self.write(entry.with_part(part.after(PartEvent.DAMAGED)), "part.state")
        self.clear(entry)
        return entry

    def clear(self, entry: OutboxEntry) -> None:
        """Remove unneeded bytes; none while a part is missing, since it may be made from them.

        The source is removed when the originals, which have the same files and text, are stored and undamaged. The
        originals are then the clinic's last copy; `may_delete_last_copy` decides on it.
        """
        if entry.missing:
            return
        originals, last = entry.part(Kind.ORIGINALS), (self.source, self.part(Kind.ORIGINALS))
        for part in entry.parts:
            if part.state is PartState.STORED and part.kind is not Kind.ORIGINALS:
                self._remove(self.part(part.kind))
        if any(each.exists() for each in last) and self.may_delete_last_copy(entry):
            for each in last:
                self._remove(each)
        elif self.source.exists() and self._holds(originals):
            self._remove(self.source)

    def may_delete_last_copy(self, entry: OutboxEntry) -> bool:
        """Whether the clinic may delete its last copy of the study. No other code decides this.

        The hub has every planned part, and the held parts are undamaged, so that nothing has to be made from the copy.
        The caller holds the lock.
        """
        return entry.is_at_hub and all(self._holds(part) for part in entry.parts if part.state is PartState.HELD)

    def _remove(self, path: Path) -> None:
        if path.exists():
            self.disk.remove(path, "clear." + path.stem)

    def _holds(self, part: Part) -> bool:
        """Whether the stored bytes are those of the part."""
        try:
            with self.part(part.kind).open("rb") as file:
                size, found = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256")
                return size == part.size and found.digest() == part.object
        except FileNotFoundError:
            return False
