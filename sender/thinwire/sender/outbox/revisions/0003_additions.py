"""Version 3: studies that add files to another study, and the study and file of each object in the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("studies", sa.Column("adds_to", sa.LargeBinary(16)))
    op.create_index("studies_adds_to", "studies", ["adds_to"])
    op.add_column("ledger", sa.Column("of_study", sa.LargeBinary(16)))
    op.add_column("ledger", sa.Column("file", sa.LargeBinary(32)))
    op.create_index("ledger_of_study", "ledger", ["of_study", "at"])
