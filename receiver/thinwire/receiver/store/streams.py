"""The open streams of the sites over all replicas: of one site the newest alone goes on. Tables: docs/store-format.md.

A replica adds a row for each stream that it opens, and others hear of it: a replica with an older stream of the site
ends that one, makes its received bytes durable, and removes its row, for which the newer one waits. A replica renews
one lease for all its streams; those of a killed one count no more when it ends.
"""

import logging
import secrets
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select

from thinwire.receiver.store.claims import time_of
from thinwire.receiver.store.tables import replicas, streams
from thinwire.shared.clock import Clock
from thinwire.shared.identifiers import SiteName
from thinwire.shared.storage.database import Database, insert_new, tell

log = logging.getLogger(__name__)

LEASE = 15.0
"""Seconds until a replica that does not renew it counts as dead."""
_MICROS = 1_000_000
_LEASE = int(LEASE * _MICROS)
_DEAD = 600 * _MICROS
"""Time without a lease after which a replica's rows are removed. Its streams count no more from the lease's end."""


def stream_topic(site: SiteName) -> str:
    """The topic of news that a stream of a site has begun or ended on another replica."""
    return f"={site}"


def of_stream(topic: str) -> SiteName | None:
    """The site of such a topic."""
    return SiteName(topic[1:]) if topic.startswith("=") else None


@dataclass(frozen=True)
class Replica:
    id: str
    name: str
    written_at: int
    """Microseconds since 1970: when the status of its links was written."""
    lives: bool


@dataclass(frozen=True)
class Streams:
    """Safe from any thread. name: of this replica, for people."""

    database: Database
    clock: Clock
    name: str
    id: str = field(default_factory=lambda: secrets.token_hex(16))

    def begin(self, merge: Callable[[list[str]], str]) -> str:
        """This replica serves. Its row gets what `merge` makes of the links (JSON) that dead ones left, the earliest
        first, which it returns; the rows of an earlier process of this name, and of those dead for long, go."""
        with self.database.write(turn="replicas") as connection:
            now = time_of(self.database, self.clock, connection)
            gone = replicas.c.until <= now
            query = select(replicas.c.links).where(gone, replicas.c.links.is_not(None)).order_by(replicas.c.until)
            links = merge(list(connection.scalars(query)))
            # The lease of a living one ends too, where the database did not answer for a while.
            dead = gone & ((replicas.c.name == self.name) | (replicas.c.until <= now - _DEAD))
            of_dead = streams.c.replica.in_(select(replicas.c.replica).where(dead))
            connection.execute(delete(streams).where(of_dead))
            connection.execute(delete(replicas).where(dead))
            self._renew(connection, now + _LEASE, {"links": links, "written_at": now})
        return links

    def renew(self, links: str | None) -> bool:
        """Renew the lease of all streams of this replica by one statement. links: their status, if it has changed.
        False if the lease had ended: other replicas may have taken this one for dead."""
        with self.database.write(turn=self.id) as connection:
            now = time_of(self.database, self.clock, connection)
            held = connection.scalar(select(replicas.c.until).where(replicas.c.replica == self.id))
            self._renew(connection, now + _LEASE, {} if links is None else {"links": links, "written_at": now})
        return held is not None and held > now

    def end(self, links: str) -> None:
        """This replica serves no more; its row stays for its links."""
        with self.database.write(turn=self.id) as connection:
            connection.execute(delete(streams).where(streams.c.replica == self.id))
            now = time_of(self.database, self.clock, connection)
            self._renew(connection, now, {"links": links, "written_at": now})

    def open(self, site: SiteName) -> int:
        """A stream of a site begins here; its number, which is larger than those of the earlier ones."""
        with self.database.write(turn=site) as connection:
            now = time_of(self.database, self.clock, connection)
            row = {"site": site, "replica": self.id, "since": now}
            (number,) = connection.execute(insert(streams).values(row)).inserted_primary_key or (0,)
            tell(connection, stream_topic(site), here=False)
        return int(number)

    def close(self, site: SiteName, number: int, living: Collection[int] = ()) -> None:
        """A stream has ended: its received bytes are durable. With its row those of earlier ones of the site here go,
        such as one whose `open` had no answer. living: those that go on."""
        ended = (streams.c.site == site) & (streams.c.replica == self.id) & (streams.c.number <= number)
        with self.database.write(turn=site) as connection:
            connection.execute(delete(streams).where(ended, streams.c.number.not_in(sorted(living))))
            tell(connection, stream_topic(site), here=False)

    def rivals(self, site: SiteName, number: int) -> tuple[bool, bool]:
        """Whether a living other replica has an older, and whether one has a newer stream of the site than this one."""
        with self.database.read() as connection:
            lives = replicas.c.until > time_of(self.database, self.clock, connection)
            of_others = (streams.c.site == site) & (streams.c.replica != self.id) & lives
            query = select(streams.c.number).join(replicas, replicas.c.replica == streams.c.replica).where(of_others)
            numbers = list(connection.scalars(query))
        return any(each < number for each in numbers), any(each > number for each in numbers)

    def replaced(self, sites: Iterable[SiteName] | None = None) -> dict[SiteName, int]:
        """The newest stream of each of these sites that another replica has and this one too; None: of all."""
        newer = streams.alias()
        mine: list[ColumnElement[bool]] = [streams.c.replica == self.id]
        if sites is not None:
            mine.append(streams.c.site.in_(list(sites)))
        query = (
            select(newer.c.site, func.max(newer.c.number))
            .select_from(streams.join(newer, and_(newer.c.site == streams.c.site, newer.c.number > streams.c.number)))
            .where(newer.c.replica != self.id, *mine)
            .group_by(newer.c.site)
        )
        with self.database.read() as connection:
            return {SiteName(site): number for site, number in connection.execute(query)}

    def numbers(self) -> set[int]:
        """The streams of this replica that have a row."""
        with self.database.read() as connection:
            return set(connection.scalars(select(streams.c.number).where(streams.c.replica == self.id)))

    def others(self) -> list["Replica"]:
        """The other replicas, also dead ones."""
        c = replicas.c
        with self.database.read() as connection:
            now = time_of(self.database, self.clock, connection)
            query = select(c.replica, c.name, c.written_at, c.until > now).where(c.replica != self.id)
            return [Replica(*row) for row in connection.execute(query)]

    def links_of(self, replica: str) -> str | None:
        """The status of the links (JSON) that a replica wrote last."""
        with self.database.read() as connection:
            return connection.scalar(select(replicas.c.links).where(replicas.c.replica == replica))

    def _renew(self, connection: Connection, until: int, more: dict[str, Any] | None = None) -> None:
        row = {"until": until, **(more or {})}
        new = insert_new(replicas).values(replica=self.id, name=self.name, **({"written_at": 0} | row))
        connection.execute(new.on_conflict_do_update(index_elements=["replica"], set_=row))
