"""Version 2: the place of each stored part in the hub's history. Of parts that are stored already it is unknown."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "places",
        sa.Column("study", sa.LargeBinary(16), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("generation", sa.LargeBinary(16), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("study", "kind"),
        sa.ForeignKeyConstraint(["study"], ["studies.study"], ondelete="CASCADE"),
    )
