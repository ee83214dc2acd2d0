"""Content-addressed files: DATA/blobs/ab/<SHA-256 hex>. A blob is immutable; its name is its content."""

from collections.abc import Set
from pathlib import Path

from thinwire.shared.errors import BadFormat
from thinwire.shared.identifiers import DIGEST_BYTES, Digest, digest
from thinwire.shared.storage.durable import Disk, sweep


class Blobs:
    """folder: DATA/blobs."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder = folder
        self._disk = disk
        disk.make_folder(folder)

    def write(self, data: bytes) -> Digest:
        """Store `data`, durable when this returns; an existing blob is not written again. Raises DiskFull."""
        name = digest(data)
        path = self._path(name)
        if not path.exists():
            self._disk.make_folder(path.parent)
            self._disk.write(path, data, "store.blob")
        else:
            # The process that renamed it may have died before the folder was durable.
            self._disk.sync_folder(path.parent)
        return name

    def read(self, name: Digest) -> bytes:
        """The bytes of a blob that the database names. Raises BadFormat for a damaged file."""
        path = self._path(name)
        data = path.read_bytes() if path.exists() else b""
        if digest(data) != name:
            raise BadFormat("a stored part is damaged on the disk", "Restore blobs/ from its backup.")
        return data

    def sweep(self, named: Set[bytes]) -> int:
        """Remove half-written files and blobs outside `named`; returns how many. Only while nothing else writes."""
        removed = sweep(self._folder)
        for path in sorted(self._folder.glob(f"??/{'?' * 2 * DIGEST_BYTES}")):
            if bytes.fromhex(path.name) not in named:
                self._disk.remove(path, "store.sweep")
                removed += 1
        return removed

    def _path(self, name: Digest) -> Path:
        return self._folder / name.hex()[:2] / name.hex()
