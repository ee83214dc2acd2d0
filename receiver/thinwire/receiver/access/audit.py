"""The audit log: an append-only hash chain of messages. Format: docs/store-format.md.

The digest of a message is SHA-256 of the digest before it and its bytes, so that a changed, removed or inserted message
breaks all later digests. Removed messages at the end are found only by a comparison with a head from elsewhere.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select

from thinwire.receiver.access.audit_message import Message
from thinwire.receiver.store.tables import audit as table
from thinwire.shared.errors import BadFormat
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import Digest
from thinwire.shared.storage.database import Database

GENESIS = Digest(hashlib.sha256(b"thinwire audit v1").digest())
PAGE = 1000
_REMEDY = "Keep this database as evidence, and compare it with a backup from before."


@dataclass(frozen=True)
class Head:
    """The number of messages and the digest of the last."""

    number: int
    digest: Digest

    def __str__(self) -> str:
        return f"{self.number}:{self.digest.hex()}"


@dataclass(frozen=True)
class AuditEntry:
    number: int
    at: datetime
    message: str


class Audit:
    """Safe from any thread and process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, message: Message) -> None:
        """Append a message; durable when this returns. Raises DiskFull, HubBusy: then the act must not happen."""
        with self._database.write() as connection:
            append(connection, message)

    def head(self) -> Head:
        with self._database.read() as connection:
            return _head(connection)

    def newest(self, before: int | None, count: int) -> list[AuditEntry]:
        """The newest messages, newest first. before: only those with a lower number."""
        query = select(table).order_by(table.c.number.desc()).limit(count)
        with self._database.read() as connection:
            rows = connection.execute(query if before is None else query.where(table.c.number < before)).all()
        return [AuditEntry(row.number, moment(row.at), row.message) for row in rows]

    def verify(self, noted: Head | None = None) -> Head:
        """Follow the whole chain; returns its head. noted: a head from before, which must stand in the chain.

        Raises BadFormat that names the first message that does not hold.
        """
        last, seen = Head(0, GENESIS), noted is None
        for number, message, kept in self._rows():
            follows = Head(number, _chained(last.digest, message))
            if number != last.number + 1 or kept != follows.digest:
                raise BadFormat(f"the audit log is broken at message {last.number + 1}", _REMEDY)
            last = follows
            seen = seen or last == noted
        if not (seen or noted == last):
            raise BadFormat(f"the audit log does not hold the head {noted}: messages are missing", _REMEDY)
        return last

    def messages(self) -> Iterator[str]:
        """Every message, oldest first."""
        return (message for _, message, _ in self._rows())

    def _rows(self) -> Iterator[tuple[int, str, bytes]]:
        last = 0
        while True:
            query = select(table).where(table.c.number > last).order_by(table.c.number).limit(PAGE)
            with self._database.read() as connection:
                rows = connection.execute(query).all()
            for row in rows:
                yield row.number, row.message, row.digest
            if len(rows) < PAGE:
                return
            last = rows[-1].number


def append(connection: Connection, message: Message) -> None:
    """Add a message within a writing transaction, together with the event that it records, or not at all."""
    last, text = _head(connection), message.xml()
    row = {"number": last.number + 1, "at": micros(message.at), "message": text}
    connection.execute(insert(table).values(**row, digest=_chained(last.digest, text)))


def read_head(text: str) -> Head:
    """A head as it is printed. Raises ValueError."""
    number, _, digest = text.partition(":")
    return Head(int(number), Digest(bytes.fromhex(digest)))


def _head(connection: Connection) -> Head:
    row = connection.execute(select(table).order_by(table.c.number.desc()).limit(1)).one_or_none()
    return Head(0, GENESIS) if row is None else Head(row.number, Digest(row.digest))


def _chained(before: bytes, message: str) -> Digest:
    return Digest(hashlib.sha256(before + message.encode()).digest())
