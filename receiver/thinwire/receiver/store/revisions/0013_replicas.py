"""Version 13: several replicas on one database and object store."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """The tables of version 13."""
    # Streams of sites.
    op.create_table(
        "replicas",
        sa.Column("replica", sa.String(32), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("written_at", sa.BigInteger(), nullable=False),
        sa.Column("links", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("replica"),
    )
    op.create_table(
        "streams",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("replica", sa.String(32), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("streams_site", "streams", ["site", "number"])
    op.create_index("streams_replica", "streams", ["replica"])
    # Pieces of partial objects; bundles.
    op.create_table(
        "partials",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("object", sa.LargeBinary(32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("durable", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.LargeBinary(16), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.Column("moved", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site", "object"),
        sa.ForeignKeyConstraint(["site"], ["sites.name"]),
    )
    op.create_table(
        "pieces",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("object", sa.LargeBinary(32), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("name", sa.LargeBinary(16)),
        sa.Column("data", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("site", "object", "start"),
    )
    op.create_index("pieces_name", "pieces", ["name"])
    op.create_table(
        "bundles",
        sa.Column("bundle", sa.LargeBinary(16), nullable=False),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.Column("chosen_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("bundle"),
    )
    op.create_table(
        "bundle_files",
        sa.Column("bundle", sa.LargeBinary(16), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("bundle", "name"),
        sa.ForeignKeyConstraint(["bundle"], ["bundles.bundle"]),
    )
    # Claims of work.
    op.create_table(
        "claims",
        sa.Column("kind", sa.String(48), nullable=False),
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("study", sa.LargeBinary(16), nullable=False),
        sa.Column("holder", sa.LargeBinary(16), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "site", "study"),
    )
    op.create_index("claims_holder", "claims", ["holder"])
    # Predictions of other bundles.
    op.create_table(
        "bundle_predictions",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("study", sa.LargeBinary(16), nullable=False),
        sa.Column("blob", sa.LargeBinary(32), nullable=False),
        sa.Column("bundle", sa.LargeBinary(16), nullable=False),
        sa.Column("urgency", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("unfamiliar", sa.Boolean(), nullable=False),
        sa.Column("findings", sa.String(), nullable=False),
        sa.Column("draft", sa.LargeBinary()),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site", "study", "blob", "bundle"),
        sa.ForeignKeyConstraint(["site", "study"], ["studies.site", "studies.study"]),
    )
    # Keys in time.
    op.create_table(
        "certificates",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("authority", sa.LargeBinary(8), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("request", sa.LargeBinary(32), nullable=True),
        sa.Column("certificate", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("site", "fingerprint"),
        sa.ForeignKeyConstraint(["site"], ["sites.name"]),
    )
    op.create_table(
        "hub_keys",
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.Column("in_use_at", sa.BigInteger(), nullable=True),
        sa.Column("retired_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "key_holders",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("authority", sa.Integer(), nullable=False),
        sa.Column("sealing", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site"),
        sa.ForeignKeyConstraint(["site"], ["sites.name"]),
    )
    # Retention, holds and tombstones.
    op.create_table(
        "removals",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("study", sa.LargeBinary(16), nullable=False),
        sa.Column("rule", sa.String(32), nullable=False),
        sa.Column("marked_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site", "study"),
        sa.ForeignKeyConstraint(["site", "study"], ["studies.site", "studies.study"]),
    )
    op.create_index("removals_due", "removals", ["due_at", "site", "study"])
    op.create_table(
        "holds",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("study", sa.LargeBinary(16), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site", "study"),
        sa.ForeignKeyConstraint(["site", "study"], ["studies.site", "studies.study"]),
    )
    op.create_table(
        "tombstones",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("study", sa.LargeBinary(16), nullable=False),
        sa.Column("rule", sa.String(32), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site", "study"),
    )
    op.create_index("tombstones_study", "tombstones", ["study"])
    op.create_table(
        "removed_blobs",
        sa.Column("blob", sa.LargeBinary(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("blob"),
    )
    op.create_index("removed_blobs_state", "removed_blobs", ["state", "blob"])
    op.create_index("objects_receipt", "objects", ["receipt"])
    if op.get_bind().dialect.name == "sqlite":  # a new PostgreSQL database has this version at least
        op.execute("DROP TRIGGER reports_no_delete")
        op.execute(
            "CREATE TRIGGER reports_no_delete BEFORE DELETE ON reports WHEN NOT EXISTS (SELECT 1 FROM tombstones "
            "WHERE tombstones.site = OLD.site AND tombstones.study = OLD.study) "
            "BEGIN SELECT RAISE(ABORT, 'rows are only added'); END"
        )
