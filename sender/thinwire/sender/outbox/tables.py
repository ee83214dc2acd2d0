"""The clinic's tables. Format and reasons: docs/outbox-format.md."""

from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from thinwire.shared.identifiers import digest
from thinwire.shared.parked import parked_table
from thinwire.shared.storage.migrations import Schema

FILE = "clinic.db"

TABLES = MetaData()

studies = Table(
    "studies",
    TABLES,
    Column("study", LargeBinary(16), primary_key=True),
    Column("accepted_at", BigInteger, nullable=False),
    Column("urgent", Boolean, nullable=False),
    Column("epoch", LargeBinary(8), nullable=False),
    Column("text_mac", LargeBinary(16), nullable=False),
    Column("source", LargeBinary(32)),
    Column("status", String(16)),
    Column("effort", String(8)),
    Column("escalated", Boolean, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("overrides", String, nullable=False),
    Column("warnings", String, nullable=False),
    # Whether the hub has every planned part: for queries alone, it follows from the parts.
    Column("at_hub", Boolean, nullable=False),
    # Of further files of a study: the key of that study.
    Column("adds_to", LargeBinary(16)),
    Index("studies_accepted", "accepted_at", "study"),
    Index("studies_at_hub", "at_hub", "accepted_at", "epoch"),
    Index("studies_escalated", "escalated"),
    Index("studies_adds_to", "adds_to"),
)
parts = Table(
    "parts",
    TABLES,
    Column("study", LargeBinary(16), ForeignKey("studies.study", ondelete="CASCADE"), primary_key=True),
    Column("kind", Integer, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("object", LargeBinary(32)),
    Column("size", BigInteger, nullable=False),
    Column("plain_size", BigInteger, nullable=False),
    Column("requested", Boolean, nullable=False),
    Column("kept", Boolean, nullable=False),
    Column("reason", String, nullable=False),
    # For the order of sending: of the study, and whether it is urgent or requested.
    Column("accepted_at", BigInteger, nullable=False),
    Column("first", Boolean, nullable=False),
    # With the size, so that totals are read from the index alone.
    Index("parts_due", "state", "kind", "first", "accepted_at", "study", "size"),
    Index("parts_object", "object"),
    Index("parts_kept", "kept"),
)
receipts = Table(
    "receipts",
    TABLES,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("study", LargeBinary(16), ForeignKey("studies.study", ondelete="CASCADE"), nullable=False),
    Column("status", String(16), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("signed", LargeBinary, nullable=False),
    Index("receipts_study", "study", "at"),
)
places = Table(
    "places",
    TABLES,
    Column("study", LargeBinary(16), ForeignKey("studies.study", ondelete="CASCADE"), primary_key=True),
    Column("kind", Integer, primary_key=True),
    Column("generation", LargeBinary(16), nullable=False),
    Column("position", BigInteger, nullable=False),
)
epochs = Table(
    "epochs",
    TABLES,
    Column("epoch", LargeBinary(8), primary_key=True),
    Column("record", LargeBinary, nullable=False),
    Column("announced", Boolean, nullable=False),
)
controls = Table(
    "controls",
    TABLES,
    Column("name", String(32), primary_key=True),
    Column("value", String, nullable=False),
)
usage = Table(
    "usage",
    TABLES,
    Column("month", String(7), primary_key=True),
    Column("up", BigInteger, nullable=False),
    Column("down", BigInteger, nullable=False),
)
batches = Table(
    "batches",
    TABLES,
    Column("batch", Integer, primary_key=True),
    Column("study", LargeBinary(16), nullable=False),
    # A complete batch is being accepted or refused; later objects of its study form another one.
    Column("complete", Boolean, nullable=False),
    UniqueConstraint("study", "complete"),
)
arrivals = Table(
    "arrivals",
    TABLES,
    Column("object", LargeBinary(16), primary_key=True),
    Column("batch", Integer, ForeignKey("batches.batch"), nullable=False),
    Column("dataset", LargeBinary(32), nullable=False),
    Column("sop_class", String(64), nullable=False),
    Index("arrivals_batch", "batch"),
)
ledger = Table(
    "ledger",
    TABLES,
    Column("object", LargeBinary(16), primary_key=True),
    Column("dataset", LargeBinary(32), nullable=False),
    Column("sop_class", String(64), nullable=False),
    # None if the study was refused.
    Column("study", LargeBinary(16)),
    Column("at", BigInteger, nullable=False),
    # The keyed digest of its Study Instance UID, and SHA-256 of the file as it leaves the clinic, or is refused; both
    # None in rows before version 3.
    Column("of_study", LargeBinary(16)),
    Column("file", LargeBinary(32)),
    Index("ledger_at", "at"),
    Index("ledger_of_study", "of_study", "at"),
)
commitments = Table(
    "commitments",
    TABLES,
    Column("request", LargeBinary(16), primary_key=True),
    Column("machine", String(16), nullable=False),
    Column("transaction_uid", String(64), nullable=False),
    Column("objects", String, nullable=False),
    Column("at", BigInteger, nullable=False),
    # The next attempt to deliver the report.
    Column("due", BigInteger, nullable=False),
    Index("commitments_due", "due"),
)
quarantine = Table(
    "quarantine",
    TABLES,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("size", BigInteger, nullable=False),
    # False for a file over the limit, of which there is the reason alone.
    Column("kept", Boolean, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("error", String(64), nullable=False),
    Column("message", String, nullable=False),
    Column("remedy", String, nullable=False),
    # Holds what the size limit is computed from.
    Index("quarantine_at", "at", "digest", "kept", "size"),
)
unreadable = Table(
    "unreadable",
    TABLES,
    # Below the data folder; the files stay there.
    Column("path", String, primary_key=True),
    Column("reason", String, nullable=False),
    Column("at", BigInteger, nullable=False),
)
watched = Table(
    "watched",
    TABLES,
    # Keyed digests of the watched folder and of the path of a file in it, since a name may be a patient's.
    Column("folder", LargeBinary(16), primary_key=True),
    Column("name", LargeBinary(16), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("modified", BigInteger, nullable=False),
    Column("inode", BigInteger, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    # In a row: such a file rests longer before it is taken again.
    Column("refusals", Integer, nullable=False),
    # When the folder no longer had it.
    Column("gone_at", BigInteger),
    Index("watched_gone", "folder", "gone_at"),
)
parked = parked_table(TABLES)

CLINIC = Schema(
    TABLES,
    version=4,
    first=1,
    revisions=Path(__file__).parent / "revisions",
    remedy="Bring it forward with `thinwire-sender migrate --data DIR`, or start `run`, which does the same.",
)


def request_id(machine: str, transaction: str) -> bytes:
    """The key of a storage commitment request, 16 bytes. machine: its AE title; transaction: its Transaction UID."""
    return digest(f"{machine}\n{transaction}".encode())[:16]
