"""Graphs that wait for inference or a draft, in turns: one of each site, then the next of each, the urgent ones first.
So the flood of one site delays another's study by one batch at most.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice, zip_longest
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Row,
    Select,
    and_,
    bindparam,
    exists,
    false,
    func,
    select,
    tuple_,
)

from thinwire.receiver.store.claims import ANYBODY, Free, is_free
from thinwire.receiver.store.records import PendingGraph
from thinwire.receiver.store.tables import objects, predictions, sites, studies, worklist
from thinwire.receiver.store.worklist_rows import PLACE_OF, UNTRIAGED, Place
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Digest, SiteName, StudyKey

_UNTRIAGED = worklist.c.done.in_([False, True]) & worklist.c.place.in_([int(place) for place in UNTRIAGED])
_UNDRAFTED = (worklist.c.drafted == false()) & worklist.c.place.in_([int(place) for place in PLACE_OF.values()])
_FEW = 200
"""Rows up to which their sites are read from the rows themselves."""


def untriaged(connection: Connection, most: int | None = None, free: Free = ANYBODY) -> list[PendingGraph]:
    """Newest graphs without a prediction: urgent ones first, in turns of the sites, each site's in the order of
    arrival. most: of them all. free: those that no worker has claimed."""
    return _PREDICTION.first(connection, UNTRIAGED, most, free)


def undrafted(connection: Connection, most: int, free: Free = ANYBODY) -> list[PendingGraph]:
    """Newest graphs with a prediction and no draft: the most urgent first, in turns of the sites, each site's in the
    order of arrival. free: as for `untriaged`."""
    return _DRAFT.first(connection, sorted(PLACE_OF.values()), most, free)


def untriaged_rows(graphs: Sequence[PendingGraph]) -> Select[Any]:
    """The rows of those of these graphs that still wait, as `Claims.take` locks them."""
    return _rows(graphs).where(_UNTRIAGED)


def undrafted_rows(graphs: Sequence[PendingGraph]) -> Select[Any]:
    """As `untriaged_rows`."""
    return _rows(graphs).where(_UNDRAFTED)


def _rows(graphs: Sequence[PendingGraph]) -> Select[Any]:
    pairs = [(each.site, each.study) for each in graphs]
    return select(worklist.c.site, worklist.c.study).where(tuple_(worklist.c.site, worklist.c.study).in_(pairs))


def untriaged_by_site() -> Select[Any]:
    """The query of (site, newest graphs without a prediction, when the oldest of them was stored)."""
    graphs = worklist.join(objects, _of(objects) & (objects.c.kind == int(Kind.GRAPH)))
    query = select(objects.c.site, func.count(), func.min(objects.c.stored_at)).select_from(graphs)
    return query.where(_UNTRIAGED, _newest(), _unpredicted()).group_by(objects.c.site).order_by(objects.c.site)


class _Turns:
    """The queries for one kind of work, made once: to make one takes longer than to run it."""

    def __init__(
        self, these: ColumnElement[bool], order: Sequence[ColumnElement[Any]], graph: ColumnElement[bool], few: bool
    ) -> None:
        """these, order: rows of the worklist as an index has them, so that none are sorted; the place follows after
        `these`. graph: which the study must have. few: an index has `these` of all sites."""
        here = these & (worklist.c.place == bindparam("place"))
        rows = select(worklist.c.site, worklist.c.received_at).where(here).limit(_limit())
        self._rows = rows if few else None
        # From the first row of each site alone: one with a flood costs as much as any other.
        first = select(worklist.c.received_at).where(here, worklist.c.site == sites.c.name).order_by(*order).limit(1)
        each = select(sites.c.name, first.scalar_subquery().label("oldest")).subquery()
        found = select(each.c.name).where(each.c.oldest.is_not(None))
        self._names = found.order_by(each.c.oldest, each.c.name)
        # The rows of the worklist by a subquery of their own: SQLite would else begin with all objects of the site.
        waits = here & graph & is_free(worklist.c.site, worklist.c.study) & (worklist.c.site == bindparam("name"))
        mine = select(worklist).where(waits).order_by(*order).limit(_limit()).subquery()
        joined = mine.join(objects, _same(objects, mine) & (objects.c.kind == int(Kind.GRAPH)) & _newest()).join(
            studies, _same(studies, mine)
        )
        query = select(objects.c.site, objects.c.study, objects.c.blob, studies.c.urgent_asked).select_from(joined)
        self._of_site: Select[Any] = query.order_by(*(mine.c[column.name] for column in order))

    def first(
        self, connection: Connection, places: Sequence[Place], most: int | None, free: Free
    ) -> list[PendingGraph]:
        """The first graphs of one place after the other, in turns of the sites."""
        found: list[PendingGraph] = []
        for place in places:
            left = _ALL if most is None else most - len(found)
            if left:
                found += islice(self._of_place(connection, {**free, "place": int(place)}, left), left)
        return found

    def _of_place(self, connection: Connection, at: Mapping[str, object], most: int) -> Iterator[PendingGraph]:
        def of_site(name: str, limit: int) -> Sequence[Row[Any]]:
            return connection.execute(self._of_site, {**at, "name": name, "limit": limit}).all()

        names = self._sites(connection, at)
        # Of many sites a few graphs each are enough; more, where others have too few.
        few = most // max(1, min(most, len(names))) + 1
        found: dict[str, Sequence[Row[Any]]] = {}
        for name in names:
            if len(found) >= most:
                break
            if rows := of_site(name, few):
                found[name] = rows
        if sum(map(len, found.values())) < most:
            found |= {name: of_site(name, most) for name, rows in found.items() if len(rows) == few}
        for row in chain.from_iterable(zip_longest(*found.values())):
            if row is not None:
                yield PendingGraph(SiteName(row.site), StudyKey(row.study), Digest(row.blob), row.urgent_asked)

    def _sites(self, connection: Connection, at: Mapping[str, object]) -> Sequence[str]:
        """The sites that have rows at a place. That whose first row is oldest is first: it waits longest."""
        if self._rows is not None:
            rows = connection.execute(self._rows, {**at, "limit": _FEW}).all()
            if len(rows) < _FEW:
                return list(dict.fromkeys(row.site for row in sorted(rows, key=itemgetter(1))))
        return connection.scalars(self._names, at).all()


_ALL = 1 << 30


def _limit() -> BindParameter[int]:
    return bindparam("limit", type_=Integer)


def _same(table: FromClause, row: FromClause) -> ColumnElement[bool]:
    return and_(table.c.site == row.c.site, table.c.study == row.c.study)


def _newest_graph(*more: ColumnElement[bool]) -> ColumnElement[bool]:
    """Of a row of the worklist: it has a graph, and the newest one fulfils more."""
    graph = _of(objects) & (objects.c.kind == int(Kind.GRAPH))
    return exists().where(graph, _newest(), *more).correlate(worklist)


def _unpredicted() -> ColumnElement[bool]:
    return ~exists().where(
        predictions.c.site == objects.c.site,
        predictions.c.study == objects.c.study,
        predictions.c.blob == objects.c.blob,
    ).correlate(objects)


def _newest() -> ColumnElement[bool]:
    """No later object of the same study and kind is stored."""
    newer = objects.alias()
    return ~exists().where(
        newer.c.site == objects.c.site,
        newer.c.study == objects.c.study,
        newer.c.kind == objects.c.kind,
        newer.c.number > objects.c.number,
    ).correlate(objects)


def _of(table: FromClause) -> ColumnElement[bool]:
    return _same(table, worklist)


_PREDICTION = _Turns(
    worklist.c.done.in_([False, True]),
    (worklist.c.done, worklist.c.received_at, worklist.c.number),
    _newest_graph(_unpredicted()),
    few=True,
)
_DRAFT = _Turns(worklist.c.drafted == false(), (worklist.c.received_at, worklist.c.number), _newest_graph(), few=False)
