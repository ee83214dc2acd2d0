"""The worklist as queries: pages, counts and search from indices, whatever the number of studies."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, func, or_, select, union

from thinwire.receiver.inference.triage import ORDER
from thinwire.receiver.store.stored_studies import stored_studies
from thinwire.receiver.store.tables import worklist, worklist_counts
from thinwire.receiver.store.worklist import WorklistEntry, unread
from thinwire.receiver.store.worklist_order import (
    KEY,
    ORDER_BY,
    Position,
    Range,
    RowKey,
    Selection,
    columns_of,
    first_rows,
    keys_of,
    merged,
    rank,
    row_key,
    segment_of,
)
from thinwire.receiver.store.worklist_rows import PLACE_OF, Place, ReadingState
from thinwire.receiver.store.worklist_search import matches_of
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import SiteName, StudyKey, Urgency
from thinwire.shared.storage.database import Database

COUNTED = 10_000
"""Studies up to which a count that depends on the time or on words is exact."""


@dataclass(frozen=True)
class Count:
    """A number of studies. more: there are more than that."""

    studies: int
    more: bool = False

    def __str__(self) -> str:
        return f"{self.studies:,}{'+' if self.more else ''}"


@dataclass(frozen=True)
class Counts:
    """The unread studies of all sites."""

    waiting: int
    overdue: Count
    oldest: datetime | None
    """The arrival of the one that waits longest."""
    by_urgency: Mapping[Urgency, int]
    """Those that are triaged."""


@dataclass(frozen=True)
class ListPage:
    entries: tuple[WorklistEntry, ...] = field(repr=False)
    earlier: Position | None
    """The first row, where rows are before it."""
    later: Position | None
    """The last row, where rows are after it."""
    selected: int
    """Studies of the selection, on all pages."""


@dataclass(frozen=True)
class Found:
    entries: tuple[WorklistEntry, ...] = field(repr=False)
    """The first in reading order."""
    count: Count


class Worklist:
    """Safe from any thread and process. cap: the waiting cap."""

    def __init__(self, database: Database, cap: timedelta) -> None:
        self._database = database
        self._cap = cap

    def page(
        self,
        selection: Selection,
        now: datetime,
        most: int,
        after: Position | None = None,
        before: Position | None = None,
    ) -> ListPage:
        """The first rows of the list, or those after or before a position of the same site."""
        cutoff = micros(now - self._cap)
        with self._database.read() as connection:
            if before is not None:
                keys = list(keys_of(connection, selection, before.cutoff, before, most + 1, backward=True))
                if len(keys) > most:
                    return _page(connection, selection, keys[-2::-1], cutoff, True, True)
                # Not the remainder of a page, but the top of the list.
            start = None if before is not None else after
            keys = list(keys_of(connection, selection, cutoff if start is None else start.cutoff, start, most + 1))
            return _page(connection, selection, keys[:most], cutoff, start is not None, len(keys) > most)

    def stream(self, selection: Selection, now: datetime, most: int) -> Iterator[Sequence[WorklistEntry]]:
        """The whole list as it is at this moment, so many rows at a time."""
        cutoff = micros(now - self._cap)
        with self._database.read() as connection:
            keys = list(keys_of(connection, selection, cutoff, None, most))
            while keys:
                yield list(_entries(connection, keys, cutoff))
                keys = list(keys_of(connection, selection, cutoff, keys[-1].position, most))

    def counts(self, now: datetime) -> Counts:
        with self._database.read() as connection:
            waiting, by_place = 0, dict.fromkeys(Place, 0)
            tally = (
                select(worklist_counts.c.place, func.sum(worklist_counts.c.studies))
                .where(worklist_counts.c.state != int(ReadingState.SIGNED))
                .group_by(worklist_counts.c.place)
            )
            for place, number in connection.execute(tally):
                waiting += number
                by_place[Place(place)] = number
            unread = [Range((("done", False), ("place", int(place)))) for place in Place]
            oldest = connection.scalar(first_rows(connection, unread, ["received_at"], ["received_at"], 1))
            overdue = _overdue(connection, waiting, micros(now - self._cap))
        return Counts(
            waiting,
            overdue,
            None if oldest is None else moment(oldest),
            {urgency: by_place[PLACE_OF[urgency]] for urgency in ORDER},
        )

    def beside(self, site: SiteName, study: StudyKey, now: datetime) -> tuple[tuple[SiteName, StudyKey] | None, ...]:
        """The unread studies before and after a study on the list; a signed one stands behind all unread ones."""
        cutoff = micros(now - self._cap)
        with self._database.read() as connection:
            row = connection.execute(
                select(worklist).where(worklist.c.site == site, worklist.c.study == study)
            ).one_or_none()
            if row is None:
                return None, None
            here = row_key(row, cutoff, segment_of(row.done, Place(row.place), row.received_at, cutoff)).position
            near = [
                next(keys_of(connection, Selection(), cutoff, here, 1, backward=backward), None)
                for backward in (True, False)
            ]
        return tuple(None if each is None else (each.position.site, each.position.study) for each in near)

    def search(self, query: str, now: datetime, most: int) -> Found:
        """Studies of which every word of the query begins a word or (four digits at least) the study key; or whose
        patient's number is the query. Words: of site, urgency, reason, suspected or uncertain findings, state, view,
        modality, text source.

        Of more than COUNTED studies the newest are searched.
        """
        cutoff = micros(now - self._cap)
        with self._database.read() as connection:
            matches = matches_of(connection, query, COUNTED + 1)
            if not matches:
                return Found((), Count(0))
            place = rank(cutoff)
            total = func.count().over().label("total")
            chosen: Select[Any] = select(*(worklist.c[name] for name in KEY), place, total)
            chosen = chosen.where(worklist.c.number.in_(union(*matches)))
            rows = connection.execute(chosen.order_by(place, *ORDER_BY).limit(most)).all()
            entries = tuple(_entries(connection, [row_key(row, cutoff, row.rank) for row in rows], cutoff))
        every = rows[0].total if rows else 0
        return Found(entries, Count(min(every, COUNTED), every > COUNTED))


def _page(
    connection: Connection, selection: Selection, keys: Sequence[RowKey], cutoff: int, earlier: bool, later: bool
) -> ListPage:
    """earlier, later: whether rows are before and after these."""
    return ListPage(
        tuple(_entries(connection, keys, cutoff)),
        keys[0].position if keys and earlier else None,
        keys[-1].position if keys and later else None,
        _selected(connection, selection),
    )


def _entries(connection: Connection, keys: Sequence[RowKey], cutoff: int) -> Iterator[WorklistEntry]:
    for study in stored_studies(connection, [each.number for each in keys]):
        yield WorklistEntry(study, unread(study) and micros(study.received) <= cutoff)


def _selected(connection: Connection, selection: Selection) -> int:
    c = worklist_counts.c
    unread, signed = columns_of(selection.state)
    states = [c.state == value for name, value in unread if name == "state"]
    states += [c.state != int(ReadingState.SIGNED) for name, _ in unread if name == "done"]
    states += [c.state == int(ReadingState.SIGNED) for _ in signed]
    query = select(func.coalesce(func.sum(c.studies), 0)).where(or_(*states))
    if selection.urgency is not None:
        query = query.where(c.place == int(PLACE_OF[selection.urgency]))
    if selection.site is not None:
        query = query.where(c.site == selection.site)
    return int(connection.scalar(query) or 0)


def _overdue(connection: Connection, waiting: int, cutoff: int) -> Count:
    """Those that came in the last hours are few, so they are counted; else those before, up to COUNTED."""
    fresh = _counted(connection, after=cutoff)
    if fresh <= COUNTED:
        return Count(waiting - fresh)
    late = _counted(connection, until=cutoff)
    return Count(min(late, COUNTED), late > COUNTED)


def _counted(connection: Connection, **bounds: int) -> int:
    """Unread studies that came within these bounds; at most COUNTED and one."""
    unread = [Range((("done", False), ("place", int(place))), **bounds) for place in Place]
    few = merged(unread, "received_at").limit(COUNTED + 1).subquery()
    return int(connection.scalar(select(func.count()).select_from(few)) or 0)
