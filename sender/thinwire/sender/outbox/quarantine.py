"""The quarantine: refused files, unchanged, with their reasons; not under their own names, and with a size limit.

Files: DATA/quarantine/<SHA-256>.refused; reasons: table `quarantine`. A file gets its name and its row in one
transaction, and loses its row before it is removed. A file without a row, as when an older copy of the database was
restored, gets one without a reason, and is the first to make room.
"""

import hashlib
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection, case, delete, func, insert, select

from thinwire.sender.outbox.tables import quarantine
from thinwire.shared.clock import Clock
from thinwire.shared.errors import DiskFull, ThinwireError
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import DIGEST_BYTES, Digest, digest
from thinwire.shared.storage.database import Database, insert_new
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 4 << 30
"""Bytes of all files."""

_BESIDE = 4096
"""Bytes counted for the reason and the directory entry of each file."""
_SUFFIX, _HALF = ".refused", ".tmp"
_NAME = re.compile(rf"[0-9a-f]{{{2 * DIGEST_BYTES}}}\{_SUFFIX}")
_COPY_LIFE = timedelta(days=1)
"""Age after which no other process can still be writing a copy."""
_CHUNK = 1 << 20
_MOST_NAMES = 500
"""Names in one query."""


class Quarantine:
    """A folder of refused files, each named by its SHA-256. The oldest are removed for new ones.

    folder: DATA/quarantine, made on first use. limit: bytes of all files together; of a larger file only the reason is
    stored. Any number of processes may use one quarantine.
    """

    def __init__(self, folder: Path, database: Database, disk: Disk, clock: Clock, limit: int = DEFAULT_LIMIT) -> None:
        self._folder = folder
        self._database = database
        self._disk = disk
        self._clock = clock
        self._limit = limit

    def add(self, source: bytes | Path, error: ThinwireError) -> Digest | None:
        """Store a file and its reason, durably; None if it cannot be read. A repeat replaces the reason.

        A file of any size is copied in chunks. Raises DiskFull, DatabaseBusy.
        """
        try:
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
            if size > self._limit:
                return self._record(_digest_of(source), size, error)
            self._disk.make_folder(self._folder)
            if self._disk.free(self._folder) < size:
                raise DiskFull(f"no space for {size} bytes")
            with self._disk.full_is_an_error():
                copy, name, size = self._copy(source)
        except OSError:
            return None
        return self._keep(copy, name, size, error)

    def take_over(self, path: Path, error: ThinwireError) -> Digest:
        """Move a file on the same file system to quarantine, of any size. Raises DiskFull, DatabaseBusy."""
        name, size = _digest_of(path), path.stat().st_size
        if size > self._limit:
            return self._record(name, size, error)
        self._disk.make_folder(self._folder)
        half = self._folder / f".{name.hex()}.{secrets.token_hex(8)}{_HALF}"
        self._disk.adopt(path, half, "quarantine.taken")
        return self._keep(half, name, size, error)

    def path(self, name: Digest) -> Path | None:
        """A refused file; None if it is not kept."""
        path = self._path(name)
        return path if path.exists() else None

    def release(self, name: Digest) -> None:
        """Forget a file that was accepted meanwhile."""
        with self._database.write() as connection:
            connection.execute(delete(quarantine).where(quarantine.c.digest == name))
            self._disk.step("quarantine.release.before_commit")
        self._clear([name])

    def reasons(self, most: int | None = None) -> list[dict[str, object]]:
        """The refused files with their reasons, oldest first. most: only so many of the newest."""
        newest = select(quarantine).order_by(quarantine.c.at.desc(), quarantine.c.digest.desc()).limit(most)
        with self._database.read() as connection:
            rows = connection.execute(newest).all()
        return [
            {
                "digest": row.digest.hex(),
                "size": row.size,
                "kept": row.kept,
                "at": moment(row.at).isoformat(),
                "error": row.error,
                "what": row.message,
                "remedy": row.remedy,
            }
            for row in reversed(rows)
        ]

    def count(self) -> int:
        """Number of refused files with a reason."""
        with self._database.read() as connection:
            return connection.execute(select(func.count()).select_from(quarantine)).scalar_one()

    def recover(self) -> None:
        """After a start: give files without a row one, and remove copies that a power cut left."""
        if not self._folder.is_dir():
            return
        old = (self._clock.now() - _COPY_LIFE).timestamp()
        found = []
        for each in os.scandir(self._folder):
            if _NAME.fullmatch(each.name):
                found.append(Digest(bytes.fromhex(each.name.removesuffix(_SUFFIX))))
            elif each.name.endswith(_HALF) and each.stat().st_mtime < old:
                Path(each.path).unlink(missing_ok=True)
        for start in range(0, len(found), _MOST_NAMES):
            self._name_unnamed(found[start : start + _MOST_NAMES])
        with self._database.read() as connection:
            kept = connection.execute(select(func.count()).where(quarantine.c.kept)).scalar_one()
        if kept > len(found):
            log.error("%d refused files are missing in quarantine: only their reasons are left", kept - len(found))

    def _keep(self, half: Path, name: Digest, size: int, error: ThinwireError) -> Digest:
        """Store a durable file beside the others under its own name."""
        try:
            return self._record(name, size, error, half)
        finally:
            half.unlink(missing_ok=True)

    def _record(self, name: Digest, size: int, error: ThinwireError, file: Path | None = None) -> Digest:
        """Store the reason, and the file unless it is here; then remove what had to make room. file: durable, so that
        no other process waits for its bytes."""
        with self._database.write() as connection:
            connection.execute(delete(quarantine).where(quarantine.c.digest == name))
            gone = self._evict_oldest(connection, size if file else 0)
            # Under the database's lock, so that no other process takes the file for one without a row.
            if file is not None and not self._path(name).exists():
                self._disk.move(file, self._path(name), "quarantine.data")
            row = {
                "digest": name,
                "size": size,
                "kept": file is not None,
                "at": micros(self._clock.now()),
                "error": type(error).__name__,
                "message": str(error),
                "remedy": error.remedy,
            }
            connection.execute(insert(quarantine).values(row))
            self._disk.step("quarantine.row.before_commit")
        self._disk.step("quarantine.row.committed")
        self._clear(gone)
        return name

    def _evict_oldest(self, connection: Connection, size: int) -> list[Digest]:
        """Remove the oldest rows until `size` more bytes fit below the limit; returns their digests."""
        counted = case((quarantine.c.kept, quarantine.c.size), else_=0) + _BESIDE
        total = connection.execute(select(func.coalesce(func.sum(counted), 0))).scalar_one() + size + _BESIDE
        if total <= self._limit:
            return []
        gone = []
        oldest = select(quarantine.c.digest, counted).order_by(quarantine.c.at, quarantine.c.digest)
        for name, each in connection.execute(oldest):
            if total <= self._limit:
                break
            gone.append(Digest(name))
            total -= each
        for start in range(0, len(gone), _MOST_NAMES):
            names = gone[start : start + _MOST_NAMES]
            connection.execute(delete(quarantine).where(quarantine.c.digest.in_(names)))
        return gone

    def _name_unnamed(self, names: Sequence[Digest]) -> None:
        """Give the files of these digests that have no row one without a reason."""
        with self._database.read() as connection:
            rows = select(quarantine.c.digest).where(quarantine.c.digest.in_(names), quarantine.c.kept)
            kept = set(connection.execute(rows).scalars())
        for name in names:
            if name not in kept:
                with self._database.write() as connection:
                    if self._path(name).exists():  # another process may have removed it
                        row = without_reason(name, self._path(name).stat().st_size)
                        connection.execute(insert_new(quarantine).values(row).on_conflict_do_nothing())

    def _clear(self, names: Sequence[Digest]) -> None:
        """Remove the files of these digests that have no row."""
        if not names:
            return
        with self._database.write() as connection:
            rows = select(quarantine.c.digest).where(quarantine.c.digest.in_(names), quarantine.c.kept)
            kept = set(connection.execute(rows).scalars())
            for name in names:
                if name not in kept:
                    self._disk.remove(self._path(name), "quarantine.remove")

    def _path(self, name: Digest) -> Path:
        return self._folder / (name.hex() + _SUFFIX)

    def _copy(self, source: bytes | Path) -> tuple[Path, Digest, int]:
        """A durable copy beside the files; its digest and size. Raises OSError."""
        handle, name = tempfile.mkstemp(prefix=".", suffix=_HALF, dir=self._folder)
        copy, found, size = Path(name), hashlib.sha256(), 0
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in [source] if isinstance(source, bytes) else _chunks(source):
                    file.write(chunk)
                    found.update(chunk)
                    size += len(chunk)
                self._disk.step("quarantine.copy.before_fsync")
                file.flush()
                os.fsync(handle)
        except BaseException:
            copy.unlink()
            raise
        return copy, Digest(found.digest()), size


def without_reason(name: Digest, size: int) -> dict[str, object]:
    """The row of a refused file whose reason is lost."""
    return {
        "digest": name,
        "size": size,
        "kept": True,
        "at": 0,
        "error": "",
        "message": "the reason of this refusal was lost",
        "remedy": "Send the study again to see the reason.",
    }


def _chunks(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _digest_of(source: bytes | Path) -> Digest:
    """SHA-256 of a file that may be too large for memory. Raises OSError."""
    if isinstance(source, bytes):
        return digest(source)
    with source.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").digest())
