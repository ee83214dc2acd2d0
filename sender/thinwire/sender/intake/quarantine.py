"""The quarantine: refused files, unchanged, with their reasons; not under their own names, and with a size limit."""

import hashlib
import json
from datetime import datetime
from pathlib import Path

from thinwire.shared.clock import Clock
from thinwire.shared.errors import ThinwireError
from thinwire.shared.identifiers import Digest, digest
from thinwire.shared.storage.durable import Disk

DEFAULT_LIMIT = 4 << 30
"""Bytes of all files."""

_BESIDE = 4096
"""Bytes counted for the reason and the directory entries of each file."""

_DATA, _REASON = ".refused", ".json"


class Quarantine:
    """A folder of refused files, each named by its SHA-256. The oldest are removed for new ones.

    folder: made on first use. limit: bytes of all files together; of a larger file only the reason is stored.
    """

    def __init__(self, folder: Path, disk: Disk, clock: Clock, limit: int = DEFAULT_LIMIT) -> None:
        self._folder = folder
        self._disk = disk
        self._clock = clock
        self._limit = limit

    def add(self, source: bytes | Path, error: ThinwireError) -> Digest | None:
        """Store a file and its reason, durably; None if it cannot be read. A repeat replaces the reason.

        Raises DiskFull.
        """
        try:
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
            if size > self._limit:
                return self._note(_digest_of(source), size, error, kept=False)
            data = source if isinstance(source, bytes) else source.read_bytes()
        except OSError:
            return None
        self._disk.make_folder(self._folder)
        name = digest(data)
        path = self._folder / (name.hex() + _DATA)
        if not path.exists():
            self._evict_oldest(len(data))
            self._disk.write(path, data, "quarantine.data")
        return self._note(name, len(data), error, kept=True)

    def take_over(self, path: Path, error: ThinwireError) -> Digest:
        """Move a file on the same file system to quarantine, of any size. Raises DiskFull."""
        name, size = _digest_of(path), path.stat().st_size
        if size > self._limit:
            return self._note(name, size, error, kept=False)
        self._disk.make_folder(self._folder)
        self._evict_oldest(size)
        self._disk.adopt(path, self._folder / (name.hex() + _DATA), "quarantine.data")
        return self._note(name, size, error, kept=True)

    def reasons(self) -> list[dict[str, object]]:
        """The refused files with their reasons, oldest first."""
        found = []
        for path in sorted(self._folder.glob("*" + _REASON)) if self._folder.is_dir() else []:
            found.append(json.loads(path.read_text("utf-8")))
        return sorted(found, key=lambda each: (str(each["at"]), str(each["digest"])))

    def _note(self, name: Digest, size: int, error: ThinwireError, kept: bool) -> Digest:
        self._disk.make_folder(self._folder)
        reason = {
            "digest": name.hex(),
            "size": size,
            "kept": kept,
            "at": self._clock.now().isoformat(),
            "error": type(error).__name__,
            "what": str(error),
            "remedy": error.remedy,
        }
        text = json.dumps(reason, indent=2, sort_keys=True) + "\n"
        self._disk.write(self._folder / (name.hex() + _REASON), text.encode(), "quarantine.reason")
        return name

    def _evict_oldest(self, size: int) -> None:
        """Remove the oldest files, and their reasons, until `size` more bytes fit below the limit."""
        size += _BESIDE
        held = sorted((self._at(path), path, path.stat().st_size + _BESIDE) for path in self._folder.glob("*" + _DATA))
        total = sum(each for _, _, each in held)
        for _, path, each in held:
            if total + size <= self._limit:
                return
            self._disk.remove(path, "quarantine.data")
            self._disk.remove(path.with_suffix(_REASON), "quarantine.reason")
            total -= each

    def _at(self, path: Path) -> float:
        """Time of the refusal, in seconds; 0 if a power cut has lost the reason."""
        reason = path.with_suffix(_REASON)
        if not reason.exists():
            return 0.0
        return datetime.fromisoformat(json.loads(reason.read_text("utf-8"))["at"]).timestamp()


def _digest_of(source: bytes | Path) -> Digest:
    """SHA-256 of a file that may be too large for memory. Raises OSError."""
    if isinstance(source, bytes):
        return digest(source)
    with source.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").digest())
