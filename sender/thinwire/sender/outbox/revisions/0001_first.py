"""Version 1, the first of the clinic's database. Folders from before it: `thinwire.sender.outbox.earlier`."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: a new database is made from the tables."""
