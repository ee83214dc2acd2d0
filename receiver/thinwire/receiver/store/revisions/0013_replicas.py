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
    # Retention, holds and tombstones.
