"""Version 1, the first of the clinic's database; earlier folders are read by `thinwire.sender.outbox.earlier`."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: a new database is made from the tables."""
