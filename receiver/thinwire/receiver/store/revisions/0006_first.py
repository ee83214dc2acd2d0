"""Version 6, the first that later versions bring forward: its tables are in every database of that version."""

revision = "0006"
down_revision = None


def upgrade() -> None:
    """Nothing: a database without `alembic_version` and with `user_version` 6 is of this version."""
