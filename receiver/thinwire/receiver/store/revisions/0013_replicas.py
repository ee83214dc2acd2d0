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
    # Retention, holds and tombstones.
