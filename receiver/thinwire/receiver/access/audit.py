"""The audit log: an append-only, signed hash chain of messages. Format: docs/store-format.md.

The digest of a message is SHA-256 of the digest before it and its bytes, so that a changed, removed or inserted message
breaks all later digests. The hub signs each digest, so that nobody makes the chain anew without its key. Messages that
were removed at the end are found by a head from elsewhere: clinics keep them (`formats.audit_head`).
"""

import hashlib
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, Row, and_, delete, exists, func, insert, select

from thinwire.receiver.access.audit_message import Act, AuditOutcome, Message, records
from thinwire.receiver.store.tables import audit as table
from thinwire.receiver.store.tables import audit_anchors as anchors
from thinwire.receiver.store.tables import audit_exports as exports
from thinwire.receiver.store.tables import audit_signatures as signatures
from thinwire.shared.errors import BadFormat, Forged
from thinwire.shared.formats.audit_head import AuditHead, read_signed_head, sign_head, signed_head
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import Digest, SiteName
from thinwire.shared.storage.database import Database, insert_new, take_turn

log = logging.getLogger(__name__)

GENESIS = Digest(hashlib.sha256(b"thinwire audit v1").digest())
PAGE = 1000
_TURN = "audit"
"""Of all writers to the log: a message follows the one before."""
_REMEDY = "Keep this database as evidence, and compare it with a backup from before."
_LOST_REMEDY = (
    f"{_REMEDY} If the hub was restored from a backup, its log ends there: record so with "
    "`thinwire-receiver audit accept`."
)


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
    """Safe from any thread and process. signing: the hub's key."""

    def __init__(self, database: Database, signing: Ed25519PrivateKey) -> None:
        self._database = database
        self._signing = signing

    def record(self, message: Message) -> None:
        """Append a message; durable when this returns. Raises DiskFull, HubBusy: then the act must not happen."""
        with self._database.write(turn=_TURN) as connection:
            self.append(connection, message)

    def append(self, connection: Connection, message: Message) -> None:
        """As `append`, with the hub's key."""
        append(connection, message, self._signing)

    def head(self) -> Head:
        with self._database.read() as connection:
            return _head(connection)

    def signed_head(self) -> bytes:
        """The head for clinics to keep; empty for a log whose last message an earlier version wrote, or without one."""
        query = select(table, signatures.c.signature).outerjoin(signatures, signatures.c.number == table.c.number)
        with self._database.read() as connection:
            row = connection.execute(query.order_by(table.c.number.desc()).limit(1)).one_or_none()
        return b"" if row is None or row.signature is None else signed_head(_of(row), bytes(row.signature))

    def anchor(self, data: bytes) -> Head:
        """A signed head that was kept elsewhere. Raises Forged for one that is not this hub's."""
        head = read_signed_head(data, self._signing.public_key())
        return Head(head.number, head.digest)

    def record_anchor(self, site: SiteName, data: bytes, at: datetime) -> None:
        """Compare the signed head that a site keeps with the log. The newest that the log has is recorded, and each
        that it lacks, with a message of its own; a head that is not this hub's is ignored."""
        try:
            head = read_signed_head(data, self._signing.public_key())
        except Forged as error:
            log.warning("site %s keeps a head that is not of this hub's audit log: %s", site, error)
            return
        kept, told = Head(head.number, head.digest), micros(head.at)
        row = {"site": site, "number": kept.number, "digest": kept.digest}
        mine = and_(
            anchors.c.site == site,
            anchors.c.number == kept.number,
            anchors.c.digest == kept.digest,
            anchors.c.told_at == told,
        )
        with self._database.read() as connection:
            if connection.scalar(select(exists().where(mine))):
                return
        # The heads that are kept are the site's: the clinics that connect at once do not wait for the log's turn, which
        # `append` takes.
        with self._database.write(turn=site) as connection:
            holds = _holds(connection, kept)
            if holds:
                held = exists().where(table.c.number == anchors.c.number, table.c.digest == anchors.c.digest)
                newer = select(exists().where(anchors.c.site == site, anchors.c.number > kept.number, held))
                if connection.scalar(newer):
                    return
                connection.execute(delete(anchors).where(anchors.c.site == site, held))
            new = insert_new(anchors).values(**row, told_at=told)
            connection.execute(new.on_conflict_do_update(index_elements=list(row), set_={"told_at": told}))
            if not holds:
                lost = f"the log lacks the head {kept} that clinic {site} keeps: messages were removed"
                log.error("audit log: %s", lost)
                self.append(connection, Message(Act.LOG_LACKS, at, "serve", outcome=AuditOutcome.FAILED, detail=lost))

    def accept_loss(self, message: Message) -> int:
        """Accept that the log lacks heads that are older than this message, which says so in the log; returns the
        number of those that clinics have told. The others tell theirs later, and tell them at every connection."""
        held = exists().where(table.c.number == anchors.c.number, table.c.digest == anchors.c.digest)
        older = anchors.c.told_at <= micros(message.at)
        with self._database.write(turn=_TURN) as connection:
            count = connection.scalar(select(func.count()).select_from(anchors).where(~held, older)) or 0
            self.append(connection, message)
        return count

    def newest(self, before: int | None, count: int) -> list[AuditEntry]:
        """The newest messages, newest first. before: only those with a lower number."""
        query = select(table).order_by(table.c.number.desc()).limit(count)
        with self._database.read() as connection:
            rows = connection.execute(query if before is None else query.where(table.c.number < before)).all()
        return [AuditEntry(row.number, moment(row.at), row.message) for row in rows]

    def verify(self, noted: Collection[Head] = ()) -> Head:
        """Follow the whole chain; returns its head. noted: heads from before, which must stand in the chain, as those
        that clinics keep must, but for those whose loss the log itself accepts.

        Raises BadFormat that names the first message that does not hold.
        """
        with self._database.read() as connection:
            kept = {
                Head(row.number, Digest(row.digest)): (f" that clinic {row.site} keeps", row.told_at)
                for row in connection.execute(select(anchors))
            }
        missing = dict.fromkeys(noted, "") | {head: whose for head, (whose, _) in kept.items()}
        missing.pop(Head(0, GENESIS), None)
        accepted: datetime | None = None
        last = Head(0, GENESIS)
        for entry, digest in self._rows():
            follows = Head(entry.number, _chained(last.digest, entry.message))
            if entry.number != last.number + 1 or digest != follows.digest:
                raise BadFormat(f"the audit log is broken at message {last.number + 1}", _REMEDY)
            last = follows
            missing.pop(last, None)
            if records(entry.message, Act.LOSS_ACCEPTED):
                accepted = entry.at
        for head, whose in missing.items():
            if accepted is not None and whose and kept[head][1] <= micros(accepted):
                continue
            raise BadFormat(f"the audit log does not hold the head {head}{whose}: messages are missing", _LOST_REMEDY)
        self._check_signature(last)
        return last

    def entries(self, after: int = 0) -> Iterator[AuditEntry]:
        """Every message with a higher number, oldest first."""
        return (entry for entry, _ in self._rows(after))

    def exported(self, target: str) -> int:
        """The number of the last message that a syslog server was sent; 0 for none."""
        with self._database.read() as connection:
            return connection.scalar(select(exports.c.number).where(exports.c.target == target)) or 0

    def record_exported(self, target: str, number: int) -> None:
        row = insert_new(exports).values(target=target, number=number)
        with self._database.write(turn=_TURN) as connection:
            connection.execute(row.on_conflict_do_update(index_elements=["target"], set_={"number": number}))

    def _check_signature(self, last: Head) -> None:
        """The signature of the last message, which is one of all. Raises BadFormat."""
        if not last.number:
            return
        query = select(table, signatures.c.signature).join(signatures, signatures.c.number == table.c.number)
        with self._database.read() as connection:
            row = connection.execute(query.where(table.c.number == last.number)).one_or_none()
        try:
            if row is None:
                raise Forged("it has none")
            read_signed_head(signed_head(_of(row), bytes(row.signature)), self._signing.public_key())
        except Forged as error:
            raise BadFormat(
                f"the hub's signature of message {last.number} of the audit log does not hold",
                f"{_REMEDY} A log of an earlier version is signed when `serve` starts; then repeat.",
            ) from error

    def _rows(self, last: int = 0) -> Iterator[tuple[AuditEntry, bytes]]:
        while True:
            query = select(table).where(table.c.number > last).order_by(table.c.number).limit(PAGE)
            with self._database.read() as connection:
                rows = connection.execute(query).all()
            for row in rows:
                yield AuditEntry(row.number, moment(row.at), row.message), row.digest
            if len(rows) < PAGE:
                return
            last = rows[-1].number


def append(connection: Connection, message: Message, signing: Ed25519PrivateKey) -> None:
    """Add a message within a writing transaction, together with the event that it records, or not at all. It is the
    transaction's last act: whoever else adds one waits until it ends."""
    take_turn(connection, _TURN)
    last, text = _head(connection), message.xml()
    head = AuditHead(last.number + 1, _chained(last.digest, text), message.at)
    row = {"number": head.number, "at": micros(head.at), "message": text, "digest": head.digest}
    connection.execute(insert(table).values(row))
    connection.execute(insert(signatures).values(number=head.number, signature=sign_head(head, signing)))


def read_head(text: str) -> Head:
    """A head as it is printed. Raises ValueError."""
    number, _, digest = text.partition(":")
    return Head(int(number), Digest(bytes.fromhex(digest)))


def _head(connection: Connection) -> Head:
    row = connection.execute(select(table).order_by(table.c.number.desc()).limit(1)).one_or_none()
    return Head(0, GENESIS) if row is None else Head(row.number, Digest(row.digest))


def _holds(connection: Connection, head: Head) -> bool:
    return bool(connection.scalar(select(table.c.digest).where(table.c.number == head.number)) == head.digest)


def _of(row: "Row[tuple[object, ...]]") -> AuditHead:
    return AuditHead(row.number, Digest(row.digest), moment(row.at))


def _chained(before: bytes, message: str) -> Digest:
    return Digest(hashlib.sha256(before + message.encode()).digest())
