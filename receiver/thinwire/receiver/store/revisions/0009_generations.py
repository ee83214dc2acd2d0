"""Version 9: generations of the store, the positions of what it stored, and its backups. Objects that are stored get
their positions in the order in which they came; their receipts do not tell them."""

import os

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    generations = op.create_table(
        "generations",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("generation", sa.LargeBinary(16), nullable=False),
        sa.Column("at", sa.BigInteger()),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("generations_generation", "generations", ["generation"], unique=True)
    op.create_table(
        "generation_ends",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", "site"),
        sa.ForeignKeyConstraint(["number"], ["generations.number"]),
        sa.ForeignKeyConstraint(["site"], ["sites.name"]),
    )
    op.create_table(
        "positions",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("object", sa.LargeBinary(32), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site", "position"),
        sa.ForeignKeyConstraint(["site"], ["sites.name"]),
    )
    op.create_table(
        "backups",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "backed_up",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site"),
        sa.ForeignKeyConstraint(["site"], ["sites.name"]),
    )
    op.bulk_insert(generations, [{"generation": os.urandom(16), "reason": "first"}])
    op.execute(
        "INSERT INTO positions (site, position, object, at) "
        "SELECT site, row_number() OVER (PARTITION BY site ORDER BY number), object, stored_at FROM objects"
    )
