"""The hub's tables. Format and reasons: docs/store-format.md."""

import os
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    event,
    insert,
)

from thinwire.receiver.store import full_text
from thinwire.shared.identifiers import GENERATION_BYTES
from thinwire.shared.parked import parked_table
from thinwire.shared.storage.columns import Number, alike, only_added
from thinwire.shared.storage.migrations import Schema

VERSION = 13

TABLES = MetaData()

_site = String(32)


def _references_study() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["site", "study"], ["studies.site", "studies.study"])


sites = Table(
    "sites",
    TABLES,
    Column("name", _site, primary_key=True),
    Column("enrolled_at", BigInteger, nullable=False),
    Column("signing_key", LargeBinary(32)),
    Column("certificate", LargeBinary(32)),
    Column("joined_at", BigInteger),
    Column("dismissed_at", BigInteger),
)
tokens = Table(
    "tokens",
    TABLES,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("site", _site, ForeignKey("sites.name"), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("signing_key", LargeBinary(32)),
)
epochs = Table(
    "epochs",
    TABLES,
    Column("site", _site, ForeignKey("sites.name"), primary_key=True),
    Column("epoch", LargeBinary(8), primary_key=True),
    Column("record", LargeBinary, nullable=False),
    Column("signing_key", LargeBinary(32), nullable=False),
    Column("admitted_at", BigInteger, nullable=False),
)
# What a join token was answered with, so that a lost answer can be given again.
join_answers = Table(
    "join_answers",
    TABLES,
    Column("hash", LargeBinary(32), ForeignKey("tokens.hash"), primary_key=True),
    Column("request", LargeBinary(32), nullable=False),
    Column("certificate", LargeBinary, nullable=False),
)
epoch_uses = Table(
    "epoch_uses",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("epoch", LargeBinary(8), primary_key=True),
    Column("used_at", BigInteger, nullable=False),
)
site_usage = Table(
    "site_usage",
    TABLES,
    Column("site", _site, ForeignKey("sites.name"), primary_key=True),
    Column("day", Integer, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("studies", Integer, nullable=False),
)
quotas = Table(
    "quotas",
    TABLES,
    Column("site", _site, ForeignKey("sites.name"), primary_key=True),
    Column("limit", String(16), primary_key=True),
    Column("most", BigInteger, nullable=False),
)
studies = Table(
    "studies",
    TABLES,
    Column("site", _site, ForeignKey("sites.name"), primary_key=True),
    Column("study", LargeBinary(16), primary_key=True),
    Column("received_at", BigInteger, nullable=False),
    Column("urgent_asked", Boolean, nullable=False),
    Column("bundle", LargeBinary(16)),
    Column("text_source", String(16)),
    Column("modality", String(16)),
    Column("view_position", String(16)),
    Column("patches_kept", Integer),
    Column("patches_total", Integer),
    Column("attention_kept", Float),
    Column("patient", LargeBinary(16)),
    Index("studies_patient", "patient", "site"),
)
events = Table(
    "events",
    TABLES,
    Column("number", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("site", _site, nullable=False),
    Column("study", LargeBinary(16), nullable=False),
    Column("event", String(16), nullable=False),
    _references_study(),
    Index("events_study", "site", "study", "event"),
    Index("events_site", "site", "number"),
)
# A receipt has the number of its event. SQLite adds no reference to a table that is there.
receipts = Table(
    "receipts",
    TABLES,
    Column("number", Integer, primary_key=True),
    Column("site", _site, nullable=False),
    Column("study", LargeBinary(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("signed", LargeBinary, nullable=False),
    Column("delivered_at", BigInteger),
    _references_study(),
    Index("receipts_undelivered", "site", "delivered_at"),
    Index("receipts_digest", "site", "digest"),
)
objects = Table(
    "objects",
    TABLES,
    Column("number", Integer, primary_key=True),
    Column("site", _site, nullable=False),
    Column("object", LargeBinary(32), nullable=False),
    Column("study", LargeBinary(16), nullable=False),
    Column("kind", Integer, nullable=False),
    Column("blob", LargeBinary(32), nullable=False),
    Column("plain_size", BigInteger, nullable=False),
    Column("sealed_size", BigInteger, nullable=False),
    Column("urgent", Boolean, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
    Column("receipt", Integer, ForeignKey("receipts.number"), nullable=False),
    _references_study(),
    Index("objects_identity", "site", "object", unique=True),
    Index("objects_study", "site", "study", "kind"),
    Index("objects_blob", "blob"),
    # Else the database looks for a receipt that is removed in all objects.
    Index("objects_receipt", "receipt"),
)
files = Table(
    "files",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("study", LargeBinary(16), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("size", BigInteger, nullable=False),
    _references_study(),
)
additions = Table(
    "additions",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("study", LargeBinary(16), primary_key=True),
    # The study to which the files are added; it may arrive later.
    Column("base", LargeBinary(16), nullable=False),
    # Pairs of digests: an earlier file of the study, and the file here that corrects it.
    Column("corrects", LargeBinary, nullable=False),
    # Of a person on the corrected files; None before.
    Column("decision", String(8)),
    _references_study(),
    Index("additions_base", "site", "base"),
)
listed = Table(
    "listed",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("study", LargeBinary(16), primary_key=True),
    Column("tier", Integer, primary_key=True),
    Column("object", LargeBinary(32), nullable=False),
    Column("plain_size", BigInteger, nullable=False),
    _references_study(),
)
predictions = Table(
    "readings",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("study", LargeBinary(16), primary_key=True),
    Column("blob", LargeBinary(32), primary_key=True),
    Column("bundle", LargeBinary(16), nullable=False),
    Column("urgency", String(16), nullable=False),
    Column("reason", String, nullable=False),
    Column("unfamiliar", Boolean, nullable=False),
    Column("findings", String, nullable=False),
    Column("at", BigInteger, nullable=False),
    _references_study(),
)
drafts = Table(
    "drafts",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("study", LargeBinary(16), primary_key=True),
    Column("blob", LargeBinary(32), primary_key=True),
    Column("draft", LargeBinary, nullable=False),
    Column("at", BigInteger, nullable=False),
    _references_study(),
)
requests = Table(
    "requests",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("study", LargeBinary(16), primary_key=True),
    Column("kind", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    _references_study(),
)
targets = Table(
    "targets",
    TABLES,
    Column("name", String(32), primary_key=True),
    Column("planned", Integer, nullable=False),
)
plans = Table(
    "plans",
    TABLES,
    Column("target", String(32), ForeignKey("targets.name"), primary_key=True),
    Column("site", _site, ForeignKey("sites.name"), primary_key=True),
    Column("planned", Integer, nullable=False),
)
deliveries = Table(
    "deliveries",
    TABLES,
    Column("number", Integer, primary_key=True),
    Column("target", String(32), ForeignKey("targets.name"), nullable=False),
    Column("site", _site, nullable=False),
    Column("study", LargeBinary(16), nullable=False),
    Column("item", String(16), nullable=False),
    Column("version", LargeBinary(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("reason", String, nullable=False),
    Column("instance", String(64)),
    Column("asked", String(64)),
    Column("planned_at", BigInteger, nullable=False),
    _references_study(),
    Index("deliveries_identity", "target", "site", "study", "item", "version", unique=True),
    Index("deliveries_due", "target", "state", "due_at"),
    Index("deliveries_turn", "target", "state", "site", "due_at"),
    Index("deliveries_asked", "asked"),
)
sent = Table(
    "sent",
    TABLES,
    Column("target", String(32), ForeignKey("targets.name"), primary_key=True),
    Column("instance", String(64), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
)


reports = Table(
    "reports",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("study", LargeBinary(16), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("text", String, nullable=False),
    Column("reader", String(64), nullable=False),
    Column("reader_shown", String(128), key="reader_name", nullable=False),
    Column("from_draft", Boolean, nullable=False),
    Column("at", BigInteger, nullable=False),
    _references_study(),
)
worklist = Table(
    "worklist",
    TABLES,
    Column("number", Integer, primary_key=True),
    Column("site", _site, nullable=False),
    Column("study", LargeBinary(16), nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("done", Boolean, nullable=False),
    Column("state", Integer, nullable=False),
    Column("place", Integer, nullable=False),
    Column("opened", Boolean, nullable=False),
    Column("report", String(16)),
    Column("drafted", Boolean, nullable=False),
    Column("words", String, nullable=False),
    _references_study(),
    Index("worklist_study", "study", "site", unique=True),
    Index("worklist_order", "done", "place", "received_at", "site", "study"),
    Index("worklist_state", "state", "place", "received_at", "site", "study"),
    Index("worklist_site_order", "site", "done", "place", "received_at", "study"),
    Index("worklist_site_state", "site", "state", "place", "received_at", "study"),
    Index("worklist_drafted", "site", "drafted", "place", "received_at"),
)
worklist_counts = Table(
    "worklist_counts",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("state", Integer, primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("studies", Integer, nullable=False),
)
worklist_vocabulary = Table("worklist_vocabulary", TABLES, Column("word", String, primary_key=True))
generations = Table(
    "generations",
    TABLES,
    Column("number", Integer, primary_key=True),
    Column("generation", LargeBinary(16), nullable=False),
    # None of the first one.
    Column("at", BigInteger),
    Column("reason", String(16), nullable=False),
    Index("generations_generation", "generation", unique=True),
)
generation_ends = Table(
    "generation_ends",
    TABLES,
    Column("number", Integer, ForeignKey("generations.number"), primary_key=True),
    Column("site", _site, ForeignKey("sites.name"), primary_key=True),
    Column("position", BigInteger, nullable=False),
)
# Never removed, not even with the object, so that no position is used twice.
positions = Table(
    "positions",
    TABLES,
    Column("site", _site, ForeignKey("sites.name"), primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("object", LargeBinary(32), nullable=False),
    Column("at", BigInteger, nullable=False),
)
backups = Table(
    "backups",
    TABLES,
    Column("number", Integer, primary_key=True),
    # Of the moment whose content the backup has, and of this row.
    Column("taken_at", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
)
backed_up = Table(
    "backed_up",
    TABLES,
    Column("site", _site, ForeignKey("sites.name"), primary_key=True),
    Column("position", BigInteger, nullable=False),
)
accounts = Table(
    "accounts",
    TABLES,
    Column("name", String(64), primary_key=True),
    Column("shown", String(128), key="full_name", nullable=False),
    Column("role", String(16), nullable=False),
    Column("password", String),
    Column("issuer", String),
    Column("subject", String),
    Column("made_at", BigInteger, nullable=False),
    Column("closed_at", BigInteger),
    Index("accounts_subject", "issuer", "subject", unique=True),
)
invitations = Table(
    "invitations",
    TABLES,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("account", String(64)),
    Column("expires_at", BigInteger, nullable=False),
)
sessions = Table(
    "sessions",
    TABLES,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("account", String(64), ForeignKey("accounts.name"), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)
audit = Table(
    "audit",
    TABLES,
    Column("number", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("message", String, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
)
audit_signatures = Table(
    "audit_signatures",
    TABLES,
    Column("number", Integer, primary_key=True),
    Column("signature", LargeBinary(64), nullable=False),
)
audit_anchors = Table(
    "audit_anchors",
    TABLES,
    Column("site", _site, ForeignKey("sites.name"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", LargeBinary(32), primary_key=True),
    Column("told_at", BigInteger, nullable=False),
)
audit_exports = Table(
    "audit_exports",
    TABLES,
    Column("target", String(256), primary_key=True),
    Column("number", Integer, nullable=False),
)
parked = parked_table(TABLES)
# Streams of sites.
replicas = Table(
    "replicas",
    TABLES,
    Column("replica", String(32), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("written_at", BigInteger, nullable=False),
    # JSON of the links, as in links.json.
    Column("links", String),
)
streams = Table(
    "streams",
    TABLES,
    Column("number", Number, primary_key=True),
    Column("site", _site, nullable=False),
    Column("replica", String(32), nullable=False),
    Column("since", BigInteger, nullable=False),
    Index("streams_site", "site", "number"),
    Index("streams_replica", "replica"),
)
# Pieces of partial objects; bundles.
partials = Table(
    "partials",
    TABLES,
    Column("site", _site, ForeignKey("sites.name"), primary_key=True),
    Column("object", LargeBinary(32), primary_key=True),
    Column("size", BigInteger, nullable=False),
    # The contiguous bytes in its pieces.
    Column("durable", BigInteger, nullable=False),
    # Of the session that receives it; an earlier one of another replica adds nothing more.
    Column("holder", LargeBinary(16), nullable=False),
    # The envelope header, once it is there.
    Column("head", LargeBinary, nullable=False),
    Column("moved", BigInteger, nullable=False),
)
pieces = Table(
    "pieces",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("object", LargeBinary(32), primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("size", Integer, nullable=False),
    # Of the object in the object store; None for a small piece, whose bytes are here.
    Column("name", LargeBinary(16)),
    Column("data", LargeBinary),
    Index("pieces_name", "name"),
)
bundles = Table(
    "bundles",
    TABLES,
    Column("bundle", LargeBinary(16), primary_key=True),
    Column("added_at", BigInteger, nullable=False),
    # The default is the bundle that was chosen last.
    Column("chosen_at", BigInteger),
)
bundle_files = Table(
    "bundle_files",
    TABLES,
    Column("bundle", LargeBinary(16), ForeignKey("bundles.bundle"), primary_key=True),
    Column("name", String(256), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
)
# Claims of work.
claims = Table(
    "claims",
    TABLES,
    Column("kind", String(48), primary_key=True),
    Column("site", _site, primary_key=True),
    # Empty for the work of a whole site.
    Column("study", LargeBinary(16), primary_key=True),
    Column("holder", LargeBinary(16), nullable=False),
    Column("until", BigInteger, nullable=False),
    Index("claims_holder", "holder"),
)
# Predictions of other bundles.
bundle_predictions = Table(
    "bundle_predictions",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("study", LargeBinary(16), primary_key=True),
    Column("blob", LargeBinary(32), primary_key=True),
    Column("bundle", LargeBinary(16), primary_key=True),
    Column("urgency", String(16), nullable=False),
    Column("reason", String, nullable=False),
    Column("unfamiliar", Boolean, nullable=False),
    Column("findings", String, nullable=False),
    Column("draft", LargeBinary),
    Column("at", BigInteger, nullable=False),
    _references_study(),
)
# Keys in time.
certificates = Table(
    "certificates",
    TABLES,
    Column("site", _site, ForeignKey("sites.name"), primary_key=True),
    Column("fingerprint", LargeBinary(32), primary_key=True),
    # The key identifier of the authority that issued it.
    Column("authority", LargeBinary(8), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # Of the next one, until it connects: the digest of the request, and the answer, which may be asked for again.
    Column("request", LargeBinary(32)),
    Column("certificate", LargeBinary),
)
hub_keys = Table(
    "hub_keys",
    TABLES,
    # Of what is public of the key.
    Column("digest", LargeBinary(32), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("number", Integer, nullable=False),
    Column("made_at", BigInteger, nullable=False),
    Column("registered_at", BigInteger, nullable=False),
    Column("in_use_at", BigInteger),
    Column("retired_at", BigInteger),
    # Of an authority.
    Column("expires_at", BigInteger),
)
# The newest keys of the hub that a clinic has confirmed.
key_holders = Table(
    "key_holders",
    TABLES,
    Column("site", _site, ForeignKey("sites.name"), primary_key=True),
    Column("authority", Integer, nullable=False),
    Column("sealing", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
)
# Retention, holds and tombstones.
removals = Table(
    "removals",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("study", LargeBinary(16), primary_key=True),
    # The name of the rule; empty for an erasure that a person asked for.
    Column("rule", String(32), nullable=False),
    Column("marked_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    _references_study(),
    Index("removals_due", "due_at", "site", "study"),
)
holds = Table(
    "holds",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("study", LargeBinary(16), primary_key=True),
    Column("reason", String, nullable=False),
    Column("at", BigInteger, nullable=False),
    _references_study(),
)
# Without a reference: a restored backup may not know the study.
tombstones = Table(
    "tombstones",
    TABLES,
    Column("site", _site, primary_key=True),
    Column("study", LargeBinary(16), primary_key=True),
    Column("rule", String(32), nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("tombstones_study", "study"),
)
removed_blobs = Table(
    "removed_blobs",
    TABLES,
    Column("blob", LargeBinary(32), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("removed_blobs_state", "state", "blob"),
)


# A report goes with its study alone, whose tombstone is in the same transaction.
_REMOVED = "EXISTS (SELECT 1 FROM tombstones WHERE tombstones.site = OLD.site AND tombstones.study = OLD.study)"


def _first_generation(table: Table, connection: Connection, **_: Any) -> None:
    connection.execute(insert(table).values(generation=os.urandom(GENERATION_BYTES), reason="first"))


event.listen(generations, "after_create", _first_generation)
for _table in (audit, audit_signatures):
    event.listen(_table, "after_create", only_added)
event.listen(reports, "after_create", partial(only_added, unless=_REMOVED))
event.listen(worklist, "after_create", full_text.make)
alike(TABLES)

HUB = Schema(
    TABLES,
    version=VERSION,
    first=6,
    revisions=Path(__file__).parent / "revisions",
    remedy="Bring it forward with `thinwire-receiver migrate --data DIR`, or start `serve`, which does the same for "
    "SQLite. Of PostgreSQL take a copy first (pg_dump).",
)
