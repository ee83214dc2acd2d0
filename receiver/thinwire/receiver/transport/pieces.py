"""The inbox of several replicas: received bytes are pieces, named by rows, so that any replica goes on with an object.

A small piece is a row; before they become many, small pieces are joined to an object in the object store. A piece is
stored and confirmed, then its row is committed, then it is acknowledged. The rows alone say what is durable: an object
that no row names is of a process that died, and is removed after a day. Tables: docs/store-format.md.
"""

import contextlib
import logging
import mmap
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, tuple_, update

from thinwire.receiver.store.shares import AGAIN_AFTER, Limit
from thinwire.receiver.store.tables import partials, pieces
from thinwire.receiver.transport.inbox import STALE, Inbox, Partial, Trust
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import HEADER_BYTES
from thinwire.shared.errors import HubBusy, LimitReached, Retryable, told
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import Digest, SiteName
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.object_store import ObjectStore

log = logging.getLogger(__name__)

ENOUGH = 1 << 20
"""Bytes of an object that are stored at once."""
OBJECT_BYTES = 256 << 10
"""Bytes from which a piece is an object; fewer are rows until they are so many together."""
WAIT = 1.0
"""Seconds that fewer bytes wait for more, unless the clinic waits for them."""
SWEEP_AFTER = timedelta(days=1)
"""Age of an object without a row, by the store's clock: a row is committed seconds after its object is stored."""
PAGE = 500
"""Rows in memory at a time."""
_UNDER = "pieces"


@dataclass
class PiecePartial(Partial):
    """holder: names this session. stored: bytes from the start whose pieces are objects."""

    inbox: "PieceInbox"
    site: SiteName
    object: Digest
    size: int
    holder: bytes = field(repr=False)
    _durable: int
    stored: int
    length: int = field(init=False)
    enough: int = ENOUGH
    _waiting: bytearray = field(default_factory=bytearray, repr=False)
    _open: bool = True

    def __post_init__(self) -> None:
        self.length = self._durable

    @property
    def durable(self) -> int:
        return self._durable

    def wait(self, asked: bool) -> float:
        return 0.0 if asked else WAIT

    def append(self, data: bytes) -> None:
        self.inbox.disk.step("inbox.append.before_write")
        self._waiting += data
        self.length += len(data)
        self.inbox.disk.step("inbox.append.done")

    def sync(self) -> None:
        if not self.unsynced:
            return
        data = bytes(self._waiting)
        self._waiting.clear()
        self.length = self._durable
        if self._durable + len(data) - self.stored >= OBJECT_BYTES:
            self.stored = self.inbox.add_object(self, data)
        else:
            self.inbox.add_row(self, data)
        self.length = self._durable = self._durable + len(data)
        self.inbox.disk.step("inbox.sync.done")

    @contextlib.contextmanager
    def content(self) -> Iterator[bytes]:
        with self.inbox.joined(self.site, self.object) as file:
            if file.seek(0, 2) != self._durable:
                raise self.inbox.lost(self)
            file.write(self._waiting)
            file.flush()
            # Not closed explicitly: a traceback may still hold a view of it, and the last reference closes it.
            yield cast(bytes, mmap.mmap(file.fileno(), self.size, prot=mmap.PROT_READ))

    def close(self) -> None:
        if self._open:
            self._open = False
            self.sync()

    def discard(self) -> None:
        self._open = False
        self._waiting.clear()
        self.inbox.forget(self.site, self.object)


class PieceInbox(Inbox):
    """folder: of this machine, for objects while they are joined."""

    def __init__(self, database: Database, store: ObjectStore, folder: Path, disk: Disk, clock: Clock) -> None:
        self._database = database
        self._store = store
        self._folder = folder
        self.disk = disk
        self._clock = clock

    def open(self, site: SiteName, object: Digest, size: int, trust: Trust, most: int) -> PiecePartial:
        del trust  # a row is committed after its bytes are durable, so that all of them are trusted
        holder, this = secrets.token_bytes(16), _this(site, object)
        gone: list[str] = []
        with self._database.write(turn=site) as connection:
            known = connection.execute(select(partials.c.size, partials.c.durable).where(this)).one_or_none()
            if known is not None and known.size == size:
                durable, now = known.durable, micros(self._clock.now())
                connection.execute(update(partials).where(this).values(holder=holder, moved=now))
            else:
                gone += _remove(connection, site, object)
                gone += self._evict_oldest(connection, site, most)
                durable, now = 0, micros(self._clock.now())
                row = {"site": site, "object": object, "size": size, "durable": 0, "head": b"", "moved": now}
                connection.execute(insert(partials).values(**row, holder=holder))
            end = func.max(pieces.c.start + pieces.c.size)
            stored = connection.scalar(select(end).where(_of(site, object), pieces.c.name.is_not(None))) or 0
        self._remove_objects(gone)
        return PiecePartial(self, site, object, size, holder, durable, stored)

    def add_row(self, partial: PiecePartial, data: bytes) -> None:
        """Commit received bytes as a row."""
        self.disk.step("inbox.piece.before_commit")
        with self._database.write(turn=partial.site) as connection:
            self._move_on(connection, partial, data)
            row = {"start": partial.durable, "size": len(data), "data": data}
            connection.execute(insert(pieces).values(site=partial.site, object=partial.object, **row))

    def add_object(self, partial: PiecePartial, data: bytes) -> int:
        """Store received bytes as an object, with the rows before it, and commit its row in their place; returns where
        it ends. The name is new: whoever fails to commit its row leaves nothing that a row names."""
        this = _of(partial.site, partial.object) & (pieces.c.start >= partial.stored)
        with self._database.read() as connection:
            before = connection.scalars(select(pieces.c.data).where(this).order_by(pieces.c.start)).all()
        whole = b"".join([*(each or b"" for each in before), data])
        if partial.stored + len(whole) != partial.durable + len(data):
            raise _overtaken()
        name = secrets.token_bytes(16)
        self._store.put(_path(name), whole, "inbox.piece")
        self.disk.step("inbox.piece.before_commit")
        try:
            with self._database.write(turn=partial.site) as connection:
                self._move_on(connection, partial, data)
                connection.execute(delete(pieces).where(this))
                row = {"start": partial.stored, "size": len(whole), "name": name}
                connection.execute(insert(pieces).values(site=partial.site, object=partial.object, **row))
        except HubBusy:
            self._remove_objects([_path(name)])
            raise
        return partial.stored + len(whole)

    def _move_on(self, connection: Connection, partial: PiecePartial, data: bytes) -> None:
        """Raises HubBusy where another session received the same bytes, or ended the object."""
        mine = _this(partial.site, partial.object) & (partials.c.holder == partial.holder)
        row: dict[str, Any] = {"durable": partial.durable + len(data), "moved": micros(self._clock.now())}
        if partial.durable == 0:
            row["head"] = data[:HEADER_BYTES]
        moved = update(partials).where(mine, partials.c.durable == partial.durable).values(row)
        if connection.execute(moved).rowcount != 1:
            raise _overtaken()

    def lost(self, partial: PiecePartial) -> HubBusy:
        """The error where the pieces are not those that this session knows. If no other session has the object,
        a piece is gone, as from a restored bucket: then all are removed, and the clinic sends the object again."""
        mine = _this(partial.site, partial.object) & (partials.c.holder == partial.holder)
        with self._database.write(turn=partial.site) as connection:
            if connection.scalar(select(partials.c.size).where(mine)) is None:
                return _overtaken()
            gone = _remove(connection, partial.site, partial.object)
        self._remove_objects(gone)
        return HubBusy("received bytes of an object are gone")

    @contextlib.contextmanager
    def joined(self, site: SiteName, object: Digest) -> Iterator[BinaryIO]:
        """The durable bytes of an object in a file that is gone with the block; fewer where a piece is missing."""
        query = select(pieces.c.start, pieces.c.size, pieces.c.name).where(_of(site, object)).order_by(pieces.c.start)
        self.disk.make_folder(self._folder)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        with tempfile.TemporaryFile(dir=self._folder) as file, self.disk.full_is_an_error():
            for row in rows:
                if file.tell() != row.start or not self._write_to(file, site, object, row.start, row.name, row.size):
                    break
            yield cast(BinaryIO, file)

    def _write_to(
        self, file: BinaryIO, site: SiteName, object: Digest, start: int, name: bytes | None, size: int
    ) -> bool:
        """Append one piece; False if it is missing."""
        if name is None:
            with self._database.read() as connection:
                data = connection.scalar(select(pieces.c.data).where(_of(site, object), pieces.c.start == start))
        else:
            data = self._store.get(_path(name))
        if data is None or len(data) != size:
            return False
        file.write(data)
        return True

    def received(self, site: SiteName, wanted: Callable[[bytes], bool]) -> Iterator[BinaryIO]:
        query = select(partials.c.object, partials.c.head).where(partials.c.site == site).order_by(partials.c.object)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            if wanted(row.head):
                with self.joined(site, Digest(row.object)) as file:
                    file.seek(0)
                    yield file

    def objects(self, site: SiteName) -> list[Digest]:
        query = select(partials.c.object).where(partials.c.site == site).order_by(partials.c.object)
        with self._database.read() as connection:
            return [Digest(each) for each in connection.scalars(query)]

    def forget(self, site: SiteName, object: Digest) -> None:
        with self._database.read() as connection:
            if connection.scalar(select(partials.c.size).where(_this(site, object))) is None:
                return
        self.disk.step("inbox.discard.before_commit")
        with self._database.write(turn=site) as connection:
            gone = _remove(connection, site, object)
        self.disk.step("inbox.discard.committed")
        self._remove_objects(gone)

    def size(self, site: SiteName, but: Digest) -> int:
        query = select(func.sum(partials.c.durable)).where(partials.c.site == site, partials.c.object != but)
        with self._database.read() as connection:
            return int(connection.scalar(query) or 0)

    def headers(self) -> Iterator[tuple[SiteName, Digest, bytes]]:
        query = select(partials.c.site, partials.c.object, partials.c.head).limit(PAGE)
        query = query.order_by(partials.c.site, partials.c.object)
        last: tuple[str, bytes] = ("", b"")
        while True:
            with self._database.read() as connection:
                rows = connection.execute(query.where(tuple_(partials.c.site, partials.c.object) > tuple_(*last))).all()
            yield from ((SiteName(row.site), Digest(row.object), row.head) for row in rows)
            if len(rows) < PAGE:
                return
            last = rows[-1].site, rows[-1].object

    def sweep(self) -> int:
        before, removed = self._clock.now() - SWEEP_AFTER, 0
        for page in self._store.pages(_UNDER):
            old = {_name(each.name): each.name for each in page if each.modified < before}
            with self._database.read() as connection:
                named = set(connection.scalars(select(pieces.c.name).where(pieces.c.name.in_(old))))
            gone = [path for name, path in old.items() if name not in named]
            self._store.remove(gone)
            removed += len(gone)
        return removed

    def _evict_oldest(self, connection: Connection, site: SiteName, most: int) -> list[str]:
        mine = partials.c.site == site
        count = connection.scalar(select(func.count()).select_from(partials).where(mine)) or 0
        if count < most:
            return []
        query = select(partials.c.object, partials.c.moved).where(mine).order_by(partials.c.moved).limit(1)
        oldest = connection.execute(query).one_or_none()
        if oldest is None or oldest.moved > micros(self._clock.now() - STALE):
            raise LimitReached(f"{count} objects of this clinic are already in transfer", Limit.PARTIALS, AGAIN_AFTER)
        return _remove(connection, site, Digest(oldest.object))

    def _remove_objects(self, paths: list[str]) -> None:
        """`sweep` removes those that stay."""
        try:
            self._store.remove(paths)
        except Retryable as error:
            log.warning("pieces of an object are not removed yet: %s", told(error))


def _overtaken() -> HubBusy:
    return HubBusy("another stream of this clinic goes on with the object")


def _this(site: SiteName, object: Digest) -> ColumnElement[bool]:
    return and_(partials.c.site == site, partials.c.object == object)


def _of(site: SiteName, object: Digest) -> ColumnElement[bool]:
    return and_(pieces.c.site == site, pieces.c.object == object)


def _path(name: bytes) -> str:
    return f"{_UNDER}/{name.hex()[:2]}/{name.hex()}"


def _name(path: str) -> bytes:
    """Of the object's path; empty for another one, which `sweep` removes too: the place is for pieces alone."""
    found = re.fullmatch(f"{_UNDER}/[0-9a-f]{{2}}/([0-9a-f]{{32}})", path)
    return bytes.fromhex(found[1]) if found else b""


def _remove(connection: Connection, site: SiteName, object: Digest) -> list[str]:
    """Remove the rows of an object; returns its objects in the store."""
    names = connection.scalars(select(pieces.c.name).where(_of(site, object), pieces.c.name.is_not(None))).all()
    connection.execute(delete(pieces).where(_of(site, object)))
    connection.execute(delete(partials).where(_this(site, object)))
    return [_path(each) for each in names]
