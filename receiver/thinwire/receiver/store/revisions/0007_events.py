"""Version 7: the table of events. Those before it are told by the receipts, which keep their numbers, so that every
target goes on after the last number that it planned for; and by the deliveries."""

from collections.abc import Iterator
from typing import Any

import msgpack
import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

PAGE = 10_000
"""Receipts in memory at a time."""
SIGNATURE_BYTES = 64
AT = 5
"""The place of its time in a receipt (docs/envelope-format.md)."""
EVENT_OF = {"stored": "stored", "triaged": "predicted", "opened": "opened", "read": "reported"}


def upgrade() -> None:
    events = op.create_table(
        "events",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("study", sa.LargeBinary(16), nullable=False),
        sa.Column("event", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.ForeignKeyConstraint(["site", "study"], ["studies.site", "studies.study"]),
    )
    for page in _receipts(op.get_bind()):
        op.bulk_insert(events, page)
    # A study was forwarded when its last delivery to a target had gone well; due_at is then the time of that.
    op.execute(
        "INSERT INTO events (at, site, study, event) SELECT max(due_at), site, study, 'forwarded' FROM deliveries "
        "GROUP BY target, site, study HAVING sum(state IN ('waiting', 'asked', 'refused')) = 0 "
        "AND sum(state IN ('confirmed', 'unconfirmed')) > 0 ORDER BY max(due_at)"
    )
    op.create_index("events_study", "events", ["site", "study", "event"])
    op.create_index("objects_blob", "objects", ["blob"])


def _receipts(connection: sa.Connection) -> Iterator[list[dict[str, Any]]]:
    """The events of the receipts, page by page."""
    query = sa.text(
        "SELECT receipts.number, receipts.site, receipts.study, receipts.status, receipts.signed, studies.received_at "
        "FROM receipts JOIN studies ON studies.site = receipts.site AND studies.study = receipts.study "
        "WHERE receipts.number > :last ORDER BY receipts.number LIMIT :page"
    )
    last = 0
    while rows := connection.execute(query, {"last": last, "page": PAGE}).all():
        yield [
            {
                "number": row.number,
                "at": _at(row.signed, row.received_at),
                "site": row.site,
                "study": row.study,
                "event": EVENT_OF[row.status],
            }
            for row in rows
        ]
        last = rows[-1].number


def _at(signed: bytes, received_at: int) -> int:
    """The receipt's own time; the study's where the receipt is damaged, which stops no other."""
    try:
        return int(msgpack.unpackb(signed[SIGNATURE_BYTES:])[AT])
    except (ValueError, TypeError, IndexError):
        return received_at
