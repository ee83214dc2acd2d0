"""Version 13: several replicas on one database and object store."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """The tables of version 13."""
    # Streams of sites.
    # Pieces of partial objects; bundles.
    # Claims of work.
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
    # Retention, holds and tombstones.
