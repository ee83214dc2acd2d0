"""A folder that carries sealed objects between a clinic and its hub, such as a USB stick.

Layout: docs/offline-transfer.md.

Nothing on it is trusted: a name says nothing, and a stick may be pulled out at any moment. What is written appears
whole under its name or not at all.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from thinwire.shared.errors import BadInput, DiskFull, StickLost
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
        """Make the folders to write to. Raises BadInput where the place of the folder is missing, StickLost."""
        with self._reached():
            if not self.root.parent.is_dir() or (self.root.exists() and not self.root.is_dir()):
                raise BadInput("there is no such folder", "Is the stick in and mounted? Name a folder on it.")
            for name in (OBJECTS, RECEIPTS):
                self._disk.make_folder(self.root / name)

    def check(self) -> None:
        """Raises BadInput where there is nothing that was carried."""
        with self._reached():
            if not (self.root / OBJECTS).is_dir() and not (self.root / RECEIPTS).is_dir():
                raise BadInput(
                    "nothing that thinwire carries is in this folder",
                    "Is the stick in and mounted? Name the folder that `export --to` was given.",
                )

    def objects(self) -> list[Path]:
        """Files that go up, whatever they are called; half-written ones aside."""
        return self._files(OBJECTS)

    def replies(self) -> list[Path]:
        """Files that come down."""
        return self._files(RECEIPTS)

    def put_object(self, identity: Digest, data: bytes) -> bool:
        """Write an object, durable when this returns; False where it was there already, whole.

        identity: SHA-256 of data. Raises DiskFull, StickLost; then nothing of it can be taken for whole.
        """
        return self._put(self.root / OBJECTS, identity, data, self._disk, "carry.object")

    def put_note(self, data: bytes, down: bool = False) -> Path:
        """The same for a waybill, an epoch record or, down, a reply: they use the room that objects leave. Gives the
        file."""
        folder, identity = self.root / (RECEIPTS if down else OBJECTS), digest(data)
        self._put(folder, identity, data, self._small, "carry.note")
        return folder / f"{identity.hex()}{SUFFIX}"

    def read(self, path: Path, most: int, offset: int = 0) -> bytes:
        """A file's bytes from an offset, at most so many. Never mapped, since the stick may go. Raises StickLost."""
        with self._reached(), path.open("rb") as file:
            file.seek(offset)
            return file.read(most)

    def identity(self, path: Path) -> tuple[Digest, int]:
        """SHA-256 of a file's bytes and how many there are. Raises StickLost."""
        whole, size = hashlib.sha256(), 0
        with self._reached(), path.open("rb") as file:
            while block := file.read(_BLOCK):
                whole.update(block)
                size += len(block)
        return Digest(whole.digest()), size

    def remove(self, path: Path) -> None:
        """A missing file is no error. Raises StickLost."""
        with self._reached():
            self._small.remove(path, "carry.remove")

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
            # A stick that was pulled out may show the name and not the bytes: they are looked at, not the name.
            if path.exists() and path.stat().st_size == len(data) and self.identity(path)[0] == identity:
                return False
            for half in folder.glob(f".{path.name}.*.tmp"):
                half.unlink(missing_ok=True)
            try:
                disk.write(path, data, name)
            except DiskFull as error:
                raise DiskFull(
                    "the stick is full",
                    "Free space on it or take a larger one, then repeat: what is on it already is not written again.",
                ) from error
        return True

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StickLost(f"the stick cannot be read or written ({error.strerror or 'no reason given'})") from error
