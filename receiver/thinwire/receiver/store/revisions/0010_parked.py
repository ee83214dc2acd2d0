"""Version 10: parked items."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
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
