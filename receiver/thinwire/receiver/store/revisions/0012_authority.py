"""Version 12: shares of sites, answers to join tokens, uses of epochs, signatures and anchors of the audit log, and
indices by site for work in turns."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

DAY = 86_400_000_000
"""Microseconds."""


def upgrade() -> None:
    op.create_table(
        "join_answers",
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("request", sa.LargeBinary(32), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("hash"),
        sa.ForeignKeyConstraint(["hash"], ["tokens.hash"]),
    )
    op.create_table(
        "epoch_uses",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("epoch", sa.LargeBinary(8), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site", "epoch"),
    )
    op.execute("INSERT INTO epoch_uses (site, epoch, used_at) SELECT site, epoch, admitted_at FROM epochs")
    op.create_table(
        "site_usage",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("studies", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("site", "day"),
        sa.ForeignKeyConstraint(["site"], ["sites.name"]),
    )
    op.create_table(
        "quotas",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("limit", sa.String(16), nullable=False),
        sa.Column("most", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site", "limit"),
        sa.ForeignKeyConstraint(["site"], ["sites.name"]),
    )
    op.create_table(
        "audit_signatures",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("signature", sa.LargeBinary(64), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    for act in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_signatures_no_{act.lower()} BEFORE {act} ON audit_signatures "
            "BEGIN SELECT RAISE(ABORT, 'rows are only added'); END"
        )
    op.create_table(
        "audit_anchors",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("told_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site", "number", "digest"),
        sa.ForeignKeyConstraint(["site"], ["sites.name"]),
    )
    op.create_table(
        "audit_exports",
        sa.Column("target", sa.String(256), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("target"),
    )
    op.execute(
        f"INSERT INTO site_usage (site, day, bytes, studies) SELECT site, day, sum(bytes), sum(studies) FROM ("
        f"SELECT site, stored_at / {DAY} AS day, sealed_size AS bytes, 0 AS studies FROM objects UNION ALL "
        f"SELECT site, received_at / {DAY}, 0, 1 FROM studies) GROUP BY site, day"
    )
    op.create_table(
        "plans",
        sa.Column("target", sa.String(32), nullable=False),
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("planned", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("target", "site"),
        sa.ForeignKeyConstraint(["target"], ["targets.name"]),
        sa.ForeignKeyConstraint(["site"], ["sites.name"]),
    )
    op.create_index("events_site", "events", ["site", "number"])
    op.create_index("deliveries_turn", "deliveries", ["target", "state", "site", "due_at"])
    op.drop_index("worklist_drafted")
    op.create_index("worklist_drafted", "worklist", ["site", "drafted", "place", "received_at"])
