"""Version 13: several replicas on one database and object store."""

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """The tables of version 13."""
    # Streams of sites.
    # Pieces of partial objects; bundles.
    # Claims of work.
    # Predictions of other bundles.
    # Keys in time.
    # Retention, holds and tombstones.
