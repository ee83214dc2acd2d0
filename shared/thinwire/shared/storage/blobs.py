"""Blobs: immutable bytes named by their SHA-256, in a folder (DATA/blobs/ab/<hex>) or an object store
(`object_blobs`).
"""

import errno
import hashlib
import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Set
from pathlib import Path

from thinwire.shared.errors import BadFormat, DiskFull
from thinwire.shared.identifiers import DIGEST_BYTES, Digest, digest
from thinwire.shared.storage.durable import Disk, sweep

PIECE = 1 << 20
"""Bytes of a blob in memory while it is copied."""
PAGE = 500
"""Names of blobs in memory at a time."""


_NAME = re.compile(f"[0-9a-f]{{{2 * DIGEST_BYTES}}}")


_DAMAGE = (errno.ENOENT, errno.EIO, errno.EUCLEAN, errno.EISDIR, errno.ELOOP)
"""The system's errors for a file that is missing, or whose place on the disk cannot be read."""


def _refuse_others(error: OSError) -> None:
    """Raise the error again if it is not of the file itself, such as one of rights or memory."""
    if error.errno not in _DAMAGE:
        raise error


class Blobs(ABC):
    """Safe from any thread and process. Every method may raise StorageFailed, and ObjectStoreBusy where the blobs are
    in an object store."""

    @abstractmethod
    def write(self, data: bytes) -> Digest:
        """Store `data`, durable when this returns; an existing blob is not written again. Raises DiskFull."""

    @abstractmethod
    def copy_from(self, other: "Blobs", name: Digest, step: str) -> int | None:
        """Copy a blob of another place, compared with its digest on the way; durable when this returns. Returns its
        bytes, or None if it is missing or damaged there: then nothing is changed here. Raises DiskFull."""

    @abstractmethod
    def stream(self, name: Digest) -> Iterator[bytes]:
        """The bytes that are here under a name, in pieces of PIECE, not compared; none for a missing blob."""

    @abstractmethod
    def read(self, name: Digest) -> bytes:
        """The bytes of a blob that the database names. Raises BadFormat for a missing or damaged one."""

    @abstractmethod
    def size(self, name: Digest) -> int | None:
        """Bytes; None for a missing blob. The content is not compared."""

    def has(self, name: Digest, size: int) -> bool:
        """Whether something of this name and size is here. Its content is not compared."""
        return self.size(name) == size

    @abstractmethod
    def is_whole(self, name: Digest, size: int | None = None) -> bool:
        """Whether a blob is here with all its bytes. size: bytes, compared before the content is read."""

    @abstractmethod
    def remove(self, name: Digest, step: str) -> None:
        """Remove a blob that the database no longer names; durable when this returns."""

    @abstractmethod
    def move(self, name: Digest, target: "Blobs", step: str) -> None:
        """Move what is here under a name, whole or not, to another place of the same kind; durable when this
        returns."""

    @abstractmethod
    def pages(self) -> Iterator[list[Digest]]:
        """The names of the blobs that are here, at most PAGE at a time. Others than blobs are passed over."""

    @abstractmethod
    def remove_unfinished(self) -> int:
        """Remove half-written files; returns how many. Only while nothing else writes."""

    def sweep(self, named: Set[bytes]) -> int:
        """Remove half-written files and unnamed blobs; returns how many. Only while nothing else writes.

        named: the blobs that stay.
        """
        removed = self.remove_unfinished()
        for page in self.pages():
            for name in page:
                if name not in named:
                    self.remove(name, "store.sweep")
                    removed += 1
        return removed


def name_of(path: str) -> Digest | None:
    """The blob that a file or an object with this path holds; None for another one."""
    last = path.rsplit("/", 1)[-1]
    return Digest(bytes.fromhex(last)) if _NAME.fullmatch(last) else None


class FolderBlobs(Blobs):
    """folder: DATA/blobs."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder = folder
        self._disk = disk
        disk.make_folder(folder)

    def path(self, name: Digest) -> Path:
        """Where a blob lies, if it is here."""
        return self._folder / name.hex()[:2] / name.hex()

    def write(self, data: bytes) -> Digest:
        name = digest(data)
        path = self.path(name)
        if not self.is_whole(name, len(data)):
            self._disk.make_folder(path.parent)
            self._disk.write(path, data, "store.blob")
        else:
            # The process that renamed it may have died before the folder was durable.
            self._disk.sync_folder(path.parent)
        return name

    def copy_from(self, other: Blobs, name: Digest, step: str) -> int | None:
        target = self.path(name)
        size = other.size(name)
        if size is None:
            return None
        try:
            with self._disk.full_is_an_error():
                self._disk.make_folder(target.parent)
                if self._disk.free(target.parent) < size:
                    raise DiskFull(f"no space for {size} bytes")
                beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
                found = hashlib.sha256()
                try:
                    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy:
                        for piece in other.stream(name):
                            found.update(piece)
                            copy.write(piece)
                    if found.digest() != name:
                        return None
                    self._disk.adopt(beside, target, step)
                finally:
                    beside.unlink(missing_ok=True)
                return size
        except OSError as error:
            _refuse_others(error)
            return None

    def size(self, name: Digest) -> int | None:
        try:
            return self.path(name).stat().st_size
        except OSError as error:
            _refuse_others(error)
            return None

    def stream(self, name: Digest) -> Iterator[bytes]:
        try:
            with self.path(name).open("rb") as file:
                while piece := file.read(PIECE):
                    yield piece
        except OSError as error:
            _refuse_others(error)

    def read(self, name: Digest) -> bytes:
        try:
            data = self.path(name).read_bytes()
        except OSError as error:
            _refuse_others(error)
            data = b""
        if digest(data) != name:
            raise BadFormat("a stored part is damaged on the disk", "Restore blobs/ from its backup.")
        return data

    def is_whole(self, name: Digest, size: int | None = None) -> bool:
        try:
            with self.path(name).open("rb") as file:
                if size is not None and os.fstat(file.fileno()).st_size != size:
                    return False
                return hashlib.file_digest(file, "sha256").digest() == name
        except OSError as error:
            _refuse_others(error)
            return False

    def remove(self, name: Digest, step: str) -> None:
        path = self.path(name)
        if path.exists():
            self._disk.remove(path, step)

    def move(self, name: Digest, target: Blobs, step: str) -> None:
        assert isinstance(target, FolderBlobs)
        path = target.path(name)
        self._disk.make_folder(path.parent)
        self._disk.move(self.path(name), path, step)

    def pages(self) -> Iterator[list[Digest]]:
        for folder in sorted(self._folder.glob("[0-9a-f][0-9a-f]/")):
            names = sorted(path.name for path in folder.iterdir() if _NAME.fullmatch(path.name))
            for start in range(0, len(names), PAGE):
                yield [Digest(bytes.fromhex(name)) for name in names[start : start + PAGE]]

    def remove_unfinished(self) -> int:
        return sweep(self._folder)
