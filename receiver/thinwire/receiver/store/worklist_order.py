"""The order of the worklist as ranges of an index.

The list is a sequence of segments: immediate; overdue; urgent; uncertain; routine; then the signed ones by urgency. A
segment is a merge of index ranges, each in the order of arrival, so a page reads its own rows only. The order is that
of `worklist.worklist`, which is its definition.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Label,
    Row,
    Select,
    and_,
    asc,
    case,
    desc,
    select,
    tuple_,
    union_all,
)

from thinwire.receiver.store.tables import worklist
from thinwire.receiver.store.worklist_rows import PLACE_OF, Place, ReadingState
from thinwire.shared.formats.positional import LAST_MOMENT
from thinwire.shared.identifiers import STUDY_KEY_BYTES, SiteName, StudyKey, Urgency, site_name
from thinwire.shared.storage.database import is_postgresql


class ListState(StrEnum):
    """Studies of a list by their reading: without a signed report, not opened, opened, with a preliminary report,
    signed, all."""

    WAITING = "waiting"
    NEW = "new"
    OPENED = "opened"
    PRELIMINARY = "preliminary"
    READ = "read"
    ALL = "all"


@dataclass(frozen=True)
class Selection:
    """The studies of a list."""

    state: ListState = ListState.WAITING
    urgency: Urgency | None = None
    """As predicted; a study that is not triaged has none."""
    site: SiteName | None = None


@dataclass(frozen=True)
class Position:
    """The place of a row in the list as it was at one moment: a page after it continues that list.

    A study that keeps its place is thereby on exactly one of the pages, also where others come, go or become overdue.
    """

    cutoff: int
    """Microseconds: studies received until then were overdue."""
    segment: int
    received_at: int
    site: SiteName
    study: StudyKey = field(repr=False)

    def __str__(self) -> str:
        return f"{self.cutoff}.{self.segment}.{self.received_at}.{self.site}.{self.study.hex()}"


def position_of(text: str) -> Position | None:
    """The position that `str` gave; None for any other text."""
    try:
        cutoff, segment, received_at, site, study = text.split(".")
        key = bytes.fromhex(study)
        times = int(cutoff), int(received_at)
        if len(key) != STUDY_KEY_BYTES or not all(-LAST_MOMENT <= each <= LAST_MOMENT for each in times):
            return None
        return Position(times[0], int(segment), times[1], site_name(site), StudyKey(key))
    except ValueError:
        return None


@dataclass(frozen=True)
class Range:
    """A range of an index: equal columns, then the time of arrival."""

    equal: tuple[tuple[str, int | str], ...]
    after: int | None = None
    until: int | None = None


@dataclass(frozen=True)
class RowKey:
    """A row's key, as the list orders it."""

    number: int
    position: Position


_LEVELS = (
    (Place.IMMEDIATE,),
    (Place.URGENT, Place.URGENT_UNTRIAGED),
    (Place.UNCERTAIN,),
    (Place.ROUTINE, Place.ROUTINE_UNTRIAGED),
)
_LEVEL_OF = {place: level for level, places in enumerate(_LEVELS) for place in places}
_SIGNED = 1 + len(_LEVELS)
"""The first segment of the signed studies."""


def segments(selection: Selection, cutoff: int) -> list[list[Range]]:
    """The ranges of each segment, in the order of the list; a selection may leave a segment empty."""
    unread, signed = columns_of(selection.state)
    site = () if selection.site is None else (("site", selection.site),)

    def ranges(places: Sequence[Place], columns: Sequence[tuple[str, int]], **bounds: int) -> list[Range]:
        wanted = [each for each in places if selection.urgency is None or each is PLACE_OF[selection.urgency]]
        return [Range((*site, column, ("place", int(place))), **bounds) for place in wanted for column in columns]

    immediate, *others = _LEVELS
    return [
        ranges(immediate, unread),
        ranges([place for level in others for place in level], unread, until=cutoff),
        *(ranges(level, unread, after=cutoff) for level in others),
        *(ranges(level, signed) for level in _LEVELS),
    ]


def segment_of(done: bool, place: Place, received_at: int, cutoff: int) -> int:
    """The segment in which a row stands."""
    level = _LEVEL_OF[place]
    if done:
        return _SIGNED + level
    return 1 if level and received_at <= cutoff else level + (level > 0)


def rank(cutoff: int) -> Label[int]:
    """As `segment_of`, in the database."""
    level = case({int(place): level for place, level in _LEVEL_OF.items()}, value=worklist.c.place)
    signed = (worklist.c.done, level + _SIGNED)
    return case(signed, (level == 0, 0), (worklist.c.received_at <= cutoff, 1), else_=level + 1).label("rank")


def columns_of(state: ListState) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The equal columns of the unread and of the signed studies of a list."""
    unread: list[tuple[str, int]] = [("done", False)]
    signed: list[tuple[str, int]] = [("done", True)]
    match state:
        case ListState.ALL:
            return unread, signed
        case ListState.READ:
            return [], signed
        case ListState.NEW:
            states = [ReadingState.NEW]
        case ListState.OPENED:
            states = [ReadingState.OPENED, ReadingState.PRELIMINARY_OPENED]
        case ListState.PRELIMINARY:
            states = [ReadingState.PRELIMINARY_OPENED, ReadingState.PRELIMINARY]
        case ListState.WAITING:
            return unread, []
    return [("state", int(each)) for each in states], []


def keys_of(
    connection: Connection,
    selection: Selection,
    cutoff: int,
    here: Position | None,
    most: int,
    backward: bool = False,
) -> Iterator[RowKey]:
    """The keys of at most so many rows after (backward: before) a position, or from the top of the list."""
    every = list(enumerate(segments(selection, cutoff)))
    for index, ranges in every[::-1] if backward else every:
        beyond = here is not None and (index > here.segment if backward else index < here.segment)
        if most <= 0 or beyond or not ranges:
            continue
        start = here if here is not None and index == here.segment else None
        for row in connection.execute(first_rows(connection, ranges, KEY, ORDER_BY, most, start, backward)):
            most -= 1
            yield row_key(row, cutoff, index)


def row_key(row: Row[Any], cutoff: int, segment: int) -> RowKey:
    return RowKey(row.number, Position(cutoff, segment, row.received_at, SiteName(row.site), StudyKey(row.study)))


ORDER_BY = "received_at", "site", "study"
KEY = "number", *ORDER_BY


def merged(ranges: Sequence[Range], *names: str) -> CompoundSelect[Any]:
    """The rows of all ranges, in any order."""
    return union_all(*(_rows(each, names, None, False) for each in ranges))


def first_rows(
    connection: Connection,
    ranges: Sequence[Range],
    names: Sequence[str],
    order: Sequence[str],
    most: int,
    start: Position | None = None,
    backward: bool = False,
) -> CompoundSelect[Any]:
    """The query of the first rows of all ranges in an order (backward: the last ones, from the end). start: of those
    after (backward: before) it; it lies within the ranges."""
    way = desc if backward else asc
    each = [_rows(range_, names, start, backward) for range_ in ranges]
    if is_postgresql(connection):
        # SQLite merges ranges that are in order. PostgreSQL would read and sort all their rows: the first of each will
        # do.
        few = [rows.order_by(*(way(worklist.c[name]) for name in order)).limit(most).subquery() for rows in each]
        each = [select(*rows.c) for rows in few]
    return union_all(*each).order_by(*(way(name) for name in order)).limit(most)


def _rows(range_: Range, names: Sequence[str], start: Position | None, backward: bool) -> Select[Any]:
    where: list[ColumnElement[bool]] = [worklist.c[name] == value for name, value in range_.equal]
    # Of two limits on one side SQLite would take the wider one for the index; the position is the narrower.
    if range_.after is not None and (start is None or backward):
        where.append(worklist.c.received_at > range_.after)
    if range_.until is not None and (start is None or not backward):
        where.append(worklist.c.received_at <= range_.until)
    if start is not None:
        # Without the site where it is equal anyway, as in the index.
        order = [name for name in ORDER_BY if name not in dict(range_.equal)]
        row, here = tuple_(*(worklist.c[name] for name in order)), tuple_(*(getattr(start, name) for name in order))
        where.append(row < here if backward else row > here)
    return select(*(worklist.c[name] for name in names)).where(and_(*where))
