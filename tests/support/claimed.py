"""Claims of work whose time has come."""

from sqlalchemy import update

from thinwire.receiver.hub import Hub
from thinwire.receiver.store.claims import LEASE
from thinwire.receiver.store.tables import claims


def end_leases(hub: Hub) -> None:
    """As if their workers had been killed a lease ago: the database's clock cannot be set."""
    with hub.database.write() as connection:
        connection.execute(update(claims).values(until=claims.c.until - int((LEASE + 1) * 1e6)))
