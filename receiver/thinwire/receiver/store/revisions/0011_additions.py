"""Version 11: the table of files that are added to a study after it was sent."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "additions",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("study", sa.LargeBinary(16), nullable=False),
        sa.Column("base", sa.LargeBinary(16), nullable=False),
        sa.Column("corrects", sa.LargeBinary(), nullable=False),
        sa.Column("decision", sa.String(8)),
        sa.PrimaryKeyConstraint("site", "study"),
        sa.ForeignKeyConstraint(["site", "study"], ["studies.site", "studies.study"]),
    )
    op.create_index("additions_base", "additions", ["site", "base"])
