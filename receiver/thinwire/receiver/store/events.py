"""Events of studies, those of a site numbered in the order of their transactions: a reader of a site's events reads on
from its last number. Across sites only SQLite has one order.

Forwarding plans from them, and an open page shows the worklist again when their stamp is another. An event that
the clinic is told of has a receipt of the same number. Table: docs/store-format.md.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, func, insert, select

from thinwire.receiver.store.tables import events, receipts, sites
from thinwire.receiver.store.tombstones import refuse_erased
from thinwire.shared.formats.positional import micros
from thinwire.shared.formats.receipts import Receipt, StudyStatus, sign_receipt
from thinwire.shared.identifiers import SiteName, StudyKey, digest
from thinwire.shared.storage.database import require_turn, tell

STUDIES = "*studies"
"""The topic of news that studies have new events."""


class StudyEvent(StrEnum):
    STORED = "stored"
    """A part of the study is durable at the hub."""
    PREDICTED = "predicted"
    DRAFTED = "drafted"
    """The report decoder has written its draft."""
    REQUESTED = "requested"
    """A tier is requested from the clinic."""
    ESCALATED = "escalated"
    """The clinic made the study urgent; its prediction is deleted."""
    OPENED = "opened"
    """A reader has opened it for the first time."""
    SAVED = "saved"
    """A reader saved a report that only readers see."""
    RELEASED = "released"
    """A reader released a preliminary report."""
    REPORTED = "reported"
    """A reader signed the report."""
    FORWARDED = "forwarded"
    """A target has every object that is planned for it."""
    ADDED = "added"
    """A part of files that are added to the study is durable at the hub, or a person decided on corrected ones."""
    DAMAGED = "damaged"
    """A stored part was damaged on the disk; it counts as not stored and is requested from the clinic."""
    ERASED = "erased"
    """The study was removed, and all but its tombstone (`store.tombstones`): nothing more happens to it."""


EVENT_OF = {
    StudyStatus.STORED: StudyEvent.STORED,
    StudyStatus.TRIAGED: StudyEvent.PREDICTED,
    StudyStatus.OPENED: StudyEvent.OPENED,
    StudyStatus.REPORTED: StudyEvent.REPORTED,
}
"""The event to which a receipt of each status belongs."""
FOR_CLINIC = frozenset({*EVENT_OF.values(), StudyEvent.REQUESTED, StudyEvent.DAMAGED})
"""The events of which a clinic hears: it gets a receipt or a request."""


_EVENT, _RECEIPT = insert(events), insert(receipts)


def add_event(connection: Connection, site: SiteName, study: StudyKey, event: StudyEvent, at: datetime) -> int:
    """Add an event in the transaction that makes it true, which has the site's turn or is alone: so the numbers of a
    site ascend in the order in which they are committed. Returns its number. After the commit those who wait for it
    hear of it. Raises StudyErased for a study that was removed: whatever was under way for it has no effect."""
    require_turn(connection, site)
    refuse_erased(connection, site, study)
    row = {"at": micros(at), "site": site, "study": study, "event": str(event)}
    (number,) = connection.execute(_EVENT, row).inserted_primary_key or (0,)
    if event in FOR_CLINIC:
        # The stream by which a part came answers with its receipt.
        tell(connection, site, here=event is not StudyEvent.STORED)
    tell(connection, STUDIES, event=int(number))
    return int(number)


def add_receipt(connection: Connection, receipt: Receipt, signing: Ed25519PrivateKey) -> tuple[int, bytes]:
    """Add the event of a receipt, and the receipt itself, signed; returns their number and the signed bytes."""
    signed = sign_receipt(receipt, signing)
    (number,) = add_receipts(connection, [(receipt, signed)])
    return number, signed


def add_receipts(connection: Connection, receipts: Sequence[tuple[Receipt, bytes]]) -> list[int]:
    """As `add_receipt`, of receipts with their signed bytes; returns their numbers."""
    numbers = [add_event(connection, each.site, each.study, EVENT_OF[each.status], each.at) for each, _ in receipts]
    rows = [
        {
            "number": number,
            "site": each.site,
            "study": each.study,
            "status": str(each.status),
            "digest": digest(signed),
            "signed": signed,
        }
        for number, (each, signed) in zip(numbers, receipts, strict=True)
    ]
    if rows:
        connection.execute(_RECEIPT, rows)
    return numbers


def last_event(connection: Connection) -> int:
    """The greatest number of an event; 0 before the first. In PostgreSQL a lower one of another site may still be
    committed, unless no writer is under way."""
    return connection.scalar(select(func.max(events.c.number))) or 0


def event_stamp(connection: Connection) -> int:
    """A number that grows with every event that is committed: the sum of the last numbers of all sites, since those of
    two sites are committed in any order. 0 before the first."""
    last = select(func.max(events.c.number)).where(events.c.site == sites.c.name).scalar_subquery()
    return int(connection.scalar(select(func.coalesce(func.sum(last), 0)).select_from(sites)) or 0)
