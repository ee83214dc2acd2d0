"""The durable memory of a watched folder: what was taken of it, for as long as the folder has it. Table `watched`."""

import hmac
import os
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import delete, select, update

from thinwire.sender.outbox.tables import watched
from thinwire.shared.clock import Clock
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import Digest
from thinwire.shared.storage.database import Database, insert_new

ABSENT = timedelta(days=7)
"""A file that the folder has not had for so long is forgotten: a network share that is away for a night comes back."""
_NAME_BYTES = 16
_AT_ONCE = 500
"""Rows of one statement."""


class Stamp(NamedTuple):
    """What changes when the content of a file does."""

    size: int
    modified: int
    """Nanoseconds."""
    inode: int
    """Modulo 2^63."""


class Taken(NamedTuple):
    """A file that was taken."""

    stamp: Stamp
    digest: Digest
    refusals: int
    """Refusals in a row."""
    gone: bool = False
    """The folder no longer has it."""


class WatchedFiles:
    """The memory of one folder. signing: the site's key, 32 bytes, from which names are keyed: a file's name may be a
    patient's."""

    def __init__(
        self, database: Database, folder: Path, signing: bytes, step: Callable[[str], None], clock: Clock
    ) -> None:
        self._database = database
        self._step = step
        self._clock = clock
        self._key = HKDF(SHA256(), 32, salt=None, info=b"thinwire watched v1").derive(signing)
        self._folder = self._digest(os.fsencode(folder))

    def name(self, path: str) -> bytes:
        """The keyed digest of a path below the folder, 16 bytes."""
        return self._digest(os.fsencode(path))

    def all(self) -> dict[bytes, Taken]:
        """Everything that was taken, by name."""
        columns = watched.c.name, watched.c.size, watched.c.modified, watched.c.inode
        more = watched.c.digest, watched.c.refusals, watched.c.gone_at
        with self._database.read() as connection:
            rows = connection.execute(select(*columns, *more).where(watched.c.folder == self._folder)).all()
        return {
            name: Taken(Stamp(size, modified, inode), digest, refusals, gone is not None)
            for name, size, modified, inode, digest, refusals, gone in rows
        }

    def of(self, name: bytes) -> Taken | None:
        query = select(watched).where(watched.c.folder == self._folder, watched.c.name == name)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        stamp = Stamp(row.size, row.modified, row.inode)
        return Taken(stamp, Digest(row.digest), row.refusals, row.gone_at is not None)

    def remember(self, taken: Mapping[bytes, Taken]) -> None:
        """Durable when this returns. Raises DiskFull, StorageFailed, DatabaseBusy."""
        if not taken:
            return
        rows = [
            {
                "folder": self._folder,
                "name": name,
                "size": each.stamp.size,
                "modified": each.stamp.modified,
                "inode": each.stamp.inode,
                "digest": each.digest,
                "refusals": each.refusals,
                "gone_at": None,
            }
            for name, each in taken.items()
        ]
        new = insert_new(watched)
        others = {name: new.excluded[name] for name in rows[0] if name not in ("folder", "name")}
        with self._database.write() as connection:
            connection.execute(new.on_conflict_do_update(index_elements=["folder", "name"], set_=others), rows)
            self._step("watched.before_commit")
        self._step("watched.committed")

    def seen(self, gone: Collection[bytes], back: Collection[bytes]) -> None:
        """After a look at the whole folder: what it no longer has, and what it has again. What it has not had for long
        is forgotten."""
        now, mine = self._clock.now(), watched.c.folder == self._folder
        old = mine & (watched.c.gone_at < micros(now - ABSENT))
        with self._database.read() as connection:
            forgotten = connection.execute(select(watched.c.name).where(old).limit(1)).first()
        if not (gone or back or forgotten):
            return
        with self._database.write() as connection:
            for names, at in ((list(gone), micros(now)), (list(back), None)):
                for start in range(0, len(names), _AT_ONCE):
                    these = mine & watched.c.name.in_(names[start : start + _AT_ONCE])
                    connection.execute(update(watched).where(these).values(gone_at=at))
            connection.execute(delete(watched).where(old))

    def _digest(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, "sha256")[:_NAME_BYTES]
