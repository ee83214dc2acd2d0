"""Content-addressed files: DATA/blobs/ab/<SHA-256 hex>. A blob is immutable; its name is its content."""

import errno
import hashlib
import os
import re
import secrets
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


class Blobs:
    """folder: DATA/blobs."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder = folder
        self._disk = disk
        disk.make_folder(folder)

    def path(self, name: Digest) -> Path:
        """Where a blob lies, if it is here."""
        return self._folder / name.hex()[:2] / name.hex()

    def write(self, data: bytes) -> Digest:
        """Store `data`, durable when this returns; an existing blob is not written again. Raises DiskFull."""
        name = digest(data)
        path = self.path(name)
        if not self.is_whole(name, len(data)):
            self._disk.make_folder(path.parent)
            self._disk.write(path, data, "store.blob")
        else:
            # The process that renamed it may have died before the folder was durable.
            self._disk.sync_folder(path.parent)
        return name

    def copy_from(self, other: "Blobs", name: Digest, step: str) -> int | None:
        """Copy a blob of another folder, compared with its digest on the way; durable when this returns. Returns its
        bytes, or None if it is missing or damaged there: then nothing is changed here. Raises DiskFull."""
        target = self.path(name)
        try:
            with other.path(name).open("rb") as source, self._disk.full_is_an_error():
                size = os.fstat(source.fileno()).st_size
                self._disk.make_folder(target.parent)
                if self._disk.free(target.parent) < size:
                    raise DiskFull(f"no space for {size} bytes")
                beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
                found = hashlib.sha256()
                try:
                    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy:
                        while piece := source.read(PIECE):
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

    def has(self, name: Digest, size: int) -> bool:
        """Whether a file of this name and size is here. Its content is not compared."""
        try:
            return self.path(name).stat().st_size == size
        except OSError as error:
            _refuse_others(error)
            return False

    def read(self, name: Digest) -> bytes:
        """The bytes of a blob that the database names. Raises BadFormat for a damaged file."""
        try:
            data = self.path(name).read_bytes()
        except OSError as error:
            _refuse_others(error)
            data = b""
        if digest(data) != name:
            raise BadFormat("a stored part is damaged on the disk", "Restore blobs/ from its backup.")
        return data

    def is_whole(self, name: Digest, size: int | None = None) -> bool:
        """Whether a blob is here with all its bytes. size: bytes, compared before the content is read."""
        try:
            with self.path(name).open("rb") as file:
                if size is not None and os.fstat(file.fileno()).st_size != size:
                    return False
                return hashlib.file_digest(file, "sha256").digest() == name
        except OSError as error:
            _refuse_others(error)
            return False

    def remove(self, name: Digest, step: str) -> None:
        """Remove a blob that the database no longer names; durable when this returns."""
        path = self.path(name)
        if path.exists():
            self._disk.remove(path, step)

    def pages(self) -> Iterator[list[Digest]]:
        """The names of the blobs that are here, in order, at most PAGE at a time. Other files are passed over."""
        for folder in sorted(self._folder.glob("[0-9a-f][0-9a-f]/")):
            names = sorted(path.name for path in folder.iterdir() if _NAME.fullmatch(path.name))
            for start in range(0, len(names), PAGE):
                yield [Digest(bytes.fromhex(name)) for name in names[start : start + PAGE]]

    def remove_unfinished(self) -> int:
        """Remove half-written files; returns how many. Only while nothing else writes."""
        return sweep(self._folder)

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
