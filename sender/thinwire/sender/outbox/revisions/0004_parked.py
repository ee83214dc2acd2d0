"""Version 4: parked items, and the memory of watched folders."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "watched",
        sa.Column("folder", sa.LargeBinary(16), nullable=False),
        sa.Column("name", sa.LargeBinary(16), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("modified", sa.BigInteger(), nullable=False),
        sa.Column("inode", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("gone_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("folder", "name"),
    )
    op.create_index("watched_gone", "watched", ["folder", "gone_at"])
    op.create_table(
        "parked",
        sa.Column("loop", sa.String(48), nullable=False),
        sa.Column("item", sa.String(128), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=True),
        sa.Column("program", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("loop", "item"),
    )
