"""The rules of retention as queries: which studies a rule takes, read in pages from the index of the worklist."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Table, and_, exists, false, func, select, tuple_

from thinwire.receiver.config import RetentionRule
from thinwire.receiver.forward.delivery import DeliveryState
from thinwire.receiver.forward.queue import PLANNED_ON
from thinwire.receiver.store.erasure import keys_of
from thinwire.receiver.store.tables import deliveries, events, holds, objects, plans, removals, worklist
from thinwire.receiver.store.tables import sites as site_rows
from thinwire.receiver.store.tables import targets as target_rows
from thinwire.receiver.store.worklist_rows import Place, ReadingState
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import SiteName, StudyKey
from thinwire.shared.storage.database import Database

PAGE = 200
"""Studies that are looked at in one view of the database, and marked in one transaction."""
_AT_TARGET = (str(DeliveryState.CONFIRMED), str(DeliveryState.UNCONFIRMED))
_OPEN = (str(DeliveryState.WAITING), str(DeliveryState.ASKED), str(DeliveryState.REFUSED))


class Candidate(NamedTuple):
    """A study that may be removed."""

    site: SiteName
    study: StudyKey
    bytes: int
    """Of its stored parts, and of those of the files that were added to it."""


def candidates(
    database: Database, rule: RetentionRule, targets: Sequence[str], now: datetime
) -> Iterator[list[Candidate]]:
    """The unmarked studies that a rule takes, each page of one site. targets: the names of the configured ones. now:
    UTC."""
    with database.read() as connection:
        names = connection.scalars(select(site_rows.c.name).order_by(site_rows.c.name)).all()
    states = (ReadingState.SIGNED,) if rule.read else tuple(ReadingState)
    takes = condition(rule, targets, now) & ~_has(removals)
    for site in (name for name in names if not rule.sites or name in rule.sites):
        for state in states:
            for place in Place:
                these = (worklist.c.site == site) & (worklist.c.state == int(state)) & (worklist.c.place == int(place))
                yield from _pages(database, these & (worklist.c.received_at < _cutoff(rule, now)), takes)


def condition(rule: RetentionRule, targets: Sequence[str], now: datetime) -> ColumnElement[bool]:
    """Of a row of `worklist`: that a rule takes its study."""
    parts = [worklist.c.received_at < _cutoff(rule, now), ~_has(holds)]
    if rule.sites:
        parts.append(worklist.c.site.in_(rule.sites))
    if rule.read:
        parts.append(is_read())
    if rule.forwarded:
        parts.append(is_forwarded(targets))
    return and_(*parts)


def is_read() -> ColumnElement[bool]:
    return worklist.c.state == int(ReadingState.SIGNED)


def is_forwarded(targets: Sequence[str]) -> ColumnElement[bool]:
    """Of a row of `worklist`: that every target has all that is known of its study. False without a target."""
    return and_(*map(_is_at, targets)) if targets else false()


def sized(connection: Connection, keys: Iterable[tuple[SiteName, StudyKey]]) -> list[Candidate]:
    """These studies with the bytes of their parts."""
    found = []
    for site, study in keys:
        of_it = objects.c.study.in_(keys_of(connection, site, study))
        size = connection.scalar(select(func.sum(objects.c.plain_size)).where(objects.c.site == site, of_it))
        found.append(Candidate(site, study, int(size or 0)))
    return found


def _pages(database: Database, these: ColumnElement[bool], takes: ColumnElement[bool]) -> Iterator[list[Candidate]]:
    order = worklist.c.received_at, worklist.c.study
    query = select(worklist.c.number, worklist.c.site, *order).where(these).order_by(*order).limit(PAGE)
    last: tuple[int, bytes] | None = None
    while True:
        with database.read() as connection:
            rows = connection.execute(query if last is None else query.where(tuple_(*order) > tuple_(*last))).all()
            if not rows:
                return
            taken = select(worklist.c.number).where(worklist.c.number.in_([row.number for row in rows]), takes)
            numbers = set(connection.scalars(taken))
            keys = ((SiteName(row.site), StudyKey(row.study)) for row in rows if row.number in numbers)
            page = sized(connection, keys)
        if page:
            yield page
        last = rows[-1].received_at, rows[-1].study


def _cutoff(rule: RetentionRule, now: datetime) -> int:
    return micros(now - timedelta(days=rule.days))


def _has(table: Table) -> ColumnElement[bool]:
    return exists().where(table.c.site == worklist.c.site, table.c.study == worklist.c.study)


def _is_at(target: str) -> ColumnElement[bool]:
    mine = and_(
        deliveries.c.target == target, deliveries.c.site == worklist.c.site, deliveries.c.study == worklist.c.study
    )
    # What a target has not planned for yet may become another delivery.
    planned = select(plans.c.planned).where(plans.c.target == target, plans.c.site == events.c.site).correlate(events)
    before = select(target_rows.c.planned).where(target_rows.c.name == target)
    fresh = and_(
        events.c.site == worklist.c.site,
        events.c.study == worklist.c.study,
        events.c.event.in_(sorted(map(str, PLANNED_ON))),
        events.c.number > func.coalesce(planned.scalar_subquery(), 0),
        events.c.number > func.coalesce(before.scalar_subquery(), 0),
    )
    return and_(
        exists().where(mine, deliveries.c.state.in_(_AT_TARGET)),
        ~exists().where(mine, deliveries.c.state.in_(_OPEN)),
        ~exists().where(fresh),
    )
