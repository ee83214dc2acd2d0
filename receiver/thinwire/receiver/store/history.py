"""The store in time: its generations, the positions of what it stored for each site, and what its backups hold.

A position counts the objects that were ever stored for a site. A generation ends when the store goes back in time, as
to a restored backup; the positions go on after those that are left, under the name of the next generation. So a place
(generation, position) is never used twice, and a clinic knows of each receipt whether the hub still has its object.
Reasons: docs/decisions/0014-a-store-that-goes-back-in-time.md.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, case, exists, func, insert, literal, select

from thinwire.receiver.store.tables import backed_up, backups, generation_ends, generations, positions
from thinwire.shared.formats.positional import micros
from thinwire.shared.formats.receipts import Place
from thinwire.shared.identifiers import GENERATION_BYTES, Digest, Generation, SiteName
from thinwire.shared.storage.database import insert_new, prepared, tell

HISTORY = "*history"
"""The topic of news that the store has another generation or backup."""


@dataclass(frozen=True)
class SiteHistory:
    """What a site is told of the store."""

    generation: Generation
    position: int
    """Of the last object of the site; 0 for none."""
    past: Mapping[Generation, int]
    """Earlier generations: the last position of each that is still here."""
    backed_up: int | None
    """A backup holds the site's objects up to this position; None for a hub that has no backup."""


def add_position(connection: Connection, site: SiteName, object: Digest, at: datetime) -> Place:
    """The next place of a site, in the transaction that stores the object."""
    now = _present(connection, site).one()
    position = (now.position or 0) + 1
    connection.execute(_PLACE, {"site": site, "position": position, "object": object, "at": micros(at)})
    return Place(Generation(now.generation), position)


def history_of(connection: Connection, site: SiteName) -> SiteHistory:
    number, generation = _current(connection)
    mine = (generation_ends.c.number == generations.c.number) & (generation_ends.c.site == site)
    ended = select(generations.c.generation, func.coalesce(generation_ends.c.position, 0)).outerjoin(
        generation_ends, mine
    )
    past = connection.execute(ended.where(generations.c.number != number)).all()
    held: int | None = None
    if connection.scalar(select(exists().select_from(backups))):
        held = connection.scalar(select(backed_up.c.position).where(backed_up.c.site == site)) or 0
    return SiteHistory(
        generation, _last(connection, site), {Generation(each): position for each, position in past}, held
    )


def is_behind(connection: Connection, site: SiteName, place: Place, object: Digest) -> bool:
    """Whether the store lacks an object that it once stored at a place of its present generation, or of one that it
    does not know: it went back in time unnoticed."""
    if place.generation != _current(connection)[1]:
        known = exists().where(generations.c.generation == place.generation)
        return not connection.scalar(select(known))
    here = (positions.c.site == site) & (positions.c.position == place.position)
    return connection.scalar(select(positions.c.object).where(here)) != object


def begin_generation(
    connection: Connection,
    reason: str,
    at: datetime,
    lost: tuple[SiteName, Place] | None = None,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> Generation:
    """End the present generation where every site is now. lost: the place by which `is_behind` found a step back."""
    number, generation = _current(connection)
    ends = select(literal(number), positions.c.site, func.max(positions.c.position)).group_by(positions.c.site)
    if lost is not None and lost[1].generation == generation and lost[1].position <= _last(connection, lost[0]):
        # Another object has the place: since when the site's two histories differ is unknown.
        ends = ends.where(positions.c.site != lost[0])
    connection.execute(insert(generation_ends).from_select(["number", "site", "position"], ends))
    if lost is not None and lost[1].generation != generation:
        # Without an end: nothing of it is here.
        connection.execute(insert(generations).values(generation=lost[1].generation, at=micros(at), reason="lost"))
    begun = Generation(random_bytes(GENERATION_BYTES))
    connection.execute(insert(generations).values(generation=begun, at=micros(at), reason=reason))
    tell(connection, HISTORY)
    return begun


def site_positions(connection: Connection) -> dict[SiteName, int]:
    """The last position of every site of which anything is stored."""
    query = select(positions.c.site, func.max(positions.c.position)).group_by(positions.c.site)
    return {SiteName(site): position for site, position in connection.execute(query)}


def positions_before(connection: Connection, moment: datetime) -> dict[SiteName, int]:
    """The position of every site up to which all was stored before a moment."""
    later = select(positions.c.site, func.min(positions.c.position)).where(positions.c.at >= micros(moment))
    first_later = {SiteName(site): first for site, first in connection.execute(later.group_by(positions.c.site))}
    return {site: first_later.get(site, last + 1) - 1 for site, last in site_positions(connection).items()}


def record_backup(connection: Connection, taken_at: datetime, held: Mapping[SiteName, int], at: datetime) -> None:
    """Record that a backup holds each site's objects up to a position."""
    connection.execute(insert(backups).values(taken_at=micros(taken_at), at=micros(at)))
    tell(connection, HISTORY)
    for site, position in held.items():
        row = insert_new(backed_up).values(site=site, position=position)
        # An earlier backup may hold more, where the last one was of an earlier moment.
        further = case(
            (backed_up.c.position > row.excluded.position, backed_up.c.position), else_=row.excluded.position
        )
        connection.execute(row.on_conflict_do_update(index_elements=["site"], set_={"position": further}))


def _current(connection: Connection) -> tuple[int, Generation]:
    row = _newest(connection).one()
    return row.number, Generation(row.generation)


def _last(connection: Connection, site: SiteName) -> int:
    return _last_of(connection, site).scalar() or 0


@prepared
def _newest() -> Select[Any]:
    return select(generations.c.number, generations.c.generation).order_by(generations.c.number.desc()).limit(1)


@prepared
def _present(site: Any) -> Select[Any]:
    """The generation, and the last position of a site in it."""
    last = select(func.max(positions.c.position)).where(positions.c.site == site).scalar_subquery()
    newest = select(generations.c.generation, last.label("position"))
    return newest.order_by(generations.c.number.desc()).limit(1)


@prepared
def _last_of(site: Any) -> Select[Any]:
    return select(func.max(positions.c.position)).where(positions.c.site == site)


_PLACE = insert(positions)
