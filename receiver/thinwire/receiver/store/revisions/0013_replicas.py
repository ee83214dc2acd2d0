"""Version 13: several replicas on one database and object store."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """The tables of version 13."""
    # Streams of sites.
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
