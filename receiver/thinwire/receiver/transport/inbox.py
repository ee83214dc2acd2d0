"""The inbox: durable incomplete objects, in files here or as pieces in an object store (`pieces`).

Files: one for each object under `inbox/<site>/`. The durable length is known while the hub runs; after a restart
it is the length that the caller verifies (`envelope.verified_length`).
"""

import contextlib
import math
import mmap
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, cast

from thinwire.receiver.store.shares import AGAIN_AFTER, Limit
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import HEADER_BYTES
from thinwire.shared.errors import DiskFull, LimitReached
from thinwire.shared.identifiers import DIGEST_BYTES, Digest, SiteName
from thinwire.shared.storage.durable import Disk

SYNC_BYTES = 256 << 10
STALE = timedelta(days=7)
"""Seconds without progress after which a partial object may be removed for others."""

Trust = Callable[[BinaryIO], int]
"""Returns the verified bytes from a file's start."""


class Partial(ABC):
    """One object in transfer. Used by one session at a time. Methods raise DiskFull, StorageFailed, ObjectStoreBusy,
    and HubBusy where another session goes on with the object."""

    size: int
    length: int
    """Bytes written."""
    enough: int
    """Bytes that are worth to be made durable at once."""

    @property
    @abstractmethod
    def durable(self) -> int:
        """Bytes that survive a power cut."""

    @property
    def unsynced(self) -> int:
        return self.length - self.durable

    @property
    def whole(self) -> bool:
        return self.length == self.size

    @abstractmethod
    def wait(self, asked: bool) -> float:
        """Seconds of silence after which fewer bytes are made durable too. asked: whether the clinic waits for it."""

    @abstractmethod
    def append(self, data: bytes) -> None:
        """Write at the end; not yet durable. After an error it has no effect."""

    @abstractmethod
    def sync(self) -> None:
        """Make the written bytes durable; after an error they are not written any more."""

    @abstractmethod
    def content(self) -> contextlib.AbstractContextManager[bytes]:
        """The whole object, mapped and not read into memory; to be used like bytes within the block."""

    @abstractmethod
    def close(self) -> None:
        """Stop writing and make the written bytes durable; the transfer continues later. A repeat has no effect."""

    @abstractmethod
    def discard(self) -> None:
        """Remove the object's bytes: they are in the store, or useless."""


class Inbox(ABC):
    """One for each hub process; all sessions share it."""

    @abstractmethod
    def open(self, site: SiteName, object: Digest, size: int, trust: Trust, most: int) -> Partial:
        """Continue an object, or begin it. trust: for a file of an earlier process. most: partial objects of the site.

        Raises DiskFull if the rest of it does not fit, LimitReached if the site has too many partial objects.
        """

    @abstractmethod
    def objects(self, site: SiteName) -> list[Digest]:
        """The partial objects of a site."""

    @abstractmethod
    def forget(self, site: SiteName, object: Digest) -> None:
        """Remove what is here of an object, if anything."""

    @abstractmethod
    def size(self, site: SiteName, but: Digest) -> int:
        """Bytes of the partial objects of a site, without those of one object."""

    @abstractmethod
    def headers(self) -> Iterator[tuple[SiteName, Digest, bytes]]:
        """(site, object, its first bytes with the envelope header, or fewer) of every partial object."""

    @abstractmethod
    def sweep(self) -> int:
        """Remove what died with a process and is of no object; returns how many. May be called at any time."""

    @abstractmethod
    def received(self, site: SiteName, wanted: Callable[[bytes], bool]) -> Iterator[BinaryIO]:
        """What is here of the site's objects whose envelope header is wanted, each as a file. May be called while
        another process receives them."""


@dataclass
class FilePartial(Partial):
    """path: of its file."""

    path: Path
    size: int
    disk: Disk
    known: dict[Path, int] = field(repr=False)
    """The inbox's record of durable lengths."""
    handle: int = field(repr=False)
    length: int
    enough: int = SYNC_BYTES

    @property
    def durable(self) -> int:
        return self.known.get(self.path, 0)

    def wait(self, asked: bool) -> float:
        del asked
        return 0.0

    def append(self, data: bytes) -> None:
        self.disk.step("inbox.append.before_write")
        with self.disk.full_is_an_error():
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[os.pwrite(self.handle, rest, self.length + len(data) - len(rest)) :]
            except OSError:
                os.ftruncate(self.handle, self.length)
                raise
        self.length += len(data)
        self.disk.step("inbox.append.done")

    def sync(self) -> None:
        if self.unsynced:
            self.disk.step("inbox.sync.before_fsync")
            try:
                with self.disk.full_is_an_error():
                    os.fdatasync(self.handle)
            except (OSError, DiskFull):
                # The system may have lost these bytes, and calls the next fsync a success (fsync(2), Linux).
                with contextlib.suppress(OSError):
                    os.ftruncate(self.handle, self.durable)
                self.length = self.durable
                raise
            self.known[self.path] = self.length
            self.disk.step("inbox.sync.done")

    @contextlib.contextmanager
    def content(self) -> Iterator[bytes]:
        # Not closed explicitly: a traceback may still hold a view of it, and the last reference closes it.
        yield cast(bytes, mmap.mmap(self.handle, self.size, prot=mmap.PROT_READ))

    def close(self) -> None:
        if self.handle >= 0:
            handle = self.handle
            try:
                self.sync()
            finally:
                self.handle = -1
                os.close(handle)

    def discard(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1
        self.known.pop(self.path, None)
        self.disk.remove(self.path, "inbox.discard")


class FolderInbox(Inbox):
    """folder: DATA/inbox."""

    def __init__(self, folder: Path, disk: Disk, clock: Clock) -> None:
        self.folder = folder
        self._disk = disk
        self._clock = clock
        self._known: dict[Path, int] = {}

    def open(self, site: SiteName, object: Digest, size: int, trust: Trust, most: int) -> FilePartial:
        folder = self.folder / site
        path = folder / object.hex()
        self._disk.make_folder(folder)
        new = not path.exists()
        if new:
            self._evict_oldest(folder, most)
        here = 0 if new else path.stat().st_size
        if self._disk.free(folder) < size - min(here, size):
            raise DiskFull(f"no space for an object of {size} bytes")
        with self._disk.full_is_an_error(), contextlib.ExitStack() as on_error:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            on_error.callback(os.close, handle)
            if new:
                self._disk.step("inbox.create.before_folder_fsync")
                self._disk.sync_folder(folder)
            elif path not in self._known:
                with os.fdopen(os.dup(handle), "rb") as file:
                    trusted = min(trust(file), size)
                # Bytes of a killed process may be in memory only.
                os.fdatasync(handle)
                self._known[path] = trusted
            length = self._known.setdefault(path, 0)
            os.ftruncate(handle, length)
            on_error.pop_all()
        return FilePartial(path, size, self._disk, self._known, handle, length)

    def objects(self, site: SiteName) -> list[Digest]:
        return [Digest(bytes.fromhex(each.name)) for each in sorted((self.folder / site).glob("*")) if _is_name(each)]

    def durable(self, path: Path) -> int:
        """Bytes of a file that this process made durable."""
        return self._known.get(path, 0)

    def forget(self, site: SiteName, object: Digest) -> None:
        path = self.folder / site / object.hex()
        self._known.pop(path, None)
        if path.exists():
            self._disk.remove(path, "inbox.discard")

    def size(self, site: SiteName, but: Digest) -> int:
        folder = self.folder / site
        return sum(each.stat().st_size for each in folder.glob("*") if each.name != but.hex()) if folder.exists() else 0

    def headers(self) -> Iterator[tuple[SiteName, Digest, bytes]]:
        for path in sorted(self.folder.glob("*/" + "?" * 64)):
            try:
                with path.open("rb") as file:
                    head = file.read(HEADER_BYTES)
            except FileNotFoundError:
                continue  # it was completed just now
            yield SiteName(path.parent.name), Digest(bytes.fromhex(path.name)), head

    def sweep(self) -> int:
        return 0

    def received(self, site: SiteName, wanted: Callable[[bytes], bool]) -> Iterator[BinaryIO]:
        for path in sorted((self.folder / site).glob("?" * 64)):
            try:
                with path.open("rb") as file:
                    if wanted(file.read(HEADER_BYTES)):
                        yield file
            except FileNotFoundError:
                continue  # it was completed just now

    def _evict_oldest(self, folder: Path, most: int) -> None:
        files = sorted((each.stat().st_mtime, each) for each in folder.iterdir())
        if len(files) < most:
            return
        moved, oldest = files[0] if files else (math.inf, folder)
        if moved > (self._clock.now() - STALE).timestamp():
            raise LimitReached(
                f"{len(files)} objects of this clinic are already in transfer", Limit.PARTIALS, AGAIN_AFTER
            )
        self._known.pop(oldest, None)
        self._disk.remove(oldest, "inbox.discard")


def _is_name(path: Path) -> bool:
    return re.fullmatch(f"[0-9a-f]{{{2 * DIGEST_BYTES}}}", path.name) is not None
