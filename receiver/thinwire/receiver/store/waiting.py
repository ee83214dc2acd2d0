"""Graphs that wait for inference or a draft, in turns: one of each site, then the next of each, the urgent ones first.
So the flood of one site delays another's study by one batch at most.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    and_,
    exists,
    false,
    func,
    select,
    true,
    tuple_,
)

from thinwire.receiver.store.claims import Free
from thinwire.receiver.store.records import PendingGraph
from thinwire.receiver.store.tables import objects, predictions, sites, studies, worklist
from thinwire.receiver.store.worklist_rows import PLACE_OF, UNTRIAGED
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Digest, SiteName, StudyKey

_UNTRIAGED = worklist.c.done.in_([False, True]) & worklist.c.place.in_([int(place) for place in UNTRIAGED])
_UNDRAFTED = (worklist.c.drafted == false()) & worklist.c.place.in_([int(place) for place in PLACE_OF.values()])
_COLUMNS = (objects.c.site, objects.c.study, objects.c.blob, studies.c.urgent_asked)


def _anybody(_site: ColumnElement[Any], _study: ColumnElement[Any]) -> ColumnElement[bool]:
    return true()


def untriaged(connection: Connection, most: int | None = None, free: Free = _anybody) -> list[PendingGraph]:
    """Newest graphs without a prediction: urgent ones first, in turns of the sites, each site's in the order of
    arrival. most: of them all. free: those that no worker has claimed."""
    query = _untriaged(*_COLUMNS, objects.c.number.label("place")).where(free(worklist.c.site, worklist.c.study))
    query = query.join(studies, _of(studies)).order_by(studies.c.urgent_asked.desc(), objects.c.number)
    rows = _of_each_site(connection, query, _UNTRIAGED, most)
    return _in_turns(((not row.urgent_asked, row) for row in rows), most)


def undrafted(connection: Connection, most: int, free: Free = _anybody) -> list[PendingGraph]:
    """Newest graphs with a prediction and no draft: the most urgent first, in turns of the sites, each site's in the
    order of arrival. free: as for `untriaged`."""
    query = (
        select(*_COLUMNS, worklist.c.place)
        .select_from(worklist)
        .join(objects, _of(objects) & (objects.c.kind == int(Kind.GRAPH)))
        .join(studies, _of(studies))
        .where(_UNDRAFTED, _newest(), free(worklist.c.site, worklist.c.study))
        .order_by(worklist.c.place, worklist.c.received_at, worklist.c.number)
    )
    return _in_turns(((row.place, row) for row in _of_each_site(connection, query, _UNDRAFTED, most)), most)


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
    query = _untriaged(objects.c.site, func.count(), func.min(objects.c.stored_at))
    return query.group_by(objects.c.site).order_by(objects.c.site)


def _of_each_site(
    connection: Connection, query: Select[Any], places: ColumnElement[bool], most: int | None
) -> list[Row[Any]]:
    """The first rows of each site, from the index of the worklist. places: where in the worklist a site's may be, so
    that one query leaves out the many sites of which none waits."""
    waits = exists().where(worklist.c.site == sites.c.name, places)
    names = connection.scalars(select(sites.c.name).where(waits).order_by(sites.c.name)).all()
    return [row for name in names for row in connection.execute(query.where(worklist.c.site == name).limit(most))]


def _in_turns(ranked: Iterable[tuple[int, Row[Any]]], most: int | None) -> list[PendingGraph]:
    """ranked: (rank, row), each site's in their order; a lower rank comes first."""
    turns: Counter[tuple[str, int]] = Counter()
    order = []
    for rank, row in ranked:
        turns[row.site, rank] += 1
        order.append((rank, turns[row.site, rank], row))
    order.sort(key=lambda each: each[:2])
    return [
        PendingGraph(SiteName(row.site), StudyKey(row.study), Digest(row.blob), row.urgent_asked)
        for _, _, row in order[:most]
    ]


def _untriaged(*columns: ColumnElement[Any]) -> Select[Any]:
    """The newest graphs without a prediction, from the index of the worklist."""
    predicted = exists().where(
        predictions.c.site == objects.c.site,
        predictions.c.study == objects.c.study,
        predictions.c.blob == objects.c.blob,
    )
    query = select(*columns).select_from(worklist).join(objects, _of(objects) & (objects.c.kind == int(Kind.GRAPH)))
    return query.where(_UNTRIAGED, _newest(), ~predicted)


def _newest() -> ColumnElement[bool]:
    """No later object of the same study and kind is stored."""
    newer = objects.alias()
    return ~exists().where(
        newer.c.site == objects.c.site,
        newer.c.study == objects.c.study,
        newer.c.kind == objects.c.kind,
        newer.c.number > objects.c.number,
    )


def _of(table: FromClause) -> ColumnElement[bool]:
    return and_(table.c.site == worklist.c.site, table.c.study == worklist.c.study)
