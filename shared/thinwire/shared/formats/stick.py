"""The folder of an offline transfer between a clinic and its hub, such as a USB stick.

Layout: docs/offline-transfer.md.

Its content is not trusted: file names are ignored, and the stick may be removed at any moment. A file appears whole
under its name or not at all.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from thinwire.shared.errors import BadInput, DiskFull, StickLost, reason_of
from thinwire.shared.identifiers import Digest, digest
from thinwire.shared.storage.durable import Disk

OBJECTS, RECEIPTS = "objects", "receipts"
SUFFIX = ".sealed"
RESERVE = 1 << 20
"""Bytes of the stick that objects leave free, for the notes of both ends."""
_BLOCK = 1 << 20


class Stick:
    """root: the folder. step: as for `Disk`."""

    def __init__(self, root: Path, step: Callable[[str], None] | None = None) -> None:
        self.root = root
        self._disk = Disk(step, reserve=RESERVE)
        self._small = Disk(step, reserve=0)

    def prepare(self) -> None:
        """Create the folders to write to. Raises BadInput for a missing parent folder, StickLost."""
        with self._reached():
            if not self.root.parent.is_dir() or (self.root.exists() and not self.root.is_dir()):
                raise BadInput("the folder does not exist", "Mount the stick and name a folder on it.")
            for name in (OBJECTS, RECEIPTS):
                self._disk.make_folder(self.root / name)

    def check(self) -> None:
        """Raises BadInput for a folder without an offline transfer."""
        with self._reached():
            if not (self.root / OBJECTS).is_dir() and not (self.root / RECEIPTS).is_dir():
                raise BadInput(
                    "the folder holds no offline transfer",
                    "Mount the stick and name the folder that `export --to` wrote.",
                )

    def objects(self) -> list[Path]:
        """Files for the hub, whatever their names; without half-written ones."""
        return self._files(OBJECTS)

    def replies(self) -> list[Path]:
        """Files for the clinics."""
        return self._files(RECEIPTS)

    def put_object(self, identity: Digest, data: bytes) -> bool:
        """Write an object, durable when this returns; False for an object that was on the stick already, whole.

        identity: SHA-256 of data. Raises DiskFull, StickLost; no file then looks whole.
        """
        return self._put(self.root / OBJECTS, identity, data, self._disk, "offline.object")

    def put_note(self, data: bytes, down: bool = False) -> Path:
        """Write a transfer note, an epoch record or (down) a reply, into the space that objects leave free. Returns
        its path. Raises DiskFull, StickLost."""
        folder, identity = self.root / (RECEIPTS if down else OBJECTS), digest(data)
        self._put(folder, identity, data, self._small, "offline.note")
        return folder / f"{identity.hex()}{SUFFIX}"

    def read(self, path: Path, most: int, offset: int = 0) -> bytes:
        """At most `most` bytes from an offset; not memory-mapped: the stick may be removed. Raises StickLost."""
        with self._reached(), path.open("rb") as file:
            file.seek(offset)
            return file.read(most)

    def identity(self, path: Path) -> tuple[Digest, int]:
        """SHA-256 of a file's bytes and their number. Raises StickLost."""
        whole, size = hashlib.sha256(), 0
        with self._reached(), path.open("rb") as file:
            while block := file.read(_BLOCK):
                whole.update(block)
                size += len(block)
        return Digest(whole.digest()), size

    def remove(self, path: Path) -> None:
        """A missing file is not an error. Raises StickLost."""
        with self._reached():
            self._small.remove(path, "offline.remove")

    def _files(self, name: str) -> list[Path]:
        with self._reached():
            folder = self.root / name
            found = sorted(folder.iterdir()) if folder.is_dir() else []
            return [
                each for each in found if not each.name.startswith(".") and each.is_file() and not each.is_symlink()
            ]

    def _put(self, folder: Path, identity: Digest, data: bytes, disk: Disk, name: str) -> bool:
        path = folder / f"{identity.hex()}{SUFFIX}"
        with self._reached():
            # A stick that was removed may show the name without the bytes, so the bytes are compared.
            if path.exists() and path.stat().st_size == len(data) and self.identity(path)[0] == identity:
                return False
            for half in folder.glob(f".{path.name}.*.tmp"):
                half.unlink(missing_ok=True)
            try:
                disk.write(path, data, name)
            except DiskFull as error:
                raise DiskFull(
                    "the stick is full",
                    "Free space on it or use a larger one, then repeat. Files that are on it are not written again.",
                ) from error
        return True

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StickLost(f"the stick cannot be read or written ({reason_of(error)})") from error
